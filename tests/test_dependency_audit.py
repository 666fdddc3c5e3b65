"""The check of our dependencies: an advisory fails it, and silence is never taken for a clean bill."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

FILE = Path(__file__).parents[1] / ".ci" / "dependencies.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependencies_audit", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def clean(body: dict[str, Any]) -> Any:
    return {"results": [{} for _ in body["queries"]]}


def test_everything_that_we_stand_on_is_asked_about(audit: ModuleType) -> None:
    found = audit.installed()
    assert {"pynacl", "cryptography", "fastapi", "starlette", "httpx", "msgspec", "pytest", "cffi"} <= set(
        found
    )
    assert "layerlab" not in found
    asked: list[Any] = []
    assert audit.main([], lambda body: asked.append(body) or clean(body)) == 0
    (body,) = asked
    assert len(body["queries"]) == len(found)
    assert {q["package"]["ecosystem"] for q in body["queries"]} == {"PyPI"}
    assert all(found[q["package"]["name"]] == q["version"] for q in body["queries"])


def test_one_advisory_fails(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(body: dict[str, Any]) -> Any:
        names = [query["package"]["name"] for query in body["queries"]]
        results = [{"vulns": [{"id": "GHSA-x"}]} if name == "pynacl" else {} for name in names]
        return {"results": results}

    assert audit.main([], ask) == 1
    assert "VULNERABLE  pynacl" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer",
    [None, [], {}, {"results": []}, {"results": "none"}, {"results": [None] * 500}],
    ids=lambda answer: str(answer)[:20],
)
def test_an_answer_to_another_question_is_no_answer(
    audit: ModuleType, answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([], lambda _: answer) == 0
    assert "NOT CHECKED" in capsys.readouterr().out
    assert audit.main(["--required"], lambda _: answer) == 2


def test_a_result_that_cannot_be_read_is_no_clean_one(audit: ModuleType) -> None:
    for odd in (None, {"vulns": None}, {"vulns": [{}]}, {"vulns": "GHSA"}):
        with pytest.raises(audit.UnavailableError):
            audit.advisories({"pynacl": "1"}, lambda _, odd=odd: {"results": [odd]})


def test_without_network_it_says_so_aloud(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(httpx, "post", unreachable)
    assert audit.main([]) == 0
    told = capsys.readouterr().out
    assert "NOT CHECKED" in told
    assert "ConnectError" in told
    monkeypatch.setenv("LAYERLAB_ADVISORIES_REQUIRED", "1")
    assert audit.main([]) == 2
