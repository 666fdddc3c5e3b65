"""A devnet's directory: what lies where, who may work on it, and writing to it whole or not at all.

Responsible for the paths, the mark by which layerlab knows its own, the locks, and for deleting and replacing
what layerlab made there and nothing else. Must not know what a service is or does.

The directory holds ``devnet.json`` (configuration and processes; the mark), ``genesis/``, ``clock.json``,
``data/<service>/``, ``logs/`` and ``snapshots/``.
"""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from layerlab.config import DevnetError

MARK: Final = "devnet.json"
DEFAULT_DIRECTORY: Final = Path(".layerlab/devnet")
PARTS: Final = ("data", "genesis")
"""What a snapshot copies."""
LOCK_SECONDS: Final = 20.0
"""How long a command waits for another one to be done with the directory."""
_OWN: Final = (*PARTS, "logs", ".restoring")
_OWN_FILES: Final = (
    "clock.json",
    "clock.json.lock",
    "clock.json.tmp",
    "clock.lock",
    "fault-token",
    MARK + ".new",
    MARK,
)
_KEPT: Final = ("snapshots", "devnet.lock")


def named(directory: Path) -> str:
    """The option by which a command finds this directory again (with a space before it), if it needs one."""
    usual = directory.resolve() == DEFAULT_DIRECTORY.resolve()
    return "" if usual else f" --dir {shlex.quote(str(directory))}"


@dataclass(frozen=True)
class Layout:
    """Where things are in ``directory`` (absolute)."""

    directory: Path

    @property
    def mark(self) -> Path:
        return self.directory / MARK

    @property
    def genesis_file(self) -> Path:
        return self.directory / "genesis" / "l1.json"

    @property
    def l2_genesis_file(self) -> Path:
        """A side chain's. A rollup's, too, for people and tools: services read that from L1's."""
        return self.directory / "genesis" / "l2.json"

    @property
    def clock_file(self) -> Path:
        return self.directory / "clock.json"

    @property
    def fault_token_file(self) -> Path:
        """For services in containers; only the owner reads it."""
        return self.directory / "fault-token"

    @property
    def snapshots(self) -> Path:
        return self.directory / "snapshots"

    @property
    def restoring(self) -> Path:
        """What a restore is about to put into place."""
        return self.directory / ".restoring"

    def data(self, name: str) -> Path:
        return self.directory / "data" / name

    def log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    # --- whose it is ---

    @property
    def exists(self) -> bool:
        try:
            return self.mark.is_file()
        except OSError:
            return False

    def require_vacant(self) -> None:
        """Raises `DevnetError` if there is anything but what `remove` leaves."""
        try:
            found = sorted({path.name for path in self.directory.iterdir()} - set(_KEPT))
        except FileNotFoundError:
            return
        except OSError as error:
            raise DevnetError(f"{str(self.directory)!r}: {error.strerror}; give another with --dir") from None
        if MARK in found:
            raise DevnetError(
                f"{str(self.directory)!r} holds a devnet already; use it, or start anew with --fresh"
            )
        if found:
            raise DevnetError(
                f"{str(self.directory)!r} was not made by layerlab (it has {found[0]!r} but no {MARK}); "
                "give another directory with --dir"
            )

    def remove(self) -> None:
        """Delete the devnet that layerlab made here; snapshots stay. Raises `DevnetError` for anything else."""
        if not self.exists:
            self.require_vacant()
            return
        try:
            for name in _OWN:
                if (self.directory / name).exists():
                    shutil.rmtree(self.directory / name)
            for name in _OWN_FILES:  # the mark goes last: what was interrupted can be repeated
                (self.directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise DevnetError(f"cannot delete {str(error.filename)!r}: {error.strerror}") from None

    # --- reading and writing ---

    def last_write(self) -> float | None:
        """The wall instant of the last write to any service's data (unix seconds); None if there is none."""
        instants = []
        for path in (self.directory / "data").rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    instants.append(path.stat().st_mtime)
        return max(instants, default=None)

    @contextmanager
    def locked(
        self,
        what: str = "devnet",
        *,
        seconds: float = LOCK_SECONDS,
        wait: Callable[[float], None] = time.sleep,
    ) -> Iterator[None]:
        """One command at a time: hold ``<what>.lock``. Raises `DevnetError` if another does for too long."""
        path = self.directory / f"{what}.lock"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DevnetError(f"{str(path)!r}: {error.strerror}; give another directory with --dir") from None
        try:
            for left in range(round(seconds / 0.05), -1, -1):
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if not left:
                    raise DevnetError(
                        f"another layerlab command is at work in {str(self.directory)!r}; wait for its end"
                    )
                wait(0.05)
            yield
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Replace a file as a whole, on disk when this returns. Raises `DevnetError`."""
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise DevnetError(f"{str(path)!r} cannot be written: {error.strerror}") from None


def sync_directory(path: Path) -> None:
    """What was renamed in ``path`` stays so, also if the power fails."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
