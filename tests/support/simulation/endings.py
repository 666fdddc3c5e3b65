"""What must be true at the end of a run, once the network has settled: progress.

Responsible for liveness promises (P9, P12, P17) and for what only an end can show. Must not know how a run went.
"""

from collections.abc import Sequence

from simulation.clients import User
from simulation.faults import Plan
from simulation.watcher import Watcher
from simulation.world import World

SETTLED_SLOTS = 20
"""Slots after healing within which a block of the settled time is final."""


def check_end(world: World, watcher: Watcher, plan: Plan, users: Sequence[User]) -> None:
    """Add to the watcher's failures what did not come about."""
    last = watcher.tip.header.slot
    slots = int(plan.end)
    if last < slots - SETTLED_SLOTS:
        watcher.fail("P9", f"nothing became final after slot {last} of {slots}")
    for process in world.processes.values():
        gone = any(f.kind == "gone" and f.who == (process.name,) for f in plan.faults)
        if not gone and not process.up:
            watcher.fail("P22", f"{process.name} did not come back: {process.failures[-1:]}")
