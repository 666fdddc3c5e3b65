"""A comparison's directory: every run as a line the moment it is there, the table and the page at the end.

Responsible for files that are whole or not there, and for reading runs back. Must not know what a record means.
"""

import csv
import io
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

RUNS: Final = "runs.jsonl"
TABLE: Final = "table.csv"
PAGE: Final = "report.html"


class ResultsError(Exception):
    """The results cannot be kept there, or cannot be read; one line says why."""


class Results:
    """``<time>-<id>/`` below a directory, made for one comparison."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def create(cls, out: Path) -> Self:
        """Make the directory. Raises `ResultsError`."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        directory = out / f"{stamp}-{secrets.token_hex(3)}"
        try:
            directory.mkdir(parents=True)
            (directory / RUNS).touch()
        except OSError as error:
            raise ResultsError(f"no results can be kept in {str(out)!r}: {error.strerror}") from None
        return cls(directory)

    def append(self, record: Mapping[str, Any]) -> None:
        """One more run, on disk when this returns. Raises `ResultsError`."""
        line = json.dumps(record, separators=(",", ":"), allow_nan=False)
        try:
            with (self.directory / RUNS).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ResultsError(f"{str(self.directory / RUNS)!r}: {error.strerror}") from None

    def write(self, name: str, content: str) -> Path:
        """Replace a file as a whole. Raises `ResultsError`."""
        path = self.directory / name
        temporary = path.with_name(name + ".new")
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise ResultsError(f"{str(path)!r}: {error.strerror}") from None
        return path


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The records of a ``runs.jsonl``; a last line that was cut off is left out. Raises `ResultsError`."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{str(path)!r} cannot be read: {error}") from None
    whole, rest = lines[:-1], lines[-1]
    try:
        found = [json.loads(line) for line in whole]
        if rest:
            found += _whole(rest)
    except ValueError as error:
        raise ResultsError(f"{str(path)!r} is damaged: {error}") from None
    return found


def _whole(line: str) -> list[Any]:
    try:
        return [json.loads(line)]
    except ValueError:
        return []


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV (RFC 4180, but for plain newlines); None is an empty field."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
