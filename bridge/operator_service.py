"""An operator as a process: ``python -m bridge operator``. Options in, a running service out.

Responsible for putting the parts together, for sending what is due to the two chains, and for refusing with one line
what cannot work. Must not know what is to be attested.

What an operator sent in a former life may still wait in a pool, unseen in the final state. So at first it asks how
many of its transactions nodes know of, and sends nothing before that many are final (or were lost).
"""

import argparse
import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import Response

from bridge.committee_abi import BRIDGE, GATEWAY
from bridge.operator import KNOWN, Attester, OperatorFaults
from bridge.pair import FollowedChain, Pair
from chainkit.chain import Chain, ExecutedBlock
from chainkit.client import ChainClient
from chainkit.codec import Address, to_json
from chainkit.fault_api import fault_router
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair
from chainkit.openapi import INTEGER, TEXT, answers, nullable, shape
from chainkit.ops_api import JsonResponse, events_router, health_router, metrics_router
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
from chainkit.sender import TransactionSender
from chainkit.service import Service, make_app, run
from chainkit.startup import StartupError
from chainkit.state import State
from chainkit.submission import dev_key
from chainkit.transaction import Call
from chainkit.views import account_name
from rollup.duties import Duty
from rollup.outbox import LOST_AFTER, Outbox

NAME: Final = "operator"
PORT: Final = 10645
ROLE: Final = "operator"
ASK_AGAIN_SECONDS: Final = 0.5
CLOSE_TO_FINAL: Final = 2
"""Blocks behind what is known to be final from which on what looks due is due."""

_COUNTS: Final = shape(deposits=INTEGER, withdrawals=INTEGER)
_STATUS: Final = shape(
    role=TEXT,
    address=TEXT,
    name=nullable(TEXT),
    attested=_COUNTS,
    under_way=_COUNTS,
    balances=shape(l1=INTEGER, side=INTEGER),
    dishonest_on_purpose={},
)


@dataclass
class FaultSwitch:
    """Implements `chainkit.fault_api.FaultSwitch`: well-known names in place of addresses, and a nudge."""

    faults: OperatorFaults
    genesis: Genesis
    changed: Callable[[], None]

    def shown(self) -> dict[str, Any]:
        return {"active": self.faults.to_json(), "known": dict(KNOWN)}

    def set(self, body: Any) -> None:
        """Raises `LookupError` for a fault that does not exist, `ValueError` or `Problem` for wrong parameters."""
        to = body.get("to") if isinstance(body, dict) else None
        if isinstance(to, str) and not to.startswith("0x"):
            body = {**body, "to": to_json(dev_key(self.genesis, to).address)}
        self.faults.set(body)
        self.changed()

    def clear(self, name: str | None = None) -> None:
        """Raises `LookupError` for a fault that does not exist."""
        self.faults.clear(name)
        self.changed()


@dataclass
class Desk:
    """Where an operator speaks: one of the chains, with what is on its way there."""

    followed: FollowedChain
    me: Address
    outbox: Outbox
    former: int | None = None
    """The nonce up to which a former life may have sent; None until a node has said so."""
    since: int = field(default=0)

    @property
    def account(self) -> tuple[int, int]:
        """Balance in gwei and nonce, in the final state."""
        account = State(self.followed.replica.tip.tree).account(self.me)
        return account.balance, account.nonce

    async def is_open(self) -> bool:
        """Whether the final state shows all that this key has sent before this process began."""
        lag = self.followed.lag()
        if lag is None or lag > CLOSE_TO_FINAL:
            return False  # still catching up: what looks due may be done already
        if self.former is None:
            self.former = await self.followed.nodes.pending_nonce(self.me)
            self.since = self.followed.height
        if self.former is None:
            return False
        return self.account[1] >= self.former or self.followed.height >= self.since + LOST_AFTER


class OperatorService:
    """An operator with its loops."""

    def __init__(self, pair: Pair, key: KeyPair) -> None:
        self.pair = pair
        self.key = key
        self.faults = OperatorFaults()
        self.attester = Attester(pair.params, key.address)
        self.wake = asyncio.Event()
        self.l1 = self._desk(pair.l1, BRIDGE)
        self.side = self._desk(pair.side, GATEWAY)
        pair.listeners.append(self._on_final)

    def _desk(self, followed: FollowedChain, source: str) -> Desk:
        rules = followed.chain.rules
        sender = TransactionSender(followed.nodes.clients, self.key, rules.chain_id)

        async def send(call: Call, gas_limit: int) -> object:
            return await sender.send(call, min(gas_limit, rules.fees.max_transaction_gas))

        def refused(duty: Duty, code: str, message: str) -> None:
            data = {"what": duty.move.why, "code": code, "message": message}
            self.pair.events.append("AttestationRefused", data, height=followed.height, source=source)

        outbox = Outbox(send, self.key.address, refused, sender.next_node)
        return Desk(followed, self.key.address, outbox)

    def _on_final(self, followed: FollowedChain, block: ExecutedBlock) -> None:
        desk = self.l1 if followed is self.pair.l1 else self.side
        desk.outbox.on_l1_final(block)
        self.wake.set()

    async def attest(self) -> None:
        """Send what is due, whenever something may be."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            await self.dispatch()
            if self.l1.former is None or self.side.former is None:
                await asyncio.sleep(ASK_AGAIN_SECONDS)
                self.wake.set()

    async def dispatch(self) -> None:
        """Hand out what is due now."""
        for desk, due in ((self.side, self.attester.credits), (self.l1, self.attester.releases)):
            if await desk.is_open():
                tips = self.pair.l1.replica.tip.tree, self.pair.side.replica.tip.tree
                desk.outbox.dispatch(due(*tips, self.faults), desk.followed.height)

    # --- about the service ---

    def attested(self) -> dict[str, int]:
        """How many deposits and withdrawals this operator has attested, in final blocks."""
        voices = self.pair.state.voices
        return {
            "deposits": voices.get((GATEWAY, self.key.address), 0),
            "withdrawals": voices.get((BRIDGE, self.key.address), 0),
        }

    def under_way(self) -> dict[str, int]:
        return {
            "deposits": len(self.side.outbox.under_way),
            "withdrawals": len(self.l1.outbox.under_way),
        }

    def status(self) -> dict[str, Any]:
        """``GET /status``."""
        return {
            "role": ROLE,
            "address": to_json(self.key.address),
            "name": account_name(self.pair.l1.chain.genesis, self.key.address),
            **self.pair.chains_json(),
            "attested": self.attested(),
            "under_way": self.under_way(),
            "balances": {"l1": self.l1.account[0], "side": self.side.account[0]},
            "dishonest_on_purpose": self.faults.to_json(),
        }

    def metrics(self) -> Mapping[str, float]:
        """Gauges for ``GET /metrics``."""
        attested, under_way = self.attested(), self.under_way()
        return {
            "ready": float(self.pair.ready()[0]),
            "l1_height": self.pair.l1.height,
            "l2_height": self.pair.side.height,
            "attested_deposits": attested["deposits"],
            "attested_withdrawals": attested["withdrawals"],
            "attestations_under_way": sum(under_way.values()),
            "l1_balance_gwei": self.l1.account[0],
            "l2_balance_gwei": self.side.account[0],
            "faults": len(self.faults.to_json()),
        }

    async def close(self) -> None:
        await self.l1.outbox.close()
        await self.side.outbox.close()
        await self.pair.close()


def operator_router(service: OperatorService) -> APIRouter:
    """What an operator serves besides faults."""
    router = APIRouter()
    pair = service.pair

    @router.get(
        "/status",
        summary="Heads of both chains, what was attested, and faults",
        tags=["operator"],
        responses=answers(_STATUS),
    )
    async def status() -> Response:
        return JsonResponse(service.status())

    router.include_router(events_router(pair.events))
    router.include_router(health_router(pair.ready))
    router.include_router(metrics_router(service.metrics))
    return router


def create(
    l1: Chain,
    side: Chain,
    urls: tuple[Sequence[str], Sequence[str]],
    data: Path,
    key: KeyPair,
    *,
    fault_token: str | None,
    client: type[ChainClient] = ChainClient,
    **client_options: Any,
) -> tuple[Service, OperatorService]:
    """An operator with its loops, ready to serve. Raises what cannot start."""
    pair = Pair(l1, side, data, ROLE, urls, client=client, **client_options)
    if key.address not in pair.params.operators:
        pair.close_stores()
        raise StartupError(
            f"0x{key.address.hex()} is no operator of this bridge; give the key of one with "
            f"{named('--key-file')} or {named('--dev-key')}"
        )
    service = OperatorService(pair, key)
    app = make_app(
        "layerlab bridge operator",
        description="One of the keys that a committee bridge believes: it follows both chains, executes every "
        "block again, and attests what it saw.",
    )
    app.include_router(operator_router(service))
    if fault_token is not None:
        switch = FaultSwitch(service.faults, l1.genesis, service.wake.set)
        example = {"name": "collude", "to": "mallory", "amount": 1_000_000_000}
        app.include_router(fault_router(switch, fault_token, example))
    tasks = [*pair.tasks(), ("attest", service.attest)]
    return Service(app, tasks, [pair.events.close], service.close), service


def parser(environ: Mapping[str, str] = os.environ) -> ServiceParser:
    """The command line of ``python -m bridge operator``."""
    what = "Follows both chains of a committee bridge and attests deposits and withdrawals."
    options = service_parser("bridge operator", what, port=PORT, environ=environ)
    add = options.setting
    add("--l1-genesis", "genesis file of L1", metavar="FILE")
    add("--l1", "addresses of L1 nodes, with commas between them", "http://127.0.0.1:8545", metavar="URLS")
    add("--side-genesis", "genesis file of the side chain", metavar="FILE")
    add("--side", "addresses of the side chain's nodes, with commas", "http://127.0.0.1:9745", metavar="URLS")
    add_fault_options(options)
    return options


def node_urls(args: argparse.Namespace, option: str, what: str) -> list[str]:
    """The addresses that an option names, at least one. Raises `StartupError`."""
    urls = parse_urls(option, getattr(args, option.lstrip("-")))
    if not urls:
        raise StartupError(f"no {what} node; give addresses with {named(option)}")
    return urls


def main(arguments: Sequence[str]) -> int:
    """Run an operator; returns the exit code (see `chainkit.service`)."""
    args = parser().parse_args(arguments)

    async def start() -> Service:
        token = read_fault_token(args)
        l1, side = read_genesis(args, "--l1-genesis"), read_genesis(args, "--side-genesis")
        key = read_key(args, l1)
        if key is None:
            raise StartupError(f"no key; give {named('--key-file')}, or {named('--dev-key')} on a devnet")
        urls = node_urls(args, "--l1", "L1"), node_urls(args, "--side", "side chain")
        make_clock(args)  # a wrong clock file is refused here as everywhere, though nothing here tells time
        data = data_directory(args)
        service, _ = create(Chain(l1), Chain(side), urls, data, key, fault_token=token)
        return service

    return run(start, run_options("bridge-operator", args))
