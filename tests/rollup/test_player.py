"""Whole dispute games over the real contract: honest sides win, whoever lies, at whatever step."""

from dataclasses import replace

import msgspec
import pytest
from bridge_harness import SETTINGS, Posted, address, l2_transfer, l2_withdraw, steal_at
from followed_world import Followed

from bridge import abi
from bridge.settings import moves_of_a_side
from chainkit.codec import decode
from rollup.derived import DerivedBatch
from rollup.faults import frivolous_move, frivolous_root
from rollup.player import (
    batch_trace,
    clock_ran_out,
    next_move,
    settle_move,
    should_challenge,
    timeout_move,
)
from rollup.trace import Trace

VERIFIER, SEQUENCER = address("verifier"), address("sequencer")


def silent(*_: object) -> None:
    """A player that never moves."""


def ceil_log(n: int, k: int) -> int:
    rounds, reach = 0, 1
    while reach < n:
        rounds, reach = rounds + 1, reach * k
    return rounds


def transfers(count: int, start: int = 0) -> list[bytes]:
    return [l2_transfer("alice", start + i, "bob", i + 1) for i in range(count)]


def world_with(count: int, lie_at: int | None, bisection: int = 4) -> tuple[Followed, Posted]:
    """A world whose batch 1 has ``count`` steps: BeginBlock, a deposit, a withdrawal, transfers."""
    # A shorter move delay lets the small window hold the many moves of a binary cut.
    longer = {"dispute_clock": 14, "escape_timeout": 41}  # halving takes more moves
    world = Followed(msgspec.structs.replace(SETTINGS, bisection=bisection, max_move_delay=1, **longer))
    lie = None if lie_at is None else steal_at(lie_at)
    if count < 4:
        return world, world.post((0, transfers(count - 1)), lie=lie)
    world.deposit("alice", "carol", 5_000)
    wires = [*transfers(count - 4), l2_withdraw("alice", count - 4, "bob", 5)]
    return world, world.post((1, [*wires, b"rubbish"][: count - 2]), lie=lie)


# --- every single lie ---


@pytest.mark.parametrize(("count", "bisection"), [(1, 4), (2, 4), (4, 4), (5, 4), (17, 4), (17, 2), (23, 8)])
def test_any_single_lie_is_proven_in_as_many_moves_as_promised(count, bisection):
    """P14: at every step index, in ceil(log_k n) + 2 calls of the challenger."""
    for index in range(count):
        world, posted = world_with(count, index, bisection)
        batch = world.derived(1)
        assert batch.record.steps == count
        assert batch.flagged
        dispute = world.challenge_with(1, batch.computed_root)
        calls = world.play_out(dispute, {"sequencer": posted.told, "verifier": world_trace(world)})
        verdict = world.dispute(dispute)
        assert (verdict.winner, verdict.reason) == ("challenger", "step-proved")
        assert (verdict.low, verdict.high) == (index, index + 1)
        assert 1 + calls["verifier"] <= ceil_log(count, bisection) + 2
        assert world.derived(1).status == abi.REVERTED
        assert world.derivation.safe_batch.index == 0


@pytest.mark.parametrize("lie_at", [0, 6_543, 9_999])
def test_ten_thousand_steps_take_few_moves_of_each_side(lie_at: int) -> None:
    """As the bridge is set unless somebody chooses otherwise: three cuts, so five moves at most, and small ones."""
    usual = abi.BridgeSettings(sequencer=SEQUENCER)
    changed = {"bisection": usual.bisection, "max_steps": usual.max_steps}
    world = Followed(msgspec.structs.replace(SETTINGS, **changed))
    posted = world.post((0, [b"x"] * 9_999), lie=steal_at(lie_at))
    batch = world.derived(1)
    assert batch.record.steps == 10_000
    dispute = world.challenge_with(1, batch.computed_root)
    calls = world.play_out(dispute, {"sequencer": posted.told, "verifier": world_trace(world)})
    verdict = world.dispute(dispute)
    assert (verdict.winner, verdict.low) == ("challenger", lie_at)
    assert calls["sequencer"] <= 3
    assert 1 + calls["verifier"] <= 5 <= moves_of_a_side(usual)


_TRACES: dict[bytes, Trace] = {}


def world_trace(world: Followed, index: int = 1) -> Trace:
    """The honest trace of a batch; kept, as a verifier keeps it."""
    batch = world.derived(index)
    key = batch.start.tree.root + batch.record.steps_root
    if key not in _TRACES:
        _TRACES[key] = batch_trace(world.derivation.rules, batch)
    return _TRACES[key]


@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_a_frivolous_challenge_is_lost(count):
    world, posted = world_with(count, None)
    dispute = world.challenge_with(1, frivolous_root(world.derived(1)), "mallory")
    world.play_out(
        dispute, {"sequencer": posted.told, "mallory": world_trace(world)}, {"mallory": frivolous_move}
    )
    verdict = world.dispute(dispute)
    assert (verdict.winner, verdict.reason) == ("defender", "step-proved")
    assert world.derivation.safe_batch.index == 1
    (paid,) = [
        decode(abi.DisputeResolved, event.data)
        for event in world.l1[-1].receipts[0].events
        if event.name == "DisputeResolved"
    ]
    assert 0 < paid.paid <= paid.burned + 1
    assert paid.paid + paid.burned == SETTINGS.challenger_bond
    world.finalize(1)


def test_a_challenger_that_goes_silent_at_the_end_is_answered_with_the_proof_itself():
    """Its clock would hold up the batch; anyone may prove."""

    def mute_at_the_end(dispute, *rest):
        return None if dispute.stage == abi.PROVE else frivolous_move(dispute, *rest)

    world, posted = world_with(17, None)
    dispute = world.challenge_with(1, b"\x01" * 32, "mallory")
    world.play_out(
        dispute, {"sequencer": posted.told, "mallory": world_trace(world)}, {"mallory": mute_at_the_end}
    )
    verdict = world.dispute(dispute)
    assert (verdict.winner, verdict.reason) == ("defender", "step-proved")
    assert verdict.last_move - verdict.opened < SETTINGS.dispute_clock
    # The challenger had the time to make its move first.
    assert verdict.last_move - verdict.opened > 2 * ceil_log(17, 4) + SETTINGS.max_move_delay


@pytest.mark.parametrize("silent_side", ["sequencer", "verifier"])
def test_a_silent_side_loses_by_its_clock(silent_side):
    world, posted = world_with(17, 3 if silent_side == "sequencer" else None)
    root = world.derived(1).computed_root if silent_side == "sequencer" else b"\x05" * 32
    dispute = world.challenge_with(1, root)
    world.play_out(dispute, {"sequencer": posted.told, "verifier": world_trace(world)}, {silent_side: silent})
    verdict = world.dispute(dispute)
    other = "challenger" if silent_side == "sequencer" else "defender"
    assert (verdict.winner, verdict.reason) == (other, "timeout")


def test_a_liar_cannot_prove_its_way_out():
    """At the last step the liar's own witness convicts it, so it has no better move than silence."""
    world, posted = world_with(5, 2)
    dispute = world.challenge_with(1, world.derived(1).computed_root)
    traces = {"sequencer": posted.told, "verifier": world_trace(world)}
    while world.dispute(dispute).stage != abi.PROVE:
        record = world.dispute(dispute)
        for who, trace in traces.items():
            move = next_move(
                record, trace, address(who), SETTINGS, world.height, world.derived(1).step_hashes
            )
            if move is not None:
                assert world.send(who, move).success
                break
    world.wait(SETTINGS.max_move_delay + 1)
    args = (SETTINGS, world.height, world.derived(1).step_hashes)
    assert next_move(world.dispute(dispute), posted.told, SEQUENCER, *args) is None


def test_a_colluding_challenger_does_not_save_the_liar():
    """Several disputes run side by side; the honest one decides, and the shill's bond comes back to nobody's harm."""
    world, posted = world_with(17, 6)
    batch = world.derived(1)
    shill = world.challenge_with(1, b"\x09" * 32, "mallory")
    assert should_challenge(batch, world.derivation.open_disputes(), VERIFIER, world.height, SETTINGS)
    honest = world.challenge_with(1, batch.computed_root)
    world.play_out(honest, {"sequencer": posted.told, "verifier": world_trace(world)})
    assert world.dispute(honest).winner == "challenger"
    assert world.derived(1).status == abi.REVERTED
    record = world.dispute(shill)
    move = settle_move(record, world.derived(1), address("mallory"))
    assert move is not None
    assert settle_move(record, world.derived(1), VERIFIER) is None
    had = world.balance("mallory")
    assert world.send("mallory", move).success
    assert world.balance("mallory") > had
    assert settle_move(world.dispute(shill), world.derived(1), address("mallory")) is None


def test_two_lies_in_one_batch_are_still_one_false_batch():
    def twice(index, state):
        steal_at(3)(index, state)
        steal_at(9)(index, state)

    world = Followed()
    posted = world.post((0, transfers(16)), lie=twice)
    dispute = world.challenge_with(1, world.derived(1).computed_root)
    world.play_out(dispute, {"sequencer": posted.told, "verifier": world_trace(world)})
    assert world.dispute(dispute).low == 3


def test_a_lie_that_is_taken_back_in_the_same_batch_is_no_lie():
    """The root at the end is true: there is nothing to challenge."""

    def restored(index, state):
        if index in (2, 5):
            key = b"a" + address("alice")
            value = state.get(key)
            state.set(key, bytes(value[:-1]) + bytes([value[-1] ^ 1]))

    world = Followed()
    world.post((0, [b"a", b"b", b"c", b"d", b"e"]), lie=restored)
    assert world.derived(1).matches


def test_a_verdict_does_not_depend_on_what_an_upgrade_changes_meanwhile():
    """The cut is fixed when the dispute opens; the player must not follow newer settings."""
    world, posted = world_with(17, 6)
    dispute = world.challenge_with(1, world.derived(1).computed_root)
    newer = msgspec.structs.replace(SETTINGS, bisection=8)

    def with_newer(record, trace, me, _, height, hashes):
        return next_move(record, trace, me, newer, height, hashes)

    traces = {"sequencer": posted.told, "verifier": world_trace(world)}
    world.play_out(dispute, traces, dict.fromkeys(traces, with_newer))
    assert world.dispute(dispute).winner == "challenger"


# --- when to move ---


def test_nothing_to_do():
    world, posted = world_with(17, 6)
    dispute = world.challenge_with(1, world.derived(1).computed_root)
    record, hashes = world.dispute(dispute), world.derived(1).step_hashes
    trace = world_trace(world)
    args = (SETTINGS, world.height, hashes)
    assert next_move(record, trace, address("judy"), *args) is None
    assert next_move(record, trace, VERIFIER, *args) is None
    assert next_move(record, posted.told, SEQUENCER, *args) is not None
    over = msgspec.structs.replace(record, stage=abi.RESOLVED)
    assert next_move(over, posted.told, SEQUENCER, *args) is None
    # A challenger that agrees with everything has nothing to choose.
    choosing = msgspec.structs.replace(
        record,
        stage=abi.CHOOSE,
        turn=abi.CHALLENGER,
        points=[trace.root(p) for p in (4, 8, 12)],
        high_root=trace.root(17),
    )
    assert next_move(choosing, trace, VERIFIER, *args) is None


def test_the_clock_of_the_other_side_runs_out_one_block_after_its_last():
    world, posted = world_with(17, 6)
    index = world.challenge_with(1, world.derived(1).computed_root)
    record, hashes = world.dispute(index), world.derived(1).step_hashes
    last = record.last_move + record.defender_clock
    trace = world_trace(world)
    assert not clock_ran_out(record, last)
    assert clock_ran_out(record, last + 1)
    assert next_move(record, trace, VERIFIER, SETTINGS, last, hashes) is None
    assert next_move(record, trace, VERIFIER, SETTINGS, last + 1, hashes) == timeout_move(record)
    world.wait_until(last)
    assert not world.send("verifier", timeout_move(record)).success
    assert world.send("verifier", timeout_move(record)).success
    assert world.dispute(index).winner == "challenger"
    assert posted.index == 1


def test_the_same_question_gets_the_same_move():
    world, posted = world_with(17, 6)
    index = world.challenge_with(1, world.derived(1).computed_root)
    hashes = world.derived(1).step_hashes
    args = (world.dispute(index), posted.told, SEQUENCER, SETTINGS, world.height, hashes)
    first = next_move(*args)
    assert first == next_move(*args)
    assert first is not None
    assert len(decode(abi.BisectArgs, first.call.args).roots) == 3


# --- whether to challenge ---


def asked(batch: DerivedBatch, *, height: int, disputes: tuple[abi.Dispute, ...] = ()) -> bool:
    return should_challenge(batch, disputes, VERIFIER, height, SETTINGS)


def test_only_the_first_false_batch_is_challenged_and_only_in_its_window():
    world = Followed()
    world.post((0, transfers(1)))
    world.post((0, transfers(1, 1)), lie=steal_at(0))
    world.post((0, transfers(1, 2)), lie=steal_at(0))
    true, first, second = (world.derived(index) for index in (1, 2, 3))
    assert [asked(batch, height=world.height) for batch in (true, first, second)] == [False, True, False]
    last = first.record.challenge_until
    # A call sent at height h runs in h + 1 at the earliest.
    assert [asked(first, height=h) for h in (last - 1, last, last + 1)] == [True, False, False]
    world.wait_until(last)
    dispute = world.challenge_with(2, first.computed_root)
    mine = world.dispute(dispute)
    assert world.height == last
    theirs = msgspec.structs.replace(mine, challenger=address("judy"))
    lost = msgspec.structs.replace(mine, stage=abi.RESOLVED)
    other = msgspec.structs.replace(mine, batch=1)
    assert not asked(first, height=last - 1, disputes=(mine,))
    for harmless in (theirs, lost, other):
        assert asked(first, height=last - 1, disputes=(harmless,))
    for status in (abi.REVERTED, abi.FINALIZED):
        assert not asked(replace(first, status=status), height=last - 1)


def test_a_batch_on_a_false_one_is_challenged_once_its_parent_is_gone_and_it_is_posted_anew():
    world = Followed()
    first = world.post((0, transfers(1)), lie=steal_at(0))
    world.post((0, transfers(1, 1)))
    dispute = world.challenge_with(1, world.derived(1).computed_root)
    world.play_out(dispute, {"sequencer": first.told, "verifier": world_trace(world)})
    again = world.post((0, transfers(2)), lie=steal_at(2))
    assert asked(world.derived(again.index), height=world.height)
