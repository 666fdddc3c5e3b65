"""Ways out: claim a withdrawal; and, from a frozen bridge, exit with a balance or take back a deposit.

Responsible for paying out of escrow, each thing once (promises P3, P5, P17, P18). Must not know how a root
became final.
"""

from msgspec.structs import replace

from bridge.abi import (
    FINALIZED,
    GENESIS_BATCH,
    REVERTED,
    STALL_FACTOR,
    AccountExited,
    Batch,
    BridgeFrozen,
    ClaimArgs,
    DepositRefunded,
    ExitArgs,
    RefundArgs,
    Withdrawal,
    WithdrawalClaimed,
    claimed_key,
    exited_key,
    withdrawal_state_key,
)
from bridge.batches import revert_from
from bridge.books import Books, require, require_frozen, require_running
from bridge.settings import proof_gas
from chainkit.codec import Bytes32, CodecError, decode
from chainkit.contract import Revert
from chainkit.execution import Rules
from chainkit.merkle import ProofError, verify_proof
from chainkit.state import Account, account_key


def claim(books: Books, args: ClaimArgs) -> None:
    """Pay a withdrawal proven under a final root, once. Anyone may send it; the recipient is in the leaf."""
    ctx = books.ctx
    require(args.batch != GENESIS_BATCH, "no_withdrawals", "batch 0 is the genesis: it holds no withdrawal")
    batch = books.batch(args.batch)
    require_final(books, batch)
    nullifier = claimed_key(args.index)
    require(not ctx.storage.get(nullifier), "already_claimed", f"withdrawal {args.index} was paid")
    value = proven_value(books, batch.state_root, withdrawal_state_key(args.index), args.proof)
    require(bool(value), "not_proven", f"batch {batch.index} holds no withdrawal {args.index}")
    try:
        proven = decode(Withdrawal, value)
    except CodecError:
        raise Revert("not_proven", "the proven value is not a withdrawal") from None
    require(
        (proven.index, proven.recipient, proven.amount) == (args.index, args.recipient, args.amount),
        "wrong_withdrawal",
        f"withdrawal {args.index} has another recipient or amount",
    )
    ctx.storage.store_int(nullifier, ctx.height)
    books.pay_escrow(proven.recipient, proven.amount)
    books.note(claimed=books.totals.claimed + proven.amount)
    ctx.emit(WithdrawalClaimed(args.index, batch.index, proven.recipient, proven.amount))


def require_final(books: Books, batch: Batch) -> None:
    """Raises `Revert`, saying what the claimant has to wait for."""
    if batch.status == FINALIZED:
        return
    require(batch.status != REVERTED, "batch_reverted", f"batch {batch.index} was reverted")
    left = batch.challenge_until + 1 - books.ctx.height
    if left > 0:
        raise Revert("not_final", f"challenge window open for {left} more blocks")
    if batch.open_disputes:
        raise Revert("not_final", f"batch {batch.index} has {batch.open_disputes} open disputes")
    raise Revert("not_final", f"challenge window is over; finalize batch {batch.index} first")


def proven_value(books: Books, root: Bytes32, key: bytes, proof: bytes) -> bytes:
    """The value of ``key`` under ``root``, empty if there is none. Raises `Revert` ``bad_proof``."""
    books.ctx.charge(proof_gas(len(proof)))
    try:
        return verify_proof(root, key, proof) or b""
    except ProofError:
        raise Revert("bad_proof", "the proof is not of this key under the batch's state root") from None


# --- the emergency way out ---


def freeze(books: Books) -> None:
    """Stop the bridge for good (promise P17): once no batch came for ``escape_timeout`` blocks and none is pending,
    or once none became final for `STALL_FACTOR` times as long.

    The second way is against a sequencer that keeps posting what is never final: it voids what is pending.
    """
    ctx, totals, timeout = books.ctx, books.totals, books.settings.escape_timeout
    require_running(books)
    stalled = ctx.height > totals.last_final_height + STALL_FACTOR * timeout
    left = totals.last_batch_height + timeout + 1 - ctx.height
    require(stalled or left <= 0, "too_early", f"freezing is possible in {left} blocks, if no batch comes")
    if totals.head_batch != totals.final_batch:
        first = first_pending(books)
        if not stalled:
            _refuse_pending(first)
        revert_from(books, first.index, "frozen", keep_first_bond=False)
    books.note(frozen_height=ctx.height)
    ctx.emit(BridgeFrozen(totals.final_batch, ctx.sender))


def _refuse_pending(batch: Batch) -> None:
    todo = "resolve its disputes" if batch.open_disputes else "finalize it"
    raise Revert("batches_pending", f"batch {batch.index} is not final; {todo} first")


def first_pending(books: Books) -> Batch:
    """The batch after the final one (there must be one)."""
    batch = books.batch(books.totals.head_batch)
    while batch.parent != books.totals.final_batch:
        batch = books.batch(batch.parent)
    return batch


def exit_account(books: Books, rules: Rules, args: ExitArgs) -> None:
    """Pay an account its balance in the last final state, once. Anyone may send it."""
    ctx = books.ctx
    require_frozen(books)
    require(args.account not in rules.reserved, "contract_account", "an L2 contract cannot leave")
    nullifier = exited_key(args.account)
    require(not ctx.storage.get(nullifier), "already_exited", "this account has left")
    batch = books.batch(books.totals.final_batch)
    value = proven_value(books, batch.state_root, account_key(args.account), args.proof)
    try:
        balance = decode(Account, value).balance if value else 0
    except CodecError:
        raise Revert("not_proven", "the proven value is not an account") from None
    require(balance > 0, "no_balance", f"the account has nothing in batch {batch.index}")
    ctx.storage.store_int(nullifier, ctx.height)
    books.pay_escrow(args.account, balance)
    books.note(exited=books.totals.exited + balance)
    ctx.emit(AccountExited(args.account, balance))


def refund(books: Books, args: RefundArgs) -> None:
    """Give a deposit back that no final batch took in, once. Anyone may send it."""
    ctx = books.ctx
    require_frozen(books)
    entry = books.inbox(args.index)
    final = books.batch(books.totals.final_batch)
    require(args.index >= final.inbox_to, "taken_in", f"L2 took in message {args.index}")
    require(entry.amount > 0, "not_a_deposit", f"inbox message {args.index} is no deposit")
    require(not entry.refunded, "already_refunded", f"deposit {args.index} was refunded")
    books.store_inbox(args.index, replace(entry, refunded=True))
    books.pay_escrow(entry.depositor, entry.amount)
    books.note(refunded=books.totals.refunded + entry.amount)
    ctx.emit(DepositRefunded(args.index, entry.depositor, entry.amount))
