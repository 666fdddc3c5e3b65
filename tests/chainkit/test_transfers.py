"""A run of transfers over open accounts, against one transaction after the other: same receipts, same state."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import ALICE, BOB, CAROL, CHAIN_ID, STRANGER, VALIDATORS, make_genesis, sign

from chainkit import transfers as module
from chainkit.chain import Chain
from chainkit.codec import MAX_AMOUNT
from chainkit.contract import Contract, NoArgs
from chainkit.execution import (
    FeeParameters,
    InvalidTransaction,
    Receipt,
    Rules,
    SupplyViolation,
    apply_transaction,
    begin_block,
)
from chainkit.state import Account, State, contract_address
from chainkit.transaction import Call, SignedTransaction, Transfer
from chainkit.transfers import Transfers

KEYS = (ALICE, BOB, CAROL)
NOBODY = VALIDATORS[3].address
PLACES = (*(key.address for key in KEYS), STRANGER.address, NOBODY, contract_address("bank"), bytes(32))
GENESIS = Chain(make_genesis())
THERE = sum(account.balance for account in make_genesis().accounts)


def rules_of(vault: bytes | None, block_gas: int = 60_000_000) -> Rules:
    fees = FeeParameters(block_gas_limit=block_gas)
    return Rules(CHAIN_ID, fees, {"bank": Contract("bank", NoArgs())}, vault)


def opened(rules: Rules, more: dict[bytes, int]) -> State:
    state = State(GENESIS.genesis_tree)
    for address, balance in more.items():
        state.set_account(address, Account(balance, 0))
    begin_block(rules, state, height=1, slot=1, time=1, proposer=rules.vault or bytes(32))
    state.commit()
    return state


def one_by_one(rules: Rules, state: State, tx: SignedTransaction) -> Receipt | str:
    try:
        receipt: Receipt | str = apply_transaction(rules, state, tx)
    except InvalidTransaction as refusal:
        return refusal.code
    state.end_step()
    return receipt


def in_a_run(rules: Rules, state: State, run: Transfers, tx: SignedTransaction) -> Receipt | str:
    receipts = run.apply([tx])
    if receipts:
        return receipts[0]
    run.flush()
    return one_by_one(rules, state, tx)


CACHE: dict[tuple[object, ...], SignedTransaction] = {}


def signed(
    who: int, nonce: int, to: bytes, amount: int, gas_limit: int, fees: tuple[int, int]
) -> SignedTransaction:
    key = (who, nonce, to, amount, gas_limit, fees)
    if key not in CACHE:
        action = Call("bank", "no_such", b"\x90", 0) if amount < 0 else Transfer(to, amount)
        CACHE[key] = sign(KEYS[who], nonce, action, gas_limit=gas_limit, max_fee=fees[0], tip=fees[1])
    return CACHE[key]


transfer = st.tuples(
    st.integers(0, 2),
    st.sampled_from([0, 0, 0, 0, 0, 1, -1]),  # how far off its nonce is
    st.sampled_from(PLACES),
    st.sampled_from([0, 1, 5, 10**5, 10**9, MAX_AMOUNT, -1]),
    st.sampled_from([7_000, 8_600, 11_000, 30_000]),
    st.sampled_from([(4, 0), (4, 1), (9, 2), (9, 2), (1, 0), (10**6, 10**6)]),
)


@settings(max_examples=200, deadline=None)
@given(
    transfers=st.lists(transfer, min_size=1, max_size=14),
    vault=st.sampled_from([None, STRANGER.address, NOBODY, BOB.address]),
    block_gas=st.sampled_from([60_000_000, 60_000]),
    more=st.sampled_from([{}, {NOBODY: MAX_AMOUNT - THERE}, {STRANGER.address: 5}]),
    flush_at=st.integers(0, 14),
)
def test_a_run_is_one_transaction_after_the_other(
    transfers: list[tuple[int, int, bytes, int, int, tuple[int, int]]],
    vault: bytes | None,
    block_gas: int,
    more: dict[bytes, int],
    flush_at: int,
) -> None:
    rules = rules_of(vault, block_gas)
    slow, fast = opened(rules, more), opened(rules, more)
    run = Transfers(rules, fast)
    for place, (who, off, to, amount, gas_limit, fees) in enumerate(transfers):
        nonce = max(0, slow.account(KEYS[who].address).nonce + off)
        tx = signed(who, nonce, to, amount, gas_limit, fees)
        assert in_a_run(rules, fast, run, tx) == one_by_one(rules, slow, tx)
        if place == flush_at:
            run.flush()
    run.flush()
    assert fast.changes() == slow.changes()
    assert fast.root() == slow.root()


def test_usual_transfers_take_the_run_and_are_written_once() -> None:
    rules = rules_of(STRANGER.address)
    state = opened(rules, {STRANGER.address: 1})
    before = state.read().copy()  # type: ignore[attr-defined]
    run = Transfers(rules, state)
    for nonce in range(3):
        assert len(run.apply([sign(ALICE, nonce, Transfer(BOB.address, 5))])) == 1
    assert all(state.read()[key] == value for key, value in before.items())  # nothing is written yet
    run.flush()
    run.flush()
    assert state.account(ALICE.address).nonce == 3
    assert state.account(BOB.address).balance - GENESIS_BOB == 15


GENESIS_BOB = State(GENESIS.genesis_tree).account(BOB.address).balance


def test_a_bad_signature_changes_nothing() -> None:
    rules = rules_of(STRANGER.address)
    state = opened(rules, {STRANGER.address: 1})
    run = Transfers(rules, state)
    good = sign(ALICE, 0, Transfer(BOB.address, 5))
    forged = SignedTransaction.decode(good.wire[:-1] + bytes([good.wire[-1] ^ 1]))
    assert run.apply([forged]) == []
    elsewhere = SignedTransaction.decode(good.wire)
    elsewhere.passed = rules_of(BOB.address)  # what other rules say of it does not count
    elsewhere.note_signature(False)
    assert run.apply([elsewhere]) == []
    run.flush()
    assert state.changes() == {}


def test_money_out_of_nothing_is_found_when_the_run_is_written() -> None:
    """Promise P1 is asked of the whole run too: here an account is written with more than it has."""
    rules = rules_of(STRANGER.address)
    state = opened(rules, {STRANGER.address: 1})
    run = Transfers(rules, state)
    assert len(run.apply([sign(ALICE, 0, Transfer(BOB.address, 5))])) == 1
    run._accounts[BOB.address][0] += 1
    with pytest.raises(SupplyViolation):
        run.flush()
    assert state.changes() == {}


def test_only_existing_accounts_are_opened() -> None:
    rules = rules_of(STRANGER.address)
    run = module.Transfers(rules, opened(rules, {}))
    assert run.apply([sign(ALICE, 0, Transfer(NOBODY, 5))]) == []
    assert run.apply([sign(ALICE, 0, Transfer(ALICE.address, 5))]) == []
    assert run.apply([sign(ALICE, 0, Transfer(STRANGER.address, 5))]) == []
    assert run.apply([sign(ALICE, 0, Transfer(contract_address("bank"), 5))]) == []
