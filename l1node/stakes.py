"""What the staking contract remembers, and the arithmetic on it.

Responsible for the records of stakes, unbonding and candidates, and for who is elected, what a slash takes and
who gets a place: pure functions of those records. Must not know of calls, events, eras' sets or evidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from chainkit.block import MAX_VALIDATORS, Validator
from chainkit.codec import U53, Address, Record
from chainkit.contract import Revert, Storage

MAX_CANDIDATES = 80
"""How many stakes compete for the `MAX_VALIDATORS` seats. Bounds what an era's beginning costs."""
MAX_KNOWN = 100
"""How many validators, past ones included, the public view remembers."""


class Unbonding(Record, frozen=True):
    """``amount`` gwei on their way out, payable from turn ``release`` on, slashable until paid."""

    release: U53
    amount: U53


class Stake(Record, frozen=True):
    """What one key has at stake, in gwei. ``jailed_until`` is an era, 0 if the key is not jailed."""

    active: U53 = 0
    jailed_until: U53 = 0
    unbonding: tuple[Unbonding, ...] = ()

    @property
    def total(self) -> int:
        """All that the contract still holds for this key."""
        return self.active + sum(entry.amount for entry in self.unbonding)


class Candidates(Record, frozen=True):
    """The stakes that compete for seats, sorted by address: enough stake, not jailed."""

    stakes: Annotated[tuple[Validator, ...], Meta(max_length=MAX_CANDIDATES)] = ()


class Known(Record, frozen=True):
    """Every key that was a candidate, oldest first, as far as remembered; for the public view alone."""

    addresses: tuple[Address, ...] = ()


class Eras(Record, frozen=True):
    """Where the chain stands: ``starts`` are the eras of the latest turns, the current one last."""

    era_slots: U53
    era: U53
    turn: U53
    starts: tuple[U53, ...]


ERAS_KEY, CANDIDATES_KEY, KNOWN_KEY = b"eras", b"candidates", b"known"


def stake_key(address: Address) -> bytes:
    """Storage key of a `Stake`."""
    return b"v" + address


def nullifier_key(culprit: Address, kind: str, slot: int) -> bytes:
    """Storage key that marks an offence as punished. From the offence, never from the evidence's bytes."""
    return b"n" + culprit + slot.to_bytes(8, "big") + kind.encode("ascii")


def load_stake(storage: Storage, address: Address) -> Stake:
    """What a key has at stake; all zero for a stranger."""
    return storage.load(stake_key(address), Stake) or Stake()


def load_eras(storage: Storage) -> Eras:
    """Where the chain stands; genesis writes it."""
    eras = storage.load(ERAS_KEY, Eras)
    if eras is None:
        raise Revert("not_initialised", "staking has no genesis")
    return eras


def elect(stakes: Sequence[Validator]) -> list[Validator]:
    """The `MAX_VALIDATORS` largest stakes, the lower address first among equals, sorted by address."""
    ranked = sorted(stakes, key=lambda v: (-v.stake, v.address))
    return sorted(ranked[:MAX_VALIDATORS], key=lambda v: v.address)


@dataclass(frozen=True)
class Slash:
    """What is left, and the ``amount`` of gwei taken."""

    remaining: Stake
    amount: int


def slash(stake: Stake, percent: int) -> Slash:
    """Take ``percent`` of all that is held, active and unbonding alike, each part rounded up."""

    def cut(amount: int) -> int:
        return -(-amount * percent // 100)

    unbonding = tuple(Unbonding(e.release, e.amount - cut(e.amount)) for e in stake.unbonding)
    remaining = Stake(
        stake.active - cut(stake.active), stake.jailed_until, tuple(e for e in unbonding if e.amount)
    )
    return Slash(remaining, stake.total - remaining.total)


def queue(entries: Sequence[Unbonding], turn: int, new: Unbonding) -> tuple[Unbonding, ...]:
    """Add an entry; those of one turn, and all that have matured, are merged: the queue stays short."""
    amounts = {new.release: new.amount}
    for entry in entries:
        release = max(entry.release, turn)
        amounts[release] = amounts.get(release, 0) + entry.amount
    return tuple(Unbonding(release, amounts[release]) for release in sorted(amounts))


def admit(others: Sequence[Validator], new: Validator) -> tuple[Validator, ...]:
    """Give a stake a place; if there is none left, only in place of a strictly smaller one."""
    kept = list(others)
    if len(kept) >= MAX_CANDIDATES:
        weakest = min(kept, key=lambda v: (v.stake, v.address))
        if weakest.stake >= new.stake:
            return tuple(others)
        kept.remove(weakest)
    return tuple(sorted([*kept, new], key=lambda v: v.address))
