"""Steps 5 to 7: a theft is challenged, a frivolous challenge loses, a censored user forces her way.

Responsible for telling and checking them. Must not know how faults are played: the services play them.
"""

from typing import Any

from bridge.abi import ForceArgs
from chainkit.client import ApiError
from chainkit.codec import encode
from chainkit.keys import dev_keypair
from chainkit.transaction import Call, SignedTransaction, Transfer
from layerlab.cli.amounts import show_amount, show_coins
from layerlab.config import COIN
from layerlab.demo.stage import Stage, require
from rollup.messenger import WithdrawArgs

HONEST_TRANSFERS = 40


async def theft(stage: Stage) -> dict[str, Any]:
    """The sequencer hides a theft in a root; the verifier finds the step, proves it, and is paid."""
    await stage.require_faults()
    verifier, bridge = stage.verifier, stage.bridge
    since_v, since_b = await stage.last_event(verifier), await stage.last_event(bridge)
    mallory = dev_keypair("mallory")
    poor = await stage.balance(stage.l2, "mallory")
    await stage.fault("sequencer", name="steal", seed=stage.seed)
    honest = await _honest_transfers(stage, HONEST_TRANSFERS)

    async def rich() -> int | None:
        balance = await stage.balance(stage.l2, "mallory")
        return balance if balance > poor else None

    loot = await stage.until("the sequencer posts a batch whose root hides a theft", rich) - poor
    told = (await stage.faults("sequencer"))["told"][-1]
    stage.say(f"mallory's L2 balance grew by {show_amount(loot)}; she withdraws it")
    fees = 2 * COIN
    call = Call("messenger", "withdraw", encode(WithdrawArgs(mallory.address)), loot + poor - fees)
    thief = await stage.send(stage.l2, "mallory", call, at="head")
    require(bool(thief.success), f"the thief's withdrawal failed on the lying sequencer: {thief.message}")

    flagged = await stage.event(
        verifier, "BatchFlagged", since_v, "the verifier compares roots and flags the batch"
    )
    batch = flagged.data["batch"]
    challenged = await stage.event(
        bridge, "BatchChallenged", since_b, f"the verifier challenges batch {batch}", batch=batch
    )
    dispute = challenged.data["dispute"]
    proved = await stage.event(
        bridge, "StepProved", since_b, f"dispute {dispute}: both sides bisect to one step", dispute=dispute
    )
    require(
        proved.data["step"] == told["step"],
        f"proved step {proved.data['step']}, the lie was at {told['step']}",
    )
    resolved = await stage.event(bridge, "DisputeResolved", since_b, "the contract decides", dispute=dispute)
    require(resolved.data["winner"] == "challenger", f"the dispute was won by {resolved.data['winner']}")
    bond = stage.settings.proposer_bond
    require(
        resolved.data["paid"] + resolved.data["burned"] == bond, "the proposer's bond was not slashed in full"
    )
    require(resolved.data["paid"] > 0, "the challenger was not paid")
    await stage.event(bridge, "BatchReverted", since_b, "the batch is reverted", batch=batch)
    record = await stage.bridge.get(f"/batches/{batch}")
    require(record["status"] == "reverted", f"batch {batch} is {record['status']}")
    rounds = (await stage.bridge.get(f"/disputes/{dispute}"))["moves"]
    lost = await _thief_gets_nothing(stage, thief.hash)
    survived = await _all_safe(stage, honest)
    paid, burned = resolved.data["paid"], resolved.data["burned"]
    return {
        "told": f"batch {batch} hid a theft of {show_amount(loot)} at step {told['step']} of {told['steps']}; "
        f"{rounds} moves found it; bond of {show_amount(bond)}: {show_coins(paid)} to the challenger, "
        f"{show_coins(burned)} burned; all {survived} honest transactions stand in the next batch",
        "batch": batch,
        "steps": told["steps"],
        "lied_at_step": told["step"],
        "proved_step": proved.data["step"],
        "dispute": dispute,
        "moves": rounds,
        "loot": loot,
        "bond_slashed": bond,
        "challenger_paid": resolved.data["paid"],
        "burned": resolved.data["burned"],
        "thief_withdrawal": lost,
        "honest_transactions_in_next_batch": survived,
    }


async def _honest_transfers(stage: Stage, count: int) -> list[bytes]:
    """Transfers from bob to carol that must survive whatever the sequencer does."""
    bob, carol = dev_keypair("bob"), dev_keypair("carol")
    nonce = (await stage.l2.account(bob.address)).pending_nonce
    transactions = [
        await stage.sign(stage.l2, bob, Transfer(carol.address, 1_000 + i), nonce=nonce + i)
        for i in range(count)
    ]
    for result in await stage.l2.submit_many(transactions):
        require(result.accepted, f"refused: {result.message}")
    for tx in transactions:
        await stage.l2.wait_for_receipt(tx.id, "head", 30)
    return [tx.id for tx in transactions]


async def _thief_gets_nothing(stage: Stage, tx_id: bytes) -> str:
    """The thief's withdrawal cannot be claimed: the bridge says why, and refuses."""
    path = f"/withdrawals/0x{tx_id.hex()}"

    async def void() -> str | None:
        shown = await stage.bridge_get(path)
        status = "in no batch" if shown is None else str(shown["status"])
        return status if status in ("in no batch", "reverted", "failed") else None

    status = await stage.until("the thief's withdrawal is void", void)
    try:
        await stage.bridge.post(path + "/claim", {"from": "mallory"})
    except ApiError as error:
        return f"{status}: {error.detail}"
    require(False, "the thief's claim was taken")
    raise AssertionError


async def _all_safe(stage: Stage, ids: list[bytes]) -> int:
    """Every one of these stands, successful, in a true batch on L1."""

    async def safe() -> int | None:
        for tx_id in reversed(ids):
            info = await stage.verifier.transaction(tx_id)
            if info is None or info.status not in ("safe", "finalized") or not info.success:
                return None
        return len(ids)

    return await stage.until("the same transactions stand in the next honest batch", safe)


async def frivolous(stage: Stage) -> dict[str, Any]:
    """The verifier challenges an honest batch and loses its bond."""
    await stage.require_faults()
    bridge = stage.bridge
    since = await stage.last_event(bridge)
    await stage.fault("verifier", name="frivolous")
    try:
        await _honest_transfers(stage, 20)
        challenged = await stage.event(
            bridge, "BatchChallenged", since, "an honest batch is challenged frivolously"
        )
        dispute, batch = challenged.data["dispute"], challenged.data["batch"]
        resolved = await stage.fast_until(
            f"dispute {dispute}: the defender answers, the challenger has nothing to prove",
            lambda: stage.find_event(bridge, "DisputeResolved", since, dispute=dispute),
            rate=2.0,
        )
    finally:
        await stage.honest("verifier")
    require(resolved.data["winner"] == "defender", f"won by {resolved.data['winner']}")
    bond = stage.settings.challenger_bond
    require(
        resolved.data["paid"] + resolved.data["burned"] == bond, "the challenger's bond was not lost in full"
    )
    record = await stage.bridge.get(f"/batches/{batch}")
    require(record["status"] != "reverted", "an honest batch was reverted")
    return {
        "told": f"honest batch {batch} stands; the challenger lost its bond of {show_amount(bond)}",
        "batch": batch,
        "dispute": dispute,
        "bond_lost": bond,
        "paid_to_proposer": resolved.data["paid"],
        "burned": resolved.data["burned"],
        "reason": resolved.data["reason"],
        "batch_status": record["status"],
    }


async def censorship(stage: Stage) -> dict[str, Any]:
    """The sequencer ignores carol; through L1 she is executed by the deadline."""
    await stage.require_faults()
    carol, bob = dev_keypair("carol"), dev_keypair("bob")
    await stage.fault("sequencer", name="censor", address="carol")
    try:
        amount = 7 * COIN
        tx = await stage.sign(stage.l2, carol, Transfer(bob.address, amount))
        await stage.l2.submit(tx)
        await _honest_transfers(stage, 5)  # others go on
        info = await stage.l2.transaction(tx.id)
        require(info is not None and info.status == "pending", "carol was not censored")
        return await _force(stage, tx, amount)
    finally:
        await stage.honest("sequencer")


async def _force(stage: Stage, tx: SignedTransaction, amount: int) -> dict[str, Any]:
    stage.say("carol's transfer stays pending; she forces it through L1")
    forced = await stage.call_bridge("carol", "force", ForceArgs(tx.wire))
    require(bool(forced.success) and forced.height is not None, f"force failed: {forced.message}")
    deadline = (forced.height or 0) + stage.settings.inclusion_delay

    async def executed() -> Any:
        info = await stage.verifier.transaction(tx.id)
        return info if info is not None and info.status in ("safe", "finalized") else None

    info = await stage.until(f"it executes on L2 by L1 block {deadline}", executed)
    require(bool(info.success), f"the forced transaction failed: {info.message}")
    batches = (await stage.verifier.get("/batches", {"limit": 100}))["batches"]
    inside = [b for b in batches if b["first_block"] <= info.height < b["first_block"] + b["blocks"]]
    on_l1 = next(b["l1_height"] for b in reversed(inside) if b["status"] != "reverted")
    require(on_l1 <= deadline, f"it is on L1 at block {on_l1}, the deadline was {deadline}")
    return {
        "told": f"forced at L1 block {forced.height}, executed by block {on_l1}; the deadline was {deadline}",
        "transaction": "0x" + tx.id.hex(),
        "forced_at": forced.height,
        "deadline": deadline,
        "executed_at": on_l1,
        "l2_block": info.height,
        "amount": amount,
    }
