"""The chain API: the routes that L1 and every rollup serve alike.

Responsible for parameters, bodies and status codes of the chain API (docs/PROTOCOL.md, section 9). Must not know which
chain is behind it: it asks a `chainkit.backend.ChainBackend`.
"""

import asyncio
from collections import defaultdict
from functools import cache
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from chainkit import api_shapes as shapes
from chainkit.backend import HEAD_REFS, ChainBackend, Head, HeadRef, SubmitResult
from chainkit.codec import MAX_AMOUNT, Address, Bytes32, CodecError, parse_hex, to_json
from chainkit.fees import suggest_fees
from chainkit.genesis import genesis_to_json
from chainkit.intake import KINDS, Intake, media_type, result_json
from chainkit.keys import is_valid_address
from chainkit.openapi import HASH, INTEGER, OBJECT, WHO, answers, listed, problems, shape
from chainkit.ops_api import JsonResponse, QueryInt, events_router, health_router, metrics_router
from chainkit.problems import Problem, not_found
from chainkit.state import State
from chainkit.submission import (
    DevRequest,
    dev_key,
    read_json,
    refused,
    sign_dev_request,
)
from chainkit.transaction import SignedTransaction
from chainkit.views import (
    account_json,
    block_json,
    contract_json,
    contract_summary,
    head_json,
    json_bytes,
    proof_json,
    signed_json,
    transaction_json,
)

__all__ = ["ChainBackend", "chain_router"]

MAX_BLOCKS: Final = 50

At = Annotated[HeadRef, Query(description="which head to look at")]


def chain_router(backend: ChainBackend, intake: Intake | None = None) -> APIRouter:
    """Every route of the chain API, health, metrics and events included.

    ``intake`` takes the transactions; without one, signatures are checked in this process.
    """
    router = APIRouter()
    router.include_router(_chain_routes(backend))
    router.include_router(_account_routes(backend))
    router.include_router(_transaction_routes(backend, intake or Intake(backend)))
    router.include_router(events_router(backend.event_log))
    router.include_router(health_router(backend.ready))
    router.include_router(metrics_router(lambda: _gauges(backend), backend.metrics))
    return router


# --- chain ------------------------------------------------------------------------------------------------


def _chain_routes(backend: ChainBackend) -> APIRouter:
    router = APIRouter(tags=["chain"])
    contracts = backend.rules.contracts

    @cache
    def genesis_body() -> bytes:  # made when it is first asked for: with many accounts it takes seconds
        return json_bytes(genesis_to_json(backend.genesis))

    @router.get(
        "/status",
        summary="Chain, heads, suggested fees, and the service's own state",
        responses=answers(shapes.STATUS),
    )
    async def status() -> Response:
        return JsonResponse(_status(backend))

    @router.get("/genesis", summary="The genesis file (its hash is in /status)", responses=answers(OBJECT))
    async def genesis() -> Response:
        return Response(await asyncio.to_thread(genesis_body), media_type="application/json")

    @router.get(
        "/blocks",
        summary="Blocks by height, oldest first; without `from` the last ones",
        responses=answers(shape(blocks=listed(shapes.BLOCK), next=INTEGER, head=INTEGER)) | problems(404),
    )
    async def blocks(
        from_: Annotated[QueryInt | None, Query(alias="from", description="the first height")] = None,
        limit: Annotated[QueryInt, Query(ge=1, le=MAX_BLOCKS)] = 20,
    ) -> Response:
        top = _head(backend, "head").header.height
        start = max(0, top - limit + 1) if from_ is None else from_
        shown: list[dict[str, Any]] = []
        for height in range(start, min(start + limit, top + 1)):
            view = backend.block(height)
            if view is None:
                break
            shown.append(block_json(contracts, view, full=False))
        return JsonResponse({"blocks": shown, "next": start + len(shown), "head": top})

    @router.get(
        "/blocks/{ref}",
        summary="A block by height, hash, or as `head`, `safe` or `finalized`",
        responses=answers(shapes.BLOCK) | problems(404),
    )
    async def block(
        ref: Annotated[
            str,
            Path(
                description="height, 0x-hash, head, safe or finalized",
                max_length=66,
                json_schema_extra={"pattern": "^([0-9]{1,16}|0x[0-9a-f]{64}|head|safe|finalized)$"},
            ),
        ],
        full: Annotated[bool, Query(description="transactions in full instead of their hashes")] = False,
    ) -> Response:
        view = backend.block(_block_ref(backend, ref))
        if view is None:
            top = _head(backend, "head").header.height
            raise not_found("block", ref, head=top)
        return JsonResponse(block_json(contracts, view, full=full))

    return router


def _status(backend: ChainBackend) -> dict[str, Any]:
    genesis = backend.genesis
    head = _head(backend, "head")
    return {
        "chain_id": genesis.chain_id,
        "name": genesis.name,
        "genesis_hash": to_json(backend.genesis_hash),
        "devnet": genesis.devnet,
        "slot_ms": genesis.slot_ms,
        "heads": {ref: head_json(backend.head(ref)) for ref in HEAD_REFS},
        "fees": suggest_fees(backend.rules, head.tree)._asdict(),
        "events": backend.event_log.last_seq,
        **to_json(backend.status()),
    }


def _gauges(backend: ChainBackend) -> dict[str, float]:
    gauges: dict[str, float] = {
        "events": backend.event_log.last_seq,
        "event_streams": backend.event_log.followers,
    }
    for ref in HEAD_REFS:
        head = backend.head(ref)
        if head is not None:
            gauges[f"{ref}_height"] = head.header.height
    gauges["ready"] = float(backend.ready()[0])
    return gauges


def _head(backend: ChainBackend, ref: HeadRef) -> Head:
    head = backend.head(ref)
    if head is None:
        raise Problem(404, "unknown_head", "No such head yet", f"this chain has no {ref} block yet")
    return head


def _block_ref(backend: ChainBackend, ref: str) -> int | Bytes32:
    for name in HEAD_REFS:
        if ref == name:
            return _head(backend, name).hash
    if ref.isascii() and ref.isdigit() and len(ref) <= 16 and int(ref) <= MAX_AMOUNT:
        return int(ref)
    try:
        return parse_hex(ref, "the block", 32)
    except CodecError:
        raise Problem(
            422, "invalid_block_reference", "Not a block", "give a height, a 0x-hash, head, safe or finalized"
        ) from None


# --- accounts and contracts -------------------------------------------------------------------------------


def _account_routes(backend: ChainBackend) -> APIRouter:
    router = APIRouter(tags=["accounts"])
    genesis, contracts = backend.genesis, backend.rules.contracts
    known_as = "0x and 64 lower-case hex digits; on a devnet also a well-known name (alice)"
    account_path = Path(description=known_as, max_length=80, json_schema_extra=WHO)

    @router.get(
        "/accounts/{address}",
        summary="Balance (gwei) and nonce; an unknown account has 0 and 0",
        responses=answers(shapes.ACCOUNT) | problems(404),
    )
    async def account(address: Annotated[str, account_path], at: At = "head") -> Response:
        who = _address(backend, address)
        shown = account_json(genesis, _head(backend, at), at, who, backend.pending_nonce(who))
        return JsonResponse(shown)

    @router.get(
        "/accounts/{address}/proof",
        summary="A Merkle proof of the account, or that there is none",
        responses=answers(shapes.PROOF) | problems(404),
    )
    async def proof(address: Annotated[str, account_path], at: At = "finalized") -> Response:
        return JsonResponse(proof_json(_head(backend, at), at, _address(backend, address)))

    @router.get(
        "/contracts",
        summary="The contracts of this chain",
        responses=answers(shape(contracts=listed(shapes.CONTRACT))),
    )
    async def all_contracts() -> Response:
        return JsonResponse({"contracts": [contract_summary(contracts[name]) for name in sorted(contracts)]})

    @router.get(
        "/contracts/{name}",
        summary="A contract's methods, parameters and public state",
        responses=answers(shapes.CONTRACT_FULL) | problems(404),
    )
    async def contract(name: Annotated[str, Path(max_length=32)], at: At = "head") -> Response:
        found = contracts.get(name)
        if found is None:
            raise not_found("contract", name, known=sorted(contracts))
        return JsonResponse(contract_json(found, _head(backend, at)))

    return router


def _address(backend: ChainBackend, text: str) -> Address:
    if not text.startswith("0x") and backend.genesis.devnet:
        return dev_key(backend.genesis, text).address
    try:
        address = parse_hex(text, "an address", 32)
    except CodecError as error:
        raise Problem(422, "invalid_address", "Not an address", str(error)) from None
    if not is_valid_address(address) and not State(_head(backend, "head").tree).has_account(address):
        raise Problem(422, "invalid_address", "Not an address", "it is not a valid Ed25519 public key")
    return address


# --- transactions -----------------------------------------------------------------------------------------


def _transaction_routes(backend: ChainBackend, intake: Intake) -> APIRouter:
    router = APIRouter(tags=["transactions"])
    contracts = backend.rules.contracts
    # Two requests to sign for one account must not be given one nonce.
    signing: defaultdict[Address, asyncio.Lock] = defaultdict(asyncio.Lock)

    @router.post(
        "/transactions",
        summary="Submit one transaction as JSON, or many as MessagePack",
        description="JSON: a signed transaction, or on a devnet `from` and `action` alone (nonce, gas limit "
        "and fees are filled in, and it is signed with the well-known key). A refusal is a problem with its "
        "code. MessagePack: an array of wire byte strings; the answer lists one result for each, in MessagePack "
        "if `Accept` asks for it (hashes as bin then). Where `wait` is known (a sequencer), the answer comes when "
        "what was accepted is in a block on disk, or after so many ms, and has the signed receipts.",
        status_code=202,
        openapi_extra=shapes.SUBMIT,
        responses=shapes.TAKEN | problems(409, 422, 429),
    )
    async def submit(request: Request) -> Response:
        body = await request.body()
        query = request.scope["query_string"]
        if media_type(request.headers.get("content-type", "").encode("latin-1")) in KINDS:
            accept = request.headers.get("accept", "").encode("latin-1")
            kind, answer = await intake.bulk([body], query, accept)
            return Response(answer, 202, media_type=kind)
        wait_ms = intake.wait_ms(query)
        parsed = read_json(backend.genesis, backend.rules, body)
        if isinstance(parsed, SignedTransaction):
            return JsonResponse(result_json(await _submit_one(intake, parsed, wait_ms)), 202)
        async with signing[parsed.sender.address]:
            tx = _sign(backend, parsed)
            result = await _submit_one(intake, tx)
        if wait_ms:
            result = await intake.wait_for(result, wait_ms)
        shown = {"transaction": signed_json(contracts, tx)}
        return JsonResponse(result_json(result.with_members(shown)), 202)

    @router.get(
        "/transactions/{hash}",
        summary="A transaction: where it stands, and its receipt",
        responses=answers(shapes.TRANSACTION) | problems(404),
    )
    async def transaction(
        tx_hash: Annotated[str, Path(alias="hash", max_length=66, json_schema_extra=HASH)],
    ) -> Response:
        try:
            view = backend.transaction(parse_hex(tx_hash, "a transaction hash", 32))
        except CodecError as error:
            raise Problem(422, "invalid_hash", "Not a hash", str(error)) from None
        if view is None:
            raise not_found("transaction", tx_hash)
        return JsonResponse(transaction_json(contracts, view))

    return router


def _sign(backend: ChainBackend, request: DevRequest) -> SignedTransaction:
    nonce = backend.pending_nonce(request.sender.address)
    return sign_dev_request(backend.rules, _head(backend, "head"), request, nonce)


async def _submit_one(intake: Intake, tx: SignedTransaction, wait_ms: int = 0) -> SubmitResult:
    (result,) = await intake.submit([tx], wait_ms)
    if not result.accepted:
        raise refused(result.code, result.message, hash=to_json(result.hash), **to_json(result.extra))
    return result
