"""A run of plain transfers: each account is read once and written once, however many of them it takes part in.

Responsible for the outcome of transfers that cannot fail, one after the other, between existing accounts neither of
which takes the fees, on a chain whose fees all go to a vault. It is that of `chainkit.execution.apply_transaction`,
one by one, with `State.end_step` after each; a test holds the two against each other. Whatever is anything else is
left to it, after `Transfers.flush`. Must not know of blocks, nor who ordered the transactions.

What makes it fast: an account is four integers while it is open, found by its address; whether it may be open at all
is asked once, and the vault is known by being that very object. Nothing is made for a transfer but its receipt, and
nothing is called for it: as many as there are run in one loop.
"""

from collections.abc import Iterable
from typing import Final

from chainkit import gas
from chainkit.codec import MAX_AMOUNT, Address, encode
from chainkit.contract import BlockEnvironment
from chainkit.execution import (
    NO_EVENTS,
    InvalidTransaction,
    Receipt,
    Rules,
    SupplyViolation,
    check_stateless,
    count_gas,
    environment,
)
from chainkit.state import Account, State, account_key, decode_account
from chainkit.transaction import SignedTransaction, Transfer

_GAS_OF_EACH: Final = gas.TRANSACTION + gas.SIGNATURE + gas.WRITE
_Open = list[int]
"""An account in the run: its balance and nonce now, and both as they are in the state."""


class Transfers:
    """The run on a state. Between an `apply` that took effect and the next `flush` the state is behind."""

    def __init__(self, rules: Rules, state: State) -> None:
        self._rules = rules
        self._state = state
        self._accounts: dict[Address, _Open] = {}
        self._opened: list[tuple[bytes, _Open]] = []  # the same, with their state keys
        self._paid: _Open = []  # the vault's
        self._env: BlockEnvironment | None = None
        self._gas = 0  # used by the block so far

    def apply(self, transactions: Iterable[SignedTransaction | None]) -> list[Receipt]:
        """Run them, from the first to the one before the first that is no plain transfer which may run here. Their
        receipts; of that one nothing was changed, and if ``transactions`` is an iterator, it is taken from it."""
        env = self._env or self._begin()
        if env is None:
            return []
        rules, accounts, paid, used = self._rules, self._accounts, self._paid, self._gas
        fees, base_fee = rules.fees, env.base_fee
        block_gas_limit, gas_per_byte = fees.block_gas_limit, fees.gas_per_byte
        receipts: list[Receipt] = []
        for tx in transactions:
            if tx is None or (tx.passed is not rules and not _is_well_formed(rules, tx)):
                break
            body = tx.body
            action = body.action
            if not isinstance(action, Transfer):
                break
            sender = accounts.get(body.sender) or self._open(body.sender)
            recipient = accounts.get(action.to) or self._open(action.to)
            gas_limit, max_fee, amount = body.gas_limit, body.max_fee_per_gas, action.amount
            gas_used = _GAS_OF_EACH + gas_per_byte * len(tx.wire)
            if (
                sender is None
                or recipient is None
                or sender is recipient
                or sender is paid
                or recipient is paid
                or body.nonce != sender[1]
                or max_fee < base_fee
                or gas_limit * max_fee + amount > sender[0]
                or used + gas_limit > block_gas_limit
                or gas_used > gas_limit
            ):
                break
            price = base_fee + body.tip_per_gas
            fee = gas_used * (price if price < max_fee else max_fee)
            got, earned = recipient[0] + amount, paid[0] + fee
            if got > MAX_AMOUNT or earned > MAX_AMOUNT:
                break
            sender[0] -= amount + fee
            sender[1] += 1
            recipient[0], paid[0] = got, earned
            used += gas_used
            receipts.append(Receipt(tx.id, True, "", "", gas_used, fee, NO_EVENTS))
        self._gas = used
        return receipts

    def flush(self) -> None:
        """Write what the run changed to the state, and end its step. Raises `SupplyViolation`."""
        env = self._env
        if env is None:
            return
        created = 0
        written: dict[bytes, bytes] = {}
        for key, (balance, nonce, balance_before, nonce_before) in self._opened:
            if balance != balance_before or nonce != nonce_before:
                created += balance - balance_before
                written[key] = encode(Account(balance, nonce))
        if created:
            raise SupplyViolation(f"a run of transfers changed balances by {created} gwei")
        self._state.write_step(written)
        count_gas(self._state, env, self._gas - env.gas_used)
        self._state.end_step()
        self._accounts.clear()
        self._opened.clear()
        self._env = None

    def _begin(self) -> BlockEnvironment | None:
        """None on a chain without a vault."""
        vault = self._rules.vault
        if vault is None:
            return None
        self._env = env = environment(self._state)
        self._gas = env.gas_used
        key = account_key(vault)
        self._paid = self._add(vault, key, self._state.get(key))
        return env

    def _open(self, address: Address) -> _Open | None:
        """An account that may take part; None if there is none, or it is a contract's."""
        key = account_key(address)
        value = self._state.get(key)
        if not value or address in self._rules.reserved:
            return None
        return self._add(address, key, value)

    def _add(self, address: Address, key: bytes, value: bytes) -> _Open:
        account = decode_account(value)
        balance, nonce = account.balance, account.nonce
        opened = self._accounts[address] = [balance, nonce, balance, nonce]
        self._opened.append((key, opened))
        return opened


def _is_well_formed(rules: Rules, tx: SignedTransaction) -> bool:
    try:
        check_stateless(rules, tx)
    except InvalidTransaction:
        return False
    return True
