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
LIMIT_SECONDS, QUICK_LIMIT_SECONDS = 0.4, 0.1

Line = dict[str, Any]


def run_all(
    names: Sequence[str], *, repeat: int, quick: bool, workers: int | None, say: Callable[[str], None]
) -> Iterator[Line]:
    """Run each benchmark ``repeat`` times; yields its line as soon as it is done."""
    about = describe()
    with Gauge(QUICK_LIMIT_SECONDS if quick else LIMIT_SECONDS) as gauge:
        for number, name in enumerate(names, 1):
            title = f"{name} ({number} of {len(names)})"
            yield {
                **about,
                **_measure(name, title, gauge, repeat=repeat, quick=quick, workers=workers, say=say),
            }


def _measure(
    name: str,
    title: str,
    gauge: Gauge,
    *,
    repeat: int,
    quick: bool,
    workers: int | None,
    say: Callable[[str], None],
) -> Line:
    module = importlib.import_module(f"benchmarks.{name}")
    loads, limits, found = [load_average()], list[Limits](), list[tuple[Figures, Limits]]()
    notes: list[str] = []
    outcome, reason, details = "measured", "", list[dict[str, Any]]()
    begin = time.monotonic()
    for attempt in range(1, repeat + 1):
        say(title if repeat == 1 else f"{title}, {attempt} of {repeat}")
        before = gauge.measure()
        with tempfile.TemporaryDirectory(prefix="layerlab-bench-") as scratch:
            lab = Lab(quick, before, say, Path(scratch), workers, notes)
            try:
                figures = module.run(lab)
            except SkippedError as why:
                outcome, reason = "skipped", str(why)
                break
            except (LoadError, DevnetError, httpx.HTTPError, OSError) as error:
                outcome, reason = "failed", f"{type(error).__name__}: {error}"
                break
        beside = Limits.mean([before, gauge.measure()])
        limits.append(beside)
        loads.append(load_average())
        details.append(lab.details)
        found.append((figures, beside))
    getattr(module, "forget", lambda: None)()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "benchmark": name,
        "outcome": outcome,
        "reason": reason,
        "quick": quick,
        "repeat": repeat,
        "workers": workers,
        "seconds": round(time.monotonic() - begin, 1),
        "load_average": [round(load, 2) for load in loads],
        "limits": Limits.mean(limits).to_json() if limits else None,
        "figures": _medians(found),
        "details": details,
        "notes": notes,
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
