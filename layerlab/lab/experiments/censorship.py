"""The operator censors one user: does the transaction get in, and how soon?"""

from collections.abc import Mapping
from typing import Any

from bridge.abi import ForceArgs
from chainkit.transaction import SignedTransaction, Transfer
from layerlab.config import COIN, DevnetConfig
from layerlab.lab.experiment import Outcome, Seen
from layerlab.lab.experiments.common import FAST_FOR_MANY, l1_blocks, usual
from layerlab.world import World, require

ALONE = "the user"
PATIENCE = 20
"""So many blocks are enough for every validator to be the leader."""


class Censorship:
    """Carol is ignored. On a rollup she goes through L1; on an own chain the next leader takes her in."""

    name = "operator-censors"
    question = "The operator ignores one user. How soon is the user's transaction executed all the same?"
    hypothesis: Mapping[str, str] = {
        "optimistic": "forced through L1, the transaction is executed by the deadline of inclusion_delay blocks",
        "sovereign": "one censoring validator of four delays the transaction by a few slots",
        "sidechain": "one censoring validator of four delays the transaction by a few slots",
    }
    control: Mapping[str, str] = {
        "optimistic": "no forced inclusion: the user knows the sequencer alone",
        "sovereign": "every validator censors",
        "sidechain": "every validator censors, and L1 has no door: nothing can be forced",
    }

    def config(self, model: str, control: bool) -> DevnetConfig:
        return usual(model) if model == "sovereign" else usual(model, validators=1)

    async def run(self, world: World, control: bool) -> Seen:
        tx = await world.sign(world.app, world.key("carol"), Transfer(world.key("bob").address, 7 * COIN))
        if world.devnet.config.kind.rollup:
            return await _rollup(world, tx, control)
        return await _chain(world, tx, control)


async def _rollup(world: World, tx: SignedTransaction, control: bool) -> Seen:
    await world.fault("sequencer", name="censor", address="carol")
    await world.l2.submit(tx)
    start, delay = await world.height(world.l1), world.settings.inclusion_delay
    begin = world.now()
    if control:
        await l1_blocks(world, 2 * delay)
        info = await world.l2.transaction(tx.id)
        included = info is not None and info.height is not None
        told = f"{2 * delay} L1 blocks later it is {'in' if included else 'still pending'}"
        return Seen(included, told, Outcome(100 * included, None, ALONE))
    forced = await world.call_bridge("carol", "force", ForceArgs(tx.wire))
    require(bool(forced.success) and forced.height is not None, f"force failed: {forced.message}")

    async def safe() -> Any:
        info = await world.verifier.transaction(tx.id)
        return info if info is not None and info.status in ("safe", "finalized") else None

    done = await world.until("the forced transaction is executed", safe)
    batches = (await world.verifier.get("/batches", {"limit": 100}))["batches"]
    on_l1 = next(
        b["l1_height"] for b in batches if b["first_block"] <= done.height < b["first_block"] + b["blocks"]
    )
    deadline = (forced.height or 0) + delay
    held = bool(done.success) and on_l1 <= deadline
    outcome = Outcome(100 * held, round(world.now() - begin, 1), "the user, with L1")
    told = f"forced at L1 block {forced.height}, executed by {on_l1}, due by {deadline}"
    return Seen(held, told, outcome, {"l1_blocks": on_l1 - start, "deadline": delay})


async def _chain(world: World, tx: SignedTransaction, control: bool) -> Seen:
    censored = "0x" + world.key("carol").address.hex()
    validators = world.devnet.config.app_validators
    for name in validators if control else validators[1:2]:
        await world.fault(name, name="censor", censored=[censored])
    start, begin = await world.height(world.app, "head"), world.now()
    await world.app.submit(tx)

    async def included() -> int | None:
        info = await world.app.transaction(tx.id)
        late = await world.height(world.app, "head") >= start + PATIENCE
        return info.height if info is not None and info.height is not None else 0 if late else None

    height = await world.fast_until("the transaction is in a block", included, rate=FAST_FOR_MANY)
    if not height:
        told = f"{PATIENCE} blocks later it is still pending"
        return Seen(False, told, Outcome(0, None, ALONE))
    blocks = height - start
    outcome = Outcome(100, round(world.now() - begin, 1), ALONE)
    return Seen(True, f"it is in block {blocks} after it was sent", outcome, {"l1_blocks": blocks})
