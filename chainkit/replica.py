"""A followed chain on disk: its final blocks, its final state, and where to go on from.

Responsible for keeping what a verifying follower has established, so that a restart continues there.
Must not know what the chain's contracts mean to anybody, nor how blocks are fetched.
"""

from collections.abc import Iterator

from chainkit.block import Block, Certificate, Header
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import decode, encode
from chainkit.execution import Receipt
from chainkit.store import Store, StoredBlock, StoreError
from chainkit.transaction import SignedTransaction

_PAGE = 200


class Replica:
    """The final part of a chain in a `Store`. ``tip`` is its last block, genesis at first.

    Raises `chainkit.store.StoreError` if the stored state is not the one that the stored block states.
    """

    def __init__(self, store: Store, chain: Chain) -> None:
        self.store = store
        self.chain = chain
        self.tip = self._load_tip()

    def _load_tip(self) -> ExecutedBlock:
        stored = self.store.block_by_height(self.store.head_height())
        if stored is None:
            return self.chain.genesis_block
        block = decode(Block, stored.block)
        tree = self.store.load_state()
        if tree.root != block.header.state_root:
            raise StoreError(
                f"the state in {str(self.store.file)!r} does not have the root of block {stored.height}; "
                "delete the directory to follow the chain again from genesis"
            )
        return ExecutedBlock(block, stored.hash, (), (), tree, {})

    def append(self, executed: ExecutedBlock, certificate: Certificate) -> None:
        """Keep a block that became final, with its state: all of it, or nothing."""
        height = executed.header.height
        pairs = zip(executed.transactions, executed.receipts, strict=True)
        changes = executed.changes
        if height == 1:  # the genesis state was never written on its own
            changes = {**dict(self.chain.genesis_tree.items()), **changes}
        with self.store.transaction():
            self.store.put_block(encode(executed.block), height, executed.hash, encode(certificate), pairs)
            self.store.apply_state_changes(changes, height)
        self.tip = executed

    def busy_blocks(self) -> Iterator[tuple[Header, list[tuple[SignedTransaction, Receipt]]]]:
        """Every stored block that has transactions, in order, with their receipts."""
        height = 1
        while page := self.store.blocks_from(height, _PAGE):
            for stored in page:
                height = stored.height + 1
                block = _block_of(stored)
                if block.transactions:
                    yield block.header, self.transactions(stored.height)

    def transactions(self, height: int) -> list[tuple[SignedTransaction, Receipt]]:
        """The transactions of a stored block with their receipts."""
        return [
            (SignedTransaction.decode(stored.wire), stored.receipt)
            for stored in self.store.transactions_of(height)
        ]


def _block_of(stored: StoredBlock) -> Block:
    return decode(Block, stored.block)
