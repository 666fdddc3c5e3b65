"""Packed batch data: the blocks of a batch in columns, addresses by number.

Responsible for the bytes of the packed format, their bounds, and for turning a packed transaction back into the
very bytes that its sender signed. Pure. Must not know what steps do, nor where the contract keeps anything.

``data`` is the version byte 0x01, then zlib of the canonical encoding of `_Columns`, then 64 bytes of signature for
each transaction, which nothing could make smaller. An address is the number that it has in the directory of all
addresses ever named (`rollup.directory`); those that have none yet come in full, once, and get the next ones.

A column of n numbers is its width w in bytes (one byte, 1 to 7) and w planes of n bytes, the lowest bytes first: so
deflate sees like beside like.

What makes it fast: a batch stays in columns. What the contract commits to, and what was signed, is encoded from rows
that `zip` makes of them; nothing is made for a transaction but its bytes.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Raw

from chainkit.codec import (
    MAX_AMOUNT,
    U53,
    Address,
    Amount,
    CodecError,
    Record,
    Signature,
    decode,
    encode,
    list_length,
)
from chainkit.transaction import Body, SignedTransaction, Transfer
from rollup.batch import MAX_BATCH_BYTES, MAX_BATCHED_BYTES, MAX_BLOCKS, MAX_ENTRIES, BatchError
from rollup.stf import MAX_STEP_BYTES

VERSION = b"\x01"
MAX_TRANSACTIONS = MAX_ENTRIES
MAX_ADDRESSES_OF_A_TRANSACTION = 2
"""New addresses of a batch are at most so many for each of its transactions: none names more."""
SIGNATURE_BYTES = 64
TRANSFER, CALL = 0, 1
_ADDRESS_BYTES = 32
_MAX_WIDTH = 7
_NEW = -1
"""Stands for the number of an address that has none yet."""
_Ints = Sequence[int]
_Blocks = TypeVar("_Blocks")
_Actions = TypeVar("_Actions")


class PackedTransfer(Record, frozen=True, tag=TRANSFER):
    """A transfer as the contract commits to it: ``sender`` and ``to`` are numbers in the directory."""

    sender: U53
    nonce: U53
    gas_limit: U53
    max_fee_per_gas: U53
    tip_per_gas: U53
    to: U53
    amount: Amount
    signature: Signature


class PackedCall(Record, frozen=True, tag=CALL):
    """Any other transaction; ``action`` is the encoding of its action."""

    sender: U53
    nonce: U53
    gas_limit: U53
    max_fee_per_gas: U53
    tip_per_gas: U53
    action: Annotated[bytes, Meta(max_length=MAX_BATCHED_BYTES)]
    signature: Signature


Packed = PackedTransfer | PackedCall
"""One for one the transactions of a batch. Its canonical bytes are what the contract hashes."""


class PackedBlock(Record, frozen=True):
    """An L2 block: its time in ms, how many inbox messages it takes in, how many transactions are its own."""

    time: U53
    inbox_count: U53
    transactions: U53


class _Layout(Record, Generic[_Blocks, _Actions], frozen=True):
    """``known`` is how many addresses the directory had for whoever packed; later numbers are of ``addresses``.

    ``kinds`` has a byte for each transaction: 0 a transfer, 1 a call. ``nonces`` are what is to be added (modulo
    2**53) to the nonce that follows the sender's last one in this batch, or to 0. ``to`` and ``amounts`` are the
    transfers', ``actions`` the calls'.
    """

    known: U53
    addresses: bytes
    blocks: _Blocks
    kinds: Annotated[bytes, Meta(max_length=MAX_TRANSACTIONS)]
    senders: bytes
    nonces: bytes
    gas_limits: bytes
    max_fees: bytes
    tips: bytes
    to: bytes
    amounts: bytes
    actions: _Actions


class _Columns(
    _Layout[
        Annotated[list[PackedBlock], Meta(max_length=MAX_BLOCKS)],
        Annotated[list[bytes], Meta(max_length=MAX_TRANSACTIONS)],
    ],
    frozen=True,
):
    """What is packed: see `_Layout`."""


class _Outline(_Layout[Raw, Raw], frozen=True):
    """`_Columns` of which the lists are not decoded yet."""


# --- one transaction ---


def unpack(packed: Packed, chain_id: int, address: Callable[[int], Address]) -> bytes:
    """The wire bytes that were signed; ``address`` gives the address with a number."""
    if isinstance(packed, PackedTransfer):
        action = b"\x93\x00\xc4\x20" + address(packed.to) + encode(packed.amount)
    else:
        action = packed.action
    head = b"\x98" + encode(chain_id) + b"\xc4\x20" + address(packed.sender) + encode(packed.nonce)
    fees = encode(packed.gas_limit) + encode(packed.max_fee_per_gas) + encode(packed.tip_per_gas)
    return head + fees + action + b"\xc4\x40" + packed.signature


def numbers_of(packed: Packed) -> list[int]:
    """The numbers of the addresses that `unpack` asks for, each once, in the order of the fields."""
    if isinstance(packed, PackedTransfer) and packed.to != packed.sender:
        return [packed.sender, packed.to]
    return [packed.sender]


# --- a batch ---


def pack(
    blocks: Sequence[tuple[int, int, Sequence[bytes]]],
    chain_id: int,
    known: int,
    numbers: Mapping[Address, int],
    decoded: Sequence[SignedTransaction] | None = None,
) -> bytes | None:
    """Blocks of (time, inbox messages, wires) as packed data; ``numbers`` are those of the ``known`` first addresses.
    ``decoded`` are the transactions of all these wires in order, if they are at hand.

    None if a wire is not a transaction of this chain, which has no packed form.
    """
    wires = [wire for _, _, wires in blocks for wire in wires]
    if max(map(len, wires), default=0) > MAX_STEP_BYTES:
        return None
    try:
        transactions = decoded if decoded is not None else list(map(SignedTransaction.decode, wires))
    except CodecError:
        return None
    bodies = [tx.body for tx in transactions]
    actions = [body.action for body in bodies]
    calls = [encode(action) for action in actions if not isinstance(action, Transfer)]
    if max(map(len, calls), default=0) > MAX_BATCHED_BYTES or any(b.chain_id != chain_id for b in bodies):
        return None
    transfers = [action for action in actions if isinstance(action, Transfer)]
    senders = [numbers.get(body.sender, _NEW) for body in bodies]
    to = [numbers.get(transfer.to, _NEW) for transfer in transfers]
    fresh: dict[Address, int] = {}
    if _NEW in senders or _NEW in to:
        fresh = _first_named(bodies, known, numbers)
        senders = [fresh.get(body.sender, n) for body, n in zip(bodies, senders, strict=True)]
        to = [fresh.get(transfer.to, n) for transfer, n in zip(transfers, to, strict=True)]
    columns = _Columns(
        known,
        b"".join(fresh),
        [PackedBlock(time, taken, len(wires)) for time, taken, wires in blocks],
        bytes([TRANSFER if isinstance(action, Transfer) else CALL for action in actions]),
        _column(senders),
        _column(_offsets(senders, [body.nonce for body in bodies])),
        _column([body.gas_limit for body in bodies]),
        _column([body.max_fee_per_gas for body in bodies]),
        _column([body.tip_per_gas for body in bodies]),
        _column(to),
        _column([transfer.amount for transfer in transfers]),
        calls,
    )
    return VERSION + _deflate(columns) + b"".join([tx.signature for tx in transactions])


def _first_named(bodies: Sequence[Body], known: int, numbers: Mapping[Address, int]) -> dict[Address, int]:
    """The numbers of addresses that have none yet, in the order in which they appear."""
    fresh: dict[Address, int] = {}
    for body in bodies:
        for address in (body.sender, body.action.to if isinstance(body.action, Transfer) else body.sender):
            if address not in numbers:
                fresh.setdefault(address, known + len(fresh))
    return fresh


def _offsets(senders: _Ints, nonces: _Ints) -> list[int]:
    """What is to be added to each sender's expected nonce; `_nonces` the other way round."""
    expected: dict[int, int] = {}
    offsets: list[int] = []
    for sender, nonce in zip(senders, nonces, strict=True):
        offsets.append(nonce - expected.get(sender, 0) & MAX_AMOUNT)
        expected[sender] = nonce + 1
    return offsets


def _deflate(columns: _Columns) -> bytes:
    """Compress field by field: each column is coded with its own table of lengths."""
    compressor = zlib.compressobj(6)
    fields = [getattr(columns, name) for name in columns.__struct_fields__]
    parts = [compressor.compress(bytes([0x90 + len(fields)]))]
    for field in fields:
        parts += compressor.compress(encode(field)), compressor.flush(zlib.Z_PARTIAL_FLUSH)
    return b"".join([*parts, compressor.flush()])


A = TypeVar("A")
Addresses = Callable[[Sequence[int]], list[Address]]
"""The addresses with these numbers."""


@dataclass(frozen=True)
class Unpacked:
    """The transactions of a batch in columns, in order. ``to`` and ``amounts`` are the transfers', ``actions`` the
    calls'; numbers of addresses are final ones, and all numbers in range."""

    kinds: bytes
    senders: _Ints
    nonces: _Ints
    gas_limits: _Ints
    max_fees: _Ints
    tips: _Ints
    to: _Ints
    amounts: _Ints
    actions: Sequence[bytes]
    signatures: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.kinds)

    def packed(self) -> Iterator[Packed]:
        """Each of them as the contract commits to it."""
        to, amounts, actions = iter(self.to), iter(self.amounts), iter(self.actions)
        common = zip(*self._common(self.senders), strict=True)
        for kind, fields, signature in zip(self.kinds, common, self.signatures, strict=True):
            if kind == TRANSFER:
                yield PackedTransfer(*fields, next(to), next(amounts), signature)
            else:
                yield PackedCall(*fields, next(actions), signature)

    def committed(self) -> list[bytes]:
        """The canonical bytes of each of `packed`."""
        if self.actions:
            return list(map(encode, self.packed()))
        common = self._common(self.senders)
        rows = zip(self.kinds, *common, self.to, self.amounts, self.signatures, strict=True)
        return list(map(encode, rows))

    def wires(self, chain_id: int, addresses: Addresses) -> list[bytes]:
        """The wire bytes that were signed."""
        transfers = self.transfers(chain_id, addresses)
        if transfers is not None:
            return [tx.wire for tx in transfers]
        return [unpack(packed, chain_id, lambda n: addresses([n])[0]) for packed in self.packed()]

    def transfers(self, chain_id: int, addresses: Addresses) -> list[SignedTransaction] | None:
        """What was signed, if all are transfers: it need not be decoded, since every field is there and in range."""
        if self.actions:
            return None
        actions = map(Transfer, addresses(self.to), self.amounts)
        bodies = list(map(Body, repeat(chain_id), *self._common(addresses(self.senders)), actions))
        return SignedTransaction.assemble(bodies, self.signatures)

    def _common(
        self, senders: Sequence[A]
    ) -> tuple[Sequence[A], Sequence[int], Sequence[int], Sequence[int], Sequence[int]]:
        """The fields that every transaction has, in their order."""
        return senders, self.nonces, self.gas_limits, self.max_fees, self.tips


def unpack_batch(
    plain: bytes, signatures: bytes, count: int, most: int = MAX_ENTRIES
) -> tuple[list[PackedBlock], Unpacked, list[Address]]:
    """Read inflated packed data and the signatures after it, in bounded memory, for a directory of ``count`` addresses.

    Returns blocks, transactions in order with their final numbers, and the addresses to append to the directory. The
    ``most`` blocks and transactions that there may be are counted before any of them is decoded. Raises `BatchError`.
    """
    try:
        outline = decode(_Outline, plain, limit=MAX_BATCH_BYTES)
        _require_within(outline, most)
        columns = decode(_Columns, plain, limit=MAX_BATCH_BYTES)
    except CodecError as error:
        raise BatchError(str(error)) from None
    total = len(columns.kinds)
    calls = columns.kinds.count(CALL)
    if calls + columns.kinds.count(TRANSFER) != total or len(columns.actions) != calls:
        raise BatchError("kinds and actions do not match")
    if len(signatures) != SIGNATURE_BYTES * total:
        raise BatchError(f"{total} transactions have {len(signatures)} bytes of signatures")
    if not columns.blocks or sum(block.transactions for block in columns.blocks) != total:
        raise BatchError("the blocks do not have these transactions")
    if any(len(action) > MAX_BATCHED_BYTES for action in columns.actions):
        raise BatchError("an action is too large for a step")
    fresh = _addresses(columns, count)
    return columns.blocks, _transactions(columns, signatures, count, len(fresh)), fresh


def _require_within(outline: _Outline, most: int) -> None:
    """Count what is about to be decoded. Raises `BatchError`, or `CodecError` if there is no list to count."""
    total = len(outline.kinds)
    if list_length(memoryview(outline.blocks)) + total > most:
        raise BatchError(f"over {most} blocks and transactions")
    if list_length(memoryview(outline.actions)) > total:
        raise BatchError("more actions than transactions")
    if len(outline.addresses) > _ADDRESS_BYTES * MAX_ADDRESSES_OF_A_TRANSACTION * total:
        raise BatchError("more new addresses than the transactions can name")


def _addresses(columns: _Columns, count: int) -> list[Address]:
    if columns.known > count:
        raise BatchError(f"packed for {columns.known} addresses, the directory has {count}")
    data = columns.addresses
    if len(data) % _ADDRESS_BYTES:
        raise BatchError("the last address is cut short")
    return [data[i : i + _ADDRESS_BYTES] for i in range(0, len(data), _ADDRESS_BYTES)]


def _transactions(columns: _Columns, signatures: bytes, count: int, fresh: int) -> Unpacked:
    total, transfers = len(columns.kinds), columns.kinds.count(TRANSFER)
    last, shift = columns.known + fresh - 1, count - columns.known

    def numbers(column: bytes, rows: int) -> Sequence[int]:
        values = _values(column, rows, last)
        return [n + shift if n >= columns.known else n for n in values] if shift else values

    senders = numbers(columns.senders, total)
    return Unpacked(
        columns.kinds,
        senders,
        _nonces(senders, _values(columns.nonces, total, MAX_AMOUNT)),
        _values(columns.gas_limits, total, MAX_AMOUNT),
        _values(columns.max_fees, total, MAX_AMOUNT),
        _values(columns.tips, total, MAX_AMOUNT),
        numbers(columns.to, transfers),
        _values(columns.amounts, transfers, MAX_AMOUNT),
        columns.actions,
        [signatures[i : i + SIGNATURE_BYTES] for i in range(0, len(signatures), SIGNATURE_BYTES)],
    )


def _nonces(senders: Sequence[int], offsets: Sequence[int]) -> list[int]:
    expected: dict[int, int] = {}
    nonces: list[int] = []
    for sender, offset in zip(senders, offsets, strict=True):
        nonce = expected.get(sender, 0) + offset & MAX_AMOUNT
        expected[sender] = nonce + 1
        nonces.append(nonce)
    return nonces


def column_width(largest: int) -> int:
    """Bytes that a number has in a column of which ``largest`` is the largest."""
    return max(1, (largest.bit_length() + 7) // 8)


def _column(values: Sequence[int]) -> bytes:
    width = column_width(max(values, default=0))
    raw = struct.pack(f"<{len(values)}Q", *values)
    return bytes([width]) + b"".join(raw[plane::8] for plane in range(width))


def _values(column: bytes, rows: int, most: int) -> Sequence[int]:
    width = column[0] if column else 0
    if not 1 <= width <= _MAX_WIDTH or len(column) != 1 + width * rows:
        raise BatchError(f"a column is not of {rows} numbers")
    raw = bytearray(8 * rows)
    for plane in range(width):
        raw[plane::8] = column[1 + plane * rows : 1 + (plane + 1) * rows]
    values = struct.unpack(f"<{rows}Q", raw)
    if values and max(values) > most:
        raise BatchError("a number is out of range")
    return values
