"""The live invariant: what escrow must hold, term by term (promise P1), and bonds beside it (P15).

Responsible for adding up the derived L2 state and comparing it with the contract's books. Pure. Must not know
of HTTP, nor how the state was derived.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bridge import abi
from chainkit.codec import decode
from chainkit.merkle import Tree
from chainkit.state import Account, storage_key
from rollup.block import L2Block

_WITHDRAWALS = storage_key("messenger", b"withdrawal/")


@dataclass
class L2Books:
    """An L2 state added up. ``balances``: all accounts, in gwei. ``unclaimed``: gwei by index of the
    withdrawals that this batch (not those before it) added and that L1 has not paid."""

    balances: int
    unclaimed: dict[int, int] = field(default_factory=dict)


def genesis_books(tree: Tree) -> L2Books:
    """The books of a whole state, counted account by account."""
    balances = sum(_balance(value) for key, value in tree.items() if key[:1] == b"a")
    return L2Books(balances)


def advance_books(parent: L2Books, start: Tree, blocks: Sequence[L2Block]) -> L2Books:
    """The books after blocks on top of ``start``: every change is counted, none is believed."""
    balances, unclaimed, before = parent.balances, dict[int, int](), start
    for block in blocks:
        for key, value in block.changes.items():
            if key[:1] == b"a":
                balances += _balance(value) - _balance(before.get(key))
            elif key.startswith(_WITHDRAWALS) and value:
                record = decode(abi.Withdrawal, value)
                unclaimed[record.index] = record.amount
        before = block.tree
    return L2Books(balances, unclaimed)


def _balance(value: bytes) -> int:
    return decode(Account, value).balance if value else 0


@dataclass(frozen=True)
class Invariant:
    """Escrow beside what it must be, in gwei, all at one L1 block.

    ``l2_balances`` and ``withdrawals`` are those of the state after batch ``batch``; ``deposits`` those that
    it has not taken in; ``exited`` left the frozen bridge with a balance.
    """

    batch: int
    escrow: int
    l2_balances: int
    withdrawals: int
    deposits: int
    exited: int
    bonds: int
    bonds_owed: int
    balance: int

    @property
    def expected(self) -> int:
        """What escrow must be."""
        return self.l2_balances - self.exited + self.withdrawals + self.deposits

    @property
    def escrow_holds(self) -> bool:
        return self.escrow == self.expected

    @property
    def bonds_hold(self) -> bool:
        return self.balance == self.escrow + self.bonds and self.bonds == self.bonds_owed

    @property
    def holds(self) -> bool:
        return self.escrow_holds and self.bonds_hold
