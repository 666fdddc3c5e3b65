"""One run: a plan made to happen, from the first slot to the last check.

Responsible for the order of a run and for its result. Must not know how many runs there are.
"""

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from chainkit.chain import Chain
from simulation.attackers import Colluder, Flooder
from simulation.clients import Staker, User, send_probe
from simulation.endings import Ending
from simulation.faults import Fault, Harm, Plan
from simulation.loop import VirtualLoop
from simulation.shared import SharedChain, patched
from simulation.watcher import Watcher
from simulation.world import USERS, World


@dataclass
class Result:
    """What came of a run."""

    plan: Plan
    failures: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    trace: str = ""
    simulated: float = 0.0
    cpu: float = 0.0
    height: int = 0


@contextmanager
def quiet() -> Iterator[None]:
    """No logs, and less garbage collection: most of what is made is short-lived and without cycles."""
    disabled, thresholds = logging.root.manager.disable, gc.get_threshold()
    logging.disable(logging.CRITICAL)
    gc.set_threshold(50_000, 50, 50)
    try:
        yield
    finally:
        logging.disable(disabled)
        gc.set_threshold(*thresholds)


def run_plan(plan: Plan, *, signatures: str = "shared") -> Result:
    """Make a plan happen."""
    started = time.process_time()
    result = Result(plan)
    with (
        quiet(),
        patched(signatures=signatures if plan.setup.shared else "real"),
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):
        runner.run(_run(plan, result))
    result.cpu = time.process_time() - started
    return result


async def _run(plan: Plan, result: Result) -> None:
    world = World(plan.seed, plan.setup, SharedChain if plan.setup.shared else Chain)
    tasks: list[asyncio.Task[None]] = []
    try:
        watcher = Watcher(world)
        Harm(world, plan.faults, plan.heal)
        world.start()
        users = [User(world, name, plan.end - 30) for name in USERS]
        tasks = [asyncio.create_task(user.run()) for user in users]
        if plan.setup.staker:
            tasks.append(asyncio.create_task(Staker(world).run()))
        probe = asyncio.create_task(send_probe(world, plan.heal + 2))
        tasks += [asyncio.create_task(_attack(world, fault)) for fault in plan.faults]
        while world.loop.time() < plan.end and not watcher.failures:
            await asyncio.sleep(0.25)
            world.watcher_height = watcher.height
            for process in world.processes.values():
                if process.unexpected:
                    watcher.fail("P20", f"{process.name}: {process.unexpected[0]}")
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    watcher.fail("sim", f"a client broke: {task.exception()!r}")
        for task in tasks:
            task.cancel()
        if not watcher.failures:
            Ending(world, watcher, plan, users, probe.result() if probe.done() else None).check()
        result.failures, result.seen, result.story = watcher.failures, watcher.seen, world.story
        result.counts = world.counts + world.network.counts
        for process in world.processes.values():
            result.seen.update(f"disk failed: {mode}" for mode in process.disk.failed)
        result.trace, result.simulated = world.trace_hash(), world.loop.time()
        result.height = watcher.height
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        await world.close()


async def _attack(world: World, fault: Fault) -> None:
    """The faults that are somebody's doing."""
    kinds: dict[str, type[Colluder | Flooder]] = {"collude": Colluder, "flood": Flooder}
    kind = kinds.get(fault.kind)
    if kind is not None:
        await asyncio.sleep(fault.at)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.1, fault.until - fault.at)):
                await kind(world, fault).run()
