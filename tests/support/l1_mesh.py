"""L1 nodes in one process: real apps, real disks, one fake clock, and a transport that can cut any wire."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
from fastapi import FastAPI

from chainkit.chain import Chain
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair, dev_keypair
from l1node.checkpoint import Checkpoint
from l1node.node import L1Node
from l1node.service import create


class FakeClock:
    """Stands still until it is set."""

    def __init__(self, genesis: Genesis) -> None:
        self._genesis = genesis
        self.ms = genesis.time

    def now(self) -> float:
        return self.ms / 1000

    def sleep_seconds(self, virtual_instant: float) -> float:
        return 0.0 if virtual_instant <= self.now() else float("inf")

    def to_slot(self, slot: int) -> None:
        """A little after the slot's beginning."""
        self.ms = self._genesis.time + slot * self._genesis.slot_ms + 10


class MeshTransport(httpx.AsyncBaseTransport):
    """Hands requests to the apps of the mesh; ``down`` hosts cannot be reached. One for each client."""

    def __init__(self, mesh: "Mesh", source: str) -> None:
        self._mesh = mesh
        self._source = source

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if host not in self._mesh.apps or {host, self._source} & self._mesh.down:
            raise httpx.ConnectError("down", request=request)
        self._mesh.in_flight += 1
        try:
            # A crashed app answers with status 500, as a server would.
            app = httpx.ASGITransport(self._mesh.apps[host], raise_app_exceptions=False)
            return await app.handle_async_request(request)
        finally:
            self._mesh.in_flight -= 1

    async def aclose(self) -> None:
        """Nothing is open."""


class Mesh:
    """Nodes ``v0``, ``v1``, ... under one clock. Use inside ``async with mesh.running(...)``."""

    def __init__(self, genesis: Genesis, path: Path) -> None:
        self.genesis = genesis
        self.path = path
        self.clock = FakeClock(genesis)
        self.apps: dict[str, FastAPI] = {}
        self.nodes: dict[str, L1Node] = {}
        self.down: set[str] = set()
        self.in_flight = 0
        self.slot = 0
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}

    async def start(
        self,
        name: str,
        *,
        key: KeyPair | None = None,
        peers: Iterable[str] | None = None,
        fault_token: str | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> L1Node:
        """Start a node on its own data directory: ``v<n>`` is ``validator-<n>``, ``w`` has no key."""
        count = len(self.genesis.validators)
        names = [f"v{i}" for i in range(count) if f"v{i}" != name] if peers is None else peers
        service, node = await create(
            Chain(self.genesis),
            key or (dev_keypair(f"validator-{name[1:]}") if name != "w" else None),
            self.path / name,
            self.clock,
            [f"http://{peer}" for peer in names],
            fault_token=fault_token,
            checkpoint=checkpoint,
            transport=MeshTransport(self, name),
        )
        self.apps[name], self.nodes[name] = service.app, node
        self._tasks[name] = [
            asyncio.create_task(node.gossip.run()),
            asyncio.create_task(node.sync.run()),
        ]
        return node

    async def kill(self, name: str) -> L1Node:
        """Stop a node as a crash would: nothing more is written."""
        for task in self._tasks.pop(name):
            task.cancel()
            with suppress(asyncio.CancelledError, BaseExceptionGroup):
                await task
        node = self.nodes.pop(name)
        del self.apps[name]
        node.disk.store.close()
        return node

    @asynccontextmanager
    async def running(self, *names: str) -> AsyncIterator["Mesh"]:
        """Start nodes (all validators of genesis by default); kill all at the end."""
        try:
            for name in names or [f"v{i}" for i in range(len(self.genesis.validators))]:
                await self.start(name)
            yield self
        finally:
            for name in list(self.nodes):
                await self.kill(name)

    async def settle(self) -> None:
        """Let every message that can arrive arrive."""
        quiet = 0
        while quiet < 5:
            await asyncio.sleep(0)
            quiet = 0 if self._busy() else quiet + 1

    def _busy(self) -> bool:
        boxes = (
            peer
            for name, node in self.nodes.items()
            for peer in node.gossip.peers
            if name not in self.down and httpx.URL(peer.url).host in self.apps.keys() - self.down
        )
        # A peer that was down is tried again after a pause of real time: that is not waited for.
        return self.in_flight > 0 or any((p.consensus or p.transactions) and not p.failures for p in boxes)

    async def slots(self, count: int = 1) -> None:
        """Pass slots; in each every node ticks and all that is said arrives."""
        for _ in range(count):
            self.slot += 1
            self.clock.to_slot(self.slot)
            for name in sorted(self.nodes):
                self.nodes[name].tick()
            await self.settle()

    def client(self, name: str) -> httpx.AsyncClient:
        """A client of a node's API."""
        return httpx.AsyncClient(transport=MeshTransport(self, "test"), base_url=f"http://{name}")
