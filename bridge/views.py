"""The JSON shapes of what users send through the bridge: deposits, forced transactions, withdrawals.

Responsible for their statuses, for saying in words what each waits for and who may act next. Must not know of
HTTP, nor change anything. Units as in bridge/views_batches.py.
"""

from typing import Final

from bridge import abi
from bridge.follow import BridgeState, Inclusion, Queued, Taken, WithdrawalEntry
from bridge.views_batches import Json, blocks, finality_wait, paid_json, seconds
from chainkit.codec import to_json
from chainkit.transaction import SignedTransaction
from rollup.derived import DerivedBatch
from rollup.stf import Deposit, Forced

WAITING: Final = "waiting-for-batch"
IN_WINDOW: Final = "in-challenge-window"
READY: Final = "ready-to-claim"
CLAIMED: Final = "claimed"
REVERTED: Final = "reverted"


# --- inbox --------------------------------------------------------------------------------------------------


def taken_json(state: BridgeState, taken: Taken | None) -> Json | None:
    if taken is None:
        return None
    batch = state.derivation.batches[taken.batch]
    return {
        "batch": taken.batch,
        "batch_status": batch.status,
        "batch_matches": batch.matches,
        "l2_height": taken.l2_height,
        "success": taken.success,
        "code": taken.code,
        "message": taken.message,
    }


def deposit_json(state: BridgeState, queued: Queued, l2_taken_in: int | None) -> Json:
    """A deposit of a final L1 block. ``l2_taken_in``: how much of the inbox the sequencer says it has."""
    step = queued.message.step
    assert isinstance(step, Deposit)
    taken, refund = state.taken(queued), state.refunds.get(queued.index)
    status, waits_for, act = _deposit_status(state, queued, taken, l2_taken_in)
    return {
        "id": to_json(queued.message.l1_tx_id),
        "index": queued.index,
        "status": status,
        "credited_by": _credited_by(state, taken, l2_taken_in, queued.index),
        "amount": step.amount,
        "depositor": to_json(step.depositor),
        "to": to_json(step.to),
        "l1": {"tx": to_json(queued.message.l1_tx_id), "height": queued.message.l1_height},
        "l2_step": to_json(queued.message.step_hash),
        "l2": taken_json(state, taken),
        "refund": paid_json(refund),
        "waits_for": waits_for,
        "may_act": act,
        **_deadline(state, queued, taken),
    }


def _credited_by(state: BridgeState, taken: Taken | None, l2_taken_in: int | None, index: int) -> str | None:
    """The most certain head that has it: finalized, safe or unsafe."""
    if taken is not None and state.derivation.batches[taken.batch].matches:
        final = state.derivation.batches[taken.batch].status == abi.FINALIZED
        return "finalized" if final else "safe"
    return "unsafe" if l2_taken_in is not None and l2_taken_in > index else None


def _deposit_status(
    state: BridgeState, queued: Queued, taken: Taken | None, l2_taken_in: int | None
) -> tuple[str, str, str]:
    if queued.index in state.refunds:
        return "refunded", "", ""
    if _credited_by(state, taken, l2_taken_in, queued.index) is not None:
        return "credited", "", ""
    if state.totals.frozen_height:
        return "final", f"a refund (POST /refunds/{queued.index})", "anyone; the depositor is paid"
    return "final", "the sequencer to take it in", "the sequencer; it cannot skip it"


def _deadline(state: BridgeState, queued: Queued, taken: Taken | None) -> Json:
    """By which L1 block a batch must have taken the message in, or no batch stands."""
    deadline = queued.message.l1_height + state.settings.inclusion_delay
    left = 0 if taken is not None else max(0, deadline - state.height)
    return {
        "deadline": deadline,
        "blocks_left": left,
        "seconds_left": seconds(state.l1.genesis, left),
    }


def forced_json(state: BridgeState, queued: Queued, l2_taken_in: int | None) -> Json:
    """A forced transaction of a final L1 block."""
    step = queued.message.step
    assert isinstance(step, Forced)
    taken = state.taken(queued)
    tx = SignedTransaction.decode(step.transaction)
    executed = _credited_by(state, taken, l2_taken_in, queued.index)
    waits_for = act = ""
    if executed is None:
        waits_for = "the sequencer to take it in: no batch stands without it after the deadline"
        act = "the sequencer"
        if state.totals.frozen_height:
            waits_for, act = "nothing: the bridge is frozen, it will not run", ""
    return {
        "id": queued.index,
        "index": queued.index,
        "status": "queued" if executed is None else "executed",
        "executed": executed is not None,
        "executed_by": executed,
        "l2_hash": to_json(tx.id),
        "sender": to_json(tx.body.sender),
        "nonce": tx.body.nonce,
        "by": to_json(queued.by),
        "l1": {"tx": to_json(queued.message.l1_tx_id), "height": queued.message.l1_height},
        "l2_step": to_json(queued.message.step_hash),
        "l2": taken_json(state, taken),
        "waits_for": waits_for,
        "may_act": act,
        **_deadline(state, queued, taken),
    }


# --- withdrawals --------------------------------------------------------------------------------------------


def withdrawal_json(state: BridgeState, entry: WithdrawalEntry, *, full: bool = True) -> Json:
    """A withdrawal that some batch holds or held; ``full`` adds the proof and the claim's arguments."""
    found = state.inclusion(entry)
    batch = None if found is None else state.derivation.batches[found.batch]
    index = None if found is None else found.index
    progress = withdrawal_progress(state, found)
    claim = None if index is None else state.claims.get(index)
    shown: Json = {
        "id": to_json(entry.tx_id),
        "ordinal": entry.ordinal,
        "index": index,
        **progress,
        "amount": entry.amount,
        "sender": to_json(entry.sender),
        "recipient": to_json(entry.recipient),
        "batch": None if batch is None else batch.index,
        "l2_height": None if found is None else found.l2_height,
        "claim": paid_json(claim),
        "reverted_in": [
            {"batch": i.batch, "reason": state.revert_reasons.get(i.batch, "")}
            for i in entry.inclusions
            if not state.stands(i.batch)
        ],
    }
    if full:
        arguments = claim_arguments(state, entry) if progress["status"] == READY else None
        shown["claim_arguments"] = None if arguments is None else to_json(arguments)
        shown["proof"] = None if arguments is None else _proof_json(state, arguments)
    return shown


def _proof_json(state: BridgeState, arguments: abi.ClaimArgs) -> Json:
    final = state.derivation.finalized_batch
    return {
        "batch": final.index,
        "state_root": to_json(final.record.state_root),
        "key": to_json(abi.withdrawal_state_key(arguments.index)),
        "proof": to_json(arguments.proof),
    }


def claim_arguments(state: BridgeState, entry: WithdrawalEntry) -> abi.ClaimArgs | None:
    """The arguments of the claim under the last final true root; None if it is not in that state."""
    found, final = state.inclusion(entry), state.derivation.finalized_batch
    if found is None or found.index is None or final.index == abi.GENESIS_BATCH:
        return None
    key = abi.withdrawal_state_key(found.index)
    tree = final.end.tree
    if not tree.get(key):
        return None
    return abi.ClaimArgs(final.index, found.index, entry.recipient, entry.amount, tree.prove([key]))


def progress_json(
    status: str, waits_for: str = "", act: str = "", left: int = 0, wait: int = 0, reason: str = ""
) -> Json:
    """Where a withdrawal stands, what it waits for and who may act next."""
    return {
        "status": status,
        "reason": reason,
        "waits_for": waits_for,
        "may_act": act,
        "blocks_left": left,
        "seconds_left": wait,
    }


def never_json() -> Json:
    """A withdrawal that no batch held when the bridge froze."""
    return progress_json(
        REVERTED,
        reason="the bridge is frozen and no final batch holds it; the balance is at /exits/{address}",
    )


def waiting_json(waits_for: str = "", reason: str = "") -> Json:
    """A withdrawal in no batch yet."""
    return progress_json(
        WAITING,
        waits_for or "the sequencer to post the batch that holds it",
        "the sequencer; anyone once it has been silent for sequencer_timeout",
        reason=reason,
    )


def withdrawal_progress(state: BridgeState, found: Inclusion | None) -> Json:
    """Status, reason, what it waits for and who may act next."""
    if found is None:
        return progress_json(REVERTED, reason="every batch that held it was reverted")
    batch = state.derivation.batches[found.batch]
    if found.index is None:
        reason = f"it failed on L2, as derived from L1: {found.message or found.code} ({found.code})"
        return progress_json(REVERTED, reason=reason)
    if found.index in state.claims:
        return progress_json(CLAIMED)
    if batch.status == abi.FINALIZED:
        if not batch.matches:
            return progress_json(REVERTED, reason=f"batch {batch.index} became final with a false state root")
        return progress_json(READY, "a claim", "anyone may send it; the recipient is paid")
    if not batch.matches:
        return _on_false_batch(state, batch)
    wait = finality_wait(state, batch.index)
    left = wait["blocks_left"]
    return progress_json(IN_WINDOW, wait["waits_for"], wait["may_act"], left, wait["seconds_left"])


def _on_false_batch(state: BridgeState, batch: DerivedBatch) -> Json:
    wait = finality_wait(state, batch.index)
    words = f"batch {batch.index} to be reverted: it claims, or stands on, a false state root"
    if wait["blocks_left"]:
        words += f" ({blocks(wait['blocks_left'])} in its challenge window)"
    return progress_json(
        IN_WINDOW,
        words,
        "anyone may challenge (POST /disputes); the withdrawal goes into a later batch",
        wait["blocks_left"],
        wait["seconds_left"],
        reason="false-root",
    )
