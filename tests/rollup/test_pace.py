"""The pause between blocks: short for few transactions, longer for many, over as soon as a whole block waits."""

import asyncio
from collections.abc import Iterator

import pytest

from rollup.pace import pause, pauses


class SteppedClock:
    """A clock whose time passes only while somebody waits for it."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def now(self) -> float:
        return self.time

    def sleep_seconds(self, instant: float) -> float:
        self.time = instant
        return 0.0


@pytest.mark.parametrize(
    ("transactions", "block_ms", "times"),
    [
        *[(0, 10, 1), (1, 10, 1), (39, 10, 1), (40, 10, 2), (99, 10, 4), (100, 10, 5), (10**6, 10, 5)],
        *[(0, 1, 1), (10**6, 1, 50), (1_500, 30, 1), (1_500, 50, 1), (1_500, 1_000, 1), (0, 3_600_000, 1)],
    ],
)
def test_how_long_is_a_multiple_of_the_shortest(transactions: int, block_ms: int, times: int) -> None:
    assert pauses(transactions, block_ms) == times


def waited(transactions: int, whole: Iterator[bool]) -> float:
    clock = SteppedClock()
    asyncio.run(pause(clock, 10, transactions, lambda: next(whole)))
    return round((clock.time - 1_000) * 1000)


def test_it_ends_when_a_whole_block_waits_but_not_before_the_shortest() -> None:
    assert waited(5, iter([False])) == 10
    assert waited(1_200, iter([False] * 5)) == 50
    assert waited(1_200, iter([False, False, True])) == 30
    assert waited(1_200, iter([True])) == 10
