"""The bridge service as a process: options in, a running service out.

Responsible for putting the parts together and for refusing with one line what cannot work. Must not know what
any part decides.
"""

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from bridge import committee_service
from bridge.abi import BridgeParams
from bridge.backend import BridgeBackend
from bridge.committee_abi import CommitteeParams
from bridge.follow import BRIDGE, BridgeState
from bridge.nodes import Nodes
from bridge.routes import bridge_router
from chainkit.block import Certificate
from chainkit.chain import Chain, ExecutedBlock
from chainkit.client import ChainClient
from chainkit.events import EventLog
from chainkit.follower import Follower, FollowerCore
from chainkit.known import open_chain
from chainkit.options import (
    ServiceParser,
    data_directory,
    make_clock,
    named,
    parse_urls,
    read_genesis,
    run_options,
    service_parser,
)
from chainkit.replica import Replica
from chainkit.service import Service, make_app, run
from chainkit.startup import StartupError
from chainkit.store import Store
from rollup.derivation import Derivation

NAME: Final = "bridge"
PORT: Final = 10545
ROLE: Final = "bridge"
SIGNATURE_THREADS: Final = 2
SUBMIT_SECONDS: Final = 10.0


def bridge_params(l1: Chain) -> BridgeParams:
    """The bridge's parameters in L1's genesis. Raises `StartupError` if there is no bridge."""
    contract = l1.rules.contracts.get(BRIDGE)
    if contract is None or not isinstance(contract.params, BridgeParams):
        raise StartupError(
            f"the L1 genesis has no bridge contract; give that of an L1 that has one with {named('--l1-genesis')}"
        )
    return contract.params


async def create(
    l1: Chain,
    l1_urls: Sequence[str],
    l2_url: str | None,
    data: Path,
    *,
    client: type[ChainClient] = ChainClient,
    store: type[Store] = Store,
    **client_options: Any,
) -> tuple[Service, BridgeBackend]:
    """The service and what is behind it. Raises what cannot start.

    ``client`` asks the nodes and ``store`` keeps what must last: a simulation brings its own.
    """
    params = bridge_params(l1)
    executor = ThreadPoolExecutor(SIGNATURE_THREADS, thread_name_prefix="verify")
    l2 = open_chain(params.l2_genesis, data / "l2")
    opened = store(data / "l1", genesis_hash=l1.genesis_hash, role=ROLE)
    try:
        state = BridgeState(l1, Derivation(params.l2_genesis, BRIDGE, executor, l2))
        events = EventLog(opened)
        # A request tries each node once and goes on to the next; the follower is as patient as it likes.
        options = {"timeout": SUBMIT_SECONDS, "retries": 0, **client_options}
        l1_nodes = Nodes("L1", [client(url, **options) for url in l1_urls])
        l2_nodes = Nodes("L2", [client(l2_url, **options)] if l2_url else [])
        backend = BridgeBackend(state, Replica(opened, l1), events, l1_nodes, l2_nodes)
        backend.start()
    except BaseException:
        opened.close()
        raise

    async def on_final(block: ExecutedBlock, certificate: Certificate) -> None:
        backend.on_l1_final(block, certificate)
        await asyncio.sleep(0)  # a page of blocks while catching up must not keep requests waiting

    clients = [client(url, **client_options) for url in l1_urls]
    follower = Follower(clients, FollowerCore(l1, backend.replica.tip), on_final)
    backend.heard_final = lambda: follower.heard_final

    async def close() -> None:
        for each in clients:
            await each.aclose()
        await l1_nodes.aclose()
        await l2_nodes.aclose()
        executor.shutdown(wait=False)
        opened.close()

    app = make_app(
        "layerlab bridge",
        description="The public face of the bridge contract: it follows L1, executes every block again, "
        "derives L2 from L1 alone, and shows what follows. It holds no key and no money.",
    )
    app.include_router(bridge_router(backend))
    return Service(app, [("follow-l1", follower.run)], [events.close], close), backend


def parser(environ: Mapping[str, str] = os.environ) -> ServiceParser:
    """The command line of ``python -m bridge``."""
    what = "Follows L1, verifies the bridge contract, and serves deposits, withdrawals, batches and disputes."
    options = service_parser(NAME, what, port=PORT, environ=environ, key=False)
    add = options.setting
    add("--l1-genesis", "genesis file of L1 (--genesis is the same)", metavar="FILE")
    add("--l1", "addresses of L1 nodes, with commas between them", "http://127.0.0.1:8545", metavar="URLS")
    add(
        "--l2",
        "address of the sequencer; --l2 '': none, L1 alone. Of a side chain: addresses of its nodes",
        "http://127.0.0.1:9545",
        metavar="URL",
    )
    add("--side-genesis", "genesis file of the side chain, if L1's bridge is a committee's", metavar="FILE")
    return options


def genesis_option(args: argparse.Namespace) -> str:
    """Which of the two names counts: what is on the command line, then what has a value, then --l1-genesis."""
    given = args.on_command_line & {"genesis", "l1_genesis"} or {
        n for n in ("genesis", "l1_genesis") if vars(args)[n]
    }
    return "--genesis" if given == {"genesis"} else "--l1-genesis"


def is_committee(l1: Chain) -> bool:
    """Whether L1's bridge is one that operators move."""
    contract = l1.rules.contracts.get(BRIDGE)
    return contract is not None and isinstance(contract.params, CommitteeParams)


def _start_committee(
    l1: Chain, args: argparse.Namespace, l1_urls: Sequence[str], side_urls: Sequence[str]
) -> Service:
    if not side_urls:
        raise StartupError(f"no node of the side chain; give addresses with {named('--l2')}")
    side = Chain(read_genesis(args, "--side-genesis"))
    service, _ = committee_service.create(l1, side, (l1_urls, side_urls), data_directory(args))
    return service


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service; returns the exit code (see `chainkit.service`)."""
    args = parser().parse_args(arguments)

    async def start() -> Service:
        genesis = read_genesis(args, genesis_option(args))
        l1_urls = parse_urls("--l1", args.l1)
        if not l1_urls:
            raise StartupError(f"no L1 node; give addresses with {named('--l1')}")
        l2_urls = parse_urls("--l2", args.l2)
        make_clock(args)  # a wrong clock file is refused here as everywhere, though nothing here tells time
        l1 = open_chain(genesis, data_directory(args) / "l1")
        if is_committee(l1):
            return _start_committee(l1, args, l1_urls, l2_urls)
        if args.side_genesis:
            raise StartupError(
                f"{named('--side-genesis')}: the bridge of this L1 is a rollup's; leave it out"
            )
        if len(l2_urls) > 1:
            raise StartupError(f"{named('--l2')}: give one address, the sequencer's")
        service, _ = await create(l1, l1_urls, l2_urls[0] if l2_urls else None, data_directory(args))
        return service

    return run(start, run_options(NAME, args))
