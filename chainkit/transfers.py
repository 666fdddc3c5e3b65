"""A run of plain transfers: each account is read once and written once, however many of them it takes part in.

Responsible for the outcome of transfers that cannot fail, one after the other, between existing accounts neither of
which takes the fees, on a chain whose fees all go to a vault. It is that of `chainkit.execution.apply_transaction`,
one by one, with `State.end_step` after each; a test holds the two against each other. Whatever is anything else is
left to it, after `Transfers.flush`. Must not know of blocks, nor who ordered the transactions.
"""

from chainkit import gas
from chainkit.codec import MAX_AMOUNT, Address
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
from chainkit.state import Account, State, account_key, decode_account, encode_account
from chainkit.transaction import SignedTransaction, Transfer

_Open = list[int]
"""An account in the run: its balance and nonce now, and both as they are in the state."""


class Transfers:
    """The run on a state. Between an `apply` that took effect and the next `flush` the state is behind."""

    def __init__(self, rules: Rules, state: State) -> None:
        self._rules = rules
        self._state = state
        self._accounts: dict[Address, _Open] = {}
        self._env: BlockEnvironment | None = None
        self._gas = 0  # used by the block so far

    def apply(self, tx: SignedTransaction) -> Receipt | None:
        """Run a transaction if it is a plain transfer that may run here; else None, and nothing was changed."""
        rules, body, action = self._rules, tx.body, tx.body.action
        vault = rules.vault
        if not isinstance(action, Transfer) or vault is None or not _is_well_formed(rules, tx):
            return None
        payer, to = body.sender, action.to
        if payer == to or vault in (payer, to) or to in rules.reserved:
            return None
        env = self._env or self._begin(vault)
        sender = self._accounts.get(payer) or self._read(payer)
        recipient = self._accounts.get(to) or self._read(to)
        gas_limit, max_fee, amount = body.gas_limit, body.max_fee_per_gas, action.amount
        gas_used = gas.TRANSACTION + gas.SIGNATURE + rules.fees.gas_per_byte * len(tx.wire) + gas.WRITE
        if (
            sender is None
            or recipient is None
            or body.nonce != sender[1]
            or max_fee < env.base_fee
            or gas_limit * max_fee + amount > sender[0]
            or self._gas + gas_limit > rules.fees.block_gas_limit
            or gas_used > gas_limit
        ):
            return None
        paid = self._accounts[vault]
        fee = gas_used * min(max_fee, env.base_fee + body.tip_per_gas)
        left, got, earned = sender[0] - amount - fee, recipient[0] + amount, paid[0] + fee
        if got > MAX_AMOUNT or earned > MAX_AMOUNT:
            return None
        if left + got + earned != sender[0] + recipient[0] + paid[0]:
            raise SupplyViolation("a transfer created or destroyed money")
        sender[0], recipient[0], paid[0] = left, got, earned
        sender[1] += 1
        self._gas += gas_used
        return Receipt(tx.id, True, "", "", gas_used, fee, NO_EVENTS)

    def flush(self) -> None:
        """Write what the run changed to the state, and end its step. Raises `SupplyViolation`."""
        env = self._env
        if env is None:
            return
        created = 0
        written: dict[bytes, bytes] = {}
        for address, (balance, nonce, balance_before, nonce_before) in self._accounts.items():
            if balance != balance_before or nonce != nonce_before:
                created += balance - balance_before
                written[account_key(address)] = encode_account(Account(balance, nonce))
        if created:
            raise SupplyViolation(f"a run of transfers changed balances by {created} gwei")
        self._state.write_step(written)
        count_gas(self._state, env, self._gas - env.gas_used)
        self._state.end_step()
        self._accounts.clear()
        self._env = None

    def _begin(self, vault: Address) -> BlockEnvironment:
        self._env = env = environment(self._state)
        self._gas = env.gas_used
        if self._read(vault) is None:
            self._accounts[vault] = [0, 0, 0, 0]
        return env

    def _read(self, address: Address) -> _Open | None:
        """An account as it is in the state; None if there is none."""
        value = self._state.get(account_key(address))
        if not value:
            return None
        account = decode_account(value)
        opened = [account.balance, account.nonce, account.balance, account.nonce]
        self._accounts[address] = opened
        return opened


def _is_well_formed(rules: Rules, tx: SignedTransaction) -> bool:
    if tx.passed is not rules:
        try:
            check_stateless(rules, tx)
        except InvalidTransaction:
            return False
    return True
