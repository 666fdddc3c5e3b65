"""Two things that the bridge does in one and the same L1 block, in its order."""

from pathlib import Path

import pytest
from bridge_harness import SETTINGS
from rollup_stack import DUMMY, Stack, stack_at

from bridge import abi
from rollup.faults import Fault
from rollup.stf import Deposit

DEPOSIT = 7_000


def pass_by(stack: Stack) -> None:
    """An L1 block that the sequencer, which is down, does not see."""
    stack.mine()
    stack.verifier.node.on_l1_final(stack.tip, DUMMY)


def replaced_while_down(stack: Stack, *, at_once: bool) -> dict[bytes, tuple[int, int]]:
    """The sequencer's batch of at least six blocks, the last with alice's deposit for carol, is voided while it is down
    and cannot defend itself. dave posts one block with the deposit instead: ``at_once``, in the same L1 block. Returns
    what the sequencer had promised; it is up again and has seen it all."""
    sequencer = stack.sequencer
    sequencer.faults.set(Fault("withhold"))
    stack.step()
    for amount in range(5):
        stack.transfer("alice", "bob", amount + 1)
        stack.step()
    stack.deposit("alice", "carol", DEPOSIT)
    stack.step(2)
    stack.transfer("bob", "alice", 1)
    stack.step()
    sequencer.node.switch.clear()
    stack.step_until(lambda: stack.totals.pending == 1)
    record = stack.load(abi.batch_key(1), abi.Batch)
    assert record.inbox_to == 1
    assert record.blocks >= 6

    while stack.height < record.challenge_until - 1:
        pass_by(stack)
    stack.call("dave", "challenge", abi.ChallengeArgs(1, b"\x07" * 32), SETTINGS.challenger_bond)
    pass_by(stack)
    deadline = stack.load(abi.dispute_key(0), abi.Dispute).last_move + SETTINGS.dispute_clock
    while stack.height < deadline:
        pass_by(stack)
    stack.call("dave", "timeout", abi.DisputeArgs(0))
    if not at_once:
        pass_by(stack)
    args = stack.strangers_batch(stack.verifier.node.derivation.batches[0], stack.now() - 1, messages=1)
    stack.call("dave", "submit_batch", args, SETTINGS.proposer_bond)
    pass_by(stack)
    assert stack.codes("timeout") == [""]
    assert stack.codes("submit_batch", "dave") == [""]

    promised = sequencer.promises()
    sequencer.catch_up()
    sequencer.node.produce(stack.now())
    return promised


@pytest.mark.parametrize("at_once", [False, True])
def test_a_deposit_is_credited_once_when_another_batch_takes_the_place_of_a_voided_one(
    tmp_path: Path, at_once: bool
) -> None:
    """P4: a stranger's batch that brings the message in the L1 block of the verdict would have it credited again by
    the blocks that the sequencer runs once more."""
    with stack_at(tmp_path) as stack:
        replaced_while_down(stack, at_once=at_once)
        local = stack.sequencer.node.local
        assert local.cursor == len(stack.sequencer.node.derivation.inbox) == 1
        assert not [step for block in local.recent for step in block.steps if isinstance(step, Deposit)]
        stack.deposit("alice", "carol", 9_000)
        stack.step(30)
        for member in stack.members:
            assert stack.l2_balance("carol", member) == DEPOSIT + 9_000


@pytest.mark.parametrize("at_once", [False, True])
def test_the_sequencer_goes_on_posting_what_is_true_on_a_batch_that_took_the_place_of_its_own(
    tmp_path: Path, at_once: bool
) -> None:
    """P13: on the stranger's batch it must not be stuck with blocks that are older than his, nor lose a bond for them;
    and it keeps what it promised."""
    with stack_at(tmp_path) as stack:
        promised = replaced_while_down(stack, at_once=at_once)
        stack.deposit("alice", "carol", 9_000)
        stack.step(30)
        derivation = stack.verifier.node.derivation
        assert not stack.verifier.events("BatchFlagged")
        assert derivation.head_batch.matches
        assert stack.totals.next_batch > 3, "it does post"
        assert len(derivation.disputes) == 1, "but for the one that it slept through"
        assert set(promised) <= set(stack.sequencer.promises())


def test_of_two_batches_that_become_final_in_one_l1_block_the_state_of_the_last_is_kept(
    tmp_path: Path,
) -> None:
    """P22: anyone may finalize both at once; a node is there again after a restart, with the newer final state."""
    with stack_at(tmp_path) as stack:
        for amount in range(6):
            stack.transfer("alice", "bob", amount + 1)
            stack.step(2)
        assert stack.totals.pending >= 2
        stack.sequencer.faults.set(Fault("halt"))
        stack.step(stack.load(abi.batch_key(2), abi.Batch).challenge_until - stack.height)
        assert stack.totals.final_batch == 0
        for index in (1, 2):
            stack.call("dave", "finalize", abi.BatchArgs(index))
        stack.step(2)
        assert stack.codes("finalize", "dave") == ["", ""]
        for member in stack.members:
            final, before = member.node.derivation.finalized_batch, member.heads
            assert final.index >= 2
            assert member.node.store.load_state().root == final.end.tree.root
            member.restart()
            assert member.heads == before
        stack.step(3)
        assert stack.sequencer.heads == stack.verifier.heads
