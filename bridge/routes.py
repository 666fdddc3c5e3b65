"""Every route of the bridge service, put together.

Responsible for what is about the bridge as a whole: status, books, genesis, events, health, metrics. Must not
know how facts are established.
"""

from fastapi import APIRouter
from starlette.responses import Response

from bridge.backend import BridgeBackend
from bridge.routes_batches import batches_router
from bridge.routes_inbox import inbox_router
from bridge.routes_withdrawals import withdrawals_router
from bridge.shapes import BRIDGE, STATUS
from bridge.views_bridge import bridge_json, heads_json
from chainkit.genesis import genesis_to_json
from chainkit.openapi import OBJECT, answers
from chainkit.ops_api import JsonResponse, events_router, health_router, metrics_router
from chainkit.views import json_bytes


def bridge_router(backend: BridgeBackend) -> APIRouter:
    """All of it."""
    router = APIRouter()
    router.include_router(_overview(backend))
    router.include_router(inbox_router(backend))
    router.include_router(withdrawals_router(backend))
    router.include_router(batches_router(backend))
    router.include_router(events_router(backend.events))
    router.include_router(health_router(backend.ready))
    router.include_router(metrics_router(backend.metrics))
    return router


def _overview(backend: BridgeBackend) -> APIRouter:
    router = APIRouter(tags=["bridge"])
    l1_genesis = json_bytes(genesis_to_json(backend.l1.genesis))
    l2_genesis = json_bytes(genesis_to_json(backend.l2.genesis))

    @router.get(
        "/status",
        summary="Where the service stands: chains, heads, batches, and whether the books hold",
        responses=answers(STATUS),
    )
    async def status() -> Response:
        return JsonResponse({**backend.status(), "heads": heads_json(backend.state)})

    @router.get(
        "/bridge",
        summary="Settings, totals, heads, batches, and the live invariant term by term",
        responses=answers(BRIDGE),
    )
    async def bridge() -> Response:
        return JsonResponse(bridge_json(backend.state))

    @router.get(
        "/genesis",
        summary="L1's genesis file; L2's is in its bridge contract's parameters",
        responses=answers(OBJECT),
    )
    @router.get("/genesis/l1", summary="L1's genesis file", responses=answers(OBJECT))
    async def l1() -> Response:
        return Response(l1_genesis, media_type="application/json")

    @router.get("/genesis/l2", summary="L2's genesis file", responses=answers(OBJECT))
    async def l2() -> Response:
        return Response(l2_genesis, media_type="application/json")

    return router
