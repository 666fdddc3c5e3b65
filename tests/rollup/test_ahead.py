"""Signatures ahead: in order, so far and no further, and under way while a block is applied."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from bridge_harness import l2_transfer

from chainkit.signature_pool import SignaturePool
from chainkit.transaction import SignedTransaction
from rollup import ahead
from rollup.ahead import SignaturesAhead

TX = SignedTransaction.decode(l2_transfer("alice", 0, "bob", 1))


class Pool:
    """Notes what it is asked to check, and is done when told."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.done: list[asyncio.Event] = []

    async def verify(self, transactions: Sequence[SignedTransaction]) -> None:
        self.asked.append(len(transactions))
        self.done.append(asyncio.Event())
        await self.done[-1].wait()


def made(pool: Any, sizes: Sequence[int]) -> tuple[SignaturesAhead, list[int]]:
    """With one block for each of ``sizes``, and the heights that were read so far."""
    read: list[int] = []

    def transactions(block: Any) -> list[SignedTransaction]:
        read.append(block.height)
        return [TX] * block.size

    found = SignaturesAhead(pool, transactions)
    blocks: list[Any] = [SimpleNamespace(height=height, size=size) for height, size in enumerate(sizes, 1)]
    found.come(blocks[:1])
    found.come(blocks[1:])
    return found, read


def test_the_next_are_under_way_when_the_first_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MOST", 10)

    async def story() -> None:
        pool = Pool()
        signatures, read = made(pool, [3, 0, 8, 1, 5])
        first = asyncio.create_task(signatures.next())
        await asyncio.sleep(0.01)
        assert (pool.asked, read, first.done()) == ([3, 8], [1, 2, 3], False)
        pool.done[0].set()
        await first
        assert (pool.asked, read) == ([3, 8, 1, 5], [1, 2, 3, 4, 5])  # 8, 9: below ten each time
        await signatures.next()  # the one without batches waits for nobody
        third = asyncio.create_task(signatures.next())
        await asyncio.sleep(0.01)
        assert not third.done()
        pool.done[1].set()
        await third
        signatures.close()

    asyncio.run(story())


def test_one_block_is_checked_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MOST", 10)

    async def story() -> None:
        pool = Pool()
        signatures, read = made(pool, [50, 60])
        waiting = asyncio.create_task(signatures.next())
        await asyncio.sleep(0.01)
        assert (pool.asked, read) == ([50], [1])
        pool.done[0].set()
        await waiting
        assert (pool.asked, read) == ([50, 60], [1, 2])
        signatures.close()

    asyncio.run(story())


def test_workers_have_the_next_ones_before_the_first_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real worker: whoever goes on to execute does not turn the loop for a while."""
    monkeypatch.setattr(ahead, "MOST", 20)

    async def story() -> None:
        pool = SignaturePool(1)
        await pool.start()
        try:
            wires = [l2_transfer("alice", nonce, "bob", 1) for nonce in range(40)]
            blocks: list[Any] = [[SignedTransaction.decode(w) for w in wires[i : i + 20]] for i in (0, 20)]
            signatures = SignaturesAhead(pool, lambda block: block)
            signatures.come(blocks)
            await signatures.next()
            assert all(tx._valid for tx in blocks[0])
            assert not pool._backlog  # sent, and perhaps answered already
            assert pool._workers[0].waiting == 20 or all(tx._valid for tx in blocks[1])
            await signatures.next()
            assert all(tx._valid for tx in blocks[1])
        finally:
            await pool.close()

    asyncio.run(story())


def test_closing_waits_for_nothing() -> None:

    async def story() -> None:
        pool = Pool()
        signatures, _ = made(pool, [3, 4])
        waiting = asyncio.create_task(signatures.next())
        await asyncio.sleep(0.01)
        signatures.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(story())
