"""The bridge service behind its routes: what it knows, what it was asked to send, and what nodes tell besides.

Responsible for putting final facts (`BridgeState`) and hints (pools and unsafe heads of nodes) together, and
for keeping each final block, its consequences and its events on disk in one go. Must not know of HTTP.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from bridge.actions import Place, Write
from bridge.follow import BRIDGE, MESSENGER, BridgeState
from bridge.hints import Told, Tracked, Tracking, read_told, send
from bridge.nodes import Nodes
from bridge.views_batches import Json
from bridge.views_bridge import invariant_json
from chainkit.backend import Head
from chainkit.block import Certificate
from chainkit.chain import ExecutedBlock
from chainkit.codec import Address, Bytes32, to_json
from chainkit.events import EventLog
from chainkit.replica import Replica
from chainkit.state import State
from chainkit.transaction import SignedTransaction
from rollup.stf import Forced

log = logging.getLogger("layerlab.bridge")

READY_LAG: Final = 12
"""L1 blocks that the service may be behind what L1 says is final, and still be ready."""
FORCED_LANDING: Final = 8
"""L1 blocks in which a forced transaction is expected to stand in a final block."""
MAX_FORCED: Final = 10_000


class BridgeBackend:
    """One bridge service. Call `start` once; then `on_l1_final` for each final block, in order."""

    def __init__(self, state: BridgeState, replica: Replica, events: EventLog, l1: Nodes, l2: Nodes) -> None:
        self.state = state
        self.replica = replica
        self.events = events
        self.l1_nodes = l1
        self.l2_nodes = l2
        self.l1 = Place("L1", state.l1.genesis, state.l1.rules)
        self.l2 = Place("L2", state.derivation.l2_genesis, state.derivation.rules)
        self.heard_final: Callable[[], int | None] = lambda: None
        self.invariant_held = True
        self.tracking = Tracking()
        self._forced: OrderedDict[tuple[Address, int], int] = OrderedDict()

    def start(self) -> None:
        """Take in again what is on disk."""
        self.state.restore(self.replica.busy_blocks(), self.replica.tip)
        self.invariant_held = self.state.invariant().holds

    def on_l1_final(self, block: ExecutedBlock, certificate: Certificate) -> None:
        """Take in the next final L1 block: all of it is on disk, with its events, or nothing."""
        height = block.header.height
        with self.replica.store.transaction():
            self.replica.append(block, certificate)
            notes = self.state.apply(block)
            for note in notes:
                self.events.append(note.name, note.data, height=height, source=note.source, tx_id=note.tx_id)
                if note.tx_id is not None:
                    self.tracking.forget(note.tx_id)
            self._watch_invariant(height)
        for tx in block.transactions:
            self.tracking.forget(tx.id)

    def _watch_invariant(self, height: int) -> None:
        """Say so, once, when the books stop adding up (or do so again)."""
        holds = self.state.invariant().holds
        if holds != self.invariant_held:
            name = "InvariantRestored" if holds else "InvariantBroken"
            self.events.append(name, invariant_json(self.state), height=height, source="bridge-service")
            log.error("%s at L1 block %d", name, height)
        self.invariant_held = holds

    # --- sending ---

    async def send_l1(self, write: Write) -> Mapping[str, Any]:
        """Send to L1. Raises `Problem`."""
        return await send(self.l1_nodes, write)

    async def send_l2(self, write: Write) -> Mapping[str, Any]:
        """Send to the sequencer. Raises `Problem`."""
        return await send(self.l2_nodes, write)

    def tracked_withdrawals(self, address: Address) -> list[tuple[Bytes32, Tracked]]:
        """Withdrawals of or to an address that went through here and are in no batch yet."""
        return list(
            self.tracking.find(
                lambda write: write.call_contract == MESSENGER and address in (write.sender, write.to)
            )
        )

    def note_forced(self, tx: SignedTransaction) -> None:
        """Remember for some blocks that a nonce is used by a transaction on its way into the inbox."""
        self._forced[tx.body.sender, tx.body.nonce] = self.state.height
        while len(self._forced) > MAX_FORCED:
            self._forced.popitem(last=False)

    # --- hints ---

    async def l2_taken_in(self) -> int | None:
        """How many inbox messages the sequencer says it has taken in; None without an answer.

        Of a frozen bridge it is None too: no batch will hold any of them.
        """
        if self.state.totals.frozen_height:
            return None
        status = await self.l2_nodes.status()
        inbox = None if status is None else status.get("inbox")
        taken = inbox.get("taken_in") if isinstance(inbox, dict) else None
        return taken if type(taken) is int else None

    async def l2_nonce(self, address: Address) -> int:
        """The nonce that a forced transaction should have: after what is executed and what is queued."""
        nonce = State(self.state.derivation.safe_batch.end.tree).account(address).nonce
        told = await self.l2_nodes.nonce(address)
        nonce = nonce if told is None else max(nonce, told)
        used = {
            tx.body.nonce
            for index in self.state.inbox_by_address.get(address, [])
            if (tx := self._queued_transaction(index)) is not None and tx.body.sender == address
        }
        recent = self.state.height - FORCED_LANDING
        while nonce in used or self._forced.get((address, nonce), -FORCED_LANDING) > recent:
            nonce += 1
        return nonce

    def _queued_transaction(self, index: int) -> SignedTransaction | None:
        queued = self.state.inbox[index]
        step = queued.message.step
        if not isinstance(step, Forced) or self.state.taken(queued) is not None:
            return None
        return SignedTransaction.decode(step.transaction)

    async def l1_pending(self, tx_id: Bytes32, method: str) -> Told | None:
        """What an L1 node says of a call of the bridge that is not final here."""
        return read_told(self.l1, await self.l1_nodes.transaction(tx_id), BRIDGE, method)

    async def l2_pending(self, tx_id: Bytes32) -> Told | None:
        """What the sequencer says of a withdrawal that no batch holds."""
        return read_told(self.l2, await self.l2_nodes.transaction(tx_id), MESSENGER, "withdraw")

    # --- about the service ---

    @property
    def safe_head(self) -> Head:
        end = self.state.derivation.safe_batch.end
        return Head(end.header, end.hash, end.tree)

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether the service is in step with L1."""
        told, height = self.heard_final(), self.state.height
        in_step = told is not None and height > 0 and height + READY_LAG >= told
        return in_step, {"l1_final": told, "l1_height": height, "waits_for": "" if in_step else "L1"}

    def status(self) -> Json:
        """The service's ``GET /status``."""
        state, l1, l2 = self.state, self.l1.genesis, self.l2.genesis
        derivation = state.derivation
        return {
            "role": "bridge",
            "chain_id": l1.chain_id,
            "l2_chain_id": l2.chain_id,
            "genesis_hash": to_json(state.l1.genesis_hash),
            "l2_genesis_hash": to_json(derivation.chain.genesis_hash),
            "devnet": l1.devnet,
            "slot_ms": l1.slot_ms,
            "l1_height": state.height,
            "l1_final": self.heard_final(),
            "head_batch": derivation.head,
            "safe_batch": derivation.safe_batch.index,
            "final_batch": derivation.finalized,
            "diverged": derivation.diverged,
            "frozen": state.totals.frozen_height > 0,
            "open_disputes": len(derivation.open_disputes()),
            "inbox": {"length": len(state.inbox), "taken_in": derivation.safe_batch.record.inbox_to},
            "invariant_holds": self.invariant_held,
            "ready": self.ready()[0],
            "events": self.events.last_seq,
        }

    def metrics(self) -> Mapping[str, float]:
        """Gauges for ``GET /metrics``."""
        state, books = self.state, self.state.invariant()
        derivation = state.derivation
        return {
            "ready": float(self.ready()[0]),
            "l1_height": state.height,
            "head_batch": derivation.head,
            "safe_batch": derivation.safe_batch.index,
            "final_batch": derivation.finalized,
            "frozen": float(state.totals.frozen_height > 0),
            "open_disputes": len(derivation.open_disputes()),
            "escrow_gwei": books.escrow,
            "bonds_gwei": books.bonds,
            "l2_balances_gwei": books.l2_balances,
            "withdrawals_not_claimed_gwei": books.withdrawals,
            "deposits_not_taken_in_gwei": books.deposits,
            "invariant_holds": float(books.holds),
            "events": self.events.last_seq,
            "event_streams": self.events.followers,
        }
