"""What an operator attests, read from two final states and nothing else."""

from typing import Any

import pytest
from committee_world import COIN, OPERATORS, Pair, address, key, make_params

from bridge.abi import DepositArgs
from bridge.committee_abi import AttestArgs, Voice, voice_key
from bridge.operator import KNOWN, MAX_OUTSTANDING, Attester, OperatorFaults
from chainkit.codec import MAX_AMOUNT, CodecError, decode, encode
from chainkit.transaction import Body, Call, SignedTransaction
from rollup.duties import Duty

HONEST = OperatorFaults()
ME = "operator-0"


def attester(pair: Pair, who: str = ME) -> Attester:
    return Attester(pair.params, address(who))


def said(duties: list[Duty]) -> list[tuple[str, str, int, bytes, int]]:
    """Contract, method, index, recipient, amount."""
    found = []
    for duty in duties:
        call = duty.move.call
        args = decode(AttestArgs, call.args)
        assert call.value == 0
        found.append((call.contract, call.method, args.index, args.to, args.amount))
    return found


def due_credits(pair: Pair, operator: Attester | None = None, faults: OperatorFaults = HONEST) -> list[Any]:
    return said((operator or attester(pair)).credits(pair.l1.tip.tree, pair.side.tip.tree, faults))


def due_releases(pair: Pair, operator: Attester | None = None, faults: OperatorFaults = HONEST) -> list[Any]:
    return said((operator or attester(pair)).releases(pair.l1.tip.tree, pair.side.tip.tree, faults))


def play(pair: Pair, who: str, attest: Attester, faults: OperatorFaults = HONEST) -> int:
    """Send all that is due; every call must be accepted. Returns how many there were."""
    count = 0
    for ledger, decide in ((pair.side, attest.credits), (pair.l1, attest.releases)):
        for duty in decide(pair.l1.tip.tree, pair.side.tip.tree, faults):
            args = decode(AttestArgs, duty.move.call.args)
            pair.ok(ledger, who, duty.move.call.method, args)
            count += 1
    return count


def test_nothing_happened_nothing_to_say() -> None:
    pair = Pair()
    assert (due_credits(pair), due_releases(pair)) == ([], [])


def test_a_deposit_is_a_credit_and_a_withdrawal_a_release_each_until_it_is_said() -> None:
    pair, operator = Pair(), attester(Pair())
    pair.deposit("alice", "bob", 5 * COIN)
    pair.deposit("carol", "carol", 7 * COIN)
    due = [
        ("gateway", "credit", 0, address("bob"), 5 * COIN),
        ("gateway", "credit", 1, address("carol"), 7 * COIN),
    ]
    assert due_credits(pair, operator) == due == due_credits(pair, operator)
    pair.ok(pair.side, ME, "credit", AttestArgs(0, address("bob"), 5 * COIN))
    assert due_credits(pair, operator) == due[1:] == due_credits(pair)
    pair.credit(1, "carol", 7 * COIN, OPERATORS[1:4])  # paid without this operator
    assert due_credits(pair, operator) == [] == due_credits(pair)
    pair.credit(0, "bob", 5 * COIN, OPERATORS[1:3])
    index = pair.withdraw("bob", "alice", COIN)
    assert due_releases(pair, operator) == [("bridge", "release", index, address("alice"), COIN)]
    pair.release(index, "alice", COIN, OPERATORS[:3])
    assert due_releases(pair, operator) == [] == due_releases(pair)


def test_the_calls_pay_everything_and_none_is_refused() -> None:
    pair = Pair(make_params(2, OPERATORS[:3]))
    everyone = {who: attester(pair, who) for who in OPERATORS[:3]}
    for turn in range(3):
        for amount in (1, 2, 3):
            pair.deposit("alice", "bob", amount * COIN)
        for who, operator in everyone.items():
            play(pair, who, operator)
        if turn:
            pair.withdraw("bob", "carol", turn * COIN)
    for who, operator in everyone.items():
        play(pair, who, operator)
    assert (pair.gateway.credited, pair.escrow.released) == (9, 2)
    assert pair.owed() == pair.escrow.escrow
    assert all(play(pair, who, operator) == 0 for who, operator in everyone.items())


def test_one_that_begins_anew_says_what_one_that_went_on_says() -> None:
    pair, old = Pair(), attester(Pair())
    for index in range(4):
        pair.deposit("alice", "bob", (index + 1) * COIN)
        assert due_credits(pair, old) == due_credits(pair)
        if index % 2:
            pair.ok(pair.side, ME, "credit", AttestArgs(index, address("bob"), (index + 1) * COIN))
    assert [index for _, _, index, *_ in due_credits(pair)] == [0, 2]
    assert due_credits(pair, old) == due_credits(pair)


def test_what_is_outstanding_is_bounded_and_the_oldest_come_first() -> None:
    pair, operator = Pair(), attester(Pair())
    count = MAX_OUTSTANDING + 5
    pair.l1.mine(*_deposits(pair, count))
    assert [index for _, _, index, *_ in due_credits(pair, operator)] == list(range(MAX_OUTSTANDING))
    for index in (0, 3):
        pair.ok(pair.side, ME, "credit", AttestArgs(index, address("bob"), COIN))
    expected = [index for index in range(count) if index not in (0, 3)][:MAX_OUTSTANDING]
    assert [index for _, _, index, *_ in due_credits(pair, operator)] == expected


def _deposits(pair: Pair, count: int) -> list[Any]:
    nonce = pair.l1.state.account(address("alice")).nonce
    call = Call("bridge", "deposit", encode(DepositArgs(address("bob"))), COIN)
    bodies = (Body(900, address("alice"), nonce + i, 60_000, 1_000, 0, call) for i in range(count))
    return [SignedTransaction.sign(body, key("alice")) for body in bodies]


def test_the_voice_that_would_pay_waits_for_the_money_and_holds_up_nobody() -> None:
    pair = Pair(make_params(2, OPERATORS[:3], reserve=100 * COIN))
    far = MAX_AMOUNT
    for who in OPERATORS[:2]:
        pair.ok(pair.side, who, "credit", AttestArgs(far, address("mallory"), 90 * COIN))
    large = pair.deposit("alice", "bob", 50 * COIN)
    small = pair.deposit("alice", "carol", 5 * COIN)
    assert [index for _, _, index, *_ in due_credits(pair)] == [large, small]
    pair.ok(pair.side, "operator-1", "credit", AttestArgs(large, address("bob"), 50 * COIN))
    assert [index for _, _, index, *_ in due_credits(pair)] == [small]
    pair.withdraw("mallory", "mallory", 60 * COIN)
    assert [index for _, _, index, *_ in due_credits(pair)] == [large, small]


# --- faults ---


def test_a_silent_operator_says_nothing_and_then_all_of_it() -> None:
    pair, operator = Pair(), attester(Pair())
    pair.deposit("alice", "bob", 5 * COIN)
    faults = OperatorFaults(silent=True)
    faults.set({"name": "collude", "to": "0x" + address("mallory").hex(), "amount": 1})
    assert (due_credits(pair, operator, faults), due_releases(pair, operator, faults)) == ([], [])
    faults.clear()
    assert len(due_credits(pair, operator, faults)) == 1


def colluding(amount: int, to: str = "mallory") -> OperatorFaults:
    faults = OperatorFaults()
    faults.set({"name": "collude", "to": "0x" + address(to).hex(), "amount": amount})
    return faults


def test_colluders_told_the_same_agree_and_others_do_not() -> None:
    pair = Pair()
    lies = [due_releases(pair, attester(pair, who), colluding(70)) for who in OPERATORS]
    assert len(lies[0]) == 1
    assert all(lie == lies[0] for lie in lies)
    assert lies[0][0][2] >= 2**52
    others = [
        due_releases(pair, attester(pair), colluding(71)),
        due_releases(pair, attester(pair), colluding(70, "bob")),
    ]
    assert len({lie[0][2] for lie in (lies[0], *others)}) == 3


def test_a_colluder_is_honest_otherwise_and_lies_once() -> None:
    pair, operator = Pair(), attester(Pair())
    pair.credit(pair.deposit("alice", "bob", 9 * COIN), "bob", 9 * COIN)
    pair.withdraw("bob", "bob", COIN)
    faults = colluding(70)
    assert [method for _, method, *_ in due_releases(pair, operator, faults)] == ["release", "release"]
    assert play(pair, ME, operator, faults) == 2
    assert play(pair, ME, operator, faults) == 0
    voice = pair.l1.load(voice_key(0, address(ME)), Voice)
    assert voice == Voice(address("bob"), COIN)


@pytest.mark.parametrize("keys", [1, 2, 3, 5])
def test_a_lie_is_paid_from_three_of_five_keys_on(keys: int) -> None:
    pair = Pair()
    loot = pair.escrow.escrow
    had = pair.l1.balance("mallory")
    for who in OPERATORS[:keys]:
        play(pair, who, attester(pair, who), colluding(loot))
    assert pair.l1.balance("mallory") - had == (loot if keys >= 3 else 0)
    assert pair.escrow.escrow == (0 if keys >= 3 else loot)


def test_more_than_there_is_waits() -> None:
    pair = Pair(make_params(1, (ME,)))
    too_much = pair.escrow.escrow + 1
    assert due_releases(pair, faults=colluding(too_much)) == []
    pair.deposit("alice", "bob", COIN)
    assert len(due_releases(pair, faults=colluding(too_much))) == 1


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ([], CodecError, "an object"),
        ({}, LookupError, "None"),
        ({"name": "steal"}, LookupError, "steal"),
        ({"name": ["silent"]}, LookupError, "silent"),
        ({"name": "silent", "amount": 1}, CodecError, "no parameters"),
        ({"name": "collude"}, CodecError, "to"),
        ({"name": "collude", "to": "0x" + "02" * 32, "amount": 1}, CodecError, "valid Ed25519"),
        ({"name": "collude", "to": "0x00", "amount": 1}, CodecError, "to"),
        ({"name": "collude", "to": 7, "amount": 1}, CodecError, "to"),
        ({"name": "collude", "to": "0x" + address("bob").hex()}, CodecError, "amount"),
        ({"name": "collude", "to": "0x" + address("bob").hex(), "amount": 0}, CodecError, "above zero"),
        ({"name": "collude", "to": "0x" + address("bob").hex(), "amount": -1}, CodecError, "amount"),
        ({"name": "collude", "to": "0x" + address("bob").hex(), "amount": 2**53}, CodecError, "amount"),
        ({"name": "collude", "to": "0x" + address("bob").hex(), "amount": 1.0}, CodecError, "amount"),
        ({"name": "collude", "to": "0x" + address("bob").hex(), "amount": True}, CodecError, "amount"),
        (
            {"name": "collude", "to": "0x" + address("bob").hex(), "amount": 1, "index": 0},
            CodecError,
            "index",
        ),
    ],
)
def test_a_fault_with_wrong_parameters_is_refused_and_changes_nothing(
    body: Any, error: type[Exception], message: str
) -> None:
    faults = colluding(5)
    before = faults.to_json()
    with pytest.raises(error, match=message):
        faults.set(body)
    assert faults.to_json() == before


def test_faults_are_shown_and_turned_off_one_by_one() -> None:
    faults = colluding(5)
    faults.set({"name": "silent"})
    assert [fault["name"] for fault in faults.to_json()] == ["collude", "silent"] == sorted(KNOWN)
    faults.clear("silent")
    assert [fault["name"] for fault in faults.to_json()] == ["collude"]
    with pytest.raises(LookupError):
        faults.clear("steal")
    faults.clear()
    assert faults.to_json() == []
