"""docs/TRUST.md and the results behind it: made from data, never typed.

Responsible for the records of results (``tests/mutants/results.jsonl``) and for the page made of them. Must not know
how a result comes about.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mutants.catalogue import Mutant, Promise
from mutants.trial import Outcome

RESULTS = "results.jsonl"
_FIELDS = ("mutant", "digest", "verdict", "killer", "seconds", "cpu_seconds", "commit", "machine")

HEAD = """# What is promised, and what would notice if it were broken

Made by `make mutants ARGS=--write` from `tests/mutants/`; do not edit (`make test` holds this page to its data).

A test that never failed proves little. So each promise has at least one *mutant*: a small breakage of our own code that
is applied, alone, to a copy of the tree. The tests named for it must then fail, by a failed check and not by a program
that does not run; without it they must pass. `make mutants` does that for all of them, and fails if one survives, does
not apply to the code any more, or breaks the program instead of the promise. `make mutants ARGS="--only P7"` shows
those of one promise.
"""

TAIL = """
## What this does not show

- That a promise holds: only that these breakages of it would not go unseen. What holds promises in general are the
  other tests and the [simulation](SIMULATION.md), whose own checks have mutants here too: a *seed* is one of its runs.
- Speed of the tests: seconds are those of a core, for a whole run of pytest with its start, up to the first failure.
- Not promised at all: safety at one third or more of stolen stake (but the culprits are named), real money, privacy,
  constant-time signing.
"""


def machine() -> str:
    """What the figures were measured on, in a few words."""
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}"


def commit(root: Path) -> str:
    """The commit that is checked out, with a "+" if tracked files differ from it; "unknown" without git."""

    def git(*words: str) -> str:
        asked = ["git", "-C", str(root), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "pyproject.toml")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def read_results(directory: Path) -> dict[str, dict[str, Any]]:
    """The recorded results by mutant; none if there is no file. Raises `ValueError` naming a bad line."""
    path = directory / RESULTS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        entry = json.loads(line)
        if not isinstance(entry, dict) or tuple(entry) != _FIELDS:
            raise ValueError(f"{RESULTS}:{number} must have the fields {', '.join(_FIELDS)} in this order")
        found[entry["mutant"]] = entry
    return found


def write_results(
    directory: Path, mutants: Sequence[Mutant], outcomes: Sequence[Outcome], *, at: str, on: str
) -> dict[str, dict[str, Any]]:
    """Record outcomes; those of other mutants stay, those of mutants that are gone go. Returns them all."""
    results = read_results(directory)
    for outcome in outcomes:
        mutant = outcome.mutant
        values = (
            mutant.id,
            mutant.digest,
            outcome.verdict,
            outcome.killer,
            outcome.seconds,
            outcome.cpu,
            at,
            on,
        )
        results[mutant.id] = dict(zip(_FIELDS, values, strict=True))
    kept = {mutant.id: results[mutant.id] for mutant in mutants if mutant.id in results}
    lines = [json.dumps(entry) + "\n" for entry in kept.values()]
    (directory / RESULTS).write_text("".join(lines), encoding="utf-8")
    return kept


def render(
    root: Path,
    promises: Mapping[str, Promise],
    mutants: Sequence[Mutant],
    results: Mapping[str, Mapping[str, Any]],
) -> str:
    """The page. Raises `StaleMutantError` if a mutant does not apply to the code in ``root``."""
    places = {mutant.id: mutant.place(root) for mutant in mutants}
    parts = [HEAD, _summary(mutants, results)]
    group = ""
    for promise in promises.values():
        if promise.group != group:
            group = promise.group
            parts.append(f"\n## {group}\n")
        own = [mutant for mutant in mutants if promise.id in mutant.promises]
        parts.append(_section(promise, own, places, results))
    return "".join([*parts, TAIL])


def _summary(mutants: Sequence[Mutant], results: Mapping[str, Mapping[str, Any]]) -> str:
    known = [results[mutant.id] for mutant in mutants if mutant.id in results]
    if not known:
        return "\nNothing has been measured yet.\n"
    times = sorted(entry["cpu_seconds"] for entry in known)
    slowest = max(known, key=lambda entry: entry["cpu_seconds"])
    runs: dict[str, int] = {}
    for entry in known:
        run = f"commit {entry['commit']} on {entry['machine']}"
        runs[run] = runs.get(run, 0) + 1
    killed = sum(entry["verdict"] == "killed" for entry in known)
    lines = [
        f"\n**{len(mutants)} mutants, {killed} killed**, in {times[len(times) // 2]:.1f} s at the median; the slowest, "
        f"`{slowest['mutant']}`, in {slowest['cpu_seconds']:.1f} s. Measured:\n\n"
    ]
    lines += [f"- {count} at {run}\n" for run, count in runs.items()]
    return "".join(lines)


def _section(
    promise: Promise,
    mutants: Sequence[Mutant],
    places: Mapping[str, str],
    results: Mapping[str, Mapping[str, Any]],
) -> str:
    code = dict.fromkeys([*promise.code, *(places[mutant.id] for mutant in mutants)])
    killers = [results[m.id]["killer"] for m in mutants if m.id in results]
    tests = dict.fromkeys([*promise.tests, *(killer.partition("[")[0] for killer in killers)])
    watched = [test for test in tests if test and not test.startswith("seed ")]
    lines = [
        f"\n### {promise.id}: {promise.words}\n\n",
        f"Kept by {_places(code)}.\n\n",
        f"Watched by {_places(watched)}.\n\n",
        "| mutant | what it breaks | where | killed by | seconds |\n|---|---|---|---|--:|\n",
    ]
    for mutant in mutants:
        entry = results.get(mutant.id)
        killer, seconds = (
            ("*not measured*", "") if entry is None else (_killer(entry), f"{entry['cpu_seconds']:.1f}")
        )
        where = places[mutant.id].partition("::")
        lines.append(
            f"| `{mutant.id}` | {mutant.breaks} | `{where[2] or where[0]}` | {killer} | {seconds} |\n"
        )
    return "".join(lines)


def _killer(entry: Mapping[str, Any]) -> str:
    if entry["verdict"] != "killed":
        return f"*{entry['verdict']}*"
    killer: str = entry["killer"]
    if killer.startswith("seed "):
        return killer
    return f"`{killer.rpartition('::')[2] if '[' not in killer else killer[: killer.index('[')].rpartition('::')[2]}`"


def _places(places: Iterable[str]) -> str:
    """Places by file: a link for each, with the names in it."""
    files: dict[str, list[str]] = {}
    for place in places:
        file, _, name = place.partition("::")
        files.setdefault(file, []).extend([f"`{name}`"] if name else [])
    return "; ".join(
        f"[{file}](../{file})" + (": " if names else "") + ", ".join(names) for file, names in files.items()
    )
