"""Random byte strings against a target: a typed error or a value each, and memory flat.

Responsible for making them (half of them fully random, half mutated from valid ones) and for measuring memory. Must
not know any target.
"""

import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

import psutil

from fuzzing.target import Target

SLOW_SHARE: Final = 1000
MOST_GROWTH: Final = 6 * 1024 * 1024
"""Bytes of resident memory: what the allocator may keep back."""
MOST_BLOCKS: Final = 4000
"""Objects that may be left: caches that are bounded and not full yet."""


@dataclass(frozen=True)
class Outcome:
    """``grown`` in bytes of resident memory, ``blocks`` in allocated blocks of Python, between a tenth of the way and
    the end."""

    count: int
    values: int
    grown: int
    blocks: int

    @property
    def flat(self) -> bool:
        return self.grown < MOST_GROWTH and self.blocks < MOST_BLOCKS


def inputs(target: Target, count: int, rng: Random) -> Iterator[bytes]:
    """``count`` byte strings; of a slow target far fewer of those that are nearly valid."""
    seeds = target.seeds()
    mutated = count // 2 // (SLOW_SHARE if target.slow else 1)
    share = mutated / count
    for _ in range(count):
        if rng.random() < share:
            yield mutate(rng.choice(seeds), seeds, rng)
        else:
            yield rng.randbytes(int(2 ** rng.uniform(0, 9)) - 1)


def mutate(data: bytes, seeds: list[bytes], rng: Random) -> bytes:
    """One to four changes: a bit, a byte, a piece out, doubled or of another; cut short or made longer."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made) + 1)
        kind = rng.randrange(8)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(made):
            made[at] = rng.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del made[at : at + rng.randint(1, 16)]
        elif kind == 3:
            made[at:at] = made[at : at + rng.randint(1, 40)]
        elif kind == 4:
            made[at:at] = rng.randbytes(rng.randint(1, 9))
        elif kind == 5:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            made[at : at + rng.randint(0, 32)] = other[start : start + rng.randint(1, 64)]
        elif kind == 6:
            del made[at:]
        else:
            made += rng.randbytes(rng.randint(1, 4))
    return bytes(made)


def bombard(target: Target, count: int, seed: int) -> Outcome:
    """Run ``count`` byte strings. What the target raises goes through, with the input noted."""
    rng, process = Random(f"{seed} {target.name}"), psutil.Process()
    values, rss, blocks = 0, 0, 0
    for number, data in enumerate(inputs(target, count, rng)):
        if number == count // 10:
            gc.collect()
            rss, blocks = process.memory_info().rss, sys.getallocatedblocks()
        try:
            values += target.run(data)
        except Exception as error:
            error.add_note(f"{target.name}: input {data.hex()}")
            raise
    gc.collect()
    return Outcome(count, values, process.memory_info().rss - rss, sys.getallocatedblocks() - blocks)
