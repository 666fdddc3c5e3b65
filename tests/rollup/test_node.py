"""Sequencer and verifier over a real L1: whole stories, each promise added up after every L1 block."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bridge_harness import KEYS, SETTINGS, address, l2_transfer, l2_withdraw
from msgspec.structs import replace
from rollup_stack import DUMMY, Member, Stack, stack_at

from bridge import abi
from chainkit.codec import Bytes32, decode
from chainkit.execution import Rules
from chainkit.transaction import Call, SignedTransaction
from rollup import derivation as derivation_module
from rollup.batch import BatchBlock, encode_batch
from rollup.block import L2Block
from rollup.contents import Contents
from rollup.faults import Fault
from rollup.reading import Read

Check = Callable[[], bool]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with stack_at(tmp_path) as made:
        yield made


def final(stack: Stack, index: int) -> Check:
    return lambda: stack.totals.final_batch >= index


def posted(stack: Stack, count: int) -> Check:
    return lambda: stack.totals.next_batch > count


def resolved(stack: Stack, index: int = 0) -> Check:
    disputes = stack.verifier.node.derivation.disputes
    return lambda: index in disputes and disputes[index].stage == abi.RESOLVED


def batch(stack: Stack, index: int) -> abi.Batch:
    return stack.load(abi.batch_key(index), abi.Batch)  # type: ignore[no-any-return]


def dispute(stack: Stack, index: int = 0) -> abi.Dispute:
    return stack.load(abi.dispute_key(index), abi.Dispute)  # type: ignore[no-any-return]


def settle(stack: Stack) -> None:
    """Until all that is on L2 is final, and both nodes say so."""

    def at_rest() -> bool:
        node = stack.sequencer.node  # another one after a restart
        final_hash = node.derivation.finalized_batch.end.hash
        idle = not node.mempool and node.pending_messages() == 0
        return idle and stack.totals.pending == 0 and final_hash == node.local.head.hash

    stack.step_until(at_rest)
    assert stack.sequencer.heads == stack.verifier.heads
    assert [b[:2] for b in stack.sequencer.stored] == [b[:2] for b in stack.verifier.stored]


def honest_story(stack: Stack) -> None:
    stack.step()
    stack.deposit("alice", "carol", 50_000_000)
    for amount in (1, 2, 3):
        stack.transfer("alice", "bob", amount)
    stack.step(3)
    stack.call("dave", "force", abi.ForceArgs(l2_transfer("carol", 0, "dave", 777)))
    stack.transfer("bob", "alice", 9)
    stack.step(4)
    stack.transfer("alice", "carol", 10)
    settle(stack)


def test_honest_batches_become_final_and_both_nodes_agree(stack: Stack) -> None:
    honest_story(stack)
    assert stack.totals.next_batch >= 3
    assert set(stack.codes("submit_batch")) == {""}
    assert not stack.codes("challenge")
    assert stack.l2_balance("dave") == 777
    assert stack.sequencer.node.replica.tip.hash == stack.tip.hash
    names = [e.name for e in stack.verifier.node.events.read(1, 1000)]
    assert names.index("InboxMessageQueued") < names.index("BatchDerived") < names.index("BatchFinalized")
    assert "DepositCredited" in names
    assert "ForcedTransactionExecuted" in names
    assert len(stack.sequencer.promises()) == 6


def test_an_idle_bridge_is_kept_alive_by_empty_batches(stack: Stack) -> None:
    stack.heartbeats = True
    stack.step(3 * SETTINGS.escape_timeout)
    assert stack.totals.frozen_height == 0
    assert stack.height - stack.totals.last_batch_height <= SETTINGS.escape_timeout // 4 + 2


def test_a_verifier_that_starts_late_derives_the_same(stack: Stack, tmp_path: Path) -> None:
    """P11: from L1 alone, with empty stores."""
    honest_story(stack)
    newcomer = Member(stack, "verifier", tmp_path / "newcomer")
    newcomer.catch_up()
    assert newcomer.heads == stack.verifier.heads
    assert newcomer.stored == stack.verifier.stored
    newcomer.close()


def test_restarts_at_every_block_change_nothing(tmp_path: Path) -> None:
    """P22: kill both nodes after every L1 block; heads, roots and receipts are those of nodes that ran through."""

    def restart(stack: Stack) -> None:
        for member in stack.members:
            before = member.heads, member.stored
            member.restart()
            assert (member.heads, member.stored) == before

    with stack_at(tmp_path / "a") as through, stack_at(tmp_path / "b", after=restart) as cut:
        honest_story(through)
        honest_story(cut)
        for one, other in zip(through.members, cut.members, strict=True):
            assert one.node.events.last_seq == other.node.events.last_seq
            assert (one.heads, one.stored) == (other.heads, other.stored)
            assert one.node.derivation.inbox == other.node.derivation.inbox


class CutOffError(Exception):
    """The process ends here."""


def cut_after_l1(member: Member) -> None:
    """Take in the next L1 block, but die between the L1 store's commit and the L2 store's."""
    block = member.stack.l1[member.node.l1_height]
    member.node.replica.append(block, DUMMY)
    member.close()
    member.open()


@pytest.mark.parametrize("fault", [None, Fault("steal", seed=1)])
def test_death_between_the_two_stores_loses_nothing(tmp_path: Path, fault: Fault | None) -> None:
    def story(stack: Stack) -> None:
        stack.step()
        if fault is not None:
            stack.sequencer.faults.set(fault)
        stack.deposit("alice", "carol", 50_000_000)
        stack.transfer("alice", "bob", 5)
        stack.step(2)
        stack.transfer("mallory", "alice", 6)
        settle(stack)

    with stack_at(tmp_path / "a") as through:
        story(through)
        with_cuts = Member(through, "verifier", tmp_path / "cuts")
        while with_cuts.node.l1_height < through.height:
            cut_after_l1(with_cuts)
        assert with_cuts.heads == through.verifier.heads
        assert [b[:2] for b in with_cuts.stored] == [b[:2] for b in through.verifier.stored]
        for name in ("BatchDerived", "BatchReverted", "BatchFinalized", "InboxMessageQueued", "BatchFlagged"):
            assert with_cuts.events(name) == through.verifier.events(name), name
        with_cuts.close()


def test_an_l2_store_that_is_gone_is_made_again_from_l1(stack: Stack) -> None:
    honest_story(stack)
    verifier, before = stack.verifier, stack.verifier.stored
    verifier.close()
    for file in (verifier.path / "l2").iterdir():
        file.unlink()
    verifier.open()
    assert verifier.stored == before


# --- the sequencer's lies ---

LIES = [Fault("steal"), Fault("mint"), Fault("bad-root")]


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("fault", LIES, ids=lambda f: f.name)
def test_a_lie_is_reverted_and_every_promise_kept(stack: Stack, fault: Fault, place: str) -> None:
    stack.step()
    for amount in (1, 2, 3, 4):
        stack.transfer("alice", "bob", amount)
    stack.sequencer.faults.set(replace(fault, at_step={"first": 0, "middle": 2, "last": 4}[place]))
    had, judge = stack.balance("verifier"), stack.balance("sequencer")
    stack.step()
    promised = stack.sequencer.promises()
    assert len(promised) == 4
    stack.step_until(posted(stack, 1))
    lie = stack.verifier.node.derivation.batches[1]
    assert lie.flagged
    assert stack.sequencer.node.switch.told[0]["step"] == {"first": 0, "middle": 2, "last": 4}[place]
    stack.transfer("mallory", "alice", 5)  # on the liar's chain, above the lie
    stack.step_until(resolved(stack))
    assert dispute(stack).winner == abi.CHALLENGER
    assert dispute(stack).low == {"first": 0, "middle": 2, "last": 4}[place]
    assert batch(stack, 1).status == abi.REVERTED
    settle(stack)
    assert promised.items() <= stack.sequencer.promises().items()
    assert stack.verifier.node.derivation.diverged is None
    assert stack.l2_balance("bob") == stack.l2_balance("bob", stack.sequencer)
    assert stack.balance("verifier") > had - SETTINGS.challenger_bond  # its bond is back
    assert stack.balance("sequencer") < judge  # and the liar's is gone
    assert {e["batch"] for e in stack.verifier.events("BatchFlagged")} == {1}
    assert not stack.sequencer.node.lies


def test_the_thief_never_gets_out(stack: Stack) -> None:
    """The loot is withdrawn on the liar's chain; after the verdict the withdrawal is a no-op in its place."""
    stack.step()
    stack.transfer("alice", "bob", 1)
    stack.sequencer.faults.set(Fault("mint", at_step=1, amount=10**12))
    stack.step()
    assert stack.l2_balance("mallory", stack.sequencer) == 2 * 10**12
    tx = stack.submit(l2_withdraw("mallory", 0, "mallory", 15 * 10**11))
    stack.step()
    assert tx.id in stack.sequencer.promises()
    place = stack.sequencer.promises()[tx.id]
    settle(stack)
    assert stack.sequencer.promises()[tx.id] == place
    assert stack.l2_balance("mallory") == 10**12
    stored = stack.sequencer.node.store.transaction_by_id(tx.id)
    assert stored is not None
    assert not stored.receipt.success


def test_lies_one_after_another_all_end_the_same_way(stack: Stack) -> None:
    for round_, fault in enumerate([*LIES, Fault("steal", seed=3)]):
        stack.transfer("alice", "bob", round_ + 1)
        stack.sequencer.faults.set(fault)
        stack.step_until(resolved(stack, round_))
        assert dispute(stack, round_).winner == abi.CHALLENGER
    settle(stack)
    assert stack.totals.bonds == 0


def test_two_lies_on_one_line_and_batches_on_top(stack: Stack) -> None:
    stack.transfer("alice", "bob", 1)
    stack.sequencer.faults.set(Fault("bad-root"))
    stack.step(2)
    stack.transfer("alice", "bob", 2)
    stack.sequencer.faults.set(Fault("mint"))
    stack.step(2)
    stack.transfer("alice", "bob", 3)
    stack.step(2)
    promised = stack.sequencer.promises()
    assert stack.totals.next_batch >= 4
    settle(stack)
    assert len(promised) == 3
    assert stack.sequencer.promises() == promised
    assert len(stack.verifier.events("BatchFlagged")) == 1, "only the first lie of a line is challenged"


def test_a_lie_while_older_batches_are_pending_voids_only_itself(stack: Stack) -> None:
    stack.transfer("alice", "bob", 1)
    stack.step_until(posted(stack, 1))
    stack.transfer("alice", "bob", 2)
    stack.step_until(posted(stack, 2))
    stack.transfer("alice", "bob", 3)
    stack.sequencer.faults.set(Fault("steal"))
    stack.step_until(posted(stack, 3))
    stack.step_until(resolved(stack))
    assert [batch(stack, i).status for i in (1, 2, 3)] == [abi.PENDING, abi.PENDING, abi.REVERTED]
    settle(stack)
    assert [batch(stack, i).status for i in (1, 2)] == [abi.FINALIZED] * 2


@pytest.mark.parametrize("clean", [True, False])
def test_a_liar_that_is_killed_at_every_block_still_keeps_its_promises(tmp_path: Path, clean: bool) -> None:
    def restart(stack: Stack) -> None:
        for member in stack.members:
            member.restart(clean=clean)

    with stack_at(tmp_path, after=restart) as stack:
        stack.step()
        for amount in (1, 2, 3):
            stack.transfer("alice", "bob", amount)
        stack.sequencer.faults.set(Fault("steal", seed=5))
        stack.step()
        promised = stack.sequencer.promises()
        assert len(promised) == 3
        stack.step_until(lambda: stack.totals.next_dispute > 0)
        settle(stack)
        assert dispute(stack).winner == abi.CHALLENGER
        assert promised.items() <= stack.sequencer.promises().items()


def test_a_skipped_deposit_stops_the_sequencer_and_nobody_else(stack: Stack) -> None:
    """P16: the contract refuses every batch from the deadline on; the deposit is credited once it relents."""
    stack.sequencer.faults.set(Fault("skip-deposit"))
    stack.deposit("alice", "carol", 5_000)
    for nonce in range(SETTINGS.inclusion_delay + 12):
        stack.transfer("alice", "bob", nonce + 1)
        stack.step()
    codes = stack.codes("submit_batch")
    assert "" in codes
    assert codes[-1] == "inbox_overdue"
    assert codes.count("inbox_overdue") <= 6, "a refused call is held back, not sent every block"
    assert stack.sequencer.refusals[-1][1] == "inbox_overdue"
    stack.sequencer.node.switch.clear()
    settle(stack)
    assert stack.l2_balance("carol") == 5_000


def test_who_is_censored_gets_in_through_l1(stack: Stack) -> None:
    stack.sequencer.faults.set(Fault("censor", address=address("bob")))
    ignored = stack.transfer("bob", "alice", 5)
    stack.transfer("alice", "bob", 1)
    stack.step(3)
    assert ignored.id not in stack.sequencer.promises()
    asked = stack.height
    stack.call("dave", "force", abi.ForceArgs(l2_transfer("bob", 0, "carol", 6)))
    stack.step_until(lambda: stack.l2_balance("carol") == 6)
    assert stack.height <= asked + SETTINGS.inclusion_delay + 1


def test_a_halted_sequencer_does_nothing_until_it_is_told_otherwise(stack: Stack) -> None:
    stack.sequencer.faults.set(Fault("halt"))
    stack.transfer("alice", "bob", 1)
    stack.step(5)
    assert stack.sequencer.node.local.head.header.height == 0
    assert not stack.receipts
    stack.sequencer.node.switch.clear()
    settle(stack)
    assert stack.totals.final_batch == 1


def test_what_was_withheld_is_posted_later_in_the_order_promised(stack: Stack) -> None:
    stack.sequencer.faults.set(Fault("withhold"))
    for nonce in range(8):
        stack.transfer("alice", "bob", nonce + 1)
        stack.step()
    promised = stack.sequencer.promises()
    assert (len(promised), stack.totals.next_batch) == (8, 1)
    stack.sequencer.node.switch.clear()
    settle(stack)
    assert stack.sequencer.promises() == promised


def test_silence_in_a_dispute_loses_it_by_the_clock(stack: Stack) -> None:
    stack.sequencer.faults.set(Fault("silent-in-dispute"))
    stack.sequencer.faults.set(Fault("bad-root", at_step=1))
    stack.transfer("alice", "bob", 1)
    stack.transfer("alice", "bob", 2)
    stack.step_until(resolved(stack))
    assert (dispute(stack).winner, dispute(stack).reason) == (abi.CHALLENGER, "timeout")
    settle(stack)


def test_silence_voids_even_a_true_batch_and_its_blocks_are_posted_again(stack: Stack) -> None:
    """docs/ARCHITECTURE.md: only the proposer can defend. Nobody loses L2 money or place."""
    stack.sequencer.faults.set(Fault("silent-in-dispute"))
    stack.verifier.faults.set(Fault("frivolous"))
    stack.transfer("alice", "bob", 1)
    stack.transfer("alice", "bob", 2)
    stack.step_until(posted(stack, 1))
    stack.transfer("alice", "bob", 3)
    stack.step_until(lambda: batch(stack, 1).status != abi.PENDING)
    assert batch(stack, 1).status == abi.REVERTED
    promised = stack.sequencer.promises()
    assert len(promised) == 3
    for member in stack.members:
        member.node.switch.clear()
    stack.step()
    assert stack.sequencer.promises() == promised
    settle(stack)
    assert stack.sequencer.promises() == promised


# --- the verifier's faults ---


def test_control_with_the_only_verifier_asleep_a_false_root_becomes_final(stack: Stack) -> None:
    """What the honest challenger is needed for: nothing else stops the theft."""
    stack.verifier.faults.set(Fault("asleep"))
    stack.sequencer.faults.set(Fault("mint", at_step=1))
    stack.transfer("alice", "bob", 1)
    stack.step_until(final(stack, 1))
    for member in stack.members:
        assert member.node.derivation.diverged == 1
        assert member.heads["finalized"][0] == 0, "no node calls a lie final"
    assert stack.verifier.events("BatchFinalized") == [{"batch": 1, "matches": False}]


@pytest.mark.parametrize(("blocks", "status"), [(4, abi.REVERTED), (40, abi.FINALIZED)])
def test_a_late_verifier_is_in_time_within_the_window_only(stack: Stack, blocks: int, status: str) -> None:
    stack.verifier.faults.set(Fault("late", blocks=blocks))
    stack.sequencer.faults.set(Fault("bad-root"))
    stack.transfer("alice", "bob", 1)
    stack.step_until(posted(stack, 1))
    stack.step_until(lambda: batch(stack, 1).status != abi.PENDING)
    assert batch(stack, 1).status == status


def test_a_frivolous_challenge_loses_its_bond(stack: Stack) -> None:
    stack.verifier.faults.set(Fault("frivolous"))
    had = stack.balance("verifier")
    for amount in (1, 2, 3, 4, 5):
        stack.transfer("alice", "bob", amount)
    stack.step_until(final(stack, 1))
    assert (dispute(stack).winner, dispute(stack).reason) == (abi.DEFENDER, "step-proved")
    assert stack.balance("verifier") < had - SETTINGS.challenger_bond
    assert stack.codes("challenge") == [""], "once a batch"


def test_the_bond_comes_back_from_a_dispute_that_another_one_decided(stack: Stack) -> None:
    """carol challenged first and calls time first; the verifier's dispute is then about nothing."""
    stack.sequencer.faults.set(Fault("bad-root", at_step=0))
    stack.sequencer.faults.set(Fault("silent-in-dispute"))
    stack.verifier.faults.set(Fault("late", blocks=3))
    had = stack.balance("verifier")
    stack.transfer("alice", "bob", 1)
    stack.step_until(posted(stack, 1))
    stack.call("carol", "challenge", abi.ChallengeArgs(1, b"\x05" * 32), SETTINGS.challenger_bond)
    stack.step()
    stack.step_until(lambda: dispute(stack).last_move + SETTINGS.dispute_clock < stack.height)
    stack.call("carol", "timeout", abi.DisputeArgs(0))
    stack.step()
    assert batch(stack, 1).status == abi.REVERTED
    stack.step(2)
    assert stack.codes("settle", "verifier") == [""]
    assert dispute(stack, 1).reason == "batch-reverted"
    assert stack.balance("verifier") > had - SETTINGS.challenger_bond


def test_a_sequencer_never_challenges_and_finalizes_no_strangers_lie(stack: Stack) -> None:
    stack.verifier.faults.set(Fault("asleep"))
    stack.sequencer.faults.set(Fault("halt"))
    stack.step(SETTINGS.sequencer_timeout + 1)
    stranger(stack, [], lie=True)
    stack.sequencer.node.switch.clear()
    stack.transfer("alice", "bob", 1)
    stack.step(SETTINGS.challenge_window + 5)
    assert not stack.codes("challenge")
    assert not stack.codes("finalize")
    assert batch(stack, 1).status == abi.PENDING


# --- somebody else posts ---


def stranger(stack: Stack, wires: list[bytes], *, lie: bool = False, inbox: int = 0) -> None:
    """dave posts a batch, as anyone may once the sequencer is silent."""
    derivation = stack.verifier.node.derivation
    blocks = [BatchBlock(stack.now(), inbox, wires)]
    parent = derivation.head_batch
    probe = Member(stack, "verifier", stack.path / f"probe-{stack.height}")
    probe.catch_up()
    made = probe.node.derivation._execute(
        parent.end,
        Read(Contents([], [], [], 0), blocks),
        replace(parent.record, inbox_from=parent.record.inbox_to, inbox_to=parent.record.inbox_to + inbox),
    )
    probe.close()
    root: Bytes32 = b"\x01" * 32 if lie else made[-1].tree.root
    args = abi.SubmitBatchArgs(parent.index, parent.record.inbox_to + inbox, encode_batch(blocks), root)
    stack.call("dave", "submit_batch", args, SETTINGS.proposer_bond)
    stack.step()
    assert stack.codes("submit_batch", "dave")[-1] == ""


def test_a_strangers_batch_after_the_timeout_wins_over_our_blocks(stack: Stack) -> None:
    stack.sequencer.faults.set(Fault("withhold"))
    lost = stack.transfer("bob", "alice", 5)
    stack.deposit("alice", "carol", 7_000)
    stack.step(3)
    assert lost.id in stack.sequencer.promises()
    stack.step(SETTINGS.sequencer_timeout)
    stranger(stack, [l2_transfer("alice", 0, "carol", 1)], inbox=1)
    assert stack.sequencer.heads["safe"] == stack.verifier.heads["safe"]
    stack.sequencer.node.switch.clear()
    settle(stack)  # what was lost waited in the pool and is in a later block
    assert lost.id in stack.sequencer.promises()
    assert stack.l2_balance("carol") == 7_001
    assert stack.sequencer.events("ChainReverted")


def test_a_strangers_lie_takes_no_message_in_twice(stack: Stack) -> None:
    """Our own blocks were run again after the revert; those of the stranger's false batch must not be."""
    stack.sequencer.faults.set(Fault("withhold"))
    stack.deposit("alice", "carol", 7_000)
    stack.step(2)
    stack.transfer("alice", "bob", 1)
    stack.step(SETTINGS.sequencer_timeout + 1)
    blocks = [BatchBlock(stack.now(), n, []) for n in (0, 0, 0, 1)]  # higher than our two blocks
    args = abi.SubmitBatchArgs(0, 1, encode_batch(blocks), b"\x01" * 32)
    stack.call("dave", "submit_batch", args, SETTINGS.proposer_bond)
    stack.sequencer.node.switch.clear()
    stack.step_until(lambda: stack.totals.next_batch == 2 and batch(stack, 1).status == abi.REVERTED)
    settle(stack)
    assert stack.l2_balance("carol") == 7_000
    assert stack.verifier.node.derivation.diverged is None
    assert len(stack.verifier.events("BatchFlagged")) == 1


# --- posting never gets stuck ---


def test_more_messages_than_a_batch_takes(stack: Stack) -> None:
    for amount in range(5):
        stack.deposit("alice", "carol", 1_000 + amount)
    stack.step(2)
    for amount in range(3 * SETTINGS.max_inbox_per_batch):
        stack.deposit("bob", "carol", 2_000 + amount)
    stack.transfer("alice", "bob", 1)
    settle(stack)
    assert stack.sequencer.node.derivation.finalized_batch.record.inbox_to == 5 + 3 * 8


@pytest.mark.parametrize("sizes", [(5, 24), (3, 5, 8, 9), (1, 16)])
def test_an_overdue_backlog_that_no_batch_boundary_fits(stack: Stack, sizes: tuple[int, ...]) -> None:
    """A batch that is not full of messages may leave out none that is overdue, wherever blocks were cut."""
    stack.sequencer.faults.set(Fault("withhold"))
    for size in sizes:
        for amount in range(size):
            stack.deposit("alice", "carol", 1_000 + amount)
        stack.transfer("alice", "bob", 1)
        stack.step(2)
    stack.step(SETTINGS.inclusion_delay + 3)
    promised = stack.sequencer.promises()
    stack.sequencer.node.switch.clear()
    settle(stack)
    assert stack.sequencer.promises() == promised


def test_a_deposit_behind_many_transactions(stack: Stack) -> None:
    """It is in a block that comes after more than a batch's worth of steps, and overdue."""
    stack.sequencer.faults.set(Fault("withhold"))
    for nonce in range(3 * SETTINGS.max_steps):
        stack.transfer("alice", "bob", nonce + 1)
    stack.step(8)
    stack.deposit("alice", "carol", 5_000)
    stack.step(SETTINGS.inclusion_delay + 3)
    promised = stack.sequencer.promises()
    assert len(promised) == 3 * SETTINGS.max_steps
    stack.sequencer.node.switch.clear()
    settle(stack)
    assert stack.sequencer.promises() == promised
    assert stack.l2_balance("carol") == 5_000


def test_a_lie_that_l1_never_heard_does_not_keep_messages_back(stack: Stack) -> None:
    """P16: L1 refuses the falsified batch, a message behind it being overdue: the lie is told anew, with that."""
    node = stack.sequencer.node
    stack.lose = lambda who, call: who == "sequencer"
    stack.sequencer.faults.set(Fault("steal"))
    stack.transfer("alice", "bob", 1)
    stack.step(2)
    assert node.lies
    stack.deposit("alice", "carol", 5_000)
    stack.step(SETTINGS.inclusion_delay + 3)
    stack.lose = lambda who, call: False
    stack.step_until(resolved(stack))
    assert dispute(stack).winner == abi.CHALLENGER
    assert [told["name"] for told in node.switch.told] == ["steal"]
    settle(stack)
    assert stack.l2_balance("carol") == 5_000


def test_lost_calls_are_sent_again(stack: Stack) -> None:
    """Of every method the first call vanishes, on both sides, in the middle of a dispute too."""
    seen: set[tuple[str, str]] = set()

    def lose(who: str, call: Call) -> bool:
        first = (who, call.method) not in seen and call.method in ("submit_batch", "finalize", "bisect")
        seen.add((who, call.method))
        return first

    stack.lose = lose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rollup.outbox.LOST_AFTER", 4)  # this L1's dispute clocks are short
        stack.sequencer.faults.set(Fault("bad-root"))
        for amount in (1, 2, 3, 4, 5):
            stack.transfer("alice", "bob", amount)
        stack.step_until(resolved(stack))
        assert dispute(stack).winner == abi.CHALLENGER
        settle(stack)
    assert stack.sequencer.lost >= 2


def test_a_frozen_bridge_ends_it_all(stack: Stack) -> None:
    stack.sequencer.faults.set(Fault("halt"))
    stack.step(SETTINGS.escape_timeout + 1)
    stack.call("dave", "freeze")
    stack.step()
    assert stack.codes("freeze") == [""]
    stack.sequencer.node.switch.clear()
    stack.transfer("alice", "bob", 1)
    count = len(stack.receipts)
    stack.step(5)
    assert len(stack.receipts) == count
    assert stack.sequencer.node.derivation.frozen
    assert stack.sequencer.node.produce(stack.now(), heartbeat=True) is None
    stack.sequencer.restart()
    assert stack.sequencer.node.derivation.frozen


def test_a_withdrawal_goes_all_the_way_out(stack: Stack) -> None:
    tx = SignedTransaction.decode(l2_withdraw("alice", 0, "dave", 12_345))
    stack.submit(tx.wire)
    settle(stack)
    node = stack.verifier.node
    tree = node.derivation.finalized_batch.end.tree
    record = decode(abi.Withdrawal, tree.get(abi.withdrawal_state_key(0)))
    proof = tree.prove([abi.withdrawal_state_key(0)])
    args = abi.ClaimArgs(node.derivation.finalized, 0, record.recipient, record.amount, proof)
    had = stack.balance("dave")
    stack.call("carol", "claim", args)
    stack.call("carol", "claim", args)
    stack.step()
    assert stack.codes("claim") == ["", "already_claimed"]
    assert stack.balance("dave") == had + 12_345
    assert KEYS["dave"].address == record.recipient


def test_a_sequencer_does_not_run_its_own_blocks_twice_but_those_of_a_lie(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[int] = []
    real = derivation_module.execute_block

    def counted(rules: Rules, parent: L2Block, *rest: Any) -> L2Block:
        run.append(parent.header.height + 1)
        return real(rules, parent, *rest)

    node = stack.sequencer.node
    monkeypatch.setattr(derivation_module, "execute_block", counted)
    stack.verifier.faults.set(Fault("asleep"))
    stack.transfer("alice", "bob", 4)
    while node.derivation.head == 0:
        stack.step()
    heights = [block.header.height for block in node.derivation.batches[1].l2_blocks]
    assert sorted(run) == heights, "only the verifier ran them"
    assert node.derivation.batches[1].matches

    run.clear()
    stack.sequencer.faults.set(Fault("steal"))
    stack.transfer("alice", "bob", 5)
    while node.derivation.head == 1:
        stack.step()
    lie = node.derivation.batches[2]
    assert not lie.matches, "the liar knows the true root"
    assert lie.computed_root == stack.verifier.node.derivation.batches[2].computed_root


def test_a_sequencer_does_not_unpack_its_own_batches(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked_for: list[object] = []
    real = Contents.wires

    def noted(contents: Contents, directory: Any, chain_id: int) -> list[BatchBlock]:
        unpacked_for.append(directory)
        return real(contents, directory, chain_id)

    monkeypatch.setattr(Contents, "wires", noted)
    honest_story(stack)
    mine, other = stack.sequencer.node.derivation, stack.verifier.node.derivation
    assert not any(directory is mine.directory for directory in unpacked_for)
    assert any(directory is other.directory for directory in unpacked_for)
    for n in range(40):  # what never comes to L1 is forgotten
        mine.remember(bytes([n]), [])
    assert len(mine._packed) == derivation_module.MAX_REMEMBERED
