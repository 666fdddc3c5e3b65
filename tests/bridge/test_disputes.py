"""Disputes: clocks to the block, side by side, resolution that is terminal, bonds that add up (P12, P13, P15)."""

from collections.abc import Callable

import pytest
from bridge_harness import KEYS, L1_CHAIN, SETTINGS, Posted, World, address, l2_transfer, prove_args, steal_at

from bridge import abi
from chainkit.codec import Record, encode
from chainkit.transaction import Body, Call, SignedTransaction

CLOCK = SETTINGS.dispute_clock
Setup = Callable[[], tuple[World, Posted, int]]


def false_batch() -> tuple[World, Posted]:
    world = World()
    wires = [l2_transfer("alice", n, "bob", 1) for n in range(6)]
    return world, world.post((0, wires), lie=steal_at(3))


def at_bisect() -> tuple[World, Posted, int]:
    world, posted = false_batch()
    return world, posted, world.challenge(posted)


def at_choose() -> tuple[World, Posted, int]:
    world, posted, dispute = at_bisect()
    world.play(dispute, posted.told, posted.true, until=abi.CHOOSE)
    return world, posted, dispute


def at_prove() -> tuple[World, Posted, int]:
    world, posted, dispute = at_bisect()
    world.play(dispute, posted.told, posted.true, until=abi.PROVE)
    return world, posted, dispute


def deadline(world: World, dispute: int) -> int:
    d = world.dispute(dispute)
    left = d.defender_clock if d.turn == abi.DEFENDER else d.challenger_clock
    return d.last_move + left


@pytest.mark.parametrize("setup", [at_bisect, at_choose, at_prove])
@pytest.mark.parametrize("offset", [-1, 0])
def test_op_clocks_a_move_up_to_the_deadline_counts(setup: Setup, offset: int) -> None:
    world, posted, dispute = setup()
    world.wait_until(deadline(world, dispute) + offset)
    who, method, args = world.move(dispute, posted.told, posted.true)
    world.ok(who, method, args)


@pytest.mark.parametrize("setup", [at_bisect, at_choose, at_prove])
def test_op_clocks_a_move_after_the_deadline_does_not(setup: Setup) -> None:
    world, posted, dispute = setup()
    loser = world.dispute(dispute).turn
    world.wait_until(deadline(world, dispute) + 1)
    who, method, args = world.move(dispute, posted.told, posted.true)
    world.refused("clock_expired", who, method, args)
    world.ok("judy", "timeout", abi.DisputeArgs(dispute))
    record = world.dispute(dispute)
    assert (record.stage, record.reason) == (abi.RESOLVED, "timeout")
    assert record.winner == (abi.CHALLENGER if loser == abi.DEFENDER else abi.DEFENDER)


@pytest.mark.parametrize("setup", [at_bisect, at_choose, at_prove])
@pytest.mark.parametrize("offset", [-1, 0])
def test_op_clocks_no_timeout_before_the_deadline_is_over(setup: Setup, offset: int) -> None:
    world, _, dispute = setup()
    world.wait_until(deadline(world, dispute) + offset)
    message = world.refused("clock_running", "judy", "timeout", abi.DisputeArgs(dispute))
    assert message.endswith(f"{-offset} more blocks")
    if offset == 0:
        world.ok("judy", "timeout", abi.DisputeArgs(dispute))


def test_a_clock_is_for_the_whole_dispute_not_for_each_move() -> None:
    world, posted, dispute = at_bisect()
    world.wait(CLOCK - 2)
    who, method, args = world.move(dispute, posted.told, posted.true)
    world.ok(who, method, args)
    assert world.dispute(dispute).defender_clock == 1
    assert world.dispute(dispute).challenger_clock == CLOCK


def test_the_challengers_clock_too_is_for_the_whole_dispute() -> None:
    world, posted, dispute = at_choose()
    world.wait(CLOCK - 2)
    for _ in range(2):
        world.ok(*world.move(dispute, posted.told, posted.true))
    left = world.dispute(dispute).challenger_clock
    assert left == 1
    world.play(dispute, posted.told, posted.true, until=abi.PROVE)
    world.wait(2)
    world.refused("clock_expired", *world.move(dispute, posted.told, posted.true))


def test_challenge_until_the_last_block_of_the_window() -> None:
    for offset, expected in ((0, ""), (1, "window_over")):
        world, posted = false_batch()
        world.wait_until(world.batch(1).challenge_until + offset)
        args = abi.ChallengeArgs(1, posted.true.root(len(posted.steps)))
        assert world.call("verifier", "challenge", args, SETTINGS.challenger_bond).code == expected


def test_time_to_finality_is_bounded_for_any_number_of_liars() -> None:
    """Serial disputes: all open by the end of the window, all end within two clocks of it."""
    world = World()
    world.post((0, [l2_transfer("alice", 0, "bob", 1), l2_transfer("alice", 1, "bob", 1)]))
    end = world.batch(1).challenge_until
    disputes = []
    for i, who in enumerate(("mallory", "carol", "dave", "mallory", "carol")):
        disputes.append(world.challenge(world.posted[1], who, bytes([i + 1]) * 32))
    world.wait_until(end)
    disputes.append(world.challenge(world.posted[1], "mallory", b"\x77" * 32))
    world.refused(
        "window_over", "mallory", "challenge", abi.ChallengeArgs(1, b"\x78" * 32), SETTINGS.challenger_bond
    )
    for dispute in disputes[:-1]:  # the defender's time ran all along
        world.call("judy", "timeout", abi.DisputeArgs(dispute))
    assert all(world.dispute(i).stage == abi.RESOLVED for i in disputes[:-1])
    assert world.height <= end + 2 * CLOCK


def test_an_honest_defender_beats_many_challengers_side_by_side() -> None:
    world = World()
    posted = world.post((0, [l2_transfer("alice", 0, "bob", 1), l2_transfer("alice", 1, "bob", 1)]))
    liars = ("mallory", "carol", "dave", "judy")
    disputes = [world.challenge(posted, who, bytes([i + 1]) * 32) for i, who in enumerate(liars)]
    assert world.batch(1).open_disputes == 4
    world.mine(*_bisections(world, posted, disputes))
    end = max(deadline(world, dispute) for dispute in disputes)
    world.wait_until(end + 1)
    world.refused("open_disputes", "bob", "finalize", abi.BatchArgs(1))
    before = world.balance("sequencer")
    for dispute in disputes:
        world.ok("bob", "timeout", abi.DisputeArgs(dispute))
        assert world.dispute(dispute).winner == abi.DEFENDER
    assert world.balance("sequencer") == before + 4 * (SETTINGS.challenger_bond // 2)
    assert world.height <= world.batch(1).challenge_until + 2 * CLOCK
    world.finalize(1)


def _bisections(world: World, posted: Posted, disputes: list[int]) -> list[SignedTransaction]:
    nonce, txs = world.state.account(address("sequencer")).nonce, []
    for i, dispute in enumerate(disputes):
        _, method, args = world.move(dispute, posted.true, posted.true)
        action = Call("bridge", method, encode(args), 0)
        body = Body(L1_CHAIN, address("sequencer"), nonce + i, 10_000_000, 16, 0, action)
        txs.append(SignedTransaction.sign(body, KEYS["sequencer"]))
    return txs


def test_a_colluding_challenger_cannot_lose_on_the_honest_ones_behalf() -> None:
    world, posted = false_batch()
    colluder = world.challenge(posted, "mallory")
    honest = world.challenge(posted, "verifier")
    told = posted.told
    world.play(colluder, told, told, until=abi.PROVE)  # it agrees with the lie until it has lost
    world.play(honest, told, posted.true)
    assert world.dispute(honest).winner == abi.CHALLENGER
    assert world.batch(1).status == abi.REVERTED
    before = world.balance("mallory")
    world.refused("dispute_moot", "mallory", "prove", prove_args(colluder, 0, posted.true))
    fee = world.ok("mallory", "settle", abi.DisputeArgs(colluder)).fee
    assert world.balance("mallory") < before + SETTINGS.challenger_bond - fee
    assert world.dispute(colluder).reason == "batch-reverted"
    assert world.totals.bonds == 0


def test_a_colluding_challenger_that_loses_at_once_saves_nobody() -> None:
    world, posted = false_batch()
    colluder = world.challenge(posted, "mallory")
    world.play(colluder, posted.told, posted.told, until=abi.PROVE)
    low = world.dispute(colluder).low
    world.ok("mallory", "prove", prove_args(colluder, low, posted.told))
    assert world.dispute(colluder).winner == abi.DEFENDER
    assert world.batch(1).status == abi.PENDING
    honest = world.challenge(posted)
    assert world.play(honest, posted.told, posted.true).winner == abi.CHALLENGER


def test_self_challenge_costs_the_burned_half() -> None:
    world, posted = false_batch()
    bridge_before = world.totals.escrow
    dispute = world.challenge(posted, "sequencer")
    world.play(dispute, posted.told, posted.true)
    assert world.bonds_burned == SETTINGS.proposer_bond - SETTINGS.proposer_bond // 2
    assert world.totals.escrow == bridge_before
    assert world.totals.bonds == 0


def test_a_proven_fraud_reverts_all_after_it_and_resets_the_inbox() -> None:
    world = World()
    world.deposit("carol", "dave", 9_000)
    bad = world.post((1, []), lie=steal_at(0))
    world.deposit("carol", "dave", 9_000)
    child = world.post((1, []))
    on_child = world.challenge(child, "mallory", b"\x05" * 32)
    assert world.play(world.challenge(bad), bad.told, bad.true).winner == abi.CHALLENGER
    assert [world.batch(i).status for i in (1, 2)] == [abi.REVERTED, abi.REVERTED]
    totals = world.totals
    assert (totals.head_batch, totals.pending, totals.inbox_length) == (0, 0, 2)
    assert totals.bonds == SETTINGS.challenger_bond
    world.refused("dispute_moot", "sequencer", "bisect", abi.BisectArgs(on_child, []))
    world.ok("bob", "timeout", abi.DisputeArgs(on_child))  # settles at once, without a clock
    assert world.totals.bonds == 0
    for index in (1, 2):
        world.refused("batch_reverted", "bob", "finalize", abi.BatchArgs(index))
        world.refused(
            "not_pending",
            "bob",
            "challenge",
            abi.ChallengeArgs(index, b"\x01" * 32),
            SETTINGS.challenger_bond,
        )
    again = world.post((2, []))
    assert (again.index, world.batch(3).inbox_from, world.batch(3).first_block) == (3, 0, 1)
    world.finalize(3)


@pytest.mark.parametrize("method", ["bisect", "choose", "prove", "timeout", "settle"])
def test_sherlock_nothing_moves_a_resolved_dispute(method: str) -> None:
    world, posted, dispute = at_prove()
    world.play(dispute, posted.told, posted.true)
    low = world.dispute(dispute).low
    args: dict[str, Record] = {
        "bisect": abi.BisectArgs(dispute, [b"\x01" * 32] * 3),
        "choose": abi.ChooseArgs(dispute, 0),
        "prove": prove_args(dispute, low, posted.true),
    }
    for who in ("verifier", "sequencer", "mallory"):
        world.refused("dispute_resolved", who, method, args.get(method, abi.DisputeArgs(dispute)))


def test_sherlock_no_early_resolution() -> None:
    world, posted, dispute = at_bisect()
    world.refused("clock_running", "verifier", "timeout", abi.DisputeArgs(dispute))
    world.refused("dispute_open", "verifier", "settle", abi.DisputeArgs(dispute))
    world.refused("wrong_stage", "verifier", "prove", prove_args(dispute, 0, posted.true))
    world.refused("wrong_stage", "verifier", "choose", abi.ChooseArgs(dispute, 0))
    world.wait(SETTINGS.challenge_window)
    world.refused("open_disputes", "sequencer", "finalize", abi.BatchArgs(1))


def test_moves_by_others_and_of_wrong_shape() -> None:
    world, posted, dispute = at_bisect()
    _, _, args = world.move(dispute, posted.told, posted.true)
    world.refused("not_your_move", "verifier", "bisect", args)
    for roots in ([], [b"\x01" * 32] * 2, [b"\x01" * 32] * 4):
        world.refused("wrong_roots", "sequencer", "bisect", abi.BisectArgs(dispute, roots))
    world.ok("sequencer", "bisect", args)
    world.refused("not_your_move", "sequencer", "choose", abi.ChooseArgs(dispute, 0))
    world.refused("wrong_segment", "verifier", "choose", abi.ChooseArgs(dispute, 4))
    for method, other in (("bisect", args), ("timeout", abi.DisputeArgs(9))):
        code = "wrong_stage" if method == "bisect" else "unknown_dispute"
        world.refused(code, "sequencer", method, other)


def test_challenges_that_are_refused() -> None:
    world, posted = false_batch()
    root, bond = posted.true.root(len(posted.steps)), SETTINGS.challenger_bond
    for code, args, value in (
        ("zero_root", abi.ChallengeArgs(1, bytes(32)), bond),
        ("same_root", abi.ChallengeArgs(1, world.batch(1).state_root), bond),
        ("unknown_batch", abi.ChallengeArgs(2, root), bond),
        ("not_pending", abi.ChallengeArgs(0, root), bond),
        ("wrong_bond", abi.ChallengeArgs(1, root), bond - 1),
        ("wrong_bond", abi.ChallengeArgs(1, root), bond + 1),
        ("wrong_bond", abi.ChallengeArgs(1, root), 0),
    ):
        world.refused(code, "verifier", "challenge", args, value)
    world.challenge(posted)
    world.refused("already_challenged", "verifier", "challenge", abi.ChallengeArgs(1, root), bond)
    world.challenge(posted, "carol")
