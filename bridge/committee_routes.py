"""Every route of the bridge service of a committee bridge.

Responsible for the same addresses as a rollup's bridge serves: those that have no meaning here say why. Must not
know how facts are established or calls are sent.
"""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from bridge import actions
from bridge import committee_views as views
from bridge.actions import read_write
from bridge.committee_abi import BRIDGE, GATEWAY
from bridge.committee_backend import CommitteeBackend
from bridge.committee_follow import Lane, Passage
from bridge.hints import tracked_of
from bridge.params import AddressText, From, Id, Limit, page, parse_address, parse_id, unknown
from bridge.routes_inbox import MOVES, accepted, body_doc, early_json, failed_json, hash_of
from bridge.shapes import COMMITTEE_BRIDGE, COMMITTEE_STATUS, PASSAGE, SENT, WITHDRAWAL_PASSAGE
from bridge.views_batches import Json
from chainkit.codec import Bytes32, to_json
from chainkit.genesis import genesis_to_json
from chainkit.openapi import INTEGER, OBJECT, answers, listed, problems, shape
from chainkit.ops_api import JsonResponse, events_router, health_router, metrics_router
from chainkit.problem_answers import ProblemResponse
from chainkit.problems import Problem
from chainkit.views import json_bytes

_BATCHES = "a side chain orders its own blocks under its own validators: it posts no batches to L1"
_FORCED = "L1 orders nothing of a side chain, so nothing can be forced through it: its validators include or leave out"
_DISPUTES = (
    "nothing of the side chain is proven to L1, so nothing is disputed: what m of n operators attest is paid"
)
_ESCAPE = (
    "L1 holds no state of the side chain that a balance could be proven by: without operators nothing leaves"
)
_CLAIMS = "there is nothing to claim: the attestation that makes it m of n pays the recipient"

_ELSEWHERE = (
    ("/batches", "no_batches", _BATCHES),
    ("/disputes", "no_disputes", _DISPUTES),
    ("/forced-transactions", "no_forced_transactions", _FORCED),
    ("/freeze", "no_escape", _ESCAPE),
    ("/exits", "no_escape", _ESCAPE),
    ("/refunds", "no_escape", _ESCAPE),
)
"""Addresses of a rollup's bridge, and why there is no such thing here."""


def committee_router(backend: CommitteeBackend) -> APIRouter:
    """All of it."""
    router = APIRouter()
    router.include_router(_overview(backend))
    router.include_router(_deposits(backend))
    router.include_router(_withdrawals(backend))
    router.include_router(_absent())
    router.include_router(events_router(backend.events))
    router.include_router(health_router(backend.pair.ready))
    router.include_router(metrics_router(backend.metrics))
    return router


def _overview(backend: CommitteeBackend) -> APIRouter:
    router = APIRouter(tags=["bridge"])
    l1_genesis = json_bytes(genesis_to_json(backend.l1.genesis))
    l2_genesis = json_bytes(genesis_to_json(backend.side.genesis))

    @router.get(
        "/status",
        summary="Where the service stands: chains, heads, and whether the books hold",
        responses=answers(COMMITTEE_STATUS),
    )
    async def status() -> Response:
        return JsonResponse(backend.status())

    @router.get(
        "/bridge",
        summary="Parameters, the committee, totals, and the live invariant term by term",
        responses=answers(COMMITTEE_BRIDGE),
    )
    async def bridge() -> Response:
        return JsonResponse(views.bridge_json(backend.state, backend.pair.heads_json()))

    @router.get("/genesis", summary="L1's genesis file", responses=answers(OBJECT))
    @router.get("/genesis/l1", summary="L1's genesis file", responses=answers(OBJECT))
    async def l1() -> Response:
        return Response(l1_genesis, media_type="application/json")

    @router.get("/genesis/l2", summary="The side chain's genesis file", responses=answers(OBJECT))
    async def l2() -> Response:
        return Response(l2_genesis, media_type="application/json")

    return router


def _page(lane: Lane, address: bytes | None, start: int | None, limit: int) -> tuple[list[Passage], int]:
    """The passages of a page (of or to an address), and how many there are."""
    indices = range(len(lane.passages)) if address is None else lane.by_address.get(address, [])
    return [lane.passages[indices[i]] for i in page(len(indices), start, limit)], len(indices)


def _find(lane: Lane, key: int | Bytes32, what: str) -> Passage | None:
    """A passage by index or hash; None if no final block has that hash. Raises `Problem`."""
    index = key if isinstance(key, int) else lane.by_tx.get(key)
    if index is None:
        return None
    if index >= len(lane.passages):
        raise unknown(what, index, f"{what}s", len(lane.passages))
    return lane.passages[index]


# --- deposits ---


def _deposits(backend: CommitteeBackend) -> APIRouter:
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
        responses=answers(shape(deposits=listed(PASSAGE), total=INTEGER)),
    )
    async def deposits(address: AddressText | None = None, from_: From = None, limit: Limit = 20) -> Response:
        who = None if address is None else parse_address(backend.l1.genesis, address)
        found, total = _page(state.deposits, who, from_, limit)
        return JsonResponse({"deposits": [views.deposit_json(state, d) for d in found], "total": total})

    @router.get(
        "/deposits/{id}",
        summary="A deposit by index or L1 transaction hash: where it stands",
        responses=answers(PASSAGE) | problems(404),
    )
    async def one(id: Id) -> Response:  # noqa: A002 - the name in the address
        key = parse_id(id, "deposit")
        found = _find(state.deposits, key, "deposit")
        if found is not None:
            return JsonResponse(views.deposit_json(state, found))
        assert isinstance(key, bytes)
        return JsonResponse(await _early_deposit(backend, key))

    return router


async def _early_deposit(backend: CommitteeBackend, tx_id: Bytes32) -> Json:
    """A deposit that is in no final block here: failed, on L1, or only pending."""
    threshold = backend.state.params.threshold
    failed = backend.failed(backend.pair.l1, tx_id, BRIDGE, "deposit")
    if failed is not None:
        about, stored = failed
        return views.early_deposit_json(tx_id, about, failed_json(stored, tx_id), threshold)
    told = await backend.told_deposit(tx_id)
    about_or_none = backend.tracking.get(tx_id) if told is None else told.about
    if about_or_none is None or about_or_none.method != "deposit":
        raise unknown("deposit", to_json(tx_id), "deposits", len(backend.state.deposits.passages))
    return views.early_deposit_json(tx_id, about_or_none, early_json(told), threshold)


# --- withdrawals ---


def _withdrawals(backend: CommitteeBackend) -> APIRouter:
    router = APIRouter(tags=["withdrawals"])
    state = backend.state
    threshold = state.params.threshold

    @router.post(
        "/withdrawals",
        summary="Withdraw: a signed side chain call of gateway.withdraw, or on a devnet from, to and amount (gwei)",
        status_code=202,
        openapi_extra=body_doc(
            MOVES, ("amount",), devnet={"from": "bob", "to": "bob", "amount": 1_000_000_000}
        ),
        responses=SENT | problems(409, 422, 429),
    )
    async def withdraw(request: Request) -> Response:
        raw = await request.body()
        write = read_write(backend.side, raw, GATEWAY, "withdraw", ("to", "amount"), actions.withdraw_call)
        answer = await backend.send_side(write)
        tx_id = hash_of(answer)
        backend.tracking.add(tx_id, tracked_of(write))
        return accepted(answer, id=to_json(tx_id), hash=to_json(tx_id), status=views.WAITING)

    @router.get(
        "/withdrawals",
        summary="Withdrawals by or to an address, oldest first",
        responses=answers(shape(withdrawals=listed(WITHDRAWAL_PASSAGE), total=INTEGER)),
    )
    async def withdrawals(
        address: AddressText | None = None, from_: From = None, limit: Limit = 20
    ) -> Response:
        who = None if address is None else parse_address(backend.side.genesis, address)
        found, total = _page(state.withdrawals, who, from_, limit)
        early = [] if who is None else backend.tracked_withdrawals(who)
        shown = [views.withdrawal_json(state, w) for w in found]
        waiting = [views.early_withdrawal_json(tx_id, about, None, threshold) for tx_id, about in early]
        return JsonResponse({"withdrawals": [*shown, *waiting[:limit]], "total": total + len(waiting)})

    @router.get(
        "/withdrawals/{id}",
        summary="A withdrawal by index or side chain transaction hash: status, attestations, what it waits for",
        responses=answers(WITHDRAWAL_PASSAGE) | problems(404),
    )
    async def one(id: Id) -> Response:  # noqa: A002 - the name in the address
        return JsonResponse(await _withdrawal(backend, id))

    @router.post(
        "/withdrawals/{id}/claim",
        summary="There is nothing to claim here: 409 says why",
        status_code=409,
        response_class=ProblemResponse,
        responses=problems(404, 409),
    )
    async def claim(id: Id) -> Response:  # noqa: A002 - the name in the address
        shown = await _withdrawal(backend, id)
        if shown["status"] == views.CLAIMED:
            raise Problem(409, "already_claimed", "Already claimed", f"withdrawal {shown['index']} was paid")
        raise Problem(409, "no_claims", "Nothing to claim", _CLAIMS, waits_for=shown["waits_for"])

    return router


async def _withdrawal(backend: CommitteeBackend, text: str) -> Json:
    """A withdrawal by index or hash, as it is shown. Raises `Problem`."""
    state, key = backend.state, parse_id(text, "withdrawal")
    found = _find(state.withdrawals, key, "withdrawal")
    if found is not None:
        return views.withdrawal_json(state, found)
    assert isinstance(key, bytes)
    threshold = state.params.threshold
    failed = backend.failed(backend.pair.side, key, GATEWAY, "withdraw")
    if failed is not None:
        about, stored = failed
        progress = views.failed_withdrawal(stored.receipt.code, stored.receipt.message)
        return views.withdrawal_shape(key, about, progress, stored.height, threshold)
    told = await backend.told_withdrawal(key)
    about_or_none = backend.tracking.get(key) if told is None else told.about
    if about_or_none is None or about_or_none.method != "withdraw":
        raise unknown("withdrawal", to_json(key), "withdrawals", len(state.withdrawals.passages))
    return views.early_withdrawal_json(key, about_or_none, told, threshold)


# --- what a committee bridge does not have ---


def _absent() -> APIRouter:
    router = APIRouter(tags=["not of this bridge"])

    def add(path: str, code: str, why: str) -> None:
        async def nothing() -> Response:
            raise Problem(404, code, "Not of a committee bridge", why, kind="committee")

        async def never() -> Response:
            raise Problem(409, code, "Not of a committee bridge", why, kind="committee")

        more: dict[str, Any] = {
            "summary": f"Not of this bridge: {why.split(':', maxsplit=1)[0]}",
            "response_class": ProblemResponse,
        }
        for where in (path, path + "/{rest:path}"):
            router.get(where, status_code=404, responses=problems(404), **more)(nothing)
            router.post(where, status_code=409, responses=problems(404, 409), **more)(never)

    for path, code, why in _ELSEWHERE:
        add(path, code, why)
    return router
