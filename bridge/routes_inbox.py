"""What goes in: deposits and forced transactions.

Responsible for those routes. Must not know how facts are established or calls are sent.
"""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from bridge import actions
from bridge.abi import ForceArgs
from bridge.actions import Write, read_object, read_write
from bridge.backend import BridgeBackend
from bridge.follow import BRIDGE, Queued
from bridge.hints import Told, tracked_of
from bridge.params import AddressText, From, Id, Limit, page, parse_address, parse_id, unknown
from bridge.shapes import DEPOSIT, FORCED, SENT
from bridge.views import deposit_json, forced_json
from bridge.views_batches import Json
from chainkit.block_rows import StoredTransaction
from chainkit.codec import Bytes32, CodecError, decode, parse_hex, to_json
from chainkit.openapi import (
    ACTION,
    HEX,
    INTEGER,
    NAME,
    Schema,
    answers,
    body,
    dev_schema,
    listed,
    problems,
    shape,
    signed_schema,
)
from chainkit.ops_api import JsonResponse
from chainkit.problems import Problem
from chainkit.submission import dev_key, malformed
from chainkit.transaction import Call, SignedTransaction
from chainkit.views import signed_json
from rollup.stf import Deposit, Forced

_SIGNED: Final = {"chain_id": 900, "sender": "0x" + "11" * 32, "nonce": 0, "...": "...", "signature": "0x..."}

MOVES: Final[dict[str, Schema]] = {"to": NAME, "amount": {**INTEGER, "minimum": 1}}
"""Fields of a deposit and of a withdrawal."""

_NOT_FINAL: Final[Json] = {
    "index": None,
    "l2": None,
    "l2_step": None,
    "deadline": None,
    "blocks_left": 0,
    "seconds_left": 0,
}
"""What is not known of a message before its L1 block is final."""


def body_doc(
    fields: Mapping[str, Schema] | None = None, required: tuple[str, ...] = (), **examples: Any
) -> dict[str, Any]:
    """OpenAPI for a JSON body: a devnet request with these fields and examples, or a signed transaction."""
    shown = {name.replace("_", " "): {"value": value} for name, value in examples.items()}
    shown["signed"] = {"value": _SIGNED}
    schema = {"anyOf": [dev_schema(fields or {}, required), signed_schema()]}
    return body({"application/json": {"schema": schema, "examples": shown}})


def accepted(answer: Mapping[str, Any], **more: Any) -> Response:
    """202 with what the node answered."""
    return JsonResponse({**more, **{k: v for k, v in answer.items() if k not in more}}, 202)


def hash_of(answer: Mapping[str, Any]) -> Bytes32:
    """The transaction hash in a node's answer, which `Nodes` has checked."""
    return parse_hex(answer["hash"], "hash", 32)


def inbox_router(backend: BridgeBackend) -> APIRouter:
    """Deposits and forced transactions."""
    router = APIRouter()
    router.include_router(_deposits(backend))
    router.include_router(_forced(backend))
    return router


# --- deposits ---


def _deposits(backend: BridgeBackend) -> APIRouter:
    router = APIRouter(tags=["deposits"])
    state = backend.state

    @router.post(
        "/deposits",
        summary="Deposit: a signed L1 call of bridge.deposit, or on a devnet from, to and amount (gwei)",
        status_code=202,
        openapi_extra=body_doc(
            MOVES, ("amount",), devnet={"from": "alice", "to": "alice", "amount": 1_000_000_000}
        ),
        responses=SENT | problems(409, 422, 429),
    )
    async def deposit(request: Request) -> Response:
        raw = await request.body()
        write = read_write(backend.l1, raw, BRIDGE, "deposit", ("to", "amount"), actions.deposit_call)
        answer = await backend.send_l1(write)
        tx_id = hash_of(answer)
        backend.tracking.add(tx_id, tracked_of(write))
        return accepted(answer, id=to_json(tx_id), hash=to_json(tx_id), status="pending")

    @router.get(
        "/deposits",
        summary="Deposits in final L1 blocks, oldest first",
        responses=answers(shape(deposits=listed(DEPOSIT), total=INTEGER)),
    )
    async def deposits(address: AddressText | None = None, from_: From = None, limit: Limit = 20) -> Response:
        indices = _indices(backend, address, Deposit)
        taken_in = await backend.l2_taken_in()
        shown = [
            deposit_json(state, state.inbox[indices[i]], taken_in) for i in page(len(indices), from_, limit)
        ]
        return JsonResponse({"deposits": shown, "total": len(indices)})

    @router.get(
        "/deposits/{id}",
        summary="A deposit by inbox index or L1 transaction hash: where it stands",
        responses=answers(DEPOSIT) | problems(404),
    )
    async def one(id: Id) -> Response:  # noqa: A002 - the name in the address
        key = parse_id(id, "deposit")
        index = key if isinstance(key, int) else state.inbox_by_tx.get(key)
        if index is None:
            assert isinstance(key, bytes)
            return JsonResponse(await _early_deposit(backend, key))
        queued = _message(backend, index, "deposit", Deposit)
        return JsonResponse(deposit_json(state, queued, await backend.l2_taken_in()))

    return router


def _indices(backend: BridgeBackend, address: str | None, kind: type[Deposit] | type[Forced]) -> list[int]:
    state = backend.state
    if address is None:
        found = list(range(len(state.inbox)))
    else:
        found = state.inbox_by_address.get(parse_address(backend.l1.genesis, address), [])
    return [index for index in found if isinstance(state.inbox[index].message.step, kind)]


def _message(backend: BridgeBackend, index: int, what: str, kind: type[Deposit] | type[Forced]) -> Queued:
    inbox = backend.state.inbox
    if index >= len(inbox):
        raise unknown(what, index, "inbox messages", len(inbox))
    queued = inbox[index]
    if not isinstance(queued.message.step, kind):
        other = "forced-transactions" if kind is Deposit else "deposits"
        detail = f"inbox message {index} is another thing; see /{other}/{index}"
        raise Problem(404, "unknown_" + what.replace(" ", "_"), f"No such {what}", detail)
    return queued


async def _early_deposit(backend: BridgeBackend, tx_id: Bytes32) -> Json:
    """A deposit that is in no final block here: failed, on L1, or only pending."""
    base: Json = {**_NOT_FINAL, "id": to_json(tx_id), "credited_by": None, "refund": None}
    final = _failed_on_l1(backend, tx_id, "deposit")
    if final is not None:
        tx, failure = final
        to = to_json(tx.body.action.args[-32:]) if isinstance(tx.body.action, Call) else None
        return {**base, "amount": tx.value, "depositor": to_json(tx.body.sender), "to": to, **failure}
    told = await backend.l1_pending(tx_id, "deposit")
    about = backend.tracking.get(tx_id) if told is None else told.about
    if about is None or about.method != "deposit":
        raise unknown("deposit", to_json(tx_id), "inbox messages", len(backend.state.inbox))
    shown = {"amount": about.amount, "depositor": to_json(about.sender), "to": to_json(about.to)}
    return {**base, **shown, **early_json(told)}


def early_json(told: Told | None) -> Json:
    """Status of a call that is not final here, by an L1 node's word."""
    validators = "L1's validators"
    if told is None or told.height is None:
        return {"status": "pending", "waits_for": "an L1 block", "may_act": validators, "l1": None}
    l1 = {"tx": to_json(told.tx_id), "height": told.height}
    if told.failed:
        failure = {"code": told.code, "message": told.message}
        return {"status": "failed", "waits_for": "", "may_act": "", "l1": l1, **failure}
    return {"status": "on-l1", "waits_for": "its L1 block to become final", "may_act": validators, "l1": l1}


def _failed_on_l1(
    backend: BridgeBackend, tx_id: Bytes32, method: str
) -> tuple[SignedTransaction, Json] | None:
    """A call that stands in a final L1 block and failed there."""
    stored = backend.replica.store.transaction_by_id(tx_id)
    if stored is None or stored.receipt.success:
        return None
    tx = SignedTransaction.decode(stored.wire)
    action = tx.body.action
    if not isinstance(action, Call) or (action.contract, action.method) != (BRIDGE, method):
        return None
    return tx, failed_json(stored, tx_id)


def failed_json(stored: StoredTransaction, tx_id: Bytes32) -> Json:
    """Status of a call that failed in a final L1 block."""
    return {
        "status": "failed",
        "code": stored.receipt.code,
        "message": stored.receipt.message,
        "waits_for": "",
        "may_act": "",
        "l1": {"tx": to_json(tx_id), "height": stored.height},
    }


# --- forced transactions ---


def _forced(backend: BridgeBackend) -> APIRouter:
    router = APIRouter(tags=["forced transactions"])
    state = backend.state
    transfer = {"type": "transfer", "to": "bob", "amount": 1_000_000_000}

    @router.post(
        "/forced-transactions",
        summary="Force an L2 transaction through L1: no sequencer can leave it out",
        description="A signed L1 call of bridge.force; or on a devnet `from` (who pays on L1) and either "
        "`transaction` (a signed L2 transaction, as JSON or 0x-hex) or `action` (signed for `from`, with "
        "`l2_nonce` or the next nonce that is known).",
        status_code=202,
        openapi_extra=body_doc(
            {"action": ACTION, "l2_nonce": INTEGER, "transaction": {"anyOf": [HEX, signed_schema()]}},
            devnet={"from": "carol", "action": transfer},
        ),
        responses=SENT | problems(409, 422, 429),
    )
    async def force(request: Request) -> Response:
        raw = await request.body()
        write, l2_tx = await _read_forced(backend, raw)
        answer = await backend.send_l1(write)
        backend.note_forced(l2_tx)
        return accepted(
            answer,
            id=to_json(hash_of(answer)),
            hash=to_json(hash_of(answer)),
            l2_hash=to_json(l2_tx.id),
            l2_transaction=signed_json(backend.l2.rules.contracts, l2_tx),
            status="pending",
        )

    @router.get(
        "/forced-transactions",
        summary="Forced transactions in final L1 blocks, oldest first",
        responses=answers(shape(forced_transactions=listed(FORCED), total=INTEGER)),
    )
    async def all_forced(
        address: AddressText | None = None, from_: From = None, limit: Limit = 20
    ) -> Response:
        indices = _indices(backend, address, Forced)
        taken_in = await backend.l2_taken_in()
        shown = [
            forced_json(state, state.inbox[indices[i]], taken_in) for i in page(len(indices), from_, limit)
        ]
        return JsonResponse({"forced_transactions": shown, "total": len(indices)})

    @router.get(
        "/forced-transactions/{id}",
        summary="A forced transaction by inbox index, L1 hash or L2 hash: its deadline, and what became of it",
        responses=answers(FORCED) | problems(404),
    )
    async def one(id: Id) -> Response:  # noqa: A002 - the name in the address
        key = parse_id(id, "forced transaction")
        if isinstance(key, int):
            index: int | None = key
        else:
            index = state.inbox_by_tx.get(key, state.inbox_by_l2_tx.get(key))
        if index is None:
            assert isinstance(key, bytes)
            return JsonResponse(await _early_forced(backend, key))
        queued = _message(backend, index, "forced transaction", Forced)
        return JsonResponse(forced_json(state, queued, await backend.l2_taken_in()))

    return router


async def _early_forced(backend: BridgeBackend, tx_id: Bytes32) -> Json:
    base: Json = {**_NOT_FINAL, "id": to_json(tx_id), "executed": False, "executed_by": None}
    final = _failed_on_l1(backend, tx_id, "force")
    if final is not None:
        return {**base, **final[1]}
    told = await backend.l1_pending(tx_id, "force")
    if told is None:
        raise unknown("forced transaction", to_json(tx_id), "inbox messages", len(backend.state.inbox))
    return {**base, **early_json(told)}


async def _read_forced(backend: BridgeBackend, raw: bytes) -> tuple[Write, SignedTransaction]:
    value = read_object(raw)
    nonces: dict[bytes, int] = {}
    if "from" in value and "action" in value and "l2_nonce" not in value and backend.l2.genesis.devnet:
        address = dev_key(backend.l2.genesis, value["from"]).address
        nonces[address] = await backend.l2_nonce(address)
    made: list[SignedTransaction] = []

    def build(fields: Json) -> Json:
        made.append(_l2_transaction(backend, fields, nonces))
        return {"args": {"transaction": "0x" + made[0].wire.hex()}, "value": 0}

    fields = ("transaction", "action", "l2_nonce")
    write = read_write(backend.l1, raw, BRIDGE, "force", fields, build)
    if not made:
        args = decode(ForceArgs, write.call.args)
        try:
            made.append(actions.read_l2(backend.l2, to_json(args.transaction)))
        except CodecError as error:
            raise malformed(f"transaction: {error}") from None
    return write, made[0]


def _l2_transaction(backend: BridgeBackend, fields: Json, nonces: dict[bytes, int]) -> SignedTransaction:
    if ("transaction" in fields) == ("action" in fields):
        raise CodecError("give either 'transaction' (a signed L2 transaction) or 'action'")
    if "transaction" in fields:
        if "l2_nonce" in fields:
            raise CodecError("l2_nonce goes with 'action': a signed transaction has its nonce")
        return actions.read_l2(backend.l2, fields["transaction"])
    return actions.sign_forced(backend.l2, fields, backend.safe_head, lambda address: nonces[address])
