"""One SQLite file of a service: groups of writes that are on disk as a whole or not at all, and small values by name.

Responsible for surviving a crash at any point, and for refusing a file that is not this chain's. Must not know what
its tables hold.

One connection, used from one thread (the event loop's), but for `Database.flush`. A ``with database.transaction():``
must hold no await.

A commit that finds much in the write-ahead log copies it into the file, and waits for the disk twice: tens of
milliseconds. Where somebody waits for `flush` in another thread anyway, that is done there (`_move_log_on`).
"""

import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import ClassVar

from chainkit.datadir import (
    DISK_ADVICE,
    DISK_ERRORS,
    DataDirDiskError,
    DataDirError,
    DataDirLock,
    DiskTrouble,
)

SCHEMA_VERSION = 4
FILE_NAME = "node.db"
_LOG_BYTES = 4 << 20
"""What was written since the log was last moved on into the file, when `flush` does it."""
_LOG_PAGES = 3000
"""In the log, when a commit does it all the same. (Where nobody flushes it is SQLite's own 1,000.)"""


class StoreError(Exception):
    """The store cannot be used; one line says why and what to do."""


class StoreDiskError(StoreError, DiskTrouble):
    """It cannot be used because its disk is full, read-only or failing. What was committed is whole."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


_DISK_CODES = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
)


def _is_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DISK_CODES


class Database:
    """The file of one service in ``path`` (a directory, made if missing and locked while open).

    ``genesis_hash`` and ``role`` (such as "l1node" or "sequencer") are written at first and checked ever
    after. Raises `StoreError` for a directory in use, a corrupt file, another chain, another role or another
    schema; every other method raises it when the disk fails.
    """

    SCHEMA: ClassVar = "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"

    def __init__(self, path: Path, *, genesis_hash: bytes, role: str) -> None:
        self.path = path
        self.file = path / FILE_NAME
        self._depth = 0
        self._doomed = False
        self._flushes = True
        self._logged = 0  # bytes that were written since the log was moved on, as far as they were counted
        self._listeners: list[Callable[[], None]] = []
        try:
            self._lock = DataDirLock(path)
        except DataDirError as error:
            if isinstance(error, DataDirDiskError):
                raise StoreDiskError(str(error), path) from None
            raise StoreError(str(error)) from None
        try:
            self._db = self._open()
            try:
                self._check_identity(genesis_hash, role)
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            self._lock.close()
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self.file, isolation_level=None, timeout=5, cached_statements=64)
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA cache_size=-4096")  # KiB: a service stays small
            db.execute("PRAGMA journal_size_limit=8388608")
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
        except sqlite3.Error as error:
            db.close()
            raise self._unusable(error) from None
        return db

    def _unusable(self, error: Exception) -> StoreError:
        reason = " ".join(str(error).split())
        if _is_disk(error):
            return StoreDiskError(
                f"data file {str(self.file)!r} cannot be used ({reason}); {DISK_ADVICE}", self.path
            )
        return StoreError(
            f"data file {str(self.file)!r} cannot be used ({reason}); restore it from a snapshot, or delete "
            f"the directory to start again from genesis"
        )

    def _check_identity(self, genesis_hash: bytes, role: str) -> None:
        try:
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._create(genesis_hash, role)
                return
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"data directory {str(self.path)!r} was written by another version of layerlab "
                f"(schema {version}, this one has {SCHEMA_VERSION}); use that version, or give another "
                f"directory with --data (LAYERLAB_DATA)"
            )
        known = self.get_meta("genesis")
        if known != genesis_hash:
            raise StoreError(
                f"data directory {str(self.path)!r} belongs to another chain (its genesis is "
                f"{_short(known)}, yours is {_short(genesis_hash)}); give its genesis file, or another "
                f"--data (LAYERLAB_DATA)"
            )
        owner = (self.get_meta("role") or b"").decode("utf-8", "replace")
        if owner != role:
            raise StoreError(
                f"data directory {str(self.path)!r} belongs to a {owner or 'nameless role'}, not to a "
                f"{role}; give another directory with --data (LAYERLAB_DATA)"
            )

    def _create(self, genesis_hash: bytes, role: str) -> None:
        if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            raise sqlite3.DatabaseError("it is not a layerlab file")
        with self.transaction():
            for statement in self.SCHEMA.split(";"):
                self._db.execute(statement)
            self.set_meta("genesis", genesis_hash)
            self.set_meta("role", role.encode())
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    # --- transactions ---

    def transaction(self, *, flush: bool = True) -> "_Group":
        """Group writes: all of them are on disk when the outermost block ends, or none. May be nested.

        An exception inside, also one caught further out but still inside, undoes the whole group. Without
        ``flush`` the outermost one leaves its writes to the operating system: a crash of the process cannot undo
        them, a power failure can, until `flush` has returned; then `flushed` is to be called.
        """
        return _Group(self, flush)

    def _begin(self, flush: bool) -> None:
        if self._depth == 0:
            self._doomed = False
            if flush != self._flushes:
                self._run(f"PRAGMA synchronous={'FULL' if flush else 'NORMAL'}")
                self._flushes = flush
                if not flush:
                    self._run(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
            if not flush:
                self._before_unflushed()
            self._run("BEGIN IMMEDIATE")
        self._depth += 1

    def _leave(self, failed: bool) -> None:
        self._doomed = self._doomed or failed
        self._depth -= 1
        if self._depth > 0:
            return
        kept = False
        try:
            self._end()
            kept = not self._doomed
        finally:
            if not kept:
                self._undone()

    def flush(self) -> None:
        """Wait until the disk has all that was committed. May be called from another thread than all the rest:
        it takes as long as the disk does, and the next writes need not wait for it. Raises `StoreError`."""
        try:  # a commit only appends to this file; SQLite itself flushes it before it moves anything on
            log = os.open(f"{self.file}-wal", os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fsync(log)
            finally:
                os.close(log)
        except OSError as error:
            raise self._unusable(error) from None
        if self._logged > _LOG_BYTES:
            self._logged = 0
            self._move_log_on()

    def _move_log_on(self) -> None:
        """Copy what the log has into the file, by a connection of this thread's own. Whoever writes meanwhile need not
        wait. If it fails nothing is lost, as when SQLite does it after a commit: the log still has all."""
        there = f"{self.file.absolute().as_uri()}?mode=rw"
        with suppress(sqlite3.Error), closing(sqlite3.connect(there, uri=True, timeout=0)) as db:
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def flushed(self) -> None:
        """`flush` has returned since the last commit."""
        for listener in self._listeners:
            listener()

    def _end(self) -> None:
        if self._doomed:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself (disk full)
                self._db.execute("ROLLBACK")
            return
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise self._unusable(error) from None
        if self._flushes:  # and with it all that was committed before
            self.flushed()

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every commit, when its writes can be read and are on disk."""
        self._listeners.append(listener)

    def _run(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def _write(self, sql: str, rows: Iterable[tuple[object, ...]]) -> None:
        with self.transaction():
            try:
                self._db.executemany(sql, rows)
            except sqlite3.Error as error:
                raise self._unusable(error) from None

    def _before_unflushed(self) -> None:
        """A group begins that may be committed before it is flushed."""

    def _undone(self) -> None:
        """A group was taken back, or its commit failed."""

    # --- small values ---

    def get_meta(self, key: str) -> bytes | None:
        """A small value of the service's own."""
        row = self._run("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_meta(self, key: str, value: bytes) -> None:
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(key, value)])

    # --- the end ---

    def close(self) -> None:
        """Fold the write-ahead log into the file, close it and unlock the directory."""
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        self._lock.close()


class _Group:
    """An open `Database.transaction`. A generator in its place would cost as much as a statement."""

    __slots__ = ("_database", "_flush")

    def __init__(self, database: Database, flush: bool) -> None:
        self._database = database
        self._flush = flush

    def __enter__(self) -> None:
        self._database._begin(self._flush)

    def __exit__(self, kind: object, *_: object) -> None:
        self._database._leave(failed=kind is not None)


def _short(value: bytes | None) -> str:
    return "missing" if value is None else "0x" + value.hex()[:16]
