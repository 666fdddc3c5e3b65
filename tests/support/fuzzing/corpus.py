"""The corpus in the repository: one small file a target, a line an input.

Responsible for reading and writing it, and for choosing of new inputs those that reach code which the others do not.
Must not know how inputs are found.

The file of a target has the seeds (made of real objects) and what fuzzing found, each as one line of base64.
"""

import base64
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from fuzzing.target import Target

ROOT: Final = Path(__file__).parents[3]
PLACE: Final = ROOT / "tests" / "fuzz" / "corpus"
MOST: Final = 24
"""Inputs of one target: a corpus is read in every test run."""
MOST_BYTES: Final = 2048
PACKAGES: Final = ("chainkit", "l1node", "rollup", "bridge", "layerlab")

Arc = tuple[CodeType, int, int]


def load(target: Target) -> list[bytes]:
    """The corpus of a target; its seeds if there is none yet."""
    path = PLACE / f"{target.name}.txt"
    if not path.exists():
        return target.seeds()
    return [base64.b64decode(line, validate=True) for line in path.read_text().split()]


def store(target: Target, inputs: Iterable[bytes]) -> None:
    """Write a target's corpus."""
    PLACE.mkdir(parents=True, exist_ok=True)
    lines = [base64.b64encode(data).decode() for data in dict.fromkeys(inputs)]
    (PLACE / f"{target.name}.txt").write_text("".join(line + "\n" for line in lines))


def smallest_cover(target: Target, known: Sequence[bytes], found: Iterable[bytes]) -> list[bytes]:
    """Of what was found, the smallest first, what reaches steps of our own code that nothing before it reached."""
    reached: set[Arc] = set()
    for data in known:
        reached |= arcs(target, data)
    chosen: list[bytes] = []
    for data in sorted(found, key=lambda each: (len(each), each)):
        if len(known) + len(chosen) >= MOST or len(data) > MOST_BYTES:
            break
        new = arcs(target, data) - reached
        if new:
            reached |= new
            chosen.append(data)
    return chosen


def arcs(target: Target, data: bytes) -> set[Arc]:
    """The steps from line to line of our own code that an input takes."""
    seen: set[Arc] = set()
    last: dict[int, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if event == "call" and not _is_ours(code.co_filename):
            return None
        if event == "line":
            seen.add((code, last.get(id(frame), 0), frame.f_lineno))
            last[id(frame)] = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        target.run(data)
    finally:
        sys.settrace(None)
    return seen


def _is_ours(filename: str) -> bool:
    path = Path(filename)
    return ROOT in path.parents and path.relative_to(ROOT).parts[0] in PACKAGES
