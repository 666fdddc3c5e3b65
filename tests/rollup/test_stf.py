"""The step function: total, the same over a witness as over the full state, the same under every hash seed."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollup_world import (
    ALICE,
    BOB,
    CAROL,
    COIN,
    DAVE,
    GAS,
    L2_TIME,
    MALLORY,
    VAULT,
    l2_chain,
    run,
    run_by_proofs,
    scratch,
    signed,
    transfer,
    withdraw,
)

from chainkit.codec import CodecError, encode
from chainkit.execution import FeeParameters, intrinsic_gas, supply
from chainkit.keys import KeyPair
from chainkit.merkle import ProofError
from chainkit.state import State, contract_address
from chainkit.transaction import Call, SignedTransaction, Transfer
from rollup.messenger import WithdrawArgs
from rollup.stf import (
    BeginBlock,
    Deposit,
    Forced,
    Step,
    Transact,
    apply_step,
    decode_step,
    prove_step,
    step_hash,
)
from rollup.trace import Trace

CHAIN = l2_chain()
BEGIN = BeginBlock(1, L2_TIME + 1000)
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """A transaction, the code of its receipt, whether it leaves the state alone, and what ran before it."""

    tx: bytes
    code: str = ""
    inert: bool = False
    before: tuple[bytes, ...] = ()


def invalid(tx: SignedTransaction | bytes, code: str, *before: SignedTransaction) -> Case:
    wire = tx if isinstance(tx, bytes) else tx.wire
    return Case(wire, code, inert=True, before=tuple(b.wire for b in before))


def refused(tx: SignedTransaction, code: str, *before: SignedTransaction) -> Case:
    return Case(tx.wire, code, before=tuple(b.wire for b in before))


def fine(tx: SignedTransaction, *before: SignedTransaction) -> Case:
    return Case(tx.wire, before=tuple(b.wire for b in before))


def with_bad_signature(tx: SignedTransaction) -> bytes:
    return tx.wire[:-1] + bytes([tx.wire[-1] ^ 1])


def to_address(key: KeyPair, nonce: int, to: bytes, amount: int = 5) -> SignedTransaction:
    return signed(key, nonce, Transfer(to, amount))


def call(contract: str, method: str, args: bytes, value: int = 0) -> SignedTransaction:
    return signed(ALICE, 0, Call(contract, method, args, value))


ENOUGH = intrinsic_gas(CHAIN.rules, scratch(ALICE, 0, "put", 1))
SMALL_ORDER = bytes([1]) + bytes(31)

CASES = {
    "transfer": fine(transfer(ALICE, 0, BOB, COIN)),
    "transfer to a new account": fine(transfer(ALICE, 0, MALLORY, COIN)),
    "transfer to oneself": fine(transfer(ALICE, 0, ALICE, COIN)),
    "transfer of nothing": fine(transfer(ALICE, 0, BOB, 0)),
    "transfer to the vault": fine(to_address(ALICE, 0, VAULT)),
    "second transfer": fine(transfer(ALICE, 1, BOB, 7), transfer(ALICE, 0, BOB, 5)),
    "withdrawal": fine(withdraw(ALICE, 0, COIN)),
    "second withdrawal": fine(withdraw(ALICE, 1, 3, BOB), withdraw(ALICE, 0, COIN)),
    "put": fine(scratch(ALICE, 0, "put", 1)),
    "put again": fine(scratch(ALICE, 1, "put", 1), scratch(ALICE, 0, "put", 1)),
    "delete what is not there": fine(scratch(ALICE, 0, "delete", 1)),
    "delete what was put": fine(scratch(ALICE, 1, "delete", 1), scratch(ALICE, 0, "put", 1)),
    "put what was deleted": fine(
        scratch(BOB, 0, "put", 1), scratch(ALICE, 0, "put", 1), scratch(ALICE, 1, "delete", 1)
    ),
    "refused after a write": refused(scratch(ALICE, 0, "refuse", 1), "refused"),
    "withdrawal of nothing": refused(withdraw(ALICE, 0, 0), "zero_amount"),
    "withdrawal to a small-order key": refused(
        call("messenger", "withdraw", encode(WithdrawArgs(SMALL_ORDER)), 5), "invalid_address"
    ),
    "transfer to a small-order key": refused(to_address(ALICE, 0, SMALL_ORDER), "invalid_address"),
    "transfer to the zero key": refused(to_address(ALICE, 0, bytes(32)), "invalid_address"),
    "transfer to a contract": refused(
        to_address(ALICE, 0, contract_address("messenger")), "invalid_recipient"
    ),
    "unknown contract": refused(call("nothing", "at_all", b"\x90"), "unknown_contract"),
    "unknown method": refused(call("messenger", "mint", b"\x90"), "unknown_method"),
    "inherited name as a method": refused(call("messenger", "genesis", b"\x90"), "unknown_method"),
    "arguments of another type": refused(call("scratch", "put", b"\x91\xa1x"), "bad_arguments"),
    "no arguments": refused(call("scratch", "put", b""), "bad_arguments"),
    "value where none is taken": refused(call("scratch", "put", b"\x91\x01", 5), "not_payable"),
    "out of gas in the call": refused(
        signed(ALICE, 0, Call("scratch", "put", b"\x91\x01", 0), gas=ENOUGH + 1100), "out_of_gas"
    ),
    "stale nonce": invalid(transfer(ALICE, 0, BOB, 1), "stale_nonce", transfer(ALICE, 0, BOB, 5)),
    "nonce gap": invalid(transfer(ALICE, 1, BOB, 1), "nonce_gap"),
    "largest nonce": invalid(transfer(ALICE, 2**53 - 1, BOB, 1), "nonce_gap"),
    "wrong chain": invalid(transfer(ALICE, 0, BOB, 1, chain_id=900), "wrong_chain"),
    "bad signature": invalid(with_bad_signature(transfer(ALICE, 0, BOB, 1)), "bad_signature"),
    "fee under the floor": invalid(transfer(ALICE, 0, BOB, 1, max_fee=0, tip=0), "fee_too_low"),
    "fee under the base fee": invalid(transfer(ALICE, 0, BOB, 1, max_fee=2, tip=0), "fee_too_low"),
    "tip above the fee": invalid(transfer(ALICE, 0, BOB, 1, max_fee=5, tip=6), "tip_above_max_fee"),
    "gas limit too low": invalid(transfer(ALICE, 0, BOB, 1, gas=100), "gas_limit_too_low"),
    "gas limit too high": invalid(transfer(ALICE, 0, BOB, 1, gas=2**53 - 1), "gas_limit_too_high"),
    "unaffordable": invalid(transfer(ALICE, 0, BOB, 2**53 - 1), "insufficient_balance"),
    "unknown sender": invalid(transfer(MALLORY, 0, BOB, 1), "insufficient_balance"),
    "no bytes": invalid(b"", "undecodable"),
    "garbage": invalid(b"\xff" * 40, "undecodable"),
    "trailing byte": invalid(transfer(ALICE, 0, BOB, 1).wire + b"\x00", "undecodable"),
    "cut short": invalid(transfer(ALICE, 0, BOB, 1).wire[:-1], "undecodable"),
    "too large": invalid(call("scratch", "put", bytes(61 * 1024)), "undecodable"),
}


@pytest.mark.parametrize("kind", [Transact, lambda wire: Forced(0, wire)], ids=["ordered", "forced"])
@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_transaction_has_one_outcome_and_its_witness_proves_it(name, kind):
    case = CASES[name]
    steps: list[Step] = [BEGIN, *map(Transact, case.before), kind(case.tx)]
    state = State(CHAIN.genesis_tree)
    receipts = [apply_step(CHAIN.rules, state, step) for step in steps]
    assert (receipts[-1].code, receipts[-1].success) == (case.code, not case.code)
    assert all(receipt.success for receipt in receipts[:-1])
    assert run_by_proofs(CHAIN, steps) == run(CHAIN, steps) == state.root()
    assert (run(CHAIN, steps) == run(CHAIN, steps[:-1])) == case.inert


@pytest.mark.parametrize(
    "step",
    [
        BeginBlock(1, L2_TIME),
        BeginBlock(0, 0),
        BeginBlock(2**53 - 1, 2**53 - 1),
        Deposit(0, ALICE.address, BOB.address, COIN),
        Deposit(7, ALICE.address, MALLORY.address, 1),
        Deposit(0, ALICE.address, BOB.address, 0),
        Deposit(0, ALICE.address, VAULT, 5),
    ],
)
def test_other_steps_are_proven_by_their_witness(step):
    assert run_by_proofs(CHAIN, [step]) == run(CHAIN, [step])


def test_a_full_block_stops_ordered_transactions_but_no_forced_one():
    chain = l2_chain(fees=FeeParameters(block_gas_limit=95_000, max_transaction_gas=90_000))
    filler, late = transfer(ALICE, 0, BOB, 1, gas=90_000), transfer(BOB, 0, ALICE, 1, gas=90_000)
    for last, code in ((Transact(late.wire), "block_full"), (Forced(0, late.wire), "")):
        steps = [BEGIN, Transact(filler.wire), last]
        state = State(chain.genesis_tree)
        assert [apply_step(chain.rules, state, step).code for step in steps] == ["", "", code]
        assert run_by_proofs(chain, steps) == state.root()


def test_a_deposit_is_credited_and_counted_as_minted():
    state = State(CHAIN.genesis_tree)
    apply_step(CHAIN.rules, state, Deposit(0, BOB.address, MALLORY.address, 5))
    assert state.account(MALLORY.address).balance == 5
    assert supply(state).minted == 5


def test_deleting_gives_the_same_root_in_one_block_and_in_single_steps():
    """A value that is written and deleted leaves an empty leaf, however often a root was asked for between."""
    put, delete = scratch(ALICE, 0, "put", 3).wire, scratch(ALICE, 1, "delete", 3).wire
    steps = [BEGIN, Transact(put), Transact(delete)]
    assert run_by_proofs(CHAIN, steps) == run(CHAIN, steps)


# --- any sequence ---

PEOPLE = (ALICE, BOB, CAROL, DAVE, MALLORY)


@st.composite
def step_lists(draw: st.DrawFn) -> list[Step]:
    """Blocks of steps by accounts that mostly, not always, know their nonces."""
    nonces = dict.fromkeys(PEOPLE, 0)
    steps: list[Step] = [BEGIN]
    for index in range(draw(st.integers(1, 10))):
        key = draw(st.sampled_from(PEOPLE))
        to = draw(st.sampled_from(PEOPLE))
        nonce = nonces[key] + draw(st.sampled_from((0, 0, 0, 0, 1)))
        kind = draw(st.sampled_from(("transfer", "withdraw", "put", "delete", "refuse", "deposit", "begin")))
        slot = draw(st.integers(0, 1))
        if kind == "deposit":
            steps.append(Deposit(index, key.address, to.address, draw(st.integers(0, 10 * COIN))))
            continue
        if kind == "begin":
            steps.append(BeginBlock(index + 2, L2_TIME + index))
            continue
        if kind == "transfer":
            tx = transfer(key, nonce, to, draw(st.integers(0, 2 * COIN)))
        elif kind == "withdraw":
            tx = withdraw(key, nonce, draw(st.integers(0, 2 * COIN)), to)
        else:
            tx = scratch(key, nonce, kind, slot)
        nonces[key] = nonce + 1
        steps.append(draw(st.sampled_from((Transact(tx.wire), Forced(index, tx.wire)))))
    return steps


@settings(max_examples=60, deadline=None)
@given(step_lists())
def test_witness_execution_equals_full_execution(steps):
    assert run_by_proofs(CHAIN, steps) == run(CHAIN, steps)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_as_a_transaction_change_nothing(data, forced):
    state = State(CHAIN.genesis_tree)
    receipt = apply_step(CHAIN.rules, state, Forced(0, data) if forced else Transact(data))
    assert not receipt.success
    assert state.root() == CHAIN.genesis_tree.root


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_transaction_changes_nothing(data):
    wire = bytearray(transfer(ALICE, 0, BOB, COIN).wire)
    place = data.draw(st.integers(0, len(wire) - 1))
    wire[place] ^= data.draw(st.integers(1, 255))
    state = State(CHAIN.genesis_tree)
    assert not apply_step(CHAIN.rules, state, Transact(bytes(wire))).success
    assert state.root() == CHAIN.genesis_tree.root


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_step_bytes_are_the_one_encoding_or_refused(data):
    try:
        step = decode_step(data)
    except CodecError:
        return
    assert encode(step) == data


@given(st.sampled_from([BEGIN, Deposit(1, bytes(32), bytes(32), 2), Forced(1, b"x"), Transact(b"x")]))
def test_steps_round_trip_and_hash_apart(step):
    assert decode_step(encode(step)) == step
    others = [Forced(1, b"y"), Transact(b""), BeginBlock(1, 2)]
    assert step_hash(step) not in [step_hash(other) for other in others]


def test_the_receipt_of_an_undecodable_transaction_does_not_quote_a_library():
    """Receipts are hashed into headers; the words of a library differ from version to version."""
    state = State(CHAIN.genesis_tree)
    messages = {
        apply_step(CHAIN.rules, state, Transact(data)).message for data in (b"", b"\x90", b"\xc1", b"\xff")
    }
    assert len(messages) == 1


# --- poor witnesses ---

LONG = [BEGIN, Transact(transfer(ALICE, 0, MALLORY, 5).wire)]
TRACE = Trace(CHAIN.rules, CHAIN.genesis_tree, LONG)
WITNESS = TRACE.witness(1)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WITNESS) - 1), st.integers(0, 7))
def test_a_witness_with_any_bit_flipped_is_refused(place, bit):
    broken = bytearray(WITNESS)
    broken[place] ^= 1 << bit
    with pytest.raises(ProofError):
        prove_step(CHAIN.rules, TRACE.root(1), LONG[1], bytes(broken))


@pytest.mark.parametrize(
    "witness",
    [b"", WITNESS[:-1], WITNESS + b"\x00", TRACE.witness(0), b"\x04", b"\x02" + TRACE.root(1)],
    ids=["none", "cut", "longer", "of another step", "empty tree", "only a stub"],
)
def test_a_poor_witness_is_refused(witness):
    with pytest.raises(ProofError):
        prove_step(CHAIN.rules, TRACE.root(1), LONG[1], witness)


def test_a_witness_of_another_root_is_refused():
    with pytest.raises(ProofError):
        prove_step(CHAIN.rules, TRACE.root(2), LONG[1], WITNESS)


# --- determinism ---

SCRIPT = """
import sys
sys.path.insert(0, "tests/support")
from rollup_world import *
from rollup.block import execute_block, genesis_block
from rollup.stf import Deposit, Forced, Transact
chain = l2_chain()
steps = [Deposit(0, ALICE.address, MALLORY.address, 5), Forced(1, withdraw(BOB, 0, 3).wire)]
steps += [Transact(transfer(ALICE, n, BOB, n).wire) for n in range(5)]
steps += [Transact(scratch(BOB, 1, "put", 1).wire), Transact(scratch(BOB, 2, "delete", 1).wire), Transact(b"?")]
block = execute_block(chain.rules, genesis_block(chain), L2_TIME + 1, steps)
print(block.hash.hex(), block.tree.root.hex())
"""


def test_roots_and_headers_do_not_depend_on_the_hash_seed():
    answers = set()
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=REPOSITORY, env=environment, capture_output=True, check=True
        )
        answers.add(done.stdout)
    assert len(answers) == 1


def test_the_gas_of_a_test_transaction_is_enough():
    assert intrinsic_gas(CHAIN.rules, withdraw(ALICE, 0, 1)) < GAS
