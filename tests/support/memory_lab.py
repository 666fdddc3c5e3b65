"""A chain in memory behind the real client and the real API, without a network: for what the laboratory measures.

Its blocks are made when a test says so, or one after the other (`sealing`); the time is what a test says it is.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fake_chain import MemoryBackend
from lab_world import smallest

from chainkit.client import ChainClient
from chainkit.genesis import Genesis
from layerlab.genesis import make_l1_genesis


class Cable(httpx.AsyncBaseTransport):
    """To the chain's own app; pulled out while ``cut``, answers 503 while ``busy``."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._inner = httpx.ASGITransport(backend.app())
        self.cut = self.busy = False
        self.failures = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.cut:
            self.failures += 1
            raise httpx.ConnectError("the cable is out")
        if self.busy:
            self.failures += 1
            problem = {"code": "overloaded", "detail": "try again", "status": 503}
            return httpx.Response(503, json=problem, headers={"content-type": "application/problem+json"})
        return await self._inner.handle_async_request(request)


class MemoryLab:
    """The chain, a client of it, and a clock that stands unless a test moves it."""

    def __init__(self, path: Path, genesis: Genesis | None = None) -> None:
        self.backend = MemoryBackend(path, genesis)
        self.cable = Cable(self.backend)
        self.client = ChainClient("http://chain", retries=0, transport=self.cable)
        self.instant = 0.0

    def now(self) -> float:
        return self.instant

    async def close(self) -> None:
        await self.client.aclose()
        self.backend.store.close()

    @asynccontextmanager
    async def sealing(self) -> AsyncIterator[None]:
        """Here what waits comes into a final block in a moment."""

        async def seal() -> None:
            while True:
                if self.backend.pool:
                    self.instant += 1.0
                    self.backend.seal(final=True)
                await asyncio.sleep(0.005)

        task = asyncio.create_task(seal())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not task.cancelled():
                task.result()


def apps_genesis() -> Genesis:
    """The sovereign model's: the applications on a chain with one validator."""
    return make_l1_genesis(smallest(), 1_700_000_000_000)
