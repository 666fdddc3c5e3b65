"""Two thirds of the stake turn: the same coins spent twice, and what it costs. Against it, the sequencer's try."""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random

from chainkit.block import MAX_BLOCK_BYTES, CertifiedBlock
from chainkit.chain import Chain
from chainkit.client import ChainClient
from chainkit.codec import decode, encode, from_json
from chainkit.follower import FollowerCore, FollowError
from chainkit.state import State
from chainkit.transaction import Call, SignedTransaction, Transfer
from l1node.evidence import Evidence
from l1node.staking import ReportArgs
from layerlab.amounts import Gwei, show_amount
from layerlab.config import COIN, DevnetConfig
from layerlab.lab.experiment import Outcome, Seen
from layerlab.lab.experiments.common import until_final, usual
from layerlab.lab.forgery import find_evidence, forge
from layerlab.models import MODELS
from layerlab.world import STEP_SECONDS, World, require
from rollup.receipt import SequencerReceipt

AMOUNT = 50 * COIN
OWN_CHAINS = ("sovereign", "sidechain")
"""Models with validators of their own; a side chain has four."""
VALIDATORS = 4
TURNED = 3
PAGE = 64
BUYER, MERCHANT, EXCHANGE, REPORTER = "alice", "bob", "carol", "judy"


class DoubleSpend:
    """Two payees, each shown a history of its own. Whoever orders the transactions wants both to be content."""

    name = "double-spend"
    question = (
        "Those who order transactions show two payees two histories. Do both take the same coins for theirs?"
    )
    hypothesis: Mapping[str, str] = {
        **dict.fromkeys(
            OWN_CHAINS,
            f"{TURNED} of {VALIDATORS} stakes make a second history final and pay two with the same coins; "
            "evidence slashes every stake that turned",
        ),
        "optimistic": "the sequencer can break its receipts, but L1 holds one history: "
        "whoever waits for it is not cheated",
    }
    control: Mapping[str, str] = {
        **dict.fromkeys(OWN_CHAINS, "a single stake turns, less than a quorum"),
        "optimistic": "the payee trusts the sequencer's receipt and does not wait for L1",
    }

    def config(self, model: str, control: bool) -> DevnetConfig:
        return usual(model, validators=1 if MODELS[model].bridged else VALIDATORS)

    async def run(self, world: World, control: bool) -> Seen:
        if world.devnet.config.model in OWN_CHAINS:
            return await _stake_turns(world, control)
        return await _sequencer_turns(world, control)


# --- two thirds of the stake ---


class Observer:
    """A node that believes certificates and nothing else, as a merchant, an exchange or a bridge runs one."""

    def __init__(self, chain: Chain) -> None:
        self.core = FollowerCore(chain, chain.genesis_block)

    async def follow(self, client: ChainClient) -> list[CertifiedBlock]:
        """Take in and return what this node has to show above what is final here."""
        taken: list[CertifiedBlock] = []
        while True:
            asked = {"from": self.core.tip.header.height + 1, "limit": PAGE}
            data = await client.get_bytes("/certified-blocks", asked)
            blocks = decode(list[CertifiedBlock], data, limit=4 * MAX_BLOCK_BYTES)
            taken += blocks
            if not self.core.add(blocks) or len(blocks) < PAGE:
                return taken

    def balance(self, name: str) -> int:
        """What is final, as far as this one knows (gwei)."""
        return State(self.core.tip.tree).account(World.key(name).address).balance


async def _stake_turns(world: World, control: bool) -> Seen:
    names = Random(world.seed).sample(world.devnet.config.app_validators, 1 if control else TURNED)
    chain, turned = Chain(world.devnet.l2_genesis() or world.genesis), [world.key(name) for name in names]
    merchant, exchange = Observer(chain), Observer(chain)

    async def begun() -> bool:
        return await world.height(world.app) >= 2

    await world.until("the chain has final blocks", begun)
    await exchange.follow(world.app)
    fork = exchange.core.tip
    before = {name: exchange.balance(name) for name in (MERCHANT, EXCHANGE)}
    begin = world.now()
    first = await _payment(world, world.app, MERCHANT)
    second = await _payment(world, world.app, EXCHANGE, first.body.nonce)
    await world.app.submit(first)
    await world.app.wait_for_receipt(first.id, "finalized", STEP_SECONDS)
    history = await merchant.follow(world.app)

    world.say(
        f"{len(turned)} of {VALIDATORS} validators sign another history from block {fork.header.height} on"
    )
    forged = forge(chain, fork, turned, [second])
    refusal = ""
    try:
        exchange.core.add(forged)
    except FollowError as error:
        refusal = str(error)
    seconds = round(world.now() - begin, 1)
    got = {
        MERCHANT: merchant.balance(MERCHANT) - before[MERCHANT],
        EXCHANGE: exchange.balance(EXCHANGE) - before[EXCHANGE],
    }
    evidence = await _evidence(world, merchant, history, forged, len(turned))
    slashed = await _report(world, evidence)
    real = await world.balance(world.app, EXCHANGE, "finalized") - before[EXCHANGE]
    twice = got == {MERCHANT: AMOUNT, EXCHANGE: AMOUNT} and not real
    stake = len(turned) * world.devnet.config.stake
    measured = {
        "spent": Gwei(AMOUNT),
        "paid": Gwei(sum(got.values())),
        "stake_turned": Gwei(stake),
        "stake_slashed": Gwei(slashed),
    }
    outcome = Outcome(0 if twice else 100, seconds if twice else None, "nobody can be", slashed)
    told = (
        f"both payees hold {show_amount(AMOUNT)} for final; the second has nothing on the chain that goes on"
        if twice
        else f"the second payee refuses: {refusal}"
    )
    told += f"; evidence slashes {show_amount(slashed)} of {show_amount(stake)} of stake"
    return Seen(twice and slashed == stake, told, outcome, measured)


async def _payment(world: World, client: ChainClient, to: str, nonce: int | None = None) -> SignedTransaction:
    return await world.sign(client, world.key(BUYER), Transfer(world.key(to).address, AMOUNT), nonce=nonce)


async def _evidence(
    world: World,
    merchant: Observer,
    history: list[CertifiedBlock],
    forged: Sequence[CertifiedBlock],
    culprits: int,
) -> list[Evidence]:
    """An offence of each; a certificate need not hold every vote, so further blocks may have to come."""
    ours = [block.certificate for block in forged]

    async def enough() -> list[Evidence] | None:
        history.extend(await merchant.follow(world.app))
        found = find_evidence(
            merchant.core.chain.rules.chain_id, ours, [block.certificate for block in history]
        )
        return list(found.values()) if len(found) == culprits else None

    return await world.until("both histories are held against each other", enough)


async def _report(world: World, cases: Sequence[Evidence]) -> int:
    """What the evidence takes from those who signed (gwei)."""
    world.say(f"{REPORTER} reports {len(cases)} offences to the chain")
    key, slashed = world.key(REPORTER), 0
    nonce = (await world.app.account(key.address)).pending_nonce
    calls = [Call("staking", "report", encode(ReportArgs(case)), 0) for case in cases]
    sent = [await world.sign(world.app, key, call, nonce=nonce + i) for i, call in enumerate(calls)]
    for answer in await world.app.submit_many(sent):
        require(answer.accepted, f"a report is refused: {answer.message}")
    for tx in sent:
        info = await world.app.wait_for_receipt(tx.id, "finalized", STEP_SECONDS)
        require(bool(info.success), f"a report failed: {info.message}")
        events = info.answer["receipt"]["events"]
        slashed += sum(event["data"]["amount"] for event in events if event["name"] == "ValidatorSlashed")
    return slashed


# --- the sequencer ---


async def _sequencer_turns(world: World, control: bool) -> Seen:
    """It orders a payment, gives its receipt, forgets it, and orders another one with the same coins."""
    await world.fault("sequencer", name="withhold")
    before = {name: await world.balance(world.verifier, name, "finalized") for name in (MERCHANT, EXCHANGE)}
    first = await _payment(world, world.l2, MERCHANT)
    second = await _payment(world, world.l2, EXCHANGE, first.body.nonce)
    begin = world.now()
    promises = [await _promise(world, first)]
    world.say("the sequencer forgets the block of its receipt, and makes another")
    await asyncio.to_thread(world.devnet.kill, "sequencer")
    await asyncio.to_thread(world.devnet.delete_data, "sequencer")
    await asyncio.to_thread(world.devnet.restart, "sequencer")
    promises.append(await _promise(world, second))
    await until_final(world, promises[1].height)
    got = {name: await world.balance(world.verifier, name, "finalized") - had for name, had in before.items()}
    believed = dict.fromkeys(got, AMOUNT) if control else got
    cheated = [name for name, amount in believed.items() if amount > got[name]]
    held = not cheated and sum(got.values()) == AMOUNT
    seconds = round(world.now() - begin, 1)
    outcome = Outcome(100 if held else 0, seconds, "whoever is paid, until the batch is final on L1")
    measured = {"spent": Gwei(AMOUNT), "paid": Gwei(sum(got.values())), "receipts_signed": len(promises)}
    told = f"the sequencer signed two receipts for nonce {first.body.nonce}; L1 made one payment final"
    told += (
        f"; {MERCHANT} believed a receipt and has nothing"
        if cheated
        else f"; {MERCHANT} waited and gave nothing away"
    )
    return Seen(held, told, outcome, measured)


async def _promise(world: World, tx: SignedTransaction) -> SequencerReceipt:
    """The sequencer's signed receipt."""
    await world.l2.submit(tx)
    info = await world.l2.wait_for_receipt(tx.id, "head", STEP_SECONDS)
    receipt = from_json(SequencerReceipt, info.answer["sequencer_receipt"])
    require(bool(info.success) and receipt.valid(), "the sequencer gives no valid receipt")
    return receipt
