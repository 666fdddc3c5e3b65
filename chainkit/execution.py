"""Execution: what a block's beginning and each transaction do to the state.

Responsible for validity, fees, gas, receipts and the supply check; the same code on L1, on L2 and inside
the one-step proof. Must not know who ordered the transactions or how blocks are agreed on.

Source of the fee rule: EIP-1559. Base fees are burned on L1 (the tip is the proposer's); on a rollup
everything goes to the vault account, so that the bridge's books are exact (promise P1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from chainkit import gas
from chainkit.codec import MAX_AMOUNT, U53, Address, Bytes32, Record, decode, encode
from chainkit.contract import (
    BLOCK_KEY,
    SUPPLY_KEY,
    BlockEnvironment,
    Context,
    Contract,
    Event,
    Execution,
    Revert,
    Supply,
    _add,
    move,
    run_call,
)
from chainkit.merkle_list import list_root
from chainkit.state import Account, State, contract_address
from chainkit.transaction import SignedTransaction, Transfer


class FeeParameters(Record, frozen=True):
    """Gas and fees of a chain. Fees are in gwei per gas, sizes in bytes.

    ``gas_per_byte`` is the charge for the bytes of a transaction; on a rollup it is what pays for L1
    bytes (Arbitrum charges them in L2 gas the same way).
    """

    initial_base_fee: U53 = 4
    min_base_fee: U53 = 1
    block_gas_limit: U53 = 60_000_000
    max_transaction_gas: U53 = 30_000_000
    max_transaction_bytes: U53 = 256 * 1024
    gas_per_byte: U53 = 8


BASE_FEE_CHANGE_DENOMINATOR = 8
ELASTICITY = 2


@dataclass(frozen=True)
class Rules:
    """What execution needs to know of a chain. ``vault`` None: base fee burned, tip to the proposer."""

    chain_id: int
    fees: FeeParameters
    contracts: Mapping[str, Contract]
    vault: Address | None = None
    reserved: frozenset[Address] = field(init=False)

    def __post_init__(self) -> None:
        reserved = frozenset(contract_address(name) for name in self.contracts)
        object.__setattr__(self, "reserved", reserved)


class Receipt(Record, frozen=True):
    """What became of a transaction. ``code`` is empty on success; ``fee`` in gwei."""

    tx_id: Bytes32
    success: bool
    code: str
    message: str
    gas_used: U53
    fee: U53
    events: list[Event]


NO_EVENTS: Final[list[Event]] = []
"""The events of all receipts that have none: nobody appends to a receipt's."""


class InvalidTransaction(Exception):  # noqa: N818 - reads as the reason it is
    """The transaction may not stand in a block here and now; nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SupplyViolation(Exception):  # noqa: N818
    """A transaction created or destroyed money beyond what it declared: an error in our own code."""


def next_base_fee(fees: FeeParameters, base_fee: int, gas_used: int) -> int:
    """The base fee after a block (EIP-1559), in gwei per gas, never under the floor."""
    target = fees.block_gas_limit // ELASTICITY
    if gas_used > target:
        delta = base_fee * (gas_used - target) // target // BASE_FEE_CHANGE_DENOMINATOR
        return base_fee + max(delta, 1)
    delta = base_fee * (target - gas_used) // target // BASE_FEE_CHANGE_DENOMINATOR
    return max(base_fee - delta, fees.min_base_fee)


_last_environment: tuple[bytes, BlockEnvironment] | None = None


def environment(state: State) -> BlockEnvironment:
    """The environment of the current block (the genesis one before the first)."""
    value = state.get(BLOCK_KEY)
    last = _last_environment  # what the transaction before wrote is, nearly always, what is read next
    return last[1] if last is not None and last[0] is value else decode(BlockEnvironment, value)


def count_gas(state: State, env: BlockEnvironment, gas_used: int) -> None:
    """Add the gas of a transaction, or of several, to the block's."""
    global _last_environment
    counted = BlockEnvironment(
        env.height, env.slot, env.time, env.proposer, env.base_fee, env.gas_used + gas_used
    )
    value = encode(counted)
    state.set(BLOCK_KEY, value)
    _last_environment = value, counted


def supply(state: State) -> Supply:
    """The chain's supply counters."""
    value = state.get(SUPPLY_KEY)
    return decode(Supply, value) if value else Supply()


def _total_supply(state: State) -> int:
    books = supply(state)
    return books.genesis + books.minted - books.burned


def begin_block(
    rules: Rules,
    state: State,
    *,
    height: int,
    slot: int,
    time: int,
    proposer: Address,
    events: list[Event] | None = None,
) -> BlockEnvironment:
    """Open a block: move the base fee, reset the gas count, run the contracts' hooks in name order.

    What the hooks emit is appended to ``events``.
    """
    previous = environment(state)
    env = BlockEnvironment(
        height=height,
        slot=slot,
        time=time,
        proposer=proposer,
        base_fee=next_base_fee(rules.fees, previous.base_fee, previous.gas_used),
        gas_used=0,
    )
    state.set(BLOCK_KEY, encode(env))
    for name in sorted(rules.contracts):
        contract = rules.contracts[name]
        if type(contract).begin_block is not Contract.begin_block:
            emitted = _run_hook(rules, state, contract, env)
            if events is not None:
                events.extend(emitted)
    return env


def _run_hook(rules: Rules, state: State, contract: Contract, env: BlockEnvironment) -> list[Event]:
    """Run one contract's hook; its books are kept like those of a transaction (promise P2)."""
    execution = _system_execution(rules, state, contract, env)
    start = state.checkpoint()
    contract.begin_block(Context(execution, contract, contract.address, 0))
    count_supply(state, execution.minted, execution.burned)
    check_supply(state, start, execution.minted - execution.burned)
    return execution.events


def system_context(rules: Rules, state: State, contract: Contract, env: BlockEnvironment) -> Context:
    """A context for work that the chain itself asks of a contract at genesis: unmetered."""
    return Context(_system_execution(rules, state, contract, env), contract, contract.address, 0)


def _system_execution(rules: Rules, state: State, contract: Contract, env: BlockEnvironment) -> Execution:
    return Execution(
        state=state,
        contracts=rules.contracts,
        env=env,
        chain_id=rules.chain_id,
        origin=contract.address,
        tx_id=bytes(32),
        meter=gas.GasMeter(MAX_AMOUNT),
        active=[contract.name],
    )


def intrinsic_gas(rules: Rules, tx: SignedTransaction) -> int:
    """Gas that a transaction costs before its action runs."""
    return gas.TRANSACTION + gas.SIGNATURE + rules.fees.gas_per_byte * len(tx.wire)


def check_stateless(rules: Rules, tx: SignedTransaction) -> None:
    """The checks that need no state, signature included. Raises `InvalidTransaction`.

    What has passed them once, in this process and by these very rules, passes again: neither can change.
    """
    if tx.passed is rules:
        return
    body, fees = tx.body, rules.fees
    if body.chain_id != rules.chain_id:
        raise InvalidTransaction(
            "wrong_chain", f"signed for chain {body.chain_id}; this is chain {rules.chain_id}"
        )
    if len(tx.wire) > fees.max_transaction_bytes:
        raise InvalidTransaction("transaction_too_large", f"at most {fees.max_transaction_bytes} bytes")
    if body.gas_limit > fees.max_transaction_gas:
        raise InvalidTransaction(
            "gas_limit_too_high", f"a transaction's gas limit is at most {fees.max_transaction_gas}"
        )
    needed = intrinsic_gas(rules, tx)
    if body.gas_limit < needed:
        raise InvalidTransaction("gas_limit_too_low", f"gas limit must be at least {needed}")
    if body.tip_per_gas > body.max_fee_per_gas:
        raise InvalidTransaction("tip_above_max_fee", "tip_per_gas exceeds max_fee_per_gas")
    if body.max_fee_per_gas < fees.min_base_fee:
        raise InvalidTransaction("fee_too_low", f"max_fee_per_gas is under the floor of {fees.min_base_fee}")
    if not tx.signature_valid():
        raise InvalidTransaction("bad_signature", "the signature is not the sender's")
    tx.passed = rules


def check_transaction(
    rules: Rules,
    state: State,
    env: BlockEnvironment,
    tx: SignedTransaction,
    *,
    forced: bool = False,
) -> Account:
    """Whether ``tx`` may run now; returns the sender's account. Raises `InvalidTransaction`.

    A ``forced`` transaction does not compete for the block's gas: a sequencer must not be able to
    fail it by filling the block (promise P16).
    """
    check_stateless(rules, tx)
    body = tx.body
    sender = state.account(body.sender)
    if body.nonce != sender.nonce:
        which = "stale_nonce" if body.nonce < sender.nonce else "nonce_gap"
        raise InvalidTransaction(which, f"nonce {body.nonce}; the account's next is {sender.nonce}")
    if body.max_fee_per_gas < env.base_fee:
        raise InvalidTransaction(
            "fee_too_low",
            f"max_fee_per_gas {body.max_fee_per_gas} is under the base fee {env.base_fee}",
        )
    needed = body.gas_limit * body.max_fee_per_gas + tx.value
    if needed > sender.balance:
        raise InvalidTransaction(
            "insufficient_balance", f"needs up to {needed} gwei, the account has {sender.balance}"
        )
    if not forced and env.gas_used + body.gas_limit > rules.fees.block_gas_limit:
        raise InvalidTransaction("block_full", "the block has too little gas left")
    return sender


def apply_transaction(rules: Rules, state: State, tx: SignedTransaction, *, forced: bool = False) -> Receipt:
    """Run one transaction. Raises `InvalidTransaction` (nothing changed) or returns its receipt."""
    env = environment(state)
    sender = check_transaction(rules, state, env, tx, forced=forced)
    return _plain_transfer(rules, state, env, sender, tx) or _run_transaction(rules, state, env, sender, tx)


def _plain_transfer(
    rules: Rules, state: State, env: BlockEnvironment, sender: Account, tx: SignedTransaction
) -> Receipt | None:
    """Outcome of a checked transfer that cannot fail, or None if it is not one: then nothing was changed.

    Nearly all transactions are a transfer between two existing accounts, neither of which takes the fee. For
    these the outcome of `_run_transaction` is known in advance: each account is read and written once, and
    nothing is journaled to be undone. A test holds the two against each other.
    """
    body, action = tx.body, tx.body.action
    if not isinstance(action, Transfer) or action.to in rules.reserved:
        return None
    payee = env.proposer if rules.vault is None else rules.vault
    gas_used = intrinsic_gas(rules, tx) + gas.WRITE
    if gas_used > body.gas_limit or body.sender in (action.to, payee) or action.to == payee:
        return None
    if not state.has_account(action.to):
        return None
    to, paid = state.account(action.to), state.account(payee)
    fee = gas_used * min(body.max_fee_per_gas, env.base_fee + body.tip_per_gas)
    burned = 0 if rules.vault is not None else gas_used * env.base_fee
    if max(to.balance + action.amount, paid.balance + fee - burned) > MAX_AMOUNT:
        return None

    sender_after = Account(sender.balance - action.amount - fee, sender.nonce + 1)
    to_after = Account(to.balance + action.amount, to.nonce)
    paid_after = Account(paid.balance + fee - burned, paid.nonce)
    before = sender.balance + to.balance + paid.balance
    if sender_after.balance + to_after.balance + paid_after.balance != before - burned:
        raise SupplyViolation("a transfer created or destroyed money")
    state.set_account(body.sender, sender_after)
    state.set_account(action.to, to_after)
    if fee > burned:
        state.set_account(payee, paid_after)
    count_supply(state, 0, burned)
    count_gas(state, env, gas_used)
    return Receipt(tx.id, True, "", "", gas_used, fee, NO_EVENTS)


def _run_transaction(
    rules: Rules, state: State, env: BlockEnvironment, sender: Account, tx: SignedTransaction
) -> Receipt:
    """Run a checked transaction, whatever comes of it."""
    body = tx.body
    price = min(body.max_fee_per_gas, env.base_fee + body.tip_per_gas)
    start = state.checkpoint()
    reserve = body.gas_limit * price
    state.set_account(body.sender, Account(sender.balance - reserve, sender.nonce + 1))

    execution = Execution(
        state=state,
        contracts=rules.contracts,
        env=env,
        chain_id=rules.chain_id,
        origin=body.sender,
        tx_id=tx.id,
        meter=gas.GasMeter(body.gas_limit),
    )
    code, message = _run_action(rules, execution, tx)
    gas_used = execution.meter.used
    fee = gas_used * price

    _add(state, body.sender, reserve - fee)
    burned = execution.burned
    if rules.vault is not None:
        _add(state, rules.vault, fee)
    else:
        base = gas_used * env.base_fee
        if fee > base:
            _add(state, env.proposer, fee - base)
        burned += base
    count_supply(state, execution.minted, burned)
    count_gas(state, env, gas_used)
    check_supply(state, start, execution.minted - burned)
    return Receipt(tx.id, not code, code, message, gas_used, fee, execution.events)


def _run_action(rules: Rules, execution: Execution, tx: SignedTransaction) -> tuple[str, str]:
    """Run the action; on refusal undo it. Returns (code, message), both empty on success."""
    state, body, action = execution.state, tx.body, tx.body.action
    mark = state.checkpoint()
    try:
        execution.meter.charge(intrinsic_gas(rules, tx))
        if isinstance(action, Transfer):
            if action.to in rules.reserved:
                raise Revert("invalid_recipient", "a contract is paid by a call, not by a transfer")
            execution.meter.charge(gas.WRITE)
            move(state, body.sender, action.to, action.amount, execution.meter)
        else:
            run_call(execution, body.sender, action.contract, action.method, action.args, action.value)
        check_supply(state, mark, execution.minted - execution.burned)
        if execution.minted and _total_supply(state) + execution.minted - execution.burned > MAX_AMOUNT:
            raise Revert("supply_overflow", "the total supply must stay below 2**53 gwei")
    except (Revert, gas.OutOfGas) as refusal:
        state.revert(mark)
        execution.events.clear()
        execution.minted = execution.burned = 0
        code = refusal.code if isinstance(refusal, Revert) else "out_of_gas"
        return code, str(refusal)
    return "", ""


def count_supply(state: State, minted: int, burned: int) -> None:
    """Count what was minted and burned. Raises `SupplyViolation` if the supply would reach 2**53 gwei.

    Counters that would get there themselves drop what cancels out: money that comes and goes for ever
    (deposits and withdrawals of a rollup) must not stop the chain. Their difference stays exact.
    """
    if not (minted or burned):
        return
    old = supply(state)
    minted, burned = old.minted + minted, old.burned + burned
    if max(minted, burned) > MAX_AMOUNT:
        both = min(minted, burned)
        minted, burned = minted - both, burned - both
    if not 0 <= old.genesis + minted - burned <= MAX_AMOUNT:
        raise SupplyViolation("the total supply must stay below 2**53 gwei")
    state.set(SUPPLY_KEY, encode(Supply(old.genesis, minted, burned)))


def check_supply(state: State, mark: int, created: int) -> None:
    """Balances moved, none appeared or vanished beyond ``created`` (Optimism's 2022 SELFDESTRUCT bug).

    Raises `SupplyViolation`.
    """
    delta = 0
    for key, old in state.changed_since(mark).items():
        if key[:1] == b"a":
            new = state.get(key)
            delta += decode(Account, new).balance if new else 0
            delta -= decode(Account, old).balance if old else 0
    if delta != created:
        raise SupplyViolation(f"balances changed by {delta} gwei, {created} declared")


def receipts_root(receipts: Sequence[Receipt]) -> Bytes32:
    """The list root of the encoded receipts."""
    return list_root([encode(receipt) for receipt in receipts])
