"""When transactions are included and when they are final, seen from outside, by whoever reads the blocks.

Responsible for the instants. Must not know what the transactions do.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from chainkit.client import ApiError, ChainClient
from chainkit.codec import parse_hex
from chainkit.transaction import SignedTransaction

POLL_SECONDS: Final = 0.04
PAGE: Final = 50
BULK: Final = 200

Stage = Literal["soft", "final"]


class NotIncludedError(Exception):
    """Transactions have not come into the chain in time; the message says how many."""


@dataclass
class Tracker:
    """Sends transactions to a chain and notes when each is first seen in a block and in a final one.

    ``now`` gives the instants, in seconds: a devnet's own clock, so that a time that runs fast changes nothing.
    """

    client: ChainClient
    now: Callable[[], float]
    sent: dict[bytes, float] = field(default_factory=dict)
    soft: dict[bytes, float] = field(default_factory=dict)
    final: dict[bytes, float] = field(default_factory=dict)
    refused: dict[bytes, str] = field(default_factory=dict)
    _seen: int = 0
    _waiting: dict[bytes, int] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._seen = await self.client.height("head")
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()

    async def send(self, transactions: Sequence[SignedTransaction]) -> None:
        """Submit in bulk; one that is refused is in ``refused`` and is waited for by nobody."""
        for start in range(0, len(transactions), BULK):
            chunk = transactions[start : start + BULK]
            instant = self.now()
            self.sent.update((tx.id, instant) for tx in chunk)
            for tx, answer in zip(chunk, await self.client.submit_many(chunk), strict=True):
                if not answer.accepted:
                    del self.sent[tx.id]
                    self.refused[tx.id] = answer.code

    async def wait(self, ids: Iterable[bytes], stage: Stage, seconds: float) -> None:
        """Return when all of these that were accepted are included, or final. Raises `NotIncludedError`."""
        known = self.soft if stage == "soft" else self.final
        left = {tx_id for tx_id in ids if tx_id in self.sent}
        try:
            async with asyncio.timeout(seconds):
                while left := {tx_id for tx_id in left if tx_id not in known}:
                    assert self._task is not None
                    if self._task.done():
                        self._task.result()
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            what = "included" if stage == "soft" else "final"
            raise NotIncludedError(f"{len(left)} transactions are not {what} after {seconds:g} s") from None

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
            except ApiError as error:
                if error.code != "unreachable":
                    raise
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> None:
        heads = (await self.client.status())["heads"]
        while self._seen < heads["head"]["height"]:
            for block in await self.client.blocks(self._seen + 1, PAGE):
                self._seen = block["height"]
                for text in block["transactions"]:
                    tx_id = parse_hex(text)
                    if tx_id in self.sent and tx_id not in self.soft:
                        self.soft[tx_id] = self.now()
                        self._waiting[tx_id] = self._seen
        done = [tx_id for tx_id, height in self._waiting.items() if height <= heads["finalized"]["height"]]
        for tx_id in done:
            self.final[tx_id] = self.now()
            del self._waiting[tx_id]

    def latencies(self, stage: Stage) -> list[float]:
        """Seconds from sending to being included, or final; of those that are."""
        known = self.soft if stage == "soft" else self.final
        return sorted(instant - self.sent[tx_id] for tx_id, instant in known.items())


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile of sorted values; None if there are none."""
    if not values:
        return None
    return values[max(0, -(-len(values) * percent // 100) - 1)]
