"""RFC 9457 problem details: the one shape in which every HTTP service refuses.

Responsible for turning refusals and errors into ``application/problem+json`` with a stable ``code``.
Must not know which routes exist, and never shows a stack trace.
"""

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

MEDIA_TYPE = "application/problem+json"

_HTTP_CODES = {
    400: ("bad_request", "The request is malformed"),
    404: ("unknown_route", "There is nothing at this address"),
    405: ("method_not_allowed", "This address does not take this method"),
    413: ("body_too_large", "The body is too large"),
    415: ("unsupported_media_type", "The body is of a kind that this address does not take"),
    503: ("unavailable", "Not now"),
}

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class Problem(Exception):  # noqa: N818 - RFC 9457's own term
    """A refusal. ``code`` is stable and for programs; ``title`` is the same for each code, ``detail`` is not.

    ``extra`` are further members of the JSON object, such as ``known`` for what does exist.
    """

    def __init__(self, status: int, code: str, title: str, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or title)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.extra = extra

    def to_json(self) -> dict[str, Any]:
        """The problem details object."""
        return {
            "type": f"urn:layerlab:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail or self.title,
            **self.extra,
        }

    def body(self) -> bytes:
        """The object as JSON bytes."""
        return json.dumps(self.to_json()).encode()

    def response(self, headers: dict[str, str] | None = None) -> Response:
        return Response(self.body(), self.status, headers, MEDIA_TYPE)


def not_found(what: str, name: object, **extra: Any) -> Problem:
    """404 for a thing that is not there; give ``known=`` where a list of what is there is short."""
    shown = str(name)[:100]
    return Problem(
        404, f"unknown_{what}", f"No such {what.replace('_', ' ')}", f"{shown} is not known", **extra
    )


def internal_error() -> Problem:
    """500 for what nobody has foreseen."""
    return Problem(500, "internal_error", "The service failed", "the log of the service says why")


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of ``app`` a problem: those of routing and validation and unforeseen ones too."""

    @app.exception_handler(Problem)
    async def refused(_: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _from_validation(error).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["allow"] = _allowed(request)
        return _from_http(request, error).response(headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        # Starlette raises it again after this answer, so the trace is in the log and only there.
        return internal_error().response()


def _from_validation(error: RequestValidationError) -> Problem:
    first = error.errors()[0] if error.errors() else {"loc": (), "msg": "invalid"}
    where = ".".join(str(part)[:50] for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")[:200]
    return Problem(422, "invalid_parameter", "A parameter is invalid", f"{where}: {message}", parameter=where)


def _from_http(request: Request, error: HTTPException) -> Problem:
    code, title = _HTTP_CODES.get(error.status_code, (f"http_{error.status_code}", "The request was refused"))
    detail = str(error.detail)[:200]
    if error.status_code == 404:
        detail = f"{request.method} {request.url.path[:100]} is not served here; see /docs"
    return Problem(error.status_code, code, title, detail)


def _allowed(request: Request) -> str:
    """The methods of an address: a route knows its own only, and one address may have several routes."""
    taken = (
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    )
    return ", ".join(taken)


class ProblemResponse(Response):
    """The answer of a route that never does anything else than refuse."""

    media_type = MEDIA_TYPE
