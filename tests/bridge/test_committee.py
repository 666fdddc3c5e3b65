"""A bridge with operators, as an attacker sees it: replays, second voices, strangers, thresholds, ends of numbers."""

from typing import Any

import pytest
from committee_world import (
    COIN,
    FUNDS,
    OPERATORS,
    SIDE_CHAIN,
    Pair,
    address,
    l1_genesis,
    make_params,
    reread,
    side_backing,
    side_genesis,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge.abi import DepositArgs
from bridge.committee import check_params, l1_contract_spec, side_contract_spec
from bridge.committee_abi import AttestArgs, CommitteeParams, WithdrawArgs
from chainkit.codec import MAX_AMOUNT, decode, encode
from chainkit.contract import Storage
from chainkit.execution import InvalidTransaction, apply_transaction
from chainkit.genesis import GenesisAccount, GenesisError, genesis_state
from chainkit.keys import KeyPair

BAD_ADDRESS = b"\x02" * 32
FAR = 2**53 - 1


def funded(amount: int = 50 * COIN) -> Pair:
    """Bob has ``amount`` on the side chain."""
    pair = Pair()
    pair.credit(pair.deposit("alice", "bob", amount), "bob", amount)
    return pair


# --- there and back ---


def test_a_deposit_is_credited_once_and_a_withdrawal_paid_once() -> None:
    pair = Pair()
    index = pair.deposit("alice", "bob", 50 * COIN)
    assert pair.escrow.escrow == side_backing() + 50 * COIN == pair.owed()
    pair.credit(index, "bob", 50 * COIN, OPERATORS[:2])
    assert pair.side.balance("bob") == 0
    pair.credit(index, "bob", 50 * COIN, OPERATORS[2:3])
    assert pair.side.balance("bob") == 50 * COIN
    assert pair.owed() == pair.escrow.escrow
    index = pair.withdraw("bob", "carol", 20 * COIN)
    assert pair.owed() == pair.escrow.escrow
    pair.release(index, "carol", 20 * COIN, OPERATORS[1:4])
    assert pair.l1.balance("carol") == FUNDS + 20 * COIN
    assert pair.owed() == pair.escrow.escrow == side_backing() + 30 * COIN
    assert (pair.escrow.released, pair.gateway.credited) == (1, 1)


def test_each_step_is_an_event() -> None:
    pair = Pair()
    names = [
        event.name for event in pair.l1.call("alice", "deposit", DepositArgs(address("bob")), 5 * COIN).events
    ]
    assert names == ["DepositInitiated"]
    seen = []
    for operator in OPERATORS[:3]:
        receipt = pair.side.call(operator, "credit", AttestArgs(0, address("bob"), 5 * COIN))
        seen.append([event.name for event in receipt.events])
    assert seen == [["DepositAttested"], ["DepositAttested"], ["DepositAttested", "DepositCredited"]]
    pair.withdraw("bob", "bob", COIN)
    last = [pair.l1.call(op, "release", AttestArgs(0, address("bob"), COIN)) for op in OPERATORS[:3]][-1]
    assert [event.name for event in last.events] == ["WithdrawalAttested", "WithdrawalPaid"]
    assert decode(type(last.events[0]), encode(last.events[0])) == last.events[0]


def test_public_state_shows_parameters_and_books() -> None:
    pair = funded()
    shown = pair.l1.chain.rules.contracts["bridge"].public_state(Storage(pair.l1.state, "bridge"))
    assert shown["params"]["threshold"] == 3
    assert shown["totals"] == {"escrow": side_backing() + 50 * COIN, "deposits": 1, "released": 0}
    shown = pair.side.chain.rules.contracts["gateway"].public_state(Storage(pair.side.state, "gateway"))
    assert shown["totals"]["outstanding"] == side_backing() + 50 * COIN
    assert shown["totals"]["reserve"] == pair.side.held


# --- replays and second voices ---


@pytest.mark.parametrize("late", OPERATORS)
def test_what_was_paid_is_never_paid_again(late: str) -> None:
    pair = funded()
    pair.refused("already_paid", pair.side, late, "credit", AttestArgs(0, address("bob"), 50 * COIN))
    pair.refused("already_paid", pair.side, late, "credit", AttestArgs(0, address("mallory"), 1))
    pair.withdraw("bob", "bob", COIN)
    pair.release(0, "bob", COIN)
    pair.refused("already_paid", pair.l1, late, "release", AttestArgs(0, address("bob"), COIN))
    pair.refused("already_paid", pair.l1, late, "release", AttestArgs(0, address("mallory"), 2 * COIN))


def test_one_operator_has_one_voice_however_often_it_speaks() -> None:
    pair = funded()
    pair.withdraw("bob", "bob", COIN)
    args = AttestArgs(0, address("bob"), COIN)
    pair.ok(pair.l1, "operator-0", "release", args)
    for _ in range(3):
        pair.refused("already_attested", pair.l1, "operator-0", "release", args)
    pair.refused("conflicting_attestation", pair.l1, "operator-0", "release", replace(args, amount=COIN + 1))
    pair.refused(
        "conflicting_attestation", pair.l1, "operator-0", "release", replace(args, to=address("carol"))
    )
    pair.ok(pair.l1, "operator-1", "release", args)
    assert pair.paid(pair.l1, 0) is None


def test_voices_for_different_things_do_not_add_up() -> None:
    pair = funded()
    pair.withdraw("bob", "bob", COIN)
    for operator, to, amount in (
        ("operator-0", "bob", COIN),
        ("operator-1", "bob", COIN - 1),
        ("operator-2", "carol", COIN),
        ("operator-3", "bob", COIN),
    ):
        pair.ok(pair.l1, operator, "release", AttestArgs(0, address(to), amount))
    assert pair.paid(pair.l1, 0) is None
    pair.ok(pair.l1, "operator-4", "release", AttestArgs(0, address("bob"), COIN))
    paid = pair.paid(pair.l1, 0)
    assert paid is not None
    assert (paid.to, paid.amount) == (address("bob"), COIN)


def test_the_same_voices_in_one_block_pay_once() -> None:
    pair = funded()
    pair.withdraw("bob", "bob", COIN)
    args = AttestArgs(0, address("bob"), COIN)
    receipts = pair.l1.mine(*(pair.l1.tx(operator, "release", args) for operator in OPERATORS))
    assert [receipt.code for receipt in receipts] == ["", "", "", "already_paid", "already_paid"]
    pair.check()
    assert pair.owed() == pair.escrow.escrow


def test_an_attestation_of_one_chain_is_none_on_the_other() -> None:
    pair = funded()
    tx = pair.side.tx("operator-0", "credit", AttestArgs(1, address("bob"), COIN))
    with pytest.raises(InvalidTransaction, match="signed for chain"):
        apply_transaction(pair.l1.chain.rules, pair.l1.state, tx)
    pair.side.mine(tx)
    with pytest.raises(InvalidTransaction) as error:
        apply_transaction(pair.side.chain.rules, pair.side.state, tx)
    assert error.value.code == "stale_nonce"


# --- strangers ---


@pytest.mark.parametrize("who", ["alice", "mallory"])
def test_only_operators_attest(who: str) -> None:
    pair = funded()
    pair.deposit("alice", "bob", COIN)
    pair.withdraw("bob", "bob", COIN)
    pair.refused("not_operator", pair.l1, who, "release", AttestArgs(0, address(who), COIN))
    if pair.side.balance(who) == 0:
        pair.credit(1, "bob", COIN)
        pair.credit(pair.deposit("alice", who, 20 * COIN), who, 20 * COIN)
    pair.refused("not_operator", pair.side, who, "credit", AttestArgs(77, address(who), COIN))
    pair.refused("not_operator", pair.side, who, "credit", AttestArgs(0, address(who), COIN))


@pytest.mark.parametrize("method", ["claim", "finalize", "exit", "withdraw", "credit", "genesis"])
def test_nothing_else_moves_the_escrow(method: str) -> None:
    pair = funded()
    pair.refused("unknown_method", pair.l1, "operator-0", method, AttestArgs(0, address("mallory"), COIN))


def test_a_contract_that_an_operator_calls_is_no_operator() -> None:
    """`sender` counts, not `origin`: what an operator is lured into calling does not speak for it."""
    pair = Pair()
    rules = pair.l1.chain.rules
    contract = rules.contracts["bridge"]
    assert contract.methods.keys() == {"deposit", "release"}
    assert rules.contracts["bridge"].address not in pair.params.operators


# --- bad values ---


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (AttestArgs(0, BAD_ADDRESS, COIN), "invalid_address"),
        (AttestArgs(0, bytes(32), COIN), "invalid_address"),
        (AttestArgs(0, b"\x01" + bytes(31), COIN), "invalid_address"),
        (AttestArgs(0, address("bob"), 0), "zero_amount"),
        (AttestArgs(2**53, address("bob"), COIN), "bad_arguments"),
        (AttestArgs(0, address("bob"), 2**53), "bad_arguments"),
        (AttestArgs(-1, address("bob"), COIN), "bad_arguments"),
        (AttestArgs(0, address("bob"), -1), "bad_arguments"),
        (AttestArgs(0, address("bob")[:31], 1), "bad_arguments"),
    ],
)
def test_what_can_never_be_paid_is_never_counted(args: AttestArgs, code: str) -> None:
    pair = Pair()
    pair.refused(code, pair.l1, "operator-0", "release", args)
    pair.refused(code, pair.side, "operator-0", "credit", args)


def test_deposits_and_withdrawals_of_nothing_or_to_nobody_are_refused() -> None:
    pair = funded()
    pair.refused("deposit_too_small", pair.l1, "alice", "deposit", DepositArgs(address("bob")), 0)
    pair.refused("deposit_too_small", pair.l1, "alice", "deposit", DepositArgs(address("bob")), 999)
    pair.ok(pair.l1, "alice", "deposit", DepositArgs(address("bob")), 1_000)
    pair.refused("zero_amount", pair.side, "bob", "withdraw", WithdrawArgs(address("bob")), 0)
    for nobody in (BAD_ADDRESS, bytes(32), pair.side.chain.rules.contracts["gateway"].address):
        pair.refused("invalid_address", pair.l1, "alice", "deposit", DepositArgs(nobody), COIN)
        pair.refused("invalid_address", pair.side, "bob", "withdraw", WithdrawArgs(nobody), COIN)
    pair.refused("not_payable", pair.l1, "operator-0", "release", AttestArgs(0, address("bob"), COIN), 1)
    pair.refused("not_payable", pair.side, "operator-0", "credit", AttestArgs(9, address("bob"), COIN), 1)


def test_indices_may_come_in_any_order_and_with_gaps() -> None:
    pair = Pair()
    for amount in (COIN, 2 * COIN, 3 * COIN):
        pair.deposit("alice", "bob", amount)
    pair.credit(2, "bob", 3 * COIN)
    pair.credit(0, "bob", COIN)
    assert pair.owed() == pair.escrow.escrow
    pair.credit(1, "bob", 2 * COIN)
    assert pair.side.balance("bob") == 6 * COIN
    assert pair.owed() == pair.escrow.escrow


# --- the ends of the numbers ---


def test_a_deposit_that_the_reserve_could_not_credit_is_refused() -> None:
    pair = Pair(make_params(reserve=100 * COIN))
    pair.refused("deposit_limit", pair.l1, "alice", "deposit", DepositArgs(address("bob")), 100 * COIN + 1)
    pair.credit(pair.deposit("alice", "bob", 60 * COIN), "bob", 60 * COIN)
    pair.refused("deposit_limit", pair.l1, "alice", "deposit", DepositArgs(address("bob")), 40 * COIN + 1)
    pair.credit(pair.deposit("alice", "bob", 40 * COIN), "bob", 40 * COIN)
    assert pair.gateway.reserve == 0
    pair.withdraw("bob", "alice", 30 * COIN)
    pair.refused("deposit_limit", pair.l1, "alice", "deposit", DepositArgs(address("bob")), 1_000)
    pair.release(0, "alice", 30 * COIN)
    pair.credit(pair.deposit("alice", "bob", 30 * COIN), "bob", 30 * COIN)
    assert pair.owed() == pair.escrow.escrow


def test_an_exhausted_reserve_refuses_the_last_voice_and_pays_when_it_is_filled_again() -> None:
    pair = Pair(make_params(reserve=100 * COIN))
    pair.credit(FAR, "mallory", 90 * COIN)  # operators that lie
    index = pair.deposit("alice", "bob", 50 * COIN)
    pair.credit(index, "bob", 50 * COIN, OPERATORS[:2])
    last = AttestArgs(index, address("bob"), 50 * COIN)
    pair.refused("reserve_exhausted", pair.side, "operator-2", "credit", last)
    pair.withdraw("mallory", "mallory", 60 * COIN)
    pair.ok(pair.side, "operator-2", "credit", last)
    assert pair.side.balance("bob") == 50 * COIN


def test_an_escrow_that_is_too_small_refuses_the_last_voice() -> None:
    pair = funded()
    everything = pair.escrow.escrow
    for index, amount in enumerate((everything + 1, MAX_AMOUNT)):
        args = AttestArgs(FAR - index, address("mallory"), amount)
        pair.ok(pair.l1, "operator-0", "release", args)
        pair.ok(pair.l1, "operator-1", "release", args)
        pair.refused("escrow_too_small", pair.l1, "operator-2", "release", args)


def test_the_largest_amounts_fit() -> None:
    reserve = MAX_AMOUNT - side_backing()
    pair = Pair(make_params(reserve=reserve))
    amount = 900 * COIN
    pair.credit(pair.deposit("alice", "bob", amount), "bob", amount)
    pair.credit(FAR, "mallory", pair.gateway.reserve)  # m operators that lie take the whole supply
    assert pair.gateway.reserve == 0
    assert pair.gateway.outstanding == MAX_AMOUNT
    pair.withdraw("mallory", "mallory", pair.side.balance("mallory") - 2 * COIN)


# --- collusion: the point of it ---


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 1), (2, 2), (3, 2), (5, 3), (5, 5)])
def test_one_key_less_than_the_threshold_takes_nothing_and_the_threshold_takes_all(n: int, m: int) -> None:
    members = OPERATORS[:n]
    pair = Pair(make_params(m, members))
    pair.credit(pair.deposit("alice", "bob", 70 * COIN), "bob", 70 * COIN, members[:m])
    everything = pair.escrow.escrow
    theft = AttestArgs(FAR, address("mallory"), everything)
    had = pair.l1.balance("mallory")
    for operator in members[: m - 1]:
        pair.ok(pair.l1, operator, "release", theft)
    assert (pair.escrow.escrow, pair.l1.balance("mallory")) == (everything, had)
    assert pair.owed() == everything
    pair.ok(pair.l1, members[m - 1], "release", theft)
    assert (pair.escrow.escrow, pair.l1.balance("mallory")) == (0, had + everything)
    assert pair.owed() == everything  # what users are owed is still all of it; nothing is there
    pair.withdraw("bob", "bob", COIN)
    args = AttestArgs(0, address("bob"), COIN)
    for operator in members[: m - 1]:
        pair.ok(pair.l1, operator, "release", args)
    pair.refused("escrow_too_small", pair.l1, members[m - 1], "release", args)


# --- genesis ---

SMALL_ORDER = bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0}, "threshold must be from 1 to 5"),
        ({"threshold": 6}, "threshold must be from 1 to 5"),
        ({"threshold": MAX_AMOUNT}, "threshold must be from 1 to 5"),
        ({"operators": [address("operator-0")] * 2}, "operators must be sorted"),
        ({"operators": sorted((address("bob"), address("carol")), reverse=True)}, "operators must be sorted"),
        ({"operators": [bytes(32)], "threshold": 1}, "not a valid public key"),
        ({"operators": [SMALL_ORDER], "threshold": 1}, "not a valid public key"),
        ({"operators": [], "threshold": 0}, "params"),
        ({"operators": sorted(KeyPair(bytes([i]) * 32).address for i in range(33))}, "params"),
        ({"side_chain_id": 0}, "side_chain_id must be"),
        ({"min_deposit": 0}, "min_deposit must be positive"),
        ({"reserve": 0}, "reserve must be positive"),
        ({"reserve": MAX_AMOUNT}, "2\\*\\*53"),
    ],
)
def test_a_committee_that_protects_nothing_is_refused_at_genesis(
    change: dict[str, Any], message: str
) -> None:
    params = replace(make_params(), **change)
    with pytest.raises(GenesisError, match=message):
        genesis_state(l1_genesis(params))
    with pytest.raises(GenesisError, match=f"{message}|total supply"):
        genesis_state(side_genesis(params))


def test_thirty_two_operators_are_enough() -> None:
    operators = sorted(KeyPair(bytes([i]) * 32).address for i in range(32))
    check_params(replace(make_params(), operators=operators, threshold=32), devnet=False)


def test_well_known_keys_are_for_a_devnet() -> None:
    check_params(make_params(operators=("alice", "bob", "carol")), devnet=True)
    with pytest.raises(ValueError, match="well-known key of 'alice'"):
        check_params(make_params(1, ("alice",)), devnet=False)
    with pytest.raises(ValueError, match="well-known key of 'operator-31'"):
        check_params(make_params(1, ("operator-31",)), devnet=False)


def test_each_contract_is_for_its_own_chain_and_holds_what_it_must() -> None:
    params = make_params()
    with pytest.raises(GenesisError, match="must be another chain's"):
        genesis_state(l1_genesis(make_params(side_chain_id=900)))
    with pytest.raises(GenesisError, match="must be 902"):
        genesis_state(side_genesis(make_params(side_chain_id=903)))
    bridge, gateway = l1_contract_spec(params), side_contract_spec(params)
    l1, side = l1_genesis(params), side_genesis(params)
    staking = l1.contracts[1]
    for change in (-1, 1):
        short = replace(bridge, balance=bridge.balance + change)
        with pytest.raises(GenesisError, match="the backing in params"):
            genesis_state(replace(l1, contracts=[short, staking]))
        short = replace(gateway, balance=gateway.balance + change)
        with pytest.raises(GenesisError, match="the reserve in params"):
            genesis_state(replace(side, contracts=[short, staking]))


def test_a_coin_that_nobody_backs_is_refused() -> None:
    """Else its owner could take another's coins out of escrow."""
    side = side_genesis()
    rich = sorted(
        [*side.accounts, GenesisAccount(address("mallory"), 1)], key=lambda account: account.address
    )
    with pytest.raises(GenesisError, match="all coins outside the reserve"):
        genesis_state(replace(side, accounts=rich))


def test_both_genesis_files_are_read_as_they_were_written() -> None:
    for genesis in (l1_genesis(), side_genesis()):
        assert reread(genesis) == genesis
        genesis_state(reread(genesis))
    assert side_genesis().chain_id == SIDE_CHAIN


def test_parameters_have_no_second_encoding() -> None:
    data = encode(make_params())
    assert decode(CommitteeParams, data) == make_params()


# --- any sequence of acts ---

ACTS = st.tuples(
    st.sampled_from(["deposit", "withdraw", "credit", "release"]),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from(["bob", "carol"]),
    st.integers(0, 6),
)


@given(st.lists(ACTS, max_size=40))
@settings(max_examples=40, deadline=None)
def test_with_honest_operators_escrow_is_what_is_owed_after_every_act(
    acts: list[tuple[str, int, int, str, int]],
) -> None:
    pair = Pair()
    said: dict[tuple[str, int], tuple[bytes, int]] = {}
    for act, operator, index, who, coins in acts:
        _honest_act(pair, said, act, operator, index, who, coins * COIN)
        pair.check()
        assert pair.owed() == pair.escrow.escrow


def _honest_act(
    pair: Pair,
    said: dict[tuple[str, int], tuple[bytes, int]],
    act: str,
    operator: int,
    index: int,
    who: str,
    amount: int,
) -> None:
    if act == "deposit":
        count = pair.escrow.deposits
        if pair.l1.call(who, "deposit", DepositArgs(address(who)), amount).success:
            said["credit", count] = (address(who), amount)
    elif act == "withdraw":
        count = pair.gateway.withdrawals
        able = pair.side.balance(who) >= amount + 2 * COIN
        if able and pair.side.call(who, "withdraw", WithdrawArgs(address(who)), amount).success:
            said["release", count] = (address(who), amount)
    elif (act, index) in said:
        to, what = said[act, index]
        ledger = pair.side if act == "credit" else pair.l1
        receipt = ledger.call(OPERATORS[operator], act, AttestArgs(index, to, what))
        assert receipt.code in ("", "already_paid", "already_attested")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1), st.sampled_from(["credit", "release"]), st.integers(0, 3), st.integers(1, 400)
        ),
        max_size=25,
    )
)
@settings(max_examples=25, deadline=None)
def test_two_of_three_needed_voices_move_nothing_whatever_they_say(
    acts: list[tuple[int, str, int, int]],
) -> None:
    pair = funded()
    pair.withdraw("bob", "bob", 5 * COIN)
    escrow, reserve = pair.escrow.escrow, pair.gateway.reserve
    for operator, act, index, coins in acts:
        ledger = pair.side if act == "credit" else pair.l1
        ledger.call(OPERATORS[operator], act, AttestArgs(index, address("mallory"), coins * COIN))
    pair.check()
    assert (pair.escrow.escrow, pair.gateway.reserve) == (escrow, reserve)
    assert pair.owed() == escrow
