"""In what order a mempool offers transactions to a block.

Responsible for the order: each sender's by nonce, a few of the oldest, then the best tip first, then the oldest. Must
not know how much room the pool has, nor whether what is offered gets into the block.

Who is behind in the heap of places cannot come before who is in front, so only those in front are looked at. They
are not put back at once: after a block nearly all of them are gone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush

from chainkit.codec import Address
from chainkit.state import Account
from chainkit.transaction import SignedTransaction
from chainkit.waiting import Entry, Sender, offering_key

_SLACK = 1024
MAX_MISSES = 64
"""`Offering.select` ends when so many in a row were too large for what is left of the block."""
OLDEST_SHARE = 8
"""One part in so many of a block is for those that have waited longest."""
_Queue = list[tuple[int, Address, int, Entry]]


class Offering:
    """The order of what waits of ``senders``."""

    def __init__(self, senders: Mapping[Address, Sender]) -> None:
        self._senders = senders
        self._places: list[tuple[int, Address]] = []  # heap: who may be offered first; may be stale
        self._aside: list[tuple[int, Address]] = []  # taken from there for the last block

    def __len__(self) -> int:
        return len(self._places) + len(self._aside)

    def place(self, address: Address, sender: Sender, place: int) -> None:
        """A sender may be offered as early as this from now on."""
        sender.place = place
        heappush(self._places, (place, address))
        if len(self) > 2 * len(self._senders) + _SLACK:
            self._aside = []
            self._places = [(sender.place, address) for address, sender in self._senders.items()]
            heapify(self._places)

    def select(
        self,
        account_of: Callable[[Address], Account],
        base_fee: int,
        gas_limit: int,
        max_bytes: int,
        oldest: Iterable[SignedTransaction] = (),
    ) -> Iterator[SignedTransaction]:
        """See `chainkit.mempool.Mempool.select`; ``oldest`` are those that waited longest, in order."""
        self._put_back()
        queue: _Queue = []
        looked_at: dict[Address, tuple[int, Address]] = {}
        senders, gas_left, bytes_left, misses = self._senders, gas_limit, max_bytes, 0
        next_of: dict[Address, int] = {}
        first = self._longest_waiting(oldest, account_of, base_fee, gas_limit, max_bytes, next_of)
        for entry in first:
            gas_left -= entry.least
            bytes_left -= entry.bytes
            yield entry.tx
        try:
            while misses < MAX_MISSES:
                places = self._places  # another list, if it was made anew meanwhile
                while places and (not queue or places[0][0] <= queue[0][0]):
                    top = heappop(places)
                    place, address = top
                    sender = senders.get(address)
                    if sender is not None and sender.place == place and address not in looked_at:
                        looked_at[address] = top
                        nonce = next_of.get(address)
                        nonce = account_of(address).nonce if nonce is None else nonce
                        _enqueue(queue, sender, address, nonce, base_fee)
                if not queue:
                    break
                _, address, nonce, entry = heappop(queue)
                sender = senders.get(address)
                if sender is None or sender.entries.get(nonce) is not entry:
                    continue  # replaced or removed since
                tx, least, size = entry.tx, entry.least, entry.bytes
                if tx.body.gas_limit > gas_limit or least > gas_left or size > bytes_left:
                    misses += 1
                    continue
                misses = 0
                gas_left -= least
                bytes_left -= size
                _enqueue(queue, sender, address, nonce + 1, base_fee)
                yield tx
        finally:
            self._aside += looked_at.values()

    def _longest_waiting(
        self,
        oldest: Iterable[SignedTransaction],
        account_of: Callable[[Address], Account],
        base_fee: int,
        gas_limit: int,
        max_bytes: int,
        next_of: dict[Address, int],
    ) -> list[Entry]:
        """What fits the oldest ones' share of the block; ``next_of`` says what comes after it.

        Each that waits long brings its sender's next one forward, be it younger: so nobody holds up those behind
        by sending his nonces in another order. What cannot run now costs a look, and takes nobody's place; what
        is larger than the share has its turn, too, alone.
        """
        gas_left, bytes_left = gas_limit // OLDEST_SHARE, max_bytes // OLDEST_SHARE
        found: list[Entry] = []
        stuck: set[Address] = set()
        for tx in oldest:
            address = tx.body.sender
            if address in stuck:
                continue
            due = next_of.get(address)
            nonce = account_of(address).nonce if due is None else due
            entry = self._senders[address].entries.get(nonce)
            if (
                entry is None
                or entry.max_fee < base_fee
                or entry.tx.body.gas_limit > gas_limit
                or entry.bytes > max_bytes
            ):
                stuck.add(address)
                continue
            if found and (entry.least > gas_left or entry.bytes > bytes_left):
                break
            gas_left -= entry.least
            bytes_left -= entry.bytes
            next_of[address] = nonce + 1
            found.append(entry)
        return found

    def _put_back(self) -> None:
        """Who was looked at for the last block and is still here."""
        aside, self._aside = self._aside, []
        for top in aside:
            sender = self._senders.get(top[1])
            if sender is not None and sender.place == top[0]:
                heappush(self._places, top)


def _enqueue(queue: _Queue, sender: Sender, address: Address, nonce: int, base_fee: int) -> None:
    """The transaction of a sender with this nonce, if there is one and it covers the base fee."""
    entry = sender.entries.get(nonce)
    if entry is not None and entry.max_fee >= base_fee:
        key = entry.key
        if entry.covers < base_fee:  # its tip is what is left
            key = offering_key(entry.max_fee - base_fee, entry.seq)
        heappush(queue, (key, address, nonce, entry))
