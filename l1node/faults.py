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

from chainkit.codec import Address, CodecError, parse_hex, parse_json, to_json
from chainkit.genesis import Genesis
from chainkit.ops_api import JsonResponse
from chainkit.problems import Problem, not_found
from chainkit.service import StartupError
from chainkit.submission import dev_key
from l1node.byzantine import FAULTS, ByzantineEngine

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


class FaultSwitch:
    """What was turned on and not off again. A fault that is played once is still dishonest afterwards."""

    def __init__(self, engine: ByzantineEngine, genesis: Genesis) -> None:
        self._engine = engine
        self._genesis = genesis
        self._on: set[str] = set()

    @property
    def on(self) -> list[str]:
        """The faults that were turned on, played or not."""
        return sorted(self._on)

    def turn_on(self, name: str, censored: Collection[Address]) -> None:
        """Play a fault from now on. Raises `UnknownFaultError`."""
        self._engine.start_fault(name)
        if name == "censor":
            self._engine.censored = frozenset(censored)
        self._on.add(name)
        _log.warning("DISHONEST ON PURPOSE", extra={"fields": {"fault": name}})

    def turn_off(self, *names: str) -> None:
        """Play these no more."""
        for name in names:
            self._engine.stop_fault(name)
            self._on.discard(name)
        _log.warning("faults are off", extra={"fields": {"faults": list(names), "still_on": self.on}})

    def to_json(self) -> dict[str, Any]:
        """``active`` will be or is being played, ``played`` has been, ``known`` says what each does."""
        active = self._engine.faults & self._on
        return {
            "active": sorted(active),
            "played": sorted(self._on - active),
            "censored": [to_json(address) for address in sorted(self._engine.censored)],
            "known": FAULTS,
        }

    def address(self, text: Any) -> Address:
        """An account by name or address. Raises `Problem`."""
        if isinstance(text, str) and text.startswith("0x"):
            try:
                return parse_hex(text, "censored", 32)
            except CodecError as error:
                raise _malformed(str(error)) from None
        return dev_key(self._genesis, text).address


def fault_router(switch: FaultSwitch, token: str) -> APIRouter:
    """``GET|POST|DELETE /faults`` and ``DELETE /faults/{name}``, all with the token."""
    router = APIRouter(tags=["faults"])
    names = sorted(FAULTS)

    @router.get("/faults", summary="Faults that are on, and those that there are")
    async def faults(request: Request) -> Response:
        _authorize(request, token)
        return JsonResponse(switch.to_json())

    @router.post(
        "/faults",
        summary="Turn a fault on: dishonest on purpose",
        description="`censor` takes `censored`: names or addresses to leave out of blocks (none: all).",
        status_code=201,
        openapi_extra=_BODY,
    )
    async def turn_on(request: Request) -> Response:
        _authorize(request, token)
        name, censored = _read(await request.body())
        switch.turn_on(name, [switch.address(text) for text in censored])
        return JsonResponse(switch.to_json(), 201)

    @router.delete("/faults", summary="Turn every fault off")
    async def turn_all_off(request: Request) -> Response:
        _authorize(request, token)
        switch.turn_off(*names)
        return JsonResponse(switch.to_json())

    @router.delete("/faults/{name}", summary="Turn one fault off")
    async def turn_off(request: Request, name: str) -> Response:
        _authorize(request, token)
        if name not in FAULTS:
            raise not_found("fault", name, known=names)
        switch.turn_off(name)
        return JsonResponse(switch.to_json())

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


def _read(body: bytes) -> tuple[str, list[Any]]:
    """The fault's name and whom it is about. Raises `Problem`."""
    try:
        value = parse_json(body, limit=MAX_BODY_BYTES)
    except CodecError as error:
        raise _malformed(str(error)) from None
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str):
        raise _malformed('give {"name": "..."}')
    if name not in FAULTS:
        raise not_found("fault", name, known=sorted(FAULTS))
    allowed = {"name", "censored"} if name == "censor" else {"name"}
    censored = value.get("censored", [])
    if set(value) - allowed or not isinstance(censored, list):
        raise _malformed(f"{name} takes {', '.join(sorted(allowed))}")
    return name, censored


def _malformed(detail: str) -> Problem:
    return Problem(400, "malformed_body", "The body is malformed", detail, known=sorted(FAULTS))
