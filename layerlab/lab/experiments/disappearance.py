"""The operator disappears: what becomes of a user's money?"""

import asyncio
from collections.abc import Mapping

from layerlab.amounts import Gwei, show_amount
from layerlab.config import COIN, DevnetConfig
from layerlab.lab.experiment import Outcome, Seen
from layerlab.lab.experiments.common import (
    FEES,
    MARGIN,
    NEVER,
    ask_to_freeze,
    committee_pays,
    l1_blocks,
    leave,
    pay,
    until_final,
    usual,
)
from layerlab.models import OPERATOR_THRESHOLD, OPERATORS
from layerlab.world import World

BLOCKS = 6
GONE = "validator-1"
USER = "the user, once, after the timeout"


class Disappearance:
    """Kill the operator for good. On a rollup that is the sequencer; on an own chain, one of its validators."""

    name = "operator-disappears"
    question = "The operator disappears. Does a user get at the money, and after how long?"
    hypothesis: Mapping[str, str] = {
        "optimistic": "without the sequencer every user leaves with the last final balance, through L1 alone",
        "sovereign": "without one of four validators the chain goes on, and users notice nothing",
        "sidechain": "without two of three operators nobody gets out, however well the side chain is",
    }
    control: Mapping[str, str] = {
        "optimistic": f"no escape hatch: escape_timeout is {NEVER} blocks",
        "sovereign": "one validator in all",
        "sidechain": "one operator of three is gone",
    }

    def config(self, model: str, control: bool) -> DevnetConfig:
        if model == "sovereign":
            return usual(model, validators=1 if control else 4)
        return usual(model, validators=1, **({"escape_timeout": NEVER} if control else {}))

    async def run(self, world: World, control: bool) -> Seen:
        if world.devnet.config.model == "sovereign":
            return await _chain(world, control)
        if world.devnet.config.model == "sidechain":
            return await _operators(world, control)
        return await _rollup(world, control)


async def _rollup(world: World, control: bool) -> Seen:
    await until_final(world, await pay(world, "alice", "dave", 5 * COIN))
    owed = await world.balance(world.verifier, "dave", "finalized")
    await asyncio.to_thread(world.devnet.kill, "sequencer")
    start, begin = await world.height(world.l1), world.now()
    if control:
        await l1_blocks(world, usual("optimistic").settings.escape_timeout + MARGIN)
        refused = await ask_to_freeze(world, "dave")
        told = f"after {await world.height(world.l1) - start} L1 blocks dave has nothing: {refused.message}"
        return Seen(bool(refused.success), told, Outcome(0, None, USER), {"owed": Gwei(owed)})
    before = await world.balance(world.l1, "dave", "finalized")
    amount = await leave(world, "dave")
    gained = await world.balance(world.l1, "dave", "finalized") - before
    outcome = Outcome(100 * amount // owed, round(world.now() - begin, 1), USER)
    blocks = await world.height(world.l1) - start
    measured = {
        "owed": Gwei(owed),
        "recovered": Gwei(amount),
        "l1_fees": Gwei(amount - gained),
        "l1_blocks": blocks,
    }
    held = amount == owed and 0 <= owed - gained < FEES
    told = f"dave has {show_amount(amount)} of {show_amount(owed)} on L1 after {blocks} blocks"
    return Seen(held, told, outcome, measured)


async def _chain(world: World, control: bool) -> Seen:
    await pay(world, "alice", "dave", 5 * COIN, at="finalized")
    gone = "validator-0" if control else GONE
    start, begin = await world.height(world.l1), world.now()
    await asyncio.to_thread(world.devnet.kill, gone)
    if control:
        answers = await world.app.ready()
        told = "nobody answers; what dave has is written on a disk that he does not own"
        return Seen(answers, told, Outcome(100 * answers, None, "nobody can be"))
    height = await pay(world, "dave", "erin", COIN, at="finalized")
    held = height - start <= 4 * BLOCKS
    outcome = Outcome(100, round(world.now() - begin, 1), "nobody")
    told = f"dave's next payment is final in block {height}"
    return Seen(held, told, outcome, {"l1_blocks": height - start})


async def _operators(world: World, control: bool) -> Seen:
    gone = OPERATORS[:1] if control else OPERATORS[:OPERATOR_THRESHOLD]
    owed = await world.balance(world.app, "dave", "finalized") - FEES
    for name in gone:
        await asyncio.to_thread(world.devnet.kill, name)
    begin = world.now()
    paid = await committee_pays(world, "dave", owed)
    outcome = Outcome(100 * paid // owed, round(world.now() - begin, 1) if paid else None, "two operators")
    told = f"{len(gone)} of {len(OPERATORS)} operators are gone: "
    told += f"dave has {show_amount(paid)} of {show_amount(owed)} on L1"
    return Seen(paid == 0, told, outcome, {"owed": Gwei(owed), "recovered": Gwei(paid)})
