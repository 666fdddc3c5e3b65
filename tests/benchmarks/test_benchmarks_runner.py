"""In which order benchmarks run, and what becomes of one that cannot."""

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import runner
from benchmarks.lab import Lab, SkippedError, rate
from benchmarks.load import LoadError
from benchmarks.machine import Limits


class FakeGauge:
    """Every second measurement finds a machine half as fast."""

    def __init__(self, seconds: float) -> None:
        self._rate = 40_000.0

    def measure(self) -> Limits:
        self._rate = 60_000 - self._rate
        return Limits(0, 0, self._rate, 0, 1 / self._rate)

    def __enter__(self) -> "FakeGauge":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of benchmarks as they run; each gives 1,000, 2,000, ... of its runs."""
    done: list[str] = []

    def module(path: str) -> Any:
        name = path.removeprefix("benchmarks.")

        def run(_lab: Lab) -> Any:
            done.append(name)
            if name == "anvil":
                raise SkippedError("there is none")
            if name == "deposit" and done.count(name) == 2:
                raise LoadError("it broke")
            return {"rate": rate(1_000.0 * done.count(name))}

        return SimpleNamespace(run=run, forget=lambda: done.append(f"forget {name}"))

    monkeypatch.setattr(runner, "importlib", SimpleNamespace(import_module=module))
    monkeypatch.setattr(runner, "Gauge", FakeGauge)
    return done


def lines(names: list[str]) -> dict[str, Any]:
    found = runner.run_all(names, repeat=3, quick=False, workers=None, say=lambda text: None)
    return {line["benchmark"]: line for line in found}


def test_what_is_compared_with_each_other_takes_turns(runs: list[str]) -> None:
    found = lines(["latency", "l2_bulk", "dispute", "verifier"])
    assert runs == [
        *["latency"] * 3,
        "forget latency",
        *["l2_bulk", "verifier"] * 3,
        "forget l2_bulk",
        "forget verifier",
        *["dispute"] * 3,
        "forget dispute",
    ]
    assert list(found) == ["latency", "l2_bulk", "verifier", "dispute"]
    figure = found["verifier"]["figures"]["rate"]
    assert (figure["values"], figure["median"]) == ([1_000, 2_000, 3_000], 2_000)
    assert figure["ratio"] == pytest.approx(2_000 / 30_000)
    assert found["verifier"]["repeat"] == len(found["verifier"]["details"]) == 3


def test_one_that_is_skipped_keeps_nobody_else_from_running(runs: list[str]) -> None:
    found = lines(["l2_bulk", "anvil"])
    assert runs.count("anvil") == 1
    assert (found["anvil"]["outcome"], found["anvil"]["reason"]) == ("skipped", "there is none")
    assert (found["anvil"]["figures"], found["anvil"]["limits"]) == ({}, None)
    assert len(found["l2_bulk"]["figures"]["rate"]["values"]) == 3


def test_one_that_fails_keeps_what_it_found_and_is_not_tried_again(runs: list[str]) -> None:
    found = lines(["deposit"])
    assert runs.count("deposit") == 2
    assert (found["deposit"]["outcome"], found["deposit"]["reason"]) == ("failed", "LoadError: it broke")
    assert found["deposit"]["figures"]["rate"]["values"] == [1_000]
