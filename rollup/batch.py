"""Plain batch data: the L2 blocks that one L1 call carries, transactions in full.

Responsible for the bytes of a plain batch, the bounds of any batch and the hashes that name one. Pure, and shared
by contract, sequencer and verifier. Must not know what steps do. Whoever has no directory of addresses at hand posts
this; the sequencer posts `rollup.packing`, which is half as large. Both are read by `rollup.contents`.

``data`` is one version byte 0x00, then zlib (RFC 1950) of the canonical encoding of a list of `BatchBlock`.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated

from msgspec import Meta

from chainkit.codec import U53, Bytes32, CodecError, Record, decode, encode
from chainkit.hashing import tagged_hash
from chainkit.merkle_list import list_root
from rollup.stf import MAX_STEP_BYTES

MAX_BATCH_BYTES = 4 * 1024 * 1024
MAX_BLOCKS = 16_384
"""Checked before any block is decoded: 4 KB of data could otherwise ask for a million empty blocks."""
MAX_BATCHED_BYTES = MAX_STEP_BYTES - 256
"""Of a transaction that a batch may hold, in whichever format: one step must fit what is shown to the contract."""
VERSION = b"\x00"


class BatchError(ValueError):
    """The batch data is malformed or out of bounds."""


class BatchBlock(Record, frozen=True):
    """An L2 block: its time in ms, how many inbox messages it takes in, its transactions' wire bytes."""

    time: U53
    inbox_count: U53
    transactions: list[bytes]


_Blocks = Annotated[list[BatchBlock], Meta(max_length=MAX_BLOCKS)]


def encode_batch(blocks: Sequence[BatchBlock]) -> bytes:
    """Compress blocks into batch data."""
    return VERSION + zlib.compress(encode(list(blocks)), 6)


def decode_batch(data: bytes) -> list[BatchBlock]:
    """Read batch data in bounded memory. Raises `BatchError`."""
    if data[:1] != VERSION:
        raise BatchError("unknown batch version")
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data[1:], MAX_BATCH_BYTES)
    except zlib.error as error:
        raise BatchError(f"not zlib data: {error}") from None
    if not stream.eof or stream.unused_data or stream.unconsumed_tail:
        raise BatchError(f"truncated, followed by other bytes, or over {MAX_BATCH_BYTES} bytes")
    try:
        blocks: list[BatchBlock] = decode(_Blocks, plain, limit=MAX_BATCH_BYTES)
    except CodecError as error:
        raise BatchError(str(error)) from None
    if not blocks:
        raise BatchError("a batch has at least one block")
    if any(len(tx) > MAX_STEP_BYTES - 16 for block in blocks for tx in block.transactions):
        raise BatchError("a transaction is too large for a step")
    return blocks


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
