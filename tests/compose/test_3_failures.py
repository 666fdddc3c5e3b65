"""Containers that are killed, stopped, paused and cut off: the rest goes on, nothing forks, and `up -d` heals."""

import json
import time
from collections.abc import Iterable
from datetime import datetime

import pytest
from compose_stack import SERVICES, VALIDATORS, Stack, address_of, docker, wait_until

COIN = 10**9
GO_ON_BLOCKS = 6
STILL_SLOTS = 12
STOP_SECONDS = 5


def votes(stack: Stack, validator: str) -> bool:
    """Whether its vote is in the certificate of L1's head."""
    certificate = stack.get("validator-0", "/blocks/head")["certificate"] or {"votes": []}
    return any(vote["voter"] == address_of(validator) for vote in certificate["votes"])


def test_a_validator_is_killed(healthy: Stack) -> None:
    healthy.compose("kill", "validator-1")
    assert "validator-1" not in healthy.running()
    healthy.finality_goes_on()
    healthy.up()
    healthy.wait("validator-1 votes again", lambda: votes(healthy, "validator-1"))
    healthy.require_no_fork()
    healthy.require_nobody_slashed()


def test_the_sequencer_is_killed(healthy: Stack) -> None:
    hashes = [healthy.transfer("carol", "dave", COIN + i) for i in range(3)]
    places = [healthy.get("sequencer", f"/transactions/{h}")["sequencer_receipt"] for h in hashes]
    healthy.compose("kill", "sequencer")
    healthy.finality_goes_on()
    healthy.up()
    kept = [healthy.get("sequencer", f"/transactions/{h}") for h in hashes]
    assert [found["sequencer_receipt"] for found in kept] == places
    healthy.transfer("carol", "dave", COIN)


def test_the_bridge_is_killed(healthy: Stack) -> None:
    healthy.compose("kill", "bridge")
    healthy.finality_goes_on()
    healthy.transfer("erin", "frank", COIN)
    healthy.up()
    healthy.wait("the bridge is in step", lambda: healthy.get("bridge", "/bridge")["invariant"]["holds"])


def test_sigterm_stops_each_container_in_good_order(healthy: Stack) -> None:
    for service in SERVICES:
        healthy.get(service, "/status")
    begin = time.time()
    healthy.compose("stop", "-t", "20")
    for service in SERVICES:
        state = healthy.inspect(service)["State"]
        ended = datetime.fromisoformat(state["FinishedAt"][:26].rstrip("Z") + "+00:00").timestamp()
        assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False), service
        assert ended - begin < STOP_SECONDS + 3, service  # the command itself takes a while to begin


def test_one_container_stops_in_time(healthy: Stack) -> None:
    for service in ("validator-2", "sequencer", "verifier", "bridge"):
        container = healthy.container(service)
        begin = time.monotonic()
        docker("stop", "-t", "20", container)
        seconds = time.monotonic() - begin
        assert healthy.inspect(service)["State"]["ExitCode"] == 0, service
        assert seconds < STOP_SECONDS, service


def test_down_and_up_keeps_every_balance(healthy: Stack) -> None:
    names = ("alice", "bob", "carol", "student-07")
    sent = healthy.post("bridge", "/withdrawals", {"from": "bob", "amount": 3 * COIN})
    path = f"/withdrawals/{sent['hash']}"
    wait_until(
        "the withdrawal is in a batch",
        lambda: healthy.get("bridge", path).get("status") == "in-challenge-window",
        30,
    )

    def balances() -> dict[str, tuple[int, int]]:
        return {n: (healthy.balance("validator-0", n), healthy.balance("sequencer", n)) for n in names}

    before, height = balances(), healthy.final("validator-0")
    genesis = healthy.get("validator-0", "/status")["genesis_hash"]
    healthy.compose("down", "-t", "10")
    healthy.up()
    assert healthy.get("validator-0", "/status")["genesis_hash"] == genesis
    assert healthy.final("validator-0") >= height
    assert balances() == before
    assert healthy.get("bridge", path)["status"] == "in-challenge-window"
    healthy.finality_goes_on()
    healthy.require_no_fork()


def test_half_of_the_stake_pauses(healthy: Stack) -> None:
    paused, running = ("validator-2", "validator-3"), ("validator-0", "validator-1")
    healthy.compose("pause", *paused)
    try:
        still = require_nothing_becomes_final(healthy, running)
    finally:
        healthy.compose("unpause", *paused)
    healthy.wait_final("validator-0", still + GO_ON_BLOCKS)
    healthy.wait_final("validator-3", still + GO_ON_BLOCKS)
    healthy.require_no_fork()
    healthy.require_nobody_slashed()


def require_nothing_becomes_final(stack: Stack, validators: Iterable[str]) -> int:
    """No block that is proposed from now on becomes final at any of them; returns their highest final height.

    What was proposed before may: its votes are still handed on among those who can reach each other.
    """
    now = stack.slot("validator-0")
    stack.wait("slots go by", lambda: stack.slot("validator-0") >= now + STILL_SLOTS)
    finals = {validator: stack.finalized(validator) for validator in validators}
    assert all(head["slot"] <= now for head in finals.values()), (now, finals)
    return max(int(head["height"]) for head in finals.values())


class Cable:
    """Takes containers off the project's network and puts them back, name and all."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        (self.network,) = stack.inspect("validator-0")["NetworkSettings"]["Networks"]

    def cut(self, service: str) -> None:
        docker("network", "disconnect", self.network, self.stack.container(service))

    def mend(self, service: str, network: str = "") -> None:
        docker(
            "network", "connect", "--alias", service, network or self.network, self.stack.container(service)
        )


def test_a_validator_that_is_cut_off_catches_up(healthy: Stack) -> None:
    cable = Cable(healthy)
    cable.cut("validator-3")
    try:
        behind = require_nothing_becomes_final(healthy, ["validator-3"])
        healthy.wait_final("validator-0", behind + GO_ON_BLOCKS)
    finally:
        cable.mend("validator-3")
    target = healthy.final("validator-0") + GO_ON_BLOCKS
    healthy.wait_final("validator-3", target)
    healthy.wait("validator-3 votes again", lambda: votes(healthy, "validator-3"))
    healthy.wait_ready(["validator-3"])  # by its port on the host, too
    healthy.require_no_fork()
    healthy.require_nobody_slashed()


def test_a_network_in_two_halves_stands_still_and_heals(healthy: Stack) -> None:
    cable, island = Cable(healthy), f"{healthy.project}_island"
    other_half = ("validator-2", "validator-3")
    docker("network", "create", island)
    try:
        for service in other_half:
            cable.cut(service)
            cable.mend(service, island)
        still = require_nothing_becomes_final(healthy, VALIDATORS)
    finally:
        for service in other_half:
            docker("network", "disconnect", island, healthy.container(service), check=False)
            cable.mend(service)
        docker("network", "rm", island)
    for service in VALIDATORS:
        healthy.wait_final(service, still + GO_ON_BLOCKS)
    healthy.wait_ready(VALIDATORS)
    healthy.require_no_fork()
    healthy.require_nobody_slashed()


def test_a_crashed_service_is_started_again_by_the_engine(healthy: Stack) -> None:
    container = healthy.container("verifier")
    before = json.loads(docker("inspect", container))[0]["RestartCount"]
    docker("exec", container, "python", "-c", KILL_THE_SERVICE)
    healthy.wait(
        "the engine starts it again",
        lambda: json.loads(docker("inspect", container))[0]["RestartCount"] > before,
        30,
    )
    healthy.wait_ready(["verifier"])


KILL_THE_SERVICE = """
import os, pathlib, signal
for entry in pathlib.Path("/proc").iterdir():
    if entry.name.isdigit() and int(entry.name) not in (1, os.getpid()):
        words = (entry / "cmdline").read_bytes().split(bytes(1))
        if b"rollup" in words and words[0].endswith(b"python"):
            os.kill(int(entry.name), signal.SIGKILL)
"""
pytestmark = pytest.mark.usefixtures("healthy")
