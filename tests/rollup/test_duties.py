"""Duties: asked again they say the same, they fit L1's limits, and they know when to wait."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bridge_harness import SETTINGS, l2_transfer, l2_tx
from rollup_stack import Stack, stack_at

from bridge import abi
from chainkit.codec import decode, encode
from chainkit.transaction import Call
from rollup.contents import Contents, read_contents
from rollup.duties import IN_FLIGHT, batch_duty, duties
from rollup.faults import Fault


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with stack_at(tmp_path) as made:
        yield made


def args_of(stack: Stack) -> abi.SubmitBatchArgs:
    duty = batch_duty(stack.sequencer.node, stack.now())
    assert duty is not None
    assert duty.move.gas_limit <= stack.chain.rules.fees.max_transaction_gas
    return decode(abi.SubmitBatchArgs, duty.move.call.args)


def contents_of(stack: Stack) -> Contents:
    return read_contents(args_of(stack).data, len(stack.sequencer.node.derivation.directory))


@pytest.mark.parametrize("fault", [None, Fault("steal"), Fault("mint"), Fault("bad-root")])
def test_asked_again_they_name_the_same_calls(stack: Stack, fault: Fault | None) -> None:
    if fault is not None:
        stack.sequencer.faults.set(fault)
    for amount in (1, 2, 3):
        stack.transfer("alice", "bob", amount)
    for _ in range(20):
        for member in stack.members:
            first = list(duties(member.node, stack.now()))
            assert list(duties(member.node, stack.now())) == first
            assert len({duty.key for duty in first}) == len(first)
        stack.step()


def test_a_batch_has_no_more_blocks_than_an_l1_transaction_has_gas_for(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P13: steps that the settings allow and whose gas L1 does not give are left for the next batch; one block goes
    whatever is offered for it."""
    stack.step()
    node = stack.sequencer.node
    for _ in range(6):
        stack.transfer()
        node.produce(stack.now())
    whole = contents_of(stack)
    assert len(whole.blocks) >= 6
    fees = stack.chain.rules.fees
    for per_step, blocks in ((fees.max_transaction_gas // 7, 3), (2 * fees.max_transaction_gas, 1)):
        monkeypatch.setattr("bridge.settings.BATCH_GAS_PER_STEP", per_step)
        duty = batch_duty(node, stack.now())
        assert duty is not None
        args = decode(abi.SubmitBatchArgs, duty.move.call.args)
        assert len(read_contents(args.data, len(node.derivation.directory)).blocks) == blocks
        assert (duty.move.gas_limit <= fees.max_transaction_gas) == (blocks > 1)


def test_the_gas_that_is_offered_covers_what_is_inflated(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that compresses 100:1 pays for its inflated bytes; the part that is the same for all must not hide that."""
    stack.step()
    node = stack.sequencer.node
    for nonce in range(3):
        stack.submit(l2_tx("alice", nonce, Call("messenger", "withdraw", bytes(7_000), 0), gas=240_000))
        node.produce(stack.now())
    duty = batch_duty(node, stack.now())
    assert duty is not None
    args = decode(abi.SubmitBatchArgs, duty.move.call.args)
    assert len(args.data) < 2_000
    monkeypatch.setattr("bridge.settings.BATCH_GAS_PER_INFLATED_BYTE", 0)
    without = batch_duty(node, stack.now())
    assert without is not None
    inflated = read_contents(args.data, len(node.derivation.directory)).inflated
    assert duty.move.gas_limit - without.move.gas_limit == inflated > 21_000


def test_blocks_of_l1s_future_wait(stack: Stack) -> None:
    """L1 refuses a batch whose L2 time is ahead of its own."""
    stack.step()
    node = stack.sequencer.node
    stack.transfer()
    node.produce(stack.now())
    stack.transfer()
    node.produce(stack.now() + 400)
    assert len(contents_of(stack).blocks) == 1
    assert batch_duty(node, stack.now() - 1) is None
    duty = batch_duty(node, stack.now() + 400)
    assert duty is not None
    assert len(read_contents(decode(abi.SubmitBatchArgs, duty.move.call.args).data, 0).blocks) == 2


def test_a_batch_stays_within_steps_messages_and_bytes(stack: Stack) -> None:
    stack.sequencer.faults.set(Fault("withhold"))
    for nonce in range(100):
        stack.transfer("alice", "bob", nonce + 1)
    for _ in range(20):
        stack.deposit()
    stack.step(6)
    stack.sequencer.node.switch.clear()
    args, contents = args_of(stack), contents_of(stack)
    assert contents.steps <= SETTINGS.max_steps
    assert sum(block.inbox_count for block in contents.blocks) <= SETTINGS.max_inbox_per_batch
    assert len(encode(args)) < stack.chain.rules.fees.max_transaction_bytes


@pytest.mark.parametrize("fault", ["halt", "withhold"])
def test_no_batch_while_told_so(stack: Stack, fault: str) -> None:
    stack.step()
    stack.transfer()
    stack.sequencer.node.produce(stack.now())
    stack.sequencer.faults.set(Fault(fault))
    assert batch_duty(stack.sequencer.node, stack.now()) is None
    stack.sequencer.node.switch.clear(fault)
    assert args_of(stack).parent == 0


def test_a_lie_needs_transactions_to_hide_among_and_a_step_that_exists(stack: Stack) -> None:
    node = stack.sequencer.node
    stack.step()
    stack.sequencer.faults.set(Fault("steal", at_step=9_999))
    node.produce(stack.now(), heartbeat=True)
    args = args_of(stack)
    assert args.state_root == node.local.head.tree.root
    stack.submit(l2_transfer("alice", 0, "bob", 1))
    node.produce(stack.now())
    assert args_of(stack).state_root == node.local.head.tree.root
    assert "steal" not in node.faults, "it cannot be played: off, and said so in the log"
    assert node.switch.told == []


def test_the_verifier_gives_the_proposer_time_to_finalize(stack: Stack) -> None:
    stack.transfer()
    stack.step_until(lambda: stack.totals.pending == 1)
    stack.sequencer.faults.set(Fault("halt"))
    stack.step_until(lambda: stack.totals.final_batch == 1)
    assert stack.codes("finalize", "verifier") == [""]
    assert stack.height > stack.verifier.node.derivation.batches[1].record.challenge_until + 8


def test_more_blocks_than_a_batch_takes_are_posted_as_a_line_of_batches(stack: Stack) -> None:
    """All at once, each on the one before, and all of them land in one go."""
    stack.sequencer.faults.set(Fault("withhold"))
    node = stack.sequencer.node
    for amount in range(SETTINGS.max_steps + 10):
        stack.transfer("alice", "bob", amount + 1)
        node.produce(stack.now())
    stack.deposit()
    stack.step(4)
    stack.sequencer.node.switch.clear()
    head, index = node.derivation.head, node.derivation.totals.next_batch  # type: ignore[union-attr]
    posts = [duty for duty in duties(node, stack.now()) if duty.key[0] == "batch"]
    args = [decode(abi.SubmitBatchArgs, duty.move.call.args) for duty in posts]
    assert 2 < len(posts) <= IN_FLIGHT
    assert [a.parent for a in args] == [head, *range(index, index + len(posts) - 1)]
    assert len({duty.key for duty in posts}) == len(posts)
    stack.step(4)
    assert stack.codes("submit_batch")[: len(posts)] == [""] * len(posts)
    assert stack.verifier.node.derivation.batches[index + len(posts) - 1].matches
