"""Faults: typed refusals, one JSON face, and lies that are real, provable and the same each time."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollup_world import (
    ALICE,
    BOB,
    CAROL,
    COIN,
    L2_TIME,
    MALLORY,
    VAULT,
    l2_chain,
    signed,
    transfer,
    withdraw,
)

from chainkit.codec import MAX_AMOUNT
from chainkit.execution import supply
from chainkit.state import State, contract_address
from chainkit.transaction import Transfer
from rollup.faults import (
    DEFAULT_MINT,
    JUNK_KEY,
    KINDS,
    LIES,
    Fault,
    FaultError,
    FaultSet,
    check_fault,
    draw_step,
    fault_from_json,
    fault_names,
    make_lie,
)
from rollup.stf import BeginBlock, Deposit, Forced, Step, Transact, apply_step, prove_step
from rollup.trace import Trace

CHAIN = l2_chain()
THIEF = MALLORY.address
HEX = "0x" + ALICE.address.hex()
STEPS: list[Step] = [
    BeginBlock(1, L2_TIME),
    Deposit(0, BOB.address, BOB.address, 5),
    Forced(1, transfer(BOB, 0, CAROL, 7).wire),
    Transact(transfer(ALICE, 0, BOB, COIN).wire),
    Transact(withdraw(ALICE, 1, 3).wire),
    Transact(b"rubbish"),
    BeginBlock(2, L2_TIME + 1),
    Transact(signed(MALLORY, 0, Transfer(CAROL.address, 1)).wire),
]


def lying(fault: Fault, steps: list[Step] = STEPS) -> tuple[int, Trace]:
    index, lie = make_lie(fault, CHAIN.rules, steps, CHAIN.genesis_tree, THIEF)
    return index, Trace(CHAIN.rules, CHAIN.genesis_tree, steps, lie)


def balance(trace: Trace, position: int, address: bytes) -> int:
    return State(trace.tree(position)).account(address).balance


TRUE = Trace(CHAIN.rules, CHAIN.genesis_tree, STEPS)
END = len(STEPS)


# --- lies ---


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("step", range(END))
def test_every_lie_at_every_step_changes_the_root_from_there_on_and_is_proven_there(name, step):
    index, trace = lying(Fault(name, at_step=step))
    assert index == step
    assert [trace.root(p) for p in range(step + 1)] == [TRUE.root(p) for p in range(step + 1)]
    assert all(trace.root(p) != TRUE.root(p) for p in range(step + 1, END + 1))
    proved = prove_step(CHAIN.rules, TRUE.root(step), STEPS[step], TRUE.witness(step))
    assert proved == TRUE.root(step + 1) != trace.root(step + 1)


@pytest.mark.parametrize("name", LIES)
def test_a_liar_can_go_on_from_its_lie(name):
    _, trace = lying(Fault(name, at_step=3))
    state = State(trace.tree(END))
    for step in (BeginBlock(3, L2_TIME + 2), Transact(withdraw(MALLORY, 0, 9).wire)):
        receipt = apply_step(CHAIN.rules, state, step)
    assert receipt.code in ("", "insufficient_balance", "stale_nonce")


def test_a_theft_lets_the_thief_spend_what_it_took():
    _, trace = lying(Fault("steal", at_step=3))
    spent = [apply_step(CHAIN.rules, State(t.tree(7)), STEPS[7]).code for t in (TRUE, trace)]
    assert spent == ["insufficient_balance", ""]


def total(trace: Trace) -> int:
    state = State(trace.tree(END))
    return sum(state.account(key[1:]).balance for key, _ in trace.tree(END).items() if key[:1] == b"a")


def test_a_theft_moves_everything_of_the_richest_account_of_the_batch():
    _, trace = lying(Fault("steal", at_step=4))
    assert balance(trace, 5, THIEF) == balance(TRUE, 5, BOB.address)
    assert balance(trace, 5, BOB.address) == 0
    assert total(trace) == total(TRUE)


def test_a_theft_from_a_named_victim_of_a_named_amount():
    _, trace = lying(Fault("steal", at_step=4, address=CAROL.address, amount=11))
    assert balance(trace, 5, THIEF) == 11
    assert balance(trace, 5, CAROL.address) == balance(TRUE, 5, CAROL.address) - 11


def test_a_theft_takes_no_more_than_there_is_and_looks_elsewhere_if_there_is_nothing():
    _, trace = lying(Fault("steal", at_step=4, address=CAROL.address, amount=MAX_AMOUNT))
    assert balance(trace, 5, THIEF) == balance(TRUE, 5, CAROL.address)
    _, trace = lying(Fault("steal", at_step=4, address=b"\x01" * 32))
    assert balance(trace, 5, THIEF) == balance(TRUE, 5, BOB.address)


def test_a_batch_that_touches_nobody_robs_the_richest_of_the_chain():
    _, trace = lying(Fault("steal", at_step=0), [BeginBlock(1, L2_TIME)])
    assert balance(trace, 1, THIEF) == 1_000 * COIN


@pytest.mark.parametrize("victim", [THIEF, contract_address("messenger")])
def test_neither_the_thief_nor_a_contract_is_robbed(victim):
    _, trace = lying(Fault("steal", at_step=4, address=victim))
    assert balance(trace, 5, THIEF) == balance(TRUE, 5, BOB.address)


def test_where_there_is_nothing_to_steal_the_lie_is_still_a_lie():
    empty = l2_chain(balance=0)
    index, lie = make_lie(Fault("steal"), empty.rules, [BeginBlock(1, L2_TIME)], empty.genesis_tree, THIEF)
    trace = Trace(empty.rules, empty.genesis_tree, [BeginBlock(1, L2_TIME)], lie)
    assert index == 0
    assert trace.root(1) != Trace(empty.rules, empty.genesis_tree, trace.steps).root(1)
    assert trace.tree(1).get(JUNK_KEY)


def test_a_mint_makes_coins_that_no_counter_knows():
    for amount in (None, 5):
        _, trace = lying(Fault("mint", at_step=4, amount=amount))
        assert balance(trace, 5, THIEF) == (amount or DEFAULT_MINT)
        assert total(trace) == total(TRUE) + (amount or DEFAULT_MINT)
        assert supply(State(trace.tree(END))) == supply(State(TRUE.tree(END)))


def test_a_mint_leaves_every_sum_in_range():
    _, trace = lying(Fault("mint", at_step=4, amount=MAX_AMOUNT))
    assert 0 < total(trace) <= MAX_AMOUNT
    state = State(trace.tree(END))
    nonce = state.account(THIEF).nonce
    apply_step(CHAIN.rules, state, BeginBlock(3, L2_TIME + 2))
    everything = state.account(THIEF).balance - 200_000 * 100
    receipt = apply_step(
        CHAIN.rules, state, Transact(signed(MALLORY, nonce, Transfer(VAULT, everything)).wire)
    )
    assert receipt.success


def test_a_bad_root_touches_nothing_that_matters():
    _, trace = lying(Fault("bad-root", at_step=4))
    changed = set(trace.tree(END).items()) ^ set(TRUE.tree(END).items())
    assert {key for key, _ in changed} == {JUNK_KEY}


def test_a_second_lie_on_a_lied_state_is_a_lie_too():
    _, first = lying(Fault("bad-root", at_step=0))
    start, steps = first.tree(END), [BeginBlock(3, L2_TIME + 2)]
    _, lie = make_lie(Fault("bad-root", at_step=0), CHAIN.rules, steps, start, THIEF)
    assert Trace(CHAIN.rules, start, steps, lie).root(1) != Trace(CHAIN.rules, start, steps).root(1)


@pytest.mark.parametrize("name", LIES)
def test_the_same_fault_gives_the_same_lie_again(name):
    fault = Fault(name, seed=17)
    (first, one), (second, two) = lying(fault), lying(fault)
    assert first == second
    # Asked in another order, as after a restart in the middle of a dispute.
    assert [one.root(p) for p in range(END + 1)] == [two.root(p) for p in reversed(range(END + 1))][::-1]


@given(st.integers(0, MAX_AMOUNT), st.integers(1, 20_000))
def test_a_drawn_step_is_in_the_batch(seed, count):
    assert 0 <= draw_step(seed, count) < count


def test_draws_are_fixed_and_reach_every_step():
    assert [draw_step(seed, 1000) for seed in range(3)] == [draw_step(seed, 1000) for seed in range(3)]
    assert {draw_step(seed, 8) for seed in range(200)} == set(range(8))


def test_the_faults_own_seed_comes_first():
    def drawn(fault: Fault, seed: int) -> int:
        return make_lie(fault, CHAIN.rules, STEPS, CHAIN.genesis_tree, THIEF, seed)[0]

    assert drawn(Fault("mint"), 5) == draw_step(5, END)
    assert drawn(Fault("mint", seed=6), 5) == draw_step(6, END)
    assert drawn(Fault("mint", seed=6, at_step=2), 5) == 2


@pytest.mark.parametrize("fault", [Fault("mint", at_step=END), Fault("censor", address=THIEF), Fault("halt")])
def test_a_lie_that_cannot_be_told_is_refused(fault):
    with pytest.raises(FaultError):
        lying(fault)


def test_an_empty_batch_cannot_hold_a_lie():
    with pytest.raises(FaultError, match="0 steps"):
        lying(Fault("mint"), [])


# --- names and parameters ---


@pytest.mark.parametrize(("role", "other"), [("sequencer", "verifier"), ("verifier", "sequencer")])
def test_a_role_has_its_own_faults_and_names_them_when_asked_for_others(role, other):
    for name in (*fault_names(other), "", "Steal", "double-vote"):
        with pytest.raises(FaultError) as refusal:
            check_fault(Fault(name), role)
        assert all(known in str(refusal.value) for known in fault_names(role))
        with pytest.raises(FaultError):
            FaultSet(role).clear(name)


def test_all_faults_of_the_design_exist():
    sequencer = "bad-root censor halt mint silent-in-dispute skip-deposit steal withhold"
    assert fault_names("sequencer") == sequencer.split()
    assert fault_names("verifier") == ["asleep", "frivolous", "late"]
    assert set(LIES) < set(KINDS)


@pytest.mark.parametrize(
    "value",
    [
        {"name": "censor"},
        {"name": "censor", "address": "alice"},
        {"name": "censor", "address": HEX[:-2]},
        {"name": "censor", "address": HEX.upper()},
        {"name": "censor", "address": HEX, "at_step": 1},
        {"name": "halt", "seed": 1},
        {"name": "steal", "blocks": 1},
        {"name": "mint", "address": HEX},
        {"name": "steal", "amount": 0},
        {"name": "steal", "amount": -1},
        {"name": "steal", "amount": 2**53},
        {"name": "steal", "at_step": 1.0},
        {"name": "steal", "at_step": True},
        {"name": "steal", "at_step": "1"},
        {"name": "steal", "when": 1},
        {"name": 5},
        {"at_step": 5},
        {},
        [],
        None,
        "steal",
    ],
)
def test_wrong_parameters_are_refused(value):
    with pytest.raises(FaultError):
        fault_from_json(value, "sequencer")


@pytest.mark.parametrize(
    "value", [{"name": "late"}, {"name": "late", "blocks": 0}, {"name": "asleep", "blocks": 1}]
)
def test_wrong_parameters_of_a_verifier_are_refused(value):
    with pytest.raises(FaultError):
        fault_from_json(value, "verifier")


PARAMETERS = {
    "at_step": st.integers(0, MAX_AMOUNT),
    "address": st.binary(min_size=32, max_size=32),
    "amount": st.integers(1, MAX_AMOUNT),
    "seed": st.integers(0, MAX_AMOUNT),
    "blocks": st.integers(1, MAX_AMOUNT),
}


@st.composite
def faults(draw: st.DrawFn) -> tuple[str, Fault]:
    name = draw(st.sampled_from(sorted(KINDS)))
    kind = KINDS[name]
    chosen = kind.needs | {p for p in sorted(kind.takes) if draw(st.booleans())}
    return kind.role, Fault(name, **{p: draw(PARAMETERS[p]) for p in sorted(chosen)})


@settings(max_examples=100)
@given(faults())
def test_faults_round_trip_through_json(case):
    role, fault = case
    shown = json.loads(json.dumps(fault.to_json()))
    assert fault_from_json(shown, role) == fault
    assert FaultSet.from_json(role, [shown]).to_json() == [shown]


# --- the set ---


def test_faults_are_switched_on_and_off():
    active = FaultSet("sequencer", [Fault("withhold")])
    active.set(Fault("steal", at_step=3))
    active.set(Fault("steal", at_step=4))
    assert [fault.name for fault in active] == ["steal", "withhold"]
    assert active.get("steal") == active.lie == Fault("steal", at_step=4)
    assert "withhold" in active
    assert "halt" not in active
    assert active.get("halt") is None
    assert active.clear("halt") == []
    assert active.clear("steal") == [Fault("steal", at_step=4)]
    assert active.lie is None
    assert active.clear() == [Fault("withhold")]
    assert len(active) == 0
    assert active.to_json() == []


def test_several_addresses_are_censored_at_once():
    active = FaultSet("sequencer")
    for key in (ALICE, BOB):
        active.set(Fault("censor", address=key.address))
    assert [active.censors(key.address) for key in (ALICE, BOB, CAROL)] == [True, True, False]
    assert len(active) == 2
    assert len(active.clear("censor")) == 2
    assert not active.censors(ALICE.address)


def test_a_refused_fault_leaves_the_set_as_it_was():
    active = FaultSet("verifier", [Fault("late", blocks=3)])
    for fault in (Fault("late"), Fault("steal"), Fault("late", blocks=0)):
        with pytest.raises(FaultError):
            active.set(fault)
    assert active.delay == 3
    assert FaultSet("verifier").delay == 0


def test_a_set_from_json_must_be_a_list_of_faults():
    for value in ({}, None, "steal", [{"name": "nothing"}], [[]]):
        with pytest.raises(FaultError):
            FaultSet.from_json("sequencer", value)
