"""The rollup's state and what a step does to it, run on a dict.

Responsible for gas, fees, receipts' outcomes and storage of an L2 as docs/PROTOCOL.md sections 4, 5 and 7 say them,
and for hosting contracts. Shares no code with chainkit or rollup. Must not know of batches, nor which contracts there
are: see `layerlab.audit.applications`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from layerlab.audit.plain import (
    LARGEST,
    Plain,
    is_key,
    packed,
    plain,
    read_transaction,
    signed_by,
    state_root,
    tagged,
    transaction_id,
    value_of,
)

TRANSACTION, SIGNATURE, READ, WRITE, VALUE_BYTE = 2_000, 3_000, 2_000, 2_000, 4
NEW_ACCOUNT, EVENT, EVENT_BYTE, CALL = 3_000, 400, 4, 1_000
LARGEST_VALUE = 4096
_BLOCK, _SUPPLY = b"sblock", b"ssupply"


class Refused(Exception):  # noqa: N818 - what the protocol calls it
    """The action does not happen; the fee is paid all the same."""


class NoGas(Exception):  # noqa: N818
    """The gas limit does not cover the next charge."""


@dataclass
class Method:
    """A contract's method as a host calls it. ``read`` raises `Refused` for what are no arguments."""

    payable: bool
    read: Callable[[bytes], Any]
    run: Callable[["Context", Any], None]


class Contract(Protocol):
    """What can be hosted. ``refusals`` are the exceptions by which it refuses; ``write`` and ``load`` are its codec."""

    name: str
    methods: Mapping[str, Method]
    refusals: tuple[type[Exception], ...]

    def begin(self, ctx: "Context") -> None:
        """Write the first state."""

    def write(self, record: Any) -> bytes: ...

    def load(self, kind: Any, data: bytes) -> Any: ...


def account_key(address: bytes) -> bytes:
    return b"a" + address


def storage_key(contract: str, key: bytes) -> bytes:
    name = contract.encode()
    return b"c" + bytes([len(name)]) + name + key


@dataclass
class Meter:
    """Gas of one transaction."""

    limit: int
    used: int = 0

    def charge(self, amount: int) -> None:
        if self.used + amount > self.limit:
            self.used = self.limit
            raise NoGas
        self.used += amount


@dataclass
class Machine:
    """An L2: ``state`` is every key with its value. `run` is one step."""

    chain_id: int
    fees: list[int]
    vault: bytes
    contracts: Mapping[str, Contract]
    state: dict[bytes, bytes] = field(default_factory=dict)
    _new: dict[bytes, bytes] = field(default_factory=dict)
    """What the step under way has written."""

    @classmethod
    def of_genesis(cls, genesis: Plain, contracts: Mapping[str, Contract]) -> "Machine":
        """``genesis`` as in docs/PROTOCOL.md section 6. It must have a vault, and no validators."""
        machine = cls(genesis[0], genesis[6], genesis[10], contracts)
        machine.state = {account_key(a[0]): packed([a[1], 0]) for a in genesis[7]}
        block = [0, 0, genesis[2], bytes(32), genesis[6][0], 0]
        total = sum(a[1] for a in genesis[7]) + sum(c[3] for c in genesis[9])
        machine.state |= {_BLOCK: packed(block), _SUPPLY: packed([total, 0, 0])}
        for name, _, _, balance in genesis[9]:
            machine.state[account_key(tagged("contract", name.encode()))] = packed([balance, 0])
        for name in sorted(contracts):
            contract = contracts[name]
            contract.begin(Context(machine, contract, bytes(32), bytes(32), 0, Meter(LARGEST), [name]))
        machine._end()
        return machine

    def copy(self) -> "Machine":
        return Machine(self.chain_id, self.fees, self.vault, self.contracts, dict(self.state))

    # --- what there is ---

    def root(self) -> bytes:
        return state_root(self.state)

    def get(self, key: bytes) -> bytes:
        value = self._new.get(key)
        return self.state.get(key, b"") if value is None else value

    def set(self, key: bytes, value: bytes) -> None:
        self._new[key] = value

    def account(self, address: bytes) -> list[int]:
        """``[balance, nonce]``."""
        value = self.get(account_key(address))
        return list(plain(value)) if value else [0, 0]

    def balances(self) -> dict[bytes, int]:
        """Every account's gwei."""
        return {key[1:]: plain(value)[0] for key, value in self.state.items() if key[:1] == b"a" and value}

    def supply(self) -> list[int]:
        """``[genesis, minted, burned]``."""
        return list(plain(self.get(_SUPPLY)))

    # --- steps ---

    def run(self, step: Plain) -> str:
        """Run ``[0, height, time]``, ``[1, index, from, to, amount]``, ``[2, index, wire]`` or ``[3, wire]``.

        Returns why it changed nothing, or why the action of a transaction that paid its fee failed, or "".
        """
        if step[0] == 0:
            outcome = self._begin(step[1], step[2])
        elif step[0] == 1:
            outcome = self._credit(step[3], step[4])
        else:
            outcome = self._transaction(step[-1], forced=step[0] == 2)
        self._end()
        return outcome

    def _end(self) -> None:
        for key, value in self._new.items():
            if self.state.get(key, b"") != value:  # what was written and undone leaves no trace
                self.state[key] = value
        self._new = {}

    def _begin(self, height: int, time: int) -> str:
        *_, base, used = plain(self.get(_BLOCK))
        _, floor, block_gas, *_ = self.fees
        target = block_gas // 2
        if used > target:
            base += max(1, base * (used - target) // target // 8)
        else:
            base = max(floor, base - base * (target - used) // target // 8)
        self.set(_BLOCK, packed([height, height, time, self.vault, base, 0]))
        return ""

    def _credit(self, to: bytes, amount: int) -> str:
        balance, nonce = self.account(to)
        self.set(account_key(to), packed([balance + amount, nonce]))
        self.count(amount, 0)
        return ""

    def count(self, minted: int, burned: int) -> None:
        """Enter into the supply."""
        if minted or burned:
            genesis, made, gone = self.supply()
            made, gone = made + minted, gone + burned
            if max(made, gone) > LARGEST:
                made, gone = made - min(made, gone), gone - min(made, gone)
            self.set(_SUPPLY, packed([genesis, made, gone]))

    def _transaction(self, wire: bytes, *, forced: bool) -> str:
        tx = read_transaction(wire) if len(wire) <= self.fees[4] else None
        if tx is None:
            return "undecodable"
        block = plain(self.get(_BLOCK))
        why = self._refusal(tx, wire, block, forced=forced)
        if why:
            return why
        sender, limit, price = tx[1], tx[3], min(tx[4], block[4] + tx[5])
        balance, nonce = self.account(sender)
        self.set(account_key(sender), packed([balance - limit * price, nonce + 1]))
        meter, before, books = Meter(limit), dict(self._new), Booking()
        why = self._action(tx, wire, meter, books)
        if why:
            self._new, books = before, Booking()
        self.add(sender, (limit - meter.used) * price)
        self.add(self.vault, meter.used * price)
        self.count(0, books.burned)
        self.set(_BLOCK, packed([*block[:5], block[5] + meter.used]))
        return why

    def _refusal(self, tx: Plain, wire: bytes, block: Plain, *, forced: bool) -> str:
        chain_id, sender, nonce, limit, most, tip, _, signature = tx
        _, floor, block_gas, most_gas, _, _ = self.fees
        balance, expected = self.account(sender)
        rules: tuple[tuple[bool, str], ...] = (
            (chain_id == self.chain_id, "wrong_chain"),
            (limit <= most_gas, "gas_limit_too_high"),
            (limit >= self._intrinsic(wire), "gas_limit_too_low"),
            (tip <= most, "tip_above_max_fee"),
            (most >= max(floor, block[4]), "fee_too_low"),
            (nonce == expected, "nonce"),
            (balance >= limit * most + value_of(tx), "insufficient_balance"),
            (forced or block[5] + limit <= block_gas, "block_full"),
        )
        why = next((why for holds, why in rules if not holds), "")
        return why or ("" if signed_by(sender, transaction_id(tx), signature) else "bad_signature")

    def _intrinsic(self, wire: bytes) -> int:
        return TRANSACTION + SIGNATURE + self.fees[5] * len(wire)

    def _action(self, tx: Plain, wire: bytes, meter: Meter, books: "Booking") -> str:
        sender, action = tx[1], tx[6]
        refusals: tuple[type[Exception], ...] = (Refused, NoGas)
        for contract in self.contracts.values():
            refusals += contract.refusals
        try:
            meter.charge(self._intrinsic(wire))
            if action[0] == 0:
                if action[1] in {tagged("contract", name.encode()) for name in self.contracts}:
                    raise Refused("invalid_recipient")
                meter.charge(WRITE)
                self.debit(sender, action[2])
                self.pay(action[1], action[2], meter)
            else:
                frame = Frame(sender, transaction_id(tx), meter, [], books)
                self.call(frame, sender, *action[1:])
        except refusals as refusal:
            return str(refusal) or type(refusal).__name__
        return ""

    # --- money ---

    def debit(self, address: bytes, amount: int) -> None:
        balance, nonce = self.account(address)
        if amount > balance:
            raise Refused("insufficient_balance")
        self.set(account_key(address), packed([balance - amount, nonce]))

    def add(self, address: bytes, amount: int) -> None:
        balance, nonce = self.account(address)
        if balance + amount > LARGEST:
            raise Refused("amount_overflow")
        self.set(account_key(address), packed([balance + amount, nonce]))

    def pay(self, to: bytes, amount: int, meter: Meter) -> None:
        """Add to an account that may be new."""
        if not self.get(account_key(to)):
            meter.charge(NEW_ACCOUNT)
            if not is_key(to):
                raise Refused("invalid_address")
        self.add(to, amount)

    # --- contracts ---

    def call(
        self, frame: "Frame", sender: bytes, contract: str, method: str, args: bytes, value: int
    ) -> None:
        """A contract's method, as ``sender``. Raises `Refused`, `NoGas`, or what the contract refuses by."""
        target = self.contracts.get(contract)
        declared = None if target is None else target.methods.get(method)
        if target is None or declared is None:
            raise Refused("unknown_contract or unknown_method")
        if contract in frame.active:
            raise Refused("reentrancy")
        if value and not declared.payable:
            raise Refused("not_payable")
        frame.meter.charge(CALL)
        given = declared.read(args)
        if value:
            frame.meter.charge(WRITE)
            self.debit(sender, value)
            self.add(tagged("contract", contract.encode()), value)
        frame.active.append(contract)
        declared.run(
            Context(
                self, target, sender, frame.origin, value, frame.meter, frame.active, frame.tx_id, frame.books
            ),
            given,
        )
        frame.active.pop()


@dataclass
class Booking:
    """What a transaction's calls have destroyed, in gwei."""

    burned: int = 0


@dataclass
class Frame:
    """What the calls of one transaction share."""

    origin: bytes
    tx_id: bytes
    meter: Meter
    active: list[str]
    books: Booking


class Context:
    """What a hosted contract sees: the names of docs/ARCHITECTURE.md's contract interface, priced here."""

    def __init__(
        self,
        machine: Machine,
        contract: Contract,
        sender: bytes,
        origin: bytes,
        value: int,
        meter: Meter,
        active: list[str],
        tx_id: bytes = bytes(32),
        books: Booking | None = None,
    ) -> None:
        self._machine, self._contract, self._meter, self._active = machine, contract, meter, active
        self.sender, self.origin, self.value, self.tx_id = sender, origin, value, tx_id
        self._books = books or Booking()
        self.address = tagged("contract", contract.name.encode())
        self.chain_id = machine.chain_id
        self.height, self.slot, self.time, self.proposer, *_ = plain(machine.get(_BLOCK))
        self.storage = Storage(machine, contract, meter)
        self.charge = meter.charge

    def balance(self, address: bytes | None = None) -> int:
        self.charge(READ)
        return self._machine.account(address or self.address)[0]

    def transfer(self, to: bytes, amount: int) -> None:
        self.charge(WRITE)
        self._machine.debit(self.address, amount)
        self._machine.pay(to, amount, self._meter)

    def burn(self, amount: int) -> None:
        self.charge(WRITE)
        self._machine.debit(self.address, amount)
        self._books.burned += amount

    def emit(self, event: Any) -> None:
        self.charge(EVENT + EVENT_BYTE * len(self._contract.write(event)))

    def call(self, contract: str, method: str, args: Any, value: int = 0) -> None:
        frame = Frame(self.origin, self.tx_id, self._meter, self._active, self._books)
        self._machine.call(frame, self.address, contract, method, self._contract.write(args), value)


class Storage:
    """A hosted contract's own keys."""

    def __init__(self, machine: Machine, contract: Contract, meter: Meter) -> None:
        self._machine, self._contract, self._meter = machine, contract, meter

    def get(self, key: bytes) -> bytes:
        self._meter.charge(READ)
        value = self._machine.get(storage_key(self._contract.name, key))
        self._meter.charge(VALUE_BYTE * len(value))
        return value

    def set(self, key: bytes, value: bytes) -> None:
        if len(value) > LARGEST_VALUE:
            raise Refused("value_too_large")
        place = storage_key(self._contract.name, key)
        self._meter.charge(WRITE + VALUE_BYTE * len(value))
        self._meter.charge(VALUE_BYTE * len(self._machine.get(place)))
        self._machine.set(place, value)

    def load(self, key: bytes, kind: Any) -> Any:
        value = self.get(key)
        return self._contract.load(kind, value) if value else None

    def store(self, key: bytes, record: Any) -> None:
        self.set(key, self._contract.write(record))

    def load_int(self, key: bytes) -> int:
        value = self.get(key)
        return int(plain(value)) if value else 0

    def store_int(self, key: bytes, value: int) -> None:
        self.set(key, packed(value))

    def delete(self, key: bytes) -> None:
        self.set(key, b"")
