"""Native contracts: what a contract is, and all that it may touch.

Responsible for declaring methods, events and storage, and for the context that a running contract sees.
Must not know of blocks, consensus or which contracts exist.

A contract is a stateless class; all it remembers lies in chain state under its own name. A method raises
`Revert` to refuse: then nothing of the call remains but the fee.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from chainkit import gas
from chainkit.codec import (
    MAX_AMOUNT,
    U53,
    Address,
    Bytes32,
    CodecError,
    Name,
    Record,
    decode,
    encode,
)
from chainkit.keys import is_valid_address
from chainkit.state import (
    MAX_VALUE_BYTES,
    Account,
    State,
    contract_address,
    storage_key,
    system_key,
)

if TYPE_CHECKING:
    from chainkit.genesis import Genesis

R = TypeVar("R", bound=Record)
C = TypeVar("C", bound="Contract")

SUPPLY_KEY = system_key("supply")
BLOCK_KEY = system_key("block")


class Revert(Exception):  # noqa: N818 - the field's own term
    """A contract refuses a call. ``code`` is stable and for programs, ``message`` is for people."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message


class NoArgs(Record, frozen=True):
    """The arguments of a method that takes none."""


class Supply(Record, frozen=True):
    """Counters behind promise P2: what was in genesis, minted since and burned since, in gwei.

    Near 2**53 what was both minted and burned is dropped from both; only their difference is for ever exact.
    """

    genesis: U53 = 0
    minted: U53 = 0
    burned: U53 = 0


class BlockEnvironment(Record, frozen=True):
    """What execution knows of the block it is in; ``time`` in ms since 1970, ``base_fee`` in gwei per gas."""

    height: U53
    slot: U53
    time: U53
    proposer: Bytes32
    base_fee: U53
    gas_used: U53


class Event(Record, frozen=True):
    """Something that happened in a contract; ``data`` is the encoded event record called ``name``."""

    contract: Name
    name: str
    data: bytes


@dataclass(frozen=True)
class Method:
    """A declared method: its name, argument record and whether it takes a value."""

    name: str
    args: type[Record]
    payable: bool
    run: Callable[..., None]


def method(
    args: type[Record] = NoArgs, *, payable: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare a contract method: ``def name(self, ctx: Context, args: Args) -> None``."""

    def mark(function: Callable[..., None]) -> Callable[..., None]:
        function.__contract_method__ = (args, payable)  # type: ignore[attr-defined]
        return function

    return mark


class Contract:
    """Base class of native contracts. ``params`` come from genesis and never change."""

    params_type: ClassVar[type[Record]] = NoArgs
    events: ClassVar[tuple[type[Record], ...]] = ()
    methods: ClassVar[Mapping[str, Method]] = {}

    def __init__(self, name: str, params: Record) -> None:
        self.name = name
        self.params = params
        self.address = contract_address(name)
        self.event_types = {event.__name__: event for event in self.events}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        methods = dict(cls.methods)
        for name, function in vars(cls).items():
            declared = getattr(function, "__contract_method__", None)
            if declared is not None:
                methods[name] = Method(name, declared[0], declared[1], function)
        cls.methods = methods

    def genesis(self, ctx: Context, genesis: Genesis) -> None:
        """Write the contract's first state; called once, when genesis is made."""

    def begin_block(self, ctx: Context) -> None:
        """Called before the first transaction of each block (not on a rollup)."""

    def public_state(self, storage: Storage) -> dict[str, Any]:
        """What ``GET /contracts/{name}`` shows, as JSON-able values."""
        return {}


class Storage:
    """A contract's own key -> record storage. With a meter, every access is paid for."""

    def __init__(self, state: State, contract: str, meter: gas.GasMeter | None = None) -> None:
        self._state = state
        self._contract = contract
        self._meter = meter

    def get(self, key: bytes) -> bytes:
        """The bytes at ``key``; ``b""`` if there are none."""
        if self._meter is not None:
            self._meter.charge(gas.READ)
        value = self._state.get(storage_key(self._contract, key))
        if self._meter is not None:
            self._meter.charge(gas.VALUE_BYTE * len(value))
        return value

    def set(self, key: bytes, value: bytes) -> None:
        """Write ``value``; raises `Revert` if it is too large.

        The value before costs as much as if it were read: the witness of a one-step proof must show it.
        """
        if len(value) > MAX_VALUE_BYTES:
            raise Revert("value_too_large", f"a storage value is at most {MAX_VALUE_BYTES} bytes")
        place = storage_key(self._contract, key)
        if self._meter is not None:
            self._meter.charge(gas.WRITE + gas.VALUE_BYTE * len(value))
            self._meter.charge(gas.VALUE_BYTE * len(self._state.get(place)))
        self._state.set(place, value)

    def load(self, key: bytes, kind: type[R]) -> R | None:
        """The record at ``key``, or None."""
        value = self.get(key)
        return decode(kind, value) if value else None

    def store(self, key: bytes, record: Record) -> None:
        self.set(key, encode(record))

    def load_int(self, key: bytes) -> int:
        """The counter at ``key``; 0 if it was never written."""
        value = self.get(key)
        return decode(int, value) if value else 0

    def store_int(self, key: bytes, value: int) -> None:
        self.set(key, encode(value))

    def delete(self, key: bytes) -> None:
        """Leave a tombstone."""
        self.set(key, b"")


@dataclass
class Execution:
    """What one transaction's contract calls share."""

    state: State
    contracts: Mapping[str, Contract]
    env: BlockEnvironment
    chain_id: int
    origin: Address
    tx_id: Bytes32
    meter: gas.GasMeter
    events: list[Event] = field(default_factory=list)
    active: list[str] = field(default_factory=list)
    minted: int = 0
    burned: int = 0


class Context:
    """All that a running contract may see and do."""

    def __init__(self, execution: Execution, contract: Contract, sender: Address, value: int) -> None:
        self._execution = execution
        self._contract = contract
        self.sender = sender
        """Who calls: an account, or the address of a calling contract."""
        self.value = value
        """Gwei sent along, already in the contract's balance."""
        self.storage = Storage(execution.state, contract.name, execution.meter)

    @property
    def origin(self) -> Address:
        """The account that signed the transaction."""
        return self._execution.origin

    @property
    def tx_id(self) -> Bytes32:
        """The id of the transaction that is being executed."""
        return self._execution.tx_id

    @property
    def height(self) -> int:
        return self._execution.env.height

    @property
    def slot(self) -> int:
        return self._execution.env.slot

    @property
    def time(self) -> int:
        """Block time in ms since 1970."""
        return self._execution.env.time

    @property
    def proposer(self) -> Address:
        return self._execution.env.proposer

    @property
    def chain_id(self) -> int:
        return self._execution.chain_id

    @property
    def address(self) -> Address:
        """The contract's own account."""
        return self._contract.address

    @property
    def gas_left(self) -> int:
        """What `charge` can still take: work of unknown size is done no further than this pays for."""
        return self._execution.meter.left

    def charge(self, amount: int) -> None:
        """Pay gas for work that is not a storage access."""
        self._execution.meter.charge(amount)

    def balance(self, address: Address | None = None) -> int:
        """Balance of an account (of the contract itself by default), in gwei."""
        self.charge(gas.READ)
        return self._execution.state.account(address or self.address).balance

    def transfer(self, to: Address, amount: int) -> None:
        """Pay from the contract's balance. Raises `Revert` if it lacks the funds or ``to`` is no account."""
        self.charge(gas.WRITE)
        move(self._execution.state, self.address, to, amount, self._execution.meter)

    def burn(self, amount: int) -> None:
        """Destroy part of the contract's balance; counted in the supply."""
        self.charge(gas.WRITE)
        debit(self._execution.state, self.address, amount)
        self._execution.burned += amount

    def mint(self, to: Address, amount: int) -> None:
        """Create gwei; counted in the supply. Only system contracts call it."""
        self.charge(gas.WRITE)
        credit(self._execution.state, to, amount, self._execution.meter)
        self._execution.minted += amount

    def credit_from_genesis(self, amount: int) -> None:
        """Take into the contract's balance gwei that genesis already counts (stakes); at genesis only."""
        if self._execution.env.height != 0:
            raise TypeError("only genesis may credit without minting")
        _add(self._execution.state, self.address, amount)

    def write_system(self, name: str, record: Record | int) -> None:
        """Write a record (or counter) of the chain itself (system contracts only)."""
        self.charge(gas.WRITE)
        self._execution.state.set(system_key(name), encode(record))

    def delete_system(self, name: str) -> None:
        """Leave a tombstone for a record of the chain itself (system contracts only)."""
        self.charge(gas.WRITE)
        self._execution.state.set(system_key(name), b"")

    def read_system(self, name: str, kind: type[R]) -> R | None:
        self.charge(gas.READ)
        value = self._execution.state.get(system_key(name))
        return decode(kind, value) if value else None

    def emit(self, event: Record) -> None:
        """Record an event in the receipt. Its type must be declared in ``events``."""
        name = type(event).__name__
        if name not in self._contract.event_types:
            raise TypeError(f"{self._contract.name} does not declare event {name}")
        data = encode(event)
        self.charge(gas.EVENT + gas.EVENT_BYTE * len(data))
        self._execution.events.append(Event(self._contract.name, name, data))

    def call(self, contract: str, method_name: str, args: Record, value: int = 0) -> None:
        """Call another contract as this one. Re-entry is refused."""
        run_call(self._execution, self.address, contract, method_name, encode(args), value)


def run_call(
    execution: Execution, sender: Address, contract: str, method_name: str, args: bytes, value: int
) -> None:
    """Move the value, decode the arguments and run the method. Raises `Revert` or `OutOfGas`."""
    target = execution.contracts.get(contract)
    if target is None:
        known = ", ".join(sorted(execution.contracts)) or "none"
        raise Revert("unknown_contract", f"no contract {contract!r} on this chain; it has {known}")
    declared = target.methods.get(method_name)
    if declared is None:
        known = ", ".join(sorted(target.methods))
        raise Revert("unknown_method", f"{contract} has no method {method_name!r}; it has {known}")
    if contract in execution.active:
        raise Revert("reentrancy", f"{contract} is already running in this transaction")
    if value and not declared.payable:
        raise Revert("not_payable", f"{contract}.{method_name} takes no value")
    execution.meter.charge(gas.CALL)
    try:
        decoded = decode(declared.args, args)
    except CodecError:
        # The message is hashed into the receipt: the decoding library's words must not be in it.
        wanted = declared.args.__name__
        raise Revert("bad_arguments", f"{contract}.{method_name} takes a canonical {wanted}") from None
    if value:
        execution.meter.charge(gas.WRITE)
        debit(execution.state, sender, value)
        _add(execution.state, target.address, value)
    execution.active.append(contract)
    try:
        declared.run(target, Context(execution, target, sender, value), decoded)
    finally:
        execution.active.pop()


def move(state: State, sender: Address, to: Address, amount: int, meter: gas.GasMeter) -> None:
    """Move gwei between accounts, creating the recipient's. Raises `Revert`, `OutOfGas`."""
    debit(state, sender, amount)
    credit(state, to, amount, meter)


def debit(state: State, address: Address, amount: int) -> None:
    account = state.account(address)
    if amount > account.balance:
        raise Revert("insufficient_balance", f"balance is {account.balance} gwei, {amount} needed")
    state.set_account(address, Account(account.balance - amount, account.nonce))


def credit(state: State, to: Address, amount: int, meter: gas.GasMeter) -> None:
    """Add to an account; a new one must be a valid key (docs/PROTOCOL.md, section 3)."""
    if not state.has_account(to):
        meter.charge(gas.NEW_ACCOUNT)
        if not is_valid_address(to):
            raise Revert("invalid_address", "the recipient is not a valid Ed25519 public key")
    _add(state, to, amount)


def _add(state: State, address: Address, amount: int) -> None:
    account = state.account(address)
    if account.balance + amount > MAX_AMOUNT:
        raise Revert("amount_overflow", "a balance must stay below 2**53 gwei")
    state.set_account(address, Account(account.balance + amount, account.nonce))
