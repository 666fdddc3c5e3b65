"""What an operator of a committee bridge attests, given the final states of both chains.

Responsible for which attestations should be on their way right now, honest or not, and for the faults that an
operator can be told to play. Asked again before one is final it names the same call by the same key. Must not know
how calls are signed, sent, paid for or repeated, nor keep what the chains do not say: after a restart it decides
the same from the same two states.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from bridge.abi import Withdrawal
from bridge.committee_abi import (
    BRIDGE,
    GATEWAY,
    TOTALS_KEY,
    AttestArgs,
    CommitteeParams,
    Deposit,
    EscrowTotals,
    GatewayTotals,
    Voice,
    count_key,
    deposit_key,
    paid_key,
    voice_key,
    withdrawal_key,
)
from chainkit.codec import Address, Amount, CodecError, Record, decode, encode, from_json, parse_hex
from chainkit.hashing import tagged_hash
from chainkit.keys import is_valid_address
from chainkit.merkle import Tree
from chainkit.state import storage_key
from chainkit.transaction import Call
from rollup.duties import Duty
from rollup.player import Move

MAX_OUTSTANDING: Final = 32
"""Attestations of one chain that are on their way at most: half of what a pool holds for one sender."""
ATTEST_GAS: Final = 400_000
CREDIT, RELEASE = "credit", "release"
LIE: Final = "DISHONEST ON PURPOSE: "

R = TypeVar("R", bound=Record)


def stored(tree: Tree, contract: str, key: bytes, kind: type[R]) -> R | None:
    """A record in a contract's storage."""
    value = tree.get(storage_key(contract, key))
    return decode(kind, value) if value else None


def _totals(tree: Tree, contract: str, kind: type[R]) -> R:
    totals = stored(tree, contract, TOTALS_KEY, kind)
    assert totals is not None, "the contract writes its totals at genesis"
    return totals


def escrow_totals(l1: Tree) -> EscrowTotals:
    """L1's books."""
    return _totals(l1, BRIDGE, EscrowTotals)


def gateway_totals(side: Tree) -> GatewayTotals:
    """The side chain's books."""
    return _totals(side, GATEWAY, GatewayTotals)


# --- faults ---

KNOWN: Final[Mapping[str, str]] = {
    "silent": "attest nothing",
    "collude": "attest that escrow owes 'amount' to 'to' for a withdrawal that nobody made; m operators that are "
    "told the same are believed",
}


class Collusion(Record, frozen=True):
    """What colluding operators say: that escrow owes ``amount`` gwei to ``to``."""

    to: Address
    amount: Amount

    @property
    def index(self) -> int:
        """The withdrawal that they make up: beyond all that will ever be, and the same for all who say the same."""
        drawn = tagged_hash("fault-collude", encode(self))
        return 2**52 + int.from_bytes(drawn, "big") % 2**52


@dataclass
class OperatorFaults:
    """The faults that are on; see `KNOWN`. ``silent`` beats ``collude``."""

    silent: bool = False
    collusion: Collusion | None = None

    def set(self, value: Any) -> None:
        """Switch a fault on from its JSON face. Raises `LookupError` for an unknown name, `ValueError`."""
        if not isinstance(value, dict):
            raise CodecError("a fault is an object")
        name, rest = value.get("name"), {key: item for key, item in value.items() if key != "name"}
        if name == "silent":
            if rest:
                raise CodecError("silent takes no parameters")
            self.silent = True
        elif name == "collude":
            if isinstance(rest.get("to"), str):
                parse_hex(rest["to"], "to", 32)  # it names what is wrong
            self.collusion = _check_collusion(from_json(Collusion, rest))
        else:
            raise LookupError(name)

    def clear(self, name: str | None = None) -> None:
        """Switch one off, or all. Raises `LookupError` for an unknown name."""
        if name is not None and name not in KNOWN:
            raise LookupError(name)
        if name in (None, "silent"):
            self.silent = False
        if name in (None, "collude"):
            self.collusion = None

    def to_json(self) -> list[dict[str, Any]]:
        """Those that are on, by name."""
        found: list[dict[str, Any]] = []
        if self.collusion is not None:
            said = self.collusion
            shown = {"to": "0x" + said.to.hex(), "amount": said.amount, "index": said.index}
            found.append({"name": "collude", **shown})
        return [*found, {"name": "silent"}] if self.silent else found


def _check_collusion(collusion: Collusion) -> Collusion:
    if collusion.amount == 0:
        raise CodecError("amount must be above zero (in gwei)")
    if not is_valid_address(collusion.to):
        raise CodecError("to is not a valid Ed25519 public key")
    return collusion


# --- attestations ---


@dataclass
class _Open:
    """The indices of one direction that may still need this operator's voice; all below ``seen`` were looked at."""

    seen: int = 0
    indices: dict[int, None] = field(default_factory=dict)

    def grow(self, count: int) -> None:
        self.indices |= dict.fromkeys(range(self.seen, count))
        self.seen = max(self.seen, count)


class Attester:
    """One operator, ``me``. What it remembers is a shortcut: only indices that are done with for good are left out."""

    def __init__(self, params: CommitteeParams, me: Address) -> None:
        self.params = params
        self.me = me
        self._deposits, self._withdrawals = _Open(), _Open()

    def credits(self, l1: Tree, side: Tree, faults: OperatorFaults) -> list[Duty]:
        """What to say on the side chain now, by index, at most `MAX_OUTSTANDING`."""
        self._deposits.grow(escrow_totals(l1).deposits)
        if faults.silent:
            return []
        reserve = gateway_totals(side).reserve
        found = self._due(side, GATEWAY, self._deposits, reserve, lambda index: _deposit(l1, index))
        return [_duty(GATEWAY, CREDIT, args) for args in found]

    def releases(self, l1: Tree, side: Tree, faults: OperatorFaults) -> list[Duty]:
        """What to say on L1 now: withdrawals by index, then what colluding operators made up."""
        self._withdrawals.grow(gateway_totals(side).withdrawals)
        if faults.silent:
            return []
        escrow = escrow_totals(l1).escrow
        found = self._due(l1, BRIDGE, self._withdrawals, escrow, lambda index: _withdrawal(side, index))
        lie = faults.collusion
        if lie is not None:
            args = AttestArgs(lie.index, lie.to, lie.amount)
            if not self._is_done(l1, BRIDGE, lie.index) and self._would_count(l1, BRIDGE, args, escrow):
                return [*(_duty(BRIDGE, RELEASE, each) for each in found), _duty(BRIDGE, RELEASE, args, LIE)]
        return [_duty(BRIDGE, RELEASE, each) for each in found]

    def _due(
        self, tree: Tree, contract: str, open_: _Open, held: int, read: Callable[[int], AttestArgs]
    ) -> list[AttestArgs]:
        """The attestations that ``contract`` should hear; ``held`` gwei are there to be paid."""
        due: list[AttestArgs] = []
        for index in list(open_.indices):
            if self._is_done(tree, contract, index):
                del open_.indices[index]
                continue
            args = read(index)
            if self._would_count(tree, contract, args, held):
                due.append(args)
                if len(due) == MAX_OUTSTANDING:
                    break
        return due

    def _is_done(self, tree: Tree, contract: str, index: int) -> bool:
        """Whether there is nothing left to say: it is paid, or this operator has spoken (it has one voice)."""
        keys = (paid_key(index), voice_key(index, self.me))
        return any(tree.get(storage_key(contract, key)) for key in keys)

    def _would_count(self, tree: Tree, contract: str, args: AttestArgs, held: int) -> bool:
        """Whether the contract takes it: the voice that would pay is refused while there is too little to pay."""
        key = count_key(args.index, args.to, args.amount)
        value = tree.get(storage_key(contract, key))
        voices = (decode(int, value) if value else 0) + 1
        return voices < self.params.threshold or args.amount <= held


def _deposit(l1: Tree, index: int) -> AttestArgs:
    record = stored(l1, BRIDGE, deposit_key(index), Deposit)
    assert record is not None, "every deposit below the count is kept"
    return AttestArgs(index, record.to, record.amount)


def _withdrawal(side: Tree, index: int) -> AttestArgs:
    record = stored(side, GATEWAY, withdrawal_key(index), Withdrawal)
    assert record is not None, "every withdrawal below the count is kept"
    return AttestArgs(index, record.recipient, record.amount)


def _duty(contract: str, method: str, args: AttestArgs, note: str = "") -> Duty:
    what = "deposit" if method == CREDIT else "withdrawal"
    why = f"{note}attest {what} {args.index}: {args.amount} gwei to 0x{args.to.hex()}"
    return Duty((method, args.index), Move(Call(contract, method, encode(args), 0), ATTEST_GAS, why))


def voices_of(tree: Tree, contract: str, index: int, params: CommitteeParams) -> list[tuple[Address, Voice]]:
    """Which operators have said what of an index, by address."""
    said = ((o, stored(tree, contract, voice_key(index, o), Voice)) for o in params.operators)
    return [(operator, voice) for operator, voice in said if voice is not None]
