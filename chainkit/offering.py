"""In what order a mempool offers transactions to a block.

Responsible for the order: each sender's by nonce, a few of the oldest, then the best tip first, then the oldest. Must
not know how much room the pool has, nor whether what is offered gets into the block.

Who is behind in the order of places cannot come before who is in front, so only those in front are looked at. The
order is a sorted list whose end is taken off. What has come since the last block is sorted in with the rest, for the
price of what was not in order: two parts that are, even of 20,000 places, take 0.4 ms. Who was looked at is not put
back at once: after a block nearly all of them are gone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heappop, heappush

from chainkit.codec import Address
from chainkit.execution import Rules, intrinsic_gas
from chainkit.state import Account
from chainkit.transaction import SignedTransaction
from chainkit.waiting import Entry, Sender, offering_key

_SLACK = 1024
MAX_MISSES = 64
"""`Offering.select` ends when so many in a row were too large for what is left of the block."""
OLDEST_SHARE = 8
"""One part in so many of a block is for those that have waited longest."""
_Place = tuple[int, Address]
"""Who may be offered, and minus as early as that: what is first is the largest."""
_Queued = tuple[int, int, Entry, Sender, Address]
"""A transaction in a heap: key (no two have the same), nonce, what waits, and whose it is."""


class Offering:
    """The order of what waits of ``senders``."""

    def __init__(self, rules: Rules, senders: Mapping[Address, Sender]) -> None:
        self._rules = rules
        self._senders = senders
        self._fresh: list[_Place] = []  # since the last block; may be stale, as may the others
        self._places: list[_Place] = []  # those from before, sorted
        self._aside: list[_Place] = []  # looked at for the last block

    def __len__(self) -> int:
        return len(self._fresh) + len(self._places) + len(self._aside)

    def place(self, address: Address, sender: Sender, place: int) -> None:
        """A sender may be offered as early as this from now on."""
        sender.place = place
        self._fresh.append((-place, address))
        if len(self._fresh) > _SLACK and len(self) > 2 * len(self._senders) + _SLACK:
            self._fresh, self._aside = [], []
            self._places = sorted([(-sender.place, address) for address, sender in self._senders.items()])

    def select(
        self,
        account_of: Callable[[Address], Account] | None,
        base_fee: int,
        gas_limit: int,
        max_bytes: int,
        oldest: Iterable[SignedTransaction] = (),
    ) -> Iterator[SignedTransaction]:
        """See `chainkit.mempool.Mempool.select`; ``oldest`` are those that waited longest, in order."""
        self._put_in_order()
        queue: list[_Queued] = []
        looked_at: dict[Address, _Place] = {}
        senders, gas_left, bytes_left, misses = self._senders, gas_limit, max_bytes, 0
        next_of: dict[Address, int] = {}
        for tx in self._longest_waiting(oldest, account_of, base_fee, gas_limit, max_bytes, next_of):
            gas_left -= intrinsic_gas(self._rules, tx)
            bytes_left -= len(tx.wire)
            yield tx
        try:
            while misses < MAX_MISSES:
                places = self._places  # another list, if it was made anew meanwhile
                found = None
                while places and (not queue or places[-1][0] >= -queue[0][0]):
                    top = places.pop()
                    place, address = top
                    sender = senders.get(address)
                    if sender is not None and sender.place == -place and address not in looked_at:
                        looked_at[address] = top
                        nonce = next_of.get(address)
                        if nonce is None:
                            nonce = sender.nonce if account_of is None else account_of(address).nonce
                        found = _due(sender, address, nonce, base_fee)
                        if found is not None and found[0] == -place:
                            break  # nobody comes before it, so it need not queue
                        _enqueue(queue, found)
                        found = None
                if found is None:
                    if not queue:
                        break
                    found = heappop(queue)
                    if found[3].at(found[1]) is not found[2]:
                        continue  # replaced or removed since
                _, nonce, entry, sender, address = found
                tx = entry.tx
                least, size = intrinsic_gas(self._rules, tx), len(tx.wire)
                if tx.body.gas_limit > gas_limit or least > gas_left or size > bytes_left:
                    misses += 1
                    continue
                misses = 0
                gas_left -= least
                bytes_left -= size
                if len(sender.ready) > 1 or sender.gapped:
                    _enqueue(queue, _due(sender, address, nonce + 1, base_fee))
                yield tx
        finally:
            self._aside += looked_at.values()

    def _longest_waiting(
        self,
        oldest: Iterable[SignedTransaction],
        account_of: Callable[[Address], Account] | None,
        base_fee: int,
        gas_limit: int,
        max_bytes: int,
        next_of: dict[Address, int],
    ) -> list[SignedTransaction]:
        """What fits the oldest ones' share of the block; ``next_of`` says what comes after it.

        Each that waits long brings its sender's next one forward, be it younger: so nobody holds up those behind
        by sending his nonces in another order. What cannot run now costs a look, and takes nobody's place; what
        is larger than the share has its turn, too, alone.
        """
        gas_left, bytes_left = gas_limit // OLDEST_SHARE, max_bytes // OLDEST_SHARE
        found: list[SignedTransaction] = []
        stuck: set[Address] = set()
        for tx in oldest:
            address = tx.body.sender
            if address in stuck:
                continue
            sender, nonce = self._senders[address], next_of.get(address)
            if nonce is None:
                nonce = sender.nonce if account_of is None else account_of(address).nonce
            entry = sender.at(nonce)
            if entry is None or not _fits(entry.tx, base_fee, gas_limit, max_bytes):
                stuck.add(address)
                continue
            least, size = intrinsic_gas(self._rules, entry.tx), len(entry.tx.wire)
            if found and (least > gas_left or size > bytes_left):
                break
            gas_left -= least
            bytes_left -= size
            next_of[address] = nonce + 1
            found.append(entry.tx)
        return found

    def _put_in_order(self) -> None:
        """What came since the last block, and who was looked at for it and is still here."""
        fresh, aside, places = self._fresh, self._aside, self._places
        self._fresh, self._aside = [], []
        for top in aside:
            sender = self._senders.get(top[1])
            if sender is not None and sender.place == -top[0]:
                fresh.append(top)
        places += fresh
        places.sort()
        # What is stale may lie where full blocks never come to.
        if len(places) > 2 * len(self._senders) + _SLACK:
            self._places = sorted([(-sender.place, address) for address, sender in self._senders.items()])


def _fits(tx: SignedTransaction, base_fee: int, gas_limit: int, max_bytes: int) -> bool:
    """Whether it fits an empty block, and covers the base fee."""
    body = tx.body
    return body.max_fee_per_gas >= base_fee and body.gas_limit <= gas_limit and len(tx.wire) <= max_bytes


def _due(sender: Sender, address: Address, nonce: int, base_fee: int) -> _Queued | None:
    """The transaction of a sender with this nonce, if there is one and it covers the base fee."""
    entry = sender.at(nonce)
    if entry is None:
        return None
    body = entry.tx.body
    spare = body.max_fee_per_gas - base_fee  # of the tip this much is left
    if spare < 0:
        return None
    key = entry.key if body.tip_per_gas <= spare else offering_key(spare, entry.seq)
    return key, nonce, entry, sender, address


def _enqueue(queue: list[_Queued], found: _Queued | None) -> None:
    if found is not None:
        heappush(queue, found)
