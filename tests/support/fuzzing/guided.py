"""Coverage-guided fuzzing with atheris (libFuzzer): every target in a process of its own.

Responsible for instrumenting our packages once, forking a fuzzer for each target, reading what it did, and keeping what
reached new code. Must not know any target. atheris has wheels for Linux on x86-64 and Python 3.11 to 3.13 only;
elsewhere `missing` says so.
"""

import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import traceback
from base64 import b64encode
from contextlib import redirect_stderr
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fuzzing.cli import PACKAGES

CRASHES = Path("fuzz-findings")
"""Under the working directory: inputs that broke something."""
INPUT_SECONDS = 10
FOUND = 77
MEMORY_MB = 1024
TOLD_BYTES = 4096
"""An input that broke something is printed if it is no larger."""


@dataclass(frozen=True)
class Result:
    """``edges`` reached of our code; ``new`` inputs that reached something; ``told`` the end of the log if it broke."""

    name: str
    executions: int
    edges: int
    new: list[bytes]
    broken: list[Path]
    told: str


def missing() -> str | None:
    """Why there is no fuzzing here; None if there is."""
    if importlib.util.find_spec("atheris") is not None:
        return None
    here = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"atheris is not installed ({here}; it has wheels for Linux x86-64 and Python 3.11 to 3.13)"


def fuzz(name: str | None, seconds: int, jobs: int, *, keep: bool) -> int:
    """Fuzz one target or all for so many seconds each; returns the exit code."""
    import atheris

    # It names every module that it instruments, on standard error.
    nowhere = open(os.devnull, "w")  # noqa: PTH123, SIM115 - no file of ours, closed below
    with nowhere, redirect_stderr(nowhere), atheris.instrument_imports(include=list(PACKAGES)):
        from fuzzing import corpus, targets
    chosen = targets.chosen(name)
    print(f"{len(chosen)} targets, {seconds} s each, {jobs} at once", flush=True)
    begin, results = time.monotonic(), []
    # Not a TemporaryDirectory: a fuzzer that ends in an error would delete it, being a copy of this process.
    place = Path(tempfile.mkdtemp(prefix="layerlab-fuzz-"))
    try:
        waiting = list(chosen)
        running: dict[int, Any] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                target = waiting.pop(0)
                target.seeds()  # made here once, for all who share them
                running[_start(atheris, target, place, seconds)] = target
            pid, status = os.wait()
            target = running.pop(pid)
            result = _read(target, place, status)
            results.append(result)
            _tell(len(results), len(chosen), result)
            if keep and not result.broken:
                known = corpus.load(target)
                corpus.store(target, [*known, *corpus.smallest_cover(target, known, result.new)])
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return _summary(results, time.monotonic() - begin)


def _start(atheris: Any, target: Any, place: Path, seconds: int) -> int:
    """Fork a fuzzer; returns its process id."""
    from fuzzing import corpus

    known, new = place / target.name / "known", place / target.name / "new"
    known.mkdir(parents=True)
    new.mkdir()
    for number, data in enumerate(corpus.load(target)):
        (known / f"{number:03}").write_bytes(data)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    log = os.open(place / target.name / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)

    def one(data: bytes) -> None:
        try:
            target.run(data)
        except Exception:  # noqa: BLE001 - whatever it is, it is a bug
            # Ended here: a fuzzer that unwinds is a copy of this process, and would clean up after it.
            traceback.print_exc()
            sys.stderr.flush()
            (place / target.name / f"broken-error-{sha256(data).hexdigest()[:16]}").write_bytes(data)
            os._exit(FOUND)

    options = {
        "max_total_time": seconds,
        "max_len": target.max_bytes,
        "timeout": INPUT_SECONDS,
        "rss_limit_mb": MEMORY_MB,
        "print_final_stats": 1,
        "seed": 1,
        "artifact_prefix": f"{place / target.name}/broken-",
    }
    atheris.Setup([target.name, *(f"-{k}={v}" for k, v in options.items()), str(new), str(known)], one)
    atheris.Fuzz()  # ends the process
    os._exit(1)


def _read(target: Any, place: Path, status: int) -> Result:
    directory = place / target.name
    log = (directory / "log").read_text(errors="replace")
    edges = [int(number) for number in re.findall(r"cov: (\d+)", log)]
    count = re.findall(r"stat::number_of_executed_units: (\d+)", log)
    broken = []
    for path in sorted(directory.glob("broken-*")):
        CRASHES.mkdir(exist_ok=True)
        broken.append(CRASHES / f"{target.name}-{path.name.removeprefix('broken-')[:30]}")
        shutil.copy(path, broken[-1])
    new = [path.read_bytes() for path in sorted((directory / "new").iterdir())]
    bad = bool(broken) or os.waitstatus_to_exitcode(status) != 0
    executions = int(count[-1]) if count else 0
    return Result(target.name, executions, max(edges, default=0), new, broken, log[-3000:] if bad else "")


def _tell(done: int, count: int, result: Result) -> None:
    told = f"{result.executions} executions, {result.edges} edges, {len(result.new)} new inputs"
    print(f"[{done}/{count}] {result.name:20} {told}{'  BROKEN' if result.told else ''}", flush=True)
    if result.told:
        print(result.told)
        for path in result.broken:
            print(f"repeat it: make fuzz-replay TARGET={result.name} FILE={path}")
            if path.stat().st_size <= TOLD_BYTES:  # who has only this text can repeat it, too
                print(f"the input: base64 -d > {path} <<< {b64encode(path.read_bytes()).decode()}")


def _summary(results: list[Result], seconds: float) -> int:
    executions, edges = sum(r.executions for r in results), sum(r.edges for r in results)
    new, broken = sum(len(r.new) for r in results), [r.name for r in results if r.told]
    idle = [r.name for r in results if not r.told and r.edges < 2]
    print(
        f"{len(results)} targets: {executions} executions, {edges} edges of our code, {new} inputs that reached more, "
        f"{seconds:.0f} s"
    )
    if broken:
        print(f"BROKEN: {', '.join(broken)}")
    if idle:
        print(f"NOTHING REACHED: {', '.join(idle)}")
    return int(bool(broken or idle))
