"""The L1 node as a process: options in, a running service out.

Responsible for reading what the options name, for refusing what cannot work with one line, and for putting
the parts together. Must not know what any part does.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from fastapi import Request
from starlette.responses import Response

from chainkit.api import chain_router
from chainkit.chain import Chain
from chainkit.clock import Clock
from chainkit.fault_api import fault_router
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair
from chainkit.known import open_chain
from chainkit.options import (
    ServiceParser,
    add_fault_options,
    data_directory,
    make_clock,
    named,
    parse_urls,
    read_fault_token,
    read_genesis,
    read_key,
    run_options,
    service_parser,
)
from chainkit.problem_answers import answer
from chainkit.problems import Problem
from chainkit.service import Service, make_app, run
from chainkit.startup import StartupError
from chainkit.store import Store
from l1node.archive_api import archive_router
from l1node.byzantine import ByzantineEngine
from l1node.checkpoint import Checkpoint, parse_checkpoint
from l1node.engine import Engine
from l1node.faults import FaultSwitch
from l1node.gossip import Gossip
from l1node.node import ROLE, BrokenNodeError, L1Node
from l1node.p2p_api import p2p_router
from l1node.peer_http import PeerHttp, PeerLink
from l1node.sync import Sync
from l1node.validator_api import validator_router

NAME = "l1node"
PORT = 8545


def parser(environ: Mapping[str, str] = os.environ) -> ServiceParser:
    """The command line of ``python -m l1node``."""
    options = service_parser(
        NAME, "A validator (or, without a key, a follower) of the L1.", port=PORT, environ=environ
    )
    options.setting("--peers", "addresses of the other nodes, with commas between them", "", metavar="URLS")
    options.setting(
        "--checkpoint",
        "a block that the chain must contain; any other history is refused",
        metavar="HEIGHT:HASH",
    )
    add_fault_options(options)
    return options


def check_key(genesis: Genesis, key: KeyPair | None, name: str | None) -> None:
    """A well-known key that this genesis does not know is a slip of the pen. Raises `StartupError`."""
    if key is None or not name:
        return
    known = {v.address for v in genesis.validators} | {a.address for a in genesis.accounts}
    if key.address not in known:
        raise StartupError(
            f"{named('--dev-key')} {name!r} is not a validator of this genesis; give one of its names"
        )


def _client(peers: int, transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=4 * peers + 4, max_keepalive_connections=2 * peers + 2)
    return httpx.AsyncClient(limits=limits, trust_env=False, transport=transport)


async def create(
    chain: Chain,
    key: KeyPair | None,
    data: Path,
    clock: Clock,
    peers: Sequence[str],
    *,
    fault_token: str | None = None,
    checkpoint: Checkpoint | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    link: PeerLink | None = None,
    store: type[Store] = Store,
) -> tuple[Service, L1Node]:
    """A node and the service around it. ``fault_token`` None: no faults. Raises what cannot start.

    ``link`` reaches peers and ``store`` keeps what must last: a simulation brings its own.
    """
    if fault_token is not None and key is None:
        raise StartupError(f"{named('--enable-faults')} is for a validator; give its key, or leave it out")
    opened = store(data, genesis_hash=chain.genesis_hash, role=ROLE)
    reach = link or PeerHttp(_client(len(peers), transport))
    try:
        node = L1Node(
            chain,
            key,
            opened,
            clock,
            Gossip(peers, reach),
            lambda feed: Sync(peers, reach, feed),
            engine_type=Engine if fault_token is None else ByzantineEngine,
            checkpoint=checkpoint,
        )
    except BaseException:
        opened.close()
        raise

    async def close() -> None:
        await reach.aclose()
        await node.close()

    app = make_app("layerlab L1 node", description="A validator of the proof-of-stake L1.")
    app.add_exception_handler(BrokenNodeError, _answer_broken)
    app.include_router(chain_router(node))
    app.include_router(validator_router(node))
    app.include_router(p2p_router(node))
    app.include_router(archive_router(node))
    if fault_token is not None:
        assert isinstance(node.engine, ByzantineEngine)
        node.faults = FaultSwitch(node.engine, chain.genesis)
        app.include_router(fault_router(node.faults, fault_token, {"name": "double-vote"}))
    tasks = [
        ("consensus", node.run),
        ("gossip", node.gossip.run),
        ("sync", node.sync.run),
        ("watch", node.watch),
    ]
    return Service(app, tasks, [node.stop], close), node


async def _answer_broken(_: Request, error: Exception) -> Response:
    """For the moment until the node has ended."""
    return answer(Problem(503, "node_broken", "The node stopped", str(error)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a node; returns the exit code (see `chainkit.service`)."""
    args = parser().parse_args(arguments)

    async def start() -> Service:
        token = read_fault_token(args)
        genesis = read_genesis(args)
        data = data_directory(args)
        key = read_key(args, genesis)
        check_key(genesis, key, args.dev_key)
        checkpoint = parse_checkpoint(args.checkpoint) if args.checkpoint else None
        peers = parse_urls("--peers", args.peers)
        service, _ = await create(
            open_chain(genesis, data),
            key,
            data,
            make_clock(args),
            peers,
            fault_token=token,
            checkpoint=checkpoint,
        )
        return service

    return run(start, run_options(NAME, args))
