"""The contract's books: records in storage, and money that moves only together with its entry.

Responsible for loading and storing records, for escrow and bonds, and for the check after every method that
the contract's balance is exactly escrow plus bonds (promises P1, P15). Must not know any other rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from bridge.abi import (
    DIRECTORY_KEY,
    SETTINGS_KEY,
    TOTALS_KEY,
    Batch,
    BridgeSettings,
    BridgeTotals,
    Dispute,
    InboxEntry,
    batch_key,
    dispute_key,
    inbox_key,
)
from chainkit.codec import Address
from chainkit.contract import Context, Revert
from rollup.directory import Frontier


class Books:
    """What one call of the contract works on. Made by `open_books`."""

    def __init__(self, ctx: Context) -> None:
        totals = ctx.storage.load(TOTALS_KEY, BridgeTotals)
        settings = ctx.storage.load(SETTINGS_KEY, BridgeSettings)
        if totals is None or settings is None:
            raise Revert("no_genesis", "the bridge was never initialised")
        self.ctx = ctx
        self.totals = totals
        self.settings = settings

    # --- records ---

    def note(self, **changes: Any) -> None:
        """Change fields of the totals; they are stored when the books close."""
        self.totals = replace(self.totals, **changes)

    def batch(self, index: int) -> Batch:
        """Raises `Revert` ``unknown_batch``."""
        batch = self.ctx.storage.load(batch_key(index), Batch)
        if batch is None:
            last = self.totals.next_batch - 1
            raise Revert("unknown_batch", f"no batch {index}; there are 0 to {last}")
        return batch

    def store_batch(self, batch: Batch) -> None:
        self.ctx.storage.store(batch_key(batch.index), batch)

    def directory(self) -> Frontier:
        """The directory of addresses; empty at first."""
        return self.ctx.storage.load(DIRECTORY_KEY, Frontier) or Frontier()

    def store_directory(self, directory: Frontier) -> None:
        self.ctx.storage.store(DIRECTORY_KEY, directory)

    def dispute(self, index: int) -> Dispute:
        """Raises `Revert` ``unknown_dispute``."""
        dispute = self.ctx.storage.load(dispute_key(index), Dispute)
        if dispute is None:
            raise Revert("unknown_dispute", f"no dispute {index}; there were {self.totals.next_dispute}")
        return dispute

    def store_dispute(self, dispute: Dispute) -> None:
        self.ctx.storage.store(dispute_key(dispute.index), dispute)

    def inbox(self, index: int) -> InboxEntry:
        """Raises `Revert` ``unknown_message``."""
        entry = self.ctx.storage.load(inbox_key(index), InboxEntry)
        if entry is None:
            length = self.totals.inbox_length
            raise Revert("unknown_message", f"no inbox message {index}; there are {length}")
        return entry

    def store_inbox(self, index: int, entry: InboxEntry) -> None:
        self.ctx.storage.store(inbox_key(index), entry)

    # --- money ---

    def take_escrow(self, amount: int) -> None:
        """Enter a deposit that the call brought along."""
        self.note(escrow=self.totals.escrow + amount)

    def pay_escrow(self, to: Address, amount: int) -> None:
        """Pay out of escrow. Raises `Revert` if it does not hold as much."""
        if amount > self.totals.escrow:
            raise Revert("escrow_too_small", f"escrow holds {self.totals.escrow} gwei, {amount} asked")
        self.ctx.transfer(to, amount)
        self.note(escrow=self.totals.escrow - amount)

    def take_bond(self, amount: int) -> None:
        """Enter a bond; the value that the call brought along must be exactly that."""
        if self.ctx.value != amount:
            raise Revert("wrong_bond", f"the bond is {amount} gwei, the call brought {self.ctx.value}")
        self.note(bonds=self.totals.bonds + amount)

    def return_bond(self, to: Address, amount: int) -> None:
        self.ctx.transfer(to, amount)
        self.note(bonds=self.totals.bonds - amount)

    def forfeit_bond(self, winner: Address, amount: int) -> tuple[int, int]:
        """Half to the winner, the other half (and an odd gwei) burned, so that challenging oneself costs.

        Returns (paid, burned) in gwei.
        """
        paid = amount // 2
        burned = amount - paid
        self.ctx.transfer(winner, paid)
        self.ctx.burn(burned)
        self.note(bonds=self.totals.bonds - amount)
        return paid, burned

    def close(self) -> None:
        """Store the totals and hold them against the balance. Raises `Revert` ``books``."""
        self.ctx.storage.store(TOTALS_KEY, self.totals)
        balance = self.ctx.balance()
        owed = self.totals.escrow + self.totals.bonds
        if balance != owed or self.totals.escrow < 0 or self.totals.bonds < 0:
            raise Revert("books", f"balance is {balance} gwei, escrow and bonds are {owed}")


@contextmanager
def open_books(ctx: Context) -> Iterator[Books]:
    """The books for one call; closed, and so checked, only if the call succeeds."""
    books = Books(ctx)
    yield books
    books.close()


def require(condition: bool, code: str, message: str) -> None:
    """Raises `Revert` unless the condition holds."""
    if not condition:
        raise Revert(code, message)


def require_running(books: Books) -> None:
    """Refuse what a frozen bridge no longer does."""
    frozen = books.totals.frozen_height
    require(frozen == 0, "frozen", f"the bridge froze at L1 block {frozen}: claim, exit or refund only")


def require_frozen(books: Books) -> None:
    """Refuse what only a frozen bridge does."""
    require(books.totals.frozen_height > 0, "not_frozen", "the bridge is running; call freeze() first")
