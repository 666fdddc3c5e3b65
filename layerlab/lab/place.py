"""Where an experiment takes place: a devnet of its own, made for it and gone after it.

Responsible for starting and ending it, whatever happens in between. Must not know the experiments.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from layerlab.config import DevnetConfig
from layerlab.devnet import Devnet
from layerlab.world import World


@asynccontextmanager
async def running_world(config: DevnetConfig, seed: int, say: Callable[[str], None]) -> AsyncIterator[World]:
    """A devnet of real services on free ports; nothing of it is left when the block ends. Raises `DevnetError`."""
    with tempfile.TemporaryDirectory(prefix="layerlab-lab-") as temporary:
        devnet = Devnet.create(Path(temporary) / "devnet", config.with_free_ports(), with_parent=True)
        world: World | None = None
        try:
            await asyncio.to_thread(devnet.up, say)
            world = World(devnet, devnet.genesis(), seed, say)
            yield world
        finally:
            if world is not None:
                await world.close()
            devnet.supervisor.stop_all()
