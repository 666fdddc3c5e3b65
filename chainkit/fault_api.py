"""The routes by which a service is made dishonest on purpose, for teaching.

Responsible for ``GET|POST|DELETE /faults``, their token, and for saying loudly what was turned on. Must not
know how a fault is played.

The routes exist only with ``--enable-faults``. A fault lasts until it is turned off or the process ends.
"""

import hmac
import logging
from typing import Any, Final, Protocol

from fastapi import APIRouter, Request
from starlette.responses import Response

from chainkit.codec import CodecError, parse_json
from chainkit.openapi import OBJECT, SECURED, answers, body, problems, shape
from chainkit.ops_api import JsonResponse
from chainkit.problems import Problem, not_found

MAX_BODY_BYTES: Final = 4096

_log = logging.getLogger("layerlab.faults")


class FaultSwitch(Protocol):
    """The faults of a service."""

    def shown(self) -> dict[str, Any]:
        """The JSON answer: what is on ("active") and what there is ("known")."""

    def set(self, body: Any) -> None:
        """Turn a fault on. Raises `ValueError` for wrong parameters, `LookupError` for an unknown name."""

    def clear(self, name: str | None = None) -> None:
        """Turn one fault off, or all. Raises `LookupError` for an unknown name."""


def fault_router(switch: FaultSwitch, token: str, example: dict[str, Any]) -> APIRouter:
    """The routes over ``switch``; ``example`` is a body for the docs."""
    router = APIRouter(tags=["faults"])
    asked = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    taken = body({"application/json": {"example": example, "schema": asked}}, security=SECURED)
    secured = {"security": SECURED}
    shown = shape(active={}, known=OBJECT)
    token_problems = problems(401, 403)

    @router.get(
        "/faults",
        summary="Faults that are on, and those that there are",
        openapi_extra=secured,
        responses=answers(shown) | token_problems,
    )
    async def faults(request: Request) -> Response:
        _authorize(request, token)
        return JsonResponse(switch.shown())

    @router.post(
        "/faults",
        summary="Turn a fault on: dishonest on purpose",
        status_code=201,
        openapi_extra=taken,
        responses=answers(shown, 201) | token_problems | problems(404),
    )
    async def turn_on(request: Request) -> Response:
        _authorize(request, token)
        _turn_on(switch, await request.body())
        return JsonResponse(switch.shown(), 201)

    @router.delete(
        "/faults",
        summary="Turn every fault off",
        openapi_extra=secured,
        responses=answers(shown) | token_problems,
    )
    async def turn_all_off(request: Request) -> Response:
        _authorize(request, token)
        switch.clear()
        _log.warning("honest again")
        return JsonResponse(switch.shown())

    @router.delete(
        "/faults/{name}",
        summary="Turn one fault off",
        openapi_extra=secured,
        responses=answers(shown) | token_problems | problems(404),
    )
    async def turn_off(request: Request, name: str) -> Response:
        _authorize(request, token)
        try:
            switch.clear(name)
        except LookupError:
            raise not_found("fault", name, known=_known(switch)) from None
        _log.warning("a fault is off", extra={"fields": {"fault": name}})
        return JsonResponse(switch.shown())

    return router


def _turn_on(switch: FaultSwitch, body: bytes) -> None:
    try:
        value = parse_json(body, limit=MAX_BODY_BYTES)
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str):
            raise CodecError('give {"name": "..."} and the parameters of that fault')
        switch.set(value)
    except LookupError:
        raise not_found("fault", name, known=_known(switch)) from None
    except ValueError as error:
        raise Problem(
            400, "malformed_body", "The body is malformed", str(error), known=_known(switch)
        ) from None
    _log.warning("DISHONEST ON PURPOSE", extra={"fields": {"fault": name}})


def _known(switch: FaultSwitch) -> list[str]:
    return sorted(switch.shown()["known"])


def _authorize(request: Request, token: str) -> None:
    """Raises `Problem`: 401 without a token, 403 with a wrong one."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Problem(
            401, "token_required", "A token is required", "send Authorization: Bearer <fault token>"
        )
    if not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise Problem(
            403,
            "wrong_token",
            "The token is wrong",
            "the fault token is wrong; it is the one that the service was started with (--fault-token)",
        )
