"""Acting on a devnet: waiting and its end, finding events, and the pace of time, which is the usual one at the end."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fake_chain import NotePut, PutArgs
from lab_world import smallest
from memory_lab import MemoryLab

from chainkit.client import ApiError
from chainkit.codec import encode
from chainkit.fees import call_gas
from chainkit.keys import dev_keypair
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from layerlab import world as world_module
from layerlab.devnet import Devnet
from layerlab.models import MODELS
from layerlab.world import StepFailed, World, require

FAST_POLL = 0.005
ALICE, BOB = dev_keypair("alice"), dev_keypair("bob")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "POLL_SECONDS", FAST_POLL)


@asynccontextmanager
async def a_world(path: Path, said: list[str] | None = None, **config: object) -> AsyncIterator[World]:
    """A world whose services do not run: for what needs none, its clock for one."""
    devnet = Devnet.create(path / "devnet", smallest(**config).with_free_ports())
    world = World(devnet, devnet.genesis(), 7, (said if said is not None else []).append)
    try:
        yield world
    finally:
        await world.close()


def in_world(path: Path, act: Callable[[World], Awaitable[None]], **config: object) -> None:
    async def main() -> None:
        async with a_world(path, **config) as world:
            await act(world)

    asyncio.run(main())


# --- services ---


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_the_application_is_asked_where_the_model_has_it(tmp_path: Path, model: object) -> None:
    async def act(world: World) -> None:
        kind = world.devnet.config.kind
        assert world.app.url == world.devnet.config.url(kind.app)
        assert world.l1.url == world.devnet.config.url("validator-0")
        assert set(world.l1s) == {"validator-0"}
        if kind.bridged:
            assert world.bridge.url == world.devnet.config.url("bridge")

    in_world(tmp_path, act, model=model.name)  # type: ignore[attr-defined]


# --- waiting ---


def test_until_asks_again_until_there_is_an_answer(tmp_path: Path) -> None:
    answers = iter([None, False, ApiError("unreachable", 0, ""), ApiError("overloaded", 503, ""), "there"])
    said: list[str] = []

    async def probe() -> str | None:
        answer = next(answers)
        if isinstance(answer, ApiError):
            raise answer
        return answer  # type: ignore[return-value]

    async def main() -> None:
        async with a_world(tmp_path, said) as world:
            assert await world.until("something comes", probe) == "there"

    asyncio.run(main())
    assert said == ["something comes"]


@pytest.mark.parametrize("answer", [0, "", [], True])
def test_an_answer_that_is_empty_is_an_answer(tmp_path: Path, answer: object) -> None:
    async def probe() -> object:
        return answer

    async def act(world: World) -> None:
        assert await world.until("something comes", probe, 0.0) is answer

    in_world(tmp_path, act)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_until_gives_up_when_the_time_is_over_and_says_what_did_not_come(
    tmp_path: Path, seconds: float
) -> None:
    asked: list[int] = []

    async def probe() -> None:
        asked.append(1)

    async def act(world: World) -> None:
        with pytest.raises(StepFailed, match=rf"^waited {seconds:g} s in vain: the flood$"):
            await world.until("the flood", probe, seconds)

    in_world(tmp_path, act)
    assert asked  # at least once, even with no time at all


def test_until_does_not_swallow_a_refusal(tmp_path: Path) -> None:
    async def probe() -> None:
        raise ApiError("unknown_batch", 404, "there is none")

    async def act(world: World) -> None:
        with pytest.raises(ApiError, match="there is none"):
            await world.until("something comes", probe)

    in_world(tmp_path, act)


def test_require_says_why() -> None:
    require(True, "never said")
    with pytest.raises(StepFailed, match=r"^two are not three$"):
        require(False, "two are not three")


# --- the pace of time ---


def rates(world: World) -> list[float]:
    return [segment.rate for segment in world.devnet.time.schedule()]


def test_time_runs_fast_for_a_few_seconds_unless_it_is_renewed(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        world.set_rate(6.0)
        assert rates(world)[-2:] == [6.0, 1.0]  # whatever becomes of us it ends
        fast, normal = world.devnet.time.schedule()[-2:]
        assert normal.wall - fast.wall < 10

    in_world(tmp_path, act)


@pytest.mark.parametrize(("slot_ms", "factor"), [(200, 1.0), (400, 1.0), (800, 2.0), (4000, 10.0)])
def test_the_longer_the_slots_the_faster_the_usual_pace(tmp_path: Path, slot_ms: int, factor: float) -> None:
    async def act(world: World) -> None:
        world.set_rate(3.0)
        assert rates(world)[-2:] == [3.0 * factor, 1.0]
        world.set_rate(1.0)
        assert rates(world)[-2:][0 if factor != 1.0 else 1] == factor

    in_world(tmp_path, act, slot_ms=slot_ms)


def test_a_fast_pace_is_kept_up_and_ends_with_the_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world_module, "RENEW_SECONDS", 0.01)

    async def main() -> None:
        async with a_world(tmp_path) as world:
            world.set_rate(6.0)
            first = world.devnet.time.schedule()[-1].wall
            async with asyncio.timeout(20):
                while world.devnet.time.schedule()[-1].wall < first + 0.05:
                    await asyncio.sleep(0.01)
            assert rates(world)[-2:] == [6.0, 1.0]
        at_end = world.devnet.time.schedule()
        assert at_end[-1].rate == 1.0
        assert at_end[-1].wall <= time.time() + 1.0  # now, not when the fast time would have ended
        await asyncio.sleep(0.05)  # many renewals' worth: there are none
        assert world.devnet.time.schedule() == at_end
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize("slot_ms", [200, 800])
def test_a_world_that_never_hurried_or_is_back_ends_at_the_usual_pace(tmp_path: Path, slot_ms: int) -> None:
    async def main() -> None:
        async with a_world(tmp_path, slot_ms=slot_ms) as world:
            stood = rates(world)
        assert rates(world) == stood  # it was not touched
        async with a_world(tmp_path / "2", slot_ms=slot_ms) as world:
            world.set_rate(9.0)
            world.set_rate(1.0)
        assert rates(world)[-1] == 1.0
        assert world.devnet.time.schedule()[-1].wall <= time.time() + 1.0

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_fast_until_is_fast_until_then_and_not_longer(tmp_path: Path, fails: bool) -> None:
    seen: list[float] = []

    async def act(world: World) -> None:
        async def probe() -> bool:
            seen.extend(rates(world)[-2:])
            return not fails

        if fails:
            with pytest.raises(StepFailed, match=r"in vain: dawn \(time runs 5 times as fast\)"):
                await world.fast_until("dawn", probe, rate=5.0, seconds=0.01)
        else:
            assert await world.fast_until("dawn", probe, rate=5.0, seconds=20.0)
        assert rates(world)[-1] == 1.0
        assert world.devnet.time.schedule()[-1].wall <= time.time() + 1.0

    in_world(tmp_path, act)
    assert seen[:2] == [5.0, 1.0]


# --- events and transactions, on a chain in memory ---


async def note(lab: MemoryLab, name: str, number: int) -> None:
    """``notes`` takes a note of that account, and emits `NotePut`."""
    key = dev_keypair(name)
    nonce = (await lab.client.account(key.address)).pending_nonce
    call = Call("notes", "put", encode(PutArgs(key.address, number)), number)
    gas = call_gas(lab.backend.genesis.fees.gas_per_byte, len(call.args), 200_000)
    await lab.client.submit(SignedTransaction.sign(Body(900, key.address, nonce, gas, 100, 1, call), key))
    lab.backend.seal(final=True)


def on_chain(path: Path, act: Callable[[World, MemoryLab], Awaitable[None]]) -> None:
    async def main() -> None:
        lab = MemoryLab(path / "chain")
        async with a_world(path) as world:
            await act(world, lab)
        await lab.close()

    asyncio.run(main())


def test_the_first_event_after_a_number_with_the_wanted_values_is_found(tmp_path: Path) -> None:
    async def act(world: World, lab: MemoryLab) -> None:
        assert await world.last_event(lab.client) == 0
        await note(lab, "alice", 2)
        since = await world.last_event(lab.client)
        for name, number in (("alice", 4), ("bob", 4), ("bob", 6)):
            await note(lab, name, number)
        find, event = world.find_event, NotePut.__name__
        found = await find(lab.client, event, 0)
        assert found is not None
        assert found.data["number"] == 2
        found = await find(lab.client, event, since)
        assert found is not None
        assert found.data["number"] == 4
        found = await find(lab.client, event, since, owner="0x" + BOB.address.hex(), number=6)
        assert found is not None
        assert found.data["value"] == 6
        for missing in (
            find(lab.client, event, await world.last_event(lab.client)),
            find(lab.client, "NoteTaken", 0),
            find(lab.client, event, 0, number=8),
            find(lab.client, event, 0, no_such_field=4),
            find(lab.client, event, since, owner="0x" + ALICE.address.hex(), number=6),
        ):
            assert await missing is None

    on_chain(tmp_path, act)


def test_an_event_is_waited_for(tmp_path: Path) -> None:
    async def act(world: World, lab: MemoryLab) -> None:
        waiting = asyncio.create_task(world.event(lab.client, "NotePut", 0, "a note", number=4))
        await note(lab, "alice", 2)
        await asyncio.sleep(3 * FAST_POLL)
        assert not waiting.done()
        await note(lab, "alice", 4)
        assert (await waiting).data["number"] == 4

    on_chain(tmp_path, act)


def test_sending_waits_for_the_head_that_was_asked_for(tmp_path: Path) -> None:
    async def act(world: World, lab: MemoryLab) -> None:
        before = await world.balance(lab.client, "bob")
        sending = asyncio.create_task(world.send(lab.client, "alice", Transfer(BOB.address, 5)))
        while not lab.backend.pool:
            await asyncio.sleep(FAST_POLL)
        lab.backend.seal()
        assert await world.balance(lab.client, "bob") == before + 5
        assert await world.balance(lab.client, "bob", "finalized") == before
        await asyncio.sleep(3 * FAST_POLL)
        assert not sending.done()
        lab.backend.seal(final=True)
        info = await sending
        assert (info.success, info.height) == (True, 1)
        assert await world.height(lab.client) == 2

    on_chain(tmp_path, act)
