"""Batches as they were posted: both formats of docs/PROTOCOL.md section 7, read into the bytes that senders signed.

Responsible for the two formats and for the addresses behind the numbers of packed ones. Must not know what a step does.
L1 has taken the data, so it is well formed unless L1 is broken; whatever is not raises one of `MALFORMED`.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from layerlab.audit.plain import LARGEST, Plain, packed, plain

PLAIN, PACKED = b"\x00", b"\x01"
LARGEST_BATCH = 4 * 1024 * 1024


@dataclass
class Posted:
    """``blocks`` are ``[time, inbox messages, [wire, ...]]``; ``fresh`` are addresses for the directory."""

    blocks: list[Plain]
    fresh: list[bytes]

    @property
    def messages(self) -> int:
        """How many inbox messages it takes in."""
        return sum(block[1] for block in self.blocks)

    def steps(self, first_height: int, messages: Sequence[Plain]) -> list[Plain]:
        """Every block begins, takes in its messages, runs its transactions."""
        steps: list[Plain] = []
        waiting = iter(messages)
        for height, (time, count, wires) in enumerate(self.blocks, first_height):
            steps.append([0, height, time])
            steps += [next(waiting) for _ in range(count)]
            steps += [[3, wire] for wire in wires]
        return steps


def read_posted(data: bytes, directory: Sequence[bytes], chain_id: int) -> Posted:
    """Read batch data; ``directory`` is that of all batches before. Raises `ValueError` or another of `MALFORMED`."""
    stream = zlib.decompressobj()
    try:
        inflated = plain(stream.decompress(data[1:], LARGEST_BATCH))
    except zlib.error as error:
        raise ValueError(f"batch data that is not zlib's: {error}") from None
    if data[:1] == PLAIN and not stream.unused_data:
        return Posted([[time, count, list(wires)] for time, count, wires in inflated], [])
    if data[:1] != PACKED:
        raise ValueError("batch data of an unknown format")
    return _unpacked(inflated, stream.unused_data, directory, chain_id)


def _unpacked(columns: Plain, signatures: bytes, directory: Sequence[bytes], chain_id: int) -> Posted:
    known, joined, blocks, kinds, *rest, actions = columns
    senders, nonces, limits, fees, tips, to, amounts = map(_numbers, rest)
    fresh = [joined[i : i + 32] for i in range(0, len(joined), 32)]
    later = len(directory) - known  # others may have added addresses since it was packed

    def address(number: int) -> bytes:
        place = number + later if number >= known else number
        return directory[place] if place < len(directory) else fresh[place - len(directory)]

    transfers, calls = iter(zip(to, amounts, strict=True)), iter(actions)
    following: dict[bytes, int] = {}
    wires = []
    rows = zip(kinds, senders, nonces, limits, fees, tips, strict=True)
    for i, (kind, number, offset, limit, fee, tip) in enumerate(rows):
        sender = address(number)
        nonce = (following.get(sender, 0) + offset) % (LARGEST + 1)
        following[sender] = nonce + 1
        if kind == 0:
            target, amount = next(transfers)
            action = [0, address(target), amount]
        else:
            action = plain(next(calls))
        signature = signatures[64 * i : 64 * i + 64]
        wires.append(packed([chain_id, sender, nonce, limit, fee, tip, action, signature]))
    if len(signatures) != 64 * len(wires):
        raise ValueError("signatures of nothing")
    left = iter(wires)
    return Posted([[time, count, [next(left) for _ in range(own)]] for time, count, own in blocks], fresh)


def _numbers(column: bytes) -> list[int]:
    """A column: its width, then as many planes of bytes, the lowest first."""
    width = column[0]
    rows = (len(column) - 1) // width
    planes = [column[1 + rows * p : 1 + rows * (p + 1)] for p in range(width)]
    return [sum(plane[row] << 8 * p for p, plane in enumerate(planes)) for row in range(rows)]
