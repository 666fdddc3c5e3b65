"""Problems as HTTP answers: whatever goes wrong in a service, it refuses in the one shape of `chainkit.problems`.

Responsible for turning refusals and errors into responses. Must not know which routes exist, and never shows a stack
trace.
"""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from chainkit.problems import MEDIA_TYPE, Problem, internal_error

_HTTP_CODES = {
    400: ("bad_request", "The request is malformed"),
    404: ("unknown_route", "There is nothing at this address"),
    405: ("method_not_allowed", "This address does not take this method"),
    413: ("body_too_large", "The body is too large"),
    415: ("unsupported_media_type", "The body is of a kind that this address does not take"),
    503: ("unavailable", "Not now"),
}

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def answer(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """The response that says it."""
    return Response(problem.body(), problem.status, headers, MEDIA_TYPE)


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of ``app`` a problem: those of routing and validation and unforeseen ones too."""

    @app.exception_handler(Problem)
    async def refused(_: Request, problem: Problem) -> Response:
        return answer(problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return answer(_from_validation(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["allow"] = _allowed(request)
        return answer(_from_http(request, error), headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        # Starlette raises it again after this answer, so the trace is in the log and only there.
        return answer(internal_error())


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
