"""Transactions that this node has decoded and verified lately.

Responsible for finding one again by its wire bytes when a block brings it, so that each is decoded once and its
signature checked once in a process: also one whose check is under way when the block comes, for whoever asks its
signature first checks it for both. Bounded; the oldest go first. Must not know which of them wait, or are in a block.
"""

from collections.abc import Iterable, Sequence

from chainkit.transaction import SignedTransaction

MAX_TRANSACTIONS = 32_768
MAX_BYTES = 16 * 1024 * 1024


class Recent:
    """Verified transactions by wire bytes, oldest first."""

    def __init__(self, max_transactions: int = MAX_TRANSACTIONS, max_bytes: int = MAX_BYTES) -> None:
        self._by_wire: dict[bytes, SignedTransaction] = {}
        self._under_way: dict[bytes, SignedTransaction] = {}
        self._max_transactions = max_transactions
        self._max_bytes = max_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._by_wire)

    def get(self, wire: bytes) -> SignedTransaction | None:
        """The transaction with these bytes, if it is here."""
        return self._by_wire.get(wire) or self._under_way.get(wire)

    def is_good(self, tx: SignedTransaction) -> bool:
        """Whether it is one of those that were added."""
        return self._by_wire.get(tx.wire) is tx

    def begin_check(self, transactions: Sequence[SignedTransaction]) -> None:
        """These are being checked, until `end_check`; the caller sees to it that they are not too many."""
        self._under_way.update((tx.wire, tx) for tx in transactions)

    def end_check(self, transactions: Sequence[SignedTransaction]) -> None:
        for tx in transactions:
            self._under_way.pop(tx.wire, None)

    def add(self, tx: SignedTransaction) -> None:
        """Keep one whose signature is good; the caller has checked it."""
        if tx.wire in self._by_wire:
            return
        self._by_wire[tx.wire] = tx
        self._bytes += len(tx.wire)
        while len(self._by_wire) > self._max_transactions or self._bytes > self._max_bytes:
            self._remove(next(iter(self._by_wire)))

    def remove(self, transactions: Iterable[SignedTransaction]) -> None:
        """Forget these: their block is final."""
        for tx in transactions:
            if tx.wire in self._by_wire:
                self._remove(tx.wire)

    def _remove(self, wire: bytes) -> None:
        del self._by_wire[wire]
        self._bytes -= len(wire)
