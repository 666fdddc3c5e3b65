"""The local chain on disk and in memory: all or nothing, and damage is refused."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from bridge_harness import l2_transfer
from rollup_stack import Member, Stack, address, stack_at

from bridge import abi
from chainkit.state import State
from chainkit.store import FILE_NAME, StoreError
from rollup.faults import Fault


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with stack_at(tmp_path) as made:
        made.sequencer.faults.set(Fault("withhold"))
        for amount in (1, 2, 3):
            made.transfer("alice", "bob", amount)
            made.step()
        yield made


def test_unposted_blocks_survive_a_kill_with_their_receipts(stack: Stack) -> None:
    sequencer = stack.sequencer
    before = sequencer.heads, sequencer.stored, sequencer.promises()
    assert sequencer.heads["head"][0] == 3
    sequencer.restart(clean=False)
    assert (sequencer.heads, sequencer.stored, sequencer.promises()) == before


def test_a_block_that_cannot_be_written_is_not_the_head(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequencer = stack.sequencer
    before = sequencer.heads, sequencer.stored
    stack.transfer("alice", "bob", 4)

    def fail(*_: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sequencer.node.store, "put_block", fail)
        with pytest.raises(StoreError):
            sequencer.node.produce(stack.now())
    assert (sequencer.heads, sequencer.stored) == before
    stack.step()
    assert sequencer.heads["head"][0] == 4


def test_what_is_at_hand_is_true_of_the_head_whatever_becomes_of_it(stack: Stack) -> None:
    """Values read and written are kept from block to block; a chain that goes back must not leave old ones there."""
    local, node = stack.sequencer.node.local, stack.sequencer.node
    everyone = [address(name) for name in ("alice", "bob", "carol", "dave")]

    def check() -> None:
        for who in everyone:
            assert node.account(who) == State(local.head.tree).account(who)
        assert all(local.head.tree.get(key) == value for key, value in local.at_hand().items())

    check()
    assert local.at_hand(), "control: something is at hand"
    stack.transfer("alice", "carol", 4)
    stack.step()
    check()
    third = local.recent[2]
    above = local.rewind(third, 0, "a test")
    check()
    local.replay(above)
    check()
    local.falsify(local.head.header.height, third.tree)
    check()


def test_a_damaged_block_is_refused(stack: Stack) -> None:
    sequencer: Member = stack.sequencer
    sequencer.close()
    with sqlite3.connect(sequencer.path / "l2" / FILE_NAME) as db:
        db.execute("UPDATE blocks SET block = x'c1' WHERE height = 2")
    db.close()
    probe = Member.__new__(Member)
    probe.__dict__.update(sequencer.__dict__)
    with pytest.raises(StoreError, match="damaged"):
        probe.open()
    probe.close()
    with sqlite3.connect(sequencer.path / "l2" / FILE_NAME) as db:
        db.execute("DELETE FROM blocks")
    db.close()
    sequencer.open()


def test_forced_transactions_and_deposits_come_before_the_rest(stack: Stack) -> None:
    sequencer = stack.sequencer
    stack.call("dave", "force", abi.ForceArgs(l2_transfer("bob", 0, "carol", 6)))
    stack.deposit()
    stack.transfer("alice", "bob", 4)
    stack.step()
    block = sequencer.node.local.head
    assert [type(step).__name__ for step in block.steps] == ["Forced", "Deposit", "Transact"]
    assert sequencer.node.local.cursor == 2


def test_a_block_with_a_forced_transaction_twice_is_stored(tmp_path: Path) -> None:
    """Anybody may force the same twice, and put as many bytes between others: everyone writes such a block."""
    first, second, twice = (l2_transfer("bob", nonce, "carol", 6) for nonce in range(3))
    with stack_at(tmp_path) as stack:
        stack.call("dave", "force", abi.ForceArgs(first))
        for _ in range(2):  # together as long as a forced transaction
            stack.deposit("dave", "carol", 100_000)
        for wire in (second, twice, twice):
            stack.call("dave", "force", abi.ForceArgs(wire))
        stack.step(8)
        for member in stack.members:
            assert member.node.account(address("bob")).nonce == 3
