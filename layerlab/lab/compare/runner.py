"""Running a comparison: the workloads one after the other, then the experiments a few at a time.

Responsible for the order, for what becomes of a run that fails, and for each run's record. Must not know where
records go, nor what they are made into.
"""

import asyncio
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Protocol

import psutil

from layerlab.lab.compare.measure import Size, assumptions, measure
from layerlab.lab.compare.plan import Job
from layerlab.lab.experiment import FAILURES, Experiment, run_experiment

Record = dict[str, Any]
RUN_SECONDS: Final = 300.0
"""A run that takes longer gives no answer."""
PACKAGES: Final = ("layerlab", "pynacl", "msgspec", "uvloop", "fastapi", "httpx")


class Watcher(Protocol):
    """Told what happens; every method returns at once."""

    def started(self, job: Job) -> None: ...
    def says(self, job: Job, line: str) -> None: ...
    def ended(self, job: Job, record: Record) -> None: ...


@dataclass(frozen=True)
class Settings:
    """``parallel`` experiments at a time."""

    seed: int
    size: Size
    parallel: int
    experiments: Mapping[str, Experiment]


async def run_all(jobs: Sequence[Job], settings: Settings, watcher: Watcher) -> None:
    """Run all jobs; each one's record goes to ``watcher`` as soon as it is there.

    A run that fails is a record with the verdict ``unknown``. When this is cancelled, or ``watcher`` raises,
    nothing is left running.
    """
    facts = surroundings()
    for job in jobs:
        if job.kind == "workload":
            await _run(job, settings, facts, watcher)
    waiting = iter([job for job in jobs if job.kind == "experiment"])

    async def work() -> None:
        for job in waiting:
            await _run(job, settings, facts, watcher)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(settings.parallel):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _run(job: Job, settings: Settings, facts: Mapping[str, Any], watcher: Watcher) -> None:
    watcher.started(job)
    begin, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    told: Record = {"run": secrets.token_hex(4), "verdict": "unknown", "error": ""}
    try:
        async with asyncio.timeout(RUN_SECONDS) as limit:
            told |= await _measured(job, settings, lambda line: watcher.says(job, line))
    except FAILURES as error:
        told["error"] = str(error)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one run, the others go on
        late = f"no answer after {RUN_SECONDS:g} s"
        told["error"] = late if limit.expired() else f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - begin, 1)
    about = {"kind": job.kind, "model": job.model, "experiment": job.experiment, "seed": settings.seed}
    watcher.ended(job, {**about, **told, "started": started, "seconds": seconds, **facts})


async def _measured(job: Job, settings: Settings, say: Callable[[str], None]) -> Record:
    if job.kind == "workload":
        found = await measure(job.model, settings.size, settings.seed, say)
        return {"verdict": "measured", **found}
    experiment = settings.experiments[job.experiment]
    report = (await run_experiment(experiment, job.model, settings.seed, say)).to_json()
    errors = [trial["error"] for trial in report["trials"] if trial["error"]]
    assumed = assumptions(experiment.config(job.model, False))
    return {**report, "error": "; ".join(errors), "assumptions": assumed}


def surroundings() -> dict[str, Any]:
    """What the figures were taken with and on: commit, versions, machine."""
    return {"commit": commit(), "versions": _versions(), "machine": asdict(_machine())}


@dataclass(frozen=True)
class Machine:
    cores: int
    processor: str
    memory_bytes: int
    system: str


def _machine() -> Machine:
    return Machine(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        _processor(),
        psutil.virtual_memory().total,
        platform.system(),
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of this code, with ``+changes`` if files differ from it; None if there is no git."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
