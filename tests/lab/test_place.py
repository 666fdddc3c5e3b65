"""Where experiments take place: real services, and nothing of them left at a normal end, an error or a cancellation,
even if that comes while threads are at work that nobody can cancel."""

import asyncio
from pathlib import Path

import pytest
from lab_world import left_in, smallest
from stub_devnet import StubSupervisor, processes_in

from layerlab.config import DevnetError
from layerlab.lab.place import running_world
from layerlab.world import StepFailed, World


def nothing(_: str) -> None:
    return


async def _started(temporary: Path) -> None:
    while not processes_in(temporary):
        await asyncio.sleep(0.01)


# --- real services ---


async def _lives_and_ends(temporary: Path) -> None:
    said: list[str] = []
    async with running_world(smallest(), 7, said.append) as world:
        assert await world.app.ready()
        assert len(processes_in(temporary)) == 1
        there = world.devnet.directory
        assert world.seed == 7
    assert left_in(there) == []
    assert any("validator-0" in line for line in said)


def test_real_services_live_in_the_block_and_are_gone_after_it(temporary: Path) -> None:
    asyncio.run(_lives_and_ends(temporary))
    assert list(temporary.iterdir()) == []


# --- stubs for services: ends of every kind ---


async def _two_at_once() -> None:
    async with running_world(smallest(), 1, nothing) as one, running_world(smallest(), 2, nothing) as two:
        assert one.devnet.directory != two.devnet.directory
        assert await one.app.ready()
        assert await two.app.ready()
        assert one.app.url != two.app.url


def test_two_places_are_apart(stubs: Path) -> None:
    asyncio.run(_two_at_once())
    assert list(stubs.iterdir()) == []


@pytest.mark.parametrize("error", [StepFailed("no"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_nothing_is_left_after_an_error_and_the_error_comes_out(stubs: Path, error: BaseException) -> None:
    async def fail() -> None:
        async with running_world(smallest(), 7, nothing):
            raise error

    with pytest.raises(type(error)):
        asyncio.run(fail())
    assert processes_in(stubs) == []
    assert list(stubs.iterdir()) == []


def test_nothing_is_left_of_a_cancelled_experiment(stubs: Path) -> None:
    async def main() -> None:
        inside = asyncio.Event()

        async def experiment() -> None:
            async with running_world(smallest(), 7, nothing):
                inside.set()
                await asyncio.sleep(3600)

        task = asyncio.create_task(experiment())
        await inside.wait()
        assert len(processes_in(stubs)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert processes_in(stubs) == []

    asyncio.run(main())
    assert list(stubs.iterdir()) == []


@pytest.mark.parametrize("mode", ["good", "deaf"])
def test_nothing_is_left_of_a_start_that_is_cancelled(stubs: Path, mode: str) -> None:
    """The thread that brings the devnet up goes on by itself: it must neither start more nor write more."""
    StubSupervisor.modes["bridge"] = mode

    async def main() -> None:
        async def experiment() -> None:
            async with running_world(smallest(model="optimistic", validators=2), 7, nothing):
                await asyncio.sleep(3600)

        task = asyncio.create_task(experiment())
        await _started(stubs)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert processes_in(stubs) == []
        assert list(stubs.iterdir()) == []

    asyncio.run(main())  # and waits for the thread
    assert processes_in(stubs) == []
    assert list(stubs.iterdir()) == []


def test_a_thread_that_restarts_a_service_cannot_outlive_the_place(stubs: Path) -> None:
    async def main() -> None:
        async def experiment(world: World) -> None:
            await asyncio.gather(
                *(asyncio.to_thread(world.devnet.restart, name) for name in world.devnet.config.services)
            )

        async with running_world(smallest(validators=3), 7, nothing) as world:
            task = asyncio.create_task(experiment(world))
            await asyncio.sleep(0)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(task, 0.05)
        assert processes_in(stubs) == []

    asyncio.run(main())
    assert processes_in(stubs) == []
    assert list(stubs.iterdir()) == []


def test_a_service_that_dies_at_its_start_is_a_devnet_error(stubs: Path) -> None:
    StubSupervisor.modes["validator-0"] = "die"

    async def main() -> None:
        async with running_world(smallest(), 7, nothing):
            raise AssertionError("it must not come to this")

    with pytest.raises(DevnetError, match="the moon is in the wrong phase"):
        asyncio.run(main())
    assert processes_in(stubs) == []
    assert list(stubs.iterdir()) == []


def test_services_end_even_if_the_world_cannot_be_closed(
    stubs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: World) -> None:
        raise RuntimeError("the clock is gone")

    monkeypatch.setattr(World, "close", broken)

    async def main() -> None:
        async with running_world(smallest(), 7, nothing):
            pass

    with pytest.raises(RuntimeError, match="the clock is gone"):
        asyncio.run(main())
    assert processes_in(stubs) == []
    assert list(stubs.iterdir()) == []


def test_after_its_end_a_place_starts_nothing(stubs: Path) -> None:
    async def main() -> None:
        async with running_world(smallest(), 7, nothing) as world:
            devnet = world.devnet
        with pytest.raises(DevnetError):
            devnet.supervisor.start("validator-0")

    asyncio.run(main())
    assert processes_in(stubs) == []
