"""What must hold on a devnet whose services were killed, while it runs and at the end.

Responsible for comparing services with each other, with themselves before, and with what clients were promised.
Must not change anything.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import httpx

from chainkit.codec import encode
from chainkit.keys import dev_keypair
from crashes.load import Load
from crashes.stack import USERS, Stack
from crashes.streams import Stream
from crashes.tap import Broken, Tap
from layerlab.escape import L1Reader
from layerlab.judge import Exhibit, judge
from rollup.receipt import SequencerReceipt

WATCH: Final = 0.25
DIRE: Final = frozenset(
    {"ChainReverted", "BatchReverted", "BatchFlagged", "InvariantBroken", "ValidatorSlashed"}
)
"""Events that nobody honest gives rise to."""


class Watch:
    """Looks at all services all the time: what is final stays final, and nobody is ever accused."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.looks = 0
        self.furthest: Counter[str] = Counter()
        """The highest final height (of the bridge: batch) that was seen, by service."""
        self._final: dict[str, dict[int, str]] = {"L1": {}, "L2": {}}

    async def run(self) -> None:
        """Without end; raises `Broken`."""
        while True:
            await asyncio.gather(*(self.look(name) for name in self.stack.config.services))
            self.looks += 1
            await asyncio.sleep(WATCH)

    async def look(self, name: str) -> None:
        """One service. Raises `Broken`."""
        try:
            status = await self.stack.get(name, "/status")
        except httpx.HTTPError:
            return  # dead, or about to be
        if name == "bridge":
            if not status["invariant_holds"]:
                raise Broken("P1: the bridge's books do not add up")
            self._forward(name, int(status["l1_height"]))
            self._forward("bridge's final batch", int(status["final_batch"]))
            return
        final = status["heads"]["finalized"]
        if final is None:
            return
        self._forward(name, int(final["height"]))
        chain = "L1" if name in self.stack.config.validator_names else "L2"
        known = self._final[chain].setdefault(final["height"], final["hash"])
        if known != final["hash"]:
            raise Broken(
                f"P8: two final blocks at {chain} height {final['height']}: {known}, {final['hash']}"
            )

    def _forward(self, name: str, height: int) -> None:
        if height < self.furthest[name]:
            raise Broken(f"P8: finality of {name} went back from {self.furthest[name]} to {height}")
        self.furthest[name] = height

    async def nobody_accused(self, names: Iterable[str]) -> None:
        """No evidence, no stake gone. Raises `Broken`."""
        stake = self.stack.config.stake
        for name in names:
            with contextlib.suppress(httpx.HTTPError):
                evidence = await self.stack.get(name, "/evidence")
                if any(evidence[key] for key in evidence if isinstance(evidence[key], list)):
                    raise Broken(f"P7: {name} has evidence: {evidence}")
                for validator in (await self.stack.get(name, "/validators"))["validators"]:
                    if validator["stake"] < stake:
                        raise Broken(f"P7: a validator lost stake: {validator}")


async def honoured(stack: Stack, name: str, promises: Sequence[SequencerReceipt]) -> int:
    """Every transaction stands in the block and place that was promised. Raises `Broken`; returns how many."""
    blocks: dict[int, list[str]] = {}
    heights = sorted({promise.height for promise in promises})
    while heights:
        page = await stack.get(name, "/blocks", **{"from": heights[0], "limit": 50})
        for block in page["blocks"]:
            blocks[block["height"]] = block["transactions"]
        if not page["blocks"]:
            raise Broken(f"{name} has no block {heights[0]}, but a receipt was given for it")
        heights = [height for height in heights if height > page["blocks"][-1]["height"]]
    for promise in promises:
        order = blocks.get(promise.height, [])
        if order[promise.position : promise.position + 1] != ["0x" + promise.tx_id.hex()]:
            raise Broken(
                f"a receipt is broken: 0x{promise.tx_id.hex()} is not at {promise.height}/{promise.position} of {name}"
            )
    return len(promises)


# --- the end ---


async def settle(stack: Stack, load: Load, seconds: float) -> None:
    """Until every transaction with a receipt is final at the verifier, and every withdrawal paid. Raises `Broken`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    top = max((promise.height for promise in load.promises.values()), default=0)
    while True:
        with contextlib.suppress(httpx.HTTPError):
            final = (await stack.get("verifier", "/status"))["heads"]["finalized"]["height"]
            if final >= top and len(load.claimed) == len(load.withdrawals):
                return
        if loop.time() > deadline:
            left = len(load.withdrawals) - len(load.claimed)
            raise Broken(
                f"after {seconds:g} s L2 is final up to {final} of {top}, {left} withdrawals are unpaid"
            )
        await asyncio.sleep(0.2)


async def final_checks(stack: Stack, load: Load, tap: Tap, streams: dict[str, Stream]) -> dict[str, Any]:
    """Everything, once no more is sent and nobody is killed. Raises `Broken`; returns what was counted."""
    tap.check()
    counted: dict[str, Any] = {"receipts": 0, "events": 0}
    for name in ("sequencer", "verifier"):
        counted["receipts"] = await honoured(stack, name, list(load.promises.values()))
    for stream in streams.values():
        stream.check()
        await stream.compare(stack.http)
        counted["events"] += len(stream.events)
    _events(stack, load, streams)
    await _balances(stack, load)
    counted |= await _judge(stack)
    return counted


def _events(stack: Stack, load: Load, streams: dict[str, Stream]) -> None:
    """No event twice under two numbers; validators tell the same; each withdrawal is paid in one event."""
    for name, stream in streams.items():
        dire = [event for event in stream.events if event["name"] in DIRE]
        if dire:
            raise Broken(f"{name} tells of {dire[0]}")
        plain = Counter(_content(event) for event in stream.events if event["tx"] is not None)
        double = [content for content, count in plain.items() if count > 1]
        if double:
            raise Broken(f"{name} tells one event twice: {double[0][:300]}")
    told = {name: [_content(e) for e in streams[name].events] for name in stack.config.validator_names}
    least = min(map(len, told.values()))
    first, *others = told.items()
    for name, events in others:
        if events[:least] != first[1][:least]:
            raise Broken(f"{name} and {first[0]} tell different events of one chain")
    paid = Counter(e["data"]["index"] for e in streams["bridge"].events if e["name"] == "WithdrawalClaimed")
    if max(paid.values(), default=0) > 1 or len(paid) != len(load.withdrawals):
        raise Broken(f"P3: {len(load.withdrawals)} withdrawals, paid by index: {dict(paid)}")
    credited = Counter(
        e["data"]["index"] for e in streams["sequencer"].events if e["name"] == "DepositCredited"
    )
    if sorted(credited) != list(range(len(credited))) or max(credited.values(), default=0) > 1:
        raise Broken(f"P4: deposits credited, by index: {dict(credited)}")
    if len(credited) != load.done["deposits"]:
        raise Broken(f"P4: {load.done['deposits']} deposits are final on L1, {len(credited)} were credited")


def _content(event: dict[str, Any]) -> str:
    return str({key: value for key, value in event.items() if key != "seq"})


async def _balances(stack: Stack, load: Load) -> None:
    """What follows from the receipts is what sequencer and verifier say; L1 paid what was withdrawn."""
    for name in ("sequencer", "verifier"):
        for user in USERS:
            address = dev_keypair(user).address
            told = (await stack.get(name, f"/accounts/0x{address.hex()}"))["balance"]
            if told != load.l2[address]:
                raise Broken(f"P1: {user} has {told} gwei at the {name}, {load.l2[address]} by its receipts")
    for recipient, amount in load.owed.items():
        told = (await stack.get("validator-0", f"/accounts/0x{recipient.hex()}"))["balance"]
        if told != amount:
            raise Broken(f"P3: 0x{recipient.hex()} was paid {told} gwei on L1, {amount} were withdrawn")


async def _judge(stack: Stack) -> dict[str, Any]:
    """Promises P1 to P4 by `layerlab.judge`, from L1 data alone."""
    genesis = stack.devnet.genesis()
    async with L1Reader(stack.config.l1_urls, genesis, keep_blocks=True) as reader:
        await reader.catch_up(lambda _: None)
        exhibit = Exhibit(
            genesis=encode(genesis),
            blocks=[
                (encode(b.block), encode(certificate), [encode(r) for r in b.receipts])
                for b, certificate in reader.blocks
            ],
            l1_state=dict(reader.tip.tree.items()),
            l2_state=dict(reader.derivation.finalized_batch.end.tree.items()),
        )
    verdict = await asyncio.to_thread(judge, exhibit)
    for name, promise in verdict.promises.items():
        if not promise["holds"]:
            raise Broken(f"{name} does not hold: {promise}")
    return {"l1_blocks": len(exhibit.blocks), "promises": sorted(verdict.promises)}
