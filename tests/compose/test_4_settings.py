"""Settings of containers: what a wrong one says, who the students are, and keys that are files."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_stack import ROOT, SERVICES, Stack, docker, run

COIN = 10**9
WRONG = [
    ("LAYERLAB_SLOT_MS", "fast"),
    ("LAYERLAB_BLOCK_MS", "0"),
    ("LAYERLAB_WINDOW", "5"),
    ("LAYERLAB_PROPOSER_BOND", "nothing"),
    ("LAYERLAB_CHALLENGER_BOND", "0"),
    ("LAYERLAB_STUDENTS", "301"),
    ("LAYERLAB_ENABLE_FAULTS", "perhaps"),
    ("LAYERLAB_LOG_LEVEL", "loud"),
    ("LAYERLAB_FAULT_TOKEN", "layerlab-devnet-faults"),
    ("LAYERLAB_FAULT_TOKEN", "two words"),
]
PORTS = [
    f"LAYERLAB_PORT_{name}" for name in ("VALIDATOR_0", "VALIDATOR_3", "SEQUENCER", "VERIFIER", "BRIDGE")
]


@pytest.fixture(scope="module")
def other(image: str) -> Iterator[Stack]:
    """A project of which nothing is to start."""
    made = Stack(f"layerlab-test-settings-{os.getpid()}", image)
    try:
        yield made
    finally:
        made.remove()
    assert not any(made.left(kind) for kind in ("ps", "network", "volume"))


@pytest.mark.parametrize(("variable", "value"), WRONG)
def test_a_wrong_setting_stops_the_container_with_one_line(other: Stack, variable: str, value: str) -> None:
    done = other.compose("run", "--rm", "-T", "genesis", check=False, **{variable: value})
    said = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if line.startswith(("layerlab", "l1node", "rollup"))
    ]
    assert done.returncode != 0
    assert len(said) == 1
    assert variable in said[0]


def test_with_a_wrong_setting_no_service_starts(other: Stack) -> None:
    done = other.compose("up", "-d", check=False, LAYERLAB_WINDOW="5")
    assert done.returncode != 0
    assert other.running() == set()
    logs = other.compose("logs", "--no-color", "genesis").stdout
    assert len(re.findall("LAYERLAB_WINDOW", logs)) == 1


@pytest.mark.parametrize("variable", PORTS)
def test_a_wrong_port_is_refused_before_anything_is_made(other: Stack, variable: str) -> None:
    """By compose itself, which names the port and no variable."""
    before = other.left("ps")
    done = other.compose("up", "-d", check=False, **{variable: "here"})
    assert done.returncode != 0
    assert "port" in (done.stdout + done.stderr).lower()
    assert other.left("ps") == before


@pytest.mark.parametrize("role", [["l1node"], ["rollup", "sequencer"], ["rollup", "verifier"], ["bridge"]])
def test_a_service_names_the_wrong_variable_itself(image: str, role: list[str]) -> None:
    for variable, value in (("LAYERLAB_PORT", "x"), ("LAYERLAB_LOG_LEVEL", "loud")):
        done = run(
            [
                "docker",
                "run",
                "--rm",
                "--network",
                "none",
                "-e",
                f"{variable}={value}",
                image,
                "python",
                "-m",
                *role,
            ],
            check=False,
        )
        assert done.returncode == 2
        assert (done.stdout + done.stderr).count("\n") == 1
        assert variable in done.stderr


def test_a_setting_of_the_genesis_cannot_change_and_the_chain_goes_on(healthy: Stack) -> None:
    before, genesis = healthy.final("validator-0"), healthy.get("validator-0", "/status")["genesis_hash"]
    others = {
        **{"LAYERLAB_SLOT_MS": "700", "LAYERLAB_BLOCK_MS": "300", "LAYERLAB_WINDOW": "50"},
        **{"LAYERLAB_PROPOSER_BOND": "11", "LAYERLAB_CHALLENGER_BOND": "6"},
        **{"LAYERLAB_STUDENTS": "31", "LAYERLAB_FAULT_TOKEN": "another"},
    }
    for variable, value in others.items():
        done = healthy.compose("run", "--rm", "-T", "genesis", check=False, **{variable: value})
        assert done.returncode != 0
        assert f"{variable} cannot change" in done.stdout + done.stderr
    healthy.wait_final("validator-0", before + 3)
    assert healthy.get("validator-0", "/status")["genesis_hash"] == genesis


def test_the_tables_settings_are_those_of_the_file() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.partition("<!-- settings: begin -->")[2].partition("<!-- settings: end -->")[0]
    told = set(re.findall(r"`(LAYERLAB_[A-Z0-9_]+)`", table))
    used = set(re.findall(r"\$\{(LAYERLAB_[A-Z0-9_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert told | {f"LAYERLAB_PORT_VALIDATOR_{i}" for i in range(4)} == used
    assert {variable for variable, _ in WRONG} <= told


def test_thirty_students_have_money_and_a_name(healthy: Stack) -> None:
    rich = healthy.balance("sequencer", "alice", "finalized"), healthy.balance("validator-0", "grace")
    for number in range(1, 31):
        name = f"student-{number:02}"
        assert healthy.balance("validator-0", name) == rich[1] > 0
        assert healthy.balance("sequencer", name) > 0
    before = healthy.balance("sequencer", "student-08")
    healthy.transfer("student-07", "student-08", COIN)
    assert healthy.balance("sequencer", "student-08") == before + COIN
    shown = {account["name"] for account in healthy.cli("accounts")}
    assert {f"student-{number:02}" for number in range(1, 31)} <= shown
    sent = healthy.cli("send", "--l2", "--from", "student-09", "--to", "student-10", "--amount", "1")
    assert sent["hash"]
    refused = healthy.http.post(
        healthy.urls["sequencer"] + "/transactions",
        json={"from": "student-31", "action": {"type": "transfer", "to": "alice", "amount": 1}},
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_dev_account")


def test_without_faults_there_is_nothing_to_lie_with(healthy: Stack) -> None:
    services = ("validator-3", "sequencer", "verifier")
    try:
        healthy.compose("up", "-d", "--no-deps", *services, LAYERLAB_ENABLE_FAULTS="no")
        healthy.wait_ready()
        for service in services:
            assert healthy.http.get(healthy.urls[service] + "/faults").status_code == 404
    finally:
        healthy.up()


def test_a_real_key_is_a_mounted_file(healthy: Stack) -> None:
    keys = f"{healthy.project}_keys"
    network, devnet = f"{healthy.project}_layerlab", f"{healthy.project}_devnet"
    label = ["--label", f"com.docker.compose.project={healthy.project}"]
    docker("volume", "create", *label, keys)
    make = "printf 'correct horse\\n' > /data/passphrase; layerlab keys new /data/me.pem --json"
    made = docker(
        "run",
        "--rm",
        *label,
        "-v",
        f"{keys}:/data",
        "-e",
        "LAYERLAB_PASSPHRASE=correct horse",
        healthy.image,
        "sh",
        "-c",
        make,
    )
    (address,) = re.findall(r'"address": "(0x[0-9a-f]{64})"', made)
    with_key = [
        *("run", "-d", "--init", "--read-only", "--tmpfs", "/data:uid=10001", "--network", network, *label),
        *("-v", f"{devnet}:/devnet:ro", "-v", f"{keys}:/keys:ro"),
        *("-e", "LAYERLAB_KEY_FILE=/keys/me.pem", "-e", "LAYERLAB_PASSPHRASE_FILE=/keys/passphrase"),
        *("-e", "LAYERLAB_L1_GENESIS=/devnet/genesis/l1.json", "-e", "LAYERLAB_CLOCK=/devnet/clock.json"),
        *("-e", "LAYERLAB_L1=http://validator-0:8545", "-e", "LAYERLAB_PORT=9546"),
        *(healthy.image, "python", "-m", "rollup", "verifier"),
    ]
    container = docker(*with_key)
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9546/status', timeout=5).read().decode())"
    try:
        told = healthy.wait("it answers", lambda: docker("exec", container, "python", "-c", ask))
        assert address in told
        assert "correct horse" not in docker("inspect", container) + docker("logs", container)
    finally:
        docker("rm", "-f", container)
    wrong = [
        word.replace("/keys/passphrase", "/keys/missing").replace("-d", "--rm", 1)
        if word in ("-d", "LAYERLAB_PASSPHRASE_FILE=/keys/passphrase")
        else word
        for word in with_key
    ]
    done = run(["docker", *wrong], check=False)
    assert done.returncode == 2
    assert "LAYERLAB_PASSPHRASE_FILE" in done.stderr
    docker("volume", "rm", keys)


def test_every_service_of_the_file_is_known_here() -> None:
    names = re.findall(
        r"^  ([a-z0-9-]+):(?: &cli)?$", Path(ROOT / "docker-compose.yml").read_text(), re.MULTILINE
    )
    assert set(SERVICES) <= set(names)
