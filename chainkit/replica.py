"""A followed chain on disk: its final blocks, its final state, and where to go on from.

Responsible for keeping what a verifying follower has established, so that a restart continues there.
Must not know what the chain's contracts mean to anybody, nor how blocks are fetched.
"""

from collections.abc import Iterator

from chainkit.block import Block, Certificate, Header
from chainkit.block_rows import StoredBlock
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import CodecError, decode, encode
from chainkit.execution import Receipt, receipts_root
from chainkit.store import Store, StoreError
from chainkit.transaction import SignedTransaction

_PAGE = 200


class Replica:
    """The final part of a chain in a `Store`. ``tip`` is its last block, genesis at first.

    Raises `chainkit.store.StoreError` if what is stored is damaged, or its state is not the one that the block states.
    """

    def __init__(self, store: Store, chain: Chain) -> None:
        self.store = store
        self.chain = chain
        self.tip = self._load_tip()

    def _load_tip(self) -> ExecutedBlock:
        stored = self.store.block_by_height(self.store.head_height())
        if stored is None:
            return self.chain.genesis_block
        block = self._block_of(stored)
        tree = self.store.load_state()
        if tree.root != block.header.state_root:
            raise self._damaged(f"the state does not have the root of block {stored.height}")
        return ExecutedBlock(block, stored.hash, (), (), tree, {})

    def append(self, executed: ExecutedBlock, certificate: Certificate) -> None:
        """Keep a block that became final, with its state: all of it, or nothing.

        Raises `ValueError` unless it follows the tip: what is left out here is missing for good.
        """
        height = executed.header.height
        if executed.header.parent != self.tip.hash:
            raise ValueError(f"block {height} does not follow block {self.tip.header.height}")
        pairs = zip(executed.transactions, executed.receipts, strict=True)
        with self.store.transaction():
            self.store.put_block(encode(executed.block), height, executed.hash, encode(certificate), pairs)
            if height == 1:  # the genesis state was never written on its own
                self.store.put_state(executed.tree, height)
            else:
                self.store.apply_state_changes(executed.changes, height, executed.tree)
        self.tip = executed

    def busy_blocks(self) -> Iterator[tuple[Header, list[tuple[SignedTransaction, Receipt]]]]:
        """Every stored block that has transactions, in order, with their receipts. Raises `StoreError`."""
        height = 1
        while page := self.store.blocks_from(height, _PAGE):
            for stored in page:
                if stored.height != height:
                    raise self._damaged(f"block {height} is missing")
                height += 1
                block = self._block_of(stored)
                if block.transactions:
                    pairs = self.transactions(stored.height)
                    if [tx.wire for tx, _ in pairs] != block.transactions:
                        raise self._damaged(f"a transaction of block {stored.height} is missing")
                    if receipts_root([receipt for _, receipt in pairs]) != block.header.receipts_root:
                        raise self._damaged(
                            f"a receipt of block {stored.height} is not the one of its header"
                        )
                    yield block.header, pairs

    def transactions(self, height: int) -> list[tuple[SignedTransaction, Receipt]]:
        """The transactions of a stored block with their receipts."""
        try:
            return [
                (SignedTransaction.decode(stored.wire), stored.receipt)
                for stored in self.store.transactions_of(height)
            ]
        except CodecError:
            raise self._damaged(f"a transaction of block {height} cannot be read") from None

    def _block_of(self, stored: StoredBlock) -> Block:
        try:
            block = decode(Block, stored.block)
        except CodecError:
            raise self._damaged(f"block {stored.height} cannot be read") from None
        if block.header.hash() != stored.hash:
            raise self._damaged(f"block {stored.height} is not the one that was stored")
        return block

    def _damaged(self, what: str) -> StoreError:
        return StoreError(
            f"{what} in {str(self.store.file)!r}; delete the directory to follow the chain again from genesis"
        )
