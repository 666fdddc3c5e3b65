"""The same services as a stack on a swarm of one machine: its blocks become final, L2 works, and it goes away."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_stack import SERVICES, Stack, docker, networks_kept, run, wait_until

COIN = 10**9
TO_GO_SECONDS = 60


@pytest.fixture
def swarm() -> Iterator[None]:
    """A swarm of this engine alone; one that is there already is used and kept."""
    if docker("info", "--format", "{{.Swarm.LocalNodeState}}") == "active":
        yield
        return
    before = set(docker("network", "ls", "-q").split())
    docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        yield
    finally:
        with networks_kept():
            docker("swarm", "leave", "--force")
        left = set(docker("network", "ls", "-q", "--filter", "name=docker_gwbridge").split()) - before
        if left:  # the engine made it for the swarm, and keeps it
            docker("network", "rm", *left)


@pytest.fixture
def deployed(swarm: None, image: str, tmp_path: Path) -> Iterator[Stack]:
    """The stack of docker-stack.yml with a genesis of its own; gone after the test, volumes as well."""
    assert swarm is None
    made = Stack(f"layerlab-swarm-{os.getpid()}", image)
    genesis = tmp_path / "genesis.json"
    genesis.write_text(docker("run", "--rm", image, "layerlab", "genesis", "--print", "--slot-ms", "500"))
    environ = {**os.environ, **made.ports, "LAYERLAB_GENESIS_FILE": str(genesis), "LAYERLAB_IMAGE": image}
    label = ["--filter", f"label=com.docker.stack.namespace={made.project}"]

    def things(kind: str) -> list[str]:
        listing = ["ps", "-a"] if kind == "ps" else [kind, "ls"]
        return docker(*listing, "-q", *label).split()

    try:
        run(["docker", "stack", "deploy", "-c", "docker-stack.yml", made.project], environ=environ)
        yield made
    finally:
        docker("stack", "rm", made.project)
        wait_until("the tasks have ended", lambda: not things("ps"), TO_GO_SECONDS)
        wait_until("the network is gone", lambda: not things("network"), TO_GO_SECONDS)
        docker("volume", "rm", "-f", *things("volume"))
        made.http.close()
    assert not any(things(kind) for kind in ("ps", "network", "volume", "service", "config"))


def test_a_stack_finalizes_and_executes(deployed: Stack) -> None:
    def final() -> int:
        return int(deployed.get("validator-0", "/status")["heads"]["finalized"]["height"])

    wait_until("L1 is final", lambda: final() >= 5, 60)
    for service in ("validator-0", "sequencer", "verifier", "bridge"):
        wait_until(f"{service} is ready", lambda s=service: deployed.get(s, "/health/ready").get("ready"), 60)
    sent = deployed.transfer("alice", "bob", COIN)
    wait_until(
        "the verifier derives it from L1",
        lambda: deployed.get("verifier", f"/transactions/{sent}").get("status") == "safe",
        60,
    )
    assert deployed.get("bridge", "/bridge")["invariant"]["holds"]
    services = docker(
        "service", "ls", "-q", "--filter", f"label=com.docker.stack.namespace={deployed.project}"
    )
    found = json.loads(docker("service", "inspect", *services.split()))
    assert len(found) == len(SERVICES)
    for service in found:
        spec = service["Spec"]
        container = spec["TaskTemplate"]["ContainerSpec"]
        assert spec["EndpointSpec"]["Mode"] == "dnsrr"
        assert {port["PublishMode"] for port in spec["EndpointSpec"].get("Ports", [])} <= {"host"}
        assert container["ReadOnly"]
        assert container["CapabilityDrop"] == ["ALL"]
        assert "LAYERLAB_ENABLE_FAULTS" not in json.dumps(container["Env"])
