"""The bridge service over an L1 and a sequencer in memory: real blocks, votes, batches and HTTP, no sockets.

`World.seal` makes one L1 block of what waits in the pool, certifies it and feeds the verifying follower, as the
service's own loop would. The sequencer is a few honest lines (or not so honest ones: `Sequencer.lie`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fake_chain import MemoryBackend, certified
from fastapi import FastAPI, Request, Response

from bridge import abi
from bridge.backend import BridgeBackend
from bridge.service import create
from chainkit.api import chain_router
from chainkit.backend import BlockView, Head, HeadRef, SubmitResult, TransactionView
from chainkit.block import Validator
from chainkit.chain import Chain, ExecutedBlock, executed_transactions
from chainkit.client import ChainClient
from chainkit.codec import Address, Bytes32, Record, encode
from chainkit.contract import NoArgs
from chainkit.events import EventLog
from chainkit.execution import FeeParameters, Rules
from chainkit.follower import FollowerCore
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract
from chainkit.keys import DEV_ACCOUNTS, KeyPair, dev_keypair
from chainkit.problem_answers import install_problem_handlers
from chainkit.service import Service
from chainkit.state import Account, State
from chainkit.store import Store
from chainkit.transaction import Body, Call, SignedTransaction
from l1node.staking import StakingParams
from rollup.batch import BatchBlock
from rollup.block import BlockBuilder, L2Block
from rollup.contents import write_contents
from rollup.derivation import Derivation
from rollup.stf import Deposit, Forced, Transact

COIN = 10**9
TIME = 1_700_000_000_000
L1_URL, L1_SPARE, L2_URL = "http://l1", "http://l1-spare", "http://l2"

SETTINGS = abi.BridgeSettings(
    sequencer=dev_keypair("sequencer").address,
    proposer_bond=1_000_001,
    challenger_bond=500_001,
    challenge_window=12,
    dispute_clock=12,
    max_move_delay=2,
    inclusion_delay=6,
    sequencer_timeout=20,
    escape_timeout=40,
    exit_window=50,
    bisection=4,
    max_steps=64,
    max_inbox_per_batch=8,
)


def people(balance: int) -> list[GenesisAccount]:
    accounts = [GenesisAccount(dev_keypair(name).address, balance, name) for name in DEV_ACCOUNTS]
    return sorted(accounts, key=lambda account: account.address)


def l2_genesis(*, devnet: bool = True) -> Genesis:
    return Genesis(
        chain_id=901,
        name="test-l2",
        time=TIME,
        slot_ms=1000,
        era_slots=1_000_000,
        devnet=devnet,
        fees=FeeParameters(max_transaction_gas=250_000, max_transaction_bytes=8 * 1024),
        accounts=people(100 * COIN) if devnet else [],
        validators=[],
        contracts=[GenesisContract("messenger", "rollup.messenger:Messenger", encode(NoArgs()))],
        vault=dev_keypair("vault").address if devnet else KeyPair(b"\x05" * 32).address,
    )


def l1_genesis() -> Genesis:
    l2 = l2_genesis()
    validators = [Validator(dev_keypair(f"validator-{i}").address, 100 * COIN) for i in range(4)]
    return Genesis(
        chain_id=900,
        name="test-l1",
        time=TIME,
        slot_ms=1000,
        era_slots=1_000_000,
        devnet=True,
        fees=FeeParameters(),
        accounts=people(1000 * COIN),
        validators=sorted(validators, key=lambda validator: validator.address),
        contracts=[
            GenesisContract(
                "bridge", "bridge.contract:Bridge", encode(abi.BridgeParams(l2, SETTINGS)), l2.total_supply
            ),
            GenesisContract("staking", "l1node.staking:Staking", encode(StakingParams())),
        ],
    )


class Sequencer:
    """An L2 behind the chain API: orders what it is sent, posts batches by hand."""

    def __init__(self, path: Path, l2: Genesis, key: KeyPair) -> None:
        self.derivation = Derivation(l2)
        self.chain = self.derivation.chain
        self.key = key
        self.store = Store(path, genesis_hash=self.chain.genesis_hash, role="test-l2")
        self.log = EventLog(self.store)
        self.blocks: list[L2Block] = [self.derivation.batches[0].end]
        self.cursor = 0
        self.pool: list[SignedTransaction] = []

    # --- what a test tells it ---

    def on_l1(self, block: ExecutedBlock) -> None:
        self.derivation.apply_l1_block(block.header, executed_transactions(block), block.tree)

    def produce(self, time: int, *, only_inbox: bool = False) -> L2Block:
        """One L2 block of the whole inbox and the whole pool."""
        builder = BlockBuilder(self.chain.rules, self.blocks[-1], time)
        messages = self.derivation.inbox[self.cursor :]
        builder.add([message.step for message in messages])
        self.cursor += len(messages)
        if not only_inbox:
            builder.add_transactions(self.pool, len(self.pool))
            self.pool.clear()
        self.blocks.append(builder.seal())
        return self.blocks[-1]

    def batch(self, *, root: bytes | None = None) -> abi.SubmitBatchArgs:
        """Everything since the head batch."""
        head = self.derivation.head_batch
        blocks = self.blocks[head.end.header.height + 1 :]
        data, inbox_to = [], head.record.inbox_to
        for block in blocks:
            taken = sum(isinstance(step, (Deposit, Forced)) for step in block.steps)
            wires = [step.transaction for step in block.steps if isinstance(step, Transact)]
            data.append(BatchBlock(block.header.time, taken, wires))
            inbox_to += taken
        return abi.SubmitBatchArgs(
            head.index,
            inbox_to,
            write_contents(data, self.chain.rules.chain_id, self.derivation.directory),
            root or blocks[-1].tree.root,
        )

    def rewind(self, height: int, cursor: int) -> list[SignedTransaction]:
        """Forget the blocks above a height; returns their transactions."""
        lost = [tx for block in self.blocks[height + 1 :] for tx in block.transactions if tx is not None]
        del self.blocks[height + 1 :]
        self.cursor = cursor
        return lost

    # --- ChainBackend ---

    @property
    def genesis(self) -> Genesis:
        return self.chain.genesis

    @property
    def genesis_hash(self) -> Bytes32:
        return self.chain.genesis_hash

    @property
    def rules(self) -> Rules:
        return self.chain.rules

    @property
    def event_log(self) -> EventLog:
        return self.log

    def status(self) -> Mapping[str, Any]:
        return {"role": "sequencer", "inbox": {"length": len(self.derivation.inbox), "taken_in": self.cursor}}

    def metrics(self) -> Mapping[str, float]:
        return {}

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        return True, {}

    def head(self, ref: HeadRef) -> Head | None:
        block = self.blocks[-1]
        return Head(block.header, block.hash, block.tree)

    def block(self, ref: int | Bytes32) -> BlockView | None:
        return None

    def transaction(self, tx_id: Bytes32) -> TransactionView | None:
        for block in self.blocks[::-1]:
            for position, (tx, receipt) in enumerate(zip(block.transactions, block.receipts, strict=True)):
                if tx is not None and tx.id == tx_id:
                    height = block.header.height
                    return TransactionView(tx, "unsafe", height, block.hash, position, receipt)
        return next((TransactionView(tx, "pending") for tx in self.pool if tx.id == tx_id), None)

    def included_at(self, tx_id: Bytes32) -> int | None:
        found = self.transaction(tx_id)
        return None if found is None or found.receipt is None else found.height

    def pending_nonce(self, address: Address) -> int:
        waiting = sum(tx.body.sender == address for tx in self.pool)
        return State(self.blocks[-1].tree).account(address).nonce + waiting

    async def submit(self, transactions: Sequence[SignedTransaction]) -> Sequence[SubmitResult]:
        self.pool += transactions
        return [SubmitResult(tx.id, True) for tx in transactions]


class World:
    """L1, sequencer and bridge service. ``down``: the URLs that nobody answers at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        genesis = l1_genesis()
        self.l1 = MemoryBackend(path / "l1", genesis)
        self.chain: Chain = self.l1.chain
        params = self.chain.rules.contracts["bridge"].params
        assert isinstance(params, abi.BridgeParams)
        self.sequencer = Sequencer(path / "l2", params.l2_genesis, dev_keypair("sequencer"))
        self.core = FollowerCore(self.chain, self.chain.genesis_block)
        self.down: set[str] = set()
        self.check_books = True
        self.service: Service
        self.bridge: BridgeBackend
        self.http: httpx.AsyncClient
        self.apps: dict[str, FastAPI] = {
            L1_URL: self.l1_app(),
            L1_SPARE: self.l1_app(),
            L2_URL: self.l2_app(),
        }

    def l1_app(self) -> FastAPI:
        app = self.l1.app()

        @app.get("/certified-blocks")
        async def blocks(request: Request) -> Response:
            start, limit = (int(request.query_params[name]) for name in ("from", "limit"))
            found = [certified(block) for block in self.l1.blocks[start : start + limit]] if start else []
            if not found:
                await asyncio.sleep(0.01)
            return Response(encode(found))

        return app

    def l2_app(self) -> FastAPI:
        app = FastAPI()
        install_problem_handlers(app)
        app.include_router(chain_router(self.sequencer))
        return app

    # --- the service ---

    async def start(self) -> None:
        world = self

        class Client(ChainClient):
            def __init__(self, url: str, **options: Any) -> None:
                super().__init__(url, transport=Transport(world, url), **options)

        self.service, self.bridge = await create(
            self.chain, [L1_URL, L1_SPARE], L2_URL, self.path / "bridge", client=Client
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.service.app, raise_app_exceptions=False),
            base_url="http://bridge",
        )

    async def stop(self) -> None:
        await self.http.aclose()
        assert self.service.close is not None
        await self.service.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def get(self, path: str, status: int = 200, **params: Any) -> Any:
        answer = await self.http.get(path, params=params)
        assert answer.status_code == status, (path, answer.status_code, answer.text[:400])
        return answer.json()

    async def post(self, path: str, body: Any, status: int = 202) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.http.post(path, content=content)
        assert answer.status_code == status, (path, answer.status_code, answer.text[:400])
        return answer.json()

    # --- L1 ---

    @property
    def height(self) -> int:
        return self.bridge.state.height

    def seal(self, count: int = 1) -> None:
        """L1 blocks; the first has all that waits. What becomes final reaches bridge and sequencer."""
        for _ in range(count):
            block = self.l1.seal()
            for final, certificate in self.core.add([certified(block)]):
                self.l1.final = final.header.height
                self.bridge.on_l1_final(final, certificate)
                self.sequencer.on_l1(final)
                assert self.bridge.invariant_held or not self.check_books, self.bridge.state.invariant()

    def seal_final(self) -> None:
        """Seal until what waited in the pool is final."""
        target = self.l1.blocks[-1].header.height + 1
        while self.bridge.state.height < target:
            self.seal()

    def seal_to(self, height: int) -> None:
        """Seal until the bridge's final L1 block has that height."""
        while self.height < height:
            self.seal()

    def call(
        self, who: str | KeyPair, method: str, args: Record | None = None, value: int = 0
    ) -> SignedTransaction:
        """A signed call of the bridge contract, not sent."""
        key = dev_keypair(who) if isinstance(who, str) else who
        action = Call("bridge", method, encode(args or NoArgs()), value)
        body = Body(900, key.address, self.l1.pending_nonce(key.address), 20_000_000, 20, 1, action)
        return SignedTransaction.sign(body, key)

    def send(
        self, who: str | KeyPair, method: str, args: Record | None = None, value: int = 0
    ) -> SignedTransaction:
        tx = self.call(who, method, args, value)
        self.l1.pool.append(tx)
        return tx

    # --- L2 ---

    def l2_block(self, **options: Any) -> L2Block:
        return self.sequencer.produce(self.l1.blocks[-1].header.time, **options)

    def post_batch(self, root: bytes | None = None) -> int:
        """Post everything not posted yet and see it final; returns the batch's index."""
        self.send("sequencer", "submit_batch", self.sequencer.batch(root=root), SETTINGS.proposer_bond)
        self.seal_final()
        index = self.bridge.state.derivation.head
        assert self.bridge.state.derivation.batches[index].l1_height == self.height, "the batch was refused"
        return index

    def finalize(self, index: int) -> None:
        record = self.bridge.state.batch_record(index)
        assert record is not None
        self.seal_to(record.challenge_until)
        self.send("alice", "finalize", abi.BatchArgs(index))
        self.seal_final()
        assert self.bridge.state.derivation.batches[index].status == abi.FINALIZED


class Transport(httpx.AsyncBaseTransport):
    """One node's HTTP, unless it is down."""

    def __init__(self, world: World, url: str) -> None:
        self.world = world
        self.url = url

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.url in self.world.down:
            raise httpx.ConnectError("nobody is there")
        await asyncio.sleep(0)  # as a network would, let others go on meanwhile
        return await httpx.ASGITransport(self.world.apps[self.url]).handle_async_request(request)


@asynccontextmanager
async def bridge_world(path: Path) -> AsyncIterator[World]:
    """A started world with three L1 blocks, the first of them final."""
    world = World(path)
    await world.start()
    world.seal(3)
    try:
        yield world
    finally:
        await world.stop()
        world.l1.store.close()
        world.sequencer.store.close()


def balance_of(world: World, who: str) -> int:
    """L1 balance in gwei at the final head."""
    account: Account = State(world.bridge.state.tip.tree).account(dev_keypair(who).address)
    return account.balance


Story = Callable[[World], Awaitable[None]]


def run_story(path: Path, story: Story) -> None:
    """Run a story in a world of its own."""

    async def main() -> None:
        async with bridge_world(path) as world:
            await story(world)

    asyncio.run(main())


async def lying_batch(world: World, transfers: int = 6) -> int:
    """A batch of some steps with a false root."""
    for nonce in range(transfers):
        body = {"from": "alice", "action": {"type": "transfer", "to": "bob", "amount": 5 + nonce}}
        await world.bridge.l2_nodes.submit_dev(dev_keypair("alice").address, body)
    world.l2_block()
    return world.post_batch(root=b"\x66" * 32)
