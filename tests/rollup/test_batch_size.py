"""The bound on a batch's size, before it is packed: never too small, and near."""

import hashlib
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit.block import Header
from chainkit.codec import MAX_AMOUNT, encode
from chainkit.execution import FeeParameters
from chainkit.keys import KeyPair
from chainkit.merkle import Tree
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from rollup.batch import BatchBlock, encode_batch
from rollup.batch_size import BatchSize
from rollup.block import L2Block
from rollup.contents import write_contents
from rollup.directory import Directory
from rollup.duties import ENVELOPE_BYTES
from rollup.node import MAX_BLOCK_TRANSACTIONS_BYTES
from rollup.stf import Deposit, Step, Transact

CHAIN = 901
KEYS = [KeyPair(hashlib.sha256(b"batch size %d" % n).digest()) for n in range(40)]

numbers = st.one_of(st.integers(0, 300), st.integers(0, MAX_AMOUNT))
people = st.integers(0, len(KEYS) - 1)
transfers = st.builds(lambda to, amount: Transfer(KEYS[to].address, amount), people, numbers)
calls = st.builds(
    lambda contract, method, args, value: Call("c" * contract, "m" * method, args, value),
    st.integers(1, 32),
    st.integers(1, 32),
    st.binary(max_size=600),
    numbers,
)


def signed(
    sender: int, nonce: int, gas: int, fee: int, tip: int, action: Transfer | Call
) -> SignedTransaction:
    """With a signature that nothing compresses; whether it is good is not asked here."""
    body = Body(CHAIN, KEYS[sender].address, nonce, gas, fee, tip, action)
    signature = hashlib.sha512(encode(body)).digest()
    return SignedTransaction.assemble([body], [signature])[0]


transactions = st.builds(signed, people, numbers, numbers, numbers, numbers, st.one_of(transfers, calls))
sendings = st.lists(st.one_of(transactions, transactions, st.binary(max_size=300)), max_size=25)


def block_of(sent: Sequence[SignedTransaction | bytes], deposits: int = 0) -> L2Block:
    """A block with these transactions; bytes are one that cannot be decoded."""
    own = [None if isinstance(tx, bytes) else tx for tx in sent]
    steps: list[Step] = [Deposit(n, bytes(32), bytes(32), 1) for n in range(deposits)]
    steps += [Transact(tx if isinstance(tx, bytes) else tx.wire) for tx in sent]
    zero = bytes(32)
    header = Header(CHAIN, 1, 1, MAX_AMOUNT, zero, zero, zero, zero, zero, 1, 0)
    return L2Block(header, zero, tuple(steps), (*([None] * deposits), *own), (), Tree.EMPTY, {})


def bound_and_size(blocks: Sequence[L2Block], known: Sequence[bytes] = ()) -> tuple[int, int]:
    directory = Directory()
    directory.append(known)
    size = BatchSize(directory)
    for block in blocks:
        size.add(block)
    batch = [BatchBlock(block.header.time, block.inbox_count, block.wires) for block in blocks]
    data = write_contents(batch, CHAIN, directory)
    return size.bytes, min(len(data), len(encode_batch(batch)))


@settings(max_examples=150, deadline=None)
@given(st.lists(sendings, min_size=1, max_size=4), st.integers(0, len(KEYS)))
def test_no_batch_is_larger_than_its_bound(blocks: list[list[SignedTransaction | bytes]], known: int) -> None:
    bound, size = bound_and_size([block_of(sent) for sent in blocks], [key.address for key in KEYS[:known]])
    assert size <= bound


@pytest.mark.parametrize(
    ("nonce", "gas", "fee", "amount"),
    [(100, 1, 1, 10**6), (MAX_AMOUNT, MAX_AMOUNT, MAX_AMOUNT, MAX_AMOUNT)],
    ids=["what a busy rollup posts", "nothing that packing makes smaller"],
)
def test_a_batch_of_transfers_is_filled_to_four_fifths(nonce: int, gas: int, fee: int, amount: int) -> None:
    """Between people that are known, in no order; numbers below these."""
    choice = random.Random(1)
    sent = []
    for _ in range(2_800):
        who, to = KEYS[choice.randrange(40)], KEYS[choice.randrange(40)]
        draw = [choice.randrange(most) for most in (nonce, gas, fee, fee, amount)]
        body = Body(CHAIN, who.address, *draw[:4], Transfer(to.address, draw[4]))
        sent += SignedTransaction.assemble([body], [choice.randbytes(64)])
    blocks = [block_of(sent[:1_400]), block_of(sent[1_400:])]
    bound, size = bound_and_size(blocks, [key.address for key in KEYS])
    assert 0.8 * bound < size <= bound


def test_a_full_block_fits_a_batch_whatever_one_transaction_makes_of_the_columns() -> None:
    """P16: the shortest transfers there are, between addresses that no batch has named, and a single one with the
    largest numbers there are, which makes all its columns as wide as they get."""
    wide = signed(0, MAX_AMOUNT, MAX_AMOUNT, MAX_AMOUNT, MAX_AMOUNT, Transfer(bytes(32), MAX_AMOUNT))
    sent, size = [wide], len(wide.wire)
    while size < MAX_BLOCK_TRANSACTIONS_BYTES:
        n = len(sent)
        to, sender = hashlib.sha256(b"to %d" % n).digest(), hashlib.sha256(b"from %d" % n).digest()
        body = Body(CHAIN, sender, 0, 9_000, 1, 0, Transfer(to, 1))
        sent += SignedTransaction.assemble([body], [sender + to])
        size += len(sent[-1].wire)
    bound, _ = bound_and_size([block_of(sent)])
    assert bound <= FeeParameters().max_transaction_bytes - ENVELOPE_BYTES


def test_messages_take_no_room_and_what_cannot_be_decoded_takes_its_own() -> None:
    sent = [signed(1, n, 20_000, 4, 1, Transfer(KEYS[2].address, n)) for n in range(100)]
    alone, _ = bound_and_size([block_of(sent)])
    assert bound_and_size([block_of(sent, deposits=50)])[0] == alone
    odd, size = bound_and_size([block_of([*sent, hashlib.sha256(b"odd").digest() * 100])])
    assert odd > sum(len(tx.wire) for tx in sent) + 3200
    assert size <= odd


def test_a_block_is_looked_at_once() -> None:
    """It waits with many others and is asked for again at every L1 block: then only its numbers are added up."""
    block = block_of([signed(1, 0, 20_000, 4, 1, Transfer(KEYS[2].address, 1))])
    before = bound_and_size([block])
    object.__setattr__(block, "transactions", ())
    assert bound_and_size([block])[0] == before[0]
