"""The short way of a plain transfer against the long way of any transaction: one outcome, whoever pays whom."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ledger import ALICE, BOB, CAROL, CHAIN_ID, STRANGER, VALIDATORS, make_genesis, sign

from chainkit import execution
from chainkit.chain import Chain
from chainkit.codec import MAX_AMOUNT
from chainkit.contract import Contract, NoArgs
from chainkit.execution import (
    FeeParameters,
    InvalidTransaction,
    Receipt,
    Rules,
    apply_transaction,
    begin_block,
)
from chainkit.state import Account, State, WitnessState, contract_address
from chainkit.transaction import SignedTransaction, Transfer

KEYS = (ALICE, BOB, CAROL)
PROPOSER = VALIDATORS[0].address
PLACES = (*(key.address for key in KEYS), PROPOSER, STRANGER.address, contract_address("bank"), bytes(32))
GENESIS = Chain(make_genesis())


def rules_of(vault: bytes | None) -> Rules:
    return Rules(CHAIN_ID, FeeParameters(), {"bank": Contract("bank", NoArgs())}, vault)


def opened(rules: Rules, balances: dict[bytes, int], proposer: bytes) -> State:
    state = State(GENESIS.genesis_tree)
    for address, balance in balances.items():
        state.set_account(address, Account(balance, state.account(address).nonce))
    begin_block(rules, state, height=1, slot=1, time=1, proposer=proposer)
    state.commit()
    return state


def outcome(rules: Rules, state: State, tx: SignedTransaction) -> Receipt | str:
    try:
        receipt: Receipt | str = apply_transaction(rules, state, tx)
    except InvalidTransaction as refusal:
        return refusal.code
    state.end_step()
    return receipt


THERE = {account.address: account.balance for account in make_genesis().accounts}
MOST = MAX_AMOUNT - sum(THERE.values())
"""What one account can have more than it has: a state holds less than 2**53 gwei in all, as its genesis did."""

balances = st.dictionaries(
    st.sampled_from(PLACES[:5]),
    st.sampled_from([0, 1, 10**6, 10**9, MOST - 10**6, MOST]),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(
    who=st.integers(0, 2),
    to=st.sampled_from(PLACES),
    amount=st.sampled_from([0, 1, 10**5, 10**9, MAX_AMOUNT]),
    gas_limit=st.sampled_from([5_000, 6_300, 7_000, 8_000, 8_600, 11_000, 30_000]),
    fees=st.sampled_from([(4, 0), (4, 1), (9, 2), (1, 0), (10**6, 10**6)]),
    vault=st.sampled_from([None, STRANGER.address, BOB.address, PROPOSER]),
    proposer=st.sampled_from([PROPOSER, ALICE.address, bytes(32)]),
    balances=balances,
)
def test_the_short_way_and_the_long_way_agree(
    who: int,
    to: bytes,
    amount: int,
    gas_limit: int,
    fees: tuple[int, int],
    vault: bytes | None,
    proposer: bytes,
    balances: dict[bytes, int],
) -> None:
    assume(sum({**THERE, **balances}.values()) <= MAX_AMOUNT)
    rules = rules_of(vault)
    tx = sign(KEYS[who], 0, Transfer(to, amount), gas_limit=gas_limit, max_fee=fees[0], tip=fees[1])
    short, long = opened(rules, balances, proposer), opened(rules, balances, proposer)
    tree = short.commit()
    expected = outcome(rules, short, tx)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "_plain_transfer", lambda *_: None)
        assert outcome(rules, long, tx) == expected
    assert long.root() == short.root()

    witness = WitnessState(tree.prove(short.touched()), tree.root)
    assert outcome(rules, witness, tx) == expected
    assert witness.root() == short.root()


def test_the_usual_transfer_takes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = rules_of(STRANGER.address)
    monkeypatch.setattr(execution, "_run_transaction", lambda *_: pytest.fail("the long way"))
    state = opened(rules, {}, PROPOSER)
    assert apply_transaction(rules, state, sign(ALICE, 0, Transfer(BOB.address, 5))).success


def test_a_wrong_sum_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise P1 is asked of the short way too: here a balance is read as more than there is."""
    rules = rules_of(STRANGER.address)
    state = opened(rules, {}, PROPOSER)
    real = Account
    monkeypatch.setattr(
        execution, "Account", lambda balance, nonce: real(balance + (nonce == 0), nonce), raising=True
    )
    with pytest.raises(execution.SupplyViolation):
        apply_transaction(rules, state, sign(ALICE, 0, Transfer(BOB.address, 5)))
