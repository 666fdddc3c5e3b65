"""Sequencer and verifier as processes: options in, a running service out.

Responsible for putting the parts together, for the loops that drive them, and for refusing with one line
what cannot work. Must not know what any part decides.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.middleware import Middleware
from starlette.responses import Response

from bridge.abi import BridgeParams
from chainkit.api import chain_router
from chainkit.block import Certificate
from chainkit.chain import Chain, ExecutedBlock, executed_transactions
from chainkit.client import ChainClient
from chainkit.clock import Clock
from chainkit.events import EventLog
from chainkit.fault_api import fault_router
from chainkit.follower import Follower, FollowerCore
from chainkit.intake import BulkRoute, Intake
from chainkit.keys import KeyPair
from chainkit.known import open_chain
from chainkit.openapi import BOOLEAN, HEX32, INTEGER, TEXT, answers, listed, problems, shape
from chainkit.ops_api import JsonResponse, PathInt, QueryInt
from chainkit.options import (
    ServiceParser,
    add_fault_options,
    data_directory,
    make_clock,
    named,
    parse_urls,
    read_fault_token,
    read_genesis,
    read_integer,
    read_key,
    run_options,
    service_parser,
)
from chainkit.problems import not_found
from chainkit.replica import Replica
from chainkit.sender import TransactionSender
from chainkit.service import Service, make_app, run
from chainkit.signature_pool import AHEAD, SignaturePool, default_workers
from chainkit.singles import Singles
from chainkit.startup import EXIT_STARTUP, StartupError
from chainkit.states import without_collection
from chainkit.store import Store
from chainkit.transaction import Call, SignedTransaction
from rollup.ahead import AHEAD_OF_BATCHES, SignaturesAhead
from rollup.backend import RollupBackend, batch_json
from rollup.block import L2Block
from rollup.derivation import Derivation
from rollup.duties import Duty, duties
from rollup.fault_switch import FaultSwitch
from rollup.faults import FaultSet
from rollup.final_state import FinalState
from rollup.node import Role, RollupNode
from rollup.outbox import Outbox
from rollup.pace import BLOCK_MS, pause

PORTS: Mapping[Role, int] = {"sequencer": 9545, "verifier": 9546}
BRIDGE = "bridge"
HEARTBEAT_SHARE = 4
"""A batch is posted at least every escape_timeout / 4 blocks: from longer silence users may flee."""
SIGNATURE_THREADS = 2
MAX_WORKERS = 64
MAX_PAGE = 100
"""Batches in one answer."""


class RollupService:
    """A node and the loops around it."""

    def __init__(
        self,
        node: RollupNode,
        l1: Chain,
        l1_clients: Sequence[ChainClient],
        clock: Clock,
        block_ms: int,
        pool: SignaturePool | None = None,
    ) -> None:
        self.node = node
        self.l1 = l1
        self.clock = clock
        self.block_ms = block_ms
        self._clients = list(l1_clients)
        self._wake = asyncio.Event()
        core = FollowerCore(l1, node.replica.tip)
        self.follower = Follower(self._clients, core, self._on_final, self._on_coming)
        self._sender = TransactionSender(self._clients, node.key, l1.rules.chain_id)
        self.outbox = Outbox(self._send, node.key.address, self._refused, self._sender.next_node)
        self.backend = RollupBackend(node, lambda: self.follower.heard_final, self._wake.set)
        self.pool = pool or SignaturePool()
        self._ahead = SignaturesAhead(self.pool, self._read)
        self._raising: asyncio.Task[None] | None = None
        included = self.backend.included if node.role == "sequencer" else None
        self.intake = Intake(self.backend, self.pool, included, node.accounts)

    def now_ms(self) -> int:
        return int(self.clock.now() * 1000)

    async def _send(self, call: Call, gas_limit: int) -> object:
        return await self._sender.send(call, min(gas_limit, self.l1.rules.fees.max_transaction_gas))

    def _refused(self, duty: Duty, code: str, message: str) -> None:
        data = {"what": duty.move.why, "code": code, "message": message}
        self.node.events.append("L1CallReverted", data, height=self.node.l1_height, source=self.node.role)

    def _read(self, executed: ExecutedBlock) -> list[SignedTransaction]:
        return self.node.derivation.prepare(executed.header.height, executed_transactions(executed))

    def _on_coming(self, final: Sequence[ExecutedBlock]) -> None:
        if self.node.role == "verifier":  # a sequencer has made, and so checked, what it derives
            self._ahead.come(final)

    async def _on_final(self, executed: ExecutedBlock, certificate: Certificate) -> None:
        if self.node.role == "verifier":
            await self._ahead.next()
        self.node.on_l1_final(executed, certificate)
        self.outbox.on_l1_final(executed)
        if self._sender.on_l1_final(executed) and (self._raising is None or self._raising.done()):
            self._raising = asyncio.create_task(self._sender.raise_fees(), name="raise-fees")
        self._wake.set()
        self._dispatch()

    def _dispatch(self) -> None:
        """Send what is due. L1's next block begins at a later slot than now: batch only what is older."""
        node = self.node
        if self.follower.heard_final is None or node.l1_height + 2 < self.follower.heard_final:
            return  # still catching up: what looks due may be done already
        before = self.l1.slot_time(self.l1.slot_at(self.now_ms()))
        self.outbox.dispatch(duties(node, before, self.outbox.under_way), node.l1_height)

    async def produce(self) -> None:
        """Make L2 blocks, at most one every ``block_ms`` of the chain's time (see `rollup.pace`)."""
        while True:
            alarm = asyncio.get_running_loop().call_later(1.0, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                alarm.cancel()
            self._wake.clear()
            block = self.node.produce(self.now_ms(), heartbeat=self._heartbeat_due(), flush=False)
            if block is not None:
                await asyncio.gather(
                    self._give_receipts(block),
                    pause(self.clock, self.block_ms, len(block.steps), self.node.has_whole_block),
                )
                self._wake.set()

    async def _give_receipts(self, block: L2Block) -> None:
        """Once the disk has the block. Meanwhile transactions are taken in, which a wait in place would hold up."""
        await asyncio.to_thread(self.node.store.flush)
        self.node.local.flushed()
        self.backend.on_block(block)

    def _heartbeat_due(self) -> bool:
        node, totals = self.node, self.node.derivation.totals
        settings = node.derivation.settings
        if totals is None or settings is None or not node.derivation.head_batch.matches:
            return False
        if node.local.head.header.height > node.derivation.head_batch.end.header.height:
            return False
        return node.l1_height >= totals.last_batch_height + settings.escape_timeout // HEARTBEAT_SHARE

    async def close(self) -> None:
        self._ahead.close()
        if self._raising is not None:
            self._raising.cancel()
        await self.pool.close()
        await self.outbox.close()
        for client in self._clients:
            await client.aclose()
        try:
            self.node.save_pool()
        finally:
            self.node.store.close()
            self.node.replica.store.close()


_BATCH = shape(
    index=INTEGER,
    status=TEXT,
    state_root=HEX32,
    computed_root=HEX32,
    matches=BOOLEAN,
    l1_height=INTEGER,
    l1_transaction=HEX32,
    disputes=listed(INTEGER),
)


def batch_router(node: RollupNode) -> APIRouter:
    """``GET /batches`` and ``GET /batches/{n}``: as this node derived them."""
    router = APIRouter(tags=["rollup"])

    @router.get(
        "/batches",
        summary="Batches, oldest first; without `from` the last ones",
        responses=answers(shape(batches=listed(_BATCH), head=INTEGER, last=INTEGER)),
    )
    async def batches(
        from_: Annotated[QueryInt | None, Query(alias="from", description="the first index")] = None,
        limit: Annotated[QueryInt, Query(ge=1, le=MAX_PAGE, description="how many at most")] = 20,
    ) -> Response:
        last = max(node.derivation.batches)
        start = max(0, last - limit + 1) if from_ is None else from_
        shown = [batch_json(node, index) for index in range(start, min(start + limit, last + 1))]
        return JsonResponse({"batches": shown, "head": node.derivation.head, "last": last})

    @router.get(
        "/batches/{n}",
        summary="A batch: L1's record beside the root that this node computed",
        responses=answers(_BATCH) | problems(404),
    )
    async def batch(n: PathInt) -> Response:
        shown = batch_json(node, n)
        if shown is None:
            raise not_found("batch", str(n), known=[f"0 to {max(node.derivation.batches)}"])
        return JsonResponse(shown)

    return router


def bridge_params(l1: Chain) -> BridgeParams:
    """The bridge's parameters in L1's genesis. Raises `StartupError` if there is no bridge."""
    contract = l1.rules.contracts.get(BRIDGE)
    if contract is None or not isinstance(contract.params, BridgeParams):
        raise StartupError(
            f"the L1 genesis has no bridge contract; give that of an L1 that has one with {named('--l1-genesis')}"
        )
    return contract.params


async def create(
    role: Role,
    l1: Chain,
    l1_urls: Sequence[str],
    data: Path,
    clock: Clock,
    key: KeyPair,
    *,
    block_ms: int,
    fault_token: str | None,
    workers: int = 0,
    client: type[ChainClient] = ChainClient,
    store: type[Store] = Store,
    **client_options: Any,
) -> tuple[Service, RollupService]:
    """A node with its loops, ready to serve. Raises what cannot start.

    ``workers`` processes check the signatures of what is submitted, or stands in batches; 0: this one does.
    ``client`` asks L1 and ``store`` keeps what must last: a simulation brings its own.
    """
    params = bridge_params(l1)
    executor = ThreadPoolExecutor(SIGNATURE_THREADS, thread_name_prefix="verify")
    l2 = open_chain(params.l2_genesis, data / "l2")
    l1_store = store(data / "l1", genesis_hash=l1.genesis_hash, role="l1-replica")
    try:
        l2_store = store(data / "l2", genesis_hash=l2.genesis_hash, role=role)
    except BaseException:
        l1_store.close()
        raise
    derivation = Derivation(params.l2_genesis, BRIDGE, executor, l2, FinalState(l2_store).load(l2))
    faults = FaultSwitch(FaultSet(role))
    events = EventLog(l2_store)
    node = RollupNode(role, Replica(l1_store, l1), l2_store, events, derivation, key, faults)
    node.start()
    clients = [client(url, **client_options) for url in l1_urls]
    pool = SignaturePool(workers, node.accounts, AHEAD if role == "sequencer" else AHEAD_OF_BATCHES)
    await pool.start()
    service = RollupService(node, l1, clients, clock, block_ms, pool)

    app = make_app(f"layerlab rollup {role}", description="A node of the optimistic rollup.")
    app.user_middleware.append(Middleware(BulkRoute, service.intake))
    app.include_router(chain_router(service.backend, service.intake))
    app.include_router(batch_router(node))
    if fault_token is not None:
        example = {"name": "steal", "seed": 7} if role == "sequencer" else {"name": "frivolous"}
        app.include_router(fault_router(faults, fault_token, example))
    tasks = [("follow-l1", service.follower.run)]
    if role == "sequencer":
        tasks.append(("produce", service.produce))
    lane = Singles(service.backend.rules, service.intake)
    return Service(app, tasks, [events.close], service.close, lane), service


def parser(role: Role, environ: Mapping[str, str] = os.environ) -> ServiceParser:
    """The command line of ``python -m rollup sequencer`` or ``verifier``."""
    what = "Orders, executes and posts." if role == "sequencer" else "Derives from L1, compares, challenges."
    options = service_parser(f"rollup {role}", what, port=PORTS[role], environ=environ)
    add = options.setting
    add("--l1-genesis", "genesis file of L1; the rollup's own genesis is in it", metavar="FILE")
    add("--l1", "addresses of L1 nodes, with commas between them", "http://127.0.0.1:8545", metavar="URLS")
    workers = (
        "processes that check signatures; 0: none but this one (default: one fewer than cores, 4 at most)"
    )
    add("--workers", workers, read=read_integer(0, MAX_WORKERS), metavar="N")
    pace = f"least time between two L2 blocks, in ms (default {BLOCK_MS})"
    add("--block-ms", pace, BLOCK_MS, read=read_integer(1, 3_600_000), metavar="MS")
    add_fault_options(options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a node; returns the exit code (see `chainkit.service`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    role = given[0] if given else ""
    if role != "sequencer" and role != "verifier":
        print("rollup: say which: python -m rollup sequencer|verifier (--help tells more)", file=sys.stderr)
        return EXIT_STARTUP
    chosen: Role = "sequencer" if role == "sequencer" else "verifier"
    args = parser(chosen).parse_args(given[1:])

    async def start() -> Service:
        with without_collection():
            service = await make()
        gc.freeze()  # what a start has made stays: no pause for walking over a million accounts
        return service

    async def make() -> Service:
        token = read_fault_token(args)
        genesis = read_genesis(args, "--l1-genesis")
        key = read_key(args, genesis)
        if key is None:
            raise StartupError(f"no key; give {named('--key-file')}, or {named('--dev-key')} on a devnet")
        urls = parse_urls("--l1", args.l1)
        if not urls:
            raise StartupError(f"no L1 node; give addresses with {named('--l1')}")
        service, _ = await create(
            chosen,
            open_chain(genesis, data_directory(args) / "l1"),
            urls,
            data_directory(args),
            make_clock(args),
            key,
            block_ms=args.block_ms,
            fault_token=token,
            workers=default_workers() if args.workers is None else args.workers,
        )
        return service

    return run(start, run_options(f"rollup-{chosen}", args))
