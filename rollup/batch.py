"""Plain batch data: the L2 blocks that one L1 call carries, transactions in full.

Responsible for the bytes of a plain batch, the bounds of any batch, what it costs to read one and the hashes that
name one. Pure, and shared by contract, sequencer and verifier. Must not know what steps do. Whoever has no directory
of addresses at hand posts this; the sequencer posts `rollup.packing`, which is half as large. Both are read by
`rollup.contents`.

``data`` is one version byte 0x00, then zlib (RFC 1950) of the canonical encoding of a list of `BatchBlock`.

Four KB of data can stand for 4 MiB, and these for two million transactions. So whoever reads a batch for somebody
else's gas says how much he may (`Bounds`): nothing is inflated, and nothing decoded, that is not paid for. What is paid
must be the same wherever it is computed. It follows from the inflated bytes and from what they hold; of data that is
refused, from how much could be in it, and not from where the reader gave up: that is another place with another build
of zlib, or with another limit of Python's to how deep data may nest.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final

from msgspec import Meta, Raw

from chainkit.codec import U53, Bytes32, CodecError, Record, decode, encode, list_length
from chainkit.hashing import tagged_hash
from chainkit.merkle_list import list_root
from rollup.stf import MAX_STEP_BYTES

MAX_BATCH_BYTES = 4 * 1024 * 1024
MAX_BLOCKS = 16_384
"""Checked before any block is decoded: 4 KB of data could otherwise ask for a million empty blocks."""
MAX_BATCHED_BYTES = MAX_STEP_BYTES - 256
"""Of a transaction that a batch may hold, in whichever format: one step must fit what is shown to the contract."""
MAX_ENTRIES = 1 << 18
"""Blocks and transactions of a batch that are read at most, whatever the contract's settings."""
VERSION = b"\x00"
BYTES_OF_A_HASH: Final = 64
"""Inflated bytes that cost as much as one hash."""
HASHES_OF_AN_ENTRY: Final = 3
"""What a step, or a new address, costs: it is decoded, hashed, and has its part in a list root."""
_MIN_ENTRY_BYTES: Final = 2
"""What a transaction takes at least of the inflated bytes, a block takes four."""


class BatchError(ValueError):
    """The batch data is malformed or out of bounds. ``cost``: of having read it so far, in hashes."""

    cost = 0


@dataclass(frozen=True)
class Bounds:
    """How much may be read of batch data: so many blocks and transactions, and for so many ``hashes``."""

    entries: int = MAX_ENTRIES
    hashes: int = MAX_BATCH_BYTES // BYTES_OF_A_HASH + HASHES_OF_AN_ENTRY * MAX_ENTRIES

    @property
    def inflated(self) -> int:
        """Bytes that may be inflated."""
        return min(MAX_BATCH_BYTES, BYTES_OF_A_HASH * self.hashes)

    def entries_after(self, inflated: int) -> int:
        """Blocks and transactions that may be decoded, when so many bytes were inflated."""
        return min(self.entries, (self.hashes - inflating_cost(inflated)) // HASHES_OF_AN_ENTRY)

    def refused(self, inflated: int) -> int:
        """What data costs, in hashes, that turns out to be malformed, or to hold too much, once it is inflated."""
        entries = min(self.entries, inflated // _MIN_ENTRY_BYTES)
        return inflating_cost(inflated) + HASHES_OF_AN_ENTRY * entries


def inflating_cost(inflated: int) -> int:
    """What so many inflated bytes cost, in hashes."""
    return -(-inflated // BYTES_OF_A_HASH)


class BatchBlock(Record, frozen=True):
    """An L2 block: its time in ms, how many inbox messages it takes in, its transactions' wire bytes."""

    time: U53
    inbox_count: U53
    transactions: list[bytes]


class _Outline(Record, frozen=True):
    """A block of which the transactions are not decoded yet."""

    time: U53
    inbox_count: U53
    transactions: Raw


_Blocks = Annotated[list[BatchBlock], Meta(max_length=MAX_BLOCKS)]
_Outlines = Annotated[list[_Outline], Meta(max_length=MAX_BLOCKS)]


def encode_batch(blocks: Sequence[BatchBlock]) -> bytes:
    """Compress blocks into batch data."""
    return VERSION + zlib.compress(encode(list(blocks)), 6)


def inflate(compressed: bytes, most: int = MAX_BATCH_BYTES) -> tuple[bytes, bytes]:
    """What ``compressed`` is the zlib stream of, and what follows the stream. Inflates ``most`` bytes and one, no more.

    Raises `BatchError`, whose cost is that of the longest stream there may be: how far one gets with data that is no
    stream is not the same everywhere.
    """
    stream = zlib.decompressobj()
    try:
        # With room for one byte more, a stream of ``most`` bytes never fills it: its end is always seen.
        plain = stream.decompress(compressed, most + 1)
    except zlib.error as error:
        raise not_inflated(f"not zlib data: {error}") from None
    if not stream.eof or len(plain) > most:
        raise not_inflated(f"truncated, or over {most} bytes")
    return plain, stream.unused_data


def not_inflated(message: str) -> BatchError:
    """What refuses data that is not a stream of at most as many bytes as may be inflated."""
    error = BatchError(message)
    error.cost = inflating_cost(MAX_BATCH_BYTES)
    return error


def decode_batch(data: bytes) -> list[BatchBlock]:
    """Read plain batch data in bounded memory. Raises `BatchError`."""
    if data[:1] != VERSION:
        raise BatchError("unknown batch version")
    return read_blocks(*inflate(data[1:]))


def read_blocks(plain: bytes, rest: bytes, most: int = MAX_ENTRIES) -> list[BatchBlock]:
    """The blocks of a plain batch that was inflated, ``rest`` being what followed. Raises `BatchError`.

    The ``most`` blocks and transactions that there may be are counted before any of them is decoded.
    """
    if rest:
        raise BatchError("the zlib stream is followed by other bytes")
    try:
        if list_length(plain) > most or _entries(decode(_Outlines, plain, limit=MAX_BATCH_BYTES)) > most:
            raise BatchError(f"over {most} blocks and transactions")
        blocks: list[BatchBlock] = decode(_Blocks, plain, limit=MAX_BATCH_BYTES)
    except CodecError as error:
        raise BatchError(str(error)) from None
    if not blocks:
        raise BatchError("a batch has at least one block")
    if any(len(tx) > MAX_STEP_BYTES - 16 for block in blocks for tx in block.transactions):
        raise BatchError("a transaction is too large for a step")
    return blocks


def _entries(blocks: Sequence[_Outline]) -> int:
    return len(blocks) + sum(list_length(memoryview(block.transactions)) for block in blocks)


def steps_root(hashes: Sequence[Bytes32]) -> Bytes32:
    """The commitment to a batch's steps."""
    return _steps_root(tuple(hashes))


@lru_cache(maxsize=16)
def _steps_root(hashes: tuple[Bytes32, ...]) -> Bytes32:
    """In one process the contract and derivation ask for the same batch, see `rollup.contents.read_contents`."""
    return list_root(hashes)


def data_hash(data: bytes) -> Bytes32:
    """What names the batch data."""
    return tagged_hash("batch-data", data)
