"""The rollup's final state on disk, and what it saves a start: executing again all that was ever posted.

Responsible for keeping, with each batch that became final and true, the state after it and the root that this node
computed for every batch so far; and for reading it back. What is read is held against L1 by `Derivation`: a state
whose root is not the one that L1 made final is not used. Must not know how batches are derived or blocks are made.
"""

import logging
from collections.abc import Mapping, Sequence

from chainkit.block import Block
from chainkit.chain import Chain
from chainkit.codec import CodecError, decode, encode
from chainkit.merkle import Tree
from chainkit.store import Store, StoreError
from rollup.block import MAX_STORED_BYTES, L2Block
from rollup.derived import DerivedBatch, Resume

log = logging.getLogger("layerlab.rollup")

BATCH_KEY = "final_batch"
"""Meta: the batch after which the stored state is."""


def _root_key(index: int) -> str:
    return f"batch_root/{index}"


class FinalState:
    """Call `keep` or `keep_all` inside the store's transaction in which the rest of an L1 block is taken in."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes: dict[int, dict[bytes, bytes]] = {}

    def load(self, chain: Chain) -> Resume | None:
        """Where an earlier run can be taken up; None if there was none, or what it left is damaged."""
        height, batch = self._store.state_height(), self._store.get_meta(BATCH_KEY)
        if height is None or batch is None:
            return None
        try:
            resume = self._read(chain, height, decode(int, batch))
        except (StoreError, CodecError) as error:
            log.warning("the final state on disk is of no use: %s", error)
            return None
        if resume is None:
            log.warning("the final state on disk is not the one of L2 block %d", height)
        return resume

    def _read(self, chain: Chain, height: int, batch: int) -> Resume | None:
        roots = {index: self._store.get_meta(_root_key(index)) for index in range(1, batch + 1)}
        known = {index: root for index, root in roots.items() if root is not None}
        end = self._end(chain, height, self._store.load_state())
        return None if end is None or len(known) < len(roots) else Resume(batch, end, known)

    def _end(self, chain: Chain, height: int, tree: Tree) -> L2Block | None:
        header, hash_ = chain.genesis_header, chain.genesis_hash
        if height > 0:
            stored = self._store.block_by_height(height)
            if stored is None:
                return None
            header, hash_ = decode(Block, stored.block, limit=MAX_STORED_BYTES).header, stored.hash
            if header.hash() != hash_:
                return None
        return L2Block(header, hash_, (), (), (), tree, {}) if tree.root == header.state_root else None

    def note(self, batch: DerivedBatch) -> None:
        """A batch was derived: its blocks' changes are at hand until it is settled."""
        changes: dict[bytes, bytes] = {}
        for block in batch.l2_blocks:
            changes.update(block.changes)
        self._changes[batch.index] = changes
        self._store.set_meta(_root_key(batch.index), batch.computed_root)

    def drop(self, index: int) -> None:
        """A batch was reverted."""
        self._changes.pop(index, None)

    def keep(self, batch: DerivedBatch, before: Sequence[int] = ()) -> None:
        """A batch became final, and is true: it costs what it changed. ``before``: those that became final in the same
        L1 block, in order; of their ends nobody has the state any more."""
        parts = [self._changes.pop(index, None) for index in (*before, batch.index)]
        changes: dict[bytes, bytes] = {}
        for part in parts:
            changes.update(part or {})
        if None in parts:
            self._store.put_state(batch.end.tree, batch.end.header.height)
        else:
            self._store.apply_state_changes(changes, batch.end.header.height, batch.end.tree)
        self._store.set_meta(BATCH_KEY, encode(batch.index))

    def catch_up(self, final: DerivedBatch, batches: Mapping[int, DerivedBatch], resumed: int | None) -> None:
        """After a start: what was derived anew is kept as well. ``resumed``: the batch that was taken up, if any."""
        with self._store.transaction():
            for index in sorted(batches):
                if index > (resumed or 0):
                    self.note(batches[index])
                    if batches[index].status != "pending":
                        self.drop(index)
            if resumed != final.index:
                self._changes.pop(final.index, None)
                self.keep(final)
