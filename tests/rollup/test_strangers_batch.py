"""P13: a stranger's true batch among several of the honest sequencer's that are on their way costs it nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bridge_harness import L2_FUNDS, SETTINGS
from rollup_stack import Stack, stack_at

from bridge import abi

BUSY = 30
"""L1 blocks, longer than the sequencer may be silent."""
EACH = 5


@pytest.fixture
def overtaken(tmp_path: Path) -> Iterator[Stack]:
    """Users go on while the sequencer's calls do not reach L1; when they do again, dave sees them on their way and puts
    an empty batch before them, so that his has the index that the sequencer's second one was to stand on."""
    with stack_at(tmp_path) as stack:
        stack.step()
        stack.lose = lambda who, _: who == "sequencer"
        for _ in range(BUSY):
            for amount in range(EACH):
                stack.transfer("alice", "bob", amount + 1)
            stack.step()
        assert stack.height > SETTINGS.sequencer_timeout
        stack.lose = lambda *_: False
        stack.step_until(lambda: any(who == "sequencer" for who, _, _ in stack.waiting), 40)
        on_their_way, stack.waiting = stack.waiting, []
        parent = stack.verifier.node.derivation.head_batch
        args = stack.strangers_batch(parent, parent.end.header.time)
        stack.call("dave", "submit_batch", args, SETTINGS.proposer_bond)
        stack.waiting += on_their_way
        stack.step()
        assert stack.codes("submit_batch", "dave") == [""]
        yield stack


def test_what_was_to_stand_on_its_own_batch_does_not_stand_on_a_strangers(overtaken: Stack) -> None:
    for batch in overtaken.verifier.node.derivation.batches.values():
        assert batch.matches
    assert overtaken.codes("submit_batch", "sequencer") == ["wrong_parent"]


def test_it_loses_no_bond_and_its_users_nothing(overtaken: Stack) -> None:
    stack = overtaken

    def all_final() -> bool:
        node = stack.sequencer.node
        idle = not node.mempool and stack.totals.pending == 0
        return idle and node.derivation.finalized_batch.end.hash == node.local.head.hash

    stack.step_until(all_final, 200)
    derivation = stack.verifier.node.derivation
    assert not [d for d in derivation.disputes.values() if d.winner == abi.CHALLENGER]
    assert not stack.verifier.events("BatchFlagged")
    assert stack.l2_balance("bob") == L2_FUNDS + BUSY * sum(range(1, EACH + 1))
