"""The transactions of a stored block, packed into one row, and taken out of it one by one.

Responsible for the bytes of that row. Must not know where rows are kept, nor what a block means: only that the
bytes of its transactions stand in it, in order.

A row for each transaction would cost more than its bytes, and hold them a second time. So a block's row has their
receipts, end to end, and an entry for each: its id, whether it ran, where it begins and ends in the block, and where
its receipt does among the receipts. One of them is found and cut out without anything being decoded.

What makes it fast: the transactions of most blocks stand at equal distances, so that all places are added up at once
and only compared (`_spans`), and no step of the way to the row is taken one transaction at a time.
"""

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate, count
from operator import add, sub
from typing import Final, NamedTuple

from chainkit.codec import Bytes32, CodecError, decode, encode
from chainkit.execution import Receipt
from chainkit.transaction import SignedTransaction

_ENTRY: Final = struct.Struct("<32s?4I")
_RAN: Final = 32  # the place of that byte in an entry


class StoredBlock(NamedTuple):
    """A block as it was put: its encoded bytes and its encoded certificate, if it has one (on a rollup, what
    the sequencer signed for it)."""

    height: int
    hash: Bytes32
    block: bytes
    certificate: bytes | None


class StoredTransaction(NamedTuple):
    """A transaction in a block, with the receipt that it got there, and that block's hash and certificate."""

    height: int
    position: int
    wire: bytes
    receipt: Receipt
    block_hash: Bytes32
    certificate: bytes | None


def pack(
    block: bytes, transactions: Sequence[tuple[SignedTransaction, Receipt]], receipts: Iterable[bytes] | None
) -> tuple[bytes, bytes]:
    """The entries and the receipts of a block's transactions. ``receipts``: their encoding, if the caller has it.

    Raises `ValueError` unless the transactions stand in ``block``, in this order.
    """
    encoded = [encode(receipt) for _, receipt in transactions] if receipts is None else list(receipts)
    if len(encoded) != len(transactions):
        raise ValueError(f"{len(transactions)} transactions have {len(encoded)} receipts")
    starts, ends = _spans(block, [tx.wire for tx, _ in transactions])
    receipt_ends = list(accumulate(map(len, encoded)))
    ids = [tx.id for tx, _ in transactions]
    ran = [receipt.gas_used > 0 for _, receipt in transactions]
    return b"".join(map(_ENTRY.pack, ids, ran, starts, ends, [0, *receipt_ends], receipt_ends)), b"".join(
        encoded
    )


def _spans(block: bytes, wires: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Where transactions begin and end that follow one another in a block. Raises `ValueError`.

    Nearly always there is as much between any two of them as between the first two.
    """
    if len(wires) < 2:
        return _spans_one_by_one(block, wires)
    lengths = list(map(len, wires))
    first = block.index(wires[0])
    gap = block.index(wires[1], first + lengths[0]) - first - lengths[0]
    ends = list(map(add, accumulate(lengths), count(first, gap)))
    starts = list(map(sub, ends, lengths))
    return (starts, ends) if all(map(block.startswith, wires, starts)) else _spans_one_by_one(block, wires)


def _spans_one_by_one(block: bytes, wires: Sequence[bytes]) -> tuple[list[int], list[int]]:
    starts: list[int] = []
    ends: list[int] = []
    end = gap = 0
    for wire in wires:
        # Nearly always it follows as the one before followed its own; never a later place than the first: the same
        # bytes may come twice, and the second of them would not be found any more.
        start = block.find(wire, end, end + gap + len(wire))
        if start < 0:
            start = block.index(wire, end)
        gap = start - end
        end = start + len(wire)
        starts.append(start)
        ends.append(end)
    return starts, ends


def ids_of(entries: bytes) -> list[Bytes32]:
    """The ids, in order."""
    return [entries[at : at + _RAN] for at in range(0, len(entries), _ENTRY.size)]


def ran_of(entries: bytes) -> bytes:
    """For each transaction a byte, which is 0 if it did not run."""
    return entries[_RAN :: _ENTRY.size]


def position_of(entries: bytes, tx_id: Bytes32, ran: bool) -> int | None:
    """The first position of an id at which it ``ran``, or did not; None if there is none."""
    wanted = tx_id + bytes([ran])
    at = entries.find(wanted)
    while at >= 0 and at % _ENTRY.size:
        at = entries.find(wanted, at + 1)
    return at // _ENTRY.size if at >= 0 else None


class Cut(NamedTuple):
    """Where a transaction begins and ends in its block, and its receipt among the block's receipts."""

    start: int
    end: int
    receipt_start: int
    receipt_end: int


def cut_of(entries: bytes, position: int) -> Cut:
    """Raises `CodecError` if the entries are damaged."""
    try:
        return Cut(*_ENTRY.unpack_from(entries, position * _ENTRY.size)[2:])
    except struct.error:
        raise CodecError(f"there is no transaction {position}") from None


def take_all(stored: StoredBlock, entries: bytes, receipts: bytes) -> list[StoredTransaction]:
    """All transactions of a block, in order. Raises `CodecError` if the row is damaged."""
    found = []
    for position in range(-(-len(entries) // _ENTRY.size)):
        cut = cut_of(entries, position)
        receipt = decode(Receipt, receipts[cut.receipt_start : cut.receipt_end])
        wire = stored.block[cut.start : cut.end]
        found.append(
            StoredTransaction(stored.height, position, wire, receipt, stored.hash, stored.certificate)
        )
    return found
