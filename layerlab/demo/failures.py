"""Steps 8 to 10: crashes and slashing, the burned-down rollup, and the judge.

Responsible for telling and checking them. Must not know how a service recovers.
"""

import asyncio
from typing import Any

from chainkit.codec import encode, from_json
from chainkit.keys import dev_keypair
from chainkit.transaction import Transfer
from layerlab.cli.amounts import show_amount
from layerlab.demo.stage import Stage, StepSkipped, require
from layerlab.escape import L1Reader, escape
from layerlab.judge import Exhibit, judge
from rollup.receipt import SequencerReceipt

CRASHED, OFFENDER = "validator-1", "validator-2"
PROGRESS_BLOCKS = 6
RECEIPTS = 60


async def crashes(stage: Stage) -> dict[str, Any]:
    """A validator is killed and comes back, another is slashed, the sequencer keeps its word through SIGKILL."""
    told, facts = [], {}
    if not stage.containers:
        facts["crash"] = crash = await _validator_crash(stage)
        told.append(f"{CRASHED} was down for {crash['blocks_final_without_it']} final blocks and votes again")
    if await _is_seated(stage, OFFENDER):
        await stage.require_faults()
        facts["slashing"] = slashing = await _double_vote(stage)
        told.append(f"{OFFENDER} lost {show_amount(slashing['slashed'])} and its seat")
    else:
        told.append(f"{OFFENDER} lost its seat in an earlier telling")
    if not stage.containers:
        facts["sequencer_crash"] = kept = await _sequencer_crash(stage)
        told.append(
            f"{kept['receipts_kept']} of {kept['receipts_before']} receipts of a killed sequencer were kept"
        )
    else:  # nobody in a container can kill another
        told.append(f"SIGKILL is skipped; by hand: docker compose kill {CRASHED}, then docker compose up -d")
    return {"told": "; ".join(told), **facts}


async def _is_seated(stage: Stage, name: str) -> bool:
    address = "0x" + dev_keypair(name).address.hex()
    return any(item["address"] == address for item in (await stage.l1.get("/validators"))["set"])


async def _validator_crash(stage: Stage) -> dict[str, Any]:
    start = await stage.height(stage.l1)
    await asyncio.to_thread(stage.devnet.kill, CRASHED)
    await _finality_goes_on(stage, f"{CRASHED} was killed with SIGKILL; finality goes on without it")
    without = await stage.height(stage.l1) - start
    await asyncio.to_thread(stage.devnet.restart, CRASHED)
    address = "0x" + dev_keypair(CRASHED).address.hex()

    async def votes() -> int | None:
        block = await stage.l1.block("head")
        certificate = block["certificate"]
        voted = certificate and any(vote["voter"] == address for vote in certificate["votes"])
        return int(block["height"]) if voted else None

    voted_at = await stage.until(f"{CRASHED} is back, catches up, and votes again", votes)
    return {"validator": CRASHED, "blocks_final_without_it": without, "votes_again_at": voted_at}


async def _finality_goes_on(stage: Stage, what: str) -> None:
    start = await stage.height(stage.l1)

    async def moved() -> bool:
        return await stage.height(stage.l1) >= start + PROGRESS_BLOCKS

    await stage.until(what, moved)


async def _double_vote(stage: Stage) -> dict[str, Any]:
    address = "0x" + dev_keypair(OFFENDER).address.hex()
    since = await stage.last_event(stage.l1)
    start = await stage.height(stage.l1)
    await stage.fault(OFFENDER, name="double-vote")
    slashed = await stage.event(
        stage.l1,
        "ValidatorSlashed",
        since,
        f"{OFFENDER} votes twice in a slot; its evidence reaches L1",
        validator=address,
    )
    jailed = await stage.event(stage.l1, "ValidatorJailed", since, f"{OFFENDER} is jailed", validator=address)

    async def gone() -> dict[str, Any] | None:
        return None if await _is_seated(stage, OFFENDER) else dict(await stage.l1.get("/validators"))

    shown = await stage.fast_until(f"{OFFENDER} leaves the validator set when its era ends", gone, rate=3.0)
    await stage.honest(OFFENDER)
    await _finality_goes_on(stage, f"finality goes on with {len(shown['set'])} validators")
    return {
        "validator": OFFENDER,
        "kind": slashed.data["kind"],
        "slashed": slashed.data["amount"],
        "reporter": slashed.data["reporter"],
        "reward": slashed.data["reward"],
        "jailed_at": jailed.height,
        "left_in_era": shown["era"],
        "validators_left": len(shown["set"]),
        "blocks_final_meanwhile": await stage.height(stage.l1) - start,
    }


async def _sequencer_crash(stage: Stage) -> dict[str, Any]:
    """Kill the sequencer while it is busy; whatever has a receipt stands where it was promised."""
    erin, frank = dev_keypair("erin"), dev_keypair("frank")
    nonce = (await stage.l2.account(erin.address)).pending_nonce
    transactions = [
        await stage.sign(stage.l2, erin, Transfer(frank.address, 1_000 + i), nonce=nonce + i)
        for i in range(RECEIPTS)
    ]
    await stage.l2.submit_many(transactions)
    promises: list[SequencerReceipt] = []
    await stage.l2.wait_for_receipt(transactions[0].id, "head", 30)
    for tx in transactions:
        info = await stage.l2.transaction(tx.id)
        if info is not None and info.answer.get("sequencer_receipt"):
            promises.append(from_json(SequencerReceipt, info.answer["sequencer_receipt"]))
    await asyncio.to_thread(stage.devnet.kill, "sequencer")
    stage.say(f"the sequencer was killed with SIGKILL; {len(promises)} receipts are out")
    await asyncio.to_thread(stage.devnet.restart, "sequencer")
    for promise in promises:
        info = await stage.l2.transaction(promise.tx_id)
        require(info is not None, f"transaction 0x{promise.tx_id.hex()} had a receipt and is lost")
        assert info is not None
        place = (info.height, info.answer["position"])
        require(place == (promise.height, promise.position), f"promised {promise.height}, found at {place}")
    require(bool(promises), "no receipt was out when the sequencer was killed")
    return {"receipts_before": len(promises), "receipts_kept": len(promises)}


async def burn_down(stage: Stage) -> dict[str, Any]:
    """Every operator above L1 is killed and its data deleted; dave gets out with his key and L1 alone."""
    if not stage.own:
        raise StepSkipped(
            "skipped: it would end this devnet for good. By hand: stop sequencer, verifier and bridge, "
            "then layerlab exit --from dave; or see layerlab demo without --running"
        )
    dave = dev_keypair("dave")
    for name in ("sequencer", "verifier", "bridge"):
        await asyncio.to_thread(stage.devnet.kill, name)
        await asyncio.to_thread(stage.devnet.delete_data, name)
    stage.say("sequencer, verifier and bridge are killed, their data deleted")
    before = await stage.balance(stage.l1, "dave", "finalized")
    stage.set_rate(3.0)
    try:
        result = await escape(stage.devnet.config.l1_urls, stage.genesis, dave, stage.say)
    finally:
        stage.set_rate(1.0)
    after = await stage.balance(stage.l1, "dave", "finalized")
    fees = before + result.amount - after
    require(0 <= fees < 10**9, f"dave had {before}, exited with {result.amount}, has {after}")
    return {
        "told": f"dave froze the bridge and has his {show_amount(result.amount)} on L1, with his key and L1 alone",
        "account": "dave",
        "froze_the_bridge": result.froze,
        "amount": result.amount,
        "l1_before": before,
        "l1_after": after,
        "l1_fees": fees,
        "exit": "0x" + result.tx_id.hex(),
    }


async def verdict(stage: Stage) -> dict[str, Any]:
    """Promises P1 to P4, from L1 data, by code that is not the nodes'."""
    async with L1Reader(stage.devnet.config.l1_urls[::-1], stage.genesis, keep_blocks=True) as reader:
        await reader.catch_up(stage.say)
        stage.say(f"the judge reads {len(reader.blocks)} L1 blocks")
        exhibit = Exhibit(
            genesis=encode(stage.genesis),
            blocks=[
                (encode(b.block), encode(certificate), [encode(r) for r in b.receipts])
                for b, certificate in reader.blocks
            ],
            l1_state=dict(reader.tip.tree.items()),
            l2_state=dict(reader.derivation.finalized_batch.end.tree.items()),
        )
    found = await asyncio.to_thread(judge, exhibit)
    for name, promise in found.promises.items():
        require(promise["holds"], f"{name} does not hold: {promise}")
    told = f"{len(exhibit.blocks)} L1 blocks read, every quorum, root and receipt checked again"
    return {"told": told, "l1_blocks": len(exhibit.blocks), **found.promises}
