"""The runner tells what a mutant shows from what it does not: each verdict on a tiny tree of its own, by real runs."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from mutants.catalogue import CatalogueError, Mutant, choose, defines, load_mutants, share_of
from mutants.trial import Outcome, baseline, try_mutant
from mutants.workspace import Workspace

SUPPORT = Path(__file__).parents[1] / "support"

LIMITS = """
LIMIT = 10


class Gate:
    def lets(self, size):
        return size < LIMIT
"""

CHECKS = """
import time

import pytest
from tiny.limits import Gate, LIMIT


@pytest.fixture
def gate():
    assert LIMIT < 1000, "no such gate"
    return Gate()


def test_large(gate):
    assert not gate.lets(10)


def test_small(gate):
    assert gate.lets(9)


@pytest.mark.parametrize("size", [1, 11])
def test_sizes(gate, size):
    assert gate.lets(size) == (size < 10)


def test_waits():
    time.sleep(0 if Gate().lets(9) else 60)


def test_wrong():
    assert Gate().lets(10)


@pytest.mark.skip(reason="not today")
def test_skipped():
    assert not Gate().lets(10)
"""

OLD = "size < LIMIT"


def mutant(new: str = "size <= LIMIT", *tests: str, old: str = OLD, **more: Any) -> Mutant:
    named = tuple(f"checks/test_gate.py::{test}" for test in tests or ("test_large",))
    return Mutant("m", ("P1",), more.pop("file", "tiny/limits.py"), old, new, "the limit", named, **more)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    source = tmp_path_factory.mktemp("source")
    for name, text in {
        "tiny/__init__.py": "",
        "tiny/limits.py": LIMITS,
        "checks/test_gate.py": CHECKS,
    }.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(textwrap.dedent(text))
    return Workspace(source, tmp_path_factory.mktemp("job"))


def verdict(space: Workspace, tried: Mutant) -> Outcome:
    outcome = try_mutant(space, tried)
    assert (space.root / "tiny/limits.py").read_text() == textwrap.dedent(LIMITS), "it was not taken back"
    assert (space.source / "tiny/limits.py").read_text() == textwrap.dedent(LIMITS), (
        "the tree itself was changed"
    )
    return outcome


def test_a_mutant_that_a_test_notices_is_killed_by_the_first_that_does(space: Workspace) -> None:
    outcome = verdict(space, mutant("size < LIMIT + 1", "test_small", "test_sizes", "test_large"))
    assert (outcome.verdict, outcome.killer) == ("killed", "checks/test_gate.py::test_large")
    assert outcome.passed
    assert outcome.cpu > 0


def test_a_mutant_that_nothing_notices_survives(space: Workspace) -> None:
    outcome = verdict(space, mutant("size < LIMIT + 1", "test_small", "test_sizes"))
    assert (outcome.verdict, outcome.passed) == ("survived", False)


def test_a_change_within_a_second_and_of_the_same_size_is_seen(space: Workspace) -> None:
    """Python would run what it compiled before: time and size say that nothing changed."""
    file, then, tests = (
        space.root / "tiny/limits.py",
        (1_000_000_000, 1_000_000_000),
        ["checks/test_gate.py::test_small"],
    )
    os.utime(file, then)
    assert space.run(tests, mutant=None, seconds=60).code == 0
    changed = mutant("LIMIT < size")
    with space.applied(changed):
        os.utime(file, then)
        assert space.run(tests, mutant=changed, seconds=60).code == 1
    os.utime(file, then)
    assert space.run(tests, mutant=None, seconds=60).code == 0


@pytest.mark.parametrize("old", ["size <= LIMIT", "LIMIT"])
def test_a_mutant_that_does_not_apply_once_is_stale(space: Workspace, old: str) -> None:
    outcome = verdict(space, mutant("anything", old=old))
    assert (outcome.verdict, outcome.passed) == ("stale", False)
    assert try_mutant(space, mutant(file="tiny/gone.py")).verdict == "stale"


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("size <", OLD),  # no program
        ("LIMIT = undefined", "LIMIT = 10"),  # cannot be imported
        ("CEILING = 10", "LIMIT = 10"),  # a name that the test imports is gone
        ("size < CEILING", OLD),  # a name that is missing only once it runs
        ("self.limit > size", OLD),  # so is this
        ("{}[size]", OLD),  # an error on the way to a check
        ("LIMIT = 1000", "LIMIT = 10"),  # a fixture fails, no test
    ],
)
def test_a_mutant_that_breaks_the_program_is_no_kill(space: Workspace, new: str, old: str) -> None:
    outcome = verdict(space, mutant(new, old=old))
    assert (outcome.verdict, outcome.passed) == ("broken", False), outcome


def test_a_test_that_is_not_there_is_no_kill(space: Workspace) -> None:
    assert verdict(space, mutant("size <= LIMIT", "test_gone")).verdict == "broken"


@pytest.mark.parametrize("hangs", [False, True])
def test_a_hang_counts_only_if_it_is_expected(space: Workspace, hangs: bool) -> None:
    outcome = verdict(space, mutant("size < 0", "test_waits", seconds=4, hangs=hangs))
    assert (outcome.verdict, outcome.passed) == ("timed out", hangs)
    assert outcome.seconds < 30


def test_what_fails_or_does_not_run_without_a_mutant_is_said(space: Workspace) -> None:
    names = ["test_large", "test_sizes", "test_wrong", "test_skipped", "test_gone"]
    tests = [f"checks/test_gate.py::{name}" for name in names]
    assert baseline(space, tests[:2], 60)[1] == []
    assert "test_wrong: AssertionError" in baseline(space, tests[:3], 60)[1][0]
    assert "test_skipped did not run" in baseline(space, [tests[0], tests[3]], 60)[1][0]
    assert baseline(space, [tests[4]], 60)[1]


def test_code_from_elsewhere_than_the_copy_is_noticed(space: Workspace) -> None:
    """A test that gets hold of the tree that was copied (as an installed package would make it) proves nothing."""
    check = space.root / "checks/test_elsewhere.py"
    check.write_text(
        f"import sys\nsys.path.insert(0, {str(space.source)!r})\nfrom tiny.limits import Gate\n"
        "def test_large():\n    assert not Gate().lets(11)\n"
    )
    try:
        tried = Mutant(
            "m", ("P1",), "tiny/limits.py", OLD, "True", "all", ("checks/test_elsewhere.py::test_large",)
        )
        assert verdict(space, tried).verdict == "foreign"
        assert "not the copy's" in baseline(space, list(tried.tests), 60)[1][0]
    finally:
        check.unlink()


def test_the_command_shows_all_of_it_and_fails_for_a_survivor(space: Workspace, tmp_path: Path) -> None:
    """Two mutants, one of which survives: exit code 1, both in the JSON; alone the other one passes."""
    for name, text in [("kills", "test_large"), ("lives", "test_small")]:
        (tmp_path / f"{name}.toml").write_text(
            f'[[mutant]]\nid = "{name}"\npromises = ["P1"]\nfile = "tiny/limits.py"\nold = "{OLD}"\n'
            f'new = "size <= LIMIT"\nbreaks = "the limit"\ntests = ["checks/test_gate.py::{text}"]\n'
        )
    command = [
        sys.executable,
        "-m",
        "mutants",
        "--json",
        "--root",
        str(space.source),
        "--data",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options], env=environment, capture_output=True, text=True, check=False
        )

    both = run("--write")
    assert both.returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kills.toml", "lives.toml"], (
        "no result is written"
    )
    assert {m["mutant"]: m["verdict"] for m in json.loads(both.stdout)["mutants"]} == {
        "kills": "killed",
        "lives": "survived",
    }
    assert "killed in" in both.stderr
    assert "SURVIVED" in both.stderr
    assert run("--only", "kills").returncode == 0
    assert run("--only", "nothing").returncode == 2


def test_shares_are_all_of_it_and_a_commit_draws_one() -> None:
    all_of_them = load_mutants(Path(__file__).parent)
    shares = [choose(all_of_them, share=(k, 3)) for k in (1, 2, 3)]
    assert sorted(m.id for share in shares for m in share) == sorted(m.id for m in all_of_them)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert {share_of(str(n), 3) for n in range(50)} == {(1, 3), (2, 3), (3, 3)}
    assert share_of("abc", 3) == share_of("abc", 3)
    for bad in ((0, 3), (4, 3)):
        with pytest.raises(CatalogueError):
            choose(all_of_them, share=bad)
    assert {m.promises[0] for m in choose(all_of_them, only=["P7"])} >= {"P7"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "No"}, "lower case"),
        ({"promises": ["P25"]}, "P25"),
        ({"promises": []}, "no promise"),
        ({"tests": []}, "needs tests"),
        ({"new": "a"}, "changes something"),
        ({"seconds": 0}, "1 to 300"),
        ({"surprise": 1}, "surprise"),
        ({"file": None}, "file"),
    ],
)
def test_data_that_makes_no_sense_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    entry = {
        "id": "m",
        "promises": ["P1"],
        "file": "f",
        "old": "a",
        "new": "b",
        "breaks": "x",
        "tests": ["t"],
    }
    entry |= change
    lines = [f"{name} = {json.dumps(value)}" for name, value in entry.items() if value is not None]
    (tmp_path / "one.toml").write_text("[[mutant]]\n" + "\n".join(lines) + "\n")
    with pytest.raises(CatalogueError, match=said):
        load_mutants(tmp_path)


def test_a_place_is_found_by_its_name_and_by_nothing_else(space: Workspace) -> None:
    assert mutant().place(space.root) == "tiny/limits.py::Gate.lets"
    assert mutant(old="LIMIT = 10").place(space.root) == "tiny/limits.py::LIMIT"
    for place in ("tiny/limits.py", "tiny/limits.py::Gate.lets", "tiny/limits.py::LIMIT"):
        assert defines(space.root, place)
    for place in ("tiny/gone.py", "tiny/limits.py::Gate.gone", "tiny/limits.py::lets"):
        assert not defines(space.root, place)


def test_a_copy_has_nothing_of_caches_and_environments(space: Workspace, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(space.source, source)
    for name in (".venv", ".git", "__pycache__", ".pytest_cache"):
        (source / name).mkdir(exist_ok=True)
        (source / name / "large").write_text("x")
    copy = Workspace(source, tmp_path / "job")
    assert sorted(path.name for path in copy.root.iterdir()) == ["checks", "tiny"]
