"""What a node holds while it answers from full blocks: P20, bounded however many blocks are asked for.

Blocks are full of bytes that cost little gas; whoever asks for a page of them must not make the node hold the page.
"""

import asyncio
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fake_chain import MemoryBackend
from l1_devnet import l1_genesis

from chainkit.backend import BlockView
from chainkit.block import Block, Certificate, Header
from chainkit.chain import Chain
from chainkit.codec import decode, encode
from chainkit.keys import dev_keypair
from chainkit.store import Store
from chainkit.transaction import Body, Call, SignedTransaction
from l1node.node import ROLE, L1Node
from l1node.p2p_api import MAX_ANSWER_BYTES, BlockPolls
from l1node.tail import Tail

MIB = 1024 * 1024
BLOCKS = 32


def full_block(height: int) -> Block:
    """2 MiB in eight calls: a quarter of the gas that a block may use."""
    alice = dev_keypair("alice")
    call = Call("staking", "report", os.urandom(250 * 1024), 0)
    wire = SignedTransaction.sign(Body(900, alice.address, 0, 3_000_000, 10, 1, call), alice).wire
    header = Header(900, height, height, 0, bytes(32), bytes(32), bytes(32), bytes(32), bytes(32), 1, 0)
    return Block(header, [wire] * 8)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No more than so many bytes are held at once here."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size


def test_a_page_of_blocks_is_shown_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P20: `GET /blocks` shows heads alone, and is asked for many blocks that are full."""
    backend = MemoryBackend(tmp_path)
    for _ in range(BLOCKS):
        backend.seal()
    stored = encode(full_block(1))
    monkeypatch.setattr(backend, "block", lambda _: BlockView(decode(Block, stored), bytes(32), "finalized"))

    async def ask() -> None:
        transport = httpx.ASGITransport(backend.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            with at_most(BLOCKS * MIB // 2):
                answer = await http.get(f"/blocks?from=0&limit={BLOCKS}")
            assert len(answer.json()["blocks"]) == BLOCKS

    asyncio.run(ask())
    backend.store.close()


def test_blocks_that_no_answer_has_room_for_are_not_read(tmp_path: Path) -> None:
    """P20, P23: `GET /certified-blocks` answers with two full blocks, and is asked for many."""
    chain = Chain(l1_genesis())
    store = Store(tmp_path, genesis_hash=chain.genesis_hash, role=ROLE)
    for height in range(1, BLOCKS + 1):
        block = full_block(height)
        block_hash = block.header.hash()
        certificate = Certificate(height, height, block_hash, [])
        store.put_block(encode(block), height, block_hash, encode(certificate), [])
    final = SimpleNamespace(header=SimpleNamespace(height=BLOCKS))
    node: Any = SimpleNamespace(_final=final, disk=SimpleNamespace(store=store), tail=Tail())
    node.certified_blocks = lambda start, limit: L1Node.certified_blocks(node, start, limit)

    with at_most(8 * MAX_ANSWER_BYTES):
        answer = asyncio.run(BlockPolls(node).answer(1, BLOCKS, 0))
    assert len(answer) <= MAX_ANSWER_BYTES + 64
    store.close()
