"""The JSON shapes of a committee bridge: its books, deposits and withdrawals.

Responsible for their statuses, for saying in words what each waits for and who may act next. Must not know of HTTP,
nor change anything. Amounts in gwei, heights in blocks of the chain that is named beside them. The members are those
of a rollup's bridge wherever they have a meaning; what waits for no number of blocks has 0 of them left.
"""

from typing import Any, Final

from bridge.committee_abi import BRIDGE, Voice
from bridge.committee_follow import CommitteeState, Passage, Payment
from bridge.hints import Told, Tracked
from bridge.views_batches import Json, on_l1, who
from chainkit.codec import Address, Bytes32, to_json
from chainkit.genesis import Genesis

WAITING: Final = "waiting-for-attestations"
CLAIMED: Final = "claimed"
REVERTED: Final = "reverted"
OPERATORS: Final = "the bridge's operators"
_NO_WAIT: Final[Json] = {"blocks_left": 0, "seconds_left": 0}


def invariant_json(state: CommitteeState) -> Json:
    """The live invariant, term by term."""
    books = state.invariant()
    return {
        "holds": books.holds,
        "at_l1_height": state.l1_tip.header.height,
        "at_l2_height": state.side_tip.header.height,
        "escrow": books.escrow,
        "expected": books.expected,
        "outside_reserve": books.outstanding,
        "deposits_not_credited": books.deposits,
        "withdrawals_not_paid": books.withdrawals,
        "settling": books.settling,
        "baseless_payments": [lie_json(contract, lie) for contract, lie in state.lies()],
        "in_words": "escrow - deposits_not_credited - withdrawals_not_paid + settling = outside_reserve (coins on the "
        "side chain outside the gateway, fees burned there included), and nothing was paid without a reason; "
        "settling: paid, while the chain with the reason is not followed so far yet",
    }


def lie_json(contract: str, payment: Payment) -> Json:
    """A payment that no deposit or withdrawal is the reason of."""
    chain = "l1" if contract == BRIDGE else "l2"
    paid = {"recipient": to_json(payment.to), "amount": payment.amount, **on_l1(payment.at)}
    return {"index": payment.index, "paid_on": chain, **paid}


def bridge_json(state: CommitteeState, heads: Json) -> Json:
    """Parameters, books, the committee, and the invariant."""
    params, genesis = state.params, state.l1.genesis
    return {
        "kind": "committee",
        "contract": "bridge",
        "l1_height": state.l1_tip.header.height,
        "l2_height": state.side_tip.header.height,
        "settings": to_json(params),
        "operators": [who(genesis, operator) for operator in params.operators],
        "threshold": params.threshold,
        "totals": {**to_json(state.escrow), **to_json(state.gateway)},
        "heads": heads,
        "frozen": False,
        "invariant": invariant_json(state),
    }


# --- deposits and withdrawals in final blocks ---


def voices_json(
    genesis: Genesis, passage: Passage, voices: list[tuple[Address, Voice]], threshold: int
) -> Json:
    """How many operators have attested a passage as it is, and who."""
    said = Voice(passage.to, passage.amount)
    agree = [who(genesis, operator) for operator, voice in voices if voice == said]
    others = [who(genesis, operator) for operator, voice in voices if voice != said]
    return {
        "attestations": len(agree),
        "threshold": threshold,
        "attested_by": agree,
        "attested_otherwise": others,
    }


def _more(voices: Json) -> str:
    """``1 more attestation (1 of 2)``."""
    have, need = voices["attestations"], voices["threshold"]
    left = max(0, need - have)
    if left == 0:
        return f"money to pay it with: {have} of {need} attestations are there"
    return f"{left} more attestation{'' if left == 1 else 's'} ({have} of {need} are there)"


def deposit_json(state: CommitteeState, passage: Passage) -> Json:
    """A deposit of a final L1 block."""
    lane = state.deposits
    voices = voices_json(
        state.l1.genesis, passage, state.deposit_voices(passage.index), state.params.threshold
    )
    payment, other = lane.payment_of(passage), lane.payments.get(passage.index)
    status, waits_for, act = "final", f"{_more(voices)} on the side chain", OPERATORS
    if payment is not None:
        status = "credited"
        waits_for = act = ""
    elif other is not None:
        waits_for, act = "nothing: its index was credited otherwise", ""
    return {
        "id": to_json(passage.at.tx_id),
        "index": passage.index,
        "status": status,
        "credited_by": "finalized" if payment is not None else None,
        "amount": passage.amount,
        "depositor": to_json(passage.sender),
        "to": to_json(passage.to),
        "l1": on_l1(passage.at),
        "l2": None if payment is None else on_l1(payment.at),
        **voices,
        "refund": None,
        "waits_for": waits_for,
        "may_act": act,
        "deadline": None,
        **_NO_WAIT,
    }


def withdrawal_json(state: CommitteeState, passage: Passage) -> Json:
    """A withdrawal of a final side chain block."""
    lane = state.withdrawals
    voices = voices_json(
        state.l1.genesis, passage, state.withdrawal_voices(passage.index), state.params.threshold
    )
    payment, other = lane.payment_of(passage), lane.payments.get(passage.index)
    if payment is not None:
        progress = progress_json(CLAIMED)
    elif other is not None:
        progress = progress_json(
            REVERTED, reason=f"its index was paid otherwise: {other.amount} gwei to another"
        )
    else:
        progress = progress_json(WAITING, f"{_more(voices)} on L1", OPERATORS)
    claim = None
    if payment is not None:
        claim = {"recipient": to_json(payment.to), "amount": payment.amount, **on_l1(payment.at)}
    return {
        "id": to_json(passage.at.tx_id),
        "ordinal": passage.index - lane.by_tx[passage.at.tx_id],
        "index": passage.index,
        **progress,
        "amount": passage.amount,
        "sender": to_json(passage.sender),
        "recipient": to_json(passage.to),
        "l2_height": passage.at.height,
        **voices,
        "claim": claim,
    }


def progress_json(status: str, waits_for: str = "", act: str = "", reason: str = "") -> Json:
    return {"status": status, "waits_for": waits_for, "may_act": act, "reason": reason, **_NO_WAIT}


# --- what is not final yet ---


def _nobody(threshold: int) -> Json:
    return {"attestations": 0, "threshold": threshold, "attested_by": [], "attested_otherwise": []}


def early_deposit_json(tx_id: Bytes32, about: Tracked, progress: Json, threshold: int) -> Json:
    """A deposit that is in no final L1 block here."""
    return {
        "id": to_json(tx_id),
        "index": None,
        "credited_by": None,
        "amount": about.amount,
        "depositor": to_json(about.sender),
        "to": to_json(about.to),
        "l2": None,
        **_nobody(threshold),
        "refund": None,
        "deadline": None,
        **_NO_WAIT,
        **progress,
    }


def early_withdrawal_json(tx_id: Bytes32, about: Tracked, told: Told | None, threshold: int) -> Json:
    """A withdrawal that is in no final side chain block here, by a node's word."""
    act = "the side chain's validators"
    if told is not None and told.failed:
        progress = failed_withdrawal(told.code, told.message)
    elif told is not None and told.height is not None:
        progress = progress_json(WAITING, "its side chain block to become final", act)
    else:
        progress = progress_json(WAITING, "a side chain block", act)
    return withdrawal_shape(tx_id, about, progress, None if told is None else told.height, threshold)


def failed_withdrawal(code: str, message: str) -> Json:
    return progress_json(REVERTED, reason=f"it failed on the side chain: {message or code} ({code})")


def withdrawal_shape(
    tx_id: Bytes32, about: Tracked, progress: Json, height: int | None, threshold: int
) -> Json:
    """As `withdrawal_json`, of one that has no index."""
    shown: dict[str, Any] = {
        "id": to_json(tx_id),
        "ordinal": 0,
        "index": None,
        **progress,
        "amount": about.amount,
        "sender": to_json(about.sender),
        "recipient": to_json(about.to),
        "l2_height": height,
        **_nobody(threshold),
        "claim": None,
    }
    return shown
