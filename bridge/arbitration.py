"""Disputes as calls: who may open one, what a proof must show, and what a verdict does to bonds and batches.

Responsible for the contract methods around the game of bridge/dispute.py. Must not know the game's ranges
and clocks, nor what a step does: the one function that every node runs decides (`rollup.stf.prove_step`).
"""

from msgspec.structs import replace

from bridge.abi import (
    CHALLENGER,
    DEFENDER,
    MAX_WITNESS_BYTES,
    PENDING,
    PROVE,
    RESOLVED,
    Batch,
    BatchChallenged,
    BisectArgs,
    ChallengeArgs,
    ChooseArgs,
    Dispute,
    DisputeArgs,
    DisputeBisected,
    DisputeResolved,
    ProveArgs,
    SegmentChosen,
    StepProved,
    challenge_key,
)
from bridge.batches import ZERO_ROOT, revert_from
from bridge.books import Books, require
from bridge.dispute import (
    bisect,
    choose,
    open_dispute,
    require_stage,
    require_timed_out,
    resolved,
    spend_clock,
)
from bridge.settings import proof_gas
from chainkit.codec import Bytes32, CodecError, decode
from chainkit.contract import Revert
from chainkit.execution import InvalidTransaction, Rules, SupplyViolation
from chainkit.gas import OutOfGas
from chainkit.hashing import tagged_hash
from chainkit.merkle import ProofError
from chainkit.merkle_list import verify_list_proof
from rollup.contents import packed_hash
from rollup.packing import Packed, numbers_of, unpack
from rollup.stf import MAX_STEP_BYTES, Step, Transact, decode_step, prove_step

_POOR_PROOF = (
    ProofError,
    InvalidTransaction,
    SupplyViolation,
    Revert,
    OutOfGas,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
)
"""What a step can raise over a state that no chain ever had: two colluding sides may agree on any root."""


def challenge(books: Books, args: ChallengeArgs) -> None:
    """Open a dispute. Any number run side by side, so nobody can lose on an honest challenger's behalf."""
    ctx, settings = books.ctx, books.settings
    require(ctx.sender == ctx.origin, "not_an_account", "only an account challenges, by its own call")
    batch = books.batch(args.batch)
    require(batch.status == PENDING, "not_pending", f"batch {batch.index} is {batch.status}")
    late = ctx.height - batch.challenge_until
    require(late <= 0, "window_over", f"the challenge window closed {late} blocks ago")
    require(args.state_root != ZERO_ROOT, "zero_root", "the zero root is no state")
    require(args.state_root != batch.state_root, "same_root", "that is the root the batch claims")
    books.take_bond(settings.challenger_bond)
    key = challenge_key(batch.index, ctx.sender, args.state_root)
    require(not ctx.storage.get(key), "already_challenged", "this dispute of yours is open already")
    dispute = open_dispute(
        books.totals.next_dispute,
        batch,
        ctx.sender,
        args.state_root,
        ctx.height,
        bond=settings.challenger_bond,
        clock=settings.dispute_clock,
        bisection=settings.bisection,
    )
    books.store_dispute(dispute)
    books.store_batch(replace(batch, open_disputes=batch.open_disputes + 1))
    ctx.storage.store_int(key, dispute.index)
    books.note(next_dispute=dispute.index + 1)
    ctx.emit(BatchChallenged(dispute.index, batch.index, ctx.sender, args.state_root))


def bisect_dispute(books: Books, args: BisectArgs) -> None:
    """The defender's move."""
    ctx, (dispute, _) = books.ctx, live_dispute(books, args.dispute)
    books.store_dispute(bisect(dispute, ctx.sender, args.roots, ctx.height))
    ctx.emit(DisputeBisected(dispute.index, dispute.low, dispute.high, args.roots))


def choose_segment(books: Books, args: ChooseArgs) -> None:
    """The challenger's move."""
    ctx, (dispute, _) = books.ctx, live_dispute(books, args.dispute)
    narrowed = choose(dispute, ctx.sender, args.segment, ctx.height)
    books.store_dispute(narrowed)
    ctx.emit(SegmentChosen(dispute.index, args.segment, narrowed.low, narrowed.high))


def prove(books: Books, rules: Rules, args: ProveArgs) -> None:
    """Run the one disputed step over the witness and decide. Anyone may bring the proof."""
    ctx, (dispute, batch) = books.ctx, live_dispute(books, args.dispute)
    require_stage(dispute, PROVE)
    dispute = spend_clock(dispute, ctx.height)
    root = run_disputed_step(books, rules, dispute, batch, args)
    ctx.emit(StepProved(dispute.index, dispute.low, dispute.high_root, root))
    winner = DEFENDER if root == dispute.high_root else CHALLENGER
    resolve(books, dispute, batch, winner, "step-proved")


def run_disputed_step(books: Books, rules: Rules, dispute: Dispute, batch: Batch, args: ProveArgs) -> Bytes32:
    """The root after the disputed step. Raises `Revert` ``bad_proof`` for whatever does not show it."""
    require(
        len(args.witness) <= MAX_WITNESS_BYTES,
        "bad_proof",
        f"a witness has at most {MAX_WITNESS_BYTES} bytes",
    )
    hashes = len(args.step_proof) + sum(1 + len(known.proof) for known in args.addresses)
    books.ctx.charge(proof_gas(len(args.witness) + len(args.step) + 32 * hashes))
    try:
        step, leaf = open_packed(rules, batch, args) if args.addresses else open_plain(args)
        verify_list_proof(batch.steps_root, dispute.low, batch.steps, leaf, args.step_proof)
    except (CodecError, ProofError):
        raise Revert("bad_proof", f"not step {dispute.low} of batch {batch.index}") from None
    try:
        return prove_step(rules, dispute.low_root, step, args.witness)
    except _POOR_PROOF:
        raise Revert(
            "bad_proof", "the witness is not of the agreed state, or lacks what the step touches"
        ) from None


def open_plain(args: ProveArgs) -> tuple[Step, Bytes32]:
    """A step that is committed as it is, and its hash. Raises `CodecError`."""
    # `tagged_hash("step", ...)` of canonical bytes is `step_hash`.
    return decode_step(args.step), tagged_hash("step", args.step)


def open_packed(rules: Rules, batch: Batch, args: ProveArgs) -> tuple[Step, Bytes32]:
    """The transaction behind a packed one, and the hash that is committed. Raises `CodecError`, `ProofError`.

    Each address is shown at its number in the directory as it was when the batch was posted.
    """
    packed: Packed = decode(Packed, args.step, limit=MAX_STEP_BYTES)  # type: ignore[arg-type]
    numbers = numbers_of(packed)
    if len(args.addresses) != len(numbers):
        raise ProofError("one address for each number")
    shown = {}
    for number, known in zip(numbers, args.addresses, strict=True):
        verify_list_proof(batch.addresses_root, number, batch.addresses, known.address, known.proof)
        shown[number] = known.address
    return Transact(unpack(packed, rules.chain_id, shown.__getitem__)), packed_hash(args.step)


def timeout(books: Books, args: DisputeArgs) -> None:
    """The side whose clock ran out loses; of a void batch's dispute, the bond goes back."""
    ctx, dispute = books.ctx, books.dispute(args.dispute)
    batch = books.batch(dispute.batch)
    require(dispute.stage != RESOLVED, "dispute_resolved", f"dispute {dispute.index} is over")
    if batch.status != PENDING:
        settle_moot(books, dispute)
        return
    require_timed_out(dispute, ctx.height)
    winner = CHALLENGER if dispute.turn == DEFENDER else DEFENDER
    resolve(books, dispute, batch, winner, "timeout")


def settle(books: Books, args: DisputeArgs) -> None:
    """Return the challenger's bond of a dispute whose batch another dispute has voided."""
    dispute = books.dispute(args.dispute)
    require(dispute.stage != RESOLVED, "dispute_resolved", f"dispute {dispute.index} is over")
    pending = books.batch(dispute.batch).status == PENDING
    require(not pending, "dispute_open", f"dispute {dispute.index} is still being played")
    settle_moot(books, dispute)


def live_dispute(books: Books, index: int) -> tuple[Dispute, Batch]:
    """A dispute that may still be played, and its batch. Raises `Revert`."""
    dispute = books.dispute(index)
    require(dispute.stage != RESOLVED, "dispute_resolved", f"dispute {index} is over")
    batch = books.batch(dispute.batch)
    require(batch.status == PENDING, "dispute_moot", f"batch {batch.index} is {batch.status}; call settle")
    return dispute, batch


def resolve(books: Books, dispute: Dispute, batch: Batch, winner: str, reason: str) -> None:
    """The verdict: one proven fraud voids the batch and all after it; a false alarm costs the alarmist."""
    if winner == DEFENDER:
        paid, burned = books.forfeit_bond(dispute.defender, dispute.bond)
        books.store_batch(replace(batch, open_disputes=batch.open_disputes - 1))
    else:
        paid, burned = books.forfeit_bond(dispute.challenger, batch.bond)
        books.return_bond(dispute.challenger, dispute.bond)
    _close_dispute(books, dispute, winner, reason, paid, burned)
    if winner == CHALLENGER:
        revert_from(books, batch.index, reason, keep_first_bond=True)


def settle_moot(books: Books, dispute: Dispute) -> None:
    """Another dispute decided: nobody wins this one. One call each, so that no verdict is O(disputes)."""
    books.return_bond(dispute.challenger, dispute.bond)
    _close_dispute(books, dispute, "", "batch-reverted", 0, 0)


def _close_dispute(books: Books, dispute: Dispute, winner: str, reason: str, paid: int, burned: int) -> None:
    books.store_dispute(resolved(dispute, winner, reason, books.ctx.height))
    key = challenge_key(dispute.batch, dispute.challenger, dispute.claimed_root)
    books.ctx.storage.delete(key)
    books.ctx.emit(DisputeResolved(dispute.index, dispute.batch, winner, reason, paid, burned))
