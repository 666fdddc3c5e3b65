"""The committee bridge's bytes, written by hand as docs/PROTOCOL.md says."""

from bridge.abi import Withdrawal
from bridge.committee_abi import (
    AttestArgs,
    CommitteeParams,
    Deposit,
    EscrowTotals,
    GatewayTotals,
    Payout,
    Voice,
    WithdrawArgs,
    count_key,
    deposit_key,
    paid_key,
    voice_key,
    withdrawal_key,
)
from chainkit.codec import encode

A, B = b"\xaa" * 32, b"\xbb" * 32
BIN_A, BIN_B = b"\xc4\x20" + A, b"\xc4\x20" + B
INDEX = b"\x00\x00\x00\x00\x00\x00\x01\x07"
BIG = b"\xcf\x00\x1f\xff\xff\xff\xff\xff\xff"


def test_arguments_and_records_are_arrays_in_this_order() -> None:
    assert encode(AttestArgs(7, A, 2**53 - 1)) == b"\x93\x07" + BIN_A + BIG
    assert encode(WithdrawArgs(A)) == b"\x91" + BIN_A
    assert encode(EscrowTotals(1, 2, 3)) == b"\x93\x01\x02\x03"
    assert encode(GatewayTotals(1, 2, 3, 4)) == b"\x94\x01\x02\x03\x04"
    assert encode(Deposit(1, A, B, 2, 3)) == b"\x95\x01" + BIN_A + BIN_B + b"\x02\x03"
    assert encode(Withdrawal(1, A, B, 2)) == b"\x94\x01" + BIN_A + BIN_B + b"\x02"
    assert encode(Voice(A, 5)) == b"\x92" + BIN_A + b"\x05"
    assert encode(Payout(A, 5, 6)) == b"\x93" + BIN_A + b"\x05\x06"
    params = CommitteeParams([A, B], 2, 3, 4, 5, 6)
    assert encode(params) == b"\x96\x92" + BIN_A + BIN_B + b"\x02\x03\x04\x05\x06"


def test_storage_keys() -> None:
    assert deposit_key(263) == b"deposit/" + INDEX
    assert withdrawal_key(263) == b"withdrawal/" + INDEX
    assert voice_key(263, A) == b"voice/" + INDEX + A
    assert count_key(263, A, 263) == b"count/" + INDEX + A + INDEX
    assert paid_key(263) == b"paid/" + INDEX
