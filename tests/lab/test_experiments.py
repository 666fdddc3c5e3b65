"""What every experiment must have before a devnet is started: texts and a configuration for each of its models, and
a control that differs from the trial; and that the command refuses a model that an experiment is not for."""

import pytest
from typer.testing import CliRunner

from layerlab.cli.app import app
from layerlab.config import DevnetConfig
from layerlab.genesis import make_l1_genesis
from layerlab.lab.experiment import Experiment
from layerlab.lab.experiments import EXPERIMENTS
from layerlab.models import MODELS

EVERY = [pytest.param(e, m, id=f"{e.name}-{m}") for e in EXPERIMENTS.values() for m in e.hypothesis]


def test_each_has_a_name_of_its_own_and_a_question() -> None:
    assert {"operator-steals", "double-spend", "malicious-upgrade", "rule-change"} <= set(EXPERIMENTS)
    for name, experiment in EXPERIMENTS.items():
        assert experiment.name == name
        assert name == name.lower()
        assert " " not in name
        assert experiment.question.endswith("?")


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS.keys())
def test_each_is_for_models_that_there_are(experiment: Experiment) -> None:
    assert set(experiment.hypothesis) <= set(MODELS)
    assert set(experiment.hypothesis) == set(experiment.control)


@pytest.mark.parametrize(("experiment", "model"), EVERY)
def test_texts_of_each_model(experiment: Experiment, model: str) -> None:
    hypothesis, control = experiment.hypothesis[model], experiment.control[model]
    assert len(hypothesis) > 20
    assert len(control) > 10
    assert "\n" not in hypothesis + control
    assert hypothesis != control


@pytest.mark.parametrize(("experiment", "model"), EVERY)
@pytest.mark.parametrize("control", [False, True], ids=["trial", "control"])
def test_configuration_makes_a_genesis(experiment: Experiment, model: str, control: bool) -> None:
    config = experiment.config(model, control)
    assert config.model == model
    assert DevnetConfig.from_json(config.to_json()) == config
    make_l1_genesis(config, 1_700_000_000_000)


@pytest.mark.parametrize("model", ["optimistic"])
def test_an_administrator_only_where_one_is_tried(model: str) -> None:
    """The contract takes no exit window that is shorter than a withdrawal can take."""
    for name, experiment in EXPERIMENTS.items():
        if model in experiment.hypothesis:
            settings = experiment.config(model, False).settings
            assert (settings.admin is not None) == (name in ("malicious-upgrade", "rule-change"))
    assert EXPERIMENTS["rule-change"].config(model, True).settings.admin is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-thing"], "no experiment 'no-such-thing'; there are"),
        (["malicious-upgrade", "--model", "sovereign"], "malicious-upgrade is not for the model 'sovereign'"),
        (["burn-down", "--model", "x" * 300], "burn-down is not for the model"),
        (["burn-down", "--seed", "-1"], "seed"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["lab", "run", *arguments])
    assert result.exit_code != 0
    assert words in " ".join((result.output + str(result.exception or "")).split())
