"""The gate's two experiments: the commit chooses them, each has its turn, and one that is not confirmed fails."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerlab.lab.experiments import EXPERIMENTS

SCRIPT = Path(__file__).parents[2] / ".ci" / "experiments.py"
LISTED = [
    {"experiment": experiment.name, "hypothesis": dict(experiment.hypothesis)}
    for experiment in EXPERIMENTS.values()
]


def _load() -> Any:
    spec = spec_from_file_location("ci_experiments", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ci = _load()
CELLS = ci.cells(LISTED)
COMMITS = [hashlib.sha1(b"%d" % number).hexdigest() for number in range(4000)]


def test_every_experiment_on_every_model_is_a_cell_once() -> None:
    assert len(CELLS) == len(set(CELLS)) == sum(len(e.hypothesis) for e in EXPERIMENTS.values())
    assert ci.cells(LISTED[::-1]) == CELLS


@pytest.mark.parametrize("place", [0, 1])
def test_every_cell_is_chosen_by_some_commit_in_either_place(place: int) -> None:
    assert {ci.pick(commit, CELLS)[place] for commit in COMMITS} == set(CELLS)


@given(st.text(max_size=50))
def test_the_two_are_of_different_experiments_and_always_the_same(commit: str) -> None:
    first, second = ci.pick(commit, CELLS)
    assert first.experiment != second.experiment
    assert {first, second} <= set(CELLS)
    assert ci.pick(commit, CELLS) == (first, second)


def test_the_choice_is_written_down_for_other_machines() -> None:
    """No hash of the process, no order of a set: known cells and commits, known pairs."""
    few = [ci.Cell("burn", "a"), ci.Cell("steal", "a"), ci.Cell("steal", "b")]
    digest = int(hashlib.sha256(b"f00").hexdigest(), 16)
    first = few[digest % 3]
    rest = [cell for cell in few if cell.experiment != first.experiment]
    assert ci.pick("f00", few) == (first, rest[digest // 3 % len(rest)])


@pytest.mark.parametrize("few", [[], CELLS[:1], [ci.Cell("steal", "a"), ci.Cell("steal", "b")]])
def test_without_two_experiments_there_is_no_pair(few: list[Any]) -> None:
    with pytest.raises(ValueError, match="not two experiments"):
        ci.pick("f00", few)


def test_the_commit_is_heads_and_zeros_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ci, "ROOT", tmp_path)  # no repository
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert ci.head() == ci.NO_COMMIT
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert ci.head() == ci.NO_COMMIT  # no commit yet
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    assert len(ci.head()) == 40
    assert ci.head() != ci.NO_COMMIT
    monkeypatch.setenv("PATH", "")
    assert ci.head() == ci.NO_COMMIT


# --- the script as the gate runs it, with another layerlab ---

FAKE = """#!{python}
import json, signal, sys
if sys.argv[1:3] == ["lab", "list"]:
    print(json.dumps({listed}))
    sys.exit()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # one before the wait is not lost
print("runs", *sys.argv[3:], flush=True)
if signal.sigtimedwait([signal.SIGTERM], {seconds}):
    print("clears away", flush=True)
    sys.exit(130)
sys.exit({codes}.get(sys.argv[3], 0))
"""
GATE = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
import experiments
sys.exit(experiments.main(Path({fake!r})))
"""


def gate(tmp_path: Path, commit: str = "f00", seconds: int = 0, **codes: int) -> "subprocess.Popen[str]":
    """The script, with experiments "burn" and "steal" that end with these exit codes."""
    fake = tmp_path / "layerlab"
    listed = [{"experiment": name, "hypothesis": {"a": "", "b": ""}} for name in ("burn", "steal")]
    fake.write_text(
        FAKE.format(python=sys.executable, listed=json.dumps(listed), codes=codes, seconds=seconds)
    )
    fake.chmod(0o755)
    code = GATE.format(folder=str(SCRIPT.parent), fake=str(fake))
    words = [sys.executable, "-B", "-c", code, *([commit] if commit else [])]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_that_are_confirmed_pass_and_are_named(tmp_path: Path) -> None:
    process = gate(tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    listed = [{"experiment": name, "hypothesis": {"a": "", "b": ""}} for name in ("burn", "steal")]
    first, second = ci.pick("f00", ci.cells(listed))
    assert out.splitlines() == [
        "commit f00 chooses the pair",
        f"1 of 2: {first.experiment} on {first.model}",
        f"runs {first.experiment} --model {first.model}",
        f"2 of 2: {second.experiment} on {second.model}",
        f"runs {second.experiment} --model {second.model}",
        "both are confirmed",
    ]


@pytest.mark.parametrize("name", ["burn", "steal"])
def test_one_that_is_not_confirmed_fails_and_says_how_to_repeat_it(tmp_path: Path, name: str) -> None:
    process = gate(tmp_path, **{name: 1})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "confirmed" not in out
    assert err.startswith(f"NOT CONFIRMED: layerlab lab run {name} --model ")


def test_all_zeros_say_that_git_told_nothing(tmp_path: Path) -> None:
    out, _ = gate(tmp_path, ci.NO_COMMIT).communicate(timeout=60)
    assert out.startswith("git tells no commit: the pair is the one of all zeros\n")


def test_what_ends_the_gate_lets_the_experiment_clear_away(tmp_path: Path) -> None:
    process = gate(tmp_path, seconds=3600)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("runs"):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert out == "clears away\n"
    assert process.returncode == 130
