"""`layerlab lab`: what is refused before anything starts, one JSON document, the exit code, and, with the real command
as a process of its own, that nothing is left of a run that is broken off."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab_world import FakeExperiment, Side
from stub_devnet import processes_in
from typer.testing import CliRunner

from layerlab.cli import app
from layerlab.lab.experiments import EXPERIMENTS
from layerlab.models import MODELS
from layerlab.world import StepFailed

Result = Any  # click's, whichever click typer brings along
ANY = next(iter(EXPERIMENTS))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Places in which experiments would take place; none is made."""
    made: list[Any] = []

    @asynccontextmanager
    async def nowhere(config: Any, *_: Any) -> Any:
        made.append(config)
        yield None

    monkeypatch.setattr("layerlab.lab.experiment.running_world", nowhere)
    return made


def run(*words: str, **env: str) -> Result:
    base = {"LAYERLAB_JSON": "", "LAYERLAB_MODEL": "", "LAYERLAB_DIR": "/no/such/directory", **env}
    return CliRunner().invoke(app, list(words), env=base)


def fake(monkeypatch: pytest.MonkeyPatch, sees: Side = True, control_sees: Side = False) -> None:
    """The laboratory with one experiment, "fake", for the model "sovereign"."""
    monkeypatch.setattr("layerlab.cli.lab.EXPERIMENTS", {"fake": FakeExperiment(sees, control_sees)})


# --- listing ---


def test_the_list_says_for_every_experiment_and_model_what_is_expected() -> None:
    result = run("lab", "list", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert [entry["experiment"] for entry in found] == list(EXPERIMENTS)
    for entry in found:
        assert set(entry) == {"experiment", "question", "hypothesis", "control"}
        assert set(entry["hypothesis"]) == set(entry["control"]) <= set(MODELS)
        assert entry["hypothesis"]
        assert all([entry["question"], *entry["hypothesis"].values(), *entry["control"].values()])


def test_the_list_for_people_names_all_of_it() -> None:
    result = run("lab", "list")
    assert result.exit_code == 0
    for experiment in EXPERIMENTS.values():
        for text in (experiment.name, experiment.question, *experiment.hypothesis.values()):
            assert text in result.stdout


def test_without_a_verb_there_is_help() -> None:
    assert run("lab").exit_code == 2


# --- refusals ---


@pytest.mark.parametrize("name", ["", "theft ", "x" * 5000, "../../etc/passwd", "operator-steals\n", "[red]"])
def test_an_unknown_experiment_is_one_line_with_those_that_there_are(name: str, started: list[Any]) -> None:
    result = run("lab", "run", name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("layerlab: no experiment ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 1000
    assert all(known in result.stderr for known in EXPERIMENTS)
    assert started == []


def test_an_unknown_experiment_as_json_names_those_that_there_are(started: list[Any]) -> None:
    result = run("lab", "run", "nonsense", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    problem = json.loads(result.stderr)
    assert (problem["code"], problem["known"]) == ("unknown_experiment", list(EXPERIMENTS))
    assert started == []


@pytest.mark.parametrize("model", ["", "zk", "Sovereign", "y" * 5000, "sovereign,optimistic"])
def test_a_model_that_an_experiment_is_not_for_is_one_line(model: str, started: list[Any]) -> None:
    result = run("lab", "run", ANY, f"--model={model}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"layerlab: {ANY} is not for the model ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 1000
    assert all(known in result.stderr for known in EXPERIMENTS[ANY].hypothesis)
    assert started == []


def test_the_model_may_come_from_the_environment(started: list[Any]) -> None:
    result = run("lab", "run", ANY, "--json", LAYERLAB_MODEL="zk")
    problem = json.loads(result.stderr)
    assert (problem["code"], problem["known"]) == ("unknown_model", list(EXPERIMENTS[ANY].hypothesis))
    assert started == []


@pytest.mark.parametrize("seed", ["-1", "x", "1.5", str(2**53), "9" * 400, "", "nan"])
def test_a_seed_that_is_none_is_one_line(seed: str, started: list[Any]) -> None:
    result = run("lab", "run", ANY, f"--seed={seed}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'--seed'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert started == []


# --- results ---


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("sees", "control_sees", "verdict", "exit_code"),
    [
        (True, False, "confirmed", 0),
        (True, True, "refuted", 1),
        (False, False, "refuted", 1),
        (StepFailed("no luck"), False, "unknown", 1),
    ],
)
def test_the_exit_code_and_one_json_document(
    monkeypatch: pytest.MonkeyPatch, sees: Side, control_sees: Side, verdict: str, exit_code: int
) -> None:
    fake(monkeypatch, sees, control_sees)
    result = run("lab", "run", "fake", "--model", "sovereign", "--seed", "42", "--json")
    assert (result.exit_code, result.stderr) == (exit_code, "")
    shown = json.loads(result.stdout)
    assert (shown["verdict"], shown["model"], shown["seed"]) == (verdict, "sovereign", 42)
    assert [trial["control"] for trial in shown["trials"]] == [False, True]
    if sees is True:
        assert shown["trials"][0]["measured"] == {"some_money": 5_000_000_001, "blocks": 3}


@pytest.mark.usefixtures("started")
def test_people_see_both_sides_and_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, True, StepFailed("waited in vain for [bold] things"))
    result = run("lab", "run", "fake", "--model", "sovereign")
    assert result.exit_code == 1
    for text in (
        "hypothesis: it holds",
        "trial: held",
        "some money 5.000000001 coins, blocks 3",
        "control (it is switched off): no answer: waited in vain for [bold] things",
        "unknown",
    ):
        assert text in result.stdout


# --- broken off: the real command ---


HALF_WAY = """
import asyncio, sys
sys.path.insert(0, {support!r})
import lab_world
from layerlab.cli import lab, main
from layerlab.lab import place
class Endless(lab_world.FakeExperiment):
    async def run(self, world, control):
        world.say("it goes on")
        world.set_rate(2.0)
        await asyncio.sleep(3600)
lab.EXPERIMENTS = {{"endless": Endless()}}
if {stubs}:
    place.Devnet.supervisor_type = lab_world.StubPlaceSupervisor
main()
"""
SUPPORT = Path(__file__).parents[1] / "support"


class Command:
    """`layerlab lab run` as a process of its own; whatever it makes lies in ``directory``."""

    def __init__(self, directory: Path, code: str, experiment: str) -> None:
        self.directory = directory
        environment = {name: v for name, v in os.environ.items() if not name.startswith("LAYERLAB_")}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, "lab", "run", experiment, "--model", "sovereign"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"},
            cwd=directory.parent,
        )

    def until_services(self) -> None:
        """Return as soon as the first of them is there."""
        while not processes_in(self.directory):
            assert self.process.poll() is None
            time.sleep(0.01)

    def until_it_tries(self) -> list[psutil.Process]:
        """Return when all services are up and the experiment itself is at work."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line == "trial: it goes on\n":
                found = processes_in(self.directory)
                assert found
                return found
        raise AssertionError(f"it has ended: {self.process.communicate()}")

    def left(self) -> list[Any]:
        """What is left of it."""
        return [*processes_in(self.directory), *self.directory.iterdir()]


Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runs the real command: a real experiment, or (``stubs`` or not) one that never ends by itself."""
    directory = tmp_path.resolve() / "tmp"
    directory.mkdir()
    made: list[Command] = []

    def begin(*, stubs: bool | None = None) -> Command:
        if stubs is None:
            name = next(e.name for e in EXPERIMENTS.values() if "sovereign" in e.hypothesis)
            made.append(Command(directory, "from layerlab.cli import main; main()", name))
        else:
            made.append(Command(directory, HALF_WAY.format(support=str(SUPPORT), stubs=stubs), "endless"))
        return made[-1]

    yield begin
    for command in made:
        command.process.kill()
        command.process.communicate()
    for process in processes_in(directory):
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_nothing_is_left_of_a_run_that_is_ended_while_its_services_start(
    start: Start, number: signal.Signals
) -> None:
    command = start()
    command.until_services()
    command.process.send_signal(number)
    _, err = command.process.communicate(timeout=60)
    assert (command.process.returncode, err) == (130, "interrupted; nothing is left running\n")
    assert command.left() == []


@pytest.mark.parametrize(
    ("number", "stubs"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, True)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_nothing_is_left_of_a_run_that_is_ended_half_way(
    start: Start, number: signal.Signals, stubs: bool
) -> None:
    command = start(stubs=stubs)
    command.until_it_tries()
    command.process.send_signal(number)
    _, err = command.process.communicate(timeout=60)
    assert (command.process.returncode, err) == (130, "interrupted; nothing is left running\n")
    assert command.left() == []


def test_no_service_outlives_a_run_that_is_killed(start: Start) -> None:
    command = start(stubs=True)
    found = command.until_it_tries()
    command.process.kill()
    _, alive = psutil.wait_procs(found, timeout=20)
    assert not alive
    assert processes_in(command.directory) == []


def test_an_impatient_user_leaves_nothing_running_either(start: Start) -> None:
    command = start(stubs=True)
    found = command.until_it_tries()
    for _ in range(3):
        command.process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    command.process.communicate(timeout=60)
    assert command.process.returncode != 0
    _, alive = psutil.wait_procs(found, timeout=20)
    assert not alive
    assert processes_in(command.directory) == []
