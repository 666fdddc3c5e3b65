"""The mutants and the promises as data: ``tests/mutants/*.toml``.

Responsible for reading and checking them, and for where in the code a mutant bites. Must not know how a mutant is
run, nor what came of it.
"""

import ast
import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROMISES = tuple(f"P{number}" for number in range(1, 25))
PROMISES_FILE = "promises.toml"
SEED = re.compile(r"seed ([0-9]+)")
"""Named among a mutant's tests: one seed of the simulation of the whole system."""

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_FIELDS = {"id", "promises", "file", "old", "new", "breaks", "tests", "hangs", "seconds"}


class CatalogueError(ValueError):
    """A file of mutants or promises says what cannot be; the message names the place."""


@dataclass(frozen=True)
class Mutant:
    """One small change of our own code, and the tests that are to notice it.

    ``old`` stands in ``file`` exactly once and is replaced by ``new``. ``tests`` are node ids of pytest, or
    ``seed N``. A run of more than ``seconds`` is ended; that counts as noticed only if ``hangs``.
    """

    id: str
    promises: tuple[str, ...]
    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]
    hangs: bool = False
    seconds: int = 60

    @property
    def digest(self) -> str:
        """Changes with all that a result depends on: a result of another digest is of another mutant."""
        parts = [self.file, self.old, self.new, list(self.tests), self.hangs]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def applied(self, text: str) -> str:
        """The file's text with the change. Raises `StaleMutantError` unless ``old`` is there exactly once."""
        count = text.count(self.old)
        if count != 1:
            raise StaleMutantError(f"its old text is {count} times in {self.file}, not once")
        return text.replace(self.old, self.new)

    def place(self, root: Path) -> str:
        """``file::Class.function`` where the change begins. Raises `StaleMutantError`."""
        try:
            text = (root / self.file).read_text(encoding="utf-8")
        except OSError:
            raise StaleMutantError(f"there is no {self.file}") from None
        self.applied(text)
        at = text.index(self.old)
        at += len(self.old) - len(self.old.lstrip())
        name = _name_at(ast.parse(text), text.count("\n", 0, at) + 1)
        return f"{self.file}::{name}" if name else self.file


class StaleMutantError(Exception):
    """The code has changed under a mutant: it no longer applies."""


@dataclass(frozen=True)
class Promise:
    """A promise in the words of the threat model; where it is kept, and what watches it besides mutants' tests."""

    id: str
    group: str
    words: str
    code: tuple[str, ...]
    tests: tuple[str, ...] = field(default=())


def load_mutants(directory: Path) -> list[Mutant]:
    """All mutants, by the first promise that each breaks, then in the order of the files. Raises `CatalogueError`."""
    found: list[Mutant] = []
    for path in sorted(directory.glob("*.toml")):
        if path.name != PROMISES_FILE:
            found += [_mutant(entry, path.name) for entry in _read(path).get("mutant", [])]
    for mutant in found:
        if [other.id for other in found].count(mutant.id) > 1:
            raise CatalogueError(f"two mutants are called {mutant.id}")
    return sorted(found, key=lambda mutant: PROMISES.index(mutant.promises[0]))


def load_promises(directory: Path) -> dict[str, Promise]:
    """The promises by id, in order. Raises `CatalogueError`."""
    read = _read(directory / PROMISES_FILE)
    if tuple(read) != PROMISES:
        raise CatalogueError(f"{PROMISES_FILE} must have {PROMISES[0]} to {PROMISES[-1]} in order, once each")
    promises = {}
    for name, entry in read.items():
        try:
            promises[name] = Promise(
                name, entry["group"], entry["words"], tuple(entry["code"]), tuple(entry.get("tests", ()))
            )
        except (KeyError, TypeError) as error:
            raise CatalogueError(f"{PROMISES_FILE}: {name}: {error}") from None
    return promises


def choose(
    mutants: Sequence[Mutant], *, only: Sequence[str] = (), share: tuple[int, int] = (1, 1)
) -> list[Mutant]:
    """Those of these ids (or breaking these promises), and of them the ``k``-th of ``n`` shares.

    Shares go round the list, so that each has mutants of all parts of the system. Raises `CatalogueError`.
    """
    known = {mutant.id for mutant in mutants} | {promise for m in mutants for promise in m.promises}
    for name in only:
        if name not in known:
            raise CatalogueError(f"no mutant and no promise is called {name!r}")
    chosen = [m for m in mutants if not only or m.id in only or set(m.promises) & set(only)]
    k, n = share
    if not 1 <= k <= n:
        raise CatalogueError(f"there is no share {k} of {n}")
    return chosen[k - 1 :: n]


def share_of(commit: str, shares: int) -> tuple[int, int]:
    """The share that a commit draws: each is drawn in the long run, and the same commit draws the same one."""
    if shares < 1:
        raise CatalogueError("there is at least one share")
    return int.from_bytes(hashlib.sha256(commit.encode()).digest(), "big") % shares + 1, shares


def defines(root: Path, place: str) -> bool:
    """Whether ``file::Class.function`` (or just ``file``) is there. A test's ``[parameters]`` are not looked at."""
    file, _, name = place.partition("::")
    path = root / file
    if not path.is_file():
        return False
    if not name:
        return True
    scope: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    for part in name.partition("[")[0].replace("::", ".").split("."):
        scope = [child for node in scope for child in _children(node) if _named(child, part)]
    return bool(scope)


def _children(node: ast.AST) -> list[ast.AST]:
    return list(getattr(node, "body", []))


def _named(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name == name
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _name_at(tree: ast.AST, line: int) -> str:
    """The dotted name of what is defined around a line, "" at the top of a module."""
    names: list[str] = []
    node = tree
    while True:
        inner = next((child for child in _children(node) if _spans(child, line)), None)
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(inner.name)
            node = inner
        else:
            if inner is not None and not names:
                names += [t.id for t in getattr(inner, "targets", []) if isinstance(t, ast.Name)]
            return ".".join(names)


def _spans(node: ast.AST, line: int) -> bool:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)]) if isinstance(node, ast.stmt) else line + 1
    return first <= line <= (getattr(node, "end_lineno", None) or 0)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{path.name}: {error}") from None


def _mutant(entry: dict[str, Any], where: str) -> Mutant:
    name = entry.get("id")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise CatalogueError(f"{where}: a mutant's id is words in lower case with dashes, not {name!r}")
    unknown = set(entry) - _FIELDS
    if unknown:
        raise CatalogueError(f"{where}: {name} has unknown fields: {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    try:
        mutant = Mutant(**values)
    except TypeError as error:
        raise CatalogueError(f"{where}: {name}: {error}") from None
    wrong = [promise for promise in mutant.promises if promise not in PROMISES]
    if wrong or not mutant.promises:
        raise CatalogueError(f"{where}: {name} breaks {wrong or 'no promise'}")
    if not mutant.tests or mutant.old == mutant.new or not mutant.old or not mutant.breaks:
        raise CatalogueError(
            f"{where}: {name} needs tests, what it breaks, and a change that changes something"
        )
    if not 1 <= mutant.seconds <= 300:
        raise CatalogueError(f"{where}: {name} may take 1 to 300 seconds")
    return mutant
