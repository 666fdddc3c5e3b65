"""Running an experiment: the verdict, what a trial without an answer comes to, and that errors leave nothing behind."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from lab_world import OUTCOME, FakeExperiment, Side
from stub_devnet import StubSupervisor, processes_in

from chainkit.client import ApiError, WaitTimeoutError
from layerlab.config import DevnetConfig, DevnetError
from layerlab.lab.experiment import FAILURES, Experiment, Outcome, Report, Seen, Trial, run_experiment
from layerlab.world import StepFailed


def nothing(_: str) -> None:
    return


def run(experiment: Experiment) -> Report:
    return asyncio.run(run_experiment(experiment, "sovereign", 7, nothing))


# --- verdicts ---


def trial(held: bool | None, *, control: bool) -> Trial:
    seen = None if held is None else Seen(held, "", OUTCOME)
    return Trial(control, seen, "" if seen else "no answer", 1.0)


@pytest.mark.parametrize(
    ("held", "control_held", "verdict"),
    [
        (True, False, "confirmed"),
        (True, True, "refuted"),  # what is switched off is not what protects
        (False, False, "refuted"),
        (False, True, "refuted"),
        (None, False, "unknown"),
        (None, True, "unknown"),
        (True, None, "unknown"),
        (False, None, "unknown"),
        (None, None, "unknown"),
    ],
)
def test_only_a_trial_that_holds_beside_a_control_that_does_not_confirms(
    held: bool | None, control_held: bool | None, verdict: str
) -> None:
    trials = (trial(held, control=False), trial(control_held, control=True))
    assert Report("0" * 8, FakeExperiment(), "sovereign", 7, trials).verdict == verdict


@pytest.mark.parametrize(
    ("sees", "control_sees", "verdict"), [(True, False, "confirmed"), (True, True, "refuted")]
)
def test_each_side_runs_in_a_place_of_its_own(
    sees: Side, control_sees: Side, verdict: str, no_place: list[str]
) -> None:
    experiment = FakeExperiment(sees, control_sees)
    report = run(experiment)
    assert report.verdict == verdict
    assert [t.control for t in report.trials] == [False, True]
    assert [len(world.devnet.config.services) for world in experiment.worlds] == [1, 2]
    assert [world.seed for world in experiment.worlds] == [7, 7]
    assert no_place == ["begins", "ends"] * 2


@pytest.mark.usefixtures("no_place")
def test_each_run_has_an_id_of_its_own() -> None:
    ids = {run(FakeExperiment()).run_id for _ in range(10)}
    assert len(ids) == 10
    assert all(len(run_id) == 8 and int(run_id, 16) >= 0 for run_id in ids)


# --- trials without an answer ---

EXAMPLES: dict[type[Exception], Exception] = {
    StepFailed: StepFailed("waited 60 s in vain: the theft"),
    ApiError: ApiError("unreachable", 0, "nobody answers"),
    WaitTimeoutError: WaitTimeoutError("not in the chain after 60 s"),
    DevnetError: DevnetError("validator-1 does not run"),
}


@pytest.mark.parametrize("kind", FAILURES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("control", [False, True], ids=["trial", "control"])
def test_a_trial_that_cannot_tell_is_unknown_with_its_reason(
    kind: type[Exception], control: bool, no_place: list[str]
) -> None:
    failure = EXAMPLES.get(kind) or kind("what went wrong")
    experiment = FakeExperiment(control_sees=failure) if control else FakeExperiment(failure)
    report = run(experiment)
    assert report.verdict == "unknown"
    failed, other = report.trials[control], report.trials[not control]
    assert (failed.seen, failed.error) == (None, str(failure))
    assert other.seen is not None
    assert other.error == ""
    assert no_place == ["begins", "ends"] * 2


def test_nothing_is_left_of_a_trial_that_cannot_tell(stubs: Path) -> None:
    assert run(FakeExperiment(StepFailed("no luck"))).verdict == "unknown"
    assert processes_in(stubs) == []
    assert list(stubs.iterdir()) == []


def test_a_devnet_that_does_not_start_is_no_answer(stubs: Path) -> None:
    StubSupervisor.modes["validator-1"] = "die"
    report = run(FakeExperiment())
    assert report.verdict == "unknown"
    assert report.trials[0].seen is not None
    assert "the moon is in the wrong phase" in report.trials[1].error
    assert processes_in(stubs) == []


def test_a_configuration_that_cannot_work_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> DevnetConfig:
        raise DevnetError("such a devnet cannot be had")

    monkeypatch.setattr(FakeExperiment, "config", refuse)
    assert [t.error for t in run(FakeExperiment()).trials] == ["such a devnet cannot be had"] * 2


@pytest.mark.parametrize("bug", [KeyError("left"), AssertionError("never"), OSError(28, "disk full")])
def test_a_bug_is_no_verdict(bug: Exception, no_place: list[str]) -> None:
    with pytest.raises(type(bug)) as caught:
        run(FakeExperiment(bug))
    assert caught.value is bug
    assert no_place == ["begins", "ends"]


def test_nothing_is_left_of_a_trial_with_a_bug(stubs: Path) -> None:
    with pytest.raises(KeyError):
        run(FakeExperiment(KeyError("left")))
    assert processes_in(stubs) == []
    assert list(stubs.iterdir()) == []


def test_what_an_experiment_breaks_is_cleared_away_all_the_same(stubs: Path) -> None:
    """Services that it killed, and a directory whose files it ruined."""

    def ruin(world: Any) -> None:
        world.devnet.kill("validator-0")
        world.devnet.layout.mark.write_text("{")
        world.devnet.layout.clock_file.write_text("{")

    assert run(FakeExperiment(ruin)).verdict == "confirmed"
    assert processes_in(stubs) == []
    assert list(stubs.iterdir()) == []


def test_time_that_ran_fast_when_it_ended_disturbs_nobody(stubs: Path) -> None:
    assert run(FakeExperiment(lambda world: world.set_rate(20.0))).verdict == "confirmed"
    assert list(stubs.iterdir()) == []


# --- what is told ---


@pytest.mark.usefixtures("no_place")
def test_progress_says_which_side_it_is() -> None:
    said: list[str] = []
    asyncio.run(run_experiment(FakeExperiment(), "sovereign", 7, said.append))
    sides = [line.partition(": ")[0] for line in said]
    assert set(sides) == {"trial", "control"}
    assert sides == sorted(sides, reverse=True)


@pytest.mark.usefixtures("no_place")
def test_the_report_as_json() -> None:
    report = run(FakeExperiment(True, StepFailed("no luck")))
    shown = json.loads(json.dumps(report.to_json()))
    (first, second) = shown.pop("trials")
    assert shown == {
        "run": report.run_id,
        "experiment": "fake",
        "model": "sovereign",
        "seed": 7,
        "question": "Does it hold?",
        "hypothesis": "it holds",
        "control": "it is switched off",
        "verdict": "unknown",
    }
    assert first.pop("seconds") >= 0
    assert first == {
        "control": False,
        "held": True,
        "told": "it holds",
        "outcome": {"recovered_percent": 100, "seconds": 1.5, "online": "nobody", "attacker_paid": 7},
        "measured": {"some_money": 5_000_000_001, "blocks": 3},
        "error": "",
    }
    assert second.pop("seconds") >= 0
    assert second == {
        "control": True,
        "held": None,
        "told": "",
        "outcome": None,
        "measured": {},
        "error": "no luck",
    }


def test_an_outcome_that_never_came_about_has_no_time() -> None:
    seen = Seen(False, "", Outcome(0, None, "nobody came"))
    shown = Trial(True, seen, "", 1.0).to_json()["outcome"]
    assert shown == {"recovered_percent": 0, "seconds": None, "online": "nobody came", "attacker_paid": 0}
