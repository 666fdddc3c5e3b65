"""The sequencer's signed receipt: its promise of a place in the order.

Responsible for the bytes of the promise. Must not know how it is kept.

It promises the position of a transaction in the sequence of L2 blocks. It does not promise a state root,
so it stays true when a false root is reverted and the same blocks are posted again.

One signature serves a whole block: it is over the list root of the block's transaction ids, and each receipt
carries the path from its transaction to that root. Two roots signed for one height contradict each other.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from chainkit.codec import U53, Address, Bytes32, Record, Signature, encode
from chainkit.hashing import tagged_hash
from chainkit.keys import KeyPair, verify
from chainkit.merkle import ProofError
from chainkit.merkle_list import list_root, list_tree, proven_root, tree_proof

MAX_PATH = 64


class SequencerReceipt(Record, frozen=True):
    """``position`` counts the ``count`` transactions of L2 block ``height`` from 0; ``path`` leads from this
    one to the list root of their ids, from the bottom up."""

    chain_id: U53
    tx_id: Bytes32
    height: U53
    position: U53
    count: U53
    path: Annotated[list[Bytes32], Meta(max_length=MAX_PATH)]
    sequencer: Address
    signature: Signature

    def valid(self) -> bool:
        """Whether the sequencer signed it."""
        try:
            root = proven_root(self.position, self.count, self.tx_id, self.path)
        except ProofError:
            return False
        return verify(self.sequencer, _message(self.chain_id, self.height, root), self.signature)


class BlockPromise(Record, frozen=True):
    """The one signature behind the receipts of L2 block ``height``; ``root`` is the list root of its ids."""

    chain_id: U53
    height: U53
    root: Bytes32
    sequencer: Address
    signature: Signature

    @classmethod
    def sign(cls, key: KeyPair, chain_id: int, height: int, tx_ids: Sequence[Bytes32]) -> "BlockPromise":
        """Promise that block ``height`` holds these transactions in this order."""
        root = list_root(tx_ids)
        return cls(chain_id, height, root, key.address, key.sign(_message(chain_id, height, root)))


class BlockReceipts:
    """The receipts of one block, each made when it is asked for."""

    def __init__(self, promise: BlockPromise, tx_ids: Sequence[Bytes32]) -> None:
        """``tx_ids`` are those that the promise was signed for."""
        self._promise = promise
        self._tx_ids = tx_ids
        self._tree = list_tree(tx_ids)

    def receipt(self, position: int) -> SequencerReceipt:
        """Raises `IndexError` if the block has no such transaction."""
        promise, path = self._promise, tree_proof(self._tree, position)
        return SequencerReceipt(
            promise.chain_id,
            self._tx_ids[position],
            promise.height,
            position,
            len(self._tx_ids),
            path,
            promise.sequencer,
            promise.signature,
        )


def _message(chain_id: int, height: int, root: Bytes32) -> Bytes32:
    return tagged_hash("sequencer-receipt", encode([chain_id, height, root]))
