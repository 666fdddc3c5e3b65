"""Faults for teaching: what a dishonest sequencer or verifier can be told to do, and how its lies are made.

Responsible for naming and validating faults, for the set of active ones, and for lies and made-up
disagreements that stay consistent when they are played again. Must not know who may switch faults on, nor
do anything by itself: the process that is dishonest asks this module.

Everything is deterministic: after a restart the same fault on the same batch gives the same lie.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bridge import abi
from chainkit.codec import (
    MAX_AMOUNT,
    U53,
    Address,
    Amount,
    Bytes32,
    CodecError,
    Record,
    decode,
    encode,
    from_json,
    to_json,
)
from chainkit.contract import SUPPLY_KEY, Supply
from chainkit.execution import Rules
from chainkit.hashing import tagged_hash
from chainkit.merkle import Tree
from chainkit.state import Account, State, account_key, system_key
from chainkit.transaction import SignedTransaction, Transfer
from rollup.block import decode_transaction
from rollup.derived import DerivedBatch
from rollup.player import Move, choose_move, next_move
from rollup.stf import BeginBlock, Deposit, Step
from rollup.trace import Lie, Trace

SEQUENCER, VERIFIER = "sequencer", "verifier"
DEFAULT_MINT = 1_000_000_000_000
"""Gwei that `mint` creates unless told otherwise."""

JUNK_KEY = system_key("fault/junk")
"""Where `bad-root` scribbles: no rule reads it."""


class FaultError(ValueError):
    """No such fault, or not with these parameters; the message says what exists."""


@dataclass(frozen=True)
class FaultKind:
    """What there is to know of a fault: who plays it, the parameters it ``needs`` and ``takes``."""

    role: str
    about: str
    needs: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()


KINDS: dict[str, FaultKind] = {
    "steal": FaultKind(
        SEQUENCER,
        "claim a root in which a balance moved to the thief after one step",
        takes=frozenset({"at_step", "address", "amount", "seed"}),
    ),
    "mint": FaultKind(
        SEQUENCER,
        "claim a root in which the thief got coins from nowhere after one step",
        takes=frozenset({"at_step", "amount", "seed"}),
    ),
    "bad-root": FaultKind(
        SEQUENCER,
        "claim a root that differs in a meaningless key after one step",
        takes=frozenset({"at_step", "seed"}),
    ),
    "skip-deposit": FaultKind(SEQUENCER, "take in no inbox messages"),
    "censor": FaultKind(SEQUENCER, "refuse the transactions of an address", needs=frozenset({"address"})),
    "halt": FaultKind(SEQUENCER, "make no more blocks and batches"),
    "withhold": FaultKind(SEQUENCER, "make blocks but post no batches"),
    "silent-in-dispute": FaultKind(SEQUENCER, "answer no challenge"),
    "asleep": FaultKind(VERIFIER, "challenge nothing"),
    "late": FaultKind(VERIFIER, "act this many L1 blocks late", needs=frozenset({"blocks"})),
    "frivolous": FaultKind(VERIFIER, "challenge true batches"),
}
LIES = ("steal", "mint", "bad-root")
PARAMETERS = ("at_step", "address", "amount", "seed", "blocks")


class Fault(Record, frozen=True):
    """A fault with its parameters. ``at_step`` counts from 0 within the batch; None: drawn from ``seed``.

    ``address`` is the victim of `steal` or the one whom `censor` ignores, ``amount`` is in gwei,
    ``blocks`` in L1 blocks.
    """

    name: str
    at_step: U53 | None = None
    address: Address | None = None
    amount: Amount | None = None
    seed: U53 | None = None
    blocks: U53 | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON face: the name and the parameters that are set."""
        shown: dict[str, Any] = to_json(self)
        return {key: value for key, value in shown.items() if value is not None}


def fault_names(role: str) -> list[str]:
    """The faults that a role can play."""
    return sorted(name for name, kind in KINDS.items() if kind.role == role)


def check_fault(fault: Fault, role: str) -> Fault:
    """Returns the fault. Raises `FaultError` if ``role`` has none of that name or not with these parameters."""
    kind = KINDS.get(fault.name)
    if kind is None or kind.role != role:
        known = ", ".join(fault_names(role)) or "none"
        raise FaultError(f"a {role} has no fault {fault.name!r}; it has {known}")
    given = {name for name in PARAMETERS if getattr(fault, name) is not None}
    allowed = kind.needs | kind.takes
    for name in PARAMETERS:
        if name in kind.needs and name not in given:
            raise FaultError(f"{fault.name} needs {name!r}")
        if name in given and name not in allowed:
            raise FaultError(
                f"{fault.name} takes no {name!r}; it takes {', '.join(sorted(allowed)) or 'none'}"
            )
    if fault.amount == 0 or fault.blocks == 0:
        raise FaultError(f"{fault.name}: an amount or a number of blocks must be positive")
    return fault


def fault_from_json(value: Any, role: str) -> Fault:
    """Read a fault from its JSON face. Raises `FaultError`."""
    try:
        fault = from_json(Fault, value)
    except CodecError as error:
        raise FaultError(str(error)) from None
    return check_fault(fault, role)


class FaultSet:
    """The active faults of one process. `censor` may stand once for each address, others once."""

    def __init__(self, role: str, faults: Iterable[Fault] = ()) -> None:
        """Raises `FaultError` if a fault is not for ``role``."""
        self.role = role
        self._active: dict[tuple[str, Address | None], Fault] = {}
        for fault in faults:
            self.set(fault)

    def set(self, fault: Fault) -> None:
        """Switch a fault on, or change its parameters. Raises `FaultError`."""
        check_fault(fault, self.role)
        self._active[_place(fault)] = fault

    def clear(self, name: str | None = None) -> list[Fault]:
        """Switch a fault off (all of them without a name); returns those that were on.

        Raises `FaultError` for a name that the role does not have.
        """
        if name is not None and name not in fault_names(self.role):
            check_fault(Fault(name), self.role)
        gone = [fault for fault in self if name in (None, fault.name)]
        for fault in gone:
            del self._active[_place(fault)]
        return gone

    def get(self, name: str) -> Fault | None:
        """The active fault of that name, or None."""
        if not self._active:
            return None
        return next((fault for fault in self if fault.name == name), None)

    @property
    def lie(self) -> Fault | None:
        """The active fault that falsifies roots, if any (the first by name)."""
        return next((fault for fault in self if fault.name in LIES), None)

    @property
    def delay(self) -> int:
        """How many L1 blocks late a `late` verifier acts; 0 if it is not."""
        late = self.get("late")
        return late.blocks or 0 if late is not None else 0

    def censors(self, address: Address) -> bool:
        """Whether the transactions of this address are ignored."""
        return ("censor", address) in self._active

    def __contains__(self, name: object) -> bool:
        return any(fault.name == name for fault in self)

    def __iter__(self) -> Iterator[Fault]:
        if not self._active:  # asked many times a block, and hardly ever is there one
            return iter(())
        return iter(sorted(self._active.values(), key=lambda fault: (fault.name, fault.address or b"")))

    def __len__(self) -> int:
        return len(self._active)

    def to_json(self) -> list[dict[str, Any]]:
        """The JSON face of all active faults, by name."""
        return [fault.to_json() for fault in self]

    @classmethod
    def from_json(cls, role: str, value: Any) -> "FaultSet":
        """Read what `to_json` gave. Raises `FaultError`."""
        if not isinstance(value, list):
            raise FaultError("faults must be a list")
        return cls(role, [fault_from_json(item, role) for item in value])


def _place(fault: Fault) -> tuple[str, Address | None]:
    return fault.name, fault.address if fault.name == "censor" else None


# --- lies ---


def draw_step(seed: int, count: int) -> int:
    """A step index below ``count`` (> 0), drawn from a seed."""
    return int.from_bytes(tagged_hash("fault-step", encode(seed)), "big") % count


def make_lie(
    fault: Fault, rules: Rules, steps: Sequence[Step], start: Tree, thief: Address, seed: int = 0
) -> tuple[int, Lie]:
    """The lie of a batch: the index of the step after which it is told, and the `Lie` for its trace.

    The falsified state stays one that every rule can read, so the liar can go on executing on it.
    ``seed`` is used if the fault has none. Raises `FaultError` if the batch has no such step.
    """
    if fault.name not in LIES:
        raise FaultError(f"{fault.name!r} falsifies no root; {', '.join(LIES)} do")
    count = len(steps)
    if count == 0 or (fault.at_step is not None and fault.at_step >= count):
        raise FaultError(f"the batch has {count} steps, no step {fault.at_step}")
    drawn = draw_step(seed if fault.seed is None else fault.seed, count)
    index = drawn if fault.at_step is None else fault.at_step
    junk = tagged_hash("fault-junk", start.root + encode(index))
    victims = _victims(fault, rules, steps, start, thief) if fault.name == "steal" else []

    def lie(position: int, state: State) -> None:
        if position != index:
            return
        if fault.name == "steal":
            moved = _steal(state, victims, thief, fault.amount)
        elif fault.name == "mint":
            moved = _mint(state, thief, fault.amount or DEFAULT_MINT)
        else:
            moved = False
        if not moved:  # `bad-root`, or nothing was there to take: still a lie
            state.set(JUNK_KEY, junk)

    return index, lie


def _victims(
    fault: Fault, rules: Rules, steps: Sequence[Step], start: Tree, thief: Address
) -> list[list[Address]]:
    """Whom to steal from: groups in order of preference; of a group the richest is robbed."""
    named = [fault.address] if fault.address is not None else []
    touched = {address for step in steps for address in _accounts_of(rules, step)}
    known = {key[1:] for key, _ in start.items() if key[:1] == account_key(b"")}
    spared = rules.reserved | {thief}
    return [sorted(set(group) - spared) for group in (named, touched, known)]


def _accounts_of(rules: Rules, step: Step) -> Iterator[Address]:
    if isinstance(step, Deposit):
        yield step.to
    tx: SignedTransaction | None = None if isinstance(step, BeginBlock) else decode_transaction(rules, step)
    if tx is not None:
        yield tx.body.sender
        if isinstance(tx.body.action, Transfer):
            yield tx.body.action.to


def _steal(state: State, groups: Sequence[Sequence[Address]], thief: Address, amount: int | None) -> bool:
    for group in groups:
        # Ties go to the first address: the groups are sorted.
        victim = max(group, key=lambda address: state.account(address).balance, default=None)
        if victim is None or not (robbed := state.account(victim)).balance:
            continue
        loot = min(robbed.balance, robbed.balance if amount is None else amount)
        state.set_account(victim, Account(robbed.balance - loot, robbed.nonce))
        return _credit(state, thief, loot)
    return False


def _mint(state: State, thief: Address, amount: int) -> bool:
    """Credit the thief, but so little that no sum on this chain can reach the limit of an amount."""
    value = state.get(SUPPLY_KEY)
    supply = decode(Supply, value) if value else Supply()
    room = MAX_AMOUNT - (supply.genesis + supply.minted - supply.burned) - state.account(thief).balance
    amount = min(amount, room // 2)
    return amount > 0 and _credit(state, thief, amount)


def _credit(state: State, to: Address, amount: int) -> bool:
    old = state.account(to)
    state.set_account(to, Account(old.balance + amount, old.nonce))
    return True


# --- a challenger with nothing in hand ---


def frivolous_root(batch: DerivedBatch) -> Bytes32:
    """The root that a frivolous challenger pretends to hold true."""
    return tagged_hash("fault-frivolous", batch.record.state_root)


def should_challenge_frivolously(
    batch: DerivedBatch,
    disputes: Iterable[abi.Dispute],
    me: Address,
    height: int,
    settings: abi.BridgeSettings,  # noqa: ARG001 - as `should_challenge`
) -> bool:
    """Whether to challenge a batch that is true: once each, in its window."""
    if batch.status != abi.PENDING or not batch.matches:
        return False
    if height >= batch.record.challenge_until:
        return False
    return not any(d.batch == batch.index and d.challenger == me for d in disputes)


def frivolous_move(
    dispute: abi.Dispute,
    trace: Trace,
    me: Address,
    settings: abi.BridgeSettings,
    height: int,
    step_hashes: Sequence[Bytes32],
    bridge: str = "bridge",
) -> Move | None:
    """`next_move` for a challenger whose trace agrees with everything: it disputes the last segment.

    At the end it can only prove what the defender says, and does: better now than by the clock.
    """
    if dispute.stage == abi.CHOOSE and dispute.turn == abi.CHALLENGER and dispute.challenger == me:
        return choose_move(dispute, len(dispute.points), bridge)
    return next_move(dispute, trace, me, settings, height, step_hashes, bridge)
