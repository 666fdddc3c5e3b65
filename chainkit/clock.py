"""The one clock of a devnet: wall time, or a piecewise-linear virtual time shared through a file.

Responsible for what time it is and for waiting until a time. Must not know who asks, nor what a
slot or a block is. Only shells use it: its floats (seconds of unix time) never enter consensus.

The file is ``{"segments": [{"wall": w, "virtual": v, "rate": r}, ...]}``, ordered by ``wall``. From
wall instant w on, until the next segment's, virtual time is v + r * (wall - w); before the first
segment it stands still. A change is written to take effect a moment in the future, so that every
process has read it by then and all change at one instant.
"""

import asyncio
import fcntl
import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, Protocol

MAX_RATE: Final = 1000.0
MAX_INSTANT: Final = 1e11  # seconds; a float resolves 15 microseconds there
MAX_FILE_BYTES: Final = 65_536
KEPT_SEGMENTS: Final = 64
CONTINUITY: Final = 0.001  # seconds of virtual time
RELOAD_SECONDS: Final = 0.02
SLICE_SECONDS: Final = 0.05
# Below this a sleep may be too short to move a float of unix time at all.
SHORTEST_SLEEP: Final = 0.0001

WallTime = Callable[[], float]


class ClockError(Exception):
    """The clock file or a change asked of it is unusable; one line says which and why."""


class Clock(Protocol):
    """What every service takes time from."""

    def now(self) -> float:
        """The current instant: seconds of (virtual) unix time."""

    def sleep_seconds(self, virtual_instant: float) -> float:
        """Real seconds until ``virtual_instant`` as things stand: 0 if past, inf if never."""


class SystemClock:
    """Wall time as it is."""

    def __init__(self, wall: WallTime = time.time) -> None:
        self._wall = wall

    def now(self) -> float:
        """The current instant: seconds of unix time."""
        return self._wall()

    def sleep_seconds(self, virtual_instant: float) -> float:
        """Real seconds until ``virtual_instant``: 0 if it is past."""
        return max(0.0, virtual_instant - self._wall())


class Segment(NamedTuple):
    """From the wall instant ``wall`` (unix seconds) on, time is ``virtual`` and runs at ``rate``."""

    wall: float
    virtual: float
    rate: float

    def value_at(self, wall: float) -> float:
        """Virtual time at ``wall``; standing still before the segment begins."""
        return self.virtual + self.rate * max(0.0, wall - self.wall)


Schedule = tuple[Segment, ...]  # never empty, ordered by wall


def value_at(schedule: Schedule, wall: float) -> float:
    """Virtual time at the wall instant ``wall``."""
    current = schedule[0]
    for segment in schedule:
        if segment.wall > wall:
            break
        current = segment
    return current.value_at(wall)


def reached_at(schedule: Schedule, virtual: float, after: float) -> float:
    """The first wall instant, not before ``after``, at which time is ``virtual``; inf if never."""
    if value_at(schedule, after) >= virtual:
        return after
    ends = [segment.wall for segment in schedule[1:]] + [math.inf]
    for segment, end in zip(schedule, ends, strict=True):
        start = max(segment.wall, after)
        if end <= start:
            continue
        if segment.value_at(start) >= virtual:
            return start
        if segment.rate > 0:
            reached = segment.wall + (virtual - segment.virtual) / segment.rate
            if reached < end:
                return max(start, reached)
    return math.inf


def parse_schedule(data: bytes) -> Schedule:
    """The schedule in the bytes of a clock file.

    Raises
    ------
    ClockError
        Naming the first problem: size, JSON, shape, a number out of range, order or continuity.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ClockError(f"more than {MAX_FILE_BYTES} bytes")
    try:
        document = json.loads(data, parse_constant=_no_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ClockError(f"not JSON: {str(error)[:200]}") from None
    if not isinstance(document, dict) or document.keys() != {"segments"}:
        raise ClockError('not an object with "segments" alone')
    rows = document["segments"]
    if not isinstance(rows, list) or not rows:
        raise ClockError('"segments" is not a list of at least one segment')
    return _checked(tuple(_segment(index, row) for index, row in enumerate(rows)))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _segment(index: int, row: object) -> Segment:
    if not isinstance(row, dict) or row.keys() != {"wall", "virtual", "rate"}:
        raise ClockError(f'segment {index} is not {{"wall", "virtual", "rate"}}')
    for name, value in row.items():
        limit = MAX_RATE if name == "rate" else MAX_INSTANT
        # type() and not isinstance: True is an int.
        if type(value) not in (int, float) or not 0 <= value <= limit:
            raise ClockError(f"segment {index}: {name} is not a number from 0 to {limit:g}")
    return Segment(float(row["wall"]), float(row["virtual"]), float(row["rate"]))


def _checked(schedule: Schedule) -> Schedule:
    for index, (before, segment) in enumerate(pairwise(schedule), start=1):
        if segment.wall <= before.wall:
            raise ClockError(f"segment {index} does not start after the one before it")
        jump = segment.virtual - before.value_at(segment.wall)
        if abs(jump) > CONTINUITY:
            raise ClockError(f"time jumps by {jump:g} s where segment {index} starts")
    return schedule


# --- reading ---------------------------------------------------------------------------------


class VirtualClock:
    """The virtual time of the file at ``path``, re-read when it changes (looked at every 20 ms).

    A file that becomes unusable later is not believed: the last good schedule goes on, and
    ``problem`` says what is wrong until the file is good again.

    Raises
    ------
    ClockError
        If the file is missing or unusable at the start.
    """

    def __init__(
        self,
        path: Path,
        *,
        wall: WallTime = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._wall = wall
        self._monotonic = monotonic
        self._looked = monotonic()
        self._schedule, self._seen = _read(path)
        self.problem: str | None = None

    def now(self) -> float:
        """The current virtual instant: seconds of unix time."""
        self._refresh()
        return value_at(self._schedule, self._wall())

    def sleep_seconds(self, virtual_instant: float) -> float:
        """Real seconds until ``virtual_instant`` by the known schedule; inf while stopped for good."""
        self._refresh()
        wall = self._wall()
        return max(0.0, reached_at(self._schedule, virtual_instant, wall) - wall)

    def _refresh(self) -> None:
        looked = self._monotonic()
        if looked - self._looked < RELOAD_SECONDS:
            return
        self._looked = looked
        try:
            if _identity(self._path.stat()) != self._seen:
                self._schedule, self._seen = _read(self._path)
            self.problem = None
        except OSError as error:
            self.problem = f"clock file {str(self._path)!r}: {error.strerror}"
        except ClockError as error:
            self.problem = str(error)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> tuple[Schedule, tuple[int, int, int]]:
    try:
        with path.open("rb") as file:
            # The identity is that of the bytes read, even if the file is replaced meanwhile.
            identity = _identity(os.fstat(file.fileno()))
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ClockError(f"clock file {str(path)!r}: {error.strerror}") from None
    try:
        return parse_schedule(data), identity
    except ClockError as error:
        raise ClockError(f"clock file {str(path)!r}: {error}") from None


# --- writing ---------------------------------------------------------------------------------


def create_clock(
    path: Path, start_virtual: float | None, rate: float = 1.0, *, wall: WallTime = time.time
) -> Segment:
    """Make the clock file: from now on time is ``start_virtual`` (None: wall time), at ``rate``.

    Raises
    ------
    ClockError
        If the file exists already (``rebase`` continues a clock) or a value is out of range.
    """
    with _locked(path):
        if path.exists():
            raise ClockError(f"clock file {str(path)!r} exists: use rebase to continue it")
        now = wall()
        segment = Segment(now, now if start_virtual is None else start_virtual, rate)
        _write(path, (segment,))
        return segment


def set_rate(path: Path, rate: float, *, delay: float = 0.3, wall: WallTime = time.time) -> Segment:
    """Let time run at ``rate`` (0 to 1000) from ``delay`` real seconds from now on.

    A change already planned for that instant or later gives way. Answers the segment added.

    Raises
    ------
    ClockError
        If the file is missing or unusable, or ``rate`` or ``delay`` (0 to 60 s) is out of range.
    """
    if type(delay) not in (int, float) or not 0 <= delay <= 60:
        raise ClockError("delay is not a number of seconds from 0 to 60")
    with _locked(path):
        schedule, _ = _read(path)
        now = wall()
        start = now + delay
        segment = Segment(start, value_at(schedule, start), rate)
        # Some of the past stays, for a wall clock that is set back a little.
        kept = [earlier for earlier in schedule if earlier.wall < start]
        past = [earlier for earlier in kept if earlier.wall <= now]
        planned = kept[len(past) :]
        _write(path, (*past[-KEPT_SEGMENTS:], *planned, segment))
        return segment


def stop_clock(path: Path, *, delay: float = 0.0, wall: WallTime = time.time) -> float:
    """Stop time, and answer the virtual instant at which it stands: ``rebase`` goes on from there.

    Raises
    ------
    ClockError
        As ``set_rate``.
    """
    return set_rate(path, 0.0, delay=delay, wall=wall).virtual


def rebase(path: Path, virtual: float, *, rate: float = 1.0, wall: WallTime = time.time) -> Segment:
    """Forget the past: time is ``virtual`` now and runs at ``rate`` (after a restore or a restart).

    The one change that may jump, so no service should be running. Replaces a missing or unusable
    file as well.

    Raises
    ------
    ClockError
        If a value is out of range or the file cannot be written.
    """
    with _locked(path):
        segment = Segment(wall(), virtual, rate)
        _write(path, (segment,))
        return segment


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, in whatever process: hold the lock of ``<path>.lock``."""
    try:
        with path.with_name(path.name + ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise ClockError(f"clock file {str(path)!r}: {error.strerror}") from None


def _write(path: Path, schedule: Schedule) -> None:
    """Replace the file as a whole, on disk when this returns. Call with the lock held."""
    rows = [segment._asdict() for segment in schedule]
    data = json.dumps({"segments": rows}).encode()
    parse_schedule(data)  # what is written can be read
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


# --- waiting ---------------------------------------------------------------------------------

Sleep = Callable[[float], Awaitable[object]]


async def sleep_until(clock: Clock, instant: float, *, sleep: Sleep = asyncio.sleep) -> None:
    """Return once ``clock.now() >= instant``, having yielded to the event loop at least once.

    Sleeps at most 50 ms of real time at once, so that a change of rate is noticed.

    Raises
    ------
    ClockError
        If ``instant`` is not a number.
    """
    if math.isnan(instant):
        raise ClockError("cannot wait until NaN")
    await sleep(0)
    while clock.now() < instant:
        remaining = clock.sleep_seconds(instant)
        await sleep(min(max(remaining, SHORTEST_SLEEP), SLICE_SECONDS))


async def wait_virtual(clock: Clock, seconds: float, *, sleep: Sleep = asyncio.sleep) -> None:
    """Return ``seconds`` of the clock's time from now; see ``sleep_until``."""
    await sleep_until(clock, clock.now() + seconds, sleep=sleep)
