"""What a service keeps on disk: final state, blocks, transactions and the event log.

Responsible for the tables. Must not know what a block means, who may write, or how long anything lives; how writes
become durable is `chainkit.database`'s.
"""

import json
from collections.abc import Iterable, Mapping
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
from chainkit.database import FILE_NAME, Database, StoreDiskError, StoreError
from chainkit.execution import Receipt
from chainkit.merkle import Tree
from chainkit.places import Places
from chainkit.states import StoredState
from chainkit.transaction import SignedTransaction

__all__ = ["FILE_NAME", "Store", "StoreDiskError", "StoreError", "StoredEvent"]

_BLOCK = "SELECT height, hash, block, certificate FROM blocks"


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


class Store(Database):
    """The store of one service, as `chainkit.database.Database` opens it."""

    SCHEMA = f"""
{Database.SCHEMA};
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

    def __init__(self, path: Path, *, genesis_hash: bytes, role: str) -> None:
        # The last event, if it is known, and the last that is surely on disk, while that is not the same.
        self._last_seq: int | None = None
        self._shown_seq: int | None = None
        self._states = StoredState(self._run, self._write, self.get_meta, self.set_meta)
        self._places = Places(self._run, self._write, self.get_meta, self.set_meta)
        super().__init__(path, genesis_hash=genesis_hash, role=role)

    def flushed(self) -> None:
        """`flush` has returned since the last commit: show its events."""
        self._shown_seq = None
        super().flushed()

    def _before_unflushed(self) -> None:
        """What a power failure could take back is not shown: its number would be given again."""
        if self._shown_seq is None:
            self._shown_seq = self.last_seq()

    def _undone(self) -> None:
        self._last_seq = None
        self._places.forget()

    # --- the state ---

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
            self._run(
                "INSERT INTO blocks (height, hash, certificate, block) VALUES (?, ?, ?, ?)",
                (height, block_hash, certificate, block),
            )
            self._logged += len(block)
            if pairs:
                entries, encoded = pack(block, pairs, receipts)
                self._logged += len(entries) + len(encoded)
                self._places.add(height, [tx.id for tx, _ in pairs], ran_of(entries))
                self._run("INSERT INTO transactions VALUES (?, ?, ?)", (height, entries, encoded))

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
        for height, executed in self._places.find(tx_id):
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
        found = self._places.find(tx_id)
        return found[0] if found else None

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
            self._last_seq = int(cursor.lastrowid or 0)
            return self._last_seq

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
        if self._last_seq is None:
            self._last_seq = int(self._run("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])
        return self._last_seq
