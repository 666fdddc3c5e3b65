"""The image: small, of one user without rights, with nothing to build with and nothing to hide."""

import json

from compose_stack import docker

MOST_BYTES = 300_000_000


def in_image(image: str, *words: str, check: bool = True) -> str:
    return docker("run", "--rm", "--network", "none", "--read-only", image, *words, check=check)


def test_it_is_small(image: str) -> None:
    assert int(docker("image", "inspect", "--format", "{{.Size}}", image)) <= MOST_BYTES


def test_it_runs_as_nobody_special(image: str) -> None:
    assert in_image(image, "id", "-u") != "0"
    assert json.loads(docker("image", "inspect", image))[0]["Config"]["User"] == "layerlab"


def test_there_is_nothing_to_build_with(image: str) -> None:
    tools = ("gcc", "cc", "c++", "ld", "make", "pip")
    found = in_image(image, "sh", "-c", f"for tool in {' '.join(tools)}; do command -v $tool; done; true")
    assert found in ("", "/usr/local/bin/pip")  # pip belongs to the base image, if to anyone


def test_there_is_no_secret_in_it(image: str) -> None:
    config = json.loads(docker("image", "inspect", image))[0]["Config"]
    told = json.dumps(config["Env"]) + docker("history", "--no-trunc", image)
    assert not any(word in told.lower() for word in ("token=", "passphrase=", "password", "secret"))
    places = "/opt /etc /usr/local /home /root --include=*.pem --include=*.key"
    marked = in_image(image, "sh", "-c", f"grep -rl 'BEGIN.*PRIVATE KEY' {places} 2>/dev/null; true")
    assert marked == ""
    assert in_image(image, "sh", "-c", "ls -A /data /devnet").split() == ["/data:", "/devnet:"]


def test_every_role_is_in_it(image: str) -> None:
    for role in (["l1node"], ["rollup", "sequencer"], ["rollup", "verifier"], ["bridge"]):
        assert "LAYERLAB_PORT" in in_image(image, "python", "-m", *role, "--help")
    assert "layerlab" in in_image(image, "layerlab", "--help")
