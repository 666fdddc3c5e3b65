"""A store in memory, with the interface of `chainkit.store.Store` and its promises.

Responsible for what SQLite does for a service, at a tenth of its cost: groups of writes that are there as a whole or
not at all, whenever the power fails. Must not know when it does (`simulation.disk` decides), nor what is stored. What
it cannot show are SQLite's own files and their recovery, so some seeds keep to SQLite (`Setup.sqlite`).

Every table is a dict, and each write notes what was there before: taking a group back is playing that backwards.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from chainkit.block_rows import StoredBlock, StoredTransaction, pack
from chainkit.codec import Bytes32, decode, encode
from chainkit.execution import Receipt
from chainkit.merkle import Tree
from chainkit.store import FILE_NAME, Store, StoredEvent, StoreError
from chainkit.transaction import SignedTransaction

_GONE: Any = object()
_Place = tuple[bool, int, int]
"""Of a transaction: whether it was executed there, height, minus its position; the largest counts."""


@dataclass
class Tables:
    """What is on a disk in memory, and how to take back what is not committed."""

    meta: dict[str, bytes] = field(default_factory=dict)
    state: dict[bytes, bytes] = field(default_factory=dict)
    blocks: dict[int, StoredBlock] = field(default_factory=dict)
    heights: dict[Bytes32, int] = field(default_factory=dict)
    transactions: dict[int, tuple[tuple[Bytes32, bytes, bytes], ...]] = field(default_factory=dict)
    places: dict[Bytes32, tuple[_Place, ...]] = field(default_factory=dict)
    head: dict[str, int] = field(default_factory=dict)
    events: dict[int, tuple[int, str, str, str, Bytes32 | None]] = field(default_factory=dict)
    before: list[tuple[dict[Any, Any], Any, Any]] = field(default_factory=list)

    def put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        """Write; `_GONE` removes."""
        self.before.append((table, key, table.get(key, _GONE)))
        if value is _GONE:
            table.pop(key, None)
        else:
            table[key] = value

    def undo(self) -> None:
        """Take back everything since the last commit."""
        while self.before:
            table, key, value = self.before.pop()
            if value is _GONE:
                table.pop(key, None)
            else:
                table[key] = value


class MemoryStore(Store):
    """A store over `Tables`. `_open_tables`, `_check_power` and `_commit` are the disk's."""

    def __init__(self, path: Path, *, genesis_hash: bytes, role: str) -> None:
        self.path, self.file = path, path / FILE_NAME
        self._depth = 0
        self._doomed = False
        self._flushes = True
        self._shown_seq: int | None = None
        self._listeners = []
        self._group = _Group(self)
        self._tables = self._open_tables()
        with self._group:
            for key, value in (("genesis", genesis_hash), ("role", role.encode())):
                if self._tables.meta.setdefault(key, value) != value:
                    raise StoreError(f"{str(path)!r} is of another chain or role")

    def _open_tables(self) -> Tables:
        raise NotImplementedError

    def _check_power(self) -> None:
        raise NotImplementedError

    def _commit(self) -> None:
        raise NotImplementedError

    # --- transactions ---

    def transaction(self, *, flush: bool = True) -> Any:
        if self._depth == 0:
            self._flushes = flush
            if not flush and self._shown_seq is None:
                self._shown_seq = self.last_seq()
        return self._group

    def _end(self) -> None:
        """The outermost group ends."""
        self._check_power()
        if self._doomed:
            self._tables.undo()
            return
        self._commit()
        if self._flushes:
            self.flushed()

    def flush(self) -> None:
        """What is committed is there."""

    def flushed(self) -> None:
        self._shown_seq = None
        for listener in self._listeners:
            listener()

    # --- meta and state ---

    def get_meta(self, key: str) -> bytes | None:
        self._check_power()
        return self._tables.meta.get(key)

    def set_meta(self, key: str, value: bytes) -> None:
        if self._depth:
            meta = self._tables.meta
            self._tables.before.append((meta, key, meta.get(key, _GONE)))
            meta[key] = value
        else:
            with self.transaction():
                self.set_meta(key, value)

    def load_state(self) -> Tree:
        self._check_power()
        return Tree().update(self._tables.state)

    def apply_state_changes(
        self,
        changes: Mapping[bytes, bytes],
        height: int,
        tree: Tree | None = None,
    ) -> None:
        if not self._depth:
            with self.transaction():
                return self.apply_state_changes(changes, height, tree)
        state, note = self._tables.state, self._tables.before.append
        for key, value in changes.items():
            note((state, key, state.get(key, _GONE)))
            state[key] = value
        self.set_meta("state_height", encode(height))
        return None

    def put_state(self, tree: Tree, height: int) -> None:
        put, state = self._tables.put, self._tables.state
        with self.transaction():
            for key in list(state):
                put(state, key, _GONE)
            for key, value in tree.items():
                put(state, key, value)
            self.set_meta("state_height", encode(height))

    def state_height(self) -> int | None:
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
        if not self._depth:
            with self.transaction():
                return self.put_block(block, height, block_hash, certificate, transactions, receipts)
        tables = self._tables
        if height in tables.blocks or block_hash in tables.heights:
            self._doomed = True
            raise StoreError(f"block {height} is there already")
        put, pairs = tables.put, list(transactions)
        encoded = [encode(receipt) for _, receipt in pairs] if receipts is None else list(receipts)
        if pairs:
            pack(block, pairs, encoded)  # for what it refuses
        tables.before += (tables.blocks, height, _GONE), (tables.heights, block_hash, _GONE)
        tables.blocks[height] = StoredBlock(height, block_hash, block, certificate)
        tables.heights[block_hash] = height
        put(tables.head, "", max(height, tables.head.get("", 0)))
        if not pairs:
            return None
        rows = tuple((tx.id, tx.wire, data) for (tx, _), data in zip(pairs, encoded, strict=True))
        put(tables.transactions, height, rows)
        for position, (tx, receipt) in enumerate(pairs):
            place = receipt.gas_used > 0, height, -position
            put(tables.places, tx.id, (*tables.places.get(tx.id, ()), place))
        return None

    def remove_blocks_above(self, height: int) -> None:
        tables = self._tables
        with self.transaction():
            for stored in [stored for at, stored in tables.blocks.items() if at > height]:
                tables.put(tables.blocks, stored.height, _GONE)
                tables.put(tables.heights, stored.hash, _GONE)
                for tx_id, _, _ in tables.transactions.get(stored.height, ()):
                    kept = tuple(place for place in tables.places.get(tx_id, ()) if place[1] != stored.height)
                    tables.put(tables.places, tx_id, kept or _GONE)
                tables.put(tables.transactions, stored.height, _GONE)
            tables.put(tables.head, "", max(tables.blocks, default=0))

    def block_by_height(self, height: int) -> StoredBlock | None:
        self._check_power()
        return self._tables.blocks.get(height)

    def block_by_hash(self, block_hash: Bytes32) -> StoredBlock | None:
        self._check_power()
        height = self._tables.heights.get(block_hash)
        return None if height is None else self._tables.blocks[height]

    def blocks_from(self, height: int, limit: int) -> list[StoredBlock]:
        found = map(self._tables.blocks.get, range(height, self.head_height() + 1))
        return list(islice(filter(None, found), limit))

    def head_height(self) -> int:
        self._check_power()
        return self._tables.head.get("", 0)

    def transaction_by_id(self, tx_id: Bytes32) -> StoredTransaction | None:
        place = self._place(tx_id)
        if place is None:
            return None
        _, height, position = place
        return self._taken(height, -position)

    def _taken(self, height: int, position: int) -> StoredTransaction:
        block = self._tables.blocks[height]
        _, wire, receipt = self._tables.transactions[height][position]
        return StoredTransaction(
            height, position, wire, decode(Receipt, receipt), block.hash, block.certificate
        )

    def _place(self, tx_id: Bytes32) -> _Place | None:
        self._check_power()
        return max(self._tables.places.get(tx_id, ()), default=None)

    def place_of(self, tx_id: Bytes32) -> tuple[int, bool] | None:
        place = self._place(tx_id)
        return None if place is None else (place[1], place[0])

    def transactions_of(self, height: int) -> list[StoredTransaction]:
        self._check_power()
        rows = self._tables.transactions.get(height, ())
        return [self._taken(height, position) for position in range(len(rows))]

    def transaction_ids(self, height: int) -> list[Bytes32]:
        self._check_power()
        return [row[0] for row in self._tables.transactions.get(height, ())]

    # --- events ---

    def append_event(
        self, name: str, data: Mapping[str, Any], *, height: int, source: str, tx_id: Bytes32 | None = None
    ) -> int:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        with self.transaction():
            seq = len(self._tables.events) + 1
            self._tables.put(self._tables.events, seq, (height, source, name, text, tx_id))
        return seq

    def events_from(self, seq: int, limit: int) -> list[StoredEvent]:
        last = self.last_seq()
        found = []
        for number in range(max(seq, 1), min(last, seq + limit - 1) + 1):
            height, source, name, text, tx_id = self._tables.events[number]
            found.append(StoredEvent(number, height, source, name, json.loads(text), tx_id))
        return found

    def last_seq(self) -> int:
        self._check_power()
        return len(self._tables.events) if self._shown_seq is None else self._shown_seq

    # --- the file ---

    def close(self) -> None:
        """Nothing is left open."""


class _Group:
    """A group of writes, within its store's outermost one."""

    __slots__ = ("_store",)

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        store = self._store
        if store._depth == 0:
            store._check_power()
            store._doomed = False
        store._depth += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        store = self._store
        store._depth -= 1
        if kind is not None:
            store._doomed = True
        if store._depth == 0:
            store._end()
