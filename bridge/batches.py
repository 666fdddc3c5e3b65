"""The inbox and the line of batches: queue, submit, finalize, revert.

Responsible for what a batch must be to stand on L1 and for when it becomes final or void. Must not know
how a dispute is played, nor what a step does.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from bridge.abi import (
    FINALIZED,
    MAX_PENDING_BATCHES,
    PENDING,
    REVERTED,
    Batch,
    BatchArgs,
    BatchFinalized,
    BatchReverted,
    BatchSubmitted,
    DepositArgs,
    DepositInitiated,
    ForceArgs,
    InboxEntry,
    SubmitBatchArgs,
    TransactionForced,
)
from bridge.books import Books, require, require_running
from chainkit import gas
from chainkit.codec import MAX_AMOUNT, Bytes32, CodecError
from chainkit.contract import Revert
from chainkit.execution import InvalidTransaction, Rules, check_stateless
from chainkit.keys import is_valid_address
from chainkit.transaction import SignedTransaction
from rollup.batch import HASHES_OF_AN_ENTRY, MAX_BATCH_BYTES, BatchError, Bounds, data_hash, steps_root
from rollup.contents import Contents, read_contents, step_hashes
from rollup.directory import Frontier
from rollup.packing import PackedBlock
from rollup.stf import MAX_STEP_BYTES, Deposit, Forced, step_hash

INBOX_GAS = 20_000
"""What every inbox message costs beside its bytes: all who derive the rollup keep it for good."""
FORCED_OVERHEAD_BYTES = 16
"""What a step adds to the bytes of a transaction, at most."""
ZERO_ROOT = bytes(32)


# --- inbox ---


def deposit(books: Books, rules: Rules, args: DepositArgs) -> None:
    """Escrow the call's value and queue its credit on L2. The amount is what came, never what is said."""
    ctx, totals = books.ctx, books.totals
    require_running(books)
    minimum = books.settings.min_deposit
    require(ctx.value >= minimum, "deposit_too_small", f"a deposit is at least {minimum} gwei")
    require(is_valid_address(args.to), "invalid_address", "the recipient is not a valid Ed25519 public key")
    require(args.to not in rules.reserved, "invalid_recipient", "an L2 contract cannot take a deposit")
    # All that ever entered stays below 2**53, so that no counter overflows, here or in L2's supply.
    entered = totals.escrow + totals.claimed + totals.exited + totals.refunded
    require(entered + ctx.value <= MAX_AMOUNT, "deposit_limit", "the bridge has taken in all it ever can")
    index = totals.inbox_length
    books.take_escrow(ctx.value)
    books.note(deposited=totals.deposited + ctx.value)
    _append_to_inbox(books, step_hash(Deposit(index, ctx.sender, args.to, ctx.value)), ctx.value)
    ctx.emit(DepositInitiated(index, ctx.sender, args.to, ctx.value))


def force(books: Books, rules: Rules, args: ForceArgs) -> None:
    """Queue a signed L2 transaction that no sequencer can leave out (promise P16)."""
    ctx, wire = books.ctx, args.transaction
    require_running(books)
    limit = min(rules.fees.max_transaction_bytes, MAX_STEP_BYTES - FORCED_OVERHEAD_BYTES)
    require(len(wire) <= limit, "transaction_too_large", f"at most {limit} bytes")
    ctx.charge(gas.SIGNATURE + gas.EVENT_BYTE * len(wire))
    _require_possible(rules, wire, limit)
    index = books.totals.inbox_length
    _append_to_inbox(books, step_hash(Forced(index, wire)), 0)
    ctx.emit(TransactionForced(index, ctx.sender, wire))


def _require_possible(rules: Rules, wire: bytes, limit: int) -> None:
    """Keep out of the inbox what can never run on L2 (it would be harmless there, but stays for good)."""
    try:
        check_stateless(rules, SignedTransaction.decode(wire, limit=limit))
    except CodecError:
        raise Revert("undecodable", "not the canonical bytes of a signed L2 transaction") from None
    except InvalidTransaction as refusal:
        raise Revert(refusal.code, f"L2 would refuse it: {refusal.message}") from None


def _append_to_inbox(books: Books, hashed: Bytes32, amount: int) -> None:
    ctx, index = books.ctx, books.totals.inbox_length
    ctx.charge(INBOX_GAS)
    books.store_inbox(index, InboxEntry(hashed, ctx.height, ctx.sender, amount))
    books.note(inbox_length=index + 1)


# --- submit ---


def submit_batch(books: Books, args: SubmitBatchArgs) -> None:
    """Post L2 blocks and the root claimed after them. See docs/PROTOCOL.md, section 7."""
    ctx, totals, settings = books.ctx, books.totals, books.settings
    require_running(books)
    require_proposer(books)
    require(
        args.parent == totals.head_batch,
        "wrong_parent",
        f"the next batch extends batch {totals.head_batch}, not {args.parent}",
    )
    require(args.state_root != ZERO_ROOT, "zero_root", "the zero root is no state")
    require(
        totals.pending < MAX_PENDING_BATCHES,
        "too_many_pending",
        f"{totals.pending} batches wait for finality; finalize some first",
    )
    books.take_bond(settings.proposer_bond)
    parent = books.batch(args.parent)
    contents, directory = read_batch(books, args.data)
    blocks = contents.blocks
    check_times(blocks, parent.last_time, ctx.time)
    check_inbox(books, parent.inbox_to, args.inbox_to, blocks)
    first_block = parent.first_block + parent.blocks
    hashes = step_hashes(contents, first_block, parent.inbox_to, lambda i: books.inbox(i).step_hash)
    batch = Batch(
        index=totals.next_batch,
        parent=parent.index,
        first_block=first_block,
        blocks=len(blocks),
        last_time=blocks[-1].time,
        inbox_from=parent.inbox_to,
        inbox_to=args.inbox_to,
        steps=len(hashes),
        steps_root=steps_root(hashes),
        previous_root=parent.state_root,
        state_root=args.state_root,
        data_hash=data_hash(args.data),
        proposer=ctx.sender,
        bond=settings.proposer_bond,
        height=ctx.height,
        status=PENDING,
        challenge_until=ctx.height + settings.challenge_window,
        addresses=directory.count,
        addresses_root=directory.root(),
    )
    books.store_batch(batch)
    books.note(
        next_batch=batch.index + 1,
        head_batch=batch.index,
        last_batch_height=ctx.height,
        pending=totals.pending + 1,
    )
    ctx.emit(BatchSubmitted(batch))


def require_proposer(books: Books) -> None:
    """The sequencer, by its own call (derivation reads its calldata); anybody once it is silent."""
    ctx, settings = books.ctx, books.settings
    require(ctx.sender == ctx.origin, "not_an_account", "only an account posts batches, by its own call")
    if ctx.sender != settings.sequencer:
        free_from = books.totals.last_batch_height + settings.sequencer_timeout + 1
        require(
            ctx.height >= free_from,
            "not_sequencer",
            f"only the sequencer posts batches before L1 block {free_from}",
        )


def read_batch(books: Books, data: bytes) -> tuple[Contents, Frontier]:
    """Decode batch data, pay for the work it causes, put its new addresses into the directory.

    What is paid for is what all who run the contract have to do, and not how small the data was made: each inflated
    byte and each entry, before it is inflated or decoded, refused or not (docs/PROTOCOL.md, section 7).
    Returns what the batch contains and the directory with its addresses. Raises `Revert`.
    """
    ctx, limit = books.ctx, books.settings.max_steps
    ctx.charge(gas.HASH * (len(data) // 64 + 1))
    directory = books.directory()
    try:
        contents = read_contents(data, directory.count, Bounds(limit, ctx.gas_left // gas.HASH))
    except BatchError as error:
        ctx.charge(gas.HASH * error.cost)
        # Its message may quote zlib or the codec; receipts are hashed and must not.
        bounds = f"more than {limit} steps or {MAX_BATCH_BYTES} bytes"
        raise Revert("bad_batch", f"the batch data is malformed, or {bounds}") from None
    ctx.charge(gas.HASH * contents.cost)
    steps = contents.steps
    require(steps <= limit, "too_many_steps", f"the batch has {steps} steps, at most {limit} are allowed")
    ctx.charge(gas.HASH * HASHES_OF_AN_ENTRY * contents.messages)
    ctx.charge(gas.HASH * (sum(map(len, contents.committed)) // 64))
    if contents.addresses:
        directory = directory.append(contents.addresses)
        books.store_directory(directory)
    return contents, directory


def check_times(blocks: Sequence[PackedBlock], last_time: int, now: int) -> None:
    """L2 time never goes back and never runs ahead of L1 (ms)."""
    for block in blocks:
        require(block.time >= last_time, "time_goes_back", f"block time {block.time} after {last_time}")
        last_time = block.time
    require(last_time <= now, "time_in_future", f"block time {last_time} is later than L1's {now}")


def check_inbox(books: Books, inbox_from: int, inbox_to: int, blocks: Sequence[PackedBlock]) -> None:
    """The batch takes in what it says, in order, and leaves out nothing that is overdue."""
    totals, settings = books.totals, books.settings
    taken = sum(block.inbox_count for block in blocks)
    require(
        inbox_to == inbox_from + taken,
        "wrong_inbox",
        f"the blocks take in {taken} messages from index {inbox_from}: not up to {inbox_to}",
    )
    require(
        inbox_to <= totals.inbox_length,
        "inbox_beyond_end",
        f"the inbox has {totals.inbox_length} messages, the batch takes {inbox_to}",
    )
    most = settings.max_inbox_per_batch
    require(taken <= most, "too_many_messages", f"a batch takes in at most {most} messages")
    if taken < most and inbox_to < totals.inbox_length:
        deadline = books.inbox(inbox_to).height + settings.inclusion_delay
        require(
            books.ctx.height < deadline,
            "inbox_overdue",
            f"inbox message {inbox_to} must be in a batch since L1 block {deadline}",
        )


# --- final or void ---


def finalize(books: Books, args: BatchArgs) -> None:
    """Make the next batch final: window over, no open dispute, parent final. Returns its bond."""
    ctx, totals = books.ctx, books.totals
    batch = books.batch(args.batch)
    require(batch.status != FINALIZED, "already_final", f"batch {batch.index} is final")
    require(batch.status == PENDING, "batch_reverted", f"batch {batch.index} was reverted")
    require(
        batch.parent == totals.final_batch,
        "parent_not_final",
        f"batch {batch.parent} must be final first",
    )
    left = batch.challenge_until + 1 - ctx.height
    require(left <= 0, "too_early", f"challenge window open for {left} more blocks")
    require(
        batch.open_disputes == 0,
        "open_disputes",
        f"{batch.open_disputes} open disputes must be resolved first",
    )
    books.store_batch(replace(batch, status=FINALIZED, resolved_height=ctx.height))
    books.note(final_batch=batch.index, pending=totals.pending - 1, last_final_height=ctx.height)
    books.return_bond(batch.proposer, batch.bond)
    ctx.emit(BatchFinalized(batch.index, batch.state_root))


def revert_from(books: Books, first: int, reason: str, *, keep_first_bond: bool) -> None:
    """Void batch ``first`` and all built on it; the head and so the inbox cursor go back to its parent.

    Bonds go back to the proposers, that of ``first`` only unless ``keep_first_bond`` (it was forfeited).
    At most `MAX_PENDING_BATCHES` of work; disputes of these batches are settled one by one, later.
    """
    ctx, index = books.ctx, books.totals.head_batch
    while True:
        batch = books.batch(index)
        at_first = index == first
        books.store_batch(replace(batch, status=REVERTED, resolved_height=ctx.height))
        if not (at_first and keep_first_bond):
            books.return_bond(batch.proposer, batch.bond)
        books.note(head_batch=batch.parent, pending=books.totals.pending - 1)
        ctx.emit(BatchReverted(index, reason if at_first else "ancestor-reverted"))
        if at_first:
            return
        index = batch.parent
