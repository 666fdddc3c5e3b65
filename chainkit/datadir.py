"""The data directory of one service: made if missing, and held by one process at a time.

Responsible for the lock that keeps a second process out. Must not know what the directory holds.
"""

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

LOCK_NAME = "lock"


class DiskTrouble(Exception):  # noqa: N818 - it is the trouble, whatever error it comes with
    """The disk is full, read-only or failing: nobody's fault but the disk's. ``path`` is the directory on it."""

    path: Path


class DataDirError(Exception):
    """The data directory cannot be used; one line says why and what to do."""


class DataDirDiskError(DataDirError, DiskTrouble):
    """It cannot be used because its disk cannot be written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"data directory {str(path)!r} cannot be written ({reason}); {DISK_ADVICE}")
        self.path = path


DISK_ADVICE = (
    "free some space on its disk or make it writable: the data are whole, and the service goes on from there"
)
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})


class DataDirLock:
    """Holds ``<path>/lock`` (flock) from construction until `close` or the end of the process.

    Raises `DataDirError` if the directory cannot be made or another process holds it, `DataDirDiskError` if its disk
    cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise DataDirDiskError(path, error.strerror or str(error)) from None
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
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise DataDirDiskError(path, error.strerror or str(error)) from None
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
