"""Breaking the rules on purpose, for teaching: the switch, its token, and its routes.

Responsible for who may turn a fault on, for saying so loudly, and for refusing faults that do not exist. Must
not know how a fault is played: the engine plays it, with the validator's own key (`l1node.byzantine`).

The routes exist only with ``--enable-faults``. A fault lasts until it is turned off or the process ends.
"""

import hmac
import ipaddress
import logging
from collections.abc import Collection
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from chainkit.codec import CodecError, parse_json
from chainkit.ops_api import JsonResponse
from chainkit.problems import Problem, not_found
from chainkit.service import StartupError

DEVNET_TOKEN: Final = "layerlab-devnet-faults"
"""The token when none is given; everyone knows it, so it is for loopback only."""
MAX_BODY_BYTES: Final = 1024
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"example": {"name": "double-vote"}, "schema": {"type": "object"}}},
    }
}

_log = logging.getLogger("l1node.faults")


def check_fault_token(host: str, token: str) -> None:
    """Raises `StartupError` for an empty token, or for the well-known one where strangers can reach us."""
    if not token:
        raise StartupError("--fault-token is empty; give a secret, or leave out --enable-faults")
    if token == DEVNET_TOKEN and not _is_loopback(host):
        raise StartupError(
            f"faults could be turned on by anyone who reaches {host}: give a secret with --fault-token, "
            f"or listen on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def fault_router(active: set[str], known: Collection[str], token: str) -> APIRouter:
    """``GET|POST|DELETE /faults``. ``active`` is the engine's own set: what is in it, is played."""
    router = APIRouter(tags=["faults"])
    names = sorted(known)

    def shown() -> dict[str, Any]:
        return {"active": sorted(active), "known": names}

    @router.get("/faults", summary="Faults that are on, and those that there are")
    async def faults(request: Request) -> Response:
        _authorize(request, token)
        return JsonResponse(shown())

    @router.post(
        "/faults", summary="Turn a fault on: dishonest on purpose", status_code=201, openapi_extra=_BODY
    )
    async def turn_on(request: Request) -> Response:
        _authorize(request, token)
        name = _fault_name(await request.body(), names)
        active.add(name)
        _log.warning("DISHONEST ON PURPOSE", extra={"fields": {"fault": name}})
        return JsonResponse(shown(), 201)

    @router.delete("/faults", summary="Turn every fault off")
    async def turn_all_off(request: Request) -> Response:
        _authorize(request, token)
        active.clear()
        _log.warning("honest again")
        return JsonResponse(shown())

    @router.delete("/faults/{name}", summary="Turn one fault off")
    async def turn_off(request: Request, name: str) -> Response:
        _authorize(request, token)
        if name not in names:
            raise not_found("fault", name, known=names)
        active.discard(name)
        _log.warning("a fault is off", extra={"fields": {"fault": name, "still_on": sorted(active)}})
        return JsonResponse(shown())

    return router


def _authorize(request: Request, token: str) -> None:
    """Raises `Problem`: 401 without a token, 403 with a wrong one."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Problem(
            401, "token_required", "A token is required", "send Authorization: Bearer <fault token>"
        )
    if not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise Problem(403, "wrong_token", "The token is wrong", "it is the one given with --fault-token")


def _fault_name(body: bytes, known: list[str]) -> str:
    try:
        value = parse_json(body, limit=MAX_BODY_BYTES)
    except CodecError as error:
        raise Problem(400, "malformed_body", "The body is malformed", str(error)) from None
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or set(value) != {"name"}:
        raise Problem(
            400, "malformed_body", "The body is malformed", 'give {"name": "..."}, nothing else', known=known
        )
    if name not in known:
        raise not_found("fault", name, known=known)
    return name
