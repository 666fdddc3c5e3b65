"""The JSON shapes of the bridge as a whole: books, invariant, heads, and the emergency way out.

Responsible for ``GET /bridge`` and ``GET /exits/{address}``. Must not know of HTTP, nor change anything.
Amounts in gwei, windows in L1 blocks.
"""

from bridge import abi
from bridge.follow import BridgeState
from bridge.views_batches import Json, batch_json, paid_json, seconds, who
from chainkit.codec import Address, to_json
from chainkit.state import State, account_key
from chainkit.views import account_name
from rollup.derived import DerivedBatch


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
        "kind": "optimistic",
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
