"""Runs two experiments of the laboratory with their controls; which two, the commit decides.

``python .ci/experiments.py [COMMIT]`` with the interpreter beside which `layerlab` is installed; COMMIT (default: HEAD)
repeats the pair of another one. Exit code 1 unless both are confirmed. Knows nothing of experiments but what
`layerlab lab list --json` says.
"""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

NO_COMMIT: Final = "0" * 40
"""Stands for the commit where there is none: always the same pair."""
ROOT: Final = Path(__file__).resolve().parents[1]
LAYERLAB: Final = Path(sys.executable).with_name("layerlab")


class Cell(NamedTuple):
    """An experiment on a model."""

    experiment: str
    model: str


def cells(listed: Sequence[dict[str, Any]]) -> list[Cell]:
    """Every experiment on every model that it is for, in an order of its own."""
    return sorted(Cell(found["experiment"], model) for found in listed for model in found["hypothesis"])


def pick(commit: str, among: Sequence[Cell]) -> tuple[Cell, Cell]:
    """Two cells of different experiments. Raises `ValueError` if there are none."""
    if len({cell.experiment for cell in among}) < 2:
        raise ValueError("there are not two experiments to choose from")
    number = int.from_bytes(hashlib.sha256(commit.encode()).digest(), "big")
    number, place = divmod(number, len(among))
    first = among[place]
    others = [cell for cell in among if cell.experiment != first.experiment]
    return first, others[number % len(others)]


def head() -> str:
    """The commit that is checked out; `NO_COMMIT` where git does not tell."""
    try:
        asked = ["git", "-C", str(ROOT), "rev-parse", "--verify", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() or NO_COMMIT
    except (OSError, subprocess.CalledProcessError):
        return NO_COMMIT


def run(words: Sequence[str]) -> int:
    """Run a command with our own output; its exit code. Whatever ends us ends it first, in its own way."""
    children: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def end(number: int, _: object) -> None:
        told.append(number)
        for child in children:
            child.terminate()

    signal.signal(
        signal.SIGINT, lambda number, _: told.append(number)
    )  # a terminal sends it to the child, too
    signal.signal(signal.SIGTERM, end)
    with subprocess.Popen(words) as child:
        children.append(child)
        if signal.SIGTERM in told:
            child.terminate()
        code = None
        while code is None:  # a signal that comes just before the kernel's wait is heard a second later
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(1)
    return code or (128 + told[0] if told else 0)


def main(layerlab: Path = LAYERLAB) -> int:
    listed = subprocess.run([layerlab, "lab", "list", "--json"], stdout=subprocess.PIPE, check=True).stdout
    commit = sys.argv[1] if len(sys.argv) > 1 else head()
    pair = pick(commit, cells(json.loads(listed)))
    if commit == NO_COMMIT:
        print("git tells no commit: the pair is the one of all zeros")
    else:
        print(f"commit {commit[:12]} chooses the pair")
    for number, cell in enumerate(pair, 1):
        print(f"{number} of 2: {cell.experiment} on {cell.model}", flush=True)
        if code := run([str(layerlab), "lab", "run", cell.experiment, "--model", cell.model]):
            print(f"NOT CONFIRMED: layerlab lab run {cell.experiment} --model {cell.model}", file=sys.stderr)
            return code if code > 0 else 128 - code
    print("both are confirmed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
