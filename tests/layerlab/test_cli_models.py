"""Verbs on a devnet whose model has no use for them: one clear line at once, and nothing is sent."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_stack import FakeStack
from typer.testing import CliRunner

from layerlab.cli import app
from layerlab.models import MODELS

AMOUNT = ("--from", "alice", "--amount", "1")
BRIDGE_VERBS = {
    "deposit": ("deposit", *AMOUNT),
    "withdraw": ("withdraw", *AMOUNT),
    "claim": ("claim", "0", "--from", "alice"),
}
ROLLUP_VERBS = {
    "force": ("force", "--to", "bob", *AMOUNT),
    "exit": ("exit", "--from", "dave"),
    "batches": ("batches",),
    "disputes": ("disputes", "0"),
    "dispute open": ("dispute", "open", "3", "--from", "verifier"),
    "dispute bisect": ("dispute", "bisect", "0", "--from", "sequencer"),
    "dispute choose": ("dispute", "choose", "0", "--from", "verifier"),
    "dispute prove": ("dispute", "prove", "0", "--from", "verifier"),
    "dispute timeout": ("dispute", "timeout", "0", "--from", "verifier"),
    "dispute settle": ("dispute", "settle", "0", "--from", "verifier"),
}
VERBS = {**BRIDGE_VERBS, **ROLLUP_VERBS}
USELESS = [
    (model.name, name)
    for model in MODELS.values()
    for name in VERBS
    if not (model.bridged if name in BRIDGE_VERBS else model.rollup)
]


@pytest.fixture(scope="module")
def one_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeStack]:
    fake = FakeStack(tmp_path_factory.mktemp("models") / "devnet")
    yield fake
    fake.close()


@pytest.fixture
def stack(one_stack: FakeStack) -> FakeStack:
    """Services that were asked nothing yet."""
    for service in (one_stack.l1, one_stack.l2, one_stack.bridge):
        service.asked.clear()
    one_stack.l1.taken.clear()
    return one_stack


def on(stack: FakeStack, model: Any, *words: str) -> Any:
    """The verb on a devnet that says it is of that model."""
    mark = stack.directory / "devnet.json"
    content = json.loads(mark.read_text())
    content["config"]["model"] = model
    mark.write_text(json.dumps(content))
    return CliRunner().invoke(app, list(words), env={"LAYERLAB_DIR": str(stack.directory)})


def asked(stack: FakeStack) -> list[str]:
    return stack.l1.asked + stack.l2.asked + stack.bridge.asked


@pytest.mark.parametrize(("model", "name"), USELESS)
def test_a_verb_that_means_nothing_on_the_model_is_refused_before_anybody_is_asked(
    stack: FakeStack, model: str, name: str
) -> None:
    result = on(stack, model, *VERBS[name])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    fit = "sidechain, optimistic" if name in BRIDGE_VERBS else "optimistic"
    assert result.stderr.startswith(f"layerlab: {name} means nothing on this devnet: {model} is ")
    assert result.stderr.endswith(f"; it is for {fit}\n")
    assert asked(stack) == []


def test_the_refusal_as_json_names_the_models(stack: FakeStack) -> None:
    result = on(stack, "sovereign", *VERBS["deposit"], "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    problem = json.loads(result.stderr)
    assert (problem["code"], problem["model"]) == ("wrong_model", "sovereign")
    assert problem["known"] == [model.name for model in MODELS.values() if model.bridged]


@pytest.mark.parametrize("name", ["deposit", "force", "batches"])
def test_on_the_rollup_nothing_is_refused(stack: FakeStack, name: str) -> None:
    stack.bridge.on("GET /batches", {"batches": []})
    assert on(stack, "optimistic", *VERBS[name]).exit_code == 0


def test_a_side_chain_has_a_bridge(stack: FakeStack) -> None:
    assert on(stack, "sidechain", *VERBS["deposit"]).exit_code == 0
    assert len(stack.l1.taken) == 1


def test_addresses_that_the_user_gives_are_another_networks(stack: FakeStack) -> None:
    assert on(stack, "sovereign", *VERBS["deposit"], "--l1-url", stack.l1.url).exit_code == 0


def test_without_a_devnet_the_model_is_not_known_and_the_service_is_asked(
    stack: FakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerlab.cli.network.DEFAULT_URLS", {"bridge": stack.bridge.url})
    stack.bridge.on("GET /batches", {"batches": []})
    result = CliRunner().invoke(app, list(VERBS["batches"]), env={"LAYERLAB_DIR": str(tmp_path / "none")})
    assert result.exit_code == 0
    assert stack.bridge.asked == ["GET /batches?limit=20"]


@pytest.mark.parametrize("model", ["a model of the future", None, 7, ["sovereign"]])
def test_a_model_that_nobody_knows_refuses_nothing(stack: FakeStack, model: Any) -> None:
    assert on(stack, model, *VERBS["deposit"]).exit_code == 0
