"""What a mempool holds: a transaction that waits, and all that waits of one sender.

Responsible for the counters of one sender. Must not know of other senders, caps, or who goes first.

These are made and dropped for every transaction, so none of them is looked at by Python's garbage collector: no
cycle can go through them.
"""

import msgspec

from chainkit.execution import Rules, intrinsic_gas
from chainkit.state import Account
from chainkit.transaction import SignedTransaction

SEQ_BITS = 64
FAIR = 4
"""Of these a sender may have waiting with as good a right to room as anybody's."""
GAPPED = -64
"""The standing of what cannot run now: under every other."""


class Entry(msgspec.Struct, gc=False, eq=False):
    """A transaction that waits, with what is asked of it again and again."""

    tx: SignedTransaction
    seq: int
    """Counts those that came."""
    key: int
    """Its place in the order of offering if it pays its whole tip, see `offering_key`."""
    bytes: int
    least: int
    """Gas that it certainly uses."""
    max_fee: int
    covers: int
    """The base fee up to which it pays its whole tip."""
    cost: int
    """Gwei, at most: gas_limit * max_fee_per_gas + value."""


def make_entry(rules: Rules, tx: SignedTransaction, seq: int) -> Entry:
    """``tx`` as the pool's number ``seq``."""
    body = tx.body
    fee, tip = body.max_fee_per_gas, body.tip_per_gas
    cost = body.gas_limit * fee + tx.value
    return Entry(
        tx, seq, offering_key(tip, seq), len(tx.wire), intrinsic_gas(rules, tx), fee, fee - tip, cost
    )


def offering_key(tip: int, seq: int) -> int:
    """The smallest is offered first: the best tip, of equals the oldest."""
    return seq - (tip << SEQ_BITS)


class Sender(msgspec.Struct, gc=False, eq=False):
    """What waits of one account."""

    nonce: int
    """The account's next."""
    end: int
    """The first nonce from there on that is missing."""
    entries: dict[int, Entry] = {}
    nonces: list[int] = []
    """Of the entries, sorted."""
    cost: int = 0
    gapped: int = 0
    gapped_bytes: int = 0
    place: int = 0
    """No transaction of this sender comes before it in the order of offering."""

    def standing_of(self, nonce: int) -> int:
        """How good a right to its room a transaction with this nonce has, whatever it pays: 0 is the best.

        A sender's first four have the best, the next four a worse one, the next eight a worse one still: who fills
        the pool pushes out himself, before anybody who sent little (as geth guarantees each account some slots).
        """
        return GAPPED if nonce > self.end else -((nonce - self.nonce) // FAIR).bit_length()

    def split(self, account: Account, max_ahead: int) -> tuple[dict[int, Entry], list[Entry]]:
        """The entries that may still run once the account is this one, and those that may not, by nonce."""
        kept: dict[int, Entry] = {}
        dropped: list[Entry] = []
        cost = 0
        for nonce in self.nonces:
            entry = self.entries[nonce]
            inside = account.nonce <= nonce < account.nonce + max_ahead
            if inside:
                cost += entry.cost  # once it exceeds the balance, all later ones go too
            if inside and cost <= account.balance:
                kept[nonce] = entry
            else:
                dropped.append(entry)
        return kept, dropped

    def recount(self) -> None:
        """Everything but nonce and place from the entries."""
        self.nonces = sorted(self.entries)
        self.cost = sum(entry.cost for entry in self.entries.values())
        self.end = self.nonce
        while self.end in self.entries:
            self.end += 1
        beyond = [entry.bytes for nonce, entry in self.entries.items() if nonce > self.end]
        self.gapped, self.gapped_bytes = len(beyond), sum(beyond)

    def best(self) -> int:
        """The place that is no better than it must be."""
        return min([entry.key for entry in self.entries.values()])
