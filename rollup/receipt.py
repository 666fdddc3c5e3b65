"""The sequencer's signed receipt: its promise of a place in the order.

Responsible for the bytes of the promise. Must not know how it is kept.

It promises the position of a transaction in the sequence of L2 blocks. It does not promise a state root,
so it stays true when a false root is reverted and the same blocks are posted again.
"""

from chainkit.codec import U53, Address, Bytes32, Record, Signature, encode
from chainkit.hashing import tagged_hash
from chainkit.keys import KeyPair, verify


class SequencerReceipt(Record, frozen=True):
    """``position`` counts the transactions of L2 block ``height`` from 0."""

    chain_id: U53
    tx_id: Bytes32
    height: U53
    position: U53
    sequencer: Address
    signature: Signature

    @classmethod
    def sign(
        cls, key: KeyPair, chain_id: int, tx_id: Bytes32, height: int, position: int
    ) -> "SequencerReceipt":
        signature = key.sign(_message(chain_id, tx_id, height, position))
        return cls(chain_id, tx_id, height, position, key.address, signature)

    def valid(self) -> bool:
        """Whether the sequencer signed it."""
        message = _message(self.chain_id, self.tx_id, self.height, self.position)
        return verify(self.sequencer, message, self.signature)


def _message(chain_id: int, tx_id: Bytes32, height: int, position: int) -> Bytes32:
    return tagged_hash("sequencer-receipt", encode([chain_id, tx_id, height, position]))
