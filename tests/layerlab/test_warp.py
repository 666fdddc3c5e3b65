"""Warping against a simulated chain: as fast as finality keeps up, no overshoot, and always back to normal."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerlab.config import DevnetError
from layerlab.warp import FASTEST_SLOT_SECONDS, PATIENCE_SECONDS, warp

LAG_BLOCKS = 3


@dataclass
class World:
    """A chain that makes a block a slot, but at most ``capacity`` a real second, final some blocks later."""

    slot_seconds: float = 1.0
    capacity: float = 1000.0
    delay: float = 0.2
    now: float = 100.0
    head: float = 50.0
    rate: float = 1.0
    planned: tuple[float, float] | None = None
    rates: list[float] = field(default_factory=list)
    stuck_after: float = float("inf")

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        for _ in range(10):
            self.now += seconds / 10
            if self.planned and self.now >= self.planned[0]:
                self.rate, self.planned = self.planned[1], None
            wanted = self.rate / self.slot_seconds
            # A chain that is overtaxed does worse than at its limit: blocks miss their slots.
            made = wanted if wanted <= self.capacity else self.capacity**2 / wanted
            self.head = min(self.head + made * seconds / 10, self.stuck_after)

    def final(self) -> int:
        self.sleep(0.004)
        return int(self.head) - LAG_BLOCKS

    def run(self, rate: float) -> None:
        self.rates.append(rate)
        if not self.planned or self.planned[1] != rate:
            self.planned = (self.now + self.delay, rate)

    def normal(self) -> None:
        self.run(1.0)

    def warp(
        self, done: Callable[[int], bool], *, goal: int | None = None, max_rate: float | None = None
    ) -> int:
        return warp(
            self.final,
            self,
            done,
            slot_seconds=self.slot_seconds,
            goal=goal,
            max_rate=max_rate,
            now=self.clock,
            sleep=self.sleep,
        )

    def warp_to(self, goal: int, max_rate: float | None = None) -> int:
        return self.warp(lambda height: height >= goal, goal=goal, max_rate=max_rate)


def test_a_hundred_blocks_take_less_than_fifteen_seconds() -> None:
    world = World()
    begin = world.now
    assert world.warp_to(147) >= 147
    assert world.now - begin < 15
    assert world.rates[-1] == 1.0
    assert max(world.rates) <= 1 / FASTEST_SLOT_SECONDS + 0.001


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 12.0), st.floats(1.0, 40.0), st.integers(1, 300))
def test_any_machine_gets_there_and_not_far_beyond(slot: float, capacity: float, blocks: int) -> None:
    world = World(slot_seconds=slot, capacity=capacity)
    goal = world.final() + blocks
    reached = world.warp_to(goal)
    assert goal <= reached <= goal + 2
    world.sleep(1.0)
    assert world.rate == 1.0


def test_the_pace_goes_down_when_finality_does_not_keep_up_and_up_again_when_it_does() -> None:
    slow = World(capacity=4.0)
    slow.warp_to(400)
    assert min(rate for rate in slow.rates[:-1] if rate > 1) < slow.rates[0]
    fast = World()
    fast.warp_to(400)
    assert max(fast.rates) > fast.rates[0]


def test_nothing_happens_if_it_is_so_already() -> None:
    world = World()
    assert world.warp_to(10) == 47
    assert world.rates == []


def test_a_rate_that_is_given_is_kept_to() -> None:
    world = World()
    world.warp_to(147, max_rate=3.0)
    assert max(world.rates) <= 3.0


@pytest.mark.parametrize("rate", [0, 0.5, -1, 1001, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    world = World()
    with pytest.raises(DevnetError, match="the rate must be from 1 to 1000"):
        world.warp_to(147, max_rate=rate)
    assert world.rates == []


def test_slots_that_are_fast_already_are_not_slowed_down() -> None:
    world = World(slot_seconds=0.05)
    world.warp_to(147)
    assert min(world.rates) >= 1.0


def test_a_chain_without_finality_is_told_of_and_not_waited_for() -> None:
    world = World(stuck_after=70.0)
    begin = world.now
    with pytest.raises(DevnetError, match=r"no block became final for .* the last is 67"):
        world.warp_to(147)
    assert world.now - begin < PATIENCE_SECONDS + 20
    assert world.rates[-1] == 1.0


def test_time_runs_as_usual_again_after_whatever_happens() -> None:
    for error in (KeyboardInterrupt, DevnetError):
        world = World()

        def done(height: int, error: type[BaseException] = error) -> bool:
            if height > 60:
                raise error
            return False

        with pytest.raises(error):
            world.warp(done)
        assert world.rates[-1] == 1.0
