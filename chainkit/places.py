"""In which blocks a transaction stands: an index from ids to heights, in memory for the newest and on disk.

Responsible for telling where an id stands, at a cost a transaction that hardly grows with the chain. Must not know
what a transaction is. Of an id it keeps so much that nobody finds two alike, but whoever looks it up in the block
has the last word.

Ids are random: a B-tree of them is written at random places, a page of 4 KiB in the write-ahead log for each. So
the newest ones are in memory only, and read again after a start from their blocks, which are on disk. `PORTION` of
them at a time go to disk, cut into `SLICES`, one row for each. Every `JOINED` portions the rows of a slice become
`FINE` ones of finer slices, which stay. So an id is written twice, in rows of about 64, and a look-up reads a few
rows of a slice and those of a fine one, which lie side by side.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import compress
from typing import Final

from chainkit.block_rows import ids_of, ran_of
from chainkit.codec import Bytes32, decode, encode
from chainkit.hashing import hashes_after
from chainkit.states import Run

PORTION: Final = 16_384
"""Ids in memory at most, about 2 MB of them, and then a block more."""
SLICES: Final = 256
"""By the first byte of what stands for an id."""
FINE: Final = 8
"""Of each slice, by the second byte."""
JOINED: Final = 8
MARK_KEY: Final = "places_mark"
"""Meta: up to which height ids are on disk, and how many portions there are."""
SALT_KEY: Final = "places_salt"
"""Meta: with it an id's place on disk is worked out, so that nobody can choose ids that all lie in one slice."""
_PREFIX: Final = 16  # bytes that stand for an id, see `SALT_KEY`
_PLACE: Final = 7  # bytes of a place: a height, and `_RAN` if the transaction ran there
_RAN: Final = 1 << 55
_ENTRY: Final = _PREFIX + _PLACE
_SPAN: Final = "FROM places WHERE row BETWEEN ? AND ?"


class Places:
    """The index in a `chainkit.store.Store`, which lends what it reads and writes with."""

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
        self._mark = self._portions = 0
        self._salt = b""
        # Of the blocks after the mark: by id its places, end to end. None: to be read from disk.
        self._newest: dict[Bytes32, bytes] | None = None

    def add(self, height: int, tx_ids: Sequence[Bytes32], ran: bytes) -> None:
        """A block is about to be stored: its ids, and for each a byte that is 0 if it did not run there."""
        newest = self._loaded()
        if height <= self._mark:  # out of order: what is above is read again
            self.remove_above(height - 1)
            newest = self._loaded()
        _add(newest, height, tx_ids, ran)
        if len(newest) >= PORTION:
            self._move_to_disk(newest)
            newest.clear()
            self._set_mark(height)

    def remove_above(self, height: int) -> None:
        """The blocks after ``height`` are gone."""
        self._loaded()
        if height < self._mark:
            for number in range(SLICES + SLICES * FINE):
                self._remove_from_slice(number, height)
            self._set_mark(height)
        self.forget()

    def forget(self) -> None:
        """What was written last is taken back: read all again from disk when it is needed."""
        self._newest = None

    def find(self, tx_id: Bytes32) -> list[tuple[int, bool]]:
        """The heights at which an id stands, and whether it ran there: where it did first, then from the newest on."""
        places = _places(self._loaded().get(tx_id, b""))
        if not any(place & _RAN for place in places):  # it runs once, and older places count for less
            places += self._on_disk(*self._salted([tx_id]))
        return [(place & ~_RAN, place & _RAN > 0) for place in sorted(places, reverse=True)]

    def _salted(self, tx_ids: Iterable[Bytes32]) -> list[bytes]:
        """What stands for each id on disk."""
        return [digest[:_PREFIX] for digest in hashes_after(sha256(self._salt), tx_ids)]

    def _on_disk(self, prefix: bytes) -> Iterator[int]:
        number = prefix[0] % SLICES
        spans = *_span(number), *_span(_fine(number, prefix[1] % FINE))
        for (entries,) in self._run(f"SELECT entries {_SPAN} UNION ALL SELECT entries {_SPAN}", spans):
            at = entries.find(prefix)
            while at >= 0:
                if at % _ENTRY == 0:
                    yield from _places(entries[at + _PREFIX : at + _ENTRY])
                at = entries.find(prefix, at + 1)

    def _loaded(self) -> dict[Bytes32, bytes]:
        if self._newest is None:
            self._mark, self._portions = decode(tuple[int, int], self._get_meta(MARK_KEY) or encode((0, 0)))
            self._salt = self._get_meta(SALT_KEY) or b""
            self._newest = {}
            rows = self._run("SELECT height, entries FROM transactions WHERE height > ?", (self._mark,))
            for height, entries in rows:
                _add(self._newest, height, ids_of(entries), ran_of(entries))
        return self._newest

    def _set_mark(self, height: int) -> None:
        self._mark = height
        self._set_meta(MARK_KEY, encode((height, self._portions)))

    def _move_to_disk(self, newest: dict[Bytes32, bytes]) -> None:
        if not self._salt:
            self._salt = os.urandom(_PREFIX)
            self._set_meta(SALT_KEY, self._salt)
        slices: list[list[bytes]] = [[] for _ in range(SLICES)]
        for prefix, places in zip(self._salted(newest), newest.values(), strict=True):
            if len(places) == _PLACE:
                slices[prefix[0] % SLICES].append(prefix + places)
            else:
                slices[prefix[0] % SLICES] += [prefix + place for place in _split(places, _PLACE)]
        rows = [row for number, entries in enumerate(slices) for row in self._rows_of(number, entries)]
        self._write("INSERT INTO places VALUES (?, ?)", rows)
        self._portions += 1

    def _rows_of(self, number: int, entries: list[bytes]) -> Iterator[tuple[int, bytes]]:
        """A slice's next row; when it is its turn, those of the fine slices that all its rows become."""
        if (number + self._portions) % JOINED == 0:
            for (older,) in self._run(f"SELECT entries {_SPAN}", _span(number)):
                entries += _split(older, _ENTRY)
            self._run(f"DELETE {_SPAN}", _span(number))
            fine: list[list[bytes]] = [[] for _ in range(FINE)]
            for entry in entries:
                fine[entry[1] % FINE].append(entry)
            for at, found in enumerate(fine):
                yield _row(_fine(number, at), self._portions), b"".join(found)
        elif entries:
            yield _row(number, self._portions), b"".join(entries)

    def _remove_from_slice(self, number: int, height: int) -> None:
        changed = []
        rows = self._run(f"SELECT row, entries {_SPAN} ORDER BY row DESC", _span(number))
        for row, entries in rows:
            kept = [e for e in _split(entries, _ENTRY) if _places(e[_PREFIX:])[0] & ~_RAN <= height]
            if kept and len(kept) * _ENTRY == len(entries):
                break  # older rows are of lower blocks; an empty one tells nothing
            changed.append((b"".join(kept), row))
        rows.close()
        self._write("UPDATE places SET entries = ? WHERE row = ?", changed)


def _add(newest: dict[Bytes32, bytes], height: int, tx_ids: Sequence[Bytes32], ran: bytes) -> None:
    here, ran_here = height.to_bytes(_PLACE, "big"), (height | _RAN).to_bytes(_PLACE, "big")
    new = dict.fromkeys(tx_ids, here if 0 in ran else ran_here)
    if 0 in ran:
        new.update(dict.fromkeys(compress(tx_ids, ran), ran_here))
    if not newest.keys().isdisjoint(new.keys()):
        for again in new.keys() & newest.keys():
            new[again] += newest[again]
    newest.update(new)


def _places(data: bytes) -> list[int]:
    """Places that stand end to end."""
    return [int.from_bytes(place, "big") for place in _split(data, _PLACE)]


def _split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _fine(number: int, part: int) -> int:
    """The number of a fine slice: they come after the others."""
    return SLICES + FINE * number + part


def _row(number: int, portion: int) -> int:
    """The key of a row: those of a slice follow one another, the oldest first."""
    return (number << 40) + portion


def _span(number: int) -> tuple[int, int]:
    """The first and the last key that a row of a slice can have."""
    return _row(number, 0), _row(number + 1, -1)
