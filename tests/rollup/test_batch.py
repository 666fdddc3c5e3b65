"""Batch data: one encoding in, bounded memory out, and the steps that follow from it."""

import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit.codec import encode
from chainkit.merkle_list import list_proof, verify_list_proof
from rollup.batch import (
    MAX_BATCH_BYTES,
    MAX_BLOCKS,
    VERSION,
    BatchBlock,
    BatchError,
    data_hash,
    decode_batch,
    encode_batch,
    steps_root,
)
from rollup.contents import read_contents, step_hashes
from rollup.stf import MAX_STEP_BYTES, BeginBlock, Forced, Transact, decode_step, step_hash

BLOCKS = [BatchBlock(5, 1, [b"one", b"two"]), BatchBlock(6, 0, []), BatchBlock(6, 2, [b""])]
blocks_strategy = st.lists(
    st.builds(
        BatchBlock,
        st.integers(0, 2**53 - 1),
        st.integers(0, 2**53 - 1),
        st.lists(st.binary(max_size=40), max_size=5),
    ),
    min_size=1,
    max_size=6,
)


def packed(plain: bytes) -> bytes:
    return VERSION + zlib.compress(plain, 9)


@settings(max_examples=100, deadline=None)
@given(blocks_strategy)
def test_blocks_round_trip(blocks):
    assert decode_batch(encode_batch(blocks)) == blocks


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_arbitrary_bytes_are_a_batch_or_a_typed_refusal(data, versioned, compressed):
    data = zlib.compress(data) if compressed else data
    with suppress(BatchError):
        decode_batch(VERSION + data if versioned else data)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_truncation_is_refused(data):
    whole = encode_batch(BLOCKS)
    with pytest.raises(BatchError):
        decode_batch(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize("extra", [b"\x00", b"\x00" * 5000, encode_batch(BLOCKS), zlib.compress(b"")])
def test_bytes_after_the_end_are_refused(extra):
    with pytest.raises(BatchError):
        decode_batch(encode_batch(BLOCKS) + extra)


def test_bytes_after_the_end_inside_the_compression_are_refused():
    with pytest.raises(BatchError):
        decode_batch(packed(encode(BLOCKS) + b"\x00"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        VERSION,
        b"\x01" + encode_batch(BLOCKS)[1:],
        VERSION + encode_batch(BLOCKS),
        packed(encode_batch(BLOCKS)),
        packed(b""),
        packed(encode([])),
        packed(encode({})),
        packed(encode([[5, 1, [b"x"], 9]])),
        packed(encode([[5, 1]])),
        packed(encode([[5, True, []]])),
        packed(encode([[5, 1.0, []]])),
        packed(encode([[-1, 0, []]])),
        packed(encode([[2**53, 0, []]])),
        packed(encode([[0, 2**53, []]])),
        packed(encode([[0, 0, ["text"]]])),
        packed(b"\x91\x93\xcd\x00\x05\x00\x90"),  # 5 in two bytes
        packed(b"\xdc\x00\x01\x93\x05\x00\x90"),  # a list of one with a long header
        packed(b"\x91" * 100_000),
        VERSION + zlib.compressobj(9, zlib.DEFLATED, -15).compress(b"") + b"\x03\x00",  # raw deflate
        VERSION + b"\x1f\x8b\x08\x00" + bytes(20),  # gzip
        VERSION + zlib.compress(encode(BLOCKS))[:-1] + b"\x00",  # wrong checksum
    ],
)
def test_malformed_data_is_refused(data):
    with pytest.raises(BatchError):
        decode_batch(data)


def test_a_stream_with_a_preset_dictionary_is_refused():
    compressor = zlib.compressobj(zdict=b"one two three")
    with pytest.raises(BatchError):
        decode_batch(VERSION + compressor.compress(encode(BLOCKS)) + compressor.flush())


@pytest.mark.parametrize("megabytes", [5, 100])
def test_a_bomb_is_refused_in_bounded_memory(megabytes):
    compressor = zlib.compressobj(9)
    bomb = (
        VERSION + b"".join(compressor.compress(bytes(2**20)) for _ in range(megabytes)) + compressor.flush()
    )
    assert len(bomb) < 1100 * megabytes
    tracemalloc.start()
    try:
        with pytest.raises(BatchError):
            decode_batch(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * MAX_BATCH_BYTES


def test_a_bomb_of_empty_blocks_is_refused_before_it_is_decoded():
    """4 KB that ask for a million objects: about 130 MiB, if they were made before they are counted."""
    count = (MAX_BATCH_BYTES - 5) // 4
    data = packed(b"\xdd" + count.to_bytes(4, "big") + b"\x93\x00\x00\x90" * count)
    assert len(data) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(BatchError):
            decode_batch(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * MAX_BATCH_BYTES


def test_as_many_blocks_as_allowed_and_one_more():
    empty = BatchBlock(0, 0, [])
    assert len(decode_batch(encode_batch([empty] * MAX_BLOCKS))) == MAX_BLOCKS
    with pytest.raises(BatchError):
        decode_batch(encode_batch([empty] * (MAX_BLOCKS + 1)))


def test_the_largest_batch_passes_and_one_byte_more_does_not():
    full = [bytes(60_000)] * 69

    def with_last(size: int) -> list[BatchBlock]:
        return [BatchBlock(0, 0, [*full, bytes(size)])]

    spare = MAX_BATCH_BYTES - len(encode(with_last(1_000)))
    exact = with_last(1_000 + spare)
    assert len(encode(exact)) == MAX_BATCH_BYTES
    assert decode_batch(encode_batch(exact)) == exact
    with pytest.raises(BatchError):
        decode_batch(encode_batch(with_last(1_000 + spare + 1)))


def test_every_transaction_of_a_batch_fits_a_step():
    """A step that no witness run could decode would be a lie that cannot be proven."""
    largest = bytes(MAX_STEP_BYTES - 16)
    assert decode_batch(encode_batch([BatchBlock(0, 0, [largest])]))
    assert decode_step(encode(Transact(largest))) == Transact(largest)
    assert decode_step(encode(Forced(2**53 - 1, largest[:-16])))
    with pytest.raises(BatchError, match="too large"):
        decode_batch(encode_batch([BatchBlock(0, 0, [largest + b"\x00"])]))


def test_the_steps_of_blocks_in_their_order():
    inbox = {4: step_hash(Forced(4, b"a")), 5: step_hash(Forced(5, b"b")), 6: step_hash(Forced(6, b"c"))}
    expected = [
        step_hash(BeginBlock(9, 5)),
        inbox[4],
        step_hash(Transact(b"one")),
        step_hash(Transact(b"two")),
        step_hash(BeginBlock(10, 6)),
        step_hash(BeginBlock(11, 6)),
        inbox[5],
        inbox[6],
        step_hash(Transact(b"")),
    ]
    contents = read_contents(encode_batch(BLOCKS), 0)
    assert step_hashes(contents, 9, 4, inbox.__getitem__) == expected
    assert contents.steps == len(expected)


def test_the_steps_root_tells_lists_apart_and_proves_each_place():
    hashes = [step_hash(Transact(bytes([i]))) for i in range(5)]
    root = steps_root(hashes)
    assert root not in (steps_root(hashes[:-1]), steps_root([*hashes, hashes[-1]]), steps_root(hashes[::-1]))
    for index, leaf in enumerate(hashes):
        verify_list_proof(root, index, len(hashes), leaf, list_proof(hashes, index))


def test_the_data_hash_is_of_every_byte():
    data = encode_batch(BLOCKS)
    assert len({data_hash(data), data_hash(data[:-1]), data_hash(data + b"\x00")}) == 3
