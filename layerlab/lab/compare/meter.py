"""What a devnet's services have used so far: processes, CPU time and bytes stored.

Responsible for reading that off the operating system, the same way for every service. Must not know what the services
do, nor what they are compared with.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from layerlab.devnet import Devnet

_SIDE_FILES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Reading:
    """By service: processes, CPU-seconds since its start (user and system, children included), bytes stored.

    ``instant`` is in seconds of the machine's own steady clock.
    """

    instant: float
    processes: Mapping[str, int]
    cpu: Mapping[str, float]
    stored: Mapping[str, int]


@dataclass(frozen=True)
class Use:
    """What was used between two readings, by service: CPU-seconds, bytes; ``seconds`` of real time."""

    seconds: float
    cpu: Mapping[str, float]
    stored: Mapping[str, int]


def read(devnet: Devnet) -> Reading:
    """Where every service of the devnet stands now; one that does not run has used nothing."""
    names = devnet.config.services
    found = {name: list(_processes(devnet, name)) for name in names}
    return Reading(
        instant=time.monotonic(),
        processes={name: len(found[name]) for name in names},
        cpu={name: sum(map(_cpu, found[name])) for name in names},
        stored={name: stored_bytes(devnet.layout.data(name)) for name in names},
    )


def between(first: Reading, last: Reading) -> Use:
    """What was used from one reading to a later one."""
    return Use(
        seconds=last.instant - first.instant,
        cpu={name: last.cpu[name] - first.cpu.get(name, 0.0) for name in last.cpu},
        stored={name: last.stored[name] - first.stored.get(name, 0) for name in last.stored},
    )


def without_idle(use: Use, idle: Use) -> Use:
    """``use`` less what the same services use in as much time when nobody asks anything of them; never below zero."""
    share = use.seconds / idle.seconds if idle.seconds else 0.0
    return Use(
        seconds=use.seconds,
        cpu={name: max(0.0, value - share * idle.cpu.get(name, 0.0)) for name, value in use.cpu.items()},
        stored={
            name: max(0, value - round(share * idle.stored.get(name, 0)))
            for name, value in use.stored.items()
        },
    )


def _processes(devnet: Devnet, name: str) -> Iterator[psutil.Process]:
    running = devnet.supervisor.running.get(name)
    process = None if running is None else running.process()
    if process is not None:
        yield process
        with suppress(psutil.Error):
            yield from process.children(recursive=True)


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float(times.user + times.system + ended)


def stored_bytes(directory: Path) -> int:
    """Bytes that a service keeps there. A database counts by its pages in use: its log is space to work in."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            if path.is_file() and not path.name.endswith(_SIDE_FILES):
                total += _database_bytes(path) if path.suffix == ".db" else path.stat().st_size
    return total


def _database_bytes(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5.0)) as database:
            pages, free, size = (
                int(database.execute(f"PRAGMA {what}").fetchone()[0])
                for what in ("page_count", "freelist_count", "page_size")
            )
    except sqlite3.Error:
        return path.stat().st_size
    return (pages - free) * size
