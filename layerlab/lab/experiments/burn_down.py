"""Burn-down: everything above L1 is killed and deleted. What does each user actually get back?"""

import asyncio
from collections.abc import Mapping, Sequence

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
    lock_in_market,
    pay,
    until_final,
    usual,
)
from layerlab.world import World

USERS = ("carol", "erin", "frank")
LOCKED = 10 * COIN
PAID = 123 * COIN
SURVIVORS = 2
"""Half of the stake: those who lost their disks are no quorum, so they cannot begin a chain without the others."""


class BurnDown:
    """Plain balances and money inside an application are counted apart: only the former have a key."""

    name = "burn-down"
    question = "Everything above L1 burns down. What does each user get back?"
    hypothesis: Mapping[str, str] = {
        "optimistic": "every plain L2 balance comes back in full through L1 alone; money inside a contract does not",
        "sovereign": "there is nothing below an own chain: with its validators' disks all is gone",
        "sidechain": "L1 has the whole escrow and knows nobody's balance: nothing comes back",
    }
    control: Mapping[str, str] = {
        "optimistic": f"no escape hatch: escape_timeout is {NEVER} blocks",
        "sovereign": "the disks of two of four validators survive",
        "sidechain": "the disks of two of the side chain's four validators survive",
    }

    def config(self, model: str, control: bool) -> DevnetConfig:
        if model == "sovereign":
            return usual(model)
        return usual(model, validators=1, **({"escape_timeout": NEVER} if control else {}))

    async def run(self, world: World, control: bool) -> Seen:
        if world.devnet.config.model == "sovereign":
            return await _chain(world, control)
        if world.devnet.config.model == "sidechain":
            return await _side_chain(world, control)
        return await _rollup(world, control)


async def _in_market(world: World) -> int:
    """What the market holds for those who paid (gwei)."""
    return int((await world.app.contract("inference_market"))["balance"])


async def _burn(world: World, names: Sequence[str], *, survivors: int = 0) -> None:
    """Kill these and delete their data; the first ``survivors`` keep their disks."""
    for name in names:
        await asyncio.to_thread(world.devnet.kill, name)
    for name in names[survivors:]:
        await asyncio.to_thread(world.devnet.delete_data, name)


async def _rollup(world: World, control: bool) -> Seen:
    await lock_in_market(world, "carol", "dave", LOCKED)
    await until_final(world, await pay(world, "alice", "erin", COIN))
    owed = {name: await world.balance(world.verifier, name, "finalized") for name in USERS}
    await _burn(world, world.devnet.config.kind.others)
    begin = world.now()
    back = dict.fromkeys(USERS, 0)
    if control:
        await l1_blocks(world, usual("optimistic").settings.escape_timeout + MARGIN)
        refused = await ask_to_freeze(world, "carol")
        told = f"the bridge does not let go: {refused.message}"
    else:
        for name in USERS:
            back[name] = await leave(world, name)
        told = f"{show_amount(sum(back.values()))} of {show_amount(sum(owed.values()))} "
        told += "of plain balances are back on L1"
    percent = 100 * sum(back.values()) // sum(owed.values())
    measured = {
        "plain_owed": Gwei(sum(owed.values())),
        "plain_recovered": Gwei(sum(back.values())),
        "plain_percent": percent,
        "in_app_owed": Gwei(LOCKED),
        "in_app_recovered": Gwei(0),
        "in_app_percent": 0,
    }
    seconds = None if control else round(world.now() - begin, 1)
    outcome = Outcome(percent, seconds, "each user, once, with a key and L1")
    return Seen(
        back == owed, f"{told}; of {show_amount(LOCKED)} in the market's escrow, none", outcome, measured
    )


async def _chain(world: World, control: bool) -> Seen:
    await lock_in_market(world, "carol", "dave", LOCKED)
    await pay(world, "alice", "bob", PAID, at="finalized")
    owed = await world.balance(world.l1, "bob", "finalized")
    begin = world.now()
    await _burn(world, world.devnet.config.validator_names, survivors=SURVIVORS * control)
    await asyncio.to_thread(world.devnet.up, world.say)  # those who remember nothing can only begin again
    goal = await world.height(world.l1) + 3

    async def goes_on() -> bool:
        return await world.height(world.l1) >= goal

    await world.until("blocks become final again", goes_on)
    found = await world.balance(world.l1, "bob", "finalized")
    lost = found != owed
    percent = 0 if lost else 100
    outcome = Outcome(
        percent,
        None if lost else round(world.now() - begin, 1),
        "a third of the validators, with their disks",
    )
    measured = {
        "plain_owed": Gwei(owed),
        "plain_recovered": Gwei(0 if lost else owed),
        "plain_percent": percent,
        "in_app_owed": Gwei(LOCKED),
        "in_app_percent": 100 * await _in_market(world) // LOCKED,
    }
    told = (
        "the chain begins again at its genesis: what was paid since is lost"
        if lost
        else "every balance is back"
    )
    return Seen(lost, told, outcome, measured)


async def _side_chain(world: World, control: bool) -> Seen:
    await lock_in_market(world, "carol", "dave", LOCKED)
    await pay(world, "alice", "bob", COIN, at="finalized")
    owed = await world.balance(world.app, "bob", "finalized") - FEES
    others, begin = world.devnet.config.kind.others, world.now()
    await _burn(world, others, survivors=SURVIVORS * control)  # the side chain's validators come first
    paid = in_app = 0
    if control:
        await asyncio.to_thread(world.devnet.restart, *others)
        in_app = await _in_market(world)
        paid = await committee_pays(world, "bob", owed)
        told = "two validators remember, the others learn from them: "
        told += f"bob has {show_amount(paid)} of {show_amount(owed)} on L1"
    else:
        refused = await ask_to_freeze(world, "bob")
        escrow = (await world.l1.contract("bridge", "finalized"))["state"]["totals"]["escrow"]
        told = f"{show_amount(escrow)} lie in L1's escrow, and no call pays them out: {refused.message}"
    percent = 100 * paid // owed
    measured = {
        "plain_owed": Gwei(owed),
        "plain_recovered": Gwei(paid),
        "plain_percent": percent,
        "in_app_owed": Gwei(LOCKED),
        "in_app_percent": 100 * in_app // LOCKED,
    }
    seconds = round(world.now() - begin, 1) if paid else None
    outcome = Outcome(percent, seconds, "a third of the side chain's validators, with their disks")
    return Seen(paid == 0, told, outcome, measured)
