"""The final state on disk: a base in parts, and a log of what changed since.

Responsible for keeping a state of millions of keys so that a block costs what it changed, a start costs one pass
over the keys, and the file stays within a small multiple of the state. Must not know what a key or a value means.

A table of one row a key is neither: 2,000 keys at random places of a large B-tree touch 2,000 pages, each
written twice. So a block's changes are one row of a log. The base is cut by the first bits of the key hashes
into `PARTS`; each change pays for rewriting some keys of the base, part after part in turn, from the state as
it now is. Once round, every part is newer than all log rows from before that round, and those go. The log so
holds at most about as many keys as the state.

Reading takes the base and then the rest of the log in order: a row that a part has in it already changes
nothing, as the newest value of each key is either the last one in the log, or in the base.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from chainkit.codec import decode, encode
from chainkit.merkle import Tree, key_hash

PART_BITS: Final = 9
PARTS: Final = 1 << PART_BITS
"""Finding a part and writing its row costs as much as ten keys of it: more parts than that are dear for a small state;
with fewer, a part of a large one holds a block up (2,000 keys of 10^6: 6 ms)."""
REWRITTEN: Final = 2
"""Keys of the base that are rewritten for each key that changes: what a start saves against what a block pays."""
ROUND_KEY: Final = "state_round"
"""Meta: the next part to rewrite, and the last log row from before this round."""
_Item = tuple[bytes, bytes]
_LIMIT: Final = 1 << 30


class Run(Protocol):
    """Runs one statement of SQL."""

    def __call__(self, sql: str, values: tuple[object, ...] = (), /) -> Any: ...


class StoredState:
    """The state in a `chainkit.store.Store`, which lends what it reads and writes with; it opens the transactions."""

    def __init__(
        self,
        run: Run,
        write: Callable[[str, Iterable[tuple[object, ...]]], None],
        get_meta: Callable[[str], bytes | None],
        set_meta: Callable[[str, bytes], None],
    ) -> None:
        self._run = run
        self._write = write
        self._get_meta = get_meta
        self._set_meta = set_meta
        self._owed = 0

    def append(self, changes: Mapping[bytes, bytes], tree: Tree | None) -> None:
        """Log what changed; ``tree`` has the changes in it, and pays for it with newer parts of the base."""
        if not changes:
            return
        self._run("INSERT INTO state_log (items) VALUES (?)", (encode(list(changes.items())),))
        if tree is not None:
            self._owed += REWRITTEN * len(changes)
            self._rewrite(tree)

    def _rewrite(self, tree: Tree) -> None:
        part, before = decode(tuple[int, int], self._get_meta(ROUND_KEY) or encode((0, 0)))
        rows: list[tuple[object, ...]] = []
        while self._owed > 0 and len(rows) < PARTS:
            items = list(tree.part(part, PART_BITS))
            rows.append((part, encode(items)))
            self._owed -= 1 + len(items)
            part += 1
            if part == PARTS:
                self._run("DELETE FROM state_log WHERE seq <= ?", (before,))
                part, before = 0, self._last()
        self._write("INSERT OR REPLACE INTO state_parts VALUES (?, ?)", rows)
        self._set_meta(ROUND_KEY, encode((part, before)))

    def replace(self, tree: Tree) -> None:
        """Forget what is there, and write a whole state."""
        self._run("DELETE FROM state_log")
        self._run("DELETE FROM state_parts")
        parts = ((part, encode(list(tree.part(part, PART_BITS)))) for part in range(PARTS))
        self._write("INSERT INTO state_parts VALUES (?, ?)", (row for row in parts if row[1] != b"\x90"))
        self._set_meta(ROUND_KEY, encode((0, self._last())))

    def _last(self) -> int:
        return int(self._run("SELECT coalesce(max(seq), 0) FROM state_log").fetchone()[0])

    def load(self) -> Tree:
        """The state, each part of the base brought up to date by the log. Raises `ValueError` if it is damaged."""
        with without_collection():
            return Tree.from_items(self._merged(self._logged()))

    def _logged(self) -> dict[int, dict[bytes, bytes]]:
        """By part, the newest value of each key that the log has."""
        newest: dict[bytes, bytes] = {}
        for (items,) in self._run("SELECT items FROM state_log ORDER BY seq"):
            newest.update(_items(items))
        parts: dict[int, dict[bytes, bytes]] = {}
        for key, value in newest.items():
            parts.setdefault(_part_of(key), {})[key] = value
        return parts

    def _merged(self, logged: dict[int, dict[bytes, bytes]]) -> Iterator[_Item]:
        for part in range(PARTS):
            row = self._run("SELECT items FROM state_parts WHERE part = ?", (part,)).fetchone()
            base = [] if row is None else _items(row[0])
            newer = logged.pop(part, None)
            yield from base if newer is None else _in_order({**dict(base), **newer})


def _items(data: bytes) -> list[_Item]:
    return decode(list[_Item], data, limit=_LIMIT)


def _part_of(key: bytes) -> int:
    return int.from_bytes(key_hash(key)[:2], "big") >> 16 - PART_BITS


def _in_order(items: Mapping[bytes, bytes]) -> Iterable[_Item]:
    by_place: Callable[[_Item], bytes] = lambda item: key_hash(item[0])  # noqa: E731
    return sorted(items.items(), key=by_place)


@contextmanager
def without_collection() -> Iterator[None]:
    """While millions of objects are made that all stay, the garbage collector would only walk them, again and again."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
