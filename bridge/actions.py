"""Reading what users ask the bridge service to send, and building the L1 and L2 calls.

Responsible for the bodies of its writes: a signed transaction that makes exactly the call of that address, or
on a devnet ``{"from": name, ...}`` with the call's own fields. Must not know how anything is sent.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from chainkit.backend import Head
from chainkit.codec import (
    U53,
    CodecError,
    Record,
    decode,
    encode,
    from_json,
    parse_hex,
    parse_json,
    to_json,
)
from chainkit.execution import InvalidTransaction, Rules
from chainkit.fees import call_gas, suggest_fees, transfer_gas
from chainkit.genesis import Genesis
from chainkit.problems import Problem
from chainkit.submission import DevRequest, check_submitted, dev_key, malformed, read_json, refused
from chainkit.transaction import Body, Call, SignedTransaction

Json = dict[str, Any]

NUMBERS: Final = ("nonce", "gas_limit", "max_fee_per_gas", "tip_per_gas")
FORCED_FEE_FACTOR: Final = 4
"""How far above the usual a forced transaction's maximum fee is: nobody can raise it later."""
_MAX_JSON: Final = 1024 * 1024


@dataclass(frozen=True)
class Place:
    """The chain that a write is for."""

    name: str
    genesis: Genesis
    rules: Rules


@dataclass(frozen=True)
class Write:
    """A write that was read and checked: signed already, or for a devnet's node to sign.

    ``body`` is then what that node is sent; ``call`` is in both cases the call that is to be made.
    """

    call: Call
    sender: bytes
    signed: SignedTransaction | None = None
    body: Json | None = None


Build = Callable[[Json], Json]
"""Fields of a devnet request to ``{"args": ..., "value": ...}`` of the call. Raises `CodecError`, `Problem`."""


def read_object(body: bytes, limit: int = _MAX_JSON) -> Json:
    """A JSON object, strictly. Raises `Problem`."""
    if len(body) > limit:
        raise Problem(413, "body_too_large", "The body is too large", f"a JSON body is at most {limit} bytes")
    try:
        value = parse_json(body, limit=limit)
    except CodecError as error:
        raise malformed(str(error)) from None
    if not isinstance(value, dict):
        raise malformed("the body must be an object")
    return value


def read_write(
    place: Place,
    raw: bytes,
    contract: str,
    method: str,
    fields: tuple[str, ...],
    build: Build,
    bound: Mapping[str, Any] | None = None,
) -> Write:
    """Read the body of a write to ``contract.method``.

    ``fields`` are what a devnet request may have besides ``from`` and the numbers of a transaction; ``bound``
    are arguments that the address fixes, which a signed call must have too. Raises `Problem`.
    """
    value = read_object(raw)
    if "from" not in value:
        return _read_signed(place, raw, contract, method, bound or {})
    require_dev(place, value)
    unknown = sorted(set(value) - {"from", *fields, *NUMBERS})
    if unknown:
        known = ", ".join(("from", *fields, *NUMBERS))
        raise malformed(f"unknown field {unknown[0][:40]!r}; known are {known}")
    try:
        action = {"type": "call", "contract": contract, "method": method, **build(value)}
    except CodecError as error:
        raise malformed(str(error)) from None
    numbers = {name: value[name] for name in NUMBERS if value.get(name) is not None}
    body = {"from": value["from"], "action": action, **numbers}
    request = read_json(place.genesis, place.rules, json.dumps(body).encode())
    assert isinstance(request, DevRequest)
    assert isinstance(request.action, Call)
    exact = {**body, "action": to_json(request.action)}
    return Write(request.action, request.sender.address, body=exact)


def require_dev(place: Place, value: Json) -> None:
    """Raises `Problem` unless this is a devnet and ``from`` a well-known account of it."""
    if not place.genesis.devnet:
        raise Problem(403, "not_a_devnet", "This chain signs for nobody", "send a signed transaction")
    dev_key(place.genesis, value["from"])


def _read_signed(place: Place, raw: bytes, contract: str, method: str, bound: Mapping[str, Any]) -> Write:
    tx = read_json(place.genesis, place.rules, raw)
    assert isinstance(tx, SignedTransaction)
    action = tx.body.action
    if not isinstance(action, Call) or (action.contract, action.method) != (contract, method):
        raise Problem(
            422,
            "wrong_call",
            "Not the call of this address",
            f"this address takes {contract}.{method} on {place.name}; others go to its POST /transactions",
        )
    try:
        args = decode(place.rules.contracts[contract].methods[method].args, action.args)
    except CodecError as error:
        raise malformed(f"action.args: {error}") from None
    for name, wanted in bound.items():
        if getattr(args, name) != wanted:
            raise Problem(
                422,
                "wrong_call",
                "Not the call of this address",
                f"{name} is {getattr(args, name)}, not {wanted}",
            )
    try:
        check_submitted(place.rules, tx)
    except InvalidTransaction as refusal:
        raise refused(refusal.code, refusal.message) from None
    return Write(action, tx.body.sender, signed=tx)


# --- fields ---------------------------------------------------------------------------------------------------


class _Number(Record, frozen=True):
    number: U53


def number(value: Mapping[str, Any], name: str) -> int:
    """A field that is an integer from 0 to 2**53 - 1. Raises `CodecError`."""
    if name not in value:
        raise CodecError(f"field {name!r} is missing")
    try:
        return from_json(_Number, {"number": value[name]}).number
    except CodecError as error:
        raise CodecError(str(error).replace("number", name, 1)) from None


def amount(value: Mapping[str, Any]) -> int:
    """The field ``amount``: gwei, above zero. Raises `CodecError`."""
    gwei = number(value, "amount")
    if gwei == 0:
        raise CodecError("amount must be above zero (in gwei)")
    return gwei


def deposit_call(value: Json) -> Json:
    """``amount`` to ``to`` on L2, by default the sender's own account there."""
    return {"args": {"to": value.get("to", value["from"])}, "value": amount(value)}


def withdraw_call(value: Json) -> Json:
    """``amount`` to ``to`` on L1, by default the sender's own account there."""
    return {"args": {"recipient": value.get("to", value["from"])}, "value": amount(value)}


def plain_call(args: Record, value: int = 0) -> Build:
    """A call whose arguments are known already."""
    return lambda _: {"args": "0x" + encode(args).hex(), "value": value}


def sign_forced(
    place: Place, value: Json, head: Head, next_nonce: Callable[[bytes], int]
) -> SignedTransaction:
    """The L2 transaction with the ``action`` of a devnet request, signed to outlive some waiting.

    ``next_nonce`` gives an account's nonce unless the request has ``l2_nonce``. Nothing is tried out first:
    the transaction runs in a later state than any known here. Raises `Problem`, `CodecError`.
    """
    asked = {"from": value["from"], "action": value["action"]}
    request = read_json(place.genesis, place.rules, json.dumps(asked).encode())
    assert isinstance(request, DevRequest)
    nonce = number(value, "l2_nonce") if "l2_nonce" in value else next_nonce(request.sender.address)
    limits, fees, action = place.rules.fees, suggest_fees(place.rules, head.tree), request.action
    if isinstance(action, Call):
        gas = min(call_gas(limits.gas_per_byte, len(action.args)), limits.max_transaction_gas)
    else:
        gas = transfer_gas(limits.gas_per_byte)
    max_fee = FORCED_FEE_FACTOR * fees.max_fee_per_gas
    body = Body(place.rules.chain_id, request.sender.address, nonce, gas, max_fee, fees.tip_per_gas, action)
    return SignedTransaction.sign(body, request.sender)


def read_l2(place: Place, given: Any) -> SignedTransaction:
    """A signed L2 transaction: its JSON face, or its wire bytes as hex. Raises `Problem`, `CodecError`."""
    if isinstance(given, str):
        tx = SignedTransaction.decode(
            parse_hex(given, "transaction"), limit=place.rules.fees.max_transaction_bytes
        )
    elif isinstance(given, dict) and "from" not in given:
        read = read_json(place.genesis, place.rules, json.dumps(given).encode())
        assert isinstance(read, SignedTransaction)
        tx = read
    else:
        raise CodecError("transaction must be a signed transaction as an object, or its bytes as 0x-hex")
    try:
        check_submitted(place.rules, tx)
    except InvalidTransaction as refusal:
        raise refused(refusal.code, f"L2 would refuse it: {refusal.message}") from None
    return tx
