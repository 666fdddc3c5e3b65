"""The data directory of one service: made if missing, and held by one process at a time.

Responsible for the lock that keeps a second process out. Must not know what the directory holds.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType

LOCK_NAME = "lock"


class DataDirError(Exception):
    """The data directory cannot be used; one line says why and what to do."""


class DataDirLock:
    """Holds ``<path>/lock`` (flock) from construction until `close` or the end of the process.

    Raises `DataDirError` if the directory cannot be made or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirError(
                f"data directory {str(path)!r}: {error.strerror}; correct it, or give another with --data "
                "(LAYERLAB_DATA)"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise DataDirError(
                f"data directory {str(path)!r} is in use by process {holder or 'unknown'}; "
                "stop it, or give another directory with --data (LAYERLAB_DATA)"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        """Let the next process in. The file stays: removing it would let two processes lock two files."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "DataDirLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
