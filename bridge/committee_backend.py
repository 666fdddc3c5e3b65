"""The bridge service of a committee bridge behind its routes: final facts, and hints of nodes.

Responsible for putting both together. Must not know of HTTP.
"""

from collections.abc import Mapping
from typing import Any, Final

from bridge.actions import Place, Write
from bridge.committee_abi import BRIDGE, GATEWAY
from bridge.committee_views import invariant_json
from bridge.hints import Told, Tracked, Tracking, read_told, send
from bridge.pair import FollowedChain, Pair
from chainkit.block_rows import StoredTransaction
from chainkit.chain import ExecutedBlock
from chainkit.codec import Address, Bytes32
from chainkit.transaction import Call, SignedTransaction

ROLE: Final = "bridge"


class CommitteeBackend:
    """One bridge service; `Pair` feeds it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.state = pair.state
        self.events = pair.events
        self.l1 = Place("L1", pair.l1.chain.genesis, pair.l1.chain.rules)
        self.side = Place("the side chain", pair.side.chain.genesis, pair.side.chain.rules)
        self.tracking = Tracking()
        pair.listeners.append(self._on_final)

    def _on_final(self, followed: FollowedChain, block: ExecutedBlock) -> None:
        del followed
        for tx in block.transactions:
            self.tracking.forget(tx.id)

    # --- sending ---

    async def send_l1(self, write: Write) -> Mapping[str, Any]:
        """Send to L1. Raises `Problem`."""
        return await send(self.pair.l1.nodes, write)

    async def send_side(self, write: Write) -> Mapping[str, Any]:
        """Send to the side chain. Raises `Problem`."""
        return await send(self.pair.side.nodes, write)

    def tracked_withdrawals(self, address: Address) -> list[tuple[Bytes32, Tracked]]:
        """Withdrawals of or to an address that went through here and are not final."""
        return list(
            self.tracking.find(
                lambda write: write.call_contract == GATEWAY and address in (write.sender, write.to)
            )
        )

    # --- hints and failures ---

    async def told_deposit(self, tx_id: Bytes32) -> Told | None:
        """What an L1 node says of a deposit that is not final here."""
        return read_told(self.l1, await self.pair.l1.nodes.transaction(tx_id), BRIDGE, "deposit")

    async def told_withdrawal(self, tx_id: Bytes32) -> Told | None:
        """What a node of the side chain says of a withdrawal that is not final here."""
        return read_told(self.side, await self.pair.side.nodes.transaction(tx_id), GATEWAY, "withdraw")

    def failed(
        self, followed: FollowedChain, tx_id: Bytes32, contract: str, method: str
    ) -> tuple[Tracked, StoredTransaction] | None:
        """A call that stands in a final block and failed there."""
        found = followed.replica.store.transaction_by_id(tx_id)
        if found is None or found.receipt.success:
            return None
        tx = SignedTransaction.decode(found.wire)
        action = tx.body.action
        if not isinstance(action, Call) or (action.contract, action.method) != (contract, method):
            return None
        return Tracked(contract, method, tx.body.sender, action.value, action.args[-32:]), found

    # --- about the service ---

    def status(self) -> dict[str, Any]:
        """``GET /status``."""
        books = self.state.invariant()
        return {"role": ROLE, **self.pair.chains_json(), "frozen": False, "invariant_holds": books.holds}

    def metrics(self) -> Mapping[str, float]:
        """Gauges for ``GET /metrics``."""
        books, shown = self.state.invariant(), invariant_json(self.state)
        return {
            "ready": float(self.pair.ready()[0]),
            "l1_height": self.pair.l1.height,
            "l2_height": self.pair.side.height,
            "escrow_gwei": books.escrow,
            "outside_reserve_gwei": books.outstanding,
            "deposits_not_credited_gwei": books.deposits,
            "withdrawals_not_paid_gwei": books.withdrawals,
            "baseless_payments": len(shown["baseless_payments"]),
            "invariant_holds": float(books.holds),
            "events": self.events.last_seq,
            "event_streams": self.events.followers,
        }
