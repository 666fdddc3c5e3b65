"""The messenger: a withdrawal burns, is numbered for good, and leaves a record that L1 can be shown."""

from rollup_world import ALICE, BOB, COIN, L2_TIME, l2_chain, signed, withdraw

from bridge.abi import Withdrawal, withdrawal_state_key
from chainkit.codec import decode, encode
from chainkit.contract import Storage
from chainkit.execution import supply
from chainkit.merkle import verify_proof
from chainkit.state import State, contract_address
from chainkit.transaction import Call, SignedTransaction
from rollup.messenger import WithdrawalInitiated, WithdrawArgs
from rollup.stf import BeginBlock, Transact, apply_step

CHAIN = l2_chain()


def ran(*transactions: SignedTransaction):
    state = State(CHAIN.genesis_tree)
    apply_step(CHAIN.rules, state, BeginBlock(1, L2_TIME))
    receipts = [apply_step(CHAIN.rules, state, Transact(tx.wire)) for tx in transactions]
    return state, receipts


def test_a_withdrawal_burns_its_value_and_says_so():
    state, (receipt,) = ran(withdraw(ALICE, 0, 3 * COIN, BOB))
    assert supply(state).burned == 3 * COIN
    assert state.account(contract_address("messenger")).balance == 0
    assert state.account(ALICE.address).balance == 1_000 * COIN - 3 * COIN - receipt.fee
    (event,) = receipt.events
    expected = WithdrawalInitiated(0, ALICE.address, BOB.address, 3 * COIN)
    assert (event.contract, decode(WithdrawalInitiated, event.data)) == ("messenger", expected)


def test_withdrawals_are_numbered_and_each_is_proven_by_its_record():
    state, receipts = ran(withdraw(ALICE, 0, 5), withdraw(BOB, 0, 6, ALICE), withdraw(ALICE, 1, 7))
    assert all(receipt.success for receipt in receipts)
    tree = state.commit()
    expected = [(ALICE, ALICE, 5), (BOB, ALICE, 6), (ALICE, ALICE, 7)]
    for index, (sender, to, amount) in enumerate(expected):
        key = withdrawal_state_key(index)
        value = verify_proof(tree.root, key, tree.prove([key]))
        assert value == encode(Withdrawal(index, sender.address, to.address, amount))
    assert tree.get(withdrawal_state_key(3)) == b""
    messenger = CHAIN.rules.contracts["messenger"]
    assert messenger.public_state(Storage(State(tree), "messenger")) == {"withdrawals": 3}


def test_a_refused_withdrawal_takes_no_number():
    to_nobody = signed(ALICE, 1, Call("messenger", "withdraw", encode(WithdrawArgs(bytes(32))), 5))
    state, receipts = ran(withdraw(ALICE, 0, 0), to_nobody, withdraw(ALICE, 2, 9))
    assert [receipt.code for receipt in receipts] == ["zero_amount", "invalid_address", ""]
    assert decode(Withdrawal, state.get(withdrawal_state_key(0))).amount == 9
    assert supply(state).burned == 9
