"""Running benchmarks: each a few times, the machine's limits measured beside each time, one result line for each.

Responsible for order, repetition, medians and for going on when one fails. Must not know what any of them measures.
"""

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx

from benchmarks.lab import Figures, Lab, SkippedError
from benchmarks.load import LoadError
from benchmarks.machine import Gauge, Limits, describe, load_average
from layerlab.config import DevnetError

NAMES: Final = (
    "l2_bulk",
    "l2_single",
    "anvil",
    "l1_final",
    "latency",
    "deposit",
    "verifier",
    "bytes_on_l1",
    "full_stack",
    "one_step",
    "dispute",
    "state_root",
    "submission_check",
    "start",
    "million",
)
"""In the order in which they run; each is a module of this package."""
SIDE_BY_SIDE: Final = ("l2_bulk", "l2_single", "anvil", "verifier")
"""Compared with each other: they take turns, so that each has its share of a minute in which the machine is slow."""
LIMIT_SECONDS, QUICK_LIMIT_SECONDS = 0.4, 0.1

Line = dict[str, Any]


def run_all(
    names: Sequence[str], *, repeat: int, quick: bool, workers: int | None, say: Callable[[str], None]
) -> Iterator[Line]:
    """Run each benchmark ``repeat`` times; yields its line as soon as it is done."""
    about = describe()
    numbers = {name: number for number, name in enumerate(names, 1)}
    with Gauge(QUICK_LIMIT_SECONDS if quick else LIMIT_SECONDS) as gauge:
        for group in _groups(names):
            series = [_Series(name, gauge, quick=quick, workers=workers, say=say) for name in group]
            for attempt in range(1, repeat + 1):
                for one in series:
                    title = f"{one.name} ({numbers[one.name]} of {len(names)})"
                    one.run(title if repeat == 1 else f"{title}, {attempt} of {repeat}")
            for one in series:
                yield {**about, **one.line(repeat)}


def _groups(names: Sequence[str]) -> list[list[str]]:
    """What is compared with each other together, where the first of it stands; all else alone."""
    together = [name for name in names if name in SIDE_BY_SIDE]
    first = together[:1]
    return [together if name in first else [name] for name in names if name in first or name not in together]


class _Series:
    """The repetitions of one benchmark."""

    def __init__(
        self, name: str, gauge: Gauge, *, quick: bool, workers: int | None, say: Callable[[str], None]
    ) -> None:
        self.name = name
        self._module = importlib.import_module(f"benchmarks.{name}")
        self._gauge, self._quick, self._workers, self._say = gauge, quick, workers, say
        self._outcome, self._reason = "measured", ""
        self._loads, self._seconds = list[float](), 0.0
        self._found = list[tuple[Figures, Limits]]()
        self._notes, self._details = list[str](), list[dict[str, Any]]()

    def run(self, title: str) -> None:
        """Measure once, unless it could not be done before."""
        if self._outcome != "measured":
            return
        self._say(title)
        begin = time.monotonic()
        if not self._loads:
            self._loads.append(load_average())
        before = self._gauge.measure()
        with tempfile.TemporaryDirectory(prefix="layerlab-bench-") as scratch:
            lab = Lab(self._quick, self._say, Path(scratch), self._workers, self._notes)
            try:
                figures = self._module.run(lab)
            except SkippedError as why:
                self._outcome, self._reason = "skipped", str(why)
            except (LoadError, DevnetError, httpx.HTTPError, OSError) as error:
                self._outcome, self._reason = "failed", f"{type(error).__name__}: {error}"
            else:
                self._found.append((figures, Limits.mean([before, self._gauge.measure()])))
                self._details.append(lab.details)
                self._loads.append(load_average())
        self._seconds += time.monotonic() - begin

    def line(self, repeat: int) -> Line:
        """What was found. Frees what the benchmark kept between two runs."""
        getattr(self._module, "forget", lambda: None)()
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "benchmark": self.name,
            "outcome": self._outcome,
            "reason": self._reason,
            "quick": self._quick,
            "repeat": repeat,
            "workers": self._workers,
            "seconds": round(self._seconds, 1),
            "load_average": [round(load, 2) for load in self._loads],
            "limits": Limits.mean([limits for _, limits in self._found]).to_json() if self._found else None,
            "figures": _medians(self._found),
            "details": self._details,
            "notes": self._notes,
        }


def _medians(found: Sequence[tuple[Figures, Limits]]) -> dict[str, Any]:
    """For each figure its median, all of its values, and the median of its ratios to the limit beside each."""
    shown: dict[str, Any] = {}
    for name in found[0][0] if found else ():
        figures = [(figures[name], limits) for figures, limits in found]
        first = figures[0][0]
        ratios = [ratio for figure, limits in figures if (ratio := figure.ratio(limits)) is not None]
        shown[name] = {
            "median": median(figure.value for figure, _ in figures),
            "values": [figure.value for figure, _ in figures],
            "unit": first.unit,
            "kind": first.kind,
            "ratio": median(ratios) if ratios else None,
        }
    return shown
