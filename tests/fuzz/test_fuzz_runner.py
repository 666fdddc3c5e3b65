"""What runs the targets: a bug is found, told and kept for replay; where atheris is missing, that is said aloud."""

import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from fuzzing import cli, guided

SUPPORT = Path(cli.__file__).parents[1]

BROKEN = """
import sys
import fuzzing.targets as targets
from fuzzing.target import Target
from fuzzing import guided

def run(data):
    if data[:1] == b"B":
        raise RuntimeError("a bug on purpose")
    return False

targets.ALL = {"broken": Target("broken", "", run, lambda: [b"AAAA", b"CCCC"])}
sys.exit(guided.fuzz(None, 20, 1, keep=False))
"""


@pytest.mark.skipif(guided.missing() is not None, reason=str(guided.missing()))
def test_a_bug_is_found_told_and_kept(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT}:{SUPPORT.parents[1]}"}
    done = subprocess.run(
        [sys.executable, "-c", BROKEN],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "a bug on purpose" in done.stdout
    (kept,) = (tmp_path / guided.CRASHES).iterdir()
    assert kept.read_bytes()[:1] == b"B"
    assert f"make fuzz-replay TARGET=broken FILE={guided.CRASHES / kept.name}" in done.stdout
    assert f"<<< {b64encode(kept.read_bytes()).decode()}\n" in done.stdout


def test_without_atheris_it_is_said_that_nothing_was_fuzzed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["fuzz", "--seconds", "1"]) == 0
    assert capsys.readouterr().out.startswith("SKIPPED: nothing was fuzzed: atheris is not installed")


def test_replay_runs_one_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"\xc1")
    assert cli.main(["replay", "vote", str(file)]) == 0
    assert "refused" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no target 'nothing'"):
        cli.main(["replay", "nothing", str(file)])
