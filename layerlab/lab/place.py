"""Where an experiment takes place: a devnet of its own, made for it and gone after it.

Responsible for starting and ending it, whatever happens in between. Must not know the experiments.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from layerlab.config import DevnetConfig, DevnetError
from layerlab.devnet import Devnet
from layerlab.world import World


@asynccontextmanager
async def running_world(config: DevnetConfig, seed: int, say: Callable[[str], None]) -> AsyncIterator[World]:
    """A devnet of real services on free ports; nothing of it is left when the block ends. Raises `DevnetError`."""
    with tempfile.TemporaryDirectory(prefix="layerlab-lab-") as temporary:
        devnet = Devnet.create(Path(temporary) / "devnet", config.with_free_ports(), with_parent=True)
        try:
            await asyncio.to_thread(devnet.up, say)
            world = World(devnet, devnet.genesis(), seed, say)
            try:
                yield world
            finally:
                await world.close()
        finally:
            devnet.supervisor.end()
            with suppress(
                DevnetError
            ):  # comes to its turn when no thread is at work in the directory any more
                devnet.down()
