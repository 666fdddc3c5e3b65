"""Virtual time: an asyncio event loop that jumps to its next timer instead of waiting for it.

Responsible for one deterministic order of callbacks and for the clocks that services read. Must not know
what runs on it. Nothing here does I/O: a loop that has nothing left to do is an error, not a pause.

What may run now runs in the order in which it was asked for; timers of one instant do as well. It has neither a
selector nor a lock nor a debug mode, and its handles are as small as tasks and timeouts need them: a simulated
network is little else than callbacks.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context
from functools import partial
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")

BUSY_CALLS = 1_000_000
"""Callbacks within one instant after which something is busy waiting."""


class Deadlock(Exception):  # noqa: N818 - it names what happened
    """Every task waits for something that nothing will bring, or some task does not let time pass."""


class Handle(Struct, eq=False):
    """A callback that may be taken back. Without a context it runs in the loop's, and must set no variable."""

    callback: Callable[..., object] | None
    args: Any
    context: Context | None
    time: float

    def cancel(self) -> None:
        self.callback = self.args = None

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        """Seconds of virtual time."""
        return self.time


class VirtualLoop(asyncio.BaseEventLoop):
    """Time starts at 0 s. Work that services give to threads is done at once, in place."""

    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._soon: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._numbers = 0
        self.get_debug = bool  # never; every future asks, so it is a function in C
        self.create_future = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]

    def create_task(  # type: ignore[override]
        self, work: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        return asyncio.Task(work, loop=self, name=name or "", context=context)

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._now

    # --- asking for callbacks ---

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, context, self._now)
        self._soon.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        when = self._now + delay
        handle = Handle(callback, args, context, when)
        self._numbers += 1  # those of one instant run in order
        heappush(self._timers, (when, self._numbers, handle))
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, context, when)
        self._numbers += 1
        heappush(self._timers, (when, self._numbers, handle))
        return handle

    # --- running them ---

    def _run_once(self) -> None:
        """All that may run, from instant to instant, until somebody stops the loop. `run_forever` calls this again."""
        soon, timers = self._soon, self._timers
        while not self._stopping:
            if not soon:
                # What is due at the next instant, in order; taken back timers are no reason to stop there.
                while timers and timers[0][2].callback is None:
                    heappop(timers)
                if not timers:
                    raise Deadlock("nothing is scheduled and nothing is running")
                when = timers[0][0]
                if when > self._now:
                    self._now = when
                while timers and timers[0][0] <= self._now:
                    soon.append(heappop(timers)[2])
            self._run_instant(soon)

    def _run_instant(self, soon: deque[Handle]) -> None:
        """All that may run before time passes."""
        for _ in range(BUSY_CALLS):
            handle = soon.popleft()
            callback = handle.callback
            if callback is not None:
                context = handle.context
                try:
                    if context is None:
                        callback(*handle.args)
                    else:
                        context.run(callback, *handle.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - as asyncio does
                    self.call_exception_handler({"message": f"{callback!r} failed", "exception": error})
            if not soon or self._stopping:
                return
        raise Deadlock(f"time does not pass after {BUSY_CALLS} callbacks")

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


def begin(work: Coroutine[Any, Any, T]) -> T | Coroutine[Any, Any, T]:
    """Do work up to where it has to wait; for that what is left of it. Most requests wait for nothing, so need no task.

    Up to there it runs in no task of its own: it must not ask for its task, as timeouts do.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    return _finish(_Begun(work, waits_for))


async def _finish(begun: "_Begun[T]") -> T:
    return await begun


class _Begun(Generic[T]):
    """A coroutine that waits for something."""

    def __init__(self, work: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._work, self._waits_for = work, waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        step: Callable[[], Any]
        while True:
            try:
                step = partial(self._work.send, (yield self._waits_for))
            except BaseException as error:  # noqa: BLE001 - a cancellation, most likely
                step = partial(self._work.throw, error)
            try:
                self._waits_for = step()
            except StopIteration as done:
                result: T = done.value
                return result


class SimClock:
    """A service's clock: the loop's time from ``epoch`` on, ``skew`` seconds off."""

    def __init__(self, loop: VirtualLoop, epoch: float) -> None:
        self.loop = loop
        self._epoch = epoch
        self.skew = 0.0

    def now(self) -> float:
        """Seconds of unix time, as this service believes it to be."""
        return self._epoch + self.loop._now + self.skew

    def sleep_seconds(self, virtual_instant: float) -> float:
        """Seconds until ``virtual_instant``; 0 if it is past."""
        return max(0.0, virtual_instant - self.now())
