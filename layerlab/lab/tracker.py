"""When transactions are included and when they are final, seen from outside, by whoever reads the blocks.

Responsible for the instants. Must not know what the transactions do.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from chainkit.client import ChainClient, suppress_unreachable
from chainkit.codec import parse_hex
from chainkit.transaction import SignedTransaction

POLL_SECONDS: Final = 0.04
FINAL_POLL_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 0.2
PAGE: Final = 50
BULK: Final = 200

Stage = Literal["soft", "final"]


class NotIncludedError(Exception):
    """Transactions have not come into the chain in time; the message says how many."""


@dataclass
class Tracker:
    """Sends transactions to a chain and notes when each is first seen in a block and in a final one.

    ``now`` gives the instants, in seconds: a devnet's own clock, so that a time that runs fast changes nothing.
    ``judge`` is whom to ask what is final (on a rollup, a verifier); ``client`` itself if not given.
    """

    client: ChainClient
    now: Callable[[], float]
    judge: ChainClient | None = None
    sent: dict[bytes, float] = field(default_factory=dict)
    soft: dict[bytes, float] = field(default_factory=dict)
    final: dict[bytes, float] = field(default_factory=dict)
    refused: dict[bytes, str] = field(default_factory=dict)
    _seen: int = 0
    _final_seen: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._seen = await self.client.height("head")
        self._final_seen = await self._judge.height("finalized")
        self._tasks = [
            asyncio.create_task(self._watch(self._look_at_head, POLL_SECONDS)),
            asyncio.create_task(self._watch(self._look_at_final, FINAL_POLL_SECONDS)),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def _judge(self) -> ChainClient:
        return self.judge or self.client

    def forget(self) -> None:
        """Start counting anew: what was sent so far is none of the figures."""
        for record in (self.sent, self.soft, self.final, self.refused):
            record.clear()

    async def send(self, transactions: Sequence[SignedTransaction], patience: float = 0.0) -> None:
        """Submit in bulk; one that is refused is in ``refused`` and is waited for by nobody.

        For ``patience`` seconds what is refused for lack of funds is sent again: a chain may count only those
        that are final. The instant of sending is that at which it was accepted.
        """
        deadline, left = time.monotonic() + patience, list(transactions)
        while left := await self._submit(left):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(RETRY_SECONDS)

    async def _submit(self, transactions: Sequence[SignedTransaction]) -> list[SignedTransaction]:
        """Those that may be accepted later."""
        later = []
        for start in range(0, len(transactions), BULK):
            chunk = transactions[start : start + BULK]
            instant = self.now()
            self.sent.update((tx.id, instant) for tx in chunk)
            for tx, answer in zip(chunk, await self.client.submit_many(chunk), strict=True):
                self.refused.pop(tx.id, None)
                if not answer.accepted:
                    del self.sent[tx.id]
                    self.refused[tx.id] = answer.code
                    if answer.code == "insufficient_balance":
                        later.append(tx)
        return later

    async def wait(self, ids: Iterable[bytes], stage: Stage, seconds: float) -> None:
        """Return when all of these that were accepted are included, or final. Raises `NotIncludedError`."""
        known = self.soft if stage == "soft" else self.final
        left = {tx_id for tx_id in ids if tx_id in self.sent}
        try:
            async with asyncio.timeout(seconds):
                while left := {tx_id for tx_id in left if tx_id not in known}:
                    for task in self._tasks:
                        if task.done():
                            task.result()
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            what = "included" if stage == "soft" else "final"
            raise NotIncludedError(f"{len(left)} transactions are not {what} after {seconds:g} s") from None

    async def _watch(self, look: Callable[[], Awaitable[None]], every: float) -> None:
        while True:
            with suppress_unreachable():
                await look()
            await asyncio.sleep(every)

    async def _look_at_head(self) -> None:
        goal = await self.client.height("head")
        self._seen = await self._read(self.client, self._seen, goal, self.soft)

    async def _look_at_final(self) -> None:
        """Final blocks are read for themselves: those above may have changed since they were seen."""
        goal = await self._judge.height("finalized")
        self._final_seen = await self._read(self._judge, self._final_seen, goal, self.final)
        for tx_id, instant in self.final.items():
            self.soft.setdefault(tx_id, instant)

    async def _read(self, client: ChainClient, seen: int, goal: int, known: dict[bytes, float]) -> int:
        """Note what the blocks above ``seen`` up to ``goal`` hold; the last height read."""
        while seen < goal:
            blocks = [b for b in await client.blocks(seen + 1, PAGE) if b["height"] <= goal]
            if not blocks:
                break
            instant = self.now()
            for block in blocks:
                seen = max(seen, block["height"])
                for tx_id in map(parse_hex, block["transactions"]):
                    if tx_id in self.sent:
                        known.setdefault(tx_id, instant)
        return seen

    def latencies(self, stage: Stage) -> list[float]:
        """Seconds from sending to being included, or final; of those that are."""
        known = self.soft if stage == "soft" else self.final
        return sorted(instant - self.sent[tx_id] for tx_id, instant in known.items())


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile of sorted values; None if there are none."""
    if not values:
        return None
    return values[max(0, -(-len(values) * percent // 100) - 1)]
