"""A rollup node behind the chain API.

Responsible for showing the local chain, its heads and its mempool as `chainkit.backend.ChainBackend` wants
them. Must not know of HTTP.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chainkit.backend import BlockView, Head, HeadRef, Status, SubmitResult, TransactionView
from chainkit.block import Block
from chainkit.block_rows import StoredBlock
from chainkit.codec import Address, Bytes32, decode, to_json
from chainkit.events import EventLog
from chainkit.execution import InvalidTransaction, Rules
from chainkit.genesis import Genesis
from chainkit.transaction import SignedTransaction
from rollup.batch import MAX_BATCHED_BYTES
from rollup.block import MAX_STORED_BYTES, L2Block, decode_transaction
from rollup.local import executed
from rollup.node import RollupNode
from rollup.receipt import BlockPromise, BlockReceipts
from rollup.stf import Deposit, Forced, Step, decode_step

KEPT_RECEIPTS = 16
"""Blocks whose receipts are kept at hand: about 100 bytes a transaction."""
READY_LAG = 12
"""L1 blocks that the derivation may be behind what L1 says is final, and still be ready."""


class RollupBackend:
    """Implements `chainkit.backend.ChainBackend` for sequencer and verifier."""

    def __init__(
        self, node: RollupNode, l1_final: Callable[[], int | None], on_submit: Callable[[], None]
    ) -> None:
        """``l1_final`` tells L1's final height as last heard; ``on_submit`` hears of new transactions."""
        self.node = node
        self._l1_final = l1_final
        self._on_submit = on_submit
        self._included: dict[Bytes32, list[asyncio.Future[Mapping[str, Any]]]] = {}
        self._receipts_of: dict[Bytes32, BlockReceipts] = {}  # by block hash, oldest first

    @property
    def genesis(self) -> Genesis:
        return self.node.derivation.l2_genesis

    @property
    def genesis_hash(self) -> Bytes32:
        return self.node.derivation.chain.genesis_hash

    @property
    def rules(self) -> Rules:
        return self.node.derivation.rules

    @property
    def event_log(self) -> EventLog:
        return self.node.events

    def status(self) -> Mapping[str, Any]:
        node, derivation = self.node, self.node.derivation
        return {
            "role": node.role,
            "address": to_json(node.key.address),
            "l1_height": node.l1_height,
            "l1_final": self._l1_final(),
            "head_batch": derivation.head,
            "safe_batch": derivation.safe_batch.index,
            "final_batch": derivation.finalized,
            "diverged": derivation.diverged,
            "frozen": derivation.frozen,
            "inbox": {"length": len(derivation.inbox), "taken_in": node.local.cursor},
            "mempool": len(node.mempool),
            "unposted_bytes": node.local.transaction_bytes,
            "dishonest_on_purpose": node.faults.to_json(),
        }

    def head(self, ref: HeadRef) -> Head | None:
        block = self._head_block(ref)
        return Head(block.header, block.hash, block.tree)

    def _head_block(self, ref: HeadRef) -> L2Block:
        if ref == "head":
            return self.node.local.head
        derivation = self.node.derivation
        return derivation.safe_batch.end if ref == "safe" else derivation.finalized_batch.end

    def _status_of(self, height: int) -> Status:
        if height <= self._head_block("finalized").header.height:
            return "finalized"
        return "safe" if height <= self._head_block("safe").header.height else "unsafe"

    def block(self, ref: int | Bytes32) -> BlockView | None:
        if ref in (0, self.genesis_hash):
            chain = self.node.derivation.chain
            return BlockView(Block(chain.genesis_header, []), chain.genesis_hash, "finalized")
        store = self.node.store
        stored = store.block_by_height(ref) if isinstance(ref, int) else store.block_by_hash(ref)
        return None if stored is None else self._view(stored)

    def _view(self, stored: StoredBlock) -> BlockView:
        block = decode(Block, stored.block, limit=MAX_STORED_BYTES)
        steps = [decode_step(data) for data in block.transactions]
        transactions = [decode_transaction(self.rules, step) for step in steps]
        shown = Block(block.header, [tx.wire for tx in transactions if tx is not None])
        extra = {"inbox": [_message(step) for step in steps if isinstance(step, (Deposit, Forced))]}
        return BlockView(shown, stored.hash, self._status_of(stored.height), extra=extra)

    def transaction(self, tx_id: Bytes32) -> TransactionView | None:
        waiting = self.node.mempool.get(tx_id)
        if waiting is not None:
            return TransactionView(waiting, "pending")
        stored = self.node.store.transaction_by_id(tx_id)
        if stored is None:
            return None
        unflushed = self.node.local.unflushed
        if unflushed is not None and stored.height >= unflushed.header.height:
            return TransactionView(SignedTransaction.decode(stored.wire), "pending")
        promise = None
        if stored.certificate is not None:
            receipts = self._receipts(stored.height, stored.block_hash, stored.certificate)
            promise = to_json(receipts.receipt(stored.position))
        return TransactionView(
            SignedTransaction.decode(stored.wire),
            self._status_of(stored.height),
            stored.height,
            stored.block_hash,
            stored.position,
            stored.receipt,
            extra={"sequencer_receipt": promise},
        )

    def included_at(self, tx_id: Bytes32) -> int | None:
        place = self.node.store.place_of(tx_id)
        if place is None or not place[1]:
            return None
        unflushed = self.node.local.unflushed
        return -1 if unflushed is not None and place[0] >= unflushed.header.height else place[0]

    def _receipts(self, height: int, block_hash: Bytes32, promise: bytes) -> BlockReceipts:
        """The receipts of a stored block; those of the blocks that were asked for last are kept."""
        kept = self._receipts_of
        found = kept.pop(block_hash, None)
        if found is None:
            ids = self.node.store.transaction_ids(height)
            found = BlockReceipts(decode(BlockPromise, promise), ids)
        kept[block_hash] = found
        if len(kept) > KEPT_RECEIPTS:
            del kept[next(iter(kept))]
        return found

    def pending_nonce(self, address: Address) -> int:
        return self.node.mempool.next_nonce(address, self.node.account(address))

    async def submit(self, transactions: Sequence[SignedTransaction]) -> Sequence[SubmitResult]:
        refusal = self._refusal()
        if refusal is not None:
            return [SubmitResult(tx.id, False, *refusal) for tx in transactions]
        add, account = self.node.mempool.add, self.node.local.view.account
        results: list[SubmitResult] = []
        taken = False
        for tx in transactions:
            try:
                if len(tx.wire) > MAX_BATCHED_BYTES:
                    raise InvalidTransaction("transaction_too_large", f"at most {MAX_BATCHED_BYTES} bytes")
                add(tx, account)
            except InvalidTransaction as error:
                known = error.code == "already_known"
                taken = taken or known
                results.append(SubmitResult(tx.id, known, error.code, error.message))
            else:
                taken = True
                results.append(SubmitResult(tx.id, True))
        if taken:
            self._on_submit()
        return results

    def _refusal(self) -> tuple[str, str] | None:
        """Code and message with which nothing is taken at present."""
        if self.node.role != "sequencer":
            return "not_sequencer", "this is a verifier; send it to the sequencer"
        if self.node.derivation.frozen:
            return "bridge_frozen", "the bridge is frozen: only exits are left"
        if self.node.is_behind:
            return "l1_behind", "L1 takes less than is offered; try again later"
        return None

    async def included(
        self, tx_ids: Sequence[Bytes32], seconds: float
    ) -> Mapping[Bytes32, Mapping[str, Any]]:
        """Wait until these transactions are in a block on disk: where, and the sequencer's receipt of each."""
        loop = asyncio.get_running_loop()
        mine = {tx_id: loop.create_future() for tx_id in tx_ids}
        for tx_id, future in mine.items():
            self._included.setdefault(tx_id, []).append(future)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    for future in mine.values():
                        await asyncio.shield(future)
        finally:
            for tx_id, future in mine.items():
                if not future.done():
                    self._included[tx_id].remove(future)
                    if not self._included[tx_id]:
                        del self._included[tx_id]
        return {tx_id: future.result() for tx_id, future in mine.items() if future.done()}

    def on_block(self, block: L2Block) -> None:
        """Tell those who wait for a transaction of this block, which is on disk."""
        if not self._included:
            return
        stored = self.node.store.block_by_height(block.header.height)
        if stored is None or stored.certificate is None or stored.hash != block.hash:
            for tx, _ in executed(block):  # it was run again meanwhile, on the same disk
                self._tell_of(tx.id)
            return
        for position, (tx, receipt) in enumerate(executed(block)):
            waiting = self._included.pop(tx.id, ())
            if not waiting:
                continue
            receipts = self._receipts(stored.height, stored.hash, stored.certificate)
            found = {
                "height": block.header.height,
                "position": position,
                "receipt": receipt,
                "sequencer_receipt": receipts.receipt(position),
            }
            for future in waiting:
                future.set_result(found)

    def _tell_of(self, tx_id: Bytes32) -> None:
        place = None if tx_id not in self._included else self.transaction(tx_id)
        if place is None or place.height is None or place.receipt is None or place.receipt.gas_used == 0:
            return
        found = {"height": place.height, "position": place.position, "receipt": place.receipt, **place.extra}
        for future in self._included.pop(tx_id):
            future.set_result(found)

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        l1_final, height = self._l1_final(), self.node.l1_height
        in_step = l1_final is not None and height > 0 and height + READY_LAG >= l1_final
        return in_step, {"l1_final": l1_final, "l1_height": height, "waits_for": "" if in_step else "L1"}

    def metrics(self) -> Mapping[str, float]:
        node = self.node
        return {
            "l1_height": node.l1_height,
            "head_height": node.local.head.header.height,
            "safe_height": self._head_block("safe").header.height,
            "finalized_height": self._head_block("finalized").header.height,
            "head_batch": node.derivation.head,
            "final_batch": node.derivation.finalized,
            "open_disputes": len(node.derivation.open_disputes()),
            "mempool_transactions": len(node.mempool),
            "unposted_bytes": node.local.transaction_bytes,
            "inbox_pending": node.pending_messages(),
        }


def _message(step: Step) -> dict[str, Any]:
    shown: dict[str, Any] = to_json(step)
    return shown


def batch_json(node: RollupNode, index: int) -> dict[str, Any] | None:
    """A batch as this node derived it: L1's record beside the root that execution gave."""
    batch = node.derivation.batches.get(index)
    if batch is None:
        return None
    return {
        **to_json(batch.record),
        "status": batch.status,
        "computed_root": to_json(batch.computed_root),
        "matches": batch.matches,
        "l1_height": batch.l1_height,
        "l1_transaction": to_json(batch.l1_tx_id),
        "disputes": [d.index for d in node.derivation.disputes.values() if d.batch == index],
    }
