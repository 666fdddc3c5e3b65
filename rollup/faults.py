"""Fault injection for teaching: what a dishonest sequencer or verifier can be told to do.

Responsible for the menu of faults, for the switchboard of those that are on, and for making lies: how a
state is falsified after one step. Must not know how the lie is posted or defended (rollup/duties.py).

Nothing here is reachable unless the service was started with ``--enable-faults``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from msgspec.structs import replace

from chainkit.codec import U53, Address, CodecError, Record, from_json, to_json
from chainkit.keys import dev_keypair, is_dev_address
from chainkit.state import Account, State
from chainkit.transaction import SignedTransaction, Transfer
from rollup.stf import BeginBlock, Deposit, Step
from rollup.trace import Lie

SEQUENCER_FAULTS: Final = {
    "steal": "post a root that hides a theft at one step (at_step, or drawn from seed)",
    "mint": "post a root that hides new coins at one step (at_step, or drawn from seed)",
    "bad-root": "post a root that is wrong from one step on (at_step, or drawn from seed)",
    "skip-deposit": "take in no inbox messages",
    "censor": "leave out the transactions of one address (all, without address)",
    "halt": "make no blocks, post no batches",
    "withhold": "make blocks and give receipts, but post no batches",
    "silent-in-dispute": "do not answer in disputes",
}
VERIFIER_FAULTS: Final = {
    "asleep": "neither challenge nor answer in disputes",
    "late": "challenge only after some L1 blocks (blocks)",
    "frivolous": "challenge an honest batch",
}
LYING_FAULTS: Final = ("steal", "mint", "bad-root")

_JUNK_KEY = b"x/lie"
_MINTED = 1_000_000_000_000


class FaultError(ValueError):
    """The fault does not exist or its parameters are wrong; the message says what there is."""


class Fault(Record, frozen=True):
    """A fault that is on. ``address`` is the thief's ("steal", "mint") or the censored sender's;
    ``amount`` in gwei; ``at_step`` counts the steps of the next batch from 0; ``blocks`` are L1 blocks."""

    name: str
    at_step: U53 | None = None
    address: Address | None = None
    amount: U53 | None = None
    seed: U53 | None = None
    blocks: U53 | None = None


@dataclass
class FaultSet:
    """The faults of one service that are on, and the lies that were played."""

    known: Mapping[str, str]
    active: dict[str, Fault] = field(default_factory=dict)
    played_lies: list[dict[str, Any]] = field(default_factory=list)

    def get(self, name: str) -> Fault | None:
        return self.active.get(name)

    def names(self) -> list[str]:
        return sorted(self.active)

    def set(self, body: Any) -> None:
        """Turn a fault on from its JSON face. Raises `FaultError`, `LookupError` for an unknown name."""
        if isinstance(body, dict) and isinstance(body.get("address"), str):
            body = {**body, "address": _address(body["address"])}
        try:
            fault = from_json(Fault, body)
        except CodecError as error:
            raise FaultError(str(error)) from None
        if fault.name not in self.known:
            raise LookupError(fault.name)
        self.active[fault.name] = fault

    def clear(self, name: str | None = None) -> None:
        """Turn one fault off, or all. Raises `LookupError` for an unknown name."""
        if name is None:
            self.active.clear()
        elif name not in self.known:
            raise LookupError(name)
        else:
            self.active.pop(name, None)

    def played(self, name: str, what: dict[str, Any]) -> None:
        """A lie was told: it is told once."""
        self.active.pop(name, None)
        self.played_lies.append({"name": name, **what})

    def shown(self) -> dict[str, Any]:
        """What ``GET /faults`` says."""
        return {
            "active": [to_json(fault) for _, fault in sorted(self.active.items())],
            "played": self.played_lies,
            "known": dict(self.known),
        }


def _address(text: str) -> str:
    if text.startswith("0x"):
        return text
    try:
        address = dev_keypair(text).address
    except ValueError:
        raise FaultError(f"address {text!r} is neither 0x-hex nor a well-known name") from None
    if is_dev_address(address) is None:
        raise FaultError(f"address {text!r} is not a well-known name")
    return "0x" + address.hex()


# --- lies ---


def draw_step(seed: int, count: int) -> int:
    """A step from 0 to ``count - 1``, drawn from a seed."""
    return int.from_bytes(sha256(b"lie" + seed.to_bytes(8, "big")).digest(), "big") % count


def make_lie(fault: Fault, steps: list[Step]) -> tuple[int, Lie]:
    """The step after which the state is falsified, and the lie to play there.

    ``steps`` are those of the batch. The liar's state stays well formed, so that it can go on from it.
    Raises `FaultError` if ``at_step`` is beyond the batch.
    """
    if fault.at_step is not None and fault.at_step >= len(steps):
        raise FaultError(f"at_step {fault.at_step}: the batch has {len(steps)} steps")
    at = draw_step(fault.seed or 0, len(steps)) if fault.at_step is None else fault.at_step
    thief = fault.address or dev_keypair("mallory").address
    victims = _victims(steps, thief)

    def lie(index: int, state: State) -> None:
        if index != at:
            return
        if fault.name == "steal":
            _steal(state, victims, thief, fault.amount)
        elif fault.name == "mint":
            _credit(state, thief, fault.amount or _MINTED)
        else:
            state.set(_JUNK_KEY, sha256(b"junk" + state.get(_JUNK_KEY)).digest())

    return at, lie


def _victims(steps: list[Step], thief: Address) -> list[Address]:
    """Accounts that the batch touches, so that the theft hides among real traffic, in order, each once."""
    found: dict[Address, None] = {}
    for step in steps:
        if isinstance(step, Deposit):
            found[step.to] = None
        elif not isinstance(step, BeginBlock):
            try:
                body = SignedTransaction.decode(step.transaction).body
            except CodecError:
                continue
            found[body.sender] = None
            if isinstance(body.action, Transfer):
                found[body.action.to] = None
    found.pop(thief, None)
    return list(found) or [dev_keypair(name).address for name in ("alice", "bob", "carol")]


def _steal(state: State, victims: list[Address], thief: Address, amount: int | None) -> None:
    """Take ``amount`` (half of what there is, without it) from the richest victim."""
    victim = max(victims, key=lambda address: (state.account(address).balance, address))
    account = state.account(victim)
    taken = min(amount or account.balance // 2, account.balance)
    state.set_account(victim, replace(account, balance=account.balance - taken))
    if taken:
        _credit(state, thief, taken)
    else:
        state.set(_JUNK_KEY, sha256(b"junk" + state.get(_JUNK_KEY)).digest())


def _credit(state: State, address: Address, amount: int) -> None:
    account = state.account(address)
    state.set_account(address, Account(account.balance + amount, account.nonce))
