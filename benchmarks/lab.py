"""What every benchmark is given and gives back.

Responsible for the shapes alone. Must not know any benchmark.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from benchmarks.machine import Limits

Kind = Literal["rate", "time", "plain"]
"""How a figure is put beside the signature limit: a rate as a share of the two-process limit, a time (seconds) in
verifications of one signature, anything else not at all."""


@dataclass(frozen=True)
class Figure:
    """One measured number. ``unit`` as the table shows it; a time is in ``scale`` parts of a second."""

    value: float
    unit: str
    kind: Kind = "plain"
    scale: float = 1.0

    def ratio(self, limits: Limits) -> float | None:
        """A rate over the two-process signature limit; a time over the CPU time of one verification."""
        if self.kind == "rate":
            return self.value / limits.verify_2_processes
        if self.kind == "time":
            return self.value / self.scale / limits.verify_cpu_seconds
        return None


def rate(value: float, unit: str = "transfers/s") -> Figure:
    return Figure(value, unit, "rate")


def milliseconds(seconds: float) -> Figure:
    return Figure(seconds * 1e3, "ms", "time", 1e3)


def microseconds(seconds: float) -> Figure:
    return Figure(seconds * 1e6, "us", "time", 1e6)


def plain(value: float, unit: str) -> Figure:
    return Figure(value, unit)


class SkippedError(Exception):
    """The benchmark cannot run on this machine; one line says why."""


@dataclass
class Lab:
    """``quick``: in miniature, only to see that it runs."""

    quick: bool
    say: Callable[[str], None]
    scratch: Path
    workers: int | None = None
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def note(self, text: str) -> None:
        """A sentence that stands beside the figures."""
        if text not in self.notes:
            self.notes.append(text)

    def sequencer_options(self) -> dict[str, list[str]]:
        """What ``--workers`` adds to the command lines of rollup nodes."""
        if self.workers is None:
            return {}
        return {name: ["--workers", str(self.workers)] for name in ("sequencer", "verifier")}


Figures = dict[str, Figure]


class Benchmark(Protocol):
    """A module of this package with a ``run``; its docstring says what it measures and how."""

    __name__: str
    __doc__: str | None

    def run(self, lab: Lab) -> Figures:
        """Measure once."""
