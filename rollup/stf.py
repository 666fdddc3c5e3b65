"""The rollup's state-transition function: one step, the same for sequencer, verifier and contract.

Responsible for what each kind of step does. Total: any step in any state has exactly one outcome, so that
the one thing a sequencer can misstate is a state root. Must not know of batches, L1 or disputes.
"""

from chainkit.codec import U53, Address, Amount, Bytes32, CodecError, Record, decode, encode
from chainkit.execution import (
    InvalidTransaction,
    Receipt,
    Rules,
    apply_transaction,
    begin_block,
    count_supply,
)
from chainkit.hashing import tagged_hash
from chainkit.state import Account, State, WitnessState
from chainkit.transaction import SignedTransaction

MAX_STEP_BYTES = 64 * 1024


class BeginBlock(Record, frozen=True, tag=0):
    """Open L2 block ``height``; ``time`` in ms since 1970. The proposer is the rollup's vault."""

    height: U53
    time: U53


class Deposit(Record, frozen=True, tag=1):
    """Inbox message: credit an L1 deposit."""

    index: U53
    depositor: Address
    to: Address
    amount: Amount


class Forced(Record, frozen=True, tag=2):
    """Inbox message: a transaction that its sender forced through L1."""

    index: U53
    transaction: bytes


class Transact(Record, frozen=True, tag=3):
    """A transaction that the sequencer ordered."""

    transaction: bytes


Step = BeginBlock | Deposit | Forced | Transact


def decode_step(data: bytes) -> Step:
    """Read a step's canonical bytes. Raises `CodecError`."""
    step: Step = decode(Step, data, limit=MAX_STEP_BYTES)  # type: ignore[arg-type]
    return step


def decode_wire(wire: bytes, limit: int) -> SignedTransaction | None:
    """The transaction with these bytes, its signature not checked yet; None if they are none, or over ``limit``."""
    try:
        return SignedTransaction.decode(wire, limit=limit)
    except CodecError:
        return None


def step_hash(step: Step) -> Bytes32:
    """What the contract commits to for this step."""
    return tagged_hash("step", encode(step))


def apply_step(rules: Rules, state: State, step: Step, decoded: SignedTransaction | None = None) -> Receipt:
    """Run one step. Never raises on any step or state content (only `MissingWitness` on a poor witness).

    ``decoded`` saves decoding where the caller has the transaction already.
    """
    receipt = _run_step(rules, state, step, decoded)
    state.end_step()
    return receipt


def _run_step(rules: Rules, state: State, step: Step, decoded: SignedTransaction | None) -> Receipt:
    if isinstance(step, BeginBlock):
        proposer = rules.vault or bytes(32)
        begin_block(rules, state, height=step.height, slot=step.height, time=step.time, proposer=proposer)
        return _receipt(step_hash(step))
    if isinstance(step, Deposit):
        return _apply_deposit(state, step)
    return _apply_transaction(rules, state, step, decoded)


def prove_step(rules: Rules, root: Bytes32, step: Step, witness: bytes) -> Bytes32:
    """The state root after ``step``, computed over a witness of the state with ``root``.

    Raises `chainkit.merkle.ProofError` if the witness is not of that state or lacks what the step touches.
    """
    state = WitnessState(witness, root)
    apply_step(rules, state, step)
    return state.root()


def _apply_deposit(state: State, step: Deposit) -> Receipt:
    account = state.account(step.to)  # L1 has taken deposits only for keys in good order: here nobody asks
    state.set_account(step.to, Account(account.balance + step.amount, account.nonce))
    count_supply(state, step.amount, 0)
    return _receipt(step_hash(step))


def _apply_transaction(
    rules: Rules, state: State, step: Forced | Transact, tx: SignedTransaction | None
) -> Receipt:
    if tx is None:
        tx = decode_wire(step.transaction, rules.fees.max_transaction_bytes)
    if tx is None:  # receipts are hashed: the decoding library's own words must not be in them
        step_id = tagged_hash("undecodable", step.transaction)
        return _receipt(step_id, "undecodable", "not the canonical bytes of a transaction")
    try:
        return apply_transaction(rules, state, tx, forced=isinstance(step, Forced))
    except InvalidTransaction as refusal:
        return _receipt(tx.id, refusal.code, refusal.message)


def _receipt(step_id: Bytes32, code: str = "", message: str = "") -> Receipt:
    return Receipt(step_id, not code, code, message, 0, 0, [])
