"""What the machine is, and what it can do at most: the limits beside which every figure is put.

Responsible for the signature rate on one thread, two threads and two processes, for the rate of SHA-256, and for
naming machine, commit and versions. Must not know any service.
"""

import hashlib
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Final, Self

import psutil

from chainkit.keys import KeyPair, verify

PACKAGES: Final = (
    "pynacl",
    "msgspec",
    "uvloop",
    "httptools",
    "uvicorn",
    "fastapi",
    "starlette",
    "httpx",
    "psutil",
)
_ITEMS: Final = 256
_PARALLEL: Final = 2


@dataclass(frozen=True)
class Limits:
    """Verified Ed25519 signatures and hashes of 64 bytes a second, and CPU seconds of one verification."""

    verify_1_thread: float
    verify_2_threads: float
    verify_2_processes: float
    sha256_64: float
    verify_cpu_seconds: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def mean(cls, several: Sequence["Limits"]) -> "Limits":
        """Field by field."""
        rows = [asdict(one) for one in several]
        return cls(**{name: fmean(row[name] for row in rows) for name in rows[0]})


@cache
def _signed() -> list[tuple[bytes, bytes, bytes]]:
    """Distinct keys and messages of 32 bytes, as transactions have."""
    items = []
    for i in range(_ITEMS):
        key, message = KeyPair(hashlib.sha256(b"limit %d" % i).digest()), hashlib.sha256(b"%d" % i).digest()
        items.append((key.address, message, key.sign(message)))
    return items


def _verify_for(seconds: float) -> tuple[float, float]:
    """Signatures a second of wall time and CPU seconds a signature, of this thread."""
    items, done = _signed(), 0
    wall, cpu = time.perf_counter(), time.thread_time()
    while (spent := time.perf_counter() - wall) < seconds:
        for item in items[:64]:
            if not verify(*item):
                raise AssertionError("a good signature was refused")
        done += 64
    return done / spent, (time.thread_time() - cpu) / done


def _hash_for(seconds: float) -> float:
    """SHA-256 of 64 bytes a second."""
    data, done, sha256 = b"\x5a" * 64, 0, hashlib.sha256
    begin = time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        for _ in range(1000):
            sha256(data).digest()
        done += 1000
    return done / spent


def process_pool(count: int | None = None) -> ProcessPoolExecutor:
    """Fresh processes that leave Ctrl-C to us."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_ignore_ctrl_c)


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Gauge:
    """Measures `Limits`; keeps its two processes at hand. ``seconds`` is for each of the four limits."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._processes = process_pool(_PARALLEL)
        self._threads = ThreadPoolExecutor(_PARALLEL)

    def measure(self) -> Limits:
        """Takes some four times ``seconds``."""
        _signed()
        alone, cpu = _verify_for(self._seconds)
        return Limits(
            verify_1_thread=alone,
            verify_2_threads=self._together(self._threads),
            verify_2_processes=self._together(self._processes),
            sha256_64=_hash_for(self._seconds / 2),
            verify_cpu_seconds=cpu,
        )

    def _together(self, executor: Executor) -> float:
        list(executor.map(_warm, [0.05] * _PARALLEL))  # both are up, the items are there
        return sum(rate for rate, _ in executor.map(_verify_for, [self._seconds] * _PARALLEL))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._processes.shutdown(wait=kind is None, cancel_futures=True)


def _warm(seconds: float) -> None:
    _verify_for(seconds)


# --- what it is ---


def describe() -> dict[str, Any]:
    """Machine, commit, Python and packages."""
    return {
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count() or 1,
            "memory_bytes": psutil.virtual_memory().total,
            "system": platform.system(),
        },
        "commit": _git("rev-parse", "--short=12", "HEAD") or "unknown",
        "changed_files": len(_git("status", "--porcelain", "--untracked-files=no").splitlines()),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def load_average() -> float:
    """Of the last minute: how many wanted a core."""
    return os.getloadavg()[0]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of this process for ``work``."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu
