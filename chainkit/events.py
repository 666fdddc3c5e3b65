"""The event log of a service, and waking those who wait for its next entry.

Responsible for appending and following. Must not know what the events mean, nor how they reach a client.

A follower holds no queue: it reads the store at its own pace and sleeps when it has caught up, so a slow one
costs a cursor and can neither lose an event nor fill the memory. There are so many places and no more; when all are
taken a newcomer gets that of whoever has had his for longest, and is told to come again if that is not long. Nobody
can tell a follower that never reads from one that does: so nobody keeps a place for ever while others wait.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from chainkit.codec import Bytes32, CodecError, decode, to_json
from chainkit.contract import Contract, Event
from chainkit.execution import Receipt
from chainkit.store import Store, StoredEvent

MAX_FOLLOWERS = 64
TURN_SECONDS = 10.0
"""How long a follower keeps his place, whoever else comes."""
_BATCH = 16
"""Events that a follower holds: of the largest, 64 followers then hold 16 MiB."""


class TooManyFollowersError(Exception):
    """The log has as many followers as it takes."""


class DisplacedError(Exception):
    """Another follower has this one's place; it may come again, and goes on where it was."""


@dataclass(eq=False)
class _Place:
    who: str
    since: float
    lost: bool = False


class EventLog:
    """The log in ``store``, with followers. Used from the event loop's thread."""

    def __init__(self, store: Store, *, max_followers: int = MAX_FOLLOWERS) -> None:
        self._store = store
        self._max_followers = max_followers
        self._places: list[_Place] = []  # longest first
        self._closed = False
        self._changed: asyncio.Event | None = None
        """Set at the next commit; there is none while nobody waits for one."""
        store.on_commit(self._wake)

    def append(
        self, name: str, data: Mapping[str, Any], *, height: int, source: str, tx_id: Bytes32 | None = None
    ) -> int:
        """Append an event (inside the store's transaction, if one is open); returns its number.

        ``name`` is past-tense (`BatchFlagged`), ``source`` is who says so: a contract, or the service's role.
        """
        return self._store.append_event(name, data, height=height, source=source, tx_id=tx_id)

    def append_receipts(
        self, contracts: Mapping[str, Contract], receipts: Sequence[Receipt], height: int
    ) -> None:
        """Append what contracts emitted in a block, decoded by the types that they declare."""
        for receipt in receipts:
            for event in receipt.events:
                data = event_data(contracts, event)
                self.append(event.name, data, height=height, source=event.contract, tx_id=receipt.tx_id)

    def read(self, from_seq: int, limit: int) -> list[StoredEvent]:
        """At most ``limit`` events from number ``from_seq`` on."""
        return self._store.events_from(from_seq, limit)

    @property
    def last_seq(self) -> int:
        """The number of the last event; 0 if there is none."""
        return self._store.last_seq()

    @property
    def followers(self) -> int:
        """How many are following now."""
        return len(self._places)

    def is_full(self, who: str = "") -> bool:
        """Whether one more follower from the address ``who`` would be refused."""
        return len(self._places) >= self._max_followers and self._who_gives_way(who) is None

    def _who_gives_way(self, who: str) -> _Place | None:
        """Who has had his place for longest, of the address with the most of them; None if that is not long."""
        counts = Counter(place.who for place in self._places)
        counts[who] += 1
        heaviest = max(counts.values())
        oldest = next((place for place in self._places if counts[place.who] == heaviest), None)
        if oldest is None or asyncio.get_running_loop().time() - oldest.since < TURN_SECONDS:
            return None
        return oldest

    def _take_place(self, who: str) -> _Place:
        if len(self._places) >= self._max_followers:
            oldest = self._who_gives_way(who)
            if oldest is None:
                raise TooManyFollowersError(f"{self._max_followers} streams are open already")
            oldest.lost = True
            self._places.remove(oldest)
            self._wake()
        place = _Place(who, asyncio.get_running_loop().time())
        self._places.append(place)
        return place

    async def follow(self, from_seq: int, who: str = "") -> AsyncIterator[StoredEvent]:
        """Each event from number ``from_seq`` on, once and in order, without end until `close`.

        ``who`` is the follower's address. Raises `TooManyFollowersError` at the first step if the log has its fill,
        `DisplacedError` later if another one has got the place.
        """
        place = self._take_place(who)
        try:
            while not self._closed:
                changed = self._next_change()  # before the read, so that no commit falls between
                batch = self._store.events_from(from_seq, _BATCH)
                for event in batch:
                    yield event
                    if self._closed:
                        return
                    from_seq = event.seq + 1
                if place.lost:
                    raise DisplacedError
                if len(batch) < _BATCH:
                    await changed.wait()
        finally:
            if not place.lost:
                self._places.remove(place)

    async def wait(self, after_seq: int, seconds: float) -> None:
        """Return when an event after ``after_seq`` is there, or ``seconds`` have gone, or at `close`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._closed and self.last_seq <= after_seq:
                    await self._next_change().wait()

    def close(self) -> None:
        """End every follower now (the service is stopping)."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def _next_change(self) -> asyncio.Event:
        if self._changed is None:
            self._changed = asyncio.Event()
        return self._changed


def event_data(contracts: Mapping[str, Contract], event: Event) -> dict[str, Any]:
    """A contract's event as JSON-able values; ``{"raw": hex}`` if its type is not known."""
    contract = contracts.get(event.contract)
    kind = None if contract is None else contract.event_types.get(event.name)
    if kind is not None:
        with suppress(CodecError):
            data: dict[str, Any] = to_json(decode(kind, event.data))
            return data
    return {"raw": to_json(event.data)}
