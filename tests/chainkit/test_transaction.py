"""What a user signs: one id, one encoding, and a signature that is good for one chain, purpose and nonce."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import ALICE, BOB, CHAIN_ID, STRANGER, call, transfer

from chainkit.block import SignedHeader, Vote, slot_message
from chainkit.codec import MAX_AMOUNT, CodecError, decode, encode, parse_json
from chainkit.hashing import tagged_hash
from chainkit.keys import verify
from chainkit.transaction import (
    Body,
    Call,
    SignedTransaction,
    Transfer,
    transaction_id,
    verify_signatures,
)

L = 2**252 + 27742317777372353535851937790883648493
GOOD = transfer(ALICE, 7, BOB.address, 5)


def with_signature(tx: SignedTransaction, signature: bytes) -> SignedTransaction:
    return SignedTransaction.decode(tx.wire[:-64] + signature)


# --- identity ---


def test_the_id_is_the_hash_of_the_body_alone() -> None:
    assert GOOD.id == tagged_hash("transaction", encode(GOOD.body)) == transaction_id(encode(GOOD.body))
    assert SignedTransaction.decode(GOOD.wire).id == GOOD.id
    assert SignedTransaction.decode(GOOD.wire) == GOOD


@settings(max_examples=100, deadline=None)
@given(
    nonce=st.integers(0, MAX_AMOUNT),
    limit=st.integers(0, MAX_AMOUNT),
    amount=st.integers(0, MAX_AMOUNT),
    args=st.binary(max_size=70_000) | st.binary(max_size=40),
    transfers=st.booleans(),
)
def test_wire_and_body_give_the_same_id(
    nonce: int, limit: int, amount: int, args: bytes, transfers: bool
) -> None:
    action = Transfer(BOB.address, amount) if transfers else Call("x", "y", args, amount)
    tx = SignedTransaction.sign(Body(CHAIN_ID, ALICE.address, nonce, limit, 1, 0, action), ALICE)
    again = SignedTransaction.decode(tx.wire)
    assert (again.id, again.body, again.signature) == (tx.id, tx.body, tx.signature)
    assert again.id == transaction_id(encode(again.body))
    assert again.signature_valid()


def test_a_malleated_signature_is_no_second_transaction() -> None:
    """S + L verifies under a sloppy library; here it does not, and the id would be the same anyway."""
    r, s = GOOD.signature[:32], int.from_bytes(GOOD.signature[32:], "little")
    twin = with_signature(GOOD, r + (s + L).to_bytes(32, "little"))
    assert twin.id == GOOD.id
    assert twin != GOOD
    assert not twin.signature_valid()
    assert GOOD.signature_valid()


# --- encoding ---


def test_every_bit_is_bound() -> None:
    for place in range(len(GOOD.wire)):
        for bit in (0, 3, 7):
            mutated = bytearray(GOOD.wire)
            mutated[place] ^= 1 << bit
            try:
                tx = SignedTransaction.decode(bytes(mutated))
            except CodecError:
                continue
            assert not tx.signature_valid(), (place, bit)


@pytest.mark.parametrize(
    "wire",
    [b"", b"\x98", GOOD.wire + b"\x00", GOOD.wire[:-1], b"\xdc\x00\x08" + GOOD.wire[1:], GOOD.wire * 2],
)
def test_cut_padded_and_respelled_wires_are_refused(wire: bytes) -> None:
    with pytest.raises(CodecError):
        SignedTransaction.decode(wire)


def test_many_wires_at_once_are_the_same_transactions() -> None:
    wires = [transfer(ALICE, nonce, BOB.address, 5).wire for nonce in range(20)]
    wires.append(call(ALICE, 0, "x", "y", bytes(300)).wire)
    found = SignedTransaction.decode_together(wires)
    alone = [SignedTransaction.decode(wire) for wire in wires]
    assert found is not None
    assert [(tx.body, tx.signature, tx.wire, tx.id) for tx in found] == [
        (tx.body, tx.signature, tx.wire, tx.id) for tx in alone
    ]
    assert not any(tx.passed for tx in found)
    assert all(tx.signature_valid() for tx in found)
    for bad in (b"", GOOD.wire[:-1], GOOD.wire + b"\x00", b"\xdc\x00\x08" + GOOD.wire[1:], bytes(600_000)):
        assert SignedTransaction.decode_together([*wires, bad, wires[0]]) is None
    assert SignedTransaction.decode_together(wires, limit=len(wires[-1]) - 1) is None
    assert SignedTransaction.decode_together([]) == []


def test_many_wires_at_once_are_refused_if_one_is_alone() -> None:
    for place in range(len(GOOD.wire)):
        for bit in range(8):
            wire = bytearray(GOOD.wire)
            wire[place] ^= 1 << bit
            try:
                alone = [SignedTransaction.decode(bytes(wire))]
            except CodecError:
                alone = None
            assert SignedTransaction.decode_together([bytes(wire)]) == alone, (place, bit)


def test_the_size_is_bounded_before_decoding() -> None:
    assert SignedTransaction.decode(GOOD.wire, limit=len(GOOD.wire)) == GOOD
    with pytest.raises(CodecError, match="at most"):
        SignedTransaction.decode(GOOD.wire, limit=len(GOOD.wire) - 1)
    with pytest.raises(CodecError, match="at most"):
        SignedTransaction.decode(bytes(600_000))


@pytest.mark.parametrize("field", ["chain_id", "nonce", "gas_limit", "max_fee_per_gas", "tip_per_gas"])
@pytest.mark.parametrize("value", [-1, 2**53, 2**64 - 1, True, 1.0, "1", float("nan"), None])
def test_overflowing_numbers_are_neither_signed_nor_read(field: str, value: Any) -> None:
    names = Body.__struct_fields__
    fields = [getattr(GOOD.body, name) for name in names]
    fields[names.index(field)] = value
    with pytest.raises(CodecError):
        SignedTransaction.sign(Body(*fields), ALICE)
    wire = encode([*fields[:-1], [0, BOB.address, 5], GOOD.signature])
    with pytest.raises(CodecError):
        SignedTransaction.decode(wire)
    shown: dict[str, Any] = GOOD.to_json()
    del shown["hash"]
    with pytest.raises(CodecError, match=field):
        SignedTransaction.from_json({**shown, field: value})


@pytest.mark.parametrize("amount", [-1, 2**53, 2**64 - 1, True, 1.0, "1", None])
def test_overflowing_amounts_are_neither_signed_nor_read(amount: Any) -> None:
    for action in (Transfer(BOB.address, amount), Call("x", "y", b"", amount)):
        body = Body(CHAIN_ID, ALICE.address, 0, 10**5, 5, 0, action)
        with pytest.raises(CodecError):
            SignedTransaction.sign(body, ALICE)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_addresses_have_32_bytes(size: int) -> None:
    with pytest.raises(CodecError):
        transfer(ALICE, 0, bytes(size), 1)


def test_only_the_sender_s_key_signs() -> None:
    with pytest.raises(CodecError, match="not the key"):
        SignedTransaction.sign(GOOD.body, BOB)


def test_json_round_trips() -> None:
    for tx in (GOOD, call(ALICE, 0, "x", "y", b"\x90", 3)):
        shown = tx.to_json()
        assert shown.pop("hash") == "0x" + tx.id.hex()
        assert SignedTransaction.from_json(shown) == tx


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        '{"chain_id": 1}',
        '{"action": {"type": "transfer"}}',
        '{"signature": "0x"}',
        '{"verified": true}',
    ],
)
def test_json_that_is_no_transaction(text: str) -> None:
    with pytest.raises(CodecError):
        SignedTransaction.from_json(parse_json(text))


def test_already_verified_is_not_taken_from_the_sender() -> None:
    """tests/threats/README.md, Wormhole 2022: the verifier computes."""
    shown = GOOD.to_json()
    del shown["hash"]
    for extra in ("verified", "_valid", "hash", "id", "type"):
        with pytest.raises(CodecError, match="unknown field"):
            SignedTransaction.from_json({**shown, extra: True})


# --- signatures (P19) ---


def test_a_signature_is_good_for_one_body_only() -> None:
    names = Body.__struct_fields__
    for name, value in [
        ("chain_id", CHAIN_ID + 1),
        ("sender", STRANGER.address),
        ("nonce", 8),
        ("gas_limit", 1),
        ("max_fee_per_gas", 21),
        ("tip_per_gas", 2),
        ("action", Transfer(BOB.address, 6)),
        ("action", Transfer(STRANGER.address, 5)),
        ("action", Call("x", "y", b"", 5)),
    ]:
        fields = {n: getattr(GOOD.body, n) for n in names} | {name: value}
        wire = b"\x98" + encode(Body(**fields))[1:] + encode(GOOD.signature)
        assert not SignedTransaction.decode(wire).signature_valid(), name


def test_no_signed_type_passes_for_another() -> None:
    """P19: vote, proposal and transaction over the same place, each held against each."""
    vote = Vote.sign(ALICE, CHAIN_ID, 5, 5, bytes(32))
    proposal = ALICE.sign(slot_message("proposal", CHAIN_ID, 5, 5, bytes(32)))
    assert vote.valid()
    assert not SignedHeader(CHAIN_ID, 5, 5, bytes(32), ALICE.address, vote.signature).valid()
    assert not Vote(CHAIN_ID, 5, 5, bytes(32), ALICE.address, proposal).valid()
    assert not Vote(CHAIN_ID + 1, 5, 5, bytes(32), ALICE.address, vote.signature).valid()
    for signature in (vote.signature, proposal):
        assert not with_signature(GOOD, signature).signature_valid()
    for message in (
        slot_message("vote", CHAIN_ID, 5, 5, GOOD.id),
        slot_message("proposal", CHAIN_ID, 5, 5, GOOD.id),
        encode(GOOD.body),
        tagged_hash("vote", encode(GOOD.body)),
    ):
        assert not verify(ALICE.address, message, GOOD.signature)


def test_small_order_and_empty_senders_sign_nothing() -> None:
    for sender in (bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", b"\xff" * 32):
        body = Body(CHAIN_ID, sender, 0, 10**5, 5, 0, Transfer(BOB.address, 1))
        for signature in (bytes(64), b"\x01" + bytes(63), GOOD.signature):
            wire = b"\x98" + encode(body)[1:] + encode(signature)
            assert not SignedTransaction.decode(wire).signature_valid()


@pytest.mark.parametrize("threads", [0, 2])
def test_many_signatures_are_checked_as_one_by_one(threads: int) -> None:
    txs = [transfer(ALICE, n, BOB.address, 1) for n in range(70)]
    txs = [
        with_signature(t, GOOD.signature) if n % 7 == 0 else SignedTransaction.decode(t.wire)
        for n, t in enumerate(txs)
    ]
    with ThreadPoolExecutor(max(threads, 1)) as executor:
        verify_signatures(txs, executor if threads else None)
    assert [t.signature_valid() for t in txs] == [n % 7 != 0 for n in range(70)]
    assert all(t._valid is not None for t in txs)


def test_equality_and_hash_follow_the_wire() -> None:
    twin = SignedTransaction.decode(GOOD.wire)
    assert len({GOOD, twin, transfer(ALICE, 8, BOB.address, 5)}) == 2
    assert GOOD.wire != GOOD
    assert "nonce 7" in repr(GOOD)
    assert decode(Body, encode(GOOD.body)) == GOOD.body
    assert (GOOD.value, call(ALICE, 0, "x", "y", None, 9).value) == (5, 9)
