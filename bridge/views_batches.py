"""The JSON shapes of batches and disputes, and what all shapes of the bridge service share.

Responsible for saying in words what a batch or dispute waits for and who may act next. Must not know of HTTP,
nor change anything.

Amounts in gwei; ``blocks_left`` counts L1 blocks from the last final one; ``seconds_left`` is that in slots
that all have a block, so it is the least time.
"""

from typing import Any

from bridge import abi
from bridge.dispute import clock_left, cut_points, segments
from bridge.follow import BridgeState, OnL1, Paid
from chainkit.codec import Address, to_json
from chainkit.genesis import Genesis
from chainkit.views import account_name

Json = dict[str, Any]


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
