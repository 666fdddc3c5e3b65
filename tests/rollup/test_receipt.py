"""The sequencer's receipt: every field is bound by the block's one signature, and nothing else passes for one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rollup_world import ALICE, KEYS

from chainkit.codec import CodecError, decode, encode
from chainkit.hashing import tagged_hash
from chainkit.merkle_list import list_root
from rollup.receipt import MAX_PATH, BlockPromise, BlockReceipts, SequencerReceipt

KEY = KEYS["sequencer"]
IDS = [bytes([n]) * 32 for n in range(5)]
SIGNED = BlockPromise.sign(KEY, 901, 5, IDS)
PROMISE = BlockReceipts(SIGNED, IDS).receipt(2)


def test_it_is_valid_and_survives_its_encoding() -> None:
    assert PROMISE.valid()
    assert decode(SequencerReceipt, encode(PROMISE)) == PROMISE
    assert decode(BlockPromise, encode(SIGNED)) == SIGNED
    assert (PROMISE.sequencer, PROMISE.tx_id, PROMISE.position) == (KEY.address, IDS[2], 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.data())
def test_each_place_of_a_block_has_its_receipt_and_no_other(count: int, data: st.DataObject) -> None:
    ids = [n.to_bytes(32, "big") for n in range(count)]
    receipts = BlockReceipts(BlockPromise.sign(KEY, 901, 5, ids), ids)
    position = data.draw(st.integers(0, count - 1))
    other = data.draw(st.integers(0, count))
    receipt = receipts.receipt(position)
    assert receipt.valid()
    assert replace(receipt, position=other).valid() == (other == position)
    assert not replace(receipt, tx_id=b"\xff" * 32).valid()
    # Two roots for one height are two signatures that contradict each other.
    swapped = [*ids[:position], b"\xff" * 32, *ids[position + 1 :]]
    contradiction = BlockReceipts(BlockPromise.sign(KEY, 901, 5, swapped), swapped).receipt(position)
    assert contradiction.valid()
    assert contradiction.signature != receipt.signature


def test_there_is_no_receipt_for_a_place_that_the_block_does_not_have() -> None:
    receipts = BlockReceipts(SIGNED, IDS)
    for position in (-1, len(IDS)):
        with pytest.raises(IndexError):
            receipts.receipt(position)


@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": 902},
        {"tx_id": IDS[3]},
        {"height": 6},
        {"position": 3},
        {"count": 4},
        {"count": 6},
        {"count": 0},
        {"path": []},
        {"path": PROMISE.path[:-1]},
        {"path": [*PROMISE.path, bytes(32)]},
        {"path": PROMISE.path[::-1]},
        {"sequencer": ALICE.address},
        {"signature": bytes(64)},
        {"height": 2, "position": 5},
    ],
)
def test_any_change_makes_it_invalid(change: dict[str, object]) -> None:
    assert not replace(PROMISE, **change).valid()


def test_a_path_is_bounded_before_it_is_followed() -> None:
    with pytest.raises(CodecError):
        decode(SequencerReceipt, encode(replace(PROMISE, path=[bytes(32)] * (MAX_PATH + 1))))


def test_a_signature_for_another_purpose_is_no_receipt() -> None:
    for tag in ("vote", "proposal", "transaction"):
        message = tagged_hash(tag, encode([901, 5, list_root(IDS)]))
        assert not replace(PROMISE, signature=KEY.sign(message)).valid()
