"""The sequencer's receipt: every field is signed, and nothing else passes for one."""

import pytest
from msgspec.structs import replace
from rollup_world import ALICE, KEYS

from chainkit.codec import decode, encode
from chainkit.hashing import tagged_hash
from rollup.receipt import SequencerReceipt

KEY = KEYS["sequencer"]
PROMISE = SequencerReceipt.sign(KEY, 901, b"\x07" * 32, 5, 2)


def test_it_is_valid_and_survives_its_encoding() -> None:
    assert PROMISE.valid()
    assert decode(SequencerReceipt, encode(PROMISE)) == PROMISE
    assert PROMISE.sequencer == KEY.address


@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": 902},
        {"tx_id": b"\x08" * 32},
        {"height": 6},
        {"position": 3},
        {"sequencer": ALICE.address},
        {"signature": bytes(64)},
        {"height": 2, "position": 5},
    ],
)
def test_any_change_makes_it_invalid(change: dict[str, object]) -> None:
    assert not replace(PROMISE, **change).valid()


def test_a_signature_for_another_purpose_is_no_receipt() -> None:
    for tag in ("vote", "proposal", "transaction"):
        message = tagged_hash(tag, encode([901, b"\x07" * 32, 5, 2]))
        assert not replace(PROMISE, signature=KEY.sign(message)).valid()
