"""Transactions: their bytes, their identity, their signature.

Responsible for what a user signs. Must not know how it is executed or paid for.

A transaction on the wire is the array ``[chain_id, sender, nonce, gas_limit, max_fee_per_gas, tip_per_gas,
action, signature]``. Its id is the tagged hash of the same array without the signature, so that no second
signature gives it a second id (docs/PROTOCOL.md, section 4); the signature signs the id.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import msgspec

from chainkit.codec import (
    U53,
    Address,
    Amount,
    Bytes32,
    CodecError,
    Name,
    Record,
    Signature,
    decode,
    decode_together,
    encode,
    from_json,
    to_json,
)
from chainkit.hashing import tagged_hash, tagged_hashes
from chainkit.keys import KeyPair, verify, verify_many

MAX_TRANSACTION_BYTES = 512 * 1024
"""Larger ones are refused before they are decoded; a chain's genesis may set less."""


class Transfer(Record, frozen=True, tag=0):
    """Move ``amount`` gwei to ``to``."""

    to: Address
    amount: Amount


class Call(Record, frozen=True, tag=1):
    """Call a native contract; ``args`` are the canonical bytes of the method's argument record."""

    contract: Name
    method: Name
    args: bytes
    value: Amount


class Body(Record, frozen=True):
    """What is signed. Fees are in gwei per unit of gas, as in EIP-1559."""

    chain_id: U53
    sender: Address
    nonce: U53
    gas_limit: U53
    max_fee_per_gas: U53
    tip_per_gas: U53
    action: Transfer | Call


class _Wire(Record, frozen=True):
    chain_id: U53
    sender: Address
    nonce: U53
    gas_limit: U53
    max_fee_per_gas: U53
    tip_per_gas: U53
    action: Transfer | Call
    signature: Signature


_SIGNATURE_HEAD = b"\xc4\x40"
_SIGNATURE_SUFFIX = len(_SIGNATURE_HEAD) + 64  # MessagePack bin8 header and the signature


def transaction_id(body_bytes: bytes) -> Bytes32:
    """The identity of a transaction: a tagged hash of the encoded `Body`."""
    return tagged_hash("transaction", body_bytes)


class SignedTransaction(msgspec.Struct, gc=False, eq=False):
    """A decoded transaction with its wire bytes and id, each made once. Equality is by wire bytes.

    What was found out about it stays with it: whether its sender signed it, and by which rules of a chain it is
    well formed (see `chainkit.execution.check_stateless`).
    """

    body: Body
    signature: bytes
    wire: bytes
    id: Bytes32
    _valid: bool | None = None
    passed: object = None

    @classmethod
    def decode(cls, wire: bytes, *, limit: int = MAX_TRANSACTION_BYTES) -> "SignedTransaction":
        """Read wire bytes. Raises `CodecError`. The signature is not checked here."""
        return cls._read(decode(_Wire, wire, limit=limit), wire)

    @classmethod
    def decode_together(
        cls, wires: Sequence[bytes], *, limit: int = MAX_TRANSACTION_BYTES
    ) -> list["SignedTransaction"] | None:
        """`decode` of each, for less; None if it would raise for any of them.

        What is hashed is also what is decoded: nothing is made for the wire's array, whose last element has its place.
        """
        if max(map(len, wires), default=0) > limit:
            return None
        for wire in wires:
            if wire[:1] != b"\x98" or wire[-_SIGNATURE_SUFFIX:-64] != _SIGNATURE_HEAD:
                return None
        encoded = [b"\x97" + wire[1:-_SIGNATURE_SUFFIX] for wire in wires]
        bodies = decode_together(Body, encoded, limit=limit)
        if bodies is None:
            return None
        signatures = [wire[-64:] for wire in wires]
        return list(map(cls, bodies, signatures, wires, tagged_hashes("transaction", encoded)))

    @classmethod
    def _read(cls, w: _Wire, wire: bytes) -> "SignedTransaction":
        body = Body(w.chain_id, w.sender, w.nonce, w.gas_limit, w.max_fee_per_gas, w.tip_per_gas, w.action)
        # The body's array is the wire's array one element shorter: no second encoding is needed.
        return cls(body, w.signature, wire, transaction_id(b"\x97" + wire[1:-_SIGNATURE_SUFFIX]))

    @classmethod
    def assemble(cls, bodies: Sequence[Body], signatures: Sequence[bytes]) -> list["SignedTransaction"]:
        """What `decode` makes of each body with its signature, if all fields are in range: the caller knows that."""
        encoded = list(map(encode, bodies))
        wires = [
            b"\x98" + body[1:] + _SIGNATURE_HEAD + signature
            for body, signature in zip(encoded, signatures, strict=True)
        ]
        ids = tagged_hashes("transaction", encoded)
        return list(map(cls, bodies, signatures, wires, ids))

    @classmethod
    def sign(cls, body: Body, key: KeyPair) -> "SignedTransaction":
        """Sign a body. Raises `CodecError` if it is out of range or the key is not the sender's."""
        if key.address != body.sender:
            raise CodecError("the sender is not the key that signs")
        encoded = encode(body)
        decode(Body, encoded)
        tx_id = transaction_id(encoded)
        signature = key.sign(tx_id)
        wire = b"\x98" + encoded[1:] + encode(signature)
        return cls(body, signature, wire, tx_id)

    @classmethod
    def from_json(cls, value: Any) -> "SignedTransaction":
        """Read the JSON face (see docs/PROTOCOL.md). Raises `CodecError`."""
        return cls.decode(encode(from_json(_Wire, value)))

    def to_json(self) -> dict[str, Any]:
        return {
            "hash": to_json(self.id),
            **to_json(self.body),
            "signature": to_json(self.signature),
        }

    def signature_valid(self) -> bool:
        """Whether the sender signed it; checked once."""
        if self._valid is None:
            self._valid = verify(self.body.sender, self.id, self.signature)
        return self._valid

    def note_signature(self, valid: bool) -> None:
        """Take over the verdict of `chainkit.keys.verify` on this signature, found in another process."""
        self._valid = valid
        self.passed = None

    @property
    def value(self) -> int:
        """What the action moves out of the sender's balance besides fees, in gwei."""
        action = self.body.action
        return action.amount if isinstance(action, Transfer) else action.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SignedTransaction) and other.wire == self.wire

    def __hash__(self) -> int:
        return hash(self.wire)

    def __repr__(self) -> str:
        return f"<SignedTransaction 0x{self.id.hex()[:16]} nonce {self.body.nonce}>"


IsAccount = Callable[[Address], bool]
"""Whether there is such an account in a state."""


def no_account(_address: Address) -> bool:
    """`IsAccount` where no state is at hand."""
    return False


def verify_signatures(
    transactions: Sequence[SignedTransaction],
    executor: Executor | None = None,
    is_account: IsAccount = no_account,
) -> None:
    """Check many signatures at once, in the executor's threads (libsodium releases the GIL).

    ``is_account`` tells of accounts in a state of the transactions' chain: their keys were checked as they came in.
    """
    unknown = [tx for tx in transactions if tx._valid is None]
    items = [(tx.body.sender, tx.id, tx.signature, is_account(tx.body.sender)) for tx in unknown]
    results = verify_many(items, executor)
    for tx, valid in zip(unknown, results, strict=True):
        tx._valid = valid
