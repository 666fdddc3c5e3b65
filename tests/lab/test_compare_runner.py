"""Running a comparison: workloads alone, experiments a few at a time, and what becomes of a run that fails."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from layerlab.config import DevnetConfig
from layerlab.lab.compare import runner
from layerlab.lab.compare.measure import QUICK
from layerlab.lab.compare.plan import Job
from layerlab.lab.compare.results import ResultsError
from layerlab.lab.experiment import Experiment, Outcome, Report, Seen, Trial
from layerlab.world import StepFailed, World

MODELS = ("sovereign", "optimistic")


class Fake:
    """An experiment that is never run: `Stage.experiment` stands in."""

    question = "?"
    hypothesis: Mapping[str, str] = dict.fromkeys(MODELS, "it holds")
    control: Mapping[str, str] = dict.fromkeys(MODELS, "nothing")

    def __init__(self, name: str) -> None:
        self.name = name

    def config(self, model: str, control: bool) -> DevnetConfig:
        return DevnetConfig(model=model)

    async def run(self, world: World, control: bool) -> Seen:
        raise NotImplementedError


class Stage:
    """Stands in for workload and experiments, and sees what runs beside what; also the watcher."""

    def __init__(self, errors: Mapping[str, Exception] | None = None) -> None:
        self.errors = errors or {}
        self.now: list[str] = []
        self.beside: dict[str, int] = {}
        self.cancelled: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.hangs = False
        self.full = False

    async def _play(self, name: str) -> None:
        self.now.append(name)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
                self.beside[name] = max(self.beside.get(name, 0), len(self.now) - 1)
            if self.hangs:
                await asyncio.Event().wait()
            if name in self.errors:
                raise self.errors[name]
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        finally:
            self.now.remove(name)

    async def workload(self, model: str, *_: object) -> dict[str, Any]:
        await self._play(model)
        return {"measured": {}, "assumptions": {}}

    async def experiment(
        self, experiment: Experiment, model: str, seed: int, say: Callable[[str], None]
    ) -> Report:
        say("trial: it runs")
        await self._play(experiment.name)
        outcome = Outcome(100, 1.0, "nobody")
        sides = tuple(
            Trial(control, Seen(not control, "seen", outcome), "", 1.0) for control in (False, True)
        )
        return Report("cafe0000", experiment, model, seed, sides)

    def started(self, job: Job) -> None: ...

    def says(self, job: Job, line: str) -> None: ...

    def ended(self, job: Job, record: dict[str, Any]) -> None:
        if self.full and job.kind == "experiment":
            raise ResultsError("no space left")
        self.records.append(record)


NAMES = tuple(f"e{i}" for i in range(6))
JOBS = [
    *(Job("workload", model) for model in MODELS),
    *(Job("experiment", "sovereign", name) for name in NAMES),
]


def settings(parallel: int) -> runner.Settings:
    return runner.Settings(7, QUICK, parallel, {name: Fake(name) for name in NAMES})


def run(stage: Stage, monkeypatch: pytest.MonkeyPatch, parallel: int = 2) -> None:
    stand_in(stage, monkeypatch)
    asyncio.run(runner.run_all(JOBS, settings(parallel), stage))


def stand_in(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "measure", stage.workload)
    monkeypatch.setattr(runner, "run_experiment", stage.experiment)


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_workloads_run_alone_and_experiments_as_many_at_a_time_as_asked_for(
    monkeypatch: pytest.MonkeyPatch, parallel: int
) -> None:
    stage = Stage()
    run(stage, monkeypatch, parallel)
    assert [stage.beside[model] for model in MODELS] == [0, 0]
    assert max(stage.beside[name] for name in NAMES) == parallel - 1
    assert [record["verdict"] for record in stage.records] == ["measured"] * 2 + ["confirmed"] * 6
    assert len({(record["model"], record["experiment"]) for record in stage.records}) == len(JOBS)


def test_a_record_says_what_it_was_taken_with(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    run(stage, monkeypatch)
    for record in stage.records:
        assert record["seed"] == 7
        assert len(record["run"]) == 8
        assert record["machine"]["cores"] >= 1
        assert set(record["versions"]) >= {"python", "msgspec"}
        assert record["commit"] is None or len(record["commit"].removesuffix("+changes")) == 12
    tried = [record for record in stage.records if record["kind"] == "experiment"]
    assert all(len(record["trials"]) == 2 and record["hypothesis"] == "it holds" for record in tried)
    assert all(record["assumptions"]["l1_validators"] == 4 for record in tried)


def test_whatever_is_wrong_with_one_run_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {"sovereign": StepFailed("not today"), "e1": ZeroDivisionError("a bug"), "e2": TimeoutError()}
    stage = Stage(errors)
    run(stage, monkeypatch)
    by_name = {record["experiment"] or record["model"]: record for record in stage.records}
    assert len(by_name) == len(JOBS)
    assert {name for name, r in by_name.items() if r["verdict"] == "unknown"} == set(errors)
    assert by_name["sovereign"]["error"] == "not today"
    assert by_name["e1"]["error"] == "ZeroDivisionError: a bug"
    assert by_name["e2"]["error"].startswith("TimeoutError")


def test_a_run_that_takes_too_long_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    stage.hangs = True
    monkeypatch.setattr(runner, "RUN_SECONDS", 0.02)
    run(stage, monkeypatch)
    assert {record["verdict"] for record in stage.records} == {"unknown"}
    assert {record["error"] for record in stage.records} == {"no answer after 0.02 s"}


def test_records_that_cannot_be_kept_end_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    stage.full = True
    with pytest.raises(ResultsError, match="no space left"):
        run(stage, monkeypatch)
    assert stage.now == []


async def _cancelled(stage: Stage) -> None:
    running = asyncio.create_task(runner.run_all(JOBS[2:], settings(2), stage))
    while len(stage.now) < 2:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert stage.now == []
    assert sorted(stage.cancelled) == ["e0", "e1"]
    assert stage.records == []


def test_when_it_is_cancelled_all_that_runs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    stage.hangs = True
    stand_in(stage, monkeypatch)
    asyncio.run(_cancelled(stage))
