"""The first minute: from `up` to a devnet that works, the story told on it, and a fresh start."""

import json
import time

import pytest
from compose_stack import SERVICES, VALIDATORS, Stack, docker, run

COIN = 10**9


def test_up_is_ready_in_45_seconds(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    stack.compose("up", "-d")
    stack.wait("L1 has a final block", lambda: stack.final("validator-0") >= 1)
    stack.wait_ready()
    stack.transfer("alice", "bob", COIN)
    stack.wait("the bridge is in step", lambda: stack.get("bridge", "/bridge")["invariant"]["holds"])
    seconds = round(time.monotonic() - begin, 1)
    with capsys.disabled():
        print(f"\nready {seconds} s after docker compose up")
    assert seconds <= 45


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_may_do_no_more_than_it_must(healthy: Stack, service: str) -> None:
    found = healthy.inspect(service)
    host, config = found["HostConfig"], found["Config"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not host["Privileged"]
    assert 0 < host["Memory"] <= 512 * 2**20
    assert 0 < host["PidsLimit"] <= 1024
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert "/health/ready" in config["Healthcheck"]["Test"]
    bound = [binding for bindings in host["PortBindings"].values() for binding in bindings]
    assert [binding["HostIp"] for binding in bound] == ["127.0.0.1"]
    mounts = {mount["Destination"]: mount for mount in found["Mounts"] if mount["Type"] != "tmpfs"}
    assert {mount["Type"] for mount in mounts.values()} == {"volume"}
    assert mounts["/data"]["Name"].endswith(f"_{service}")
    assert not mounts["/devnet"]["RW"]
    assert "docker.sock" not in json.dumps(found["Mounts"])
    told = docker("exec", found["Id"], "cat", "/proc/1/status").splitlines()  # by the kernel, of the service
    status = dict(line.split(":\t", 1) for line in told if ":\t" in line)
    assert set(status["Uid"].split()) == {"10001"}
    assert {int(status[held], 16) for held in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"].strip() == "1"


@pytest.mark.parametrize("path", ["/x", "/opt/layerlab/x", "/devnet/x", "/devnet/clock.json"])
def test_a_service_writes_nowhere_but_to_its_data(healthy: Stack, path: str) -> None:
    container = healthy.container("sequencer")
    done = run(["docker", "exec", container, "sh", "-c", f"echo x >> {path}"], check=False)
    assert done.returncode != 0, f"{path} was written to"
    assert "Read-only file system" in done.stderr
    assert docker("exec", container, "sh", "-c", "echo x > /data/x && rm /data/x && echo good") == "good"


def test_no_secret_is_in_the_file_or_in_what_others_see_of_a_container(healthy: Stack) -> None:
    token = docker("exec", healthy.container("sequencer"), "cat", "/devnet/fault-token")
    assert len(token) >= 32
    assert token not in healthy.compose("config").stdout
    assert token not in json.dumps([healthy.inspect(service) for service in SERVICES])
    assert token not in healthy.compose("logs").stdout


def test_faults_ask_for_the_token(healthy: Stack) -> None:
    token = docker("exec", healthy.container("sequencer"), "cat", "/devnet/fault-token")
    for service in (*VALIDATORS, "sequencer", "verifier"):
        url = healthy.urls[service] + "/faults"
        assert healthy.http.get(url).status_code == 401
        assert (
            healthy.http.get(url, headers={"authorization": "Bearer layerlab-devnet-faults"}).status_code
            == 403
        )
        assert healthy.http.get(url, headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_the_story_is_told_on_these_containers(healthy: Stack) -> None:
    done = healthy.compose("run", "--rm", "-T", "demo", "demo", "--running", "--json", seconds=240)
    report = json.loads(done.stdout)
    assert report["held"]
    assert report["left_running"]
    skipped = [step["name"] for step in report["steps"] if step["skipped"]]
    assert skipped == ["burn-down"]
    assert all(step["held"] for step in report["steps"] if not step["skipped"])
    assert healthy.running() >= set(SERVICES)
    faults = healthy.cli("fault", "list")
    assert not any(found["active"] for found in faults.values())  # everybody is honest again


def test_down_with_volumes_starts_anew(healthy: Stack) -> None:
    before = healthy.get("validator-0", "/status")["genesis_hash"]
    healthy.compose("down", "-v", "-t", "10")
    assert not healthy.running()
    healthy.settings = {"LAYERLAB_SLOT_MS": "500", "LAYERLAB_STUDENTS": "30"}  # for all that follows
    healthy.up()
    assert healthy.get("validator-0", "/status")["genesis_hash"] != before
    assert healthy.final("validator-0") < 100
