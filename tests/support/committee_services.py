"""Operators and the bridge service of a committee bridge over two chains in memory: real services, blocks, votes and
HTTP, real loops, no sockets.

`World.step` makes a block on each chain and returns when every service has taken in what is final and has sent what
it wants to send. ``down`` holds the URLs that nobody answers at.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from committee_world import COIN, OPERATORS, address, key, l1_genesis, make_params, side_genesis
from fake_chain import MemoryBackend, certified
from fastapi import FastAPI, Request, Response

from bridge import committee_service, operator_service
from bridge.committee_abi import CommitteeParams
from bridge.committee_backend import CommitteeBackend
from bridge.operator_service import OperatorService
from bridge.pair import Pair
from chainkit.chain import Chain
from chainkit.client import ChainClient
from chainkit.codec import Record, encode
from chainkit.follower import FollowerCore
from chainkit.service import Service
from chainkit.state import State
from chainkit.transaction import Body, Call, SignedTransaction

TOKEN = "a token of the tests"
L1_URLS, SIDE_URLS = ("http://l1", "http://l1-spare"), ("http://side", "http://side-spare")
BRIDGE = "bridge-service"
THREE = OPERATORS[:3]
LONG_POLL_SECONDS = 1.0


class Node:
    """A chain behind two URLs; both serve the same."""

    def __init__(self, path: Path, chain: Chain, contract: str) -> None:
        self.backend = MemoryBackend(path, chain.genesis)
        self.core = FollowerCore(self.backend.chain, self.backend.chain.genesis_block)
        self.contract = contract
        self.stuck = False
        """Whether blocks leave out what waits in the pool."""
        self.sealed = asyncio.Event()
        self.app = self._app()

    def _app(self) -> FastAPI:
        app = self.backend.app()

        @app.get("/certified-blocks")
        async def blocks(request: Request) -> Response:
            start, limit = (int(request.query_params[name]) for name in ("from", "limit"))
            found = self.backend.blocks[start : start + limit]
            if not found:  # as a node does: an answer at once, or when there is one
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.sealed.wait(), LONG_POLL_SECONDS)
                found = self.backend.blocks[start : start + limit]
            return Response(encode([certified(block) for block in found]))

        return app

    @property
    def final(self) -> int:
        return self.backend.final

    def seal(self) -> None:
        pool = self.backend.pool
        if self.stuck:
            self.backend.pool = []
        block = self.backend.seal()
        self.backend.pool = pool
        self.sealed.set()
        self.sealed = asyncio.Event()
        for final, _ in self.core.add([certified(block)]):
            self.backend.final = final.header.height

    def balance(self, who: str) -> int:
        """At the final head, in gwei."""
        return State(self.backend.blocks[self.final].tree).account(address(who)).balance

    def call(self, who: str, method: str, args: Record, value: int = 0) -> SignedTransaction:
        nonce = self.backend.pending_nonce(address(who))
        action = Call(self.contract, method, encode(args), value)
        chain_id = self.backend.genesis.chain_id
        return SignedTransaction.sign(Body(chain_id, address(who), nonce, 400_000, 50, 1, action), key(who))

    def send(self, who: str, method: str, args: Record, value: int = 0) -> SignedTransaction:
        tx = self.call(who, method, args, value)
        self.backend.pool.append(tx)
        return tx

    def codes(self, method: str) -> list[tuple[str, str]]:
        """Sender and receipt code of every call of a method, in order."""
        names = {address(name): name for name in (*OPERATORS, "alice", "bob", "carol", "mallory")}
        return [
            (names[tx.body.sender], receipt.code)
            for block in self.backend.blocks
            for tx, receipt in zip(block.transactions, block.receipts, strict=True)
            if isinstance(tx.body.action, Call) and tx.body.action.method == method
        ]


class Running:
    """A service with its loops and its own HTTP face."""

    def __init__(self, service: Service, pair: Pair, operator: OperatorService | None) -> None:
        self.service, self.pair, self.operator = service, pair, operator
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(service.app, raise_app_exceptions=False), base_url="http://service"
        )
        self.tasks = [asyncio.create_task(task()) for _, task in service.tasks]

    @property
    def idle(self) -> bool:
        operator = self.operator
        return operator is None or not (
            operator.wake.is_set() or operator.l1.outbox._tasks or operator.side.outbox._tasks
        )

    async def crash(self) -> None:
        """As `stop`, of one whose loops may have ended by an error."""
        await asyncio.gather(*(task for task in self.tasks if task.done()), return_exceptions=True)
        self.tasks = [task for task in self.tasks if not task.done()]
        await self.stop()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.http.aclose()
        assert self.service.close is not None
        await self.service.close()


class World:
    """Both chains, and services by name: operators by theirs, the bridge service as `BRIDGE`."""

    def __init__(self, path: Path, params: CommitteeParams | None = None) -> None:
        self.path = path
        self.params = params or make_params(2, THREE)
        self.chains = Chain(l1_genesis(self.params)), Chain(side_genesis(self.params))
        self.l1 = Node(path / "l1-node", self.chains[0], "bridge")
        self.side = Node(path / "side-node", self.chains[1], "gateway")
        self.down: set[str] = set()
        self.liars: dict[str, FastAPI] = {}
        """Apps that answer at a URL in the node's place."""
        self.services: dict[str, Running] = {}
        self.backends: list[CommitteeBackend] = []

    # --- services ---

    async def start(self, *names: str) -> None:
        world = self

        class Client(ChainClient):
            def __init__(self, url: str, **options: Any) -> None:
                super().__init__(url, transport=Transport(world, url), **{"retries": 0, **options})

        for name in names:
            urls, data = (L1_URLS, SIDE_URLS), self.path / name
            if name == BRIDGE:
                service, backend = committee_service.create(*self.chains, urls, data, client=Client)
                self.backends.append(backend)
                self.services[name] = Running(service, backend.pair, None)
            else:
                service, operator = operator_service.create(
                    *self.chains, urls, data, key(name), fault_token=TOKEN, client=Client
                )
                self.services[name] = Running(service, operator.pair, operator)

    async def stop(self, *names: str) -> None:
        for name in names:
            await self.services.pop(name).stop()

    def operator(self, name: str) -> OperatorService:
        found = self.services[name].operator
        assert found is not None
        return found

    @property
    def bridge(self) -> CommitteeBackend:
        return self.backends[-1]

    # --- HTTP ---

    async def get(self, path: str, status: int = 200, at: str = BRIDGE, **params: Any) -> Any:
        answer = await self.services[at].http.get(path, params=params)
        assert answer.status_code == status, (path, answer.status_code, answer.text[:400])
        return answer.json()

    async def post(self, path: str, body: Any, status: int = 202, at: str = BRIDGE) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.services[at].http.post(path, content=content)
        assert answer.status_code == status, (path, answer.status_code, answer.text[:400])
        return answer.json()

    async def fault(self, name: str, body: Any, status: int = 201) -> Any:
        headers = {"authorization": f"Bearer {TOKEN}"}
        answer = await self.services[name].http.post("/faults", json=body, headers=headers)
        assert answer.status_code == status, answer.text[:400]
        return answer.json()

    # --- time ---

    async def step(self, count: int = 1) -> None:
        """A block on each chain, then everybody reacts."""
        for _ in range(count):
            self.l1.seal()
            self.side.seal()
            await self.settle()

    async def steps_until(self, done: Callable[[], bool], limit: int = 40) -> int:
        """Step until it is so; returns how often."""
        for count in range(limit):
            if done():
                return count
            await self.step()
        raise AssertionError(f"not so after {limit} blocks")

    async def settle(self) -> None:
        quiet = 0
        for _ in range(20_000):
            await asyncio.sleep(0.001)
            quiet = quiet + 1 if all(map(self._is_quiet, self.services.values())) else 0
            if quiet == 8:
                return
        raise AssertionError("a service does not come to rest")

    def _is_quiet(self, running: Running) -> bool:
        for task in running.tasks:
            if task.done():
                task.result()
                raise AssertionError("a loop ended")
        seen = all(
            followed.height == node.final or self.down.issuperset(urls)
            for followed, node, urls in (
                (running.pair.l1, self.l1, L1_URLS),
                (running.pair.side, self.side, SIDE_URLS),
            )
        )
        return seen and running.idle

    # --- books ---

    def check(self) -> None:
        """The books hold, as the bridge service and as operators see it."""
        for name, running in self.services.items():
            books = running.pair.state.invariant()
            assert books.holds, (name, books, running.pair.state.lies())


class Transport(httpx.AsyncBaseTransport):
    """One node's HTTP, unless it is down."""

    def __init__(self, world: World, url: str) -> None:
        self.world, self.url = world, url

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if self.url in self.world.liars:
            return await httpx.ASGITransport(self.world.liars[self.url]).handle_async_request(request)
        if self.url in self.world.down:
            raise httpx.ConnectError("nobody is there")
        node = self.world.l1 if self.url in L1_URLS else self.world.side
        return await httpx.ASGITransport(node.app).handle_async_request(request)


@asynccontextmanager
async def committee_services(
    path: Path, names: tuple[str, ...], params: CommitteeParams | None = None
) -> AsyncIterator[World]:
    """A world with some blocks on each chain, and these services."""
    world = World(path, params)
    await world.start(*names)
    try:
        await world.step(4)
        yield world
    finally:
        await world.stop(*list(world.services))
        world.l1.backend.store.close()
        world.side.backend.store.close()


Story = Callable[[World], Awaitable[None]]


def run_story(
    path: Path,
    story: Story,
    names: tuple[str, ...] = (BRIDGE, *THREE),
    params: CommitteeParams | None = None,
) -> None:
    """Run a story in a world of its own."""

    async def main() -> None:
        async with committee_services(path, names, params) as world:
            await story(world)

    asyncio.run(main())


async def fund(world: World, who: str = "bob", coins: int = 50) -> None:
    """Have coins on the side chain, over the bridge."""
    await world.post("/deposits", {"from": "alice", "to": who, "amount": coins * COIN})
    await world.steps_until(lambda: world.side.balance(who) >= coins * COIN)
