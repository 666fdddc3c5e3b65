"""A verifying follower: knows a chain's rules and believes nobody.

Responsible for deciding, from certified blocks that anyone may have sent, which blocks are final: it executes
each block again, checks its leader, its votes and the finality rule. Must not know what is done with them.

`FollowerCore` is pure; `Follower` is the loop that asks nodes for blocks.

What makes catching up fast: a page is executed in pieces, the next one is on its way meanwhile, and the last final
blocks of it are handed out only when that is there. So whoever prepares what is coming (see rollup/ahead.py) never runs
out of it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from chainkit.block import (
    MAX_BLOCK_BYTES,
    Certificate,
    CertificateError,
    CertifiedBlock,
    check_certificate,
    final_count,
)
from chainkit.chain import Chain, ExecutedBlock, InvalidBlock
from chainkit.client import ApiError, ChainClient
from chainkit.codec import Bytes32, CodecError, decode

log = logging.getLogger("layerlab.follower")

MAX_UNFINAL = 4096
"""Executed blocks above the final one that are kept; a chain that does not finalize is not followed on."""
PAGE = 64
FULL_BYTES = MAX_BLOCK_BYTES
"""Fewer blocks than a page that have so many bytes: a node may have cut them off, as it does before 4 MiB."""
PIECE = 4
"""Blocks of a page that are executed before final ones are handed out."""
HELD = 8
"""Final blocks that are not handed out while more are at hand: so far ahead it is known what comes."""
WAIT_SECONDS = 5
BACKOFF_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 1.0
TURNS = 16
"""Of the loop after a final block, while a page is on its way: one brings some 64 KB, and a block of 256 takes long."""
TURN_AFTER = 16
"""Good answers from one node after which the next one is asked."""

Pair = tuple[ExecutedBlock, Certificate]


class Page(NamedTuple):
    """Blocks that a node sent; ``is_full``: it may have sent no more because it sends no more at once."""

    blocks: list[CertifiedBlock]
    is_full: bool


class FollowError(Exception):
    """What a node sent cannot be part of this chain; the message says why."""


class FollowerCore:
    """The final block known so far (``tip``) and the notarized blocks above it."""

    def __init__(
        self, chain: Chain, tip: ExecutedBlock, checkpoint: tuple[int, Bytes32] | None = None
    ) -> None:
        """``checkpoint``: height and hash of a block that the chain must contain (weak subjectivity)."""
        self.chain = chain
        self.tip = tip
        self.checkpoint = checkpoint
        self._known: dict[Bytes32, Pair] = {}  # parents before their children
        self.head_height = tip.header.height
        """Height of the highest notarized block seen."""

    def add(self, blocks: Sequence[CertifiedBlock]) -> list[Pair]:
        """Take in certified blocks, parents first; returns those that became final, in order.

        Raises `FollowError` at the first block that is not of this chain; what came before it counts. If some
        of that became final it is returned instead, so that a bad block can hide no good one; the bad one and
        what follows it is left out, and refused when it comes again.
        """
        final: list[Pair] = []
        for certified in blocks:
            header = certified.block.header
            block_hash = header.hash()
            if header.height <= self.tip.header.height or block_hash in self._known:
                continue
            try:
                executed = self._execute(certified)
            except FollowError:
                if final:
                    break
                raise
            self._known[block_hash] = (executed, certified.certificate)
            self.head_height = max(self.head_height, header.height)
            final += self._finalize(block_hash)
        return final

    def _execute(self, certified: CertifiedBlock) -> ExecutedBlock:
        header = certified.block.header
        parent = self._parent(header.parent)
        if len(self._known) >= MAX_UNFINAL:
            raise FollowError(f"no block became final for {MAX_UNFINAL} blocks")
        height, expected = self.checkpoint or (0, b"")
        if header.height == height and header.hash() != expected:
            raise FollowError(f"block {height} is not the checkpoint: another history")
        validators = self.chain.validators(parent.tree, header.slot)
        if self.chain.leader(parent.tree, header.slot) != header.proposer:
            raise FollowError(f"block {header.height} is not by the leader of its slot")
        try:
            check_certificate(header, certified.certificate, validators)
            return self.chain.execute(parent, certified.block)
        except (CertificateError, InvalidBlock) as error:
            raise FollowError(f"block {header.height}: {error}") from None

    def _parent(self, parent_hash: Bytes32) -> ExecutedBlock:
        if parent_hash == self.tip.hash:
            return self.tip
        known = self._known.get(parent_hash)
        if known is None:
            raise FollowError("a block does not follow any block known here")
        return known[0]

    def _finalize(self, block_hash: Bytes32) -> list[Pair]:
        path: list[Pair] = []
        while block_hash != self.tip.hash:
            pair = self._known[block_hash]
            path.append(pair)
            block_hash = pair[0].header.parent
        path.reverse()
        count = final_count([block.header.slot for block, _ in path], self.tip.header.slot)
        final = path[:count]
        if final:
            self.tip = final[-1][0]
            self._prune()
        return final

    def _prune(self) -> None:
        """Forget what does not descend from the tip."""
        kept: dict[Bytes32, Pair] = {}
        head, root = self.tip.header.height, self.tip.hash
        for block_hash, pair in self._known.items():
            header = pair[0].header
            if header.parent == root or header.parent in kept:
                kept[block_hash] = pair
                head = max(head, header.height)
        self._known, self.head_height = kept, head


OnFinal = Callable[[ExecutedBlock, Certificate], Awaitable[None]]
OnComing = Callable[[Sequence[ExecutedBlock]], None]


class Follower:
    """Asks one of ``clients`` for blocks, and the next one when it fails, lies or has nothing; never stops."""

    def __init__(
        self,
        clients: Sequence[ChainClient],
        core: FollowerCore,
        on_final: OnFinal,
        on_coming: OnComing = lambda blocks: None,
    ) -> None:
        """``on_final`` is called with each final block, in order; ``on_coming`` before, with those that come next."""
        self._clients = list(clients)
        self._core = core
        self._on_final = on_final
        self._on_coming = on_coming
        self._held: deque[Pair] = deque()
        self._coming: tuple[int, asyncio.Task[Page]] | None = None
        self._is_behind = False  # the last page had as many blocks as L1 does not make while one is fetched
        self._turn = 0
        self._idle = 0
        self._answers = 0
        self.heard_final: int | None = None
        """How far final blocks reach by the last blocks that were checked: a hint, but no liar can raise it."""

    @property
    def client(self) -> ChainClient:
        """The node that is asked at present."""
        return self._clients[self._turn % len(self._clients)]

    async def run(self) -> None:
        """Follow until cancelled. What ``on_final`` raises ends it."""
        start = self._core.tip.header.height + 1
        try:
            while True:
                try:
                    after = await self._take(start, await self._page(start))
                except (ApiError, CodecError, OSError) as error:
                    log.info("no blocks from %s: %s", self.client.url, error)
                    after = start
                except FollowError as error:
                    log.warning("refused blocks from %s: %s", self.client.url, error)
                    after = start
                if after <= start:
                    self._ask_for(None)
                    await self._hand_out(0)
                    after = await self._next_node()
                start = after
        finally:
            self._ask_for(None)

    def _ask_for(self, start: int | None) -> None:
        """Let the blocks from ``start`` on be on their way, and no others."""
        if self._coming is not None:
            if self._coming[0] == start:
                return
            self._coming[1].cancel()
        self._coming = None
        if start is not None:
            self._coming = start, asyncio.create_task(self._fetch(start), name="fetch-blocks")

    async def _page(self, start: int) -> Page:
        """The next blocks; what is held is handed out until they are there. If there are more, those are asked for."""
        self._ask_for(start)
        assert self._coming is not None
        coming = self._coming[1]
        if self._held:
            await self._let_come()
        while self._held and not coming.done():
            if len(self._held) == 1 and not self._is_behind:
                # Large blocks look like the beginning of more; that there is none shows here.
                self._note_final(0)
            await self._hand_out(len(self._held) - 1)
        page = await coming
        self._coming = None
        if page.is_full:
            self._ask_for(page.blocks[-1].block.header.height + 1)
        return page

    async def _hand_out(self, kept: int) -> None:
        """All final blocks but the last ``kept``."""
        while len(self._held) > kept:
            await self._on_final(*self._held.popleft())
            await self._let_come()

    async def _let_come(self) -> None:
        """Let what is asked for be sent, and come in."""
        for _ in range(TURNS):
            if self._coming is None or self._coming[1].done():
                return
            await asyncio.sleep(0)

    async def _take(self, start: int, page: Page) -> int:
        """Take blocks in and hand out final ones; returns the height to go on from, or ``start`` if this
        node has nothing more to give. Raises `FollowError` for a lie, and for a fork that this node is not on."""
        blocks, before, heard = page.blocks, self._core.head_height, self.heard_final
        found = False
        for place in range(0, len(blocks), PIECE):
            try:
                final = self._core.add(blocks[place : place + PIECE])
            except FollowError:
                if not found:
                    self.heard_final = heard  # of a page that is refused nothing counts
                    raise
                break  # a bad block hides no good one: it is refused when it comes again
            found = found or bool(final)
            self._on_coming([block for block, _ in final])
            self._held += final
            left = len(blocks) - place - PIECE
            if left > 0:
                self._note_final(left)
                await self._hand_out(HELD)
        height, head = self._core.tip.header.height, self._core.head_height
        # A full page means that there is more to come. Only checked blocks count, and only new ones: a liar moves this
        # no further, but for as long as his page takes.
        has_more = page.is_full and head > before + len(blocks) // 2
        self._is_behind = has_more and len(blocks) >= PAGE
        self._note_final(PAGE if has_more else 0)
        await self._hand_out(HELD if has_more else 0)
        if not blocks:
            return start
        after = min(max(blocks[-1].block.header.height, height), head) + 1
        if after > start:
            self._idle = 0
            self._answers += 1
            if self._answers % TURN_AFTER == 0:
                self._turn += 1  # a node that holds the newest blocks back is not asked for long
                if len(self._clients) > 1:  # and what it is asked for already, the next one is asked for
                    self._ask_for(None)
        return after

    def _note_final(self, more: int) -> None:
        """``more``: how many blocks there are at least after those that were checked."""
        self.heard_final = max(self._core.tip.header.height, self._core.head_height - 2) + more

    async def _fetch(self, start: int) -> Page:
        data = await self.client.get_bytes(
            "/certified-blocks",
            {"from": start, "limit": PAGE, "wait": WAIT_SECONDS},
            timeout=WAIT_SECONDS + 5.0,
        )
        blocks: list[CertifiedBlock] = decode(list[CertifiedBlock], data, limit=4 * MAX_BLOCK_BYTES)
        return Page(blocks, bool(blocks) and (len(blocks) >= PAGE or len(data) >= FULL_BYTES))

    async def _next_node(self) -> int:
        """Turn to the next node, from the last final block on; slower and slower while none has more."""
        self._turn += 1
        self._idle += 1
        rounds = self._idle // len(self._clients)
        if rounds:
            await asyncio.sleep(min(BACKOFF_SECONDS * 2 ** min(rounds - 1, 4), MAX_BACKOFF_SECONDS))
        return self._core.tip.header.height + 1
