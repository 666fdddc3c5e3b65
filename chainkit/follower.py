"""A verifying follower: knows a chain's rules and believes nobody.

Responsible for deciding, from certified blocks that anyone may have sent, which blocks are final: it executes
each block again, checks its leader, its votes and the finality rule. Must not know what is done with them.

`FollowerCore` is pure; `Follower` is the loop that asks nodes for blocks.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

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
WAIT_SECONDS = 5
BACKOFF_SECONDS = 0.2

Pair = tuple[ExecutedBlock, Certificate]


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
        self._known: dict[Bytes32, Pair] = {}
        self.head_height = tip.header.height
        """Height of the highest notarized block seen."""

    def add(self, blocks: Sequence[CertifiedBlock]) -> list[Pair]:
        """Take in certified blocks, parents first; returns those that became final, in order.

        Raises `FollowError` at the first block that is not of this chain; what came before it counts.
        """
        final: list[Pair] = []
        for certified in blocks:
            header = certified.block.header
            block_hash = header.hash()
            if header.height <= self.tip.header.height or block_hash in self._known:
                continue
            self._known[block_hash] = (self._execute(certified), certified.certificate)
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
        for block_hash, (block, certificate) in sorted(
            self._known.items(), key=lambda item: item[1][0].header.height
        ):
            if block.header.parent == self.tip.hash or block.header.parent in kept:
                kept[block_hash] = (block, certificate)
        self._known = kept
        heights = [block.header.height for block, _ in kept.values()]
        self.head_height = max([self.tip.header.height, *heights])


OnFinal = Callable[[ExecutedBlock, Certificate], Awaitable[None]]


class Follower:
    """Asks one of ``clients`` for blocks, and the next one when it fails or lies; never stops by itself."""

    def __init__(self, clients: Sequence[ChainClient], core: FollowerCore, on_final: OnFinal) -> None:
        self._clients = list(clients)
        self._core = core
        self._on_final = on_final
        self._turn = 0
        self.heard_final: int | None = None
        """The final height that some node told last (a hint, not a fact)."""

    @property
    def client(self) -> ChainClient:
        """The node that is asked at present."""
        return self._clients[self._turn % len(self._clients)]

    async def run(self) -> None:
        """Follow until cancelled. What ``on_final`` raises ends it."""
        failures = 0
        start = self._core.tip.header.height + 1
        while True:
            try:
                blocks = await self._fetch(start)
            except (ApiError, CodecError, OSError) as error:
                blocks, failures = None, failures + 1
                log.info("no blocks from %s: %s", self.client.url, error)
            if blocks is None:
                start = await self._next_node(failures)
                continue
            try:
                final = self._core.add(blocks)
                failures = 0
            except FollowError as error:
                # A fork above the final block looks like a lie at first: ask again from the final block.
                if start > self._core.tip.header.height + 1:
                    start = self._core.tip.header.height + 1
                    continue
                failures += 1
                log.warning("refused blocks from %s: %s", self.client.url, error)
                start = await self._next_node(failures)
                continue
            for block, certificate in final:
                await self._on_final(block, certificate)
            if len(final) == 0 and blocks and self._core.head_height + 1 == start:
                await asyncio.sleep(BACKOFF_SECONDS)  # the node repeats itself
            start = self._core.head_height + 1

    async def _fetch(self, start: int) -> list[CertifiedBlock]:
        data = await self.client.get_bytes(
            "/certified-blocks",
            {"from": start, "limit": PAGE, "wait": WAIT_SECONDS},
            timeout=WAIT_SECONDS + 5.0,
        )
        blocks: list[CertifiedBlock] = decode(list[CertifiedBlock], data, limit=4 * MAX_BLOCK_BYTES)
        top = max((block.block.header.height for block in blocks), default=0)
        self.heard_final = max(self.heard_final or 0, top - 2, self._core.tip.header.height)
        return blocks

    async def _next_node(self, failures: int) -> int:
        self._turn += 1
        if failures >= len(self._clients):
            await asyncio.sleep(min(BACKOFF_SECONDS * 2 ** min(failures - len(self._clients), 4), 2.0))
        return self._core.tip.header.height + 1
