"""Operators that end and begin again, at any point: nothing is said twice, nothing is left out, nothing told twice."""

from pathlib import Path
from typing import Any

import pytest
from committee_services import BRIDGE, SIDE_URLS, THREE, World, fund, run_story
from committee_world import COIN, FUNDS, OPERATORS, address, make_params
from fastapi import FastAPI

from bridge.abi import DepositArgs
from bridge.committee_abi import AttestArgs, WithdrawArgs
from rollup.outbox import LOST_AFTER


def test_an_operator_that_is_restarted_says_nothing_twice_and_leaves_nothing_out(tmp_path: Path) -> None:
    """operator-0 is needed for everything: 2 of 2. It is stopped at every point of a passage."""

    async def story(world: World) -> None:
        for delay in range(6):
            world.l1.send("alice", "deposit", DepositArgs(address("bob")), COIN)
            await world.step(delay)
            await world.stop("operator-0")
            await world.start("operator-0")
            await world.settle()
        await world.steps_until(lambda: world.side.balance("bob") == 6 * COIN)
        for delay in range(6):
            world.side.send("bob", "withdraw", WithdrawArgs(address("carol")), 1_000)
            await world.step(delay)
            await world.stop("operator-0")
            await world.step(delay % 2)
            await world.start("operator-0")
            await world.settle()
        await world.steps_until(lambda: world.l1.balance("carol") == FUNDS + 6_000)
        await world.step(LOST_AFTER + 4)
        assert world.side.codes("credit").count(("operator-0", "")) == 6
        assert world.l1.codes("release").count(("operator-0", "")) == 6
        every = world.side.codes("credit") + world.l1.codes("release")
        assert [code for _, code in every if code] == []
        assert world.operator("operator-0").attested() == {"deposits": 6, "withdrawals": 6}
        world.check()

    run_story(tmp_path, story, (BRIDGE, *OPERATORS[:2]), make_params(2, OPERATORS[:2]))


def test_what_a_former_life_sent_is_waited_for_and_if_it_is_lost_said_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.l1.send("alice", "deposit", DepositArgs(address("bob")), COIN)
        await world.steps_until(lambda: bool(world.side.backend.pool))
        waiting = list(world.side.backend.pool)
        await world.stop("operator-0")
        await world.start("operator-0")
        world.side.stuck = True
        await world.step(3)
        assert world.side.backend.pool == waiting
        world.side.stuck = False
        world.side.backend.pool.clear()  # every node forgot it
        assert await world.steps_until(lambda: world.side.balance("bob") == COIN) >= LOST_AFTER - 3
        assert world.side.codes("credit") == [("operator-0", "")]

    run_story(tmp_path, story, ("operator-0",), make_params(1, ("operator-0",)))


@pytest.mark.parametrize("nonce", [2**53 - 1, 1_000, -1, "7", None, True, 1.5, {}])
def test_a_node_that_lies_about_the_former_life_costs_some_blocks_at_most(tmp_path: Path, nonce: Any) -> None:
    async def story(world: World) -> None:
        liar = FastAPI()

        @liar.get("/accounts/{address}")
        async def account(address: str) -> Any:
            shown = {"address": address, "name": None, "balance": 0, "nonce": 0, "pending_nonce": nonce}
            return {**shown, "exists": True, "height": 1}

        world.liars[SIDE_URLS[1]] = liar
        world.l1.send("alice", "deposit", DepositArgs(address("bob")), COIN)
        await world.start("operator-0")
        honest_looking = type(nonce) is int and nonce > 0
        blocks = await world.steps_until(lambda: world.side.balance("bob") == COIN)
        assert (blocks > LOST_AFTER) is honest_looking
        assert world.side.codes("credit") == [("operator-0", "")]

    run_story(tmp_path, story, (), make_params(1, ("operator-0",)))


def test_an_operator_without_its_data_begins_anew(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await fund(world)
        await world.step(6)
        before = world.side.codes("credit")
        await world.stop("operator-0")
        (tmp_path / "operator-0").rename(tmp_path / "lost")
        await world.start("operator-0")
        await world.step(6)
        assert world.side.codes("credit") == before
        world.check()

    run_story(tmp_path, story)


def test_an_operator_that_comes_late_reads_first_and_then_has_nothing_to_say(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for _ in range(4):
            await fund(world, "bob", 1)
            world.l1.send("alice", "deposit", DepositArgs(address("carol")), COIN)
        world.side.send("operator-3", "withdraw", WithdrawArgs(address("bob")), COIN)
        await world.steps_until(
            lambda: world.l1.balance("bob") > FUNDS and world.side.balance("carol") == 4 * COIN
        )
        await world.start("operator-2")
        await world.step(8)
        every = world.side.codes("credit") + world.l1.codes("release")
        assert len(every) == 2 * 9
        assert {who for who, _ in every} == {"operator-0", "operator-1"}

    run_story(tmp_path, story, (BRIDGE, "operator-0", "operator-1"))


@pytest.mark.parametrize("when", ["before the block is told", "before it is stored"])
def test_what_a_crash_kept_from_being_told_is_told_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async def story(world: World) -> None:
        def crash(*given: Any) -> None:
            if given[-1] != []:  # of a block with something to tell
                raise RuntimeError("the power went")

        world.l1.send("alice", "deposit", DepositArgs(address("bob")), COIN)
        await world.step(3)
        for who in THREE[:2]:
            world.side.send(who, "credit", AttestArgs(0, address("bob"), COIN))
        pair = world.services[BRIDGE].pair
        if "told" in when:
            monkeypatch.setattr(pair, "_tell", crash)
        else:
            monkeypatch.setattr(pair.side.replica, "append", crash)
        with pytest.raises(RuntimeError, match="the power went"):
            await world.step(4)
        await world.services.pop(BRIDGE).crash()
        await world.start(BRIDGE)
        await world.step(2)
        events = (await world.get("/events"))["events"]
        names = [event["name"] for event in events]
        assert names == ["DepositInitiated", "DepositAttested", "DepositAttested", "DepositCredited"]
        world.check()

    run_story(tmp_path, story, (BRIDGE,))


def test_what_happened_is_told_once_whatever_the_restarts(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for turn in range(3):
            world.l1.send("alice", "deposit", DepositArgs(address("bob")), COIN)
            await world.step(turn + 2)
            for name in (BRIDGE, "operator-0"):
                await world.stop(name)
                await world.start(name)
        await world.steps_until(lambda: world.side.balance("bob") == 3 * COIN)
        for name in (BRIDGE, "operator-1"):
            events = (await world.get("/events", at=name, limit=1000))["events"]
            names = ("DepositInitiated", "DepositCredited")
            told = sorted((e["name"], e["data"]["index"]) for e in events if e["name"] in names)
            assert told == sorted((name, index) for name in names for index in range(3))

    run_story(tmp_path, story)
