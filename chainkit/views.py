"""The JSON shapes of the chain API.

Responsible for how blocks, transactions, receipts, accounts and contracts look to a client. Must not know of
HTTP, nor where things come from.
"""

from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import inspect as mi

from chainkit.backend import BlockView, Head, HeadRef, TransactionView
from chainkit.codec import Address, CodecError, Record, decode, snake_name, to_json
from chainkit.contract import Contract, Storage
from chainkit.events import event_data
from chainkit.execution import Receipt
from chainkit.genesis import Genesis
from chainkit.keys import is_dev_address
from chainkit.state import State, account_key
from chainkit.transaction import Call, SignedTransaction, Transfer

Json = dict[str, Any]


def action_json(contracts: Mapping[str, Contract], action: Transfer | Call) -> Json:
    """An action; a call's arguments by name where contract and method are known, else as hex."""
    shown: Json = to_json(action)
    if isinstance(action, Call):
        contract = contracts.get(action.contract)
        method = None if contract is None else contract.methods.get(action.method)
        if method is not None:
            with suppress(CodecError):
                shown["args"] = to_json(decode(method.args, action.args))
    return shown


def signed_json(contracts: Mapping[str, Contract], tx: SignedTransaction) -> Json:
    """A signed transaction: what ``POST /transactions`` takes, and its hash."""
    return {**tx.to_json(), "action": action_json(contracts, tx.body.action)}


def receipt_json(contracts: Mapping[str, Contract], receipt: Receipt) -> Json:
    """A receipt with its events decoded."""
    events = [
        {"contract": event.contract, "name": event.name, "data": event_data(contracts, event)}
        for event in receipt.events
    ]
    return {**to_json(receipt), "events": events}


def transaction_json(contracts: Mapping[str, Contract], view: TransactionView) -> Json:
    """A transaction, where it stands and what became of it."""
    return {
        "hash": to_json(view.transaction.id),
        "status": view.status,
        "height": view.height,
        "block_hash": to_json(view.block_hash),
        "position": view.position,
        "transaction": signed_json(contracts, view.transaction),
        "receipt": None if view.receipt is None else receipt_json(contracts, view.receipt),
        **to_json(view.extra),
    }


def block_json(contracts: Mapping[str, Contract], view: BlockView, *, full: bool) -> Json:
    """A block; its transactions as hashes, or in ``full``."""
    transactions = [SignedTransaction.decode(wire) for wire in view.block.transactions]
    header = view.block.header
    return {
        "height": header.height,
        "hash": to_json(view.hash),
        "status": view.status,
        "header": to_json(header),
        "transactions": [signed_json(contracts, tx) if full else to_json(tx.id) for tx in transactions],
        "certificate": to_json(view.certificate),
        **to_json(view.extra),
    }


def head_json(head: Head | None) -> Json | None:
    """A head in short: height, hash, state root and time (ms since 1970)."""
    if head is None:
        return None
    header = head.header
    return {
        "height": header.height,
        "hash": to_json(head.hash),
        "state_root": to_json(header.state_root),
        "slot": header.slot,
        "time": header.time,
    }


def account_json(genesis: Genesis, head: Head, ref: HeadRef, address: Address, pending_nonce: int) -> Json:
    """An account at a head. One that nobody ever paid has balance 0, nonce 0 and ``exists`` false."""
    state = State(head.tree)
    account = state.account(address)
    return {
        "address": to_json(address),
        "name": account_name(genesis, address),
        "balance": account.balance,
        "nonce": account.nonce,
        "pending_nonce": max(pending_nonce, account.nonce),
        "exists": state.has_account(address),
        "at": ref,
        "height": head.header.height,
    }


def proof_json(head: Head, ref: HeadRef, address: Address) -> Json:
    """The account's state key, value and Merkle proof under the head's state root (docs/PROTOCOL.md)."""
    key = account_key(address)
    account = State(head.tree).account(address)
    return {
        "address": to_json(address),
        "balance": account.balance,
        "nonce": account.nonce,
        "key": to_json(key),
        "value": to_json(head.tree.get(key)),
        "proof": to_json(head.tree.prove([key])),
        "state_root": to_json(head.header.state_root),
        "block_hash": to_json(head.hash),
        "height": head.header.height,
        "at": ref,
    }


def account_name(genesis: Genesis, address: Address) -> str | None:
    """What people call an account: its name in genesis, or that of its well-known key on a devnet."""
    accounts = genesis.accounts  # in order of address
    place = bisect_left(accounts, address, key=lambda account: account.address)
    found = place < len(accounts) and accounts[place].address == address
    named = accounts[place].name if found else ""
    return named or (is_dev_address(address) if genesis.devnet else None)


def contract_summary(contract: Contract) -> Json:
    """A contract in one line of a list."""
    return {
        "name": contract.name,
        "code": f"{type(contract).__module__}:{type(contract).__qualname__}",
        "address": to_json(contract.address),
        "methods": sorted(contract.methods),
    }


def contract_json(contract: Contract, head: Head) -> Json:
    """A contract with its parameters, methods, events, balance and public state at a head."""
    state = State(head.tree)
    return {
        **contract_summary(contract),
        "balance": state.account(contract.address).balance,
        "height": head.header.height,
        "params": to_json(contract.params),
        "methods": [
            {"name": name, "payable": method.payable, "args": fields_of(method.args)}
            for name, method in sorted(contract.methods.items())
        ],
        "events": [{"name": kind.__name__, "data": fields_of(kind)} for kind in contract.events],
        "state": to_json(contract.public_state(Storage(state, contract.name))),
    }


def fields_of(kind: type[Record]) -> dict[str, str]:
    """The fields of a record and their types in words: "u53", "bytes32", "list of bytes", ..."""
    info = mi.type_info(kind)
    assert isinstance(info, mi.StructType)
    return {field.name: _type_words(field.type) for field in info.fields}


def _type_words(info: mi.Type) -> str:
    if isinstance(info, mi.IntType):
        return "u53" if info.ge == 0 else "integer"
    if isinstance(info, mi.BytesType):
        return (
            f"bytes{info.min_length}" if info.min_length and info.min_length == info.max_length else "bytes"
        )
    if isinstance(info, (mi.ListType, mi.VarTupleType)):
        return f"list of {_type_words(info.item_type)}"
    if isinstance(info, mi.StructType):
        return snake_name(info.cls)
    if isinstance(info, mi.UnionType):
        return " or ".join(_type_words(item) for item in info.types)
    return type(info).__name__.removesuffix("Type").lower()


def json_bytes(value: Any) -> bytes:
    """JSON in the fastest way; only for values that `to_json` gave."""
    return msgspec.json.encode(value)
