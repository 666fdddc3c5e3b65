"""What a mempool holds: a transaction that waits, and all that waits of one sender.

Responsible for the counters of one sender. Must not know of other senders, caps, or who goes first.

These are made and dropped for every transaction, and nearly every sender has one: so they hold as little as they
can, what can be asked of the transaction itself is not kept beside it, and none of them is looked at by Python's
garbage collector (no cycle can go through them).
"""

from bisect import bisect_left, insort

import msgspec

from chainkit.state import Account
from chainkit.transaction import SignedTransaction, Transfer

SEQ_BITS = 64
FAIR = 4
"""Of these a sender may have waiting with as good a right to room as anybody's."""
GAPPED = -64
"""The standing of what cannot run now: under every other."""


class Entry(msgspec.Struct, gc=False, eq=False):
    """A transaction that waits."""

    tx: SignedTransaction
    seq: int
    """Counts those that came."""
    key: int
    """Its place in the order of offering if it pays its whole tip, see `offering_key`."""
    cost: int
    """Gwei, at most: gas_limit * max_fee_per_gas + value."""


def make_entry(tx: SignedTransaction, seq: int) -> Entry:
    """``tx`` as the pool's number ``seq``."""
    body, action = tx.body, tx.body.action
    value = action.amount if isinstance(action, Transfer) else action.value
    cost = body.gas_limit * body.max_fee_per_gas + value
    return Entry(tx, seq, offering_key(body.tip_per_gas, seq), cost)


def offering_key(tip: int, seq: int) -> int:
    """The smallest is offered first: the best tip, of equals the oldest."""
    return seq - (tip << SEQ_BITS)


def _nonce(entry: Entry) -> int:
    return entry.tx.body.nonce


class Sender(msgspec.Struct, gc=False, eq=False):
    """What waits of one account."""

    nonce: int
    """The account's next."""
    ready: list[Entry] = []
    """From that nonce on, none missing."""
    gapped: list[Entry] = []
    """Those behind a nonce that is missing, by nonce."""
    cost: int = 0
    gapped_bytes: int = 0
    place: int = 0
    """No transaction of this sender comes before it in the order of offering."""

    @property
    def end(self) -> int:
        """The first nonce that is missing."""
        return self.nonce + len(self.ready)

    @property
    def entries(self) -> list[Entry]:
        """All of them, by nonce."""
        return self.ready + self.gapped

    def at(self, nonce: int) -> Entry | None:
        """The one with this nonce."""
        index, ready = nonce - self.nonce, self.ready
        if 0 <= index < len(ready):
            return ready[index]
        gapped = self.gapped
        place = bisect_left(gapped, nonce, key=_nonce) if gapped else 0
        return gapped[place] if place < len(gapped) and _nonce(gapped[place]) == nonce else None

    def last(self) -> Entry:
        """The one with the highest nonce."""
        return self.gapped[-1] if self.gapped else self.ready[-1]

    def put(self, entry: Entry) -> None:
        """One more; with it others may not be gapped any more."""
        self.cost += entry.cost
        if _nonce(entry) != self.end:
            insort(self.gapped, entry, key=_nonce)
            self.gapped_bytes += len(entry.tx.wire)
            return
        self.ready.append(entry)
        while self.gapped and _nonce(self.gapped[0]) == self.end:
            promoted = self.gapped.pop(0)
            self.gapped_bytes -= len(promoted.tx.wire)
            self.ready.append(promoted)

    def swap(self, old: Entry, new: Entry) -> None:
        """The new one in the place of the old one, which has the same nonce."""
        self.cost += new.cost - old.cost
        if _nonce(old) < self.end:
            self.ready[_nonce(old) - self.nonce] = new
        else:
            self.gapped[self.gapped.index(old)] = new
            self.gapped_bytes += len(new.tx.wire) - len(old.tx.wire)

    def take_last(self) -> Entry:
        """Without the one with the highest nonce, which is returned."""
        entry = self.gapped.pop() if self.gapped else self.ready.pop()
        self.cost -= entry.cost
        if _nonce(entry) > self.end:
            self.gapped_bytes -= len(entry.tx.wire)
        return entry

    def take_front(self, nonce: int) -> list[Entry]:
        """Without those before ``nonce``, up to which none is missing: they are returned, what is behind stays."""
        count = nonce - self.nonce
        gone = self.ready[:count]
        del self.ready[:count]
        self.nonce = nonce
        for entry in gone:
            self.cost -= entry.cost
        return gone

    def keep(self, entries: list[Entry]) -> None:
        """Have these, by nonce, and no others: everything but nonce and place follows from them."""
        self.ready, self.gapped, self.cost, self.gapped_bytes = [], [], 0, 0
        for entry in entries:
            self.put(entry)

    def standing_of(self, nonce: int) -> int:
        """How good a right to its room a transaction with this nonce has, whatever it pays: 0 is the best.

        A sender's first four have the best, the next four a worse one, the next eight a worse one still: who fills
        the pool pushes out himself, before anybody who sent little (as geth guarantees each account some slots).
        """
        return GAPPED if nonce > self.end else -((nonce - self.nonce) // FAIR).bit_length()

    def split(self, account: Account, max_ahead: int) -> tuple[list[Entry], list[Entry]]:
        """The entries that may still run once the account is this one, and those that may not, by nonce."""
        kept: list[Entry] = []
        dropped: list[Entry] = []
        cost = 0
        for entry in self.entries:
            inside = account.nonce <= _nonce(entry) < account.nonce + max_ahead
            if inside:
                cost += entry.cost  # once it exceeds the balance, all later ones go too
            (kept if inside and cost <= account.balance else dropped).append(entry)
        return kept, dropped

    def best(self) -> int:
        """The place that is no better than it must be."""
        return min([entry.key for entry in self.entries])
