"""The JSON shapes of the bridge service.

Responsible for how deposits, withdrawals, forced transactions, batches, disputes and exits look to a client,
and for saying in words what each waits for and who may act next. Must not know of HTTP, nor change anything.

Amounts in gwei; ``blocks_left`` counts L1 blocks from the last final one; ``seconds_left`` is that in slots
that all have a block, so it is the least time.
"""

from typing import Any, Final

from bridge import abi
from bridge.dispute import clock_left, cut_points, segments
from bridge.follow import BridgeState, Inclusion, OnL1, Paid, Queued, Taken, WithdrawalEntry
from chainkit.codec import Address, to_json
from chainkit.genesis import Genesis
from chainkit.state import State, account_key
from chainkit.transaction import SignedTransaction
from chainkit.views import account_name
from rollup.derived import DerivedBatch
from rollup.stf import Deposit, Forced

Json = dict[str, Any]

WAITING: Final = "waiting-for-batch"
IN_WINDOW: Final = "in-challenge-window"
READY: Final = "ready-to-claim"
CLAIMED: Final = "claimed"
REVERTED: Final = "reverted"


def seconds(genesis: Genesis, blocks: int) -> int:
    """The least time in which ``blocks`` L1 blocks come, in whole seconds, rounded up."""
    return -(-blocks * genesis.slot_ms // 1000)


def blocks(count: int) -> str:
    """``1 more L1 block``, ``2 more L1 blocks``."""
    return f"{count} more L1 block{'' if count == 1 else 's'}"


def on_l1(at: OnL1) -> Json:
    return {"tx": to_json(at.tx_id), "height": at.height}


def paid_json(paid: Paid | None) -> Json | None:
    if paid is None:
        return None
    return {"recipient": to_json(paid.recipient), "amount": paid.amount, **on_l1(paid.at)}


def who(genesis: Genesis, address: Address) -> Json:
    """An address with the name that people know it by."""
    return {"address": to_json(address), "name": account_name(genesis, address)}


# --- bridge -------------------------------------------------------------------------------------------------


def invariant_json(state: BridgeState) -> Json:
    """The live invariant, term by term."""
    books = state.invariant()
    return {
        "holds": books.holds,
        "at_l1_height": state.height,
        "after_batch": books.batch,
        "escrow": books.escrow,
        "expected": books.expected,
        "l2_balances": books.l2_balances,
        "withdrawals_not_claimed": books.withdrawals,
        "deposits_not_taken_in": books.deposits,
        "exited": books.exited,
        "bonds": {
            "holds": books.bonds_hold,
            "held": books.bonds,
            "owed": books.bonds_owed,
            "contract_balance": books.balance,
        },
        "in_words": "escrow = l2_balances - exited + withdrawals_not_claimed + deposits_not_taken_in; "
        "contract_balance = escrow + bonds",
    }


def heads_json(state: BridgeState) -> Json:
    """The ends of L2 as L1 tells them; the unsafe head is the sequencer's word and not here."""
    derivation = state.derivation

    def head(batch: DerivedBatch) -> Json:
        header = batch.end.header
        root, block_hash = to_json(header.state_root), to_json(batch.end.hash)
        return {"height": header.height, "hash": block_hash, "state_root": root, "batch": batch.index}

    return {"safe": head(derivation.safe_batch), "finalized": head(derivation.finalized_batch)}


def bridge_json(state: BridgeState) -> Json:
    """Settings, books, both ends of the line of batches, and the invariant."""
    totals, settings, genesis = state.totals, state.settings, state.l1.genesis
    upgrade = state.load(abi.UPGRADE_KEY, abi.ScheduledUpgrade)
    return {
        "contract": "bridge",
        "l1_height": state.height,
        "settings": to_json(settings),
        "sequencer": who(genesis, settings.sequencer),
        "scheduled_upgrade": to_json(upgrade),
        "totals": to_json(totals),
        "heads": heads_json(state),
        "head_batch": batch_json(state, totals.head_batch),
        "final_batch": batch_json(state, totals.final_batch),
        "open_disputes": [dispute.index for dispute in state.derivation.open_disputes()],
        "frozen": totals.frozen_height > 0,
        "diverged": state.derivation.diverged,
        "escape": escape_json(state),
        "invariant": invariant_json(state),
    }


def escape_json(state: BridgeState) -> Json:
    """Whether the bridge is frozen, and if not, when it may be."""
    totals = state.totals
    possible_at = totals.last_batch_height + state.settings.escape_timeout + 1
    frozen = totals.frozen_height > 0
    left = 0 if frozen else max(0, possible_at - state.height - 1)
    words = f"a freeze (POST /freeze), possible in L1 block {possible_at} if no batch comes before"
    return {
        "frozen": frozen,
        "frozen_at": totals.frozen_height or None,
        "freeze_possible_at": possible_at,
        "waits_for": "" if frozen else words,
        "blocks_left": left,
        "seconds_left": seconds(state.l1.genesis, left),
    }


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


def finality_wait(state: BridgeState, index: int) -> Json:
    """What a pending batch waits for until it is final."""
    record = state.batch_record(index)
    assert record is not None
    left = max(0, record.challenge_until - state.height)
    words, act = f"the challenge window of batch {index}: {blocks(left)}", "anyone may challenge it"
    if left == 0:
        parent = state.derivation.batches[record.parent]
        if record.open_disputes:
            words = f"{record.open_disputes} open disputes on batch {index} to be resolved"
            act = "the two sides of each dispute"
        elif parent.status == abi.PENDING:
            words, act = f"batch {parent.index} to become final first", "see that batch"
        else:
            words = f"batch {index} to be finalized: its window is over"
            act = f"anyone (POST /batches/{index}/finalize)"
    return {
        "waits_for": words,
        "may_act": act,
        "blocks_left": left,
        "seconds_left": seconds(state.l1.genesis, left),
    }


# --- batches and disputes -----------------------------------------------------------------------------------


def batch_json(state: BridgeState, index: int) -> Json:
    """A batch: L1's own record beside the root that executing it here gave."""
    batch = state.derivation.batches[index]
    record = state.batch_record(index) or batch.record
    shown = {
        **to_json(record),
        "status": batch.status,
        "computed_root": to_json(batch.computed_root),
        "matches": batch.matches,
        "l1_height": batch.l1_height,
        "l1_transaction": to_json(batch.l1_tx_id),
        "disputes": [d.index for _, d in sorted(state.derivation.disputes.items()) if d.batch == index],
        "finalizes_at": record.challenge_until + 1 if index != abi.GENESIS_BATCH else 0,
        "reverted_because": state.revert_reasons.get(index),
    }
    done: Json = {"waits_for": "", "may_act": "", "blocks_left": 0, "seconds_left": 0}
    return {**shown, **(finality_wait(state, index) if batch.status == abi.PENDING else done)}


def dispute_json(state: BridgeState, dispute: abi.Dispute, *, full: bool = True) -> Json:
    """A dispute: the record, whose turn it is, both clocks now, and every move so far."""
    genesis = state.l1.genesis
    open_now = dispute.stage != abi.RESOLVED
    moot = open_now and state.derivation.batches[dispute.batch].status != abi.PENDING
    clocks = {abi.DEFENDER: dispute.defender_clock, abi.CHALLENGER: dispute.challenger_clock}
    if open_now and not moot:
        clocks[dispute.turn] = clock_left(dispute, state.height)
    left = max(0, clocks[dispute.turn]) if open_now and not moot else 0
    shown: Json = {
        **to_json(dispute),
        "id": dispute.index,
        "open": open_now,
        "moot": moot,
        "defender": who(genesis, dispute.defender),
        "challenger": who(genesis, dispute.challenger),
        "steps_in_dispute": dispute.high - dispute.low,
        "clocks": clocks,
        "blocks_left": left,
        "seconds_left": seconds(genesis, left),
        **_next_move(state, dispute, moot=moot, late=open_now and clocks.get(dispute.turn, 0) < 0),
    }
    if full:
        shown["cut_points"] = cut_points(dispute) if dispute.stage in (abi.BISECT, abi.CHOOSE) else []
        shown["history"] = state.history.get(dispute.index, [])
    return shown


def _next_move(state: BridgeState, dispute: abi.Dispute, *, moot: bool, late: bool) -> Json:
    path = f"POST /disputes/{dispute.index}"
    if dispute.stage == abi.RESOLVED:
        return {"waits_for": "", "may_act": ""}
    if moot:
        status = state.derivation.batches[dispute.batch].status
        words = f"nothing: batch {dispute.batch} is {status}; the challenger's bond can go back"
        return {"waits_for": words, "may_act": f"anyone ({path}/settle)"}
    if late:
        return {
            "waits_for": f"a call of time: the {dispute.turn}'s clock ran out",
            "may_act": f"anyone ({path}/timeout)",
        }
    steps = f"steps {dispute.low} to {dispute.high}"
    words = {
        abi.BISECT: f"the defender's roots at the cuts of {steps}",
        abi.CHOOSE: f"the challenger's choice among {segments(dispute)} segments of {steps}",
        abi.PROVE: f"a proof of step {dispute.low}",
    }[dispute.stage]
    mover = "anyone" if dispute.stage == abi.PROVE else f"the {dispute.turn}"
    return {"waits_for": words, "may_act": f"{mover} ({path}/{dispute.stage})"}


# --- exits --------------------------------------------------------------------------------------------------


def exit_json(state: BridgeState, address: Address) -> Json:
    """What an account would get out of the bridge if it froze now, with the proof."""
    final, totals = state.derivation.finalized_batch, state.totals
    balance = State(final.end.tree).account(address).balance
    provable = final.index == totals.final_batch
    exited = state.exits.get(address)
    reserved = address in state.derivation.rules.reserved
    proof = None
    if provable and balance:
        proof = {
            "batch": final.index,
            "state_root": to_json(final.record.state_root),
            "key": to_json(account_key(address)),
            "proof": to_json(final.end.tree.prove([account_key(address)])),
        }
    possible = bool(totals.frozen_height) and balance > 0 and exited is None and provable and not reserved
    return {
        "address": to_json(address),
        "name": account_name(state.l1.genesis, address),
        "amount": 0 if exited is not None or reserved else balance,
        "possible_now": possible,
        "exited": paid_json(exited),
        "under_batch": final.index,
        "proof": proof,
        **escape_json(state),
    }


def bridge_json_escape(state: BridgeState) -> Json:
    """Whether the bridge is frozen, and if not, when it may be."""
    escape: Json = bridge_json(state)["escape"]
    frozen = escape["frozen_at"] is not None
    words = (
        "" if frozen else f"a freeze, possible from L1 block {escape['freeze_possible_at']} if no batch comes"
    )
    return {"frozen": frozen, "waits_for": words, **escape}
