"""Reading what users submit: signed transactions, or on a devnet requests to sign with a well-known key.

Responsible for the bodies of ``POST /transactions``, strictly typed and bounded, and for filling in nonce,
gas and fees of a devnet request. Must not know of HTTP beyond the `Problem` that it raises, nor of the pool.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta
from msgspec import inspect as mi

from chainkit.backend import Head
from chainkit.codec import U53, CodecError, Record, decode, encode, from_json, parse_hex, parse_json
from chainkit.contract import BLOCK_KEY, BlockEnvironment, Method
from chainkit.execution import (
    InvalidTransaction,
    Receipt,
    Rules,
    apply_transaction,
    check_stateless,
    environment,
)
from chainkit.fees import call_gas, suggest_fees, transfer_gas
from chainkit.genesis import Genesis
from chainkit.keys import (
    DEV_ACCOUNTS,
    InvalidDevNameError,
    KeyPair,
    dev_keypair,
    is_dev_address,
    is_valid_address,
)
from chainkit.problems import Problem
from chainkit.state import State
from chainkit.transaction import Body, Call, IsAccount, SignedTransaction, Transfer, no_account

MAX_BATCH = 1000
"""Transactions in one MessagePack body."""
MAX_BATCH_BYTES = 4 * 1024 * 1024

_Wires = Annotated[list[bytes], Meta(min_length=1, max_length=MAX_BATCH)]
_JSON_ENVELOPE = 8 * 1024

_STATUS = {
    "stale_nonce": 409,
    "nonce_gap": 409,
    "nonce_too_high": 409,
    "already_included": 409,
    "underpriced": 409,
    "replacement_underpriced": 409,
    "transaction_too_large": 413,
    "sender_limit": 429,
    "mempool_full": 503,
    "pool_full": 503,
    "l1_behind": 503,
}


class DevRequest(Record, frozen=True):
    """A request to sign for the well-known account ``sender``; None: filled in."""

    sender: KeyPair
    action: Transfer | Call
    nonce: int | None
    gas_limit: int | None
    max_fee_per_gas: int | None
    tip_per_gas: int | None


def malformed(detail: str) -> Problem:
    """400: the bytes are not what they should be."""
    return Problem(400, "malformed_body", "The body is malformed", detail)


def refused(code: str, message: str, **extra: Any) -> Problem:
    """A transaction that may not go in; ``code`` says why."""
    return Problem(_STATUS.get(code, 422), code, "The transaction is refused", message, **extra)


# --- reading --------------------------------------------------------------------------------------------


def read_batch(rules: Rules, body: bytes) -> list[SignedTransaction]:
    """A MessagePack array of wire byte strings. Raises `Problem` if any of them is no transaction."""
    try:
        wires = decode(_Wires, body, limit=MAX_BATCH_BYTES)
    except CodecError as error:
        raise malformed(str(error)) from None
    limit = rules.fees.max_transaction_bytes
    found = SignedTransaction.decode_together(wires, limit=limit) if len(wires) > 1 else None
    return _decode_each(wires, limit) if found is None else found


def _decode_each(wires: Sequence[bytes], limit: int) -> list[SignedTransaction]:
    transactions = []
    for index, wire in enumerate(wires):
        try:
            transactions.append(SignedTransaction.decode(wire, limit=limit))
        except CodecError as error:
            raise malformed(f"transaction {index}: {error}") from None
    return transactions


def read_json(genesis: Genesis, rules: Rules, body: bytes) -> SignedTransaction | DevRequest:
    """A JSON body: a signed transaction, or ``{"from": name, "action": {...}}`` on a devnet."""
    limit = 2 * rules.fees.max_transaction_bytes + _JSON_ENVELOPE
    if len(body) > limit:  # parsed JSON takes many times its text's memory
        raise Problem(413, "body_too_large", "The body is too large", f"a JSON body is at most {limit} bytes")
    try:
        value = parse_json(body)
        if not isinstance(value, dict):
            raise CodecError("the body must be an object")
        return _read_dev(genesis, rules, value) if "from" in value else _read_signed(rules, value)
    except CodecError as error:
        raise malformed(str(error)) from None


def _read_signed(rules: Rules, value: dict[str, Any]) -> SignedTransaction:
    value = dict(value)
    stated = value.pop("hash", None)  # what GET shows can be sent again as it is
    value["action"] = _with_encoded_args(rules, value.get("action"), devnet=None)
    tx = SignedTransaction.from_json(value)
    if stated is not None and parse_hex(stated, "hash", 32) != tx.id:
        raise CodecError("hash is not the hash of this transaction")
    return tx


def _read_dev(genesis: Genesis, rules: Rules, value: dict[str, Any]) -> DevRequest:
    if not genesis.devnet:
        raise Problem(403, "not_a_devnet", "This chain signs for nobody", "send a signed transaction")
    key = dev_key(genesis, value["from"])
    numbers = ("nonce", "gas_limit", "max_fee_per_gas", "tip_per_gas")
    unknown = sorted(set(value) - {"from", "action", *numbers})
    if unknown:
        raise CodecError(f"unknown field {unknown[0]!r}; known are from, action, {', '.join(numbers)}")
    if "action" not in value:
        raise CodecError("field 'action' is missing")
    action = from_json(_Action, {"action": _with_encoded_args(rules, value["action"], devnet=genesis)}).action
    nonce, gas_limit, max_fee, tip = (_optional_int(value, name) for name in numbers)
    return DevRequest(key, action, nonce, gas_limit, max_fee, tip)


class _Action(Record, frozen=True):
    action: Transfer | Call


class _Number(Record, frozen=True):
    number: U53


def _optional_int(value: dict[str, Any], name: str) -> int | None:
    if value.get(name) is None:
        return None
    try:
        return from_json(_Number, {"number": value[name]}).number
    except CodecError as error:
        raise CodecError(str(error).replace("number", name, 1)) from None


def dev_key(genesis: Genesis, name: Any) -> KeyPair:
    """The well-known key of a name: the usual ones, and any that this genesis funds. Raises `Problem`."""
    key = _dev_key_or_none(genesis, name)
    if key is None:
        raise Problem(
            422,
            "unknown_dev_account",
            "No such well-known account",
            f"{str(name)[:80]!r} has no well-known key",
            known=list(DEV_ACCOUNTS),
        )
    return key


def _dev_key_or_none(genesis: Genesis, name: Any) -> KeyPair | None:
    try:
        key = dev_keypair(name)
    except InvalidDevNameError:
        return None
    funded = any(account.address == key.address for account in genesis.accounts)
    return key if funded or is_dev_address(key.address) else None


def _with_encoded_args(rules: Rules, action: Any, *, devnet: Genesis | None) -> Any:
    """Replace what people write (arguments as an object, names of ``devnet`` for addresses) by plain hex."""
    if not isinstance(action, dict):
        return action
    if action.get("type") == "transfer" and devnet:
        return {**action, "to": _address_of(devnet, action.get("to"))}
    if action.get("type") != "call":
        return action
    method = _method(rules, action.get("contract"), action.get("method"))
    action = {"args": {}, "value": 0, **action}
    if isinstance(action["args"], dict):
        args = _with_addresses(devnet, method, action["args"]) if devnet else action["args"]
        try:
            action["args"] = "0x" + encode(from_json(method.args, args)).hex()
        except CodecError as error:
            raise CodecError(f"action.args: {error}") from None
    return action


def _method(rules: Rules, contract: Any, name: Any) -> Method:
    found = rules.contracts.get(contract) if isinstance(contract, str) else None
    if found is None:
        raise refused(
            "unknown_contract", f"no contract {str(contract)[:40]!r} here", known=sorted(rules.contracts)
        )
    method = found.methods.get(name) if isinstance(name, str) else None
    if method is None:
        message = f"{found.name} has no method {str(name)[:40]!r}"
        raise refused("unknown_method", message, known=sorted(found.methods))
    return method


def _with_addresses(devnet: Genesis, method: Method, args: dict[str, Any]) -> dict[str, Any]:
    info = mi.type_info(method.args)
    assert isinstance(info, mi.StructType)
    addresses = {
        field.name
        for field in info.fields
        if isinstance(field.type, mi.BytesType) and field.type.min_length == 32
    }
    return {name: _address_of(devnet, value) if name in addresses else value for name, value in args.items()}


def _address_of(devnet: Genesis, value: Any) -> Any:
    """A well-known name to its address; anything else as it is."""
    if not isinstance(value, str) or value.startswith("0x"):
        return value
    key = _dev_key_or_none(devnet, value)
    return value if key is None else "0x" + key.address.hex()


# --- checking and filling in ------------------------------------------------------------------------------


def check_submitted(rules: Rules, tx: SignedTransaction, is_account: IsAccount = no_account) -> None:
    """The checks that need no state. Raises `InvalidTransaction`.

    ``is_account`` tells of recipients that exist already: their keys were checked, which costs as much as a signature.
    """
    if not tx.signature_valid() and not is_valid_address(tx.body.sender):  # a valid signature has a valid key
        raise InvalidTransaction("invalid_address", "the sender is not a valid Ed25519 public key")
    action = tx.body.action
    if isinstance(action, Transfer) and action.to not in rules.reserved:
        known = is_account(action.to)
        if not known and not is_valid_address(action.to):
            raise InvalidTransaction("invalid_address", "the recipient is not a valid Ed25519 public key")
    check_stateless(rules, tx)


def refusals(
    rules: Rules,
    transactions: Sequence[SignedTransaction],
    is_account: IsAccount = no_account,
) -> dict[int, InvalidTransaction]:
    """What `check_submitted` raises for some of them, by their places."""
    found: dict[int, InvalidTransaction] = {}
    for place, tx in enumerate(transactions):
        try:
            check_submitted(rules, tx, is_account)
        except InvalidTransaction as refusal:
            found[place] = refusal
    return found


def sign_dev_request(rules: Rules, head: Head, request: DevRequest, pending_nonce: int) -> SignedTransaction:
    """Fill in what the request leaves out and sign it.

    Without a gas limit the action is tried on the head's state: if it would be refused there, that refusal is
    the answer (`Problem` with the contract's code) and nothing is sent. A request with its own gas limit, or
    one behind others in the pool (which may make it valid), is sent as it is.
    """
    fees = suggest_fees(rules, head.tree)
    tip = fees.tip_per_gas if request.tip_per_gas is None else request.tip_per_gas
    max_fee = max(fees.max_fee_per_gas, tip) if request.max_fee_per_gas is None else request.max_fee_per_gas
    key = request.sender
    nonce = pending_nonce if request.nonce is None else request.nonce
    body = Body(rules.chain_id, key.address, nonce, request.gas_limit or 0, max_fee, tip, request.action)
    if request.gas_limit is None:
        queued = nonce != State(head.tree).account(key.address).nonce
        body = _with_gas(body, _gas_for(rules, head, body, key, queued=queued))
    try:
        return SignedTransaction.sign(body, key)
    except CodecError as error:
        raise malformed(str(error)) from None


def _gas_for(rules: Rules, head: Head, body: Body, key: KeyPair, *, queued: bool) -> int:
    action, limits = body.action, rules.fees
    if isinstance(action, Transfer):
        default = transfer_gas(limits.gas_per_byte)
    else:
        default = min(call_gas(limits.gas_per_byte, len(action.args)), limits.max_transaction_gas)
    account = State(head.tree).account(key.address)
    spare = account.balance - (action.amount if isinstance(action, Transfer) else action.value)
    affordable = max(spare, 0) // max(body.max_fee_per_gas, 1)
    if queued:
        return default
    trial = _with_nonce(_with_gas(body, min(limits.max_transaction_gas, affordable)), account.nonce)
    if trial.gas_limit < transfer_gas(limits.gas_per_byte) // 4:
        raise refused("insufficient_balance", f"the account has {account.balance} gwei")
    receipt = simulate(rules, head, SignedTransaction.sign(trial, key))
    if not receipt.success:
        raise refused(receipt.code, receipt.message, simulated=True)
    return min(receipt.gas_used * 3 // 2 + 10_000, limits.max_transaction_gas, trial.gas_limit)


def simulate(rules: Rules, head: Head, tx: SignedTransaction) -> Receipt:
    """What ``tx`` would do first thing in the block after ``head``. Raises `Problem`; changes nothing."""
    state = State(head.tree)
    env = environment(state)
    base_fee = suggest_fees(rules, head.tree).base_fee
    state.set(
        BLOCK_KEY,
        encode(BlockEnvironment(env.height + 1, env.slot + 1, env.time, env.proposer, base_fee, 0)),
    )
    try:
        return apply_transaction(rules, state, tx)
    except InvalidTransaction as refusal:
        raise refused(refusal.code, refusal.message) from None


def _with_gas(body: Body, gas_limit: int) -> Body:
    b = body
    return Body(b.chain_id, b.sender, b.nonce, gas_limit, b.max_fee_per_gas, b.tip_per_gas, b.action)


def _with_nonce(body: Body, nonce: int) -> Body:
    b = body
    return Body(b.chain_id, b.sender, nonce, b.gas_limit, b.max_fee_per_gas, b.tip_per_gas, b.action)
