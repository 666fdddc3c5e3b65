"""A devnet's time: the one clock that its services share, through being up, down, crashed and in a hurry.

Responsible for what becomes of the clock file at each of these. Must not know what runs by it.

While a devnet is down its time stands still, and goes on from that instant: validators do not find days of empty
slots.
"""

import time
from contextlib import suppress
from typing import Final

from chainkit.clock import (
    MAX_FILE_BYTES,
    ClockError,
    Schedule,
    create_clock,
    parse_schedule,
    rebase,
    set_rate,
    value_at,
)
from layerlab.config import DevnetError
from layerlab.layout import Layout

CHANGE_SECONDS: Final = 0.2
"""A change of the rate takes effect so much later: every service has read it by then."""
WARP_SECONDS: Final = 5.0
"""A warp that is killed leaves time running fast for so long at most."""
CRASH_MARGIN_SECONDS: Final = 2.0
"""Services were at work at most so much longer than their last write tells."""


class DevnetTime:
    """The clock file of a devnet. Every method raises `DevnetError` if it is missing or unusable."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._file = layout.clock_file

    def create(self, instant: float) -> None:
        """Make the clock; it stands at ``instant`` (seconds since 1970)."""
        try:
            create_clock(self._file, instant, 0.0)
        except ClockError as error:
            raise DevnetError(str(error)) from None

    def begin(self) -> None:
        """Let time run if it stands; if it runs already, it goes on as it does."""
        if self.schedule()[-1].rate == 0.0:
            self.set_rate(1.0)

    def schedule(self) -> Schedule:
        """What the file says."""
        try:
            with self._file.open("rb") as file:
                return parse_schedule(file.read(MAX_FILE_BYTES + 1))
        except OSError as error:
            raise DevnetError(f"clock file {str(self._file)!r}: {error.strerror}") from None
        except ClockError as error:
            raise DevnetError(f"clock file {str(self._file)!r}: {error}") from None

    def now(self) -> tuple[float, float]:
        """The virtual instant, and the rate at which time runs now."""
        schedule, wall = self.schedule(), time.time()
        begun = [segment for segment in schedule if segment.wall <= wall]
        return value_at(schedule, wall), begun[-1].rate if begun else 0.0

    def standing(self) -> float:
        """The virtual instant from which a devnet that is down goes on.

        After a crash of all services the file lets time run on without them; their last write is what counts.
        """
        schedule, wall = self.schedule(), time.time()
        if schedule[-1].rate == 0.0:
            return schedule[-1].virtual
        last = self._layout.last_write()
        return value_at(schedule, wall if last is None else min(wall, last + CRASH_MARGIN_SECONDS))

    def settle(self) -> None:
        """Time stands where it stopped. For a devnet that is down."""
        self.stand_at(self.standing())

    def stand_at(self, instant: float) -> None:
        """Time stands at ``instant``, whatever it was. For a devnet that is down."""
        try:
            rebase(self._file, instant, rate=0.0)
        except ClockError as error:
            raise DevnetError(str(error)) from None

    def stop(self) -> None:
        """Time stops in a moment, for all services alike."""
        self._set(0.0, CHANGE_SECONDS / 2)

    def set_rate(self, rate: float) -> None:
        """Time runs ``rate`` times as fast as real time, for all services alike."""
        self._set(rate, CHANGE_SECONDS)

    def wait_running(self) -> None:
        """Return when time runs, of which `set_rate` spoke in advance."""
        while self.now()[1] == 0.0:
            time.sleep(CHANGE_SECONDS / 10)

    def run(self, rate: float) -> None:
        """Time runs at ``rate`` for a few seconds, then at 1 again unless this is called again."""
        self._set(rate, CHANGE_SECONDS)
        self._set(1.0, WARP_SECONDS)

    def normal(self) -> None:
        """Time runs at 1 again; quietly, for this is how things end, also those that went wrong."""
        with suppress(DevnetError):
            self._set(1.0, CHANGE_SECONDS)

    def _set(self, rate: float, delay: float) -> None:
        try:
            set_rate(self._file, rate, delay=delay)
        except ClockError as error:
            raise DevnetError(str(error)) from None
