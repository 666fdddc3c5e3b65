"""A copy of the tree in which one mutant at a time stands, and the processes that test it.

Responsible for copying, for applying and taking back a change so that it is really what runs, and for running tests
there in bounded time. Must not know what their outcome means. The tree that is copied is never written to.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutants.catalogue import SEED, Mutant

HERE = Path(__file__).parent
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".hypothesis", ".*_cache", "__pycache__", "*.egg-info", "build", "comparison"
)
_OPTIONS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "-n0",
    "-p",
    "mutants_guard",
    "-p",
    "no:schemathesis",
    "--tb=short",
)
_PLUGINS = {"hypothesis": "hypothesispytest", "anyio": "anyio"}
"""Plugins that take half of a short run to import, left out where no test names what they are for."""

_SEED_TEST = re.compile(r"(?:.*test_seeds\.py)?::test_seed\[([0-9]+)\]")


@dataclass(frozen=True)
class TestRun:
    """What a run of pytest said. ``code`` is its exit code, None if it was ended for taking too long.

    ``seconds`` are those of a clock, ``cpu`` those of a core, which depend less on what else the machine does.
    """

    code: int | None
    seconds: float
    cpu: float
    tests: list[dict[str, Any]] = field(default_factory=list)
    collect: list[dict[str, Any]] = field(default_factory=list)
    imports: dict[str, Any] | None = None
    output: str = ""


class Workspace:
    """A copy of ``source`` below ``directory``, for one job. Tests of one run after another never share anything."""

    def __init__(self, source: Path, directory: Path) -> None:
        self.source = source.resolve()
        self.root = directory / "tree"
        self._plugin = directory / "plugin"
        self._scratch = directory / "scratch"
        self._running: int | None = None
        self._ended = False
        shutil.copytree(self.source, self.root, ignore=NOT_COPIED, symlinks=True)
        self._plugin.mkdir(parents=True)
        shutil.copy(HERE / "guard.py", self._plugin / "mutants_guard.py")
        shutil.copy(HERE / "seed_case.py", self._plugin / "test_seeds.py")

    def end(self) -> None:
        """End what runs here, and whatever would be run after it. May be called from another thread."""
        self._ended = True
        running = self._running
        if running is not None:
            _end(running)

    @contextmanager
    def applied(self, mutant: Mutant) -> Iterator[None]:
        """The mutant in its place, and the file as it was again afterwards. Raises `StaleMutantError`, `OSError`."""
        file = self.root / mutant.file
        before = file.read_bytes()
        changed = mutant.applied(before.decode("utf-8"))
        try:
            self._write(file, changed.encode("utf-8"))
            yield
        finally:
            self._write(file, before)

    @staticmethod
    def _write(file: Path, data: bytes) -> None:
        """Python trusts what it compiled if size and second of a file are the same: so forget it."""
        for compiled in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
            compiled.unlink()
        file.write_bytes(data)

    def run(
        self, tests: Sequence[str], *, mutant: Mutant | None, seconds: float, stop: bool = True
    ) -> TestRun:
        """Run tests (node ids, or ``seed N``) in the copy; with ``stop`` only up to the first failure."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        report = self._scratch / "report"
        seeds = [match[1] for test in tests if (match := SEED.fullmatch(test))]
        nodes = [test for test in tests if not SEED.fullmatch(test)]
        nodes += [f"{self._plugin}/test_seeds.py"] if seeds else []
        command = [
            sys.executable,
            "-m",
            "pytest",
            *_OPTIONS,
            *self._left_out(tests),
            *(["-x"] if stop else []),
        ]
        command += [f"--rootdir={self.root}", f"--basetemp={self._scratch}/tmp", *nodes]
        code, took, cpu, output = self._finish(command, self._environment(report, mutant, seeds), seconds)
        lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
        said = [json.loads(line) for line in lines]
        for entry in said:
            entry["test"] = _short(entry.get("test", ""))
        return TestRun(
            code,
            took,
            cpu,
            [entry for entry in said if entry["kind"] == "test"],
            [entry for entry in said if entry["kind"] == "collect"],
            next((entry for entry in said if entry["kind"] == "imports"), None),
            output[-4000:],
        )

    def _left_out(self, tests: Sequence[str]) -> list[str]:
        files = {self.root / test.partition("::")[0] for test in tests}
        files |= {file.with_name("conftest.py") for file in files}
        text = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
        return [
            word for name, plugin in _PLUGINS.items() if name not in text for word in ("-p", f"no:{plugin}")
        ]

    def _environment(self, report: Path, mutant: Mutant | None, seeds: Sequence[str]) -> dict[str, str]:
        taken = ("PYTEST_", "MUTANTS_", "COVERAGE_", "HYPOTHESIS_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(taken)}
        environment |= {
            # In front of what is installed: `pip install -e` comes after PYTHONPATH. The plugin checks that it is so.
            "PYTHONPATH": os.pathsep.join(
                map(str, (self.root, self.root / "tests" / "support", self._plugin))
            ),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self._scratch / "hypothesis"),
            "MUTANTS_ROOT": str(self.root),
            "MUTANTS_SOURCE": str(self.source),
            "MUTANTS_REPORT": str(report),
            "MUTANTS_SEEDS": ",".join(seeds),
        }
        if mutant is not None:
            environment["MUTANTS_FILE"] = mutant.file
            environment["MUTANTS_SHA256"] = hashlib.sha256((self.root / mutant.file).read_bytes()).hexdigest()
        return environment

    def _finish(
        self, command: Sequence[str], environment: dict[str, str], seconds: float
    ) -> tuple[int | None, float, float, str]:
        """Exit code (None: it took too long), seconds, CPU seconds and output. Nothing that was started lives on."""
        began = time.monotonic()
        log = self._scratch / "output"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running = process.pid
        code: int | None = None
        usage = None
        try:
            while usage is None and not self._ended and time.monotonic() - began < seconds:
                pid, status, found = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    code, usage = os.waitstatus_to_exitcode(status), found
                else:
                    time.sleep(0.02)
        finally:
            self._running = None
            _end(process.pid)
            if usage is None:
                _, _, usage = os.wait4(process.pid, 0)
            process.returncode = -signal.SIGKILL if code is None else code
        took = time.monotonic() - began
        return code, took, usage.ru_utime + usage.ru_stime, log.read_text(encoding="utf-8", errors="replace")


def _end(group: int) -> None:
    """End a process and all that it started in its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _short(node: str) -> str:
    """A test's id as mutants name it. Pytest gives no file to what lies outside the tree."""
    seed = _SEED_TEST.fullmatch(node)
    return f"seed {seed[1]}" if seed else node
