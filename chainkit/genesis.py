"""Genesis: the one file from which a chain starts, and the state that follows from it.

Responsible for reading and validating genesis as a whole, naming the bad value, and for its hash, which is
the parent of block 1. Must not know which contracts exist: they are named in the file and imported.
"""

from importlib import import_module
from typing import Any, Final
from weakref import WeakValueDictionary

from chainkit import gas
from chainkit.block import Validator
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
    from_json,
    parse_json,
    to_json,
)
from chainkit.contract import BLOCK_KEY, SUPPLY_KEY, BlockEnvironment, Contract, Revert, Supply
from chainkit.execution import FeeParameters, Rules, SupplyViolation, check_supply, system_context
from chainkit.hashing import tagged_hash
from chainkit.keys import is_valid_address, well_known_name
from chainkit.merkle import Tree
from chainkit.state import Account, State, account_key, contract_address

MAX_GENESIS_BYTES: Final = 256 * 1024 * 1024
"""The encoding of a genesis: some 45 bytes an account. (A genesis as JSON has at most 4 MiB.)"""

_checked: set[Bytes32] = set()
_trees: WeakValueDictionary[Bytes32, Tree] = WeakValueDictionary()
"""By hash: what is sound, and the states that are in use. A million accounts are not checked, nor their tree built,
once by the contract that holds a rollup's genesis and again by the node that runs it."""


class GenesisError(ValueError):
    """The genesis is not usable; the message names the value."""


class GenesisAccount(Record, frozen=True):
    """An account that exists from the start; ``name`` is for people."""

    address: Address
    balance: U53
    name: str = ""


class GenesisContract(Record, frozen=True):
    """A contract: ``code`` is ``package.module:Class``, ``params`` its canonical parameter record."""

    name: Name
    code: str
    params: bytes
    balance: U53 = 0


class Genesis(Record, frozen=True):
    """Everything that a chain starts from. ``time`` and ``slot_ms`` in ms; balances and stakes in gwei.

    ``vault`` is the account that takes all fees of a rollup, or None on a chain that burns them.
    ``devnet`` permits the well-known keys.
    """

    chain_id: U53
    name: str
    time: U53
    slot_ms: U53
    era_slots: U53
    devnet: bool
    fees: FeeParameters
    accounts: list[GenesisAccount]
    validators: list[Validator]
    contracts: list[GenesisContract]
    vault: Address | None = None

    def hash(self) -> Bytes32:
        """The parent of block 1, and what tells one chain from another."""
        return tagged_hash("genesis", encode(self))

    @property
    def total_supply(self) -> int:
        parts = [a.balance for a in self.accounts] + [v.stake for v in self.validators]
        return sum(parts) + sum(c.balance for c in self.contracts)


def load_contract(spec: GenesisContract) -> Contract:
    """Import and build a contract. Raises `GenesisError`."""
    module_name, _, class_name = spec.code.partition(":")
    try:
        kind = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError, TypeError):
        raise GenesisError(f"contracts.{spec.name}.code: cannot import {spec.code!r}") from None
    if not (isinstance(kind, type) and issubclass(kind, Contract)):
        raise GenesisError(f"contracts.{spec.name}.code: {spec.code!r} is not a contract")
    try:
        return kind(spec.name, decode(kind.params_type, spec.params, limit=MAX_GENESIS_BYTES))
    except CodecError as error:
        raise GenesisError(f"contracts.{spec.name}.params: {error}") from None


def make_rules(genesis: Genesis) -> Rules:
    """The execution rules of the chain."""
    contracts = {spec.name: load_contract(spec) for spec in genesis.contracts}
    return Rules(genesis.chain_id, genesis.fees, contracts, genesis.vault)


def check_genesis(genesis: Genesis) -> None:
    """Validate genesis as a whole. Raises `GenesisError` naming the value."""
    hash_ = genesis.hash()
    if hash_ not in _checked:
        _check(genesis)
        _checked.add(hash_)


def trust_genesis(genesis_hash: Bytes32) -> None:
    """The genesis with this hash passed `check_genesis` in an earlier process."""
    _checked.add(genesis_hash)


def _check(genesis: Genesis) -> None:
    _require(genesis.chain_id > 0, "chain_id must be positive")
    _require(genesis.slot_ms > 0, "slot_ms must be positive")
    _require(genesis.era_slots > 1, "era_slots must be at least 2")
    _require(genesis.fees.min_base_fee > 0, "fees.min_base_fee must be positive")
    _require(
        genesis.fees.initial_base_fee >= genesis.fees.min_base_fee,
        "fees.initial_base_fee is under fees.min_base_fee",
    )
    _require(
        0 < genesis.fees.max_transaction_gas <= genesis.fees.block_gas_limit,
        "fees.max_transaction_gas must be positive and at most fees.block_gas_limit",
    )
    _require(
        genesis.fees.max_transaction_gas >= gas.TRANSACTION + gas.SIGNATURE,
        f"fees.max_transaction_gas must be at least {gas.TRANSACTION + gas.SIGNATURE}",
    )
    _check_keys("accounts", [a.address for a in genesis.accounts], genesis.devnet)
    _check_keys("validators", [v.address for v in genesis.validators], genesis.devnet)
    for validator in genesis.validators:
        _require(validator.stake > 0, "validators: every stake must be positive")
    names = [c.name for c in genesis.contracts]
    _require(names == sorted(set(names)), "contracts must be sorted by name, each once")
    if genesis.vault is not None:
        _require(is_valid_address(genesis.vault), "vault is not a valid public key")
        _check_stranger("vault", genesis.vault, genesis.devnet)
    _require(genesis.total_supply <= MAX_AMOUNT, "the total supply must stay below 2**53 gwei")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise GenesisError(message)


def _check_keys(where: str, addresses: list[Address], devnet: bool) -> None:
    _require(addresses == sorted(set(addresses)), f"{where} must be sorted by address, each once")
    for address in addresses:
        _require(is_valid_address(address), f"{where}: 0x{address.hex()} is not a valid public key")
        _check_stranger(where, address, devnet)


def _check_stranger(where: str, address: Address, devnet: bool) -> None:
    name = None if devnet else well_known_name(address)
    _require(
        name is None,
        f"{where}: 0x{address.hex()} is the well-known key of {name!r}; only a devnet may use it",
    )


def genesis_state(genesis: Genesis) -> tuple[Rules, Tree]:
    """The rules and the state at height 0. Raises `GenesisError`."""
    check_genesis(genesis)
    rules, hash_ = make_rules(genesis), genesis.hash()
    tree = _trees.get(hash_)
    if tree is None:
        tree = _trees[hash_] = _first_state(genesis, rules)
    return rules, tree


def _first_state(genesis: Genesis, rules: Rules) -> Tree:
    accounts = {account_key(a.address): encode(Account(a.balance, 0)) for a in genesis.accounts}
    state = State(Tree().update(accounts))
    del accounts
    env = BlockEnvironment(0, 0, genesis.time, bytes(32), genesis.fees.initial_base_fee, 0)
    state.set(BLOCK_KEY, encode(env))
    state.set(SUPPLY_KEY, encode(Supply(genesis=genesis.total_supply)))
    for spec in genesis.contracts:
        state.set_account(contract_address(spec.name), Account(spec.balance, 0))
    for name, contract in rules.contracts.items():
        try:
            contract.genesis(system_context(rules, state, contract, env), genesis)
        except (Revert, CodecError, ValueError) as error:
            raise GenesisError(f"contracts.{name}: {error}") from None
    try:
        check_supply(state, 0, genesis.total_supply - sum(account.balance for account in genesis.accounts))
    except SupplyViolation as error:
        raise GenesisError(f"total supply: {error}; the stakes of validators need a contract") from None
    return state.commit()


def genesis_to_json(genesis: Genesis) -> dict[str, Any]:
    """The JSON file, contract parameters as readable objects."""
    value: dict[str, Any] = to_json(genesis)
    for spec, shown in zip(genesis.contracts, value["contracts"], strict=True):
        shown["params"] = to_json(load_contract(spec).params)
    return value


def genesis_from_json(data: bytes | str) -> Genesis:
    """Read a genesis file and validate it as a whole. Raises `GenesisError`."""
    try:
        value = parse_json(data)
        _params_to_bytes(value)
        genesis = from_json(Genesis, value)
    except CodecError as error:
        raise GenesisError(str(error)) from None
    check_genesis(genesis)
    make_rules(genesis)
    return genesis


def genesis_from_bytes(data: bytes) -> Genesis:
    """Read a genesis file: JSON, or the bytes of the record itself (a million accounts are a second's work then).

    Raises `GenesisError`. The accounts of the latter are checked when a chain is made of it.
    """
    if data[:1] not in _RECORD:
        return genesis_from_json(data)
    try:
        return decode(Genesis, data, limit=MAX_GENESIS_BYTES)
    except CodecError as error:
        raise GenesisError(str(error)) from None


_RECORD: Final = (b"\x9b",)
"""What the encoding of a `Genesis`, an array of eleven, begins with, and no JSON text does."""


def _params_to_bytes(value: Any) -> None:
    contracts = value.get("contracts") if isinstance(value, dict) else None
    for item in contracts if isinstance(contracts, list) else []:
        if not isinstance(item, dict) or not isinstance(item.get("params"), dict):
            raise CodecError("contracts: each needs an object 'params'")
        code, name = str(item.get("code", "")), str(item.get("name", ""))
        module_name, _, class_name = code.partition(":")
        try:
            params_type = getattr(import_module(module_name), class_name).params_type
        except (ImportError, AttributeError, ValueError, TypeError):
            raise CodecError(f"contracts.{name}.code: cannot import {code!r}") from None
        item["params"] = "0x" + encode(from_json(params_type, item["params"])).hex()
