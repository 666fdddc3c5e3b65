"""Derivation over the real bridge contract: heads, flags, reverts, replay, and what cannot be."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as copy_with

import msgspec
import pytest
from bridge_harness import KEYS, SETTINGS, l2_genesis, l2_transfer, l2_withdraw, steal_at
from followed_world import Followed
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import abi
from chainkit.chain import ExecutedBlock, executed_transactions
from chainkit.codec import encode
from chainkit.contract import Event
from chainkit.merkle import MissingWitness, Tree
from chainkit.state import State
from chainkit.transaction import SignedTransaction
from rollup.derivation import (
    BatchDerived,
    BatchFinalized,
    BatchFlagged,
    BatchReverted,
    Derivation,
    DerivationError,
    DerivationEvent,
    DisputeChanged,
    Frozen,
    InboxMessageQueued,
    SettingsChanged,
)
from rollup.stf import Deposit, Forced


def busy(world: Followed) -> Followed:
    """Two true batches with deposits, a forced transaction, invalid ones and a withdrawal."""
    world.deposit("alice", "carol", 5_000)
    world.force("bob", l2_transfer("bob", 0, "carol", 9))
    world.post((2, [l2_transfer("alice", 0, "bob", 5), b"not a transaction"]), (0, []))
    world.deposit("alice", "bob", 7_000)
    world.post((1, [l2_withdraw("alice", 1, "alice", 50), l2_transfer("alice", 7, "bob", 1)]))
    return world


def summary(derivation: Derivation) -> list[object]:
    """Everything that a derivation says, in comparable form."""
    batches = [
        (
            b.record,
            b.start.hash,
            b.end.hash,
            b.computed_root,
            b.parent_matches,
            b.status,
            b.l1_height,
            b.l1_tx_id,
        )
        for _, b in sorted(derivation.batches.items())
    ]
    pending = [block.header for b in derivation.batches.values() for block in b.l2_blocks]
    heads = [
        derivation.head,
        derivation.finalized,
        derivation.safe_batch.index,
        derivation.finalized_batch.index,
    ]
    rest = [
        derivation.disputes,
        derivation.settings,
        derivation.totals,
        derivation.frozen,
        derivation.diverged,
    ]
    return [derivation.inbox, batches, pending, heads, rest]


def replay(world: Followed, *, only_busy: bool = True, executor=None) -> Derivation:
    """A new derivation from the stored L1 blocks, as after a restart."""
    derivation = Derivation(l2_genesis(), executor=executor)
    for block in world.l1:
        if block.transactions or not only_busy:
            derivation.apply_l1_block(block.header, executed_transactions(block), None)
    derivation.refresh(world.tip.tree)
    return derivation


def test_before_anything_the_heads_are_the_genesis_batch_of_the_contract():
    world = Followed()
    derivation = world.derivation
    assert derivation.safe_batch is derivation.finalized_batch is derivation.head_batch
    assert derivation.head_batch.record == world.batch(0)
    assert derivation.settings == SETTINGS
    assert world.log == [SettingsChanged(SETTINGS)]


def test_messages_are_queued_in_order_with_their_place_on_l1():
    world = Followed()
    world.deposit("alice", "carol", 5_000)
    wire = l2_transfer("bob", 0, "carol", 9)
    world.force("judy", wire)
    first, second = (event.message for event in world.events(InboxMessageQueued))
    assert first.step == Deposit(0, KEYS["alice"].address, KEYS["carol"].address, 5_000)
    assert second.step == Forced(1, wire)
    assert (first.l1_height, second.l1_height) == (1, 2)
    assert first.l1_tx_id == world.l1[0].transactions[0].id
    assert first.step_hash == world.load(abi.inbox_key(0), abi.InboxEntry).step_hash


def test_true_batches_are_derived_and_become_safe_then_final():
    world = busy(Followed())
    one, two = (world.derived(index) for index in (1, 2))
    assert one.matches
    assert two.matches
    assert (two.start.hash, two.record.first_block) == (one.end.hash, 3)
    assert [block.header.height for block in (*one.l2_blocks, *two.l2_blocks)] == [1, 2, 3]
    assert one.end.header.state_root == one.record.state_root
    assert State(two.end.tree).account(KEYS["carol"].address).balance == 5_009
    assert world.derivation.safe_batch is two
    assert world.derivation.inbox_cursor == 3
    assert not world.events(BatchFlagged)
    assert world.derivation.finalized_batch.index == 0
    world.finalize(1)
    world.finalize(2)
    assert world.events(BatchFinalized) == [BatchFinalized(1, matches=True), BatchFinalized(2, matches=True)]
    final = world.derivation.finalized_batch
    assert (final.index, final.status, final.record.status) == (2, "finalized", "finalized")


def test_each_block_has_a_receipt_for_each_step():
    world = busy(Followed())
    (block, empty) = world.derived(1).l2_blocks
    assert [receipt.code for receipt in block.receipts] == ["", "", "", "undecodable"]
    assert not empty.steps
    assert [receipt.code for receipt in world.derived(2).l2_blocks[0].receipts] == ["", "", "nonce_gap"]


def test_a_settled_batch_lets_go_of_its_states_but_the_last_final_one():
    world = busy(Followed())
    world.finalize(1)
    world.finalize(2)
    one, two = world.derived(1), world.derived(2)
    assert not one.l2_blocks
    assert not two.l2_blocks
    assert State(two.end.tree).account(KEYS["carol"].address).balance == 5_009
    for block in (one.start, one.end, two.start, world.derived(0).end):
        assert block.tree.root == block.header.state_root
        with pytest.raises(MissingWitness):
            block.tree.get(b"anything")


def test_a_false_batch_is_flagged_and_neither_it_nor_its_child_is_safe():
    world = busy(Followed())
    bad = world.post((0, [l2_transfer("alice", 2, "bob", 3)]), lie=steal_at(1))
    child = world.post((0, [l2_transfer("alice", 3, "bob", 3)]))
    assert world.events(BatchFlagged) == [
        BatchFlagged(bad.index, bad.told.root(2), world.derived(bad.index).computed_root)
    ]
    assert [world.derived(i).flagged for i in (2, bad.index, child.index)] == [False, True, False]
    assert [world.derived(i).matches for i in (2, bad.index, child.index)] == [True, False, False]
    assert world.derivation.safe_batch.index == 2
    assert world.derivation.head == child.index


def test_a_revert_undoes_the_batch_and_its_descendants_and_returns_the_inbox():
    world = busy(Followed())
    world.deposit("alice", "carol", 1_000)
    bad = world.post((1, [l2_transfer("alice", 2, "bob", 3)]), lie=steal_at(2))
    child = world.post((0, [l2_transfer("alice", 3, "bob", 4)]))
    assert world.derivation.inbox_cursor == 4
    lost_root = world.derived(bad.index).computed_root
    world.play(world.challenge(bad), bad.told, bad.true)
    reverts = world.events(BatchReverted)
    assert [(e.batch, e.inbox_from) for e in reverts] == [(child.index, 4), (bad.index, 3)]
    assert [e.reason for e in reverts] == ["ancestor-reverted", "step-proved"]
    assert [tx.wire for tx in reverts[1].lost.l2_blocks[0].transactions if tx] == [
        l2_transfer("alice", 2, "bob", 3)
    ]
    derivation = world.derivation
    assert (derivation.head, derivation.safe_batch.index, derivation.inbox_cursor) == (2, 2, 3)
    assert [world.derived(i).status for i in (bad.index, child.index)] == ["reverted", "reverted"]
    again = world.post((1, [l2_transfer("alice", 2, "bob", 3)]))
    assert again.index == child.index + 1
    assert derivation.safe_batch.index == again.index
    # Same parent, messages and transactions; only block time may differ.
    assert State(derivation.safe_batch.end.tree).account(KEYS["carol"].address).balance == 6_009
    assert derivation.safe_batch.start.hash == world.derived(2).end.hash
    assert lost_root != bad.told.root(len(bad.steps))


def test_a_false_batch_that_becomes_final_is_said_and_never_believed():
    world = busy(Followed())
    bad = world.post((0, [l2_transfer("alice", 2, "bob", 3)]), lie=steal_at(1))
    for index in (1, 2, bad.index):
        world.finalize(index)
    assert world.events(BatchFinalized)[-1] == BatchFinalized(bad.index, matches=False)
    derivation = world.derivation
    assert (derivation.diverged, derivation.finalized, derivation.finalized_batch.index) == (3, 3, 2)
    assert State(derivation.finalized_batch.end.tree).account(KEYS["carol"].address).balance == 5_009
    later = [world.post((0, [])).index, world.post((0, [])).index]
    for index in later:
        world.finalize(index)
    assert not any(world.derived(index).matches or world.derived(index).flagged for index in later)
    assert derivation.diverged == 3
    assert derivation.safe_batch.index == 2
    assert summary(replay(world)) == summary(derivation)


def test_replay_gives_the_same_from_all_blocks_or_busy_ones_at_every_point():
    world = busy(Followed())
    bad = world.post((0, [l2_transfer("alice", 2, "bob", 3)]), lie=steal_at(1))
    world.post((0, []))
    dispute = world.challenge(bad)
    assert summary(replay(world)) == summary(world.derivation)
    world.play(dispute, bad.told, bad.true)
    assert summary(replay(world)) == summary(world.derivation)
    world.post((0, [l2_transfer("alice", 2, "bob", 3)]))
    world.finalize(1)
    expected = summary(world.derivation)
    assert summary(replay(world)) == summary(replay(world, only_busy=False)) == expected
    with ThreadPoolExecutor(2) as executor:
        assert summary(replay(world, executor=executor)) == expected


def test_disputes_are_followed_until_their_verdict():
    world = busy(Followed())
    bad = world.post((0, [l2_transfer("alice", 2, "bob", 3)]), lie=steal_at(1))
    index = world.challenge(bad)
    assert world.derivation.open_disputes() == [world.dispute(index)]
    other = world.challenge(bad, who="judy", root=b"\x07" * 32)
    verdict = world.play(index, bad.told, bad.true)
    seen = [event.dispute for event in world.events(DisputeChanged) if event.dispute.index == index]
    assert [dispute.moves for dispute in seen] == list(range(len(seen)))
    assert seen[-1] == verdict == world.derivation.disputes[index]
    assert (verdict.stage, verdict.winner) == ("resolved", "challenger")
    assert [dispute.index for dispute in world.derivation.open_disputes()] == [other]
    world.ok("judy", "settle", abi.DisputeArgs(other))
    assert world.derivation.open_disputes() == []


def test_what_the_contract_refuses_has_no_effect():
    world = busy(Followed())
    before = summary(world.derivation)[:-1]
    blocks = world.blocks((0, []))
    args = world.batch_args(world.prepare(blocks), blocks)
    world.refused("not_sequencer", "mallory", "submit_batch", args, SETTINGS.proposer_bond)
    wrong = msgspec.structs.replace(args, parent=1)
    world.refused("wrong_parent", "sequencer", "submit_batch", wrong, SETTINGS.proposer_bond)
    world.refused("deposit_too_small", "alice", "deposit", abi.DepositArgs(KEYS["bob"].address), 1)
    assert summary(world.derivation)[:-1] == before


def test_many_calls_in_one_block_are_taken_in_their_order():
    world = Followed()
    blocks = world.blocks((0, []))
    first = world.prepare(blocks)
    world.ends[first.index] = first.end
    deposit = world.tx("alice", "deposit", abi.DepositArgs(KEYS["bob"].address), 4_000)
    batch = world.tx("sequencer", "submit_batch", world.batch_args(first, blocks), SETTINGS.proposer_bond)
    failing = world.tx("mallory", "finalize", abi.BatchArgs(1))
    world.messages.append(Deposit(0, KEYS["alice"].address, KEYS["bob"].address, 4_000))
    assert [receipt.success for receipt in world.mine(deposit, batch, failing)] == [True, True, False]
    assert [type(event) for event in world.log[1:3]] == [InboxMessageQueued, BatchDerived]
    assert world.derivation.safe_batch.index == 1


def test_a_freeze_is_noted():
    world = busy(Followed())
    world.finalize(1)
    world.finalize(2)
    world.wait(SETTINGS.escape_timeout + 1)
    world.ok("bob", "freeze")
    assert world.derivation.frozen
    assert world.events(Frozen) == [Frozen(KEYS["bob"].address)]
    assert summary(replay(world)) == summary(world.derivation)


def test_an_upgrade_changes_the_settings_when_it_is_applied():
    world = Followed()
    new = msgspec.structs.replace(SETTINGS, min_deposit=2_000)
    world.ok("judy", "schedule_upgrade", abi.UpgradeArgs(new))
    assert world.derivation.settings == SETTINGS
    world.wait(SETTINGS.exit_window + 1)
    world.ok("judy", "apply_upgrade")
    assert world.derivation.settings == new
    assert world.events(SettingsChanged) == [SettingsChanged(SETTINGS), SettingsChanged(new)]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 1)), max_size=5))
def test_invalid_transactions_at_any_position_give_the_same_root_everywhere(pieces):
    """Some of the transactions are rubbish; the poster and the derivation agree on all of them."""
    nonce, wires = 0, []
    for piece in pieces:
        if isinstance(piece, int):
            wires.append(l2_transfer("alice", nonce + piece, "bob", 5))
            nonce += 1 - piece
        else:
            wires.append(piece)
    world = Followed()
    world.post((0, wires))
    assert world.derived(1).matches


# --- what cannot be ---


def test_blocks_out_of_order_are_refused():
    world = busy(Followed())
    block = world.l1[0]
    for height in (block, world.l1[-1]):
        with pytest.raises(DerivationError):
            world.derivation.apply_l1_block(height.header, executed_transactions(height), None)


def forged(world: Followed, *events: Event):
    """A block whose one transaction, a successful one, has these events."""
    tx = world.l1[0].transactions[0]
    receipt = msgspec.structs.replace(world.l1[0].receipts[0], events=list(events))
    header = msgspec.structs.replace(world.tip.header, height=world.height + 1)
    return header, [(tx, receipt)]


def bridge_event(record) -> Event:
    return Event("bridge", type(record).__name__, encode(record))


def test_another_contract_cannot_speak_for_the_bridge():
    world = busy(Followed())
    before = summary(world.derivation)
    fake = abi.DepositInitiated(3, KEYS["mallory"].address, KEYS["mallory"].address, 10**9)
    events = [Event(name, "DepositInitiated", encode(fake)) for name in ("bridge2", "notes", "")]
    assert world.derivation.apply_l1_block(*forged(world, *events), None) == []
    assert summary(world.derivation) == before


def test_events_of_a_failed_transaction_are_not_read():
    world = busy(Followed())
    fake = abi.DepositInitiated(3, KEYS["mallory"].address, KEYS["mallory"].address, 10**9)
    header, [(tx, receipt)] = forged(world, bridge_event(fake))
    failed = msgspec.structs.replace(receipt, success=False)
    assert world.derivation.apply_l1_block(header, [(tx, failed)], None) == []


ADDRESS = KEYS["mallory"].address


@pytest.mark.parametrize(
    "event",
    [
        Event("bridge", "NoSuchEvent", b"\x90"),
        Event("bridge", "DepositInitiated", b"\x90"),
        bridge_event(abi.DepositInitiated(0, ADDRESS, ADDRESS, 5)),
        bridge_event(abi.DepositInitiated(4, ADDRESS, ADDRESS, 5)),
        bridge_event(abi.TransactionForced(9, ADDRESS, b"")),
        bridge_event(abi.BatchFinalized(2, bytes(32))),
        bridge_event(abi.BatchFinalized(9, bytes(32))),
        bridge_event(abi.BatchReverted(9, "why")),
    ],
)
def test_what_the_contract_cannot_have_said_stops_the_derivation(event):
    world = busy(Followed())
    with pytest.raises(DerivationError):
        world.derivation.apply_l1_block(*forged(world, event), None)


@pytest.mark.parametrize(
    "change",
    [
        {"parent": 1},
        {"parent": 9},
        {"steps_root": bytes(32)},
        {"inbox_from": 2},
        {"inbox_to": 4},
        {"inbox_to": 2},
    ],
)
def test_a_batch_that_is_not_what_its_calldata_says_stops_the_derivation(change):
    world = busy(Followed())
    world.post((0, []))
    block = world.l1[-1]
    derivation = Derivation(l2_genesis())
    for earlier in world.l1[:-1]:
        derivation.apply_l1_block(earlier.header, executed_transactions(earlier), None)
    record = msgspec.structs.replace(world.batch(3), **change)
    event = bridge_event(abi.BatchSubmitted(record))
    receipt = msgspec.structs.replace(block.receipts[0], events=[event])
    with pytest.raises(DerivationError):
        derivation.apply_l1_block(block.header, [(block.transactions[0], receipt)], None)


def test_a_batch_without_its_own_top_level_call_stops_the_derivation():
    world = busy(Followed())
    event = bridge_event(abi.BatchSubmitted(copy_record(world)))
    with pytest.raises(DerivationError, match="top-level"):
        world.derivation.apply_l1_block(*forged(world, event), None)


def copy_record(world: Followed) -> abi.Batch:
    return msgspec.structs.replace(world.batch(2), index=3, parent=2)


def test_a_batch_is_a_value():
    """Events hold what was; later verdicts do not change them."""
    world = busy(Followed())
    derived = world.events(BatchDerived)[0].batch
    world.finalize(1)
    assert derived.status == "pending"
    assert derived.l2_blocks
    assert copy_with(derived, status="finalized").status == world.derived(1).status


def test_a_true_batch_that_its_proposer_did_not_defend_is_no_longer_safe():
    """A verdict by the clock voids what is true; the derivation follows L1 all the same."""
    world = busy(Followed())
    index = world.challenge_with(2, b"\x03" * 32, "mallory")
    world.wait_until(world.dispute(index).last_move + SETTINGS.dispute_clock + 1)
    assert world.derivation.safe_batch.index == 2
    world.ok("mallory", "timeout", abi.DisputeArgs(index))
    assert [(e.batch, e.reason) for e in world.events(BatchReverted)] == [(2, "timeout")]
    assert world.derivation.safe_batch.index == world.derivation.head == 1
    assert summary(replay(world)) == summary(world.derivation)


# --- signatures checked beforehand ---


def test_what_was_checked_beforehand_is_taken_and_the_rest_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`prepare` changes nothing but who checks; a transaction that nobody checked is checked all the same."""
    world = Followed()
    good = l2_transfer("alice", 0, "bob", 7)
    bad = good[:-1] + bytes([good[-1] ^ 1])
    posted = world.post((0, [bad, good]))
    pairs = list(executed_transactions(world.tip))
    plain = Derivation(l2_genesis())
    for told in (None, True):
        other = plain.anew()
        signed = other.prepare(world.tip.header.height, pairs)
        assert [tx.wire for tx in signed] == [bad, good]
        if told:
            for tx in signed:
                tx.note_signature(tx.wire == good)
            monkeypatch.setattr("chainkit.transaction.verify", None)
        other.apply_l1_block(world.tip.header, pairs, None)
        assert other.batches[1].computed_root == posted.end.root
        assert other.batches[1].matches
        assert other.prepare(world.tip.header.height + 1, []) == []


def derived_ahead(blocks: list[ExecutedBlock], ahead: int) -> Derivation:
    """Derived from these L1 blocks, so many of them read before their turn."""
    derivation = Derivation(l2_genesis())
    coming = list(blocks)
    for number, block in enumerate(blocks):
        while ahead and coming and len(blocks) - len(coming) <= number + ahead:
            derivation.prepare(coming[0].header.height, executed_transactions(coming.pop(0)))
        derivation.apply_l1_block(block.header, executed_transactions(block), None)
    derivation.refresh(blocks[-1].tree)
    return derivation


@pytest.mark.parametrize("ahead", [1, 3, 1000])
def test_reading_l1_blocks_before_their_turn_changes_nothing(ahead: int) -> None:
    """With addresses that batches name for the first time, reverted batches, and a false one."""
    world = busy(Followed())
    posted = world.post((0, [l2_transfer("alice", 2, "bob", 1)]), lie=steal_at(1))
    index = world.challenge_with(posted.index, posted.true.root(len(posted.steps)))
    world.wait_until(world.dispute(index).last_move + SETTINGS.dispute_clock + 1)
    world.ok("verifier", "timeout", abi.DisputeArgs(index))
    world.post((0, [l2_transfer("alice", 2, "dave", 1), l2_transfer("dave", 0, "alice", 1)]))
    world.post((0, [l2_transfer("alice", 3, "dave", 1)]))
    assert [event.batch for event in world.events(BatchReverted)] == [posted.index]
    assert summary(derived_ahead(world.l1, ahead)) == summary(world.derivation)


def test_of_a_block_that_wrote_nothing_of_the_bridge_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    world = busy(Followed())
    posted = world.post((0, [l2_transfer("alice", 2, "bob", 1)]), lie=steal_at(1))
    index = world.challenge_with(posted.index, posted.true.root(len(posted.steps)))
    world.wait_until(world.dispute(index).last_move + SETTINGS.dispute_clock + 1)
    world.ok("verifier", "timeout", abi.DisputeArgs(index))
    read: list[int] = []
    refresh = Derivation.refresh

    def noted(derivation: Derivation, l1_state: Tree) -> list[DerivationEvent]:
        read.append(derivation.l1_height)
        return refresh(derivation, l1_state)

    monkeypatch.setattr(Derivation, "refresh", noted)
    derivation, log = Derivation(l2_genesis()), list[DerivationEvent]()
    for block in world.l1:
        log += derivation.apply_l1_block(
            block.header, executed_transactions(block), block.tree, block.changes
        )
    changes = [event for event in log if isinstance(event, DisputeChanged)]
    assert changes == world.events(DisputeChanged)
    assert len(changes) > 1
    assert summary(derivation) == summary(world.derivation)
    quiet = [block for block in world.l1[1:] if not block.transactions]
    assert len(quiet) > 3
    assert not {block.header.height for block in quiet} & set(read)


def test_the_same_batch_twice_in_one_l1_block_is_read_twice() -> None:
    """Its numbers stand for other places in the directory the second time: a liar's way to stop who reads ahead."""
    world = Followed()
    blocks = world.blocks((0, [l2_transfer("alice", 0, "bob", 7)]))
    args = world.batch_args(world.prepare(blocks), blocks)
    first = world.tx("sequencer", "submit_batch", args, SETTINGS.proposer_bond)
    action = msgspec.structs.replace(first.body.action, args=encode(msgspec.structs.replace(args, parent=1)))
    body = msgspec.structs.replace(first.body, nonce=first.body.nonce + 1, action=action)
    second = SignedTransaction.sign(body, KEYS["sequencer"])
    tip, _ = world.chain.build(world.tip, world.tip.header.slot + 1, bytes(32), [first, second])
    assert [receipt.success for receipt in tip.receipts] == [True, True]
    plain, ahead = derived_ahead([tip], 0), derived_ahead([tip], 1)
    assert summary(plain) == summary(ahead)
    assert len(plain.directory) == len(ahead.directory) == 4
    assert list(ahead.batches[1].step_hashes) != list(ahead.batches[2].step_hashes)


def test_a_slimmed_batch_keeps_what_disputes_and_reverts_need() -> None:
    """Everything else of it is most of a node's memory while its challenge window lasts."""
    world = busy(Followed())
    derivation, before = world.derivation, summary(world.derivation)
    whole = dict(derivation.batches)
    derivation.slim_down()
    for index in (1, 2):
        batch, was = derivation.batches[index], whole[index]
        assert batch.steps == was.steps
        assert (batch.start.tree.root, batch.end.tree.root) == (was.start.tree.root, was.end.tree.root)
        assert State(batch.end.tree).account(KEYS["carol"].address) == State(was.end.tree).account(
            KEYS["carol"].address
        )
        assert [block.steps for block in batch.l2_blocks] == [block.steps for block in was.l2_blocks]
        assert not any(block.receipts or block.changes for block in batch.l2_blocks)
    with pytest.raises(MissingWitness):
        State(derivation.batches[1].l2_blocks[0].tree).account(KEYS["alice"].address)
    assert summary(derivation) == before
    world.post((0, [l2_transfer("alice", 2, "bob", 1)]))  # on the state of a slimmed parent
    assert derivation.batches[3].matches
    assert [receipt.success for receipt in derivation.batches[3].l2_blocks[0].receipts] == [True]


def test_a_false_batch_is_not_slimmed() -> None:
    world = busy(Followed())
    bad = world.post((0, [l2_transfer("alice", 2, "bob", 1)]), lie=steal_at(1))
    world.derivation.slim_down()
    assert world.derivation.batches[bad.index].l2_blocks[0].receipts
