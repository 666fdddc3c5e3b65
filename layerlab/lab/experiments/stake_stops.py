"""A third of the L1's stake stops: does finality?"""

import asyncio
from collections.abc import Mapping

from layerlab.config import COIN, DevnetConfig
from layerlab.lab.experiment import Outcome, Seen
from layerlab.lab.experiments.common import pace, pay, usual
from layerlab.models import MODELS
from layerlab.world import World

VALIDATORS = 3
BLOCKS = 6
SLOTS = 30
"""So long nothing happens in the control. One leader in three is gone and finality takes three slots in a row, so
that of a hundred chains that are well, one or two bring nothing in as many slots: the trial waits longer."""


class StakeStops:
    """Three validators with the same stake; one is killed. A quorum is two thirds."""

    name = "third-of-stake-stops"
    question = "A third of the stake goes silent. Do blocks still become final?"
    hypothesis: Mapping[str, str] = dict.fromkeys(
        MODELS, "with two thirds of the stake left finality goes on, and comes back when they do"
    )
    control: Mapping[str, str] = dict.fromkeys(MODELS, "two thirds stop")

    def config(self, model: str, control: bool) -> DevnetConfig:
        return usual(model, validators=VALIDATORS)

    async def run(self, world: World, control: bool) -> Seen:
        await pay(world, "alice", "bob", COIN)
        stopped = ["validator-1", "validator-2"] if control else ["validator-1"]
        for name in stopped:
            await asyncio.to_thread(world.devnet.kill, name)
        start, begin = await world.height(world.l1), world.now()
        slots = SLOTS if control else 3 * SLOTS
        end = begin + slots * world.devnet.config.slot_ms / 1000

        async def enough() -> int | None:
            height = await world.height(world.l1)
            return height if height >= start + BLOCKS or world.now() >= end else None

        what = f"{BLOCKS} blocks become final, or {slots} slots go by"
        made = await world.fast_until(what, enough, rate=pace(world) if control else 1.0) - start
        seconds = round(world.now() - begin, 1)
        await asyncio.to_thread(world.devnet.restart, *stopped)
        goal = await world.height(world.l1) + BLOCKS

        async def again() -> bool:
            return await world.height(world.l1) >= goal

        await world.until("finality after everybody is back", again)
        held = made >= BLOCKS
        outcome = Outcome(100 * held, seconds if held else None, "two thirds of the stake")
        measured = {"stopped": f"{len(stopped)}/{VALIDATORS}", "final_blocks": made}
        told = f"{made} blocks became final in {seconds} s; all is well once they are back"
        return Seen(held, told, outcome, measured)
