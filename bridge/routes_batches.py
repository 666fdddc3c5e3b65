"""Batches and disputes: what was posted, whether it is true, and playing the dispute game by hand.

Responsible for those routes. Must not know how facts are established or calls are sent.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from bridge import abi
from bridge.actions import number, plain_call, read_object, read_write, require_dev
from bridge.backend import BridgeBackend
from bridge.follow import BRIDGE
from bridge.params import From, Limit, page, unknown
from bridge.routes_inbox import accepted, body_doc
from bridge.shapes import BATCH, DISPUTE, SENT
from bridge.views_batches import Json, batch_json, dispute_json
from chainkit.codec import to_json
from chainkit.openapi import HEX, HEX32, INTEGER, answers, listed, problems, shape
from chainkit.ops_api import JsonResponse, PathInt
from chainkit.problems import Problem
from rollup import player
from rollup.derived import DerivedBatch
from rollup.player import Move

_FIELDS = {"bisect": ("roots",), "choose": ("segment",), "prove": ("step", "step_proof", "witness")}
_MOVE_SCHEMA: dict[str, Json] = {
    "bisect": {"roots": {**listed(HEX32), "maxItems": abi.MAX_BISECTION}},
    "choose": {"segment": INTEGER},
    "prove": {"step": HEX, "step_proof": listed(HEX32), "witness": HEX},
}
_STAGE = {"bisect": abi.BISECT, "choose": abi.CHOOSE, "prove": abi.PROVE}


def batches_router(backend: BridgeBackend) -> APIRouter:
    """Batches and disputes."""
    router = APIRouter()
    router.include_router(_batches(backend))
    router.include_router(_disputes(backend))
    router.include_router(_moves(backend))
    return router


def _batch(backend: BridgeBackend, index: int) -> DerivedBatch:
    batches = backend.state.derivation.batches
    found = batches.get(index)
    if found is None:
        raise unknown("batch", index, "batches", len(batches))
    return found


def _dispute(backend: BridgeBackend, index: int) -> abi.Dispute:
    found = backend.state.dispute(index)
    if found is None:
        raise unknown("dispute", index, "disputes", len(backend.state.derivation.disputes))
    return found


def _batches(backend: BridgeBackend) -> APIRouter:
    router = APIRouter(tags=["batches"])
    state = backend.state

    @router.get(
        "/batches",
        summary="Batches, oldest first; without `from` the last ones",
        responses=answers(
            shape(batches=listed(BATCH), total=INTEGER, last=INTEGER, head=INTEGER, finalized=INTEGER)
        ),
    )
    async def batches(from_: From = None, limit: Limit = 20) -> Response:
        total = len(state.derivation.batches)
        shown = [batch_json(state, index) for index in page(total, from_, limit)]
        heads = {"head": state.derivation.head, "finalized": state.derivation.finalized}
        return JsonResponse({"batches": shown, "total": total, "last": total - 1, **heads})

    @router.get(
        "/batches/{n}",
        summary="A batch: L1's record beside the root that executing it here gave",
        responses=answers(BATCH) | problems(404),
    )
    async def batch(n: PathInt) -> Response:
        return JsonResponse(batch_json(state, _batch(backend, n).index))

    @router.post(
        "/batches/{n}/finalize",
        summary="Make a batch final once its window is over: anyone may",
        status_code=202,
        openapi_extra=body_doc(devnet={"from": "alice"}),
        responses=SENT | problems(404, 409, 422, 429),
    )
    async def finalize(n: PathInt, request: Request) -> Response:
        raw = await request.body()
        read_object(raw)
        _batch(backend, n)
        write = read_write(
            backend.l1, raw, BRIDGE, "finalize", (), plain_call(abi.BatchArgs(n)), {"batch": n}
        )
        return accepted(await backend.send_l1(write), batch=n, status="pending")

    return router


def _disputes(backend: BridgeBackend) -> APIRouter:
    router = APIRouter(tags=["disputes"])
    state = backend.state

    @router.get(
        "/disputes",
        summary="Disputes, oldest first; without `from` the last ones",
        responses=answers(shape(disputes=listed(DISPUTE), total=INTEGER, open=listed(INTEGER))),
    )
    async def disputes(from_: From = None, limit: Limit = 20) -> Response:
        found = state.derivation.disputes
        shown = [dispute_json(state, found[index], full=False) for index in page(len(found), from_, limit)]
        still = [dispute.index for dispute in state.derivation.open_disputes()]
        return JsonResponse({"disputes": shown, "total": len(found), "open": still})

    @router.get(
        "/disputes/{id}",
        summary="A dispute: whose turn, clocks, ranges, and every move so far",
        responses=answers(DISPUTE) | problems(404),
    )
    async def dispute(id: PathInt) -> Response:  # noqa: A002 - the name in the address
        return JsonResponse(dispute_json(state, _dispute(backend, id)))

    @router.post(
        "/disputes",
        summary="Challenge a batch: `batch` and the `state_root` that is true (by default what this service computed)",
        status_code=202,
        openapi_extra=body_doc(
            {"batch": INTEGER, "state_root": HEX32}, ("batch",), devnet={"from": "verifier", "batch": 1}
        ),
        responses=SENT | problems(404, 409, 422, 429),
    )
    async def challenge(request: Request) -> Response:
        raw = await request.body()

        def build(value: Json) -> Json:
            batch = _batch(backend, number(value, "batch"))
            root = value.get("state_root")
            if root is None:
                root = to_json(_true_root(batch, _first_false(backend, batch)))
            args = {"batch": batch.index, "state_root": root}
            return {"args": args, "value": state.settings.challenger_bond}

        write = read_write(backend.l1, raw, BRIDGE, "challenge", ("batch", "state_root"), build)
        return accepted(await backend.send_l1(write), status="pending")

    return router


def _first_false(backend: BridgeBackend, batch: DerivedBatch) -> int | None:
    """The first false batch of the line that a batch is in."""
    batches = backend.state.derivation.batches
    flagged = [index for index in backend.state.line(batch.index) if batches[index].flagged]
    return flagged[-1] if flagged else None


def _true_root(batch: DerivedBatch, first_false: int | None) -> bytes:
    if not batch.parent_matches:
        raise Problem(
            422,
            "stands_on_false_batch",
            "Not the batch to challenge",
            f"batch {batch.index} stands on false batch {first_false}: with that it falls",
        )
    if batch.computed_root == batch.record.state_root:
        raise Problem(
            422,
            "batch_is_true",
            "The batch claims a true root",
            f"batch {batch.index} claims what executing it gives; to challenge it all the same, and lose the "
            "bond, give a state_root",
        )
    return batch.computed_root


def _moves(backend: BridgeBackend) -> APIRouter:
    router = APIRouter(tags=["disputes"])

    def add(method: str, summary: str) -> None:
        fields = _FIELDS.get(method, ())

        @router.post(
            f"/disputes/{{id}}/{method}",
            name=f"dispute-{method}",
            summary=summary,
            status_code=202,
            openapi_extra=body_doc(_MOVE_SCHEMA.get(method), devnet={"from": "verifier"}),
            responses=SENT | problems(404, 409, 422, 429),
        )
        async def move(id: PathInt, request: Request) -> Response:  # noqa: A002 - the name in the address
            raw = await request.body()
            value = read_object(raw)
            dispute = _dispute(backend, id)
            build = await _builder(backend, dispute, method, value)
            write = read_write(backend.l1, raw, BRIDGE, method, fields, build, {"dispute": id})
            return accepted(await backend.send_l1(write), dispute=id, status="pending")

    add("bisect", "The defender's `roots` at the cut points (by default the true ones)")
    add("choose", "The challenger's `segment` (by default the first whose end is false)")
    add("prove", "The disputed step's `step`, `step_proof` and `witness` (by default made here)")
    add("timeout", "Call time: the side whose clock ran out loses")
    add("settle", "Return the challenger's bond of a dispute whose batch is void already")
    return router


async def _builder(
    backend: BridgeBackend, dispute: abi.Dispute, method: str, value: Json
) -> Callable[[Json], Json]:
    """What makes the call of a devnet request: of the fields it has, or of what was derived here."""
    fields = _FIELDS.get(method, ())
    if method not in _STAGE:
        return plain_call(abi.DisputeArgs(dispute.index))
    if "from" not in value or any(name in value for name in fields):
        return lambda given: {
            "args": {"dispute": dispute.index, **{name: given[name] for name in fields if name in given}},
            "value": 0,
        }
    require_dev(backend.l1, value)
    move = await _own_move(backend, dispute, method)
    return lambda _: {"args": "0x" + move.call.args.hex(), "value": 0}


async def _own_move(backend: BridgeBackend, dispute: abi.Dispute, method: str) -> Move:
    """The honest move, made from the derived batch. Raises `Problem` if it is not the time for it."""
    batch = backend.state.derivation.batches[dispute.batch]
    if batch.status != abi.PENDING:
        raise Problem(409, "dispute_moot", "Not now", f"batch {batch.index} is {batch.status}")
    if dispute.stage != _STAGE[method]:
        detail = f"dispute {dispute.index} awaits: {dispute.stage or 'nothing'} by {dispute.turn or 'nobody'}"
        raise Problem(409, "wrong_stage", "Not now", detail)
    move = await asyncio.to_thread(_compute_move, backend, dispute, batch)
    if move is None:
        raise Problem(409, "nothing_to_choose", "Not now", "every root of the defender is true")
    return move


def _compute_move(backend: BridgeBackend, dispute: abi.Dispute, batch: DerivedBatch) -> Move | None:
    trace = player.batch_trace(backend.l2.rules, batch)
    me = dispute.defender if dispute.turn == abi.DEFENDER else dispute.challenger
    settings: Any = backend.state.settings
    return player.next_move(dispute, trace, me, settings, backend.state.height, batch.step_hashes)
