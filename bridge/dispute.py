"""The dispute game: from "this root is false" to one step that the contract runs itself.

Responsible for stages, turns, clocks and ranges of a dispute, as pure functions from one `Dispute` record
to the next. Must not know storage, bonds or how a step is executed.

Interactive bisection (Canetti, Riva, Rothblum 2013; Arbitrum's k-ary form): the defender cuts the disputed
range into segments and states the root at each cut, the challenger names the first segment whose end is
false, until one step is left. Each side has one clock for the whole dispute, in L1 blocks; it runs while
the side is to move, and the block of the deadline still counts.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from bridge.abi import BISECT, CHALLENGER, CHOOSE, DEFENDER, PROVE, RESOLVED, Batch, Dispute
from chainkit.codec import Address, Bytes32
from chainkit.contract import Revert


def open_dispute(
    index: int,
    batch: Batch,
    challenger: Address,
    claimed_root: Bytes32,
    height: int,
    *,
    bond: int,
    clock: int,
    bisection: int,
) -> Dispute:
    """The first record of a dispute over the whole batch; the opening is the challenger's first move."""
    dispute = Dispute(
        index=index,
        batch=batch.index,
        challenger=challenger,
        defender=batch.proposer,
        claimed_root=claimed_root,
        bond=bond,
        low=0,
        high=batch.steps,
        low_root=batch.previous_root,
        high_root=batch.state_root,
        points=[],
        stage=BISECT,
        turn=DEFENDER,
        defender_clock=clock,
        challenger_clock=clock,
        last_move=height,
        opened=height,
        bisection=bisection,
    )
    return _narrowed(dispute)


def segments(dispute: Dispute) -> int:
    """Into how many segments the range is cut."""
    return min(dispute.bisection, dispute.high - dispute.low)


def cut(dispute: Dispute, i: int) -> int:
    """Position of cut ``i``: 0 is the low end, ``segments`` the high end."""
    return dispute.low + i * (dispute.high - dispute.low) // segments(dispute)


def cut_points(dispute: Dispute) -> list[int]:
    """The interior positions at which the defender states roots."""
    return [cut(dispute, i) for i in range(1, segments(dispute))]


def clock_left(dispute: Dispute, height: int) -> int:
    """Blocks that the side to move has left; negative once it is too late."""
    clock = dispute.defender_clock if dispute.turn == DEFENDER else dispute.challenger_clock
    return clock - (height - dispute.last_move)


def require_stage(dispute: Dispute, *stages: str) -> None:
    """Raises `Revert`: resolution is terminal, and each move has its stage."""
    if dispute.stage == RESOLVED:
        raise Revert("dispute_resolved", f"dispute {dispute.index} is over")
    if dispute.stage not in stages:
        raise Revert("wrong_stage", f"dispute {dispute.index} awaits: {dispute.stage} by {dispute.turn}")


def require_player(dispute: Dispute, sender: Address) -> None:
    """Raises `Revert` unless the sender is the side to move."""
    player = dispute.defender if dispute.turn == DEFENDER else dispute.challenger
    if sender != player:
        raise Revert("not_your_move", f"dispute {dispute.index} awaits the {dispute.turn}")


def spend_clock(dispute: Dispute, height: int) -> Dispute:
    """Charge the side to move for its thinking. Raises `Revert` if its time is over."""
    left = clock_left(dispute, height)
    if left < 0:
        raise Revert("clock_expired", f"the {dispute.turn} is {-left} blocks late; call timeout")
    moved = replace(dispute, last_move=height, moves=dispute.moves + 1)
    if dispute.turn == DEFENDER:
        return replace(moved, defender_clock=left)
    return replace(moved, challenger_clock=left)


def bisect(dispute: Dispute, sender: Address, roots: Sequence[Bytes32], height: int) -> Dispute:
    """The defender states its root at each cut. Raises `Revert`."""
    require_stage(dispute, BISECT)
    require_player(dispute, sender)
    moved = spend_clock(dispute, height)
    wanted = segments(dispute) - 1
    if len(roots) != wanted:
        raise Revert("wrong_roots", f"{wanted} roots are due, {len(roots)} came")
    return replace(moved, points=list(roots), stage=CHOOSE, turn=CHALLENGER)


def choose(dispute: Dispute, sender: Address, segment: int, height: int) -> Dispute:
    """The challenger narrows the dispute to one segment. Raises `Revert`."""
    require_stage(dispute, CHOOSE)
    require_player(dispute, sender)
    moved = spend_clock(dispute, height)
    count = segments(dispute)
    if segment >= count:
        raise Revert("wrong_segment", f"segments are 0 to {count - 1}")
    roots = [dispute.low_root, *dispute.points, dispute.high_root]
    narrowed = replace(
        moved,
        low=cut(dispute, segment),
        high=cut(dispute, segment + 1),
        low_root=roots[segment],
        high_root=roots[segment + 1],
        points=[],
    )
    return _narrowed(narrowed)


def require_timed_out(dispute: Dispute, height: int) -> None:
    """Raises `Revert` while the side to move still has time."""
    left = clock_left(dispute, height)
    if left >= 0:
        raise Revert("clock_running", f"the {dispute.turn} has {left} more blocks")


def resolved(dispute: Dispute, winner: str, reason: str, height: int) -> Dispute:
    """The last record of a dispute."""
    return replace(dispute, stage=RESOLVED, turn="", winner=winner, reason=reason, last_move=height)


def _narrowed(dispute: Dispute) -> Dispute:
    if dispute.high - dispute.low == 1:
        return replace(dispute, stage=PROVE, turn=CHALLENGER)
    return replace(dispute, stage=BISECT, turn=DEFENDER)
