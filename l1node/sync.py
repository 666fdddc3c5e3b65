"""Catching up: asking peers, one after the other, for the blocks that consensus lacks.

Responsible for one request at a time, of bounded size, round robin, without haste after a failure. Must not
know what makes a block good: the engine checks each, whoever sent it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from chainkit.block import CertifiedBlock
from chainkit.client import UNREACHABLE
from chainkit.codec import CodecError, decode
from l1node.gossip import FIRST_PAUSE, LONGEST_PAUSE
from l1node.peer_http import PeerLink

PAGE = 64
"""Blocks asked for at once."""
FEED = 8
"""Blocks executed before other work gets its turn."""
MAX_ANSWER_BYTES = 8 * 1024 * 1024
REQUEST_SECONDS = 5.0

_log = logging.getLogger("l1node.sync")

Feed = Callable[[Sequence[CertifiedBlock]], None]


class AnswerError(Exception):
    """A peer's answer is of no use; the message says why."""


class Sync:
    """Fetches from ``urls`` what `want` asks for and hands it to ``feed``, which may ask for more."""

    def __init__(self, urls: Sequence[str], link: PeerLink, feed: Feed) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._link = link
        self._feed = feed
        self._next = 0
        self._wanted: int | None = None
        self._wake = asyncio.Event()
        self.blocks = 0
        """Blocks received."""

    @property
    def busy(self) -> bool:
        """Whether blocks are wanted that have not come."""
        return self._wanted is not None

    def want(self, from_height: int) -> None:
        """Ask for the blocks from this height on; the last call counts."""
        self._wanted = from_height
        self._wake.set()

    async def run(self) -> None:
        """Fetch, without end."""
        pause = FIRST_PAUSE
        while self._urls:
            await self._wake.wait()
            self._wake.clear()
            if self._wanted is None:
                continue
            height, self._wanted = self._wanted, None
            try:
                blocks = await self._fetch(self._turn(), height)
            except (*UNREACHABLE, AnswerError) as error:
                _log.debug("no blocks: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                if self._wanted is None:
                    self.want(height)  # of the next peer
                continue
            pause = FIRST_PAUSE
            await self._take(blocks)  # what it raises is ours, and ends the node

    def _turn(self) -> str:
        self._next = (self._next + 1) % len(self._urls)
        return self._urls[self._next]

    async def _fetch(self, url: str, height: int) -> list[CertifiedBlock]:
        parameters = {"from": height, "limit": PAGE}
        answer = await self._link.ask(
            "GET",
            f"{url}/certified-blocks",
            params=parameters,
            seconds=REQUEST_SECONDS,
            most=MAX_ANSWER_BYTES,
        )
        if answer.status != 200:
            raise AnswerError(f"{url} answered with status {answer.status}")
        if len(answer.body) > MAX_ANSWER_BYTES:
            raise AnswerError(f"{url} sent more than {MAX_ANSWER_BYTES} bytes")
        try:
            return decode(list[CertifiedBlock], answer.body, limit=MAX_ANSWER_BYTES)
        except CodecError as error:
            raise AnswerError(f"{url} sent no certified blocks: {error}") from None

    async def _take(self, blocks: Sequence[CertifiedBlock]) -> None:
        self.blocks += len(blocks)
        for start in range(0, len(blocks), FEED):
            self._feed(blocks[start : start + FEED])
            await asyncio.sleep(0)
