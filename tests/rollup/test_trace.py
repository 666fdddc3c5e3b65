"""The trace: the same roots in whatever order they are asked for, witnesses for each step, lies that stay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollup_world import ALICE, BOB, L2_TIME, MALLORY, l2_chain, scratch, transfer

from chainkit.state import Account, State
from rollup.stf import BeginBlock, Step, Transact, apply_step, prove_step
from rollup.trace import CHECKPOINT_EVERY, Trace

CHAIN = l2_chain()
LENGTH = 2 * CHECKPOINT_EVERY + 12


def make_steps(count: int) -> list[Step]:
    steps: list[Step] = []
    for i in range(count // 2):
        steps.append(BeginBlock(i + 1, L2_TIME + i))
        tx = scratch(ALICE, i, "put" if i % 3 else "delete", i % 2) if i % 2 else transfer(ALICE, i, BOB, 1)
        steps.append(Transact(tx.wire))
    return steps


STEPS = make_steps(LENGTH)


def naive_roots() -> list[bytes]:
    """The root after each step, each committed by itself."""
    tree, roots = CHAIN.genesis_tree, [CHAIN.genesis_tree.root]
    for step in STEPS:
        state = State(tree)
        apply_step(CHAIN.rules, state, step)
        tree = state.commit()
        roots.append(tree.root)
    return roots


ROOTS = naive_roots()


def lie_at(index: int):
    def lie(position: int, state: State) -> None:
        if position == index:
            state.set_account(MALLORY.address, Account(state.account(MALLORY.address).balance + 7, 0))

    return lie


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, LENGTH), min_size=1, max_size=8))
def test_roots_do_not_depend_on_the_order_of_questions(positions):
    trace = Trace(CHAIN.rules, CHAIN.genesis_tree, STEPS)
    assert [trace.root(position) for position in positions] == [ROOTS[position] for position in positions]


@pytest.mark.parametrize("index", [0, 1, CHECKPOINT_EVERY - 1, CHECKPOINT_EVERY, LENGTH - 1])
def test_a_witness_proves_its_step(index):
    trace = Trace(CHAIN.rules, CHAIN.genesis_tree, STEPS)
    proved = prove_step(CHAIN.rules, ROOTS[index], STEPS[index], trace.witness(index))
    assert proved == ROOTS[index + 1]


@pytest.mark.parametrize("position", [-1, LENGTH + 1])
def test_a_position_outside_the_batch_is_an_index_error(position):
    with pytest.raises(IndexError):
        Trace(CHAIN.rules, CHAIN.genesis_tree, STEPS).tree(position)


@pytest.mark.parametrize("index", [0, 1, 7, CHECKPOINT_EVERY - 1, CHECKPOINT_EVERY, LENGTH - 1])
def test_a_lie_begins_after_its_step_and_stays_whatever_is_asked_first(index):
    lying = Trace(CHAIN.rules, CHAIN.genesis_tree, STEPS, lie_at(index))
    last = lying.root(LENGTH)
    assert last != ROOTS[LENGTH]
    assert lying.root(index) == ROOTS[index]
    assert lying.root(index + 1) != ROOTS[index + 1]
    again = Trace(CHAIN.rules, CHAIN.genesis_tree, STEPS, lie_at(index))
    assert [again.root(p) for p in (index + 1, LENGTH)] == [lying.root(index + 1), last]


def test_the_liars_own_witness_convicts_it():
    lying = Trace(CHAIN.rules, CHAIN.genesis_tree, STEPS, lie_at(5))
    proved = prove_step(CHAIN.rules, lying.root(5), STEPS[5], lying.witness(5))
    assert proved == ROOTS[6] != lying.root(6)


def test_an_empty_batch_has_one_position():
    trace = Trace(CHAIN.rules, CHAIN.genesis_tree, [])
    assert trace.root(0) == CHAIN.genesis_tree.root
    with pytest.raises(IndexError):
        trace.root(1)
