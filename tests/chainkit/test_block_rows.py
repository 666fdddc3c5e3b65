"""The row of a block's transactions: whatever stands in a block, in whatever order, is found and cut out again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainkit.block_rows import StoredBlock, cut_of, ids_of, pack, take_all
from chainkit.codec import encode
from chainkit.execution import Receipt
from chainkit.keys import dev_keypair
from chainkit.transaction import Body, SignedTransaction, Transfer

ALICE = dev_keypair("alice")
TXS = [
    SignedTransaction.sign(Body(1, ALICE.address, nonce, 20_000, 50, 1, Transfer(ALICE.address, 1)), ALICE)
    for nonce in range(3)
]
LENGTH = len(TXS[0].wire)


def receipt(tx: SignedTransaction) -> Receipt:
    return Receipt(tx.id, False, "x", "", 0, 0, [])


@given(
    st.lists(
        st.one_of(
            st.sampled_from(TXS),
            st.sampled_from([0, 1, 3, LENGTH, LENGTH + 1, 2 * LENGTH]).map(bytes),
            st.sampled_from(TXS).map(lambda tx: tx.wire[:-1]),
        ),
        max_size=12,
    )
)
def test_every_transaction_is_cut_out_of_its_block(parts: list[SignedTransaction | bytes]) -> None:
    """What lies between may be of any length, also that of a transaction, and the same may come twice."""
    block = b"head" + b"".join(part if isinstance(part, bytes) else part.wire for part in parts)
    pairs = [(part, receipt(part)) for part in parts if isinstance(part, SignedTransaction)]
    entries, receipts = pack(block, pairs, None)
    assert ids_of(entries) == [tx.id for tx, _ in pairs]
    found = take_all(StoredBlock(7, bytes(32), block, None), entries, receipts)
    assert [(each.wire, each.receipt) for each in found] == [(tx.wire, had) for tx, had in pairs]
    ends = [cut_of(entries, position).end for position in range(len(pairs))]
    assert ends == sorted(ends)


def test_one_that_comes_twice_where_a_copy_was_guessed() -> None:
    first, second, twice = TXS
    block = b"".join([first.wire, bytes(LENGTH), second.wire, twice.wire, twice.wire])
    entries, receipts = pack(block, [(tx, receipt(tx)) for tx in (first, second, twice, twice)], None)
    found = take_all(StoredBlock(1, bytes(32), block, None), entries, receipts)
    assert [each.wire for each in found] == [tx.wire for tx in (first, second, twice, twice)]


def test_what_is_not_in_the_block_is_refused() -> None:
    with pytest.raises(ValueError, match="not found"):
        pack(encode([TXS[0].wire]), [(TXS[1], receipt(TXS[1]))], None)
