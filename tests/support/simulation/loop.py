"""Virtual time: an asyncio event loop that jumps to its next timer instead of waiting for it.

Responsible for one deterministic order of callbacks and for the clocks that services read. Must not know
what runs on it. Nothing here does I/O: a loop that has nothing left to do is an error, not a pause.
"""

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

BUSY_ROUNDS = 100_000
"""Rounds of the loop within one instant after which something is busy waiting."""


class Deadlock(Exception):  # noqa: N818 - it names what happened
    """Every task waits for something that nothing will bring, or some task does not let time pass."""


class _NoIO(selectors.DefaultSelector):
    """Where a loop would sleep, time passes."""

    advance: Callable[[float], None]
    rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("nothing is scheduled and nothing is running")
        self.rounds = 0 if timeout > 0 else self.rounds + 1
        if self.rounds > BUSY_ROUNDS:
            raise Deadlock(f"time does not pass after {BUSY_ROUNDS} rounds")
        if timeout > 0:
            self.advance(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time starts at 0 s. Work that services give to threads is done at once, in place."""

    def __init__(self) -> None:
        self._now = 0.0
        selector = _NoIO()
        selector.advance = self._advance
        super().__init__(selector)

    def _advance(self, seconds: float) -> None:
        self._now += seconds

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call ``func`` here and now: threads would bring their own order."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - the caller's to handle, as with any executor
            future.set_exception(error)
        return future


class SimClock:
    """A service's clock: the loop's time from ``epoch`` on, ``skew`` seconds off."""

    def __init__(self, loop: asyncio.AbstractEventLoop, epoch: float) -> None:
        self._loop = loop
        self._epoch = epoch
        self.skew = 0.0

    def now(self) -> float:
        """Seconds of unix time, as this service believes it to be."""
        return self._epoch + self._loop.time() + self.skew

    def sleep_seconds(self, virtual_instant: float) -> float:
        """Seconds until ``virtual_instant``; 0 if it is past."""
        return max(0.0, virtual_instant - self.now())
