"""The real stack: a snapshot taken in the middle of a dispute, restored twice, plays to the same verdict."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from stub_devnet import processes_in

from layerlab.config import COIN, demo_config
from layerlab.devnet import Devnet
from layerlab.snapshot import restore_snapshot, save_snapshot

T = TypeVar("T")
SECONDS = 120


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Devnet]:
    """Five validators, sequencer, verifier and bridge, all up."""
    place = tmp_path.resolve() / "devnet"
    devnet = Devnet.create(place, demo_config().with_free_ports(), with_parent=True)
    try:
        devnet.up()
        yield devnet
    finally:
        devnet.down()
        assert not processes_in(place)


def _until(what: str, probe: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + SECONDS
    while not (found := probe()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.1)
    return found


def _get(devnet: Devnet, path: str) -> Any:
    return httpx.get(devnet.config.url("bridge") + path, timeout=10).json()


def _disputes(devnet: Devnet) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _get(devnet, "/disputes")["disputes"]
    return found


def _verdict(devnet: Devnet) -> list[Any]:
    """Who won which dispute where and why, and what became of the batch."""

    def over() -> list[dict[str, Any]] | None:
        found = _disputes(devnet)
        return found if all(dispute["stage"] == "resolved" for dispute in found) else None

    names = ("index", "batch", "winner", "reason", "low", "high", "moves")
    played = [[dispute[name] for name in names] for dispute in _until("a verdict", over)]
    return [*played, _get(devnet, f"/batches/{played[0][1]}")["status"]]


def _last_move(devnet: Devnet) -> int:
    """The L1 block of the first dispute's last move."""
    return max(int(move["height"]) for move in _get(devnet, "/disputes/0")["history"])


def test_a_dispute_plays_to_the_same_verdict_from_a_snapshot_twice(world: Devnet) -> None:
    headers = {"Authorization": f"Bearer {world.config.fault_token}"}
    sequencer = world.config.url("sequencer")
    fault = httpx.post(sequencer + "/faults", json={"name": "steal", "seed": 3}, headers=headers)
    assert fault.status_code == 201, fault.text
    for i in range(4):
        action = {"type": "transfer", "to": "bob", "amount": COIN + i}
        body = {"from": "alice", "action": action}
        sent = httpx.post(sequencer + "/transactions", json=body, timeout=10)
        assert sent.status_code < 300, sent.text
    open_ones = _until("a dispute", lambda: _disputes(world))
    assert any(dispute["stage"] != "resolved" for dispute in open_ones)
    saved = save_snapshot(world, "in-the-middle")
    first = _verdict(world)
    for _ in range(2):
        restore_snapshot(world, "in-the-middle")
        assert _verdict(world) == first
        assert _last_move(world) > saved["height"], "the dispute was open again, and played on"
    assert first[0][2:4] == ["challenger", "step-proved"]
    assert first[-1] == "reverted"
