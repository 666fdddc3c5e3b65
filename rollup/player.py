"""Playing a dispute: which call to send next, from the dispute's record and one's own trace.

Responsible for the moves of both sides and for whether to challenge at all. A liar plays by the same
rules, with a trace that carries its lie. Must not know how calls are signed, sent or paid for.

All functions look at one state of L1 and forget everything in between: asked again before a move is on L1,
they give the same move again, so the caller sends a move once per (dispute, moves).

Heights are L1 heights. A call sent now runs at the earliest in the block after ``height``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bridge import abi
from bridge.dispute import clock_left, cut, cut_points, segments
from chainkit.codec import Address, Bytes32, Record, encode
from chainkit.execution import Rules
from chainkit.transaction import Call
from rollup.contents import open_step
from rollup.derived import DerivedBatch
from rollup.trace import Lie, Trace

# Gas limits of the calls, with room to spare; what is not used is not paid.
CHALLENGE_GAS = 1_000_000
BISECT_GAS = 1_000_000
CHOOSE_GAS = 1_000_000
PROVE_GAS = 20_000_000
TIMEOUT_GAS = 1_000_000
SETTLE_GAS = 1_000_000


@dataclass(frozen=True)
class Move:
    """A call to send to L1: ``gas_limit`` goes with it, ``why`` is for logs and people."""

    call: Call
    gas_limit: int
    why: str


def batch_trace(rules: Rules, batch: DerivedBatch, lie: Lie | None = None) -> Trace:
    """The trace of a pending batch: the true one, or a liar's own."""
    return Trace(rules, batch.start.tree, batch.steps, lie)


def should_challenge(
    batch: DerivedBatch,
    disputes: Iterable[abi.Dispute],
    me: Address,
    height: int,
    settings: abi.BridgeSettings,  # noqa: ARG001 - all that decides is fixed in the batch's record by now
) -> bool:
    """Whether to open a dispute: on the first false batch of its line, in its window, once at a time.

    Somebody else's dispute is no reason to hold back: its challenger may lose on purpose.
    """
    if batch.status != abi.PENDING or not batch.flagged:
        return False
    if height >= batch.record.challenge_until:
        return False
    return not any(
        d.batch == batch.index and d.challenger == me and d.stage != abi.RESOLVED for d in disputes
    )


def challenge(batch: int, root: Bytes32, settings: abi.BridgeSettings, bridge: str = "bridge") -> Move:
    """Open a dispute on ``batch``, holding that ``root`` is true; the bond goes along."""
    args = abi.ChallengeArgs(batch, root)
    why = f"challenge batch {batch}: its true root is 0x{root.hex()}"
    return _move("challenge", args, CHALLENGE_GAS, why, bridge, settings.challenger_bond)


def next_move(
    dispute: abi.Dispute,
    trace: Trace,
    me: Address,
    settings: abi.BridgeSettings,
    height: int,
    step_hashes: Sequence[Bytes32],
    bridge: str = "bridge",
) -> Move | None:
    """What ``me`` should send now, or None if there is nothing to do (yet).

    ``trace`` and ``step_hashes`` are those of the disputed batch. Raises
    `chainkit.merkle.ProofError` if the disputed step's witness is too large for any proof.
    """
    if dispute.stage == abi.RESOLVED or me not in (dispute.defender, dispute.challenger):
        return None
    mover = dispute.defender if dispute.turn == abi.DEFENDER else dispute.challenger
    if mover != me:
        if clock_ran_out(dispute, height):
            return timeout_move(dispute, bridge)
        return _defend_by_proof(dispute, trace, settings, height, step_hashes, bridge)
    if dispute.stage == abi.BISECT:
        return bisect_move(dispute, trace, bridge)
    if dispute.stage == abi.CHOOSE:
        return _choose(dispute, trace, bridge)
    if dispute.stage == abi.PROVE:
        return prove_move(dispute, trace, step_hashes, bridge)
    return None


def settle_move(
    dispute: abi.Dispute, batch: DerivedBatch, me: Address, bridge: str = "bridge"
) -> Move | None:
    """How a challenger gets its bond back once its batch is void for another reason than this dispute."""
    if dispute.stage == abi.RESOLVED or batch.status != abi.REVERTED or me != dispute.challenger:
        return None
    why = f"dispute {dispute.index}: batch {dispute.batch} is void, take the bond back"
    return _move("settle", abi.DisputeArgs(dispute.index), SETTLE_GAS, why, bridge)


def clock_ran_out(dispute: abi.Dispute, height: int) -> bool:
    """Whether the side to move has been silent for longer than its clock."""
    return clock_left(dispute, height) < 0


def timeout_move(dispute: abi.Dispute, bridge: str = "bridge") -> Move:
    """End the dispute because the side to move is out of time."""
    why = f"dispute {dispute.index}: the {dispute.turn}'s clock ran out"
    return _move("timeout", abi.DisputeArgs(dispute.index), TIMEOUT_GAS, why, bridge)


def bystander_move(
    dispute: abi.Dispute, settings: abi.BridgeSettings, height: int, bridge: str = "bridge"
) -> Move | None:
    """End a dispute of others that none of them ends: two sides that collude would keep the batch pending for ever.

    The sides, who are paid for it, have ``max_move_delay`` blocks to do it themselves.
    """
    if dispute.stage == abi.RESOLVED or clock_left(dispute, height) >= -settings.max_move_delay:
        return None
    return timeout_move(dispute, bridge)


def _defend_by_proof(
    dispute: abi.Dispute,
    trace: Trace,
    settings: abi.BridgeSettings,
    height: int,
    step_hashes: Sequence[Bytes32],
    bridge: str,
) -> Move | None:
    """Anyone may prove: an honest defender need not wait for the clock of a challenger that cannot."""
    if dispute.stage != abi.PROVE or trace.lie is not None:
        return None
    if height <= dispute.last_move + settings.max_move_delay or trace.root(dispute.high) != dispute.high_root:
        return None
    return prove_move(dispute, trace, step_hashes, bridge)


def bisect_move(dispute: abi.Dispute, trace: Trace, bridge: str = "bridge") -> Move:
    """The defender's answer: its roots at the interior cut points."""
    args = abi.BisectArgs(dispute.index, [trace.root(point) for point in cut_points(dispute)])
    why = f"dispute {dispute.index}: bisect steps {dispute.low} to {dispute.high}"
    return _move("bisect", args, BISECT_GAS, why, bridge)


def _choose(dispute: abi.Dispute, trace: Trace, bridge: str) -> Move | None:
    """The first segment whose end is not what the challenger's trace says. None: it agrees with all."""
    claims = [*dispute.points, dispute.high_root]
    for segment in range(segments(dispute)):
        if trace.root(cut(dispute, segment + 1)) != claims[segment]:
            return choose_move(dispute, segment, bridge)
    return None


def choose_move(dispute: abi.Dispute, segment: int, bridge: str = "bridge") -> Move:
    """The challenger's answer to a bisection: the segment to go on with (from 0)."""
    why = f"dispute {dispute.index}: the lie is in segment {segment}"
    return _move("choose", abi.ChooseArgs(dispute.index, segment), CHOOSE_GAS, why, bridge)


def prove_move(
    dispute: abi.Dispute, trace: Trace, step_hashes: Sequence[Bytes32], bridge: str = "bridge"
) -> Move:
    """The last move: the one disputed step, its place in the batch and a witness to run it over."""
    index = dispute.low
    shown = open_step(step_hashes, index, trace.steps[index])
    addresses = [abi.KnownAddress(*known) for known in shown.addresses]
    args = abi.ProveArgs(dispute.index, shown.step, shown.proof, trace.witness(index), addresses)
    return _move("prove", args, PROVE_GAS, f"dispute {dispute.index}: prove step {index}", bridge)


def _move(method: str, args: Record, gas: int, why: str, bridge: str, value: int = 0) -> Move:
    return Move(Call(bridge, method, encode(args), value), gas, why)
