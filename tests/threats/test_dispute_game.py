"""Disputes against those who delay, collude and censor: the honest side has time, and finality has a bound."""

import pytest
from bridge_harness import (
    KEYS,
    L1_CHAIN,
    SETTINGS,
    Posted,
    World,
    address,
    claim_args,
    l2_transfer,
    l2_withdraw,
    name_of,
    prove_args,
    steal_at,
)
from msgspec.structs import replace

from bridge import abi
from bridge.settings import SettingsError, check_settings, longest_dispute, moves_of_a_side
from chainkit.codec import Record, encode
from chainkit.transaction import Body, Call, SignedTransaction
from layerlab.config import default_settings, demo_config
from rollup.trace import Trace

LIARS = ("alice", "bob", "carol", "dave", "mallory", "judy")
MOVE_GAS = 1_000_000
FINALITY = longest_dispute(SETTINGS) + 1
"""L1 blocks from posting to finality that no number of liars can exceed: the window, both clocks, the call."""


def deadline(dispute: abi.Dispute) -> int:
    """The last block in which the side to move may do so."""
    mine = dispute.defender_clock if dispute.turn == abi.DEFENDER else dispute.challenger_clock
    return dispute.last_move + mine


class Court(World):
    """Many disputes at once: every call of a block is collected, then all of them are mined together."""

    def __init__(self, settings: abi.BridgeSettings = SETTINGS) -> None:
        super().__init__(settings)
        self.waiting: list[SignedTransaction] = []

    def say(self, who: str, method: str, args: Record, value: int = 0) -> None:
        nonce = self.state.account(address(who)).nonce
        nonce += sum(tx.body.sender == address(who) for tx in self.waiting)
        action = Call("bridge", method, encode(args), value)
        body = Body(L1_CHAIN, address(who), nonce, MOVE_GAS, 16, 0, action)
        self.waiting.append(SignedTransaction.sign(body, KEYS[who]))

    def seal(self) -> None:
        said, self.waiting = self.waiting, []
        for receipt in self.mine(*said):
            assert receipt.success, (receipt.code, receipt.message)


# --- clocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [-1, 0, 1])
@pytest.mark.parametrize("liar", [abi.DEFENDER, abi.CHALLENGER])
@pytest.mark.parametrize("spread", [1, 2, 4])
def test_dispute_clocks(liar: str, late: int, spread: int) -> None:
    """OP 2024: the liar spends its clock over some moves, the last of them at its deadline - 1, 0 or + 1."""
    world = World()
    posted = world.post((0, [b"x"] * 63), lie=steal_at(40) if liar == abi.DEFENDER else None)
    mad = Trace(world.l2.rules, world.ends[0], posted.steps, steal_at(40))
    told, true = posted.told, (posted.true if liar == abi.DEFENDER else mad)
    dispute = world.challenge(posted, "verifier", true.root(len(posted.steps)))
    honest = SETTINGS.dispute_clock
    while (d := world.dispute(dispute)).stage != abi.RESOLVED:
        who, method, args = world.move(dispute, told, true)
        if d.turn != liar:
            honest -= 1
            world.ok(who, method, args)
            mine = world.dispute(dispute)
            assert (mine.challenger_clock if liar == abi.DEFENDER else mine.defender_clock) == honest
            continue
        left = deadline(d) - d.last_move
        wait = left + late if left <= SETTINGS.dispute_clock // spread else SETTINGS.dispute_clock // spread
        if wait >= 1:
            world.wait_until(max(d.last_move + wait, world.height + 1))
        receipt = world.call(who, method, args)
        if not receipt.success:
            assert receipt.code == "clock_expired"
            world.ok("judy", "timeout", abi.DisputeArgs(dispute))
    assert d.winner == (abi.CHALLENGER if liar == abi.DEFENDER else abi.DEFENDER)
    assert d.last_move - d.opened <= 2 * SETTINGS.dispute_clock + 2
    assert honest > 0


# --- resolution -------------------------------------------------------------------------------------------------


def two_batches() -> tuple[World, Posted, int, int]:
    """A false batch in dispute at its last step, and a batch on top of it, also in dispute."""
    world = World()
    bad = world.post((0, [l2_transfer("alice", n, "bob", 1) for n in range(6)]), lie=steal_at(3))
    child = world.post((0, []))
    dispute, above = world.challenge(bad), world.challenge(child, "mallory", b"\x05" * 32)
    world.play(dispute, bad.told, bad.true, until=abi.PROVE)
    return world, bad, dispute, above


def test_resolve_is_bottom_up_and_terminal() -> None:
    """Sherlock 2024: nothing resolves before what it rests on, and nothing moves once it is resolved."""
    world, bad, dispute, above = two_batches()
    proof = prove_args(dispute, world.dispute(dispute).low, bad.true)
    for index in (dispute, above):
        world.refused("clock_running", "judy", "timeout", abi.DisputeArgs(index))
        world.refused("dispute_open", "judy", "settle", abi.DisputeArgs(index))
    for index in (1, 2):
        code = "too_early" if index == 1 else "parent_not_final"
        world.refused(code, "judy", "finalize", abi.BatchArgs(index))
    world.ok("verifier", "prove", proof)
    verdict = world.dispute(dispute)
    assert verdict.winner == abi.CHALLENGER
    for who in ("sequencer", "verifier", "mallory"):
        for method, args in (
            ("bisect", abi.BisectArgs(dispute, [bytes(32)] * 3)),
            ("choose", abi.ChooseArgs(dispute, 0)),
            ("prove", proof),
            ("timeout", abi.DisputeArgs(dispute)),
            ("settle", abi.DisputeArgs(dispute)),
        ):
            world.refused("dispute_resolved", who, method, args)
    world.refused("dispute_moot", "sequencer", "bisect", abi.BisectArgs(above, []))
    world.ok("mallory", "settle", abi.DisputeArgs(above))
    world.refused("dispute_resolved", "mallory", "settle", abi.DisputeArgs(above))
    for index in (1, 2):
        world.refused("batch_reverted", "judy", "finalize", abi.BatchArgs(index))
        again = abi.ChallengeArgs(index, b"\x09" * 32)
        world.refused("not_pending", "judy", "challenge", again, SETTINGS.challenger_bond)
    world.wait(3 * SETTINGS.dispute_clock)
    assert world.dispute(dispute) == verdict
    assert [world.batch(i).status for i in (1, 2)] == [abi.REVERTED] * 2
    assert world.totals.bonds == 0


# --- collusion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_lies", [False, True])
def test_self_challenge(batch_lies: bool) -> None:
    """A proposer and its own challenger lose the burned half, and hold up nobody's withdrawal beyond the bound."""
    world = World()
    before = world.balance("sequencer") + world.balance("mallory")
    first = world.post((0, [l2_withdraw("bob", 0, "dave", 5_000)]))
    start = world.height
    fees = [world.tip.receipts[0].fee]
    lie = steal_at(1) if batch_lies else None
    second = world.post((0, [l2_transfer("alice", 0, "bob", 1)]), lie=lie)
    fees.append(world.tip.receipts[0].fee)
    posted = second if batch_lies else first
    claimed = posted.true.root(len(posted.steps)) if batch_lies else b"\x0b" * 32
    dispute = world.challenge(posted, "mallory", claimed)
    fees.append(world.tip.receipts[0].fee)
    while world.dispute(dispute).stage != abi.RESOLVED:
        d = world.dispute(dispute)
        if batch_lies:
            method, args = world.move(dispute, posted.told, posted.true)[1:]
            receipt = world.ok(name_of(d.defender if d.turn == abi.DEFENDER else d.challenger), method, args)
            fees.append(receipt.fee)
        elif d.turn == abi.DEFENDER:
            fees.append(world.ok(*world.move(dispute, posted.told, posted.true)).fee)
        else:  # the accomplice lets its clock run out
            world.wait_until(deadline(d) + 1)
            world.ok("judy", "timeout", abi.DisputeArgs(dispute))
    world.finalize(1)
    assert world.height - start <= FINALITY
    world.ok("judy", "claim", claim_args(first, 0))
    if not batch_lies:
        world.finalize(2)
    assert world.totals.bonds == 0
    bond = SETTINGS.proposer_bond if batch_lies else SETTINGS.challenger_bond
    after = world.balance("sequencer") + world.balance("mallory")
    assert before - after - sum(fees) == world.bonds_burned == bond - bond // 2


# --- many liars -------------------------------------------------------------------------------------------------


def delayed_by(liars: int) -> int:
    """L1 blocks until a true batch is final that so many challenge in the last block and fight to their last."""
    world = Court()
    had = world.balance("sequencer")
    posted = world.post((0, [b"x"] * 20))
    paid = world.tip.receipts[0].fee
    start = world.height
    traces: dict[int, Trace] = {}
    world.wait_until(world.batch(1).challenge_until)
    for i in range(liars):
        mad = Trace(world.l2.rules, world.ends[0], posted.steps, steal_at(i % 20, amount=i + 1))
        traces[i] = mad
        args = abi.ChallengeArgs(1, mad.root(len(posted.steps)))
        world.say(LIARS[i % len(LIARS)], "challenge", args, SETTINGS.challenger_bond)
    world.seal()
    while world.batch(1).open_disputes:
        for i, mad in traces.items():
            d = world.dispute(i)
            if d.stage == abi.RESOLVED:
                continue
            if d.turn == abi.DEFENDER:
                who, method, move = world.move(i, posted.true, mad)
                world.say(who, method, move)
            elif world.height + 1 > deadline(d):
                world.say("sequencer", "timeout", abi.DisputeArgs(i))
            elif world.height + 1 == deadline(d) and d.stage == abi.CHOOSE:
                who, method, move = world.move(i, posted.true, mad)
                world.say(who, method, move)
        world.seal()
        paid += sum(
            r.fee
            for r, tx in zip(world.tip.receipts, world.tip.transactions, strict=True)
            if tx.body.sender == address("sequencer")
        )
        assert world.height < start + 10 * FINALITY, "never ends"
    world.ok("bob", "finalize", abi.BatchArgs(1))
    assert all(world.dispute(i).winner == abi.DEFENDER for i in traces)
    assert world.balance("sequencer") + paid == had + liars * (SETTINGS.challenger_bond // 2)
    return world.height - start


def test_serial_disputes_bounded_delay() -> None:
    """Delay attacks 2021-24: one liar or thirty, the delay is the same, and below window + a constant."""
    alone, crowd = delayed_by(1), delayed_by(30)
    assert alone == crowd
    assert crowd <= FINALITY == SETTINGS.challenge_window + 2 * SETTINGS.dispute_clock + 1


# --- censors ----------------------------------------------------------------------------------------------------


def tightest(bisection: int, delay: int) -> abi.BridgeSettings:
    """The least window and clock that the contract accepts for this delay."""
    base = replace(SETTINGS, bisection=bisection, max_move_delay=delay)
    moves = moves_of_a_side(base)
    clock = max(moves * delay + 1, (moves - 1) * (delay + 1))
    long = moves * delay + 1 + 2 * clock
    return replace(
        base,
        challenge_window=moves * delay + 1,
        dispute_clock=clock,
        escape_timeout=long + delay,
        exit_window=long + 1,
    )


def censored_game(settings: abi.BridgeSettings, victim: str, censored: int, step: int) -> str:
    """Who wins if every move of one side is left out of so many blocks; the other side answers at once."""
    world = World(settings)
    lying = victim == abi.CHALLENGER
    wires = [b"x"] * (settings.max_steps - 1)
    posted = world.post((0, wires), lie=steal_at(step) if lying else None)
    mad = Trace(world.l2.rules, world.ends[0], posted.steps, steal_at(step))
    told, true = posted.told, (posted.true if lying else mad)
    if lying:
        world.wait(censored)
    dispute = world.challenge(posted, "verifier", true.root(len(posted.steps)))
    while (d := world.dispute(dispute)).stage != abi.RESOLVED:
        who, method, args = world.move(dispute, told, true)
        if d.turn == victim:
            world.wait(censored)
        elif d.stage == abi.PROVE and not lying:
            world.wait(censored)  # the honest defender proves, and is censored too
            who, args = "sequencer", prove_args(dispute, d.low, posted.true)
        receipt = world.call(who, method, args)
        if not receipt.success:
            assert receipt.code == "clock_expired"
            world.ok("judy", "timeout", abi.DisputeArgs(dispute))
    return d.winner


@pytest.mark.parametrize("victim", [abi.CHALLENGER, abi.DEFENDER])
@pytest.mark.parametrize(("bisection", "delay"), [(2, 1), (4, 1), (4, 2), (8, 4), (64, 3)])
def test_censored_moves(victim: str, bisection: int, delay: int) -> None:
    """L1's leaders leave each move out for max_move_delay blocks: the honest side still wins, at the limit."""
    tight = tightest(bisection, delay)
    check_settings(tight)
    for name in ("dispute_clock", "challenge_window"):
        with pytest.raises(SettingsError, match=name):
            check_settings(replace(tight, **{name: getattr(tight, name) - 1}))
    for step in (0, 37, 63):
        assert censored_game(tight, victim, delay, step) == victim


def test_censored_moves_for_longer_than_promised_lose() -> None:
    """Control: the bound is no larger than it must be."""
    assert censored_game(tightest(4, 2), abi.CHALLENGER, 4, 37) == abi.DEFENDER


@pytest.mark.parametrize("settings", [default_settings(), demo_config().settings])
def test_what_we_ship_bears_its_own_censors(settings: abi.BridgeSettings) -> None:
    check_settings(settings)
    answers = moves_of_a_side(settings) - 1
    assert answers * (settings.max_move_delay + 1) <= settings.dispute_clock
