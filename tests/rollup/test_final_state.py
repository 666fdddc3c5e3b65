"""The final state on disk: a start executes nothing that was final, and believes nothing that L1 does not say."""

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bridge_harness import SETTINGS
from msgspec.structs import replace
from rollup_stack import Member, Stack, stack_at

from chainkit.block import Block
from chainkit.chain import Chain
from chainkit.codec import encode
from chainkit.known import FILE_NAME as KNOWN
from chainkit.known import open_chain
from chainkit.store import FILE_NAME
from rollup import derivation as derivation_module
from rollup.backend import batch_json
from rollup.faults import Fault


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with stack_at(tmp_path) as made:
        yield made


def play(stack: Stack, batches: int) -> None:
    """So many batches become final, and a newer one waits."""
    for amount in range(batches):
        stack.transfer("alice", "bob", 1_000 + amount)
        stack.deposit("alice", "carol", 5_000)
        stack.step(4)
    stack.step(SETTINGS.challenge_window + 4)
    stack.transfer("alice", "dave", 7)
    stack.step(4)


def seen(member: Member) -> Any:
    """What a user sees of a node: heads, blocks, and all about every batch."""
    node = member.node
    shown = [batch_json(node, index) for index in sorted(node.derivation.batches)]
    return member.heads, member.stored, shown, node.derivation.inbox, node.derivation.diverged


def executed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The heights of the L2 blocks that derivation executes from now on."""
    heights: list[int] = []
    execute = derivation_module.execute_block

    def noting(rules: Any, parent: Any, *rest: Any) -> Any:
        heights.append(parent.header.height + 1)
        return execute(rules, parent, *rest)

    monkeypatch.setattr(derivation_module, "execute_block", noting)
    return heights


def test_a_start_executes_only_what_is_not_final(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    play(stack, 5)
    for member in stack.members:
        final = member.node.derivation.finalized_batch
        assert final.index >= 3
        before, heights = seen(member), executed(monkeypatch)
        member.restart()
        assert member.node.derivation.resume is not None
        assert seen(member) == before
        assert heights
        assert min(heights) > final.end.header.height
        monkeypatch.undo()
    play(stack, 2)  # and it goes on from there
    assert stack.sequencer.heads == stack.verifier.heads


def test_reverted_batches_stay_what_they_were(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.step()
    stack.transfer("alice", "bob", 5)
    stack.sequencer.faults.set(Fault("steal"))
    stack.step_until(lambda: stack.verifier.node.derivation.batches.keys() >= {1})
    stack.step_until(lambda: stack.verifier.node.derivation.batches[1].status == "reverted")
    play(stack, 3)
    assert stack.verifier.node.derivation.finalized_batch.index > 1
    for member in stack.members:
        before, heights = seen(member), executed(monkeypatch)
        member.restart()
        assert seen(member) == before
        assert min(heights, default=10**9) > member.node.derivation.finalized_batch.end.header.height
        monkeypatch.undo()


DAMAGE = {
    "a part of the state": "UPDATE state_parts SET items = x'91'",
    "the base": "DELETE FROM state_parts",
    "the log": "DELETE FROM state_log",
    "a balance": "UPDATE state_log SET items = x'919244616161614162' WHERE seq = 1",
    "the height": "UPDATE meta SET value = x'01' WHERE key = 'state_height'",
    "a height beyond": "UPDATE meta SET value = x'7f' WHERE key = 'state_height'",
    "no height": "DELETE FROM meta WHERE key = 'state_height'",
    "another batch": "UPDATE meta SET value = x'01' WHERE key = 'final_batch'",
    "a batch beyond": "UPDATE meta SET value = x'7f' WHERE key = 'final_batch'",
    "no number": "UPDATE meta SET value = x'c1' WHERE key = 'final_batch'",
    "a root": "UPDATE meta SET value = zeroblob(32) WHERE key = 'batch_root/2'",
    "no root": "DELETE FROM meta WHERE key = 'batch_root/2'",
    "the last root": "UPDATE meta SET value = zeroblob(32) WHERE key LIKE 'batch_root/%'",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_l1_does_not_say_is_derived_anew(
    stack: Stack, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    play(stack, 4)
    member = stack.verifier
    before = seen(member)
    member.close()
    with sqlite3.connect(member.path / "l2" / FILE_NAME) as db:
        assert db.execute(DAMAGE[what]).rowcount > 0
    db.close()
    with caplog.at_level(logging.WARNING):
        member.open()
    assert member.node.derivation.resume is None
    assert seen(member) == before
    assert ("final state on disk" in caplog.text) == (what != "no height")
    member.restart()  # what was damaged is whole again
    assert member.node.derivation.resume is not None
    assert seen(member) == before


def test_a_state_that_goes_with_its_block_but_not_with_l1_is_not_believed(stack: Stack) -> None:
    """Root, block and state agree with one another; only L1 tells that they are another chain's."""
    play(stack, 4)
    member = stack.verifier
    before, node = seen(member), member.node
    final = node.derivation.finalized_batch
    tree = final.end.tree.update({b"a" + bytes(32): b"\x92\x01\x00"})
    header = replace(final.end.header, state_root=tree.root)
    node.store.put_state(tree, header.height)
    node.store.set_meta(f"batch_root/{final.index}", tree.root)
    member.close()
    with sqlite3.connect(member.path / "l2" / FILE_NAME) as db:
        values = (header.hash(), encode(Block(header, [])), header.height)
        db.execute("UPDATE blocks SET hash = ?, block = ? WHERE height = ?", values)
    db.close()
    member.open()
    assert member.node.derivation.resume is None
    assert seen(member) == before


def test_with_the_l1_blocks_gone_everything_is_followed_again(stack: Stack) -> None:
    play(stack, 3)
    member = stack.verifier
    before = seen(member)
    member.close()
    for file in (member.path / "l1").iterdir():
        file.unlink()
    member.open()
    member.catch_up()
    assert seen(member) == before


# --- the note about a genesis ---


def test_a_genesis_is_checked_and_its_state_built_once(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genesis, place = stack.l2_genesis, tmp_path / "somewhere"
    first = open_chain(genesis, place)
    root, items = first.genesis_tree.root, dict(first.genesis_tree.items())
    note = (place / KNOWN).read_bytes()
    calls: list[object] = []
    monkeypatch.setattr("chainkit.genesis.check_genesis", calls.append)
    again = open_chain(genesis, place)
    assert not calls
    assert again.genesis_header == first.genesis_header
    assert dict(again.genesis_tree.items()) == items
    monkeypatch.undo()
    for damaged in (b"", note[:-1], note + b"x", note[:32] + bytes(32) + note[64:], bytes(96)):
        (place / KNOWN).write_bytes(damaged)
        assert open_chain(genesis, place).genesis_header.state_root == root
        assert (place / KNOWN).read_bytes() == note
    (place / KNOWN).unlink()
    (place / KNOWN).mkdir()  # it cannot be written: the next start takes its time
    assert open_chain(genesis, place).genesis_header == Chain(genesis).genesis_header
