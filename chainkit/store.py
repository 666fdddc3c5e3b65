"""What a service keeps on disk: final state, blocks, transactions and the event log, in one SQLite file.

Responsible for all-or-nothing writes that survive a crash at any point, and for refusing a file that is not
this chain's. Must not know what a block means, who may write, or how long anything lives.

One connection, used from one thread (the event loop's), but for `Store.flush`. A ``with store.transaction():`` must
hold no await.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from chainkit.block_rows import (
    Cut,
    StoredBlock,
    StoredTransaction,
    cut_of,
    ids_of,
    pack,
    position_of,
    ran_of,
    take_all,
)
from chainkit.codec import MAX_AMOUNT, Bytes32, decode, encode
from chainkit.datadir import (
    DISK_ADVICE,
    DISK_ERRORS,
    DataDirDiskError,
    DataDirError,
    DataDirLock,
    DiskTrouble,
)
from chainkit.execution import Receipt
from chainkit.merkle import Tree
from chainkit.places import Places
from chainkit.states import StoredState
from chainkit.transaction import SignedTransaction

SCHEMA_VERSION = 3
FILE_NAME = "node.db"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE state_parts (part INTEGER PRIMARY KEY, items BLOB NOT NULL);
CREATE TABLE state_log (seq INTEGER PRIMARY KEY, items BLOB NOT NULL);
CREATE TABLE blocks (
  height INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, certificate BLOB, block BLOB NOT NULL);
CREATE TABLE transactions (
  height INTEGER PRIMARY KEY, entries BLOB NOT NULL, receipts BLOB NOT NULL);
CREATE TABLE places (row INTEGER PRIMARY KEY, entries BLOB NOT NULL);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, height INTEGER NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL,
  data TEXT NOT NULL, tx_id BLOB);
"""
_BLOCK = "SELECT height, hash, block, certificate FROM blocks"


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


class StoredEvent(NamedTuple):
    """An entry of the event log; ``seq`` counts from 1 and never goes back. ``source`` is who emitted it."""

    seq: int
    height: int
    source: str
    name: str
    data: dict[str, Any]
    tx_id: Bytes32 | None

    def to_json(self) -> dict[str, Any]:
        """The shape that ``GET /events`` and the stream serve."""
        tx = None if self.tx_id is None else "0x" + self.tx_id.hex()
        return {
            "seq": self.seq,
            "height": self.height,
            "source": self.source,
            "name": self.name,
            "data": self.data,
            "tx": tx,
        }


class Store:
    """The store of one service in ``path`` (a directory, made if missing and locked while open).

    ``genesis_hash`` and ``role`` (such as "l1node" or "sequencer") are written at first and checked ever
    after. Raises `StoreError` for a directory in use, a corrupt file, another chain, another role or another
    schema; every other method raises it when the disk fails.
    """

    def __init__(self, path: Path, *, genesis_hash: bytes, role: str) -> None:
        self.path = path
        self.file = path / FILE_NAME
        self._depth = 0
        self._doomed = False
        self._flushes = True
        self._shown_seq: int | None = (
            None  # the last event that is surely on disk, while that is not the last one
        )
        self._listeners: list[Callable[[], None]] = []
        self._states = StoredState(self._run, self._write, self.get_meta, self.set_meta)
        self._places = Places(self._run, self._write, self.get_meta, self.set_meta)
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
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self.set_meta("genesis", genesis_hash)
            self.set_meta("role", role.encode())
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    # --- transactions ---

    def transaction(self, *, flush: bool = True) -> "_Group":
        """Group writes: all of them are on disk when the outermost block ends, or none. May be nested.

        An exception inside, also one caught further out but still inside, undoes the whole group. Without
        ``flush`` the outermost one leaves its writes to the operating system: a crash of the process cannot undo
        them, a power failure can. Its events are not shown before `flush` has returned and `flushed` was called.
        """
        return _Group(self, flush)

    def _begin(self, flush: bool) -> None:
        if self._depth == 0:
            self._doomed = False
            if flush != self._flushes:
                self._run(f"PRAGMA synchronous={'FULL' if flush else 'NORMAL'}")
                self._flushes = flush
            if not flush and self._shown_seq is None:
                self._shown_seq = self.last_seq()
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
                self._places.forget()

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

    def flushed(self) -> None:
        """`flush` has returned since the last commit: show its events."""
        self._shown_seq = None
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

    # --- meta and state ---

    def get_meta(self, key: str) -> bytes | None:
        """A small value of the service's own."""
        row = self._run("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_meta(self, key: str, value: bytes) -> None:
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(key, value)])

    def load_state(self) -> Tree:
        """The state that was last applied, built in one pass. Raises `StoreError` if it cannot be read."""
        try:
            return self._states.load()
        except ValueError as error:
            raise self._unusable(error) from None

    def apply_state_changes(
        self, changes: Mapping[bytes, bytes], height: int, tree: Tree | None = None
    ) -> None:
        """Move the stored state to ``height``. Empty values are kept: tombstones are part of the root.

        ``tree`` is the state with the changes: with it, what is on disk is kept short (see chainkit/states.py).
        """
        with self.transaction():
            self._states.append(changes, tree)
            self.set_meta("state_height", encode(height))

    def put_state(self, tree: Tree, height: int) -> None:
        """Forget the stored state and put this one in its place."""
        with self.transaction():
            self._states.replace(tree)
            self.set_meta("state_height", encode(height))

    def state_height(self) -> int | None:
        """The height of the stored state; None before the first `apply_state_changes` or `put_state`."""
        value = self.get_meta("state_height")
        return None if value is None else decode(int, value)

    # --- blocks and transactions ---

    def put_block(
        self,
        block: bytes,
        height: int,
        block_hash: Bytes32,
        certificate: bytes | None,
        transactions: Iterable[tuple[SignedTransaction, Receipt]],
        receipts: Iterable[bytes] | None = None,
    ) -> None:
        """Store a block and its transactions. Raises `StoreError` if that height or hash is there already.

        ``receipts`` are those of the transactions in their encoding, if the caller has them.
        """
        pairs = list(transactions)
        with self.transaction():
            self._write(
                "INSERT INTO blocks (height, hash, certificate, block) VALUES (?, ?, ?, ?)",
                [(height, block_hash, certificate, block)],
            )
            if pairs:
                entries, encoded = pack(block, pairs, receipts)
                self._places.add(height, [tx.id for tx, _ in pairs], ran_of(entries))
                self._write("INSERT INTO transactions VALUES (?, ?, ?)", [(height, entries, encoded)])

    def remove_blocks_above(self, height: int) -> None:
        """Drop the blocks after ``height`` and their transactions (a rollup reverts). Events stay."""
        with self.transaction():
            self._run("DELETE FROM blocks WHERE height > ?", (height,))
            self._run("DELETE FROM transactions WHERE height > ?", (height,))
            self._places.remove_above(height)

    def block_by_height(self, height: int) -> StoredBlock | None:
        row = self._run(f"{_BLOCK} WHERE height = ?", (height,)).fetchone()
        return None if row is None else StoredBlock(*row)

    def block_by_hash(self, block_hash: Bytes32) -> StoredBlock | None:
        row = self._run(f"{_BLOCK} WHERE hash = ?", (block_hash,)).fetchone()
        return None if row is None else StoredBlock(*row)

    def blocks_from(self, height: int, limit: int) -> list[StoredBlock]:
        """At most ``limit`` blocks in order, from ``height`` on."""
        rows = self._run(f"{_BLOCK} WHERE height >= ? ORDER BY height LIMIT ?", (height, limit))
        return [StoredBlock(*row) for row in rows]

    def head_height(self) -> int:
        """The height of the last stored block; 0 (genesis) if there is none."""
        return int(self._run("SELECT coalesce(max(height), 0) FROM blocks").fetchone()[0])

    def transaction_by_id(self, tx_id: Bytes32) -> StoredTransaction | None:
        """Where a transaction stands; of several places (a replay on a rollup), where it was executed."""
        for height, executed, _ in self._places.find(tx_id):
            entries = self._entries(height)
            position = position_of(entries, tx_id, executed)
            if position is not None:
                return self._transaction(height, position, cut_of(entries, position))
        return None

    def _transaction(self, height: int, position: int, cut: Cut) -> StoredTransaction | None:
        spans = cut.start + 1, cut.end - cut.start, cut.receipt_start + 1, cut.receipt_end - cut.receipt_start
        row = self._run(
            "SELECT substr(block, ?, ?), substr(receipts, ?, ?), hash, certificate "
            "FROM blocks JOIN transactions USING (height) WHERE height = ?",
            (*spans, height),
        ).fetchone()
        if row is None:
            return None
        wire, receipt, block_hash, certificate = row
        return StoredTransaction(height, position, wire, decode(Receipt, receipt), block_hash, certificate)

    def place_of(self, tx_id: Bytes32) -> tuple[int, bool] | None:
        """The height at which a transaction stands, and whether it was executed there; as `transaction_by_id`."""
        for height, executed, sure in self._places.find(tx_id):
            if sure or position_of(self._entries(height), tx_id, executed) is not None:
                return height, executed
        return None

    def _entries(self, height: int) -> bytes:
        row = self._run("SELECT entries FROM transactions WHERE height = ?", (height,)).fetchone()
        return b"" if row is None else row[0]

    def transactions_of(self, height: int) -> list[StoredTransaction]:
        """The transactions of a block, in order."""
        row = self._run(
            "SELECT height, hash, block, certificate, entries, receipts "
            "FROM blocks JOIN transactions USING (height) WHERE height = ?",
            (height,),
        ).fetchone()
        return [] if row is None else take_all(StoredBlock(*row[:4]), *row[4:])

    def transaction_ids(self, height: int) -> list[Bytes32]:
        """The ids of a block's transactions, in order."""
        return ids_of(self._entries(height))

    # --- events ---

    def append_event(
        self, name: str, data: Mapping[str, Any], *, height: int, source: str, tx_id: Bytes32 | None = None
    ) -> int:
        """Append to the event log; returns the number (seq) of the entry. ``data`` is JSON-able."""
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        with self.transaction():
            cursor = self._run(
                "INSERT INTO events (height, source, name, data, tx_id) VALUES (?, ?, ?, ?, ?)",
                (height, source, name, text, tx_id),
            )
        return int(cursor.lastrowid or 0)

    def events_from(self, seq: int, limit: int) -> list[StoredEvent]:
        """At most ``limit`` events in order, from number ``seq`` on."""
        last = MAX_AMOUNT if self._shown_seq is None else self._shown_seq
        rows = self._run(
            "SELECT * FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?", (seq, last, limit)
        )
        return [
            StoredEvent(number, height, source, name, json.loads(data), tx_id)
            for number, height, source, name, data, tx_id in rows
        ]

    def last_seq(self) -> int:
        """The number of the last event; 0 if there is none."""
        if self._shown_seq is not None:
            return self._shown_seq
        return int(self._run("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])

    # --- the file ---

    def close(self) -> None:
        """Fold the write-ahead log into the file, close it and unlock the directory."""
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        self._lock.close()


class _Group:
    """An open `Store.transaction`. A generator in its place would cost as much as a statement."""

    __slots__ = ("_flush", "_store")

    def __init__(self, store: Store, flush: bool) -> None:
        self._store = store
        self._flush = flush

    def __enter__(self) -> None:
        self._store._begin(self._flush)

    def __exit__(self, kind: object, *_: object) -> None:
        self._store._leave(failed=kind is not None)


def _short(value: bytes | None) -> str:
    return "missing" if value is None else "0x" + value.hex()[:16]
