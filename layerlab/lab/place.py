"""Where an experiment takes place: a devnet of its own, made for it and gone after it.

Responsible for starting and ending it, whatever happens in between. Must not know the experiments.
"""

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from layerlab.config import DevnetConfig, DevnetError
from layerlab.devnet import Devnet
from layerlab.processes import Supervisor
from layerlab.world import World


class _Supervisor(Supervisor):
    """Once it was told to end it starts nothing more: a thread that is at it cannot be cancelled."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._ending = False
        self._starting = threading.Lock()

    def start(self, name: str) -> None:
        with self._starting:
            if self._ending:
                raise DevnetError(f"{name} is not started: the devnet is ending")
            super().start(name)

    def end(self) -> None:
        """Stop every service, for good."""
        with self._starting:
            self._ending = True
        self.stop_all()


class _Devnet(Devnet):
    supervisor: _Supervisor
    supervisor_type = _Supervisor


@asynccontextmanager
async def running_world(config: DevnetConfig, seed: int, say: Callable[[str], None]) -> AsyncIterator[World]:
    """A devnet of real services on free ports; nothing of it is left when the block ends. Raises `DevnetError`."""
    with tempfile.TemporaryDirectory(prefix="layerlab-lab-") as temporary:
        devnet = _Devnet.create(Path(temporary) / "devnet", config.with_free_ports(), with_parent=True)
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
