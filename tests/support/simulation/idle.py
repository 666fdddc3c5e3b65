"""How fast the simulation is: an idle network with a rollup, and what each shortcut saves.

Responsible for the figures in docs/SIMULATION.md: ``python -m simulation --idle 240``. Must not check anything.
"""

import asyncio
import time

from chainkit.chain import Chain
from simulation.loop import VirtualLoop
from simulation.run import quiet
from simulation.shared import SharedChain, patched
from simulation.world import Setup, World, make_settings

MODES = (
    ("as in most seeds", "shared", Setup(make_settings())),
    ("with a stand-in for signatures", "stand-in", Setup(make_settings())),
    ("with SQLite", "shared", Setup(make_settings(), sqlite=True)),
    ("and every node checks every signature", "real", Setup(make_settings(), sqlite=True)),
    ("and executes every block", "real", Setup(make_settings(), sqlite=True, shared=False)),
    (
        "and everything through HTTP routes and middleware",
        "real",
        Setup(make_settings(), sqlite=True, shared=False, full_http=True),
    ),
)


def measure(seconds: float) -> None:
    """Print simulated minutes a CPU second in each mode."""
    for title, signatures, setup in MODES:
        with quiet(), patched(signatures=signatures), asyncio.Runner(loop_factory=VirtualLoop) as runner:
            spent, height = runner.run(_idle(seconds, setup))
        print(
            f"{seconds / 60 / spent:6.2f} simulated minutes a CPU second, height {height}: {title}",
            flush=True,
        )


async def _idle(seconds: float, setup: Setup) -> tuple[float, int]:
    world = World(1, setup, SharedChain if setup.shared else Chain)
    try:
        world.start()
        await asyncio.sleep(2)
        began = time.process_time()
        await asyncio.sleep(seconds)
        node = world.node(0)
        assert node is not None
        final = node.head("finalized")
        return time.process_time() - began, 0 if final is None else final.header.height
    finally:
        await world.close()
