"""In which blocks a transaction stands: an index from ids to heights, in memory for the newest and on disk.

Responsible for naming the blocks in which to look for an id, at a cost a transaction that hardly grows with the
chain. Must not know what a transaction is. It gives hints: whoever asks looks for the id in the block named.

Ids are random: a B-tree of them is written at random places, a page of 4 KiB in the write-ahead log for each. So
the newest ones are in memory only, and read again after a start from their blocks, which are on disk. `PORTION` of
them at a time go to disk, cut into slices by their first byte, one row for each slice. A look-up reads the rows of
one slice, which lie side by side; those of `JOINED` portions are made one row, so that they are few.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from typing import Final

from chainkit.block_rows import ids_of, ran_of
from chainkit.codec import Bytes32, decode, encode
from chainkit.states import Run

PORTION: Final = 16_384
"""Ids in memory at most, about 2 MB of them, and then a block more."""
SLICES: Final = 256
"""By the first byte of an id."""
JOINED: Final = 8
MARK_KEY: Final = "places_mark"
"""Meta: up to which height ids are on disk, and how many portions there are."""
_PREFIX: Final = 8
_PLACE: Final = 7  # bytes of a place: a height, and `_RAN` if the transaction ran there
_RAN: Final = 1 << 55
_ENTRY: Final = _PREFIX + _PLACE


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
        # Of the blocks after the mark: by id its places, end to end. None: to be read from disk.
        self._newest: dict[Bytes32, bytes] | None = None

    def add(self, height: int, tx_ids: Sequence[Bytes32], ran: bytes) -> None:
        """A block is about to be stored: its ids, and for each a byte that is 0 if it did not run there."""
        newest = self._loaded()
        if height <= self._mark:
            self._set_mark(height - 1)
        _add(newest, height, tx_ids, ran)
        if len(newest) >= PORTION:
            self._move_to_disk(newest)
            newest.clear()
            self._set_mark(height)

    def remove_above(self, height: int) -> None:
        """The blocks after ``height`` are gone. What the disk says of them stays, and is wrong."""
        self._loaded()
        if height < self._mark:
            self._set_mark(height)
        self.forget()

    def forget(self) -> None:
        """What was written last is taken back: read all again from disk when it is needed."""
        self._newest = None

    def find(self, tx_id: Bytes32) -> Iterator[tuple[int, bool, bool]]:
        """Heights at which the id stands, and whether it ran there: where it did first, then from the newest on.

        The last of the three is whether that is sure, or a hint. What follows a sure one does not matter.
        """
        newest = _places(self._loaded().get(tx_id, b""))
        if newest and newest[0] & _RAN:  # it runs once, and older places count for less
            yield newest[0] ^ _RAN, True, True
            return
        for place in sorted({*newest, *self._on_disk(tx_id)}, reverse=True):
            yield place & ~_RAN, place & _RAN > 0, place in newest

    def _on_disk(self, tx_id: Bytes32) -> Iterator[int]:
        prefix = tx_id[:_PREFIX]
        number = _slice_of(tx_id)
        rows = self._run(
            "SELECT entries FROM places WHERE row BETWEEN ? AND ?", (_row(number, 0), _row(number + 1, -1))
        )
        for (entries,) in rows:
            at = entries.find(prefix)
            while at >= 0:
                if at % _ENTRY == 0:
                    yield from _places(entries[at + _PREFIX : at + _ENTRY])
                at = entries.find(prefix, at + 1)

    def _loaded(self) -> dict[Bytes32, bytes]:
        if self._newest is None:
            self._mark, self._portions = decode(tuple[int, int], self._get_meta(MARK_KEY) or encode((0, 0)))
            self._newest = {}
            rows = self._run("SELECT height, entries FROM transactions WHERE height > ?", (self._mark,))
            for height, entries in rows:
                _add(self._newest, height, ids_of(entries), ran_of(entries))
        return self._newest

    def _set_mark(self, height: int) -> None:
        self._mark = height
        self._set_meta(MARK_KEY, encode((height, self._portions)))

    def _move_to_disk(self, newest: dict[Bytes32, bytes]) -> None:
        slices: list[list[bytes]] = [[] for _ in range(SLICES)]
        for tx_id, places in newest.items():
            prefix = tx_id[:_PREFIX]
            for at in range(0, len(places), _PLACE):
                slices[_slice_of(tx_id)].append(prefix + places[at : at + _PLACE])
        rows = [self._row_of(number, entries) for number, entries in enumerate(slices)]
        self._write("INSERT INTO places VALUES (?, ?)", [row for row in rows if row[1]])
        self._portions += 1

    def _row_of(self, number: int, entries: list[bytes]) -> tuple[int, bytes]:
        """A slice's next row; when it is its turn, what the portions before put there goes into it."""
        last = _row(number, self._portions)
        if (number + self._portions) % JOINED == 0:
            span = (last - JOINED + 1, last)
            entries += [
                row[0] for row in self._run("SELECT entries FROM places WHERE row BETWEEN ? AND ?", span)
            ]
            self._run("DELETE FROM places WHERE row BETWEEN ? AND ?", span)
        return last, b"".join(entries)


def _add(newest: dict[Bytes32, bytes], height: int, tx_ids: Sequence[Bytes32], ran: bytes) -> None:
    new = dict.fromkeys(tx_ids, height.to_bytes(_PLACE, "big"))
    new.update(dict.fromkeys(compress(tx_ids, ran), (height | _RAN).to_bytes(_PLACE, "big")))
    for again in new.keys() & newest.keys():
        new[again] += newest[again]
    newest.update(new)


def _places(data: bytes) -> list[int]:
    """Places that stand end to end, those that count for most first."""
    return sorted(
        (int.from_bytes(data[at : at + _PLACE], "big") for at in range(0, len(data), _PLACE)), reverse=True
    )


def _slice_of(tx_id: Bytes32) -> int:
    return tx_id[0]


def _row(number: int, portion: int) -> int:
    """The key of a row: those of a slice follow one another, the oldest first."""
    return (number << 40) + portion
