"""A plugin of pytest that says what a run of tests proves: copied beside the tree under test as ``mutants_guard``.

Responsible for two questions about the run that it is part of: was the code that was tested the copy's (and not that of
the installation, nor of the tree that the copy is of), and how did each test end. Must not know any mutant.

Reads ``MUTANTS_ROOT`` (the copy), ``MUTANTS_SOURCE`` (what it is a copy of), ``MUTANTS_FILE`` and ``MUTANTS_SHA256``
(the changed file and what it must contain, if any); writes JSON lines to ``MUTANTS_REPORT``.
"""

import hashlib
import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(os.environ["MUTANTS_ROOT"]).resolve()
_SOURCE = Path(os.environ["MUTANTS_SOURCE"]).resolve()
_FILE = os.environ.get("MUTANTS_FILE", "")


def _say(**facts: Any) -> None:
    with Path(os.environ["MUTANTS_REPORT"]).open("a", encoding="utf-8") as report:
        report.write(json.dumps(facts) + "\n")


def _own_names() -> set[str]:
    """Packages of the tree, and helpers of its tests: what must come from the copy."""
    packages = {path.parent.name for path in _ROOT.glob("*/__init__.py")}
    helpers = {path.stem for path in (_ROOT / "tests" / "support").glob("*.py")}
    return (
        packages
        | helpers
        | {path.parent.name for path in (_ROOT / "tests" / "support").glob("*/__init__.py")}
    )


def _foreign() -> list[str]:
    """Modules that were imported from elsewhere than they must be."""
    own, found = _own_names(), []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            continue
        path = Path(file).resolve()
        if (
            path.is_relative_to(_ROOT)
            or "site-packages" in path.parts
            or path.is_relative_to(Path(__file__).parent)
        ):
            continue
        if name.partition(".")[0] in own or path.is_relative_to(_SOURCE):
            found.append(f"{name} from {file}")
    return sorted(found)


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin(
        "hypothesispytest"
    ):  # else no test needs it, and its import takes a second
        from hypothesis import Phase, settings

        # The same examples each time. To shrink a counterexample is for people; that there is one is enough here.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", phases=phases, deadline=None, database=None, derandomize=True)
        settings.load_profile("mutants")
    if _FILE:
        found = hashlib.sha256((_ROOT / _FILE).read_bytes()).hexdigest()
        if found != os.environ["MUTANTS_SHA256"]:
            raise pytest.UsageError(f"{_FILE} is not the mutant's")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _say(kind="collect", test=report.nodeid, why=str(report.longrepr)[-2000:])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed or report.when == "call":
        error = call.excinfo.value if call.excinfo is not None else None
        _say(
            kind="test",
            test=item.nodeid,
            when=report.when,
            outcome=report.outcome,
            errors=[kind.__name__ for kind in type(error).__mro__] if error is not None else [],
            why="" if error is None else f"{type(error).__name__}: {error}"[:500],
        )
    return report


def pytest_sessionfinish() -> None:
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    imported = {Path(file).resolve() for file in files if isinstance(file, str)}
    _say(kind="imports", foreign=_foreign(), touched=not _FILE or (_ROOT / _FILE).resolve() in imported)
