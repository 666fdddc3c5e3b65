"""The local chain of a rollup node: the L2 blocks that it serves, on disk and in memory.

Responsible for extending it, for going back when L1 says otherwise, and for what the sequencer signs.
Must not know of L1, batches or who decides what goes into a block.

Blocks up to a base (the last batch known to be true) are only on disk; those above are in memory too, with
their states, because they may still be replaced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from chainkit.at_hand import AtHand
from chainkit.block import Block
from chainkit.block_rows import StoredBlock
from chainkit.codec import CodecError, decode, encode
from chainkit.events import EventLog
from chainkit.execution import Receipt, Rules
from chainkit.keys import KeyPair
from chainkit.merkle import Tree
from chainkit.state import State
from chainkit.store import Store, StoreError
from chainkit.transaction import SignedTransaction
from rollup.block import MAX_STORED_BYTES, L2Block, execute_block
from rollup.receipt import BlockPromise
from rollup.stf import Deposit, Forced, Step, decode_step

MAX_AT_HAND = 50_000
"""Values of the head's state that are kept at hand: about 15 MB."""


class LocalChain:
    """The chain that a node serves. ``key`` signs receipts (a sequencer), None signs none."""

    def __init__(self, rules: Rules, store: Store, events: EventLog, key: KeyPair | None) -> None:
        self.rules = rules
        self.store = store
        self.events = events
        self.key = key
        self.base: L2Block
        self.base_cursor = 0
        self.recent: list[L2Block] = []
        self.unflushed: L2Block | None = None
        # Of the first blocks of `recent`, of the very list: how many they are, their messages, their bytes.
        self._counted: list[L2Block] = self.recent
        self._counts = (0, 0, 0)
        self._view_of: L2Block | None = None
        self._view = State(Tree.EMPTY)
        self._at_hand = AtHand(MAX_AT_HAND)

    def open(self, base: L2Block, base_cursor: int) -> None:
        """Start on a known base: load the blocks above it from disk and run them again.

        ``base_cursor`` is the inbox index after the base. Raises `StoreError` if a stored block is damaged.
        """
        self.base, self.base_cursor, self.recent = base, base_cursor, []
        stored = self.store.blocks_from(base.header.height + 1, 1_000_000)
        for row in stored:
            block = self._run_stored(row)
            if block.hash != row.hash:  # its header stated a false root: the order stands, the root does not
                again = [self._stored_steps(later) for later in stored if later.height >= row.height]
                with self.store.transaction():
                    self._remove_above(row.height - 1, "run again from disk")
                    for time, steps in again:
                        self.append(execute_block(self.rules, self.head, time, steps))
                return
            self.recent.append(block)

    def _run_stored(self, row: StoredBlock) -> L2Block:
        time, steps = self._stored_steps(row)
        return execute_block(self.rules, self.head, time, steps)

    @staticmethod
    def _stored_steps(row: StoredBlock) -> tuple[int, list[Step]]:
        """Time (ms) and steps of a stored block. Raises `StoreError` if it is damaged."""
        try:
            block = decode(Block, row.block, limit=MAX_STORED_BYTES)
            return block.header.time, [decode_step(data) for data in block.transactions]
        except CodecError as error:
            raise StoreError(f"L2 block {row.height} on disk is damaged: {error}") from None

    @property
    def head(self) -> L2Block:
        return self.recent[-1] if self.recent else self.base

    @property
    def cursor(self) -> int:
        """The inbox index after the head."""
        return self.base_cursor + self._count()[0]

    @property
    def transaction_bytes(self) -> int:
        """Bytes of the transactions above the base."""
        return self._count()[1]

    def _count(self) -> tuple[int, int]:
        """Inbox messages and transaction bytes of the blocks above the base: asked many times a block, so that each
        block is counted once. Only `append` changes the list in place; whatever else happens makes a new one."""
        counted, messages, size = self._counts if self._counted is self.recent else (0, 0, 0)
        if counted != len(self.recent):
            for block in self.recent[counted:]:
                messages += block.inbox_count
                size += block.transaction_bytes
        self._counted, self._counts = self.recent, (len(self.recent), messages, size)
        return messages, size

    @property
    def view(self) -> State:
        """The state at the head, to be read only. What late blocks wrote, and what was read, is at hand."""
        head, before = self.head, self._view_of
        if head is not before:
            self._keep_at_hand(head, before)
            self._view_of, self._view = head, self._at_hand.state(head.tree)
        elif len(self._view.read()) > MAX_AT_HAND:
            self._view = self._at_hand.state(head.tree)
        return self._view

    def at_hand(self) -> Mapping[bytes, bytes]:
        """What is known of the head's state, to build the next block with; good until the head changes."""
        return self._at_hand.known(self.head.tree, self.view.looked_up())

    def _keep_at_hand(self, head: L2Block, before: L2Block | None) -> None:
        """Of what was known of the state before, everything is true of the next but what its block wrote."""
        if not _is_honest(head):
            return  # a liar's state: no block wrote it, and nothing is known of it
        if before is not None and _is_honest(before) and head.header.parent == before.hash:
            view = self._view
            # What was not looked up is at hand already, unless all of that goes now.
            read = view.read() if self._at_hand.is_full else view.looked_up()
            self._at_hand.move(before.tree, head.tree, {**read, **head.changes} if read else head.changes)
        else:
            self._at_hand.begin(head.tree, head.changes)

    def append(self, block: L2Block, *, flush: bool = True) -> None:
        """Put a block on disk with its events and its receipts' signature, all or nothing; then it is the head.

        Without ``flush`` it is `unflushed` until somebody has called the store's `flush` and then `flushed`: its
        receipts must not be given before.
        """
        with self.store.transaction(flush=flush):
            self._write(block)
        self.recent.append(block)
        if not flush:
            self.unflushed = block

    def flushed(self) -> None:
        """The store's `flush` has returned since the last `append`."""
        self.unflushed = None
        self.store.flushed()

    def adopt(self, blocks: Sequence[L2Block], cursor: int) -> list[L2Block]:
        """Make ``blocks``, which follow the base and are known to be true, the new base.

        Local blocks at the same heights that differ are replaced, and everything above them goes too.
        Returns the local blocks that were lost.
        """
        same = sum(1 for ours, theirs in zip(self.recent, blocks, strict=False) if ours.hash == theirs.hash)
        if same == len(blocks):
            kept, lost = self.recent[same:], []
        else:
            kept, lost = [], self.recent[same:]
            with self.store.transaction():
                self._remove_above(blocks[same].header.height - 1, reason="derived from L1 otherwise")
                for block in blocks[same:]:
                    self._write(block)
        self.base, self.base_cursor, self.recent = blocks[-1], cursor, kept
        for block in blocks:
            block.encoded.clear()  # nobody will write them again
        return lost

    def restore(self, blocks: Sequence[L2Block]) -> None:
        """Before `open`: put final blocks on disk again if they are not there (the L2 store is new)."""
        stored = self.store.block_by_height(blocks[-1].header.height)
        if stored is None or stored.hash != blocks[-1].hash:
            with self.store.transaction():
                self._remove_above(blocks[0].header.height - 1, "derived from L1 otherwise")
                for block in blocks:
                    self._write(block)

    def rewind(self, base: L2Block, base_cursor: int, reason: str) -> list[L2Block]:
        """Go back to ``base``; returns the blocks that were above it."""
        height = base.header.height
        lost = [block for block in self.recent if block.header.height > height]
        with self.store.transaction():
            self._remove_above(height, reason)
        self.base, self.base_cursor, self.recent = base, base_cursor, []
        return lost

    def replay(self, blocks: Sequence[L2Block]) -> None:
        """Run blocks again on the head, same steps and times: their order was promised."""
        for block in blocks:
            known = block.transactions or None  # a slimmed batch has only its steps
            self.append(execute_block(self.rules, self.head, block.header.time, block.steps, known))

    def falsify(self, height: int, tree: Tree) -> None:
        """For fault injection: drop what follows ``height`` and go on from a state that no header states."""
        self._remove_above(height, "dishonest on purpose")
        self.recent = [block for block in self.recent if block.header.height <= height]
        self.recent[-1] = replace(self.recent[-1], tree=tree)

    def between(self, first: int, last: int) -> list[L2Block]:
        """The blocks in memory from height ``first`` to ``last``."""
        return [block for block in self.recent if first <= block.header.height <= last]

    def at(self, height: int) -> L2Block | None:
        """The block in memory at ``height``, if it is above the base."""
        place = height - self.base.header.height - 1
        return self.recent[place] if 0 <= place < len(self.recent) else None

    # --- disk ---

    def _remove_above(self, height: int, reason: str) -> None:
        if self.store.head_height() > height:
            self.store.remove_blocks_above(height)
            self.events.append(
                "ChainReverted", {"to_height": height, "reason": reason}, height=height, source="rollup"
            )

    def _write(self, block: L2Block) -> None:
        height = block.header.height
        encoded = block.take_encoded()
        pairs = executed(block)
        there = zip(block.transactions, encoded.receipts, strict=True)
        receipts = [receipt for tx, receipt in there if tx is not None]
        promise = None
        if self.key is not None and pairs:
            promise = encode(
                BlockPromise.sign(self.key, self.rules.chain_id, height, [tx.id for tx, _ in pairs])
            )
        wire = encode(Block(block.header, encoded.steps))
        self.store.put_block(wire, height, block.hash, promise, pairs, receipts)
        if block.inbox_count:
            self._tell_of_messages(block)
        self.events.append_receipts(self.rules.contracts, block.receipts, height)

    def _tell_of_messages(self, block: L2Block) -> None:
        height = block.header.height
        for step, receipt in zip(block.steps, block.receipts, strict=True):
            if isinstance(step, Deposit):
                data = {
                    "index": step.index,
                    "to": "0x" + step.to.hex(),
                    "amount": step.amount,
                    "depositor": "0x" + step.depositor.hex(),
                }
                self.events.append(
                    "DepositCredited", data, height=height, source="rollup", tx_id=receipt.tx_id
                )
            elif isinstance(step, Forced):
                data = {"index": step.index, "success": receipt.success, "code": receipt.code}
                self.events.append(
                    "ForcedTransactionExecuted", data, height=height, source="rollup", tx_id=receipt.tx_id
                )


def _is_honest(block: L2Block) -> bool:
    return block.tree.root == block.header.state_root


def executed(block: L2Block) -> list[tuple[SignedTransaction, Receipt]]:
    """The transactions of a block that could be decoded, with their receipts, in order."""
    pairs = zip(block.transactions, block.receipts, strict=True)
    return [(tx, receipt) for tx, receipt in pairs if tx is not None]
