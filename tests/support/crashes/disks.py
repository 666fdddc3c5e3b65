"""Disks that are small, full, failing or read-only, for services of a real devnet.

Responsible for mounting a tmpfs where a service keeps its data, for filling it, for making writes fail, and for undoing
all of it. Must not know what should follow.
"""

import contextlib
import resource
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil

from chainkit.store import FILE_NAME

SIZE: Final = "96m"
_FILLER: Final = "filler"
_BLOCK: Final = bytes(1024 * 1024)


class CannotMountError(Exception):
    """This machine does not let us mount; the message says why."""


def _mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotMountError(str(error)) from None
    if done.returncode:
        raise CannotMountError(" ".join(done.stderr.split()) or f"mount ended with {done.returncode}")


@contextlib.contextmanager
def small_disks(directories: Sequence[Path]) -> Iterator[str]:
    """A disk of its own for each directory until the block ends; gives why not, if they cannot be mounted."""
    mounted: list[Path] = []
    reason = ""
    try:
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)
            try:
                _mount("-t", "tmpfs", "-o", f"size={SIZE}", "layerlab-crash", str(directory))
            except CannotMountError as error:
                reason = str(error)
                break
            mounted.append(directory)
        yield reason
    finally:
        for directory in mounted:
            subprocess.run(["umount", "-l", str(directory)], capture_output=True, check=False)


def fill(directory: Path) -> None:
    """Leave no byte, nor room in SQLite's own log, which would last for some time."""
    for file in directory.rglob(FILE_NAME):
        with contextlib.closing(sqlite3.connect(file, timeout=5)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (directory / _FILLER).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(_BLOCK)
    with (directory / _FILLER).open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x")


def free(directory: Path) -> None:
    """Undo `fill`."""
    (directory / _FILLER).unlink(missing_ok=True)


def read_only(directory: Path, yes: bool) -> None:
    """Remount the disk; nobody may have a file on it open for writing. Raises `CannotMountError`."""
    _mount("-o", f"remount,{'ro' if yes else 'rw'}", str(directory))


def break_writes(pid: int, yes: bool) -> None:
    """Let every write to a file fail, for one running process: as a dying disk does, which no mount can play."""
    limit = 0 if yes else resource.RLIM_INFINITY
    psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
