"""Batch data as docs/PROTOCOL.md says it: plain and packed, read into the bytes that senders signed.

Responsible for both formats, for the addresses behind the numbers of packed ones, and for what the contract commits
to. Shares no code with rollup.
"""

import zlib
from dataclasses import dataclass
from typing import Any

from simulation.reference_money import packed, plain

PLAIN, PACKED = b"\x00", b"\x01"


@dataclass
class BatchData:
    """``blocks`` are ``[time, inbox messages, [wire, ...]]``; ``leaves`` has (tag, bytes) of each transaction as it is
    committed to; ``fresh`` are the addresses that the batch adds to the directory."""

    blocks: list[Any]
    leaves: list[tuple[str, bytes]]
    fresh: list[bytes]

    def steps(self, first_height: int, messages: list[Any]) -> tuple[list[Any], list[tuple[str, bytes]]]:
        """The steps, and what is hashed for each: every block begins, takes in its messages, runs its transactions."""
        steps: list[Any] = []
        leaves: list[tuple[str, bytes]] = []
        waiting, committed = list(messages), iter(self.leaves)
        for height, (time, count, wires) in enumerate(self.blocks, first_height):
            own = [[0, height, time], *waiting[:count]]
            waiting = waiting[count:]
            leaves += [("step", packed(step)) for step in own] + [next(committed) for _ in wires]
            steps += own + [[3, wire] for wire in wires]
        return steps, leaves


def read_batch(data: bytes, directory: list[bytes], chain_id: int) -> BatchData:
    """Batch data that the contract has accepted."""
    if data[:1] == PLAIN:
        blocks = plain(zlib.decompress(data[1:]))
        return BatchData(blocks, [("step", packed([3, w])) for _, _, wires in blocks for w in wires], [])
    assert data[:1] == PACKED, "P21 batch data of an unknown version"
    stream = zlib.decompressobj()
    columns = plain(stream.decompress(data[1:]))
    return _unpack(columns, stream.unused_data, directory, chain_id)


def _unpack(columns: Any, signatures: bytes, directory: list[bytes], chain_id: int) -> BatchData:
    known, joined, blocks, kinds, senders, nonces, limits, fees, tips, to, amounts, actions = columns
    fresh = [joined[i : i + 32] for i in range(0, len(joined), 32)]
    shift = len(directory) - known
    addresses = [*directory, *fresh]
    rows = [_numbers(column) for column in (senders, nonces, limits, fees, tips)]
    transfers = iter(zip(_numbers(to), _numbers(amounts), strict=True))
    calls = iter(actions)
    expected: dict[int, int] = {}
    wires, leaves = [], []
    for i, (kind, sender, offset, *prices) in enumerate(zip(kinds, *rows, strict=True)):
        who = sender + shift if sender >= known else sender
        nonce = (expected.get(who, 0) + offset) % 2**53
        expected[who] = nonce + 1
        signature = signatures[64 * i : 64 * i + 64]
        if kind == 0:
            target, amount = next(transfers)
            target = target + shift if target >= known else target
            action: Any = [0, addresses[target], amount]
            leaf = [0, who, nonce, *prices, target, amount, signature]
        else:
            call = next(calls)
            action, leaf = plain(call), [1, who, nonce, *prices, call, signature]
        wires.append(packed([chain_id, addresses[who], nonce, *prices, action, signature]))
        leaves.append(("packed-step", packed(leaf)))
    assert len(signatures) == 64 * len(wires), "P21 signatures of nothing"
    rest = iter(wires)
    return BatchData([[time, n, [next(rest) for _ in range(own)]] for time, n, own in blocks], leaves, fresh)


def _numbers(column: bytes) -> list[int]:
    """A column: its width, and as many planes of bytes, the lowest first."""
    width = column[0]
    rows = (len(column) - 1) // width
    planes = [column[1 + rows * p : 1 + rows * (p + 1)] for p in range(width)]
    return [sum(plane[row] << 8 * p for p, plane in enumerate(planes)) for row in range(rows)]
