"""One mutant on trial: from a run of its tests to a verdict.

Responsible for what counts as noticed and what does not. Must not know files, processes or the printed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mutants.catalogue import Mutant, StaleMutantError
from mutants.workspace import TestRun, Workspace

Verdict = Literal["killed", "survived", "stale", "broken", "timed out", "foreign"]

NOT_A_JUDGEMENT = ("SyntaxError", "ImportError", "NameError", "AttributeError", "TypeError", "LookupError")
"""A test that ends so says that the program is broken, or the test; not that a promise is."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant. ``killer`` is the test that failed; ``seconds`` and ``cpu`` are those of the whole run.

    ``survived``: all tests passed. ``stale``: it does not apply. ``broken``: no test came to a judgement. ``timed
    out``: it took longer than it may. ``foreign``: other code than the copy's was tested.
    """

    mutant: Mutant
    verdict: Verdict
    killer: str = ""
    seconds: float = 0.0
    cpu: float = 0.0
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the mutant was noticed, which is what is wanted."""
        return self.verdict == "killed" or (self.verdict == "timed out" and self.mutant.hangs)


def try_mutant(workspace: Workspace, mutant: Mutant) -> Outcome:
    """Apply a mutant alone, run its tests, take it back."""
    try:
        with workspace.applied(mutant):
            run = workspace.run(mutant.tests, mutant=mutant, seconds=mutant.seconds)
    except (StaleMutantError, OSError) as error:
        return Outcome(mutant, "stale", detail=str(error))
    return judge(mutant, run)


def judge(mutant: Mutant, run: TestRun) -> Outcome:
    """The verdict on a mutant by what its tests did."""

    def outcome(verdict: Verdict, killer: str = "", detail: str = "") -> Outcome:
        return Outcome(mutant, verdict, killer, round(run.seconds, 1), round(run.cpu, 1), detail)

    foreign = run.imports["foreign"] if run.imports else []
    if foreign:
        return outcome("foreign", detail=f"not the copy's: {', '.join(foreign)}")
    if run.collect:
        return outcome(
            "broken", detail=f"{run.collect[0]['test']} cannot be collected: {_tail(run.collect[0]['why'])}"
        )
    failed = [test for test in run.tests if test["outcome"] == "failed"]
    for test in failed:
        if test["when"] == "call" and not set(test["errors"]) & set(NOT_A_JUDGEMENT):
            return outcome("killed", test["test"], test["why"])
    if failed:
        first = failed[0]
        return outcome(
            "broken", detail=f"{first['test']} failed in its {first['when']} by {_tail(first['why'])}"
        )
    if run.code is None:
        return outcome("timed out", detail=f"more than {mutant.seconds} s")
    if run.code != 0 or not run.tests:
        return outcome("broken", detail=f"pytest ended with {run.code}: {_tail(run.output)}")
    if run.imports is None or not run.imports["touched"]:
        return outcome("survived", detail=f"the tests never import {mutant.file}")
    return outcome("survived", detail=f"{len(run.tests)} tests passed")


def baseline(workspace: Workspace, tests: Sequence[str], seconds: float) -> tuple[TestRun, list[str]]:
    """Run tests on the code as it is; returns the run and what is wrong, a line each."""
    run = workspace.run(tests, mutant=None, seconds=seconds, stop=False)
    wrong = [f"{entry['test']} cannot be collected: {_tail(entry['why'])}" for entry in run.collect]
    if run.imports and run.imports["foreign"]:
        wrong.append(f"not the copy's: {', '.join(run.imports['foreign'])}")
    wrong += [f"{test['test']}: {test['why']}" for test in run.tests if test["outcome"] == "failed"]
    wrong += [f"{test} did not run" for test in tests if not wrong and not _ran(test, run.tests)]
    if run.code is None:
        wrong.append(f"took more than {seconds:.0f} s")
    elif run.code != 0 and not wrong:
        wrong.append(f"pytest ended with {run.code}: {_tail(run.output)}")
    return run, wrong


def _ran(test: str, ran: Sequence[dict[str, Any]]) -> bool:
    """Whether a test, or one of its parametrized cases, ran and was not skipped."""
    return any(
        r["outcome"] == "passed" and (r["test"] == test or r["test"].startswith(test + "[")) for r in ran
    )


def _tail(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return " / ".join(line.strip() for line in lines[-3:])[:400]
