"""Signatures of coming L1 blocks' batches are checked while the batches before them are executed.

Responsible for how far ahead that is. Must not know what the transactions do. Execution takes about as long as the
check of the signatures, and they need one core each: one after the other a verifier would be half as fast, and slower
than the sequencer that it watches.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from chainkit.chain import ExecutedBlock
from chainkit.signature_pool import AHEAD, SignaturePool
from chainkit.transaction import SignedTransaction

AHEAD_OF_BATCHES = 8 * AHEAD
"""Signatures that a worker of a verifier is given: about as many as it checks while this process applies an L1 block
with all its batches, before which it does not look up again."""
MOST = 2 * AHEAD_OF_BATCHES
"""Signatures that may be on their way: about a second of one core."""
MOST_BLOCKS = 8
"""L1 blocks that are read ahead: what is in them is held decoded, signatures or not."""


class SignaturesAhead:
    """The final L1 blocks that are not applied yet. ``read`` gives the L2 transactions in one, in their order."""

    def __init__(self, pool: SignaturePool, read: Callable[[ExecutedBlock], list[SignedTransaction]]) -> None:
        self._pool = pool
        self._read = read
        self._coming: deque[ExecutedBlock] = deque()
        self._under_way: deque[tuple[asyncio.Task[None] | None, int]] = deque()
        self._signatures = 0

    def come(self, blocks: Sequence[ExecutedBlock]) -> None:
        """These blocks are the next ones after those that came before."""
        self._coming += blocks

    async def next(self) -> None:
        """Wait until the next block may be applied: its signatures are checked, those of later ones under way."""
        self._hand_over()
        task, count = self._under_way[0]
        if task is not None:
            await task
        self._under_way.popleft()
        self._signatures -= count
        self._hand_over()
        if self._signatures:  # two turns of the loop: the pool gathers in one and sends in the next
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def close(self) -> None:
        """Wait for nothing any more."""
        for task, _ in self._under_way:
            if task is not None:
                task.cancel()

    def _has_room(self) -> bool:
        return self._signatures < MOST and len(self._under_way) < MOST_BLOCKS

    def _hand_over(self) -> None:
        while self._coming and (not self._under_way or self._has_room()):
            signed = self._read(self._coming.popleft())
            task = asyncio.create_task(self._pool.verify(signed), name="signatures-ahead") if signed else None
            self._under_way.append((task, len(signed)))
            self._signatures += len(signed)
