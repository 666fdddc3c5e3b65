"""The simulation's own parts: virtual time, disks that lose power, and the reference against other judges."""

import asyncio
import json
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation.disk import Disk, Mode, PowerLost
from simulation.loop import Deadlock, SimClock, VirtualLoop
from simulation.process import Process
from simulation.reference_merkle import list_root, state_root

from chainkit.clock import sleep_until
from chainkit.merkle import Tree
from chainkit.merkle_list import list_root as chain_list_root
from chainkit.store import StoreError

GENESIS = b"\x01" * 32


def run(main: object) -> object:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)  # type: ignore[arg-type]


# --- processes ---


def test_a_process_whose_disk_fails_as_it_starts_is_started_again(tmp_path: Path) -> None:
    """A supervisor does not ask how far it came."""
    told: list[str] = []

    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        async def create(_: Process) -> tuple[Any, object, Any]:
            if process.starts < 3:
                raise StoreError("the disk is out of order")
            return SimpleNamespace(tasks=[]), object(), lambda *_: None

        clock = SimClock(loop, 0.0)
        process = Process(
            "v0", tmp_path, clock, create, Random(1), lambda what, _: told.append(what), lambda _: None, False
        )
        process.start()
        await asyncio.sleep(60)
        assert process.up
        return process.starts

    assert run(main()) == 3
    assert told == ["start", "exit 1", "down", "start", "exit 1", "down", "start"]


# --- time ---


def test_time_jumps_to_the_next_timer() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(3600)


def test_a_clock_that_is_off_wakes_its_service_at_its_own_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        clock = SimClock(loop, 1000.0)
        clock.skew = 0.25
        await sleep_until(clock, 1010.0)
        return loop.time()

    assert run(main()) == pytest.approx(9.75, abs=0.01)


def test_what_waits_for_nothing_is_an_error_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run(main())


def test_what_never_lets_time_pass_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulation.loop.BUSY_CALLS", 1000)

    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Deadlock):
        run(main())


def test_threads_are_done_in_place() -> None:
    async def main() -> int:
        return await asyncio.to_thread(sum, [1, 2, 3])

    assert run(main()) == 6


# --- disks ---


def written(path: Path, mode: Mode, seed: int) -> tuple[bytes | None, bytes | None]:
    """Commit 1 is kept, commit 2 is hit by a failure of ``mode``; what a restart finds of both."""
    disk = Disk(Random(seed), lambda: disk.lose_power())
    store = disk.store_type()(path, genesis_hash=GENESIS, role="test")
    store.set_meta("one", b"1" * 5000)
    disk.arm(0, mode)
    with pytest.raises((PowerLost, StoreError)):
        store.set_meta("two", b"2" * 9000)
    if mode != "error":
        with pytest.raises(PowerLost):
            store.get_meta("one")
    disk.mount_again()
    again = disk.store_type()(path, genesis_hash=GENESIS, role="test")
    found = again.get_meta("one"), again.get_meta("two")
    again.close()
    return found


@pytest.mark.parametrize(("mode", "second"), [("before", None), ("error", None), ("after", b"2" * 9000)])
def test_a_commit_is_kept_or_lost_as_a_whole(tmp_path: Path, mode: Mode, second: bytes | None) -> None:
    assert written(tmp_path, mode, 1) == (b"1" * 5000, second)


def test_a_torn_commit_is_lost_and_what_was_there_before_stays(tmp_path: Path) -> None:
    for seed in range(30):
        first, second = written(tmp_path / str(seed), "torn", seed)
        assert first == b"1" * 5000
        assert second in (None, b"2" * 9000)  # the last byte may have been the only one to be cut


def test_a_torn_first_write_leaves_a_store_that_can_be_made_anew(tmp_path: Path) -> None:
    disk = Disk(Random(3), lambda: disk.lose_power())
    disk.arm(0, "torn")
    with pytest.raises(PowerLost):
        disk.store_type()(tmp_path, genesis_hash=GENESIS, role="test")
    disk.mount_again()
    disk.store_type()(tmp_path, genesis_hash=GENESIS, role="test").close()


# --- the reference ---


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.binary(max_size=8), st.binary(max_size=8), max_size=20))
def test_the_reference_has_the_same_state_roots(state: dict[bytes, bytes]) -> None:
    assert state_root(state) == Tree().update(state).root


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=8), max_size=20))
def test_the_reference_has_the_same_list_roots(items: list[bytes]) -> None:
    assert list_root(items) == chain_list_root(items)


def test_the_reference_agrees_with_the_published_vectors() -> None:
    vectors = json.loads((Path(__file__).parents[1] / "vectors" / "merkle.json").read_text())
    for case in vectors["state"]:
        state = {bytes.fromhex(key): bytes.fromhex(value) for key, value in case["entries"]}
        assert state_root(state).hex() == case["root"], case["name"]
    for case in vectors["lists"]:
        assert list_root([bytes.fromhex(leaf) for leaf in case["leaves"]]).hex() == case["root"], case["name"]
