"""Steps 1 to 4: deposit, transfer, batch, withdraw.

Responsible for telling and checking them. Must not know of dishonesty.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from bridge.abi import ClaimArgs, DepositArgs
from chainkit.client import ApiError, ReceiptInfo
from chainkit.codec import encode, from_json, parse_hex
from chainkit.fees import transfer_gas
from chainkit.hashing import tagged_hash
from chainkit.keys import KeyPair, dev_keypair
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from layerlab.cli.amounts import show_amount
from layerlab.config import COIN
from layerlab.demo.stage import Stage, require
from rollup.messenger import WithdrawArgs
from rollup.receipt import SequencerReceipt

ACCOUNTS = 50
TRANSFERS = 500
WITHDRAWN = 30 * COIN
ACTORS = ("bob", "carol", "erin", "mallory")
POCKET = 50 * COIN
"""What each of them has at least on L2: a story told many times must not make them poor."""


async def deposit(stage: Stage) -> dict[str, Any]:
    """Alice deposits on L1; L2 credits her only once the deposit's block is final."""
    alice = dev_keypair("alice")
    amount = min(1_000 * COIN, await stage.balance(stage.l1, "alice") // 4)
    before = await stage.balance(stage.l2, "alice")
    call = Call("bridge", "deposit", encode(DepositArgs(alice.address)), amount)
    tx = await stage.sign(stage.l1, alice, call)
    await stage.l1.submit(tx)
    included = await stage.l1.wait_for_receipt(tx.id, "head", 30)
    require(bool(included.success) and included.height is not None, f"the deposit failed: {included.message}")
    early = await stage.balance(stage.l2, "alice")
    final_then = await stage.height(stage.l1)
    require(early == before or final_then >= (included.height or 0), "credited before the deposit was final")

    async def credited() -> int | None:
        # What L1 says is final is read after L2's balance: it can only be later.
        balance = await stage.balance(stage.l2, "alice")
        final = await stage.height(stage.l1)
        if balance == before:
            return None
        require(final >= (included.height or 0), "credited before the deposit's block was final")
        return balance

    balance = await stage.until("the deposit's block becomes final, then L2 credits alice", credited)
    require(balance - before == amount, f"credited {balance - before} gwei, deposited {amount}")
    shown = await stage.until(
        "the bridge knows the deposit", lambda: stage.bridge_get(f"/deposits/0x{tx.id.hex()}")
    )
    return {
        "told": f"{show_amount(amount)} escrowed in L1 block {included.height}, credited on L2 once it was final",
        "deposit": "0x" + tx.id.hex(),
        "l1_height": included.height,
        "l1_final_at_credit": await stage.height(stage.l1),
        "amount": amount,
        "l2_balance": balance,
        "bridge_status": shown["status"],
    }


async def transfers(stage: Stage) -> dict[str, Any]:
    """500 signed transfers among 50 accounts; every sender holds the sequencer's signed receipt."""
    alice = dev_keypair("alice")
    nonce = (await stage.l2.account(alice.address)).pending_nonce
    told_before = stage.seed.to_bytes(8, "big") + nonce.to_bytes(8, "big")  # new accounts at each telling
    keys = [KeyPair(tagged_hash("demo-account", told_before + bytes([i]))) for i in range(ACCOUNTS)]
    status = await stage.l2.status()
    chain_id, fees = status["chain_id"], status["fees"]
    gas_limit = transfer_gas(16)

    def pay(key: KeyPair, nonce: int, to: bytes, amount: int) -> SignedTransaction:
        max_fee = 4 * fees["max_fee_per_gas"]
        body = Body(
            chain_id, key.address, nonce, gas_limit, max_fee, fees["tip_per_gas"], Transfer(to, amount)
        )
        return SignedTransaction.sign(body, key)

    poor = [name for name in ACTORS if await stage.balance(stage.l2, name) < POCKET]
    due = [(key.address, 2 * COIN) for key in keys] + [(dev_keypair(name).address, POCKET) for name in poor]
    funding = [pay(alice, nonce + i, to, amount) for i, (to, amount) in enumerate(due)]
    await _submit(stage, funding)
    await stage.l2.wait_for_receipt(funding[-1].id, "head", 30)
    count = TRANSFERS // ACCOUNTS
    batch = [
        pay(key, n, keys[(i + 1 + n) % ACCOUNTS].address, (1 + n) * 1_000)
        for n in range(count)
        for i, key in enumerate(keys)
    ]
    stage.say(f"{len(batch)} signed transfers among {ACCOUNTS} accounts")
    await _submit(stage, batch)
    receipts = await _receipts(stage, batch)
    sequencer = stage.settings.sequencer
    for tx in batch:
        promise, success = receipts[tx.id]
        signed = promise.valid() and promise.tx_id == tx.id and promise.sequencer == sequencer
        require(signed and success, f"transfer 0x{tx.id.hex()} has no good receipt")
    stage.notes["last_transfer"] = batch[-1].id
    heights = sorted({receipts[tx.id][0].height for tx in batch})
    return {
        "told": f"{len(batch)} transfers in L2 blocks {heights[0]} to {heights[-1]}, {len(receipts)} receipts verified",
        "transfers": len(batch),
        "accounts": ACCOUNTS,
        "receipts": len(receipts),
        "l2_blocks": [heights[0], heights[-1]],
        "last": "0x" + batch[-1].id.hex(),
    }


async def _submit(stage: Stage, transactions: list[SignedTransaction]) -> None:
    for result in await stage.l2.submit_many(transactions):
        require(result.accepted, f"refused: {result.message}")


async def _receipts(
    stage: Stage, transactions: list[SignedTransaction]
) -> dict[bytes, tuple[SequencerReceipt, bool]]:
    """The sequencer's receipt of each, and whether the transaction succeeded."""
    found: dict[bytes, tuple[SequencerReceipt, bool]] = {}
    gate = asyncio.Semaphore(8)

    async def fetch(tx: SignedTransaction) -> None:
        async with gate:
            info = await stage.l2.wait_for_receipt(tx.id, "head", 30)
        promise = from_json(SequencerReceipt, info.answer["sequencer_receipt"])
        found[tx.id] = (promise, bool(info.success))
        if len(found) % 50 == 0:
            stage.say(f"{len(found)} of {len(transactions)} receipts")

    await asyncio.gather(*(fetch(tx) for tx in transactions))
    return found


async def batch_on_l1(stage: Stage) -> dict[str, Any]:
    """The batch is on L1, the verifier derived the same root from L1 alone, heads move on."""
    last = stage.notes["last_transfer"]
    info = await stage.l2.transaction(last)
    assert info is not None
    assert info.height is not None
    height = info.height
    seen = {"unsafe": await stage.height(stage.l2, "head")}

    async def safe() -> int | None:
        reached = await stage.height(stage.verifier, "safe")
        return reached if reached >= height else None

    seen["safe"] = await stage.until(
        f"a batch with L2 block {height} is on L1 and derived by the verifier", safe
    )
    batch = await _batch_of(stage, height)
    record = await stage.bridge.get(f"/batches/{batch['index']}")
    require(
        batch["matches"] and batch["computed_root"] == record["state_root"],
        "the verifier derived another root",
    )

    async def finalized() -> int | None:
        reached = await stage.height(stage.verifier, "finalized")
        return reached if reached >= height else None

    window = stage.settings.challenge_window
    seen["finalized"] = await stage.fast_until(
        f"the challenge window of {window} L1 blocks passes, then the batch is final", finalized
    )
    block = await stage.l2.block(height)
    return {
        "told": f"batch {batch['index']} ({batch['steps']} steps): L1's claim and the verifier's own root are "
        f"{batch['computed_root'][:14]}…",
        "batch": batch["index"],
        "steps": batch["steps"],
        "claimed_root": record["state_root"],
        "verifier_root": batch["computed_root"],
        "heads": seen,
        "l2_block": block["hash"],
    }


async def _batch_of(stage: Stage, height: int) -> dict[str, Any]:
    """The batch that holds an L2 block, as the verifier derived it."""
    for batch in reversed((await stage.verifier.get("/batches", {"limit": 100}))["batches"]):
        inside = batch["first_block"] <= height < batch["first_block"] + batch["blocks"]
        if inside and batch["status"] != "reverted":
            return dict(batch)
    require(False, f"the verifier knows no batch with L2 block {height}")
    raise AssertionError


async def withdraw(stage: Stage) -> dict[str, Any]:
    """Bob withdraws: too early is refused, then it is paid, twice is refused."""
    bob = dev_keypair("bob")
    call = Call("messenger", "withdraw", encode(WithdrawArgs(bob.address)), WITHDRAWN)
    sent = await stage.send(stage.l2, "bob", call, at="head")
    require(bool(sent.success), f"the withdrawal failed on L2: {sent.message}")
    path = f"/withdrawals/0x{sent.hash.hex()}"

    async def status(*wanted: str) -> Any:
        shown = await stage.bridge_get(path)
        return shown if shown is not None and shown["status"] in wanted else None

    shown = await stage.until(
        "the batch with bob's withdrawal lands on L1", lambda: status("in-challenge-window")
    )
    early = await _refused_claim(stage, path)
    require(early["code"] == "challenge_window_open", f"an early claim was answered {early}")
    left = shown["blocks_left"]
    require(
        left > 0 and str(early["blocks_left"]) in early["detail"],
        "the refusal does not say how many blocks are left",
    )
    shown = await stage.fast_until(
        f"the challenge window: {left} L1 blocks left", lambda: status("ready-to-claim")
    )
    before = await stage.balance(stage.l1, "bob", "finalized")
    answer = await stage.bridge.post(path + "/claim", {"from": "alice"})  # anyone may; the money is bob's
    claim = await stage.l1.wait_for_receipt(parse_hex(answer["hash"]), "finalized", 30)
    require(bool(claim.success), f"the claim failed: {claim.message}")
    paid = await stage.balance(stage.l1, "bob", "finalized") - before
    require(paid == WITHDRAWN, f"paid {paid} gwei, withdrawn {WITHDRAWN}")
    await stage.until("the bridge sees the claim", lambda: status("claimed"))
    again = await _claim_on_l1(stage, claim.answer)
    require(again.code == "already_claimed", f"a second claim on L1 was answered {again.code!r}")
    second = await _refused_claim(stage, path)
    require(second["code"] == "already_claimed", f"a second claim was answered {second}")
    return {
        "told": f'{show_amount(paid)} paid; before: "{early["detail"]}"; again: "{again.message}"',
        "withdrawal": "0x" + sent.hash.hex(),
        "amount": WITHDRAWN,
        "early_claim": early["detail"],
        "claim": answer["hash"],
        "paid": paid,
        "second_claim": again.message,
    }


async def _refused_claim(stage: Stage, path: str) -> dict[str, Any]:
    """Try to claim through the bridge; the problem that refused it."""
    try:
        await stage.bridge.post(path + "/claim", {"from": "alice"})
    except ApiError as error:
        return {"code": error.code, "detail": error.detail, **error.problem}
    require(False, "a claim that must be refused was taken")
    raise AssertionError


async def _claim_on_l1(stage: Stage, first: Mapping[str, Any]) -> ReceiptInfo:
    """Send the very same claim to the contract again, past the bridge service."""
    action = first["transaction"]["action"]
    args = encode(from_json(ClaimArgs, action["args"]))
    return await stage.send(stage.l1, "carol", Call("bridge", "claim", args, 0))
