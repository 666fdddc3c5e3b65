"""Who goes first when a mempool is full.

Responsible for the order of eviction: gapped before ready, then who has much before who has little, then cheap before
dear, then late before early, and of each sender only its last nonce. Must not know how much room there is, nor what
is offered to a block.

The order is only kept while it is needed: it is made when somebody must go for the first time, and forgotten when
there is plenty of room again. In between each change of a sender's last transaction is one push more.
"""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from chainkit.codec import Address
from chainkit.waiting import Sender

_SLACK = 1024


class Victim(NamedTuple):
    """The last transaction of a sender; the smallest goes first."""

    standing: int
    max_fee: int
    late: int
    address: Address
    nonce: int


class Eviction:
    """The last transactions of all ``senders``, in the order in which they would go."""

    def __init__(self, senders: Mapping[Address, Sender]) -> None:
        self._senders = senders
        self._tails: list[Victim] = []  # heap; may be stale
        self.active = False
        """Whether the order is kept at present."""

    def __len__(self) -> int:
        return len(self._tails)

    def changed(self, address: Address, sender: Sender) -> None:
        """The last transaction of a sender is another one, or counts otherwise."""
        if self.active:
            heappush(self._tails, _last(address, sender))
            if len(self._tails) > 2 * len(self._senders) + _SLACK:
                self._rank()

    def forget(self) -> None:
        """There is plenty of room."""
        self.active = False
        self._tails = []

    def first(self, sender: Address, nonce: int) -> Victim | None:
        """Who goes first. Never one that a newcomer with this sender and nonce builds on or replaces."""
        if not self.active:
            self._rank()
        aside = None
        found = None
        while self._tails and found is None:
            top = self._tails[0]
            if not self._is_current(top):
                heappop(self._tails)
            elif top.address == sender and top.nonce <= nonce:
                aside = heappop(self._tails)
            else:
                found = top
        if aside is not None:
            heappush(self._tails, aside)
        return found

    def _rank(self) -> None:
        self.active = True
        self._tails = [_last(address, sender) for address, sender in self._senders.items()]
        heapify(self._tails)

    def _is_current(self, tail: Victim) -> bool:
        sender = self._senders.get(tail.address)
        if sender is None or not (sender.ready or sender.gapped):
            return False
        last = sender.last()
        return (
            last.tx.body.nonce == tail.nonce
            and last.seq == -tail.late
            and sender.standing_of(tail.nonce) == tail.standing
        )


def _last(address: Address, sender: Sender) -> Victim:
    entry = sender.last()
    body = entry.tx.body
    return Victim(sender.standing_of(body.nonce), body.max_fee_per_gas, -entry.seq, address, body.nonce)
