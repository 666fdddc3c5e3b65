"""The operator steals: what does the thief get, and at what price?"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bridge.abi import ExitArgs
from chainkit.client import AccountProof
from chainkit.codec import parse_hex
from chainkit.merkle import ProofError, verify_proof
from layerlab.amounts import Gwei, show_amount
from layerlab.config import DevnetConfig
from layerlab.lab.experiment import Outcome, Seen
from layerlab.lab.experiments.common import ask_to_freeze, books, l1_blocks, pace, pay, usual
from layerlab.world import World, require

THIEF = "mallory"


class Theft:
    """The sequencer hides a theft in a state root, waits, and leaves through the bridge's own escape hatch."""

    name = "operator-steals"
    question = "The operator moves a user's money to itself. Who stops it, and what does it cost the thief?"
    hypothesis: Mapping[str, str] = {
        "optimistic": "one honest verifier proves the fraud: the thief gets nothing and loses its bond",
    }
    control: Mapping[str, str] = {"optimistic": "no watcher: the only verifier is asleep"}

    def config(self, model: str, control: bool) -> DevnetConfig:
        return usual(model, validators=1)

    async def run(self, world: World, control: bool) -> Seen:
        if control:
            await world.fault("verifier", name="asleep")
        poor = await world.balance(world.l2, THIEF)
        since = await world.last_event(world.bridge)
        batch, proof = await steal(world, poor)
        loot = proof.balance - poor
        if not control:
            return await _caught(world, batch, since, loot)
        return await _paid(world, batch, proof, loot)


async def steal(world: World, poor: int, victim: str | None = None) -> tuple[int, AccountProof]:
    """The number of the false batch, and the sequencer's proof of what the thief has under its root."""
    who = {"address": victim} if victim else {}
    await world.fault("sequencer", name="steal", seed=world.seed, **who)
    for i in range(3):
        await pay(world, "bob", "carol", 1_000 + i)

    async def posted() -> tuple[int, AccountProof] | None:
        proof = await world.l2.account_proof(world.key(THIEF).address, "head")
        if proof.balance <= poor:
            return None
        for batch in (await world.bridge.get("/batches"))["batches"]:
            with suppress(
                ProofError
            ):  # what block the sequencer says it is of does not matter: the root does
                verify_proof(parse_hex(batch["state_root"]), proof.key, proof.proof)
                return int(batch["index"]), proof
        return None

    return await world.until("the sequencer posts a batch whose root hides a theft", posted)


async def _caught(world: World, batch: int, since: int, loot: int) -> Seen:
    begin, start = world.now(), await world.height(world.l1)
    reverted = await world.event(world.bridge, "BatchReverted", since, "the batch is reverted", batch=batch)
    resolved = await world.find_event(world.bridge, "DisputeResolved", since)
    require(resolved is not None, "a batch was reverted without a dispute")
    data: dict[str, Any] = dict(resolved.data) if resolved else {}
    lost = data["paid"] + data["burned"]
    outcome = Outcome(100, round(world.now() - begin, 1), "one honest verifier, within the window", lost)
    measured = {
        "loot": Gwei(loot),
        "paid_to_thief": Gwei(0),
        "challenger_paid": Gwei(data["paid"]),
        "l1_blocks": (reverted.height or start) - start,
    }
    held = data["winner"] == "challenger" and data["paid"] > 0
    told = f"batch {batch} was reverted; the thief lost a bond of {show_amount(lost)}"
    return Seen(held, told, outcome, measured)


async def _paid(world: World, batch: int, proof: AccountProof, loot: int) -> Seen:
    begin = world.now()
    stolen = await get_away(world, batch, proof, loot)
    outcome = Outcome(100 * (loot - stolen) // loot, round(world.now() - begin, 1), "nobody came")
    measured = {"loot": Gwei(loot), "paid_to_thief": Gwei(stolen)}
    told = "the thief left through the bridge's own escape hatch with "
    told += f"{show_amount(stolen)} of the stolen {show_amount(loot)}"
    return Seen(stolen == 0, told, outcome, measured)


async def get_away(world: World, batch: int, proof: AccountProof, loot: int) -> int:
    """The lie becomes final; the thief stops the rollup, freezes the bridge and exits. The gain on L1 (gwei)."""
    before = await world.balance(world.l1, THIEF, "finalized")
    await world.fast_until(
        "the false batch becomes final: nobody objects", lambda: _final(world, batch), rate=pace(world)
    )
    await asyncio.to_thread(world.devnet.kill, "sequencer")
    totals = (await books(world))["totals"]
    require(totals["head_batch"] == batch, f"batch {totals['head_batch']} came after the false one, {batch}")
    silent_until = totals["last_batch_height"] + world.settings.escape_timeout
    await l1_blocks(world, silent_until - await world.height(world.l1))
    frozen = await ask_to_freeze(world, THIEF)
    require(bool(frozen.success), f"the thief cannot freeze the bridge: {frozen.message}")
    out = await world.call_bridge(THIEF, "exit", ExitArgs(proof.address, proof.proof))
    require(bool(out.success), f"the exit is refused: {out.message}")
    gained = await world.balance(world.l1, THIEF, "finalized") - before
    return max(0, min(loot, gained - (proof.balance - loot)))  # the rest was the thief's own


async def _final(world: World, batch: int) -> bool:
    return bool((await books(world))["totals"]["final_batch"] >= batch)
