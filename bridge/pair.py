"""Both chains of a committee bridge, followed: replicas, followers, nodes, and one event log of what happened.

Responsible for keeping each final block, what follows from it and its events on disk, each event once, whenever the
process ends. Must not know what is served or sent. The log lies in L1's store; of the other chain's blocks it notes
how far it has told, so that a restart tells what is missing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bridge.committee_abi import BRIDGE, GATEWAY, CommitteeParams
from bridge.committee_follow import CommitteeState
from bridge.follow import Note
from bridge.nodes import Nodes
from chainkit.block import Certificate
from chainkit.chain import Chain, ExecutedBlock
from chainkit.client import ChainClient
from chainkit.codec import decode, encode, to_json
from chainkit.events import EventLog
from chainkit.follower import Follower, FollowerCore
from chainkit.options import named
from chainkit.replica import Replica
from chainkit.service import BackgroundTask
from chainkit.startup import StartupError
from chainkit.store import Store

log = logging.getLogger("layerlab.bridge")

L1, SIDE = "L1", "L2"
"""What the two chains are called in messages and problem codes, whatever the second one is."""
READY_LAG: Final = 12
"""Blocks that a service may be behind what a chain says is final, and still be ready."""
SUBMIT_SECONDS: Final = 10.0
TOLD_KEY: Final = "side-told"
HELD_KEY: Final = "invariant-held"


def committee_params(l1: Chain, side: Chain) -> CommitteeParams:
    """The bridge's parameters, if both chains have them. Raises `StartupError`."""
    contract, gateway = l1.rules.contracts.get(BRIDGE), side.rules.contracts.get(GATEWAY)
    if contract is None or not isinstance(contract.params, CommitteeParams):
        raise StartupError(
            f"the L1 genesis has no bridge with a committee; give that of an L1 that has one with "
            f"{named('--l1-genesis')}"
        )
    if gateway is None or gateway.params != contract.params:
        raise StartupError(
            f"the side chain's genesis has no gateway of this L1's bridge; give the other end's genesis with "
            f"{named('--side-genesis')}"
        )
    params: CommitteeParams = contract.params
    return params


@dataclass
class FollowedChain:
    """One of the two chains. ``on_final`` hears of each final block after it is on disk."""

    name: str
    chain: Chain
    replica: Replica
    nodes: Nodes
    clients: list[ChainClient]
    follower: Follower | None = None
    heard_final: Callable[[], int | None] = field(default=lambda: None)

    @property
    def height(self) -> int:
        """Height of the last final block taken in."""
        return self.replica.tip.header.height

    def lag(self) -> int | None:
        """Final blocks that are known to be missing here; None while no node has answered."""
        told = self.heard_final()
        return None if told is None else max(0, told - self.height)

    @property
    def in_step(self) -> bool:
        lag = self.lag()
        return lag is not None and self.height > 0 and lag <= READY_LAG

    def head_json(self) -> dict[str, Any]:
        tip = self.replica.tip
        root = to_json(tip.header.state_root)
        return {"height": tip.header.height, "hash": to_json(tip.hash), "state_root": root}


OnFinal = Callable[[FollowedChain, ExecutedBlock], None]


class Pair:
    """The two followed chains. ``listeners`` hear of each final block, after it is on disk."""

    def __init__(
        self,
        l1: Chain,
        side: Chain,
        data: Path,
        role: str,
        urls: tuple[Sequence[str], Sequence[str]],
        *,
        client: type[ChainClient] = ChainClient,
        **client_options: Any,
    ) -> None:
        """``urls`` are L1's nodes and the side chain's. Raises what cannot start."""
        self.params = committee_params(l1, side)
        self.listeners: list[OnFinal] = []
        self._stores: list[Store] = []
        try:
            self.l1 = self._open(L1, l1, data / "l1", role, urls[0], client, client_options)
            self.side = self._open(SIDE, side, data / "side", role, urls[1], client, client_options)
            self.events = EventLog(self._stores[0])
            self.state = CommitteeState(l1, side)
            self.invariant_held = self._stores[0].get_meta(HELD_KEY) != b"\x00"
            self._restore()
        except BaseException:
            self.close_stores()
            raise

    def _open(
        self,
        name: str,
        chain: Chain,
        path: Path,
        role: str,
        urls: Sequence[str],
        client: type[ChainClient],
        client_options: dict[str, Any],
    ) -> FollowedChain:
        store = Store(path, genesis_hash=chain.genesis_hash, role=role)
        self._stores.append(store)
        # A request tries each node once and goes on to the next; the follower is as patient as it likes.
        options = {"timeout": SUBMIT_SECONDS, "retries": 0, **client_options}
        nodes = Nodes(name, [client(url, **options) for url in urls])
        clients = [client(url, **client_options) for url in urls]
        followed = FollowedChain(name, chain, Replica(store, chain), nodes, clients)

        async def on_final(block: ExecutedBlock, certificate: Certificate) -> None:
            self.on_final(followed, block, certificate)
            await asyncio.sleep(0)  # a page of blocks while catching up must not keep requests waiting

        follower = Follower(clients, FollowerCore(chain, followed.replica.tip), on_final)
        followed.follower = follower
        followed.heard_final = lambda: follower.heard_final
        return followed

    def _restore(self) -> None:
        told = decode(int, self._stores[0].get_meta(TOLD_KEY) or b"\x00")
        for followed in (self.l1, self.side):
            replica = followed.replica
            for height, notes in self.state.restore(followed.chain, replica.busy_blocks(), replica.tip):
                if followed is self.side and height > told:
                    self._tell(followed, height, notes)

    def on_final(self, followed: FollowedChain, block: ExecutedBlock, certificate: Certificate) -> None:
        """Take in the next final block of a chain: it and its events are on disk, or will be after a restart."""
        height = block.header.height
        if followed is self.side:
            followed.replica.append(block, certificate)
        with self._stores[0].transaction():
            if followed is self.l1:
                followed.replica.append(block, certificate)
            self._tell(followed, height, self.state.apply(followed.chain, block))
            self._watch_invariant(height)
        for listener in self.listeners:
            listener(followed, block)

    def _tell(self, followed: FollowedChain, height: int, notes: Sequence[Note]) -> None:
        if not notes:
            return
        with self._stores[0].transaction():
            for note in notes:
                self.events.append(note.name, note.data, height=height, source=note.source, tx_id=note.tx_id)
            if followed is self.side:
                self._stores[0].set_meta(TOLD_KEY, encode(height))

    def _watch_invariant(self, height: int) -> None:
        """Say so, once, when the books stop adding up (or do so again)."""
        books = self.state.invariant()
        if books.holds != self.invariant_held:
            name = "InvariantRestored" if books.holds else "InvariantBroken"
            data = {"escrow": books.escrow, "expected": books.expected, "baseless_payments": books.lies}
            self.events.append(name, data, height=height, source="bridge-service")
            self._stores[0].set_meta(HELD_KEY, encode(int(books.holds)))
            log.error("%s", name, extra={"fields": data})
        self.invariant_held = books.holds

    # --- about both ---

    def tasks(self) -> list[tuple[str, BackgroundTask]]:
        """The loops that follow."""
        assert self.l1.follower is not None
        assert self.side.follower is not None
        return [("follow-l1", self.l1.follower.run), ("follow-side", self.side.follower.run)]

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether both chains are followed closely."""
        late = [followed.name for followed in (self.l1, self.side) if not followed.in_step]
        return not late, {**self.heights(), "waits_for": " and ".join(late)}

    def heights(self) -> dict[str, Any]:
        """How far each chain is final here, and as far as its nodes have shown."""
        return {
            "l1_height": self.l1.height,
            "l1_final": self.l1.heard_final(),
            "l2_height": self.side.height,
            "l2_final": self.side.heard_final(),
        }

    def chains_json(self) -> dict[str, Any]:
        """What is common to the ``GET /status`` of those who follow both chains."""
        l1, side = self.l1.chain, self.side.chain
        return {
            "kind": "committee",
            "chain_id": l1.genesis.chain_id,
            "l2_chain_id": side.genesis.chain_id,
            "genesis_hash": to_json(l1.genesis_hash),
            "l2_genesis_hash": to_json(side.genesis_hash),
            "devnet": l1.genesis.devnet,
            "slot_ms": l1.genesis.slot_ms,
            **self.heights(),
            "heads": self.heads_json(),
            "operators": len(self.params.operators),
            "threshold": self.params.threshold,
            "ready": self.ready()[0],
            "events": self.events.last_seq,
        }

    def heads_json(self) -> dict[str, Any]:
        """The last final block of each chain; ``finalized`` is the side chain's, as on a rollup."""
        side = self.side.head_json()
        return {"l1": self.l1.head_json(), "side": side, "finalized": side}

    async def close(self) -> None:
        for followed in (self.l1, self.side):
            for each in followed.clients:
                await each.aclose()
            await followed.nodes.aclose()
        self.close_stores()

    def close_stores(self) -> None:
        for store in self._stores:
            store.close()
