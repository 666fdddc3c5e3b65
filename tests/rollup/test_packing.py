"""Packed batch data: the very bytes that were signed come out again, and nothing else goes in."""

import tracemalloc
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from chainkit.codec import MAX_AMOUNT, decode, encode
from chainkit.keys import KeyPair
from chainkit.merkle_list import list_root, verify_list_proof
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from rollup.batch import MAX_BATCH_BYTES, MAX_BLOCKS, MAX_ENTRIES, BatchBlock, BatchError, encode_batch
from rollup.contents import CommittedSteps, Contents, open_step, packed_hash, read_contents, step_hashes
from rollup.contents import write_contents as write
from rollup.directory import Directory
from rollup.packing import (
    MAX_TRANSACTIONS,
    SIGNATURE_BYTES,
    VERSION,
    PackedBlock,
    PackedCall,
    PackedTransfer,
    Unpacked,
    _column,
    _Columns,
    _values,
    numbers_of,
)
from rollup.stf import MAX_STEP_BYTES, BeginBlock, Transact, step_hash

CHAIN = 901
KEYS = [KeyPair(bytes([i]) * 32) for i in range(1, 9)]
ADDRESSES = [key.address for key in KEYS]

numbers = st.one_of(st.integers(0, 300), st.integers(0, MAX_AMOUNT))
actions = st.one_of(
    st.builds(Transfer, st.sampled_from(ADDRESSES), numbers),
    st.builds(Transfer, st.binary(min_size=32, max_size=32), numbers),
    st.builds(Call, st.sampled_from(["token", "m"]), st.just("mint"), st.binary(max_size=60), numbers),
)


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """Any transaction of the chain; whether its signature is good is not for the packer to ask."""
    fields = [draw(numbers) for _ in range(4)]
    body = Body(CHAIN, draw(st.sampled_from(ADDRESSES)), *fields, draw(actions))  # type: ignore[arg-type]
    return b"\x98" + encode(body)[1:] + encode(draw(st.binary(min_size=64, max_size=64)))


blocks_strategy = st.lists(
    st.builds(
        BatchBlock, st.integers(0, MAX_AMOUNT), st.integers(0, MAX_AMOUNT), st.lists(wires(), max_size=5)
    ),
    min_size=1,
    max_size=4,
)


def transfer(who: int, nonce: int, to: int, amount: int = 1, chain: int = CHAIN) -> bytes:
    body = Body(chain, ADDRESSES[who], nonce, 27_000, 20, 1, Transfer(ADDRESSES[to], amount))
    return SignedTransaction.sign(body, KEYS[who]).wire


def directory_of(*addresses: bytes) -> Directory:
    directory = Directory()
    directory.append(addresses)
    return directory


def unpacked(data: bytes, directory: Directory) -> list[BatchBlock]:
    contents = read_contents(data, len(directory))
    directory.append(contents.addresses)
    return contents.wires(directory, CHAIN)


BLOCKS = [BatchBlock(5, 1, [transfer(0, 7, 1), transfer(1, 0, 0)]), BatchBlock(6, 0, [transfer(0, 8, 0)])]
PACKED = write(BLOCKS, CHAIN, Directory())


def columns_of(data: bytes = PACKED) -> _Columns:
    return decode(_Columns, zlib.decompressobj().decompress(data[1:]))


def data_of(columns: Any, signatures: bytes | None = None) -> bytes:
    if signatures is None:
        signatures = bytes(64 * len(columns.kinds)) if isinstance(columns, _Columns) else b""
    plain = columns if isinstance(columns, bytes) else encode(columns)
    return VERSION + zlib.compress(plain, 9) + signatures


# --- round trips ---


@settings(max_examples=150, deadline=None)
@given(blocks_strategy, st.lists(st.sampled_from(ADDRESSES), max_size=4))
def test_every_transaction_comes_out_byte_for_byte(blocks: list[BatchBlock], known: list[bytes]) -> None:
    data = write(blocks, CHAIN, directory_of(*known))
    assert data[:1] == VERSION
    assert unpacked(data, directory_of(*known)) == blocks


@settings(max_examples=50, deadline=None)
@given(
    blocks_strategy,
    st.lists(st.sampled_from(ADDRESSES), max_size=3),
    st.lists(st.binary(min_size=32, max_size=32)),
)
def test_a_directory_that_grew_meanwhile_shifts_only_the_new_numbers(
    blocks: list[BatchBlock], known: list[bytes], others: list[bytes]
) -> None:
    """Whoever packs may have seen an older directory: a batch that is reverted later leaves its addresses there."""
    data = write(blocks, CHAIN, directory_of(*known))
    assert unpacked(data, directory_of(*known, *others)) == blocks


@settings(max_examples=100, deadline=None)
@given(blocks_strategy, st.sampled_from([0, 140, 160, 1 << 20]), st.booleans())
def test_what_is_read_in_columns_is_what_decoding_one_by_one_gives(
    blocks: list[BatchBlock], limit: int, plain: bool
) -> None:
    contents = read_contents(encode_batch(blocks) if plain else write(blocks, CHAIN, Directory()), 0)
    read, transactions = contents.read(directory_of(*contents.addresses), CHAIN, limit)
    assert read == blocks
    for wire, found in zip([w for block in blocks for w in block.transactions], transactions, strict=True):
        if len(wire) > limit:
            assert found is None
        else:
            tx = SignedTransaction.decode(wire)
            assert found is not None
            assert (found.wire, found.id, found.body, found.signature) == (wire, tx.id, tx.body, tx.signature)
    if isinstance(contents.transactions, Unpacked):
        assert contents.committed == [encode(packed) for packed in contents.transactions.packed()]
        assert contents.leaves == [packed_hash(data) for data in contents.committed]


def test_what_is_not_a_transaction_of_the_chain_is_posted_in_full() -> None:
    for wire in (b"", b"x", transfer(0, 0, 1, chain=900), transfer(0, 0, 1) + b"\0"):
        blocks = [BatchBlock(1, 0, [transfer(1, 0, 2), wire])]
        data = write(blocks, CHAIN, Directory())
        assert data[:1] == b"\0"
        assert unpacked(data, Directory()) == blocks


def test_a_known_address_costs_its_number_and_a_nonce_that_follows_nothing() -> None:
    many = [BatchBlock(1, 0, [transfer(i % 8, i // 8, (i + 3) % 8, i) for i in range(256)])]
    cold, warm = write(many, CHAIN, Directory()), write(many, CHAIN, directory_of(*ADDRESSES))
    assert len(cold) - len(warm) >= 8 * 32
    assert set(_values(columns_of(warm).nonces, 256, MAX_AMOUNT)) == {0}
    assert len(warm) <= 256 * 67 + 200


@settings(max_examples=100, deadline=None)
@given(st.lists(numbers, max_size=30))
def test_a_column_round_trips_in_as_many_bytes_as_its_largest_number(values: list[int]) -> None:
    column = _column(values)
    assert list(_values(column, len(values), MAX_AMOUNT)) == values
    width = max(1, (max(values, default=0).bit_length() + 7) // 8)
    assert (column[0], len(column)) == (width, 1 + width * len(values))


# --- refusals ---


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans(), st.integers(0, 3))
@example(b"", False, 0)
def test_arbitrary_bytes_are_a_batch_or_a_typed_refusal(data: bytes, compressed: bool, count: int) -> None:
    with suppress(BatchError):
        read_contents(VERSION + (zlib.compress(data) if compressed else data), count)


def test_any_truncation_is_refused_and_any_flipped_bit_too_or_seen() -> None:
    """But for bits that fill up a byte between two parts of the compressed columns: nothing reads them."""
    for end in range(len(PACKED)):
        with pytest.raises(BatchError):
            read_contents(PACKED[:end], 0)
    good = read_contents(PACKED, 0)
    signatures = len(PACKED) - SIGNATURE_BYTES * len(good.transactions)
    refused = 0
    for bit in range(8 * len(PACKED)):
        at = bit // 8
        other = PACKED[:at] + bytes([PACKED[at] ^ 1 << bit % 8]) + PACKED[at + 1 :]
        try:
            found = read_contents(other, 0)
        except BatchError:
            refused += 1
        else:
            assert (found == good) is (at < signatures)
            assert (found.transactions == good.transactions) is (at < signatures)
    assert refused > 8 * signatures * 9 // 10


@pytest.mark.parametrize("extra", [b"\0", bytes(64), PACKED])
def test_bytes_after_the_last_signature_are_refused(extra: bytes) -> None:
    with pytest.raises(BatchError, match="signatures"):
        read_contents(PACKED + extra, 0)


def test_numbers_beyond_the_directory_and_what_comes_with_the_batch_are_refused() -> None:
    good = columns_of()
    assert read_contents(data_of(good), 0).transactions
    for field in ("senders", "to"):
        bad = replace(good, **{field: _column([0, 1, 2])})
        with pytest.raises(BatchError, match="out of range"):
            read_contents(data_of(bad), 0)
    with pytest.raises(BatchError, match="the directory has 4"):
        read_contents(data_of(replace(good, known=5)), 4)
    with pytest.raises(BatchError, match="cut short"):
        read_contents(data_of(replace(good, addresses=good.addresses[:-1])), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": b"\0\0\2"},
        {"kinds": b"\0\0"},
        {"kinds": b"\0\0\1"},
        {"actions": [b""]},
        {"blocks": []},
        {"blocks": [PackedBlock(0, 0, 2)]},
        {"blocks": [PackedBlock(0, 0, 4)]},
        {"senders": b""},
        {"senders": b"\0"},
        {"senders": b"\x01\0\0"},
        {"senders": b"\x01\0\0\0\0"},
        {"amounts": b"\x07" + b"\xff" * 21},
        {"amounts": b"\x08" + bytes(24)},
        {"nonces": b"\x07" + bytes(18) + b"\0\0\x20"},
        {"tips": b"\x07" + b"\xff" * 21},
    ],
)
def test_columns_that_do_not_fit_together_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BatchError):
        read_contents(data_of(replace(columns_of(), **change)), 0)


def test_an_action_that_no_step_could_carry_is_refused() -> None:
    call = Body(CHAIN, ADDRESSES[0], 0, 1, 1, 1, Call("token", "mint", bytes(100), 0))
    wire = SignedTransaction.sign(call, KEYS[0]).wire
    good = columns_of(write([BatchBlock(0, 0, [wire])], CHAIN, Directory()))
    for size, fits in ((MAX_STEP_BYTES - 256, True), (MAX_STEP_BYTES - 255, False)):
        data = data_of(replace(good, actions=[bytes(size)]))
        if fits:
            assert read_contents(data, 0).wires(directory_of(ADDRESSES[0]), CHAIN)
        else:
            with pytest.raises(BatchError, match="too large"):
                read_contents(data, 0)


def test_too_many_blocks_or_transactions_are_refused() -> None:
    good = columns_of()
    empty = replace(good, blocks=[PackedBlock(0, 0, 0)] * MAX_BLOCKS + [PackedBlock(0, 0, 3)])
    with pytest.raises(BatchError):
        read_contents(data_of(empty), 0)
    with pytest.raises(BatchError):
        read_contents(data_of(replace(good, kinds=bytes(MAX_TRANSACTIONS + 1))), 0)


@pytest.mark.parametrize(
    "plain",
    [
        bytes(100_000_000),
        b"\x9c" + b"\x91" * 1_000_000,
        b"\x9c\x00\xc6\xff\xff\xff\xff",
        encode(_Columns(0, b"", [], bytes(MAX_TRANSACTIONS), *[b""] * 7, [])),
        encode(
            _Columns(
                0, b"", [PackedBlock(0, 0, 0)] * MAX_BLOCKS, b"", *[b"\x01"] * 7, [b""] * MAX_TRANSACTIONS
            )
        ),
        encode(_Columns(0, bytes(4_000_000), [], b"", *[b"\x01"] * 7, [])),
    ],
)
def test_a_bomb_is_refused_in_bounded_memory(plain: bytes) -> None:
    data = data_of(plain)
    assert len(data) < 120_000
    tracemalloc.start()
    try:
        with pytest.raises(BatchError):
            read_contents(data, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_BATCH_BYTES


def test_large_batches_do_not_stay_in_memory() -> None:
    """A few KB each, and as many steps as any contract takes."""
    wires = [bytes(2)] * (MAX_ENTRIES - 1)
    bombs = [encode_batch([BatchBlock(time, 0, wires)]) for time in range(3)]
    assert max(map(len, bombs)) < 5_000
    del wires
    tracemalloc.start()
    try:
        assert [read_contents(data, 0).steps for data in bombs] == [MAX_ENTRIES] * 3
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < MAX_BATCH_BYTES // 4
    assert read_contents(PACKED, 0) is read_contents(PACKED, 0)


# --- commitments ---


def test_the_contract_commits_to_numbers_and_nonces_spelled_out() -> None:
    contents = read_contents(PACKED, 0)
    assert isinstance(contents.transactions, Unpacked)
    first, second, third = contents.transactions.packed()
    assert isinstance(first, PackedTransfer)
    assert (first.sender, first.nonce, first.to) == (0, 7, 1)
    assert isinstance(second, PackedTransfer)
    assert (second.sender, second.nonce, second.to) == (1, 0, 0)
    assert isinstance(third, PackedTransfer)
    assert (third.sender, third.nonce, third.to, numbers_of(third)) == (0, 8, 0, [0])
    assert contents.addresses == ADDRESSES[:2]
    message = b"m" * 32
    assert step_hashes(contents, 9, 0, lambda _: message) == [
        step_hash(BeginBlock(9, 5)),
        message,
        packed_hash(encode(first)),
        packed_hash(encode(second)),
        step_hash(BeginBlock(10, 6)),
        packed_hash(encode(third)),
    ]


def committed(data: bytes, directory: Directory) -> tuple[Contents, CommittedSteps]:
    contents = read_contents(data, len(directory))
    directory.append(contents.addresses)
    return contents, CommittedSteps(contents, step_hashes(contents, 9, 0, lambda _: b"m" * 32), directory)


def test_every_step_opens_under_the_two_roots_also_when_the_directory_has_grown() -> None:
    directory = directory_of(ADDRESSES[5])
    contents, steps = committed(write(BLOCKS, CHAIN, directory), directory)
    count, root = len(directory), directory.frontier.root()
    assert root == list_root([directory[i] for i in range(count)])
    directory.append(ADDRESSES[6:])
    wires = iter([wire for block in BLOCKS for wire in block.transactions])
    assert isinstance(contents.transactions, Unpacked)
    posted = list(contents.transactions.packed())
    for index in (2, 3, 5):
        shown = open_step(steps, index, Transact(next(wires)))
        packed = posted[{2: 0, 3: 1, 5: 2}[index]]
        assert shown.step == encode(packed)
        verify_list_proof(list_root(steps), index, len(steps), packed_hash(shown.step), shown.proof)
        assert not isinstance(packed, PackedCall)
        for number, (address, proof) in zip(numbers_of(packed), shown.addresses, strict=True):
            verify_list_proof(root, number, count, address, proof)
    for index, step in ((0, BeginBlock(9, 5)), (4, BeginBlock(10, 6))):
        shown = open_step(steps, index, step)
        assert (shown.step, shown.addresses) == (encode(step), [])
        verify_list_proof(list_root(steps), index, len(steps), step_hash(step), shown.proof)
    with pytest.raises(IndexError):
        open_step(steps, 6, BeginBlock(0, 0))


def test_a_directory_numbers_addresses_by_their_first_appearance() -> None:
    directory = directory_of(*ADDRESSES[:3])
    assert directory.numbers()[ADDRESSES[2]] == 2
    directory.append([ADDRESSES[0], ADDRESSES[4]])
    assert (directory.numbers()[ADDRESSES[0]], directory.numbers()[ADDRESSES[4]]) == (0, 4)
    assert (len(directory), directory[3]) == (5, ADDRESSES[0])
    for number in (-1, 5):
        with pytest.raises(IndexError):
            directory[number]
