"""Simulated disks: they lose power at a commit.

Responsible for crashing a process before a commit, after it, or in the middle of writing it (a torn write),
and for disks that refuse a commit. Must not know what is stored. With ``sqlite`` the files are the production
`Store`'s own, so what a restart finds is what SQLite's recovery makes of them; else they are tables in memory, of
which a torn commit is there or is not.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Literal

from chainkit.store import FILE_NAME, Store
from simulation.memory import MemoryStore, Tables

Mode = Literal["before", "after", "torn", "error"]
MODES: tuple[Mode, ...] = ("before", "after", "torn", "error")
WHOLE_TEARS = 8
"""Of so many torn commits in memory one is there: the cut was behind its last byte that counts."""


class PowerLost(BaseException):
    """The process is gone; whatever of it still runs must not go on."""


class Disk:
    """The disk of one process: counts commits, and fails at the one it was told to."""

    def __init__(self, rng: Random, on_power_lost: Callable[[], None], *, sqlite: bool = True) -> None:
        self._rng = rng
        self._sqlite = sqlite
        self._tables: dict[Path, Tables] = {}
        self._on_power_lost = on_power_lost
        self.commits = 0
        self.on_commit: Callable[[], None] = lambda: None
        self.failed: list[Mode] = []
        self.stores: list[SimStore | SimMemoryStore] = []
        self.armed: tuple[int, Mode] | None = None
        """The number of the commit that fails, and how."""
        self._torn: dict[Path, bytes] = {}

    def arm(self, commits: int, mode: Mode) -> None:
        """Fail at the commit after that many more."""
        self.armed = (self.commits + commits, mode)

    def disarm(self) -> None:
        """Fail no more."""
        self.armed = None

    def store_type(self) -> "type[SimStore | SimMemoryStore]":
        """A `Store` whose files are on this disk."""
        return type("StoreOnDisk", (SimStore if self._sqlite else SimMemoryStore,), {"disk": self})

    def tables(self, path: Path) -> Tables:
        """What a store in memory has under this path."""
        return self._tables.setdefault(path, Tables())

    def lose_power(self) -> None:
        """Whatever is open cannot be written any more."""
        for store in self.stores:
            store.powered = False

    def mount_again(self) -> None:
        """Close what the dead process left open, and put a torn write where it was."""
        for store in self.stores:
            store.drop()
        self.stores.clear()
        for wal, content in self._torn.items():
            database = wal.with_name(FILE_NAME)
            database.write_bytes(self._torn_database)
            wal.write_bytes(content)
            wal.with_name(FILE_NAME + "-shm").unlink(missing_ok=True)
        self._torn.clear()

    def commit(self, store: "SimStore | SimMemoryStore", commit: Callable[[], None]) -> None:
        """Do a commit, or what is left of it."""
        if self.armed is None:
            self.commits += 1
            commit()
            self.on_commit()
            return
        mode = self._due()
        if mode == "torn" and not isinstance(store, SimStore):
            mode = "before" if self._rng.randrange(WHOLE_TEARS) else "after"
        self.commits += 1
        if mode is None:
            commit()
            self.on_commit()
            return
        self.failed.append(mode)
        if mode == "error":
            store.undo()
            raise sqlite3.OperationalError("disk I/O error (simulated)")
        if mode == "before":
            store.undo()
        elif mode == "after":
            commit()
        else:
            assert isinstance(store, SimStore)
            self._tear(store, commit)
        self._on_power_lost()
        raise PowerLost

    def _due(self) -> Mode | None:
        if self.armed is None or self.commits < self.armed[0]:
            return None
        mode = self.armed[1]
        self.armed = None
        return mode

    def _tear(self, store: "SimStore", commit: Callable[[], None]) -> None:
        """Let only a part of the write-ahead log's new bytes reach the disk, the last of them garbled."""
        wal = store.file.with_name(FILE_NAME + "-wal")
        database = store.file.read_bytes()
        before = wal.read_bytes() if wal.exists() else b""
        commit()
        after = wal.read_bytes() if wal.exists() else b""
        if store.file.read_bytes() != database:
            return  # a checkpoint followed: then the log was whole
        first = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
        if first >= len(after):
            return
        cut = self._rng.randrange(first, len(after))
        garbage = self._rng.randbytes(min(self._rng.choice((0, 16, 512)), len(after) - cut))
        self._torn_database = database
        self._torn[wal] = after[:cut] + garbage + before[cut + len(garbage) :]


class SimStore(Store):
    """The production store on a simulated disk."""

    disk: Disk

    def __init__(self, path: Path, *, genesis_hash: bytes, role: str) -> None:
        self.powered = True
        self.disk.stores.append(self)
        super().__init__(path, genesis_hash=genesis_hash, role=role)

    def _run(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        if not self.powered:
            raise PowerLost
        return super()._run(sql, values)

    def _end(self) -> None:
        if not self.powered:
            raise PowerLost
        if self._doomed:
            super()._end()
            return
        try:
            self.disk.commit(self, super()._end)
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from None

    def flush(self) -> None:
        """A commit on this disk is there when it returns, or not at all."""

    def undo(self) -> None:
        """Take the open transaction back."""
        self._db.execute("ROLLBACK")

    def close(self) -> None:
        if self.powered:
            super().close()

    def drop(self) -> None:
        """Let go of the files as the operating system does after a crash; may be called again."""
        self.powered = False
        if hasattr(self, "_db"):
            self._db.close()
        if hasattr(self, "_lock"):
            self._lock.close()


class SimMemoryStore(MemoryStore):
    """A store in memory on a simulated disk."""

    disk: Disk

    def __init__(self, path: Path, *, genesis_hash: bytes, role: str) -> None:
        self.powered = True
        self.disk.stores.append(self)
        super().__init__(path, genesis_hash=genesis_hash, role=role)

    def _open_tables(self) -> Tables:
        return self.disk.tables(self.path)

    def _check_power(self) -> None:
        if not self.powered:
            raise PowerLost

    def _end(self) -> None:
        disk = self.disk
        if disk.armed is not None or self._doomed or not self.powered:
            super()._end()
            return
        # What `Disk.commit` does when nothing is to fail, in one piece: there are a dozen in every slot.
        disk.commits += 1
        self._tables.before.clear()
        disk.on_commit()
        if self._flushes:
            self.flushed()

    def _commit(self) -> None:
        try:
            self.disk.commit(self, self._tables.before.clear)
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from None

    def undo(self) -> None:
        """Take the open group back."""
        self._tables.undo()

    def drop(self) -> None:
        """What was not committed is not there after a crash; may be called again."""
        self.powered = False
        self._tables.undo()
