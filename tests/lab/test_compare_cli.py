"""`layerlab compare` as a process: bad input, runs that fail, and being interrupted half way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest
from stub_devnet import processes_in

from layerlab.lab.compare.results import read_runs

PROGRAM = Path(__file__).parents[1] / "support" / "compare_program.py"
ROOT = Path(__file__).parents[2]


def layerlab(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from layerlab.cli import main; main()", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--models", "sovereign,plasma"], "no model 'plasma'; there are sovereign"),
        (["--models", ""], "no model ''"),
        (["--models", "sovereign,"], "no model ''"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "9007199254740992"], "--seed"),
        (["--seed", "lucky"], "--seed"),
        (["--jobs", "0"], "--jobs"),
        (["--out", "/dev/null/x"], "no results can be kept in '/dev/null/x'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_before_anything_starts(
    tmp_path: Path, words: list[str], says: str
) -> None:
    kept = tmp_path / "results"
    done = layerlab("compare", "--out", str(kept), *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert says in done.stderr
    assert not kept.exists()


# --- interrupted ---


class Running:
    """The CLI on two experiments that hang on real services."""

    def __init__(self, tmp_path: Path, *words: str) -> None:
        self.out, self.marks, self.temporary = (tmp_path / name for name in ("out", "marks", "tmp"))
        for path in (self.marks, self.temporary):
            path.mkdir()
        places = {"TMPDIR": str(self.temporary), "LAYERLAB_TEST_MARKS": str(self.marks)}
        self.errors = tmp_path / "stderr"
        self._file: IO[bytes] = self.errors.open("wb")
        self.child = subprocess.Popen(
            [
                sys.executable,
                str(PROGRAM),
                "compare",
                "--models",
                "sovereign",
                "--out",
                str(self.out),
                *words,
            ],
            stdout=subprocess.PIPE,
            stderr=self._file,
            env={**os.environ, **places, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    def wait_for_marks(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(list(self.marks.iterdir())) < count:
            assert self.child.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, self.errors.read_text()
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> int:
        self.child.send_signal(number)
        self.child.communicate(timeout=60)
        self._file.close()
        return self.child.returncode

    @property
    def directory(self) -> Path:
        (found,) = self.out.iterdir()
        return found


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_interrupted_half_way_nothing_is_left_running_and_nothing_measured_is_lost(
    tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    running = Running(tmp_path)
    running.wait_for_marks(2)
    assert len(processes_in(running.temporary)) == 2  # two experiments at once, a service each
    assert running.end(number) == code
    assert processes_in(running.temporary) == []
    assert list(running.temporary.iterdir()) == []
    (record,) = read_runs(running.directory / "runs.jsonl")
    assert (record["kind"], record["verdict"], record["seed"]) == ("workload", "measured", 7)
    assert "2 of its runs are missing" in (running.directory / "report.html").read_text()
    assert (running.directory / "table.csv").exists()
    last = running.errors.read_text().strip().splitlines()[-1]
    assert last == f"{word}; nothing is left running; what was measured is in {running.directory}"


def test_interrupted_while_services_start(tmp_path: Path) -> None:
    running = Running(tmp_path, "--jobs", "1")
    deadline = time.monotonic() + 60
    while not processes_in(running.temporary):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert running.end(signal.SIGINT) == 130
    assert processes_in(running.temporary) == []
    assert list(running.temporary.iterdir()) == []


def test_one_job_at_a_time_is_one_devnet_at_a_time(tmp_path: Path) -> None:
    running = Running(tmp_path, "--jobs", "1", "--json")
    running.wait_for_marks(1)
    assert len(processes_in(running.temporary)) == 1
    assert running.end(signal.SIGTERM) == 143


# --- runs that fail ---


FAILING: str = """
import sys
from layerlab.cli import compare, main
from layerlab.lab.compare import runner
from layerlab.world import StepFailed

class Fails:
    name, question = "fails", "?"
    hypothesis = control = {"sovereign": "x"}
    def __init__(self, error): self.error = error
    def config(self, model, control): raise self.error
    async def run(self, world, control): ...

async def no_workload(*_):
    return {"assumptions": {}, "measured": {}}

compare.EXPERIMENTS = {"fails": Fails(StepFailed("not today")), "breaks": Fails(KeyError("a bug"))}
runner.measure = no_workload
main()
"""


def test_a_run_that_fails_is_unknown_the_rest_goes_on_and_the_exit_code_is_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILING, "compare", "--models", "sovereign", "--json", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 1
    document: dict[str, Any] = json.loads(done.stdout)
    by_name = {run["experiment"]: run for run in document["runs"]}
    assert by_name[""]["verdict"] == "measured"
    assert by_name["fails"]["verdict"] == by_name["breaks"]["verdict"] == "unknown"
    assert "not today" in by_name["fails"]["error"]
    assert "a bug" in by_name["breaks"]["error"]
    assert "2 of 3 runs gave no answer" in done.stderr
    assert read_runs(Path(document["directory"]) / "runs.jsonl") == document["runs"]
