"""Running a devnet's time fast until something is so, and no longer.

Responsible for the pace: as fast as finality keeps up with, slow near a known goal, back to 1 at the end. Must
not know where the height comes from nor how the rate is set: both are given.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from layerlab.config import DevnetError

START_SLOT_SECONDS: Final = 0.1
"""Real seconds that a slot gets at first; the rate follows from it."""
FASTEST_SLOT_SECONDS: Final = 0.06
SLOWEST_SLOT_SECONDS: Final = 0.8
LANDING_SLOT_SECONDS: Final = 0.25
LANDING_BLOCKS: Final = 4
"""So many blocks before a known goal the pace goes down: what is on its way must not shoot past it."""
WINDOW_SLOTS: Final = 20
"""The pace is judged by as many slots at a time."""
POLL_SECONDS: Final = 0.05
RENEW_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 20.0
"""So long without a new final block, and finality is not slow but gone."""


@dataclass(frozen=True)
class WarpStep:
    """Where a warp stands: L1's final height, the goal if it is a height, and how fast time runs."""

    height: int
    goal: int | None
    rate: float


WarpProgress = Callable[[WarpStep], None]


def unseen(_: WarpStep) -> None:
    """The progress of whoever does not look."""


class FastTime(Protocol):
    """The clock as a warp wants it."""

    def run(self, rate: float) -> None:
        """Time runs at ``rate`` for a few seconds, then at 1 again unless this is called again."""

    def normal(self) -> None:
        """Time runs at 1."""


class Pace:
    """Real seconds a slot gets, by how many slots of late became final blocks."""

    def __init__(self, slot_seconds: float, max_rate: float | None, now: float, height: int) -> None:
        self._slot_seconds = slot_seconds
        self._fastest = max(FASTEST_SLOT_SECONDS, slot_seconds / max_rate if max_rate else 0.0)
        self._slowest = max(SLOWEST_SLOT_SECONDS, self._fastest)
        self.slot = max(START_SLOT_SECONDS, self._fastest)
        self._since, self._height = now, height

    @property
    def rate(self) -> float:
        """How fast time is to run; never slower than it does by itself."""
        return max(1.0, self._slot_seconds / self.slot)

    def observe(self, now: float, height: int) -> None:
        """Take in a height, and judge the pace when enough slots have gone by."""
        slots = (now - self._since) / self.slot
        if slots < WINDOW_SLOTS:
            return
        share = (height - self._height) / slots
        if share < 0.6:
            self.slot = min(self.slot * 1.5, self._slowest)
        elif share > 0.9:
            self.slot = max(self.slot * 0.85, self._fastest)
        self._since, self._height = now, height


def warp(
    final_height: Callable[[], int],
    fast_time: FastTime,
    done: Callable[[int], bool],
    *,
    slot_seconds: float,
    goal: int | None = None,
    max_rate: float | None = None,
    progress: WarpProgress = unseen,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run time fast until ``done(final height)``; returns that height. Time runs at 1 again after, whatever happens.

    ``goal`` is the height that ``done`` waits for, if it is one: the pace goes down before it.

    Raises `DevnetError` for a rate that is none, or if no block becomes final for a long while.
    """
    if max_rate is not None and not 1 <= max_rate <= 1000:
        raise DevnetError(f"the rate must be from 1 to 1000, not {max_rate:g}")
    height = final_height()
    if done(height):
        return height
    pace = Pace(slot_seconds, max_rate, now(), height)
    moved = renewed = now()
    rate = pace.rate
    try:
        fast_time.run(rate)
        while not done(height):
            progress(WarpStep(height, goal, rate))
            sleep(POLL_SECONDS)
            before, height = height, max(height, final_height())
            moved = now() if height > before else moved
            if now() - moved > PATIENCE_SECONDS + 4 * slot_seconds:
                raise DevnetError(
                    f"no block became final for {now() - moved:.0f} s, the last is {height}; "
                    "look at the validators with layerlab status"
                )
            pace.observe(now(), height)
            wanted = pace.rate
            if goal is not None and goal - height <= LANDING_BLOCKS:
                wanted = min(wanted, max(1.0, slot_seconds / LANDING_SLOT_SECONDS))
            if wanted != rate or now() - renewed > RENEW_SECONDS:
                rate, renewed = wanted, now()
                fast_time.run(rate)
        return height
    finally:
        fast_time.normal()
