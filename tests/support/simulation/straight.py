"""The busiest routes of the services, straight to their handlers.

Responsible for that most requests do not go through routing, parameters and middleware, which cost
several times what the handlers do. Must not know what an answer means. What this hides (bounds on requests, the
checks of parameters) is in the way of one seed in ten, which takes every request through the app (`Setup.full_http`).
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from chainkit.backend import HEAD_REFS
from chainkit.problem_answers import answer
from chainkit.problems import MEDIA_TYPE as PROBLEM
from chainkit.problems import Problem
from l1node.node import BrokenNodeError, L1Node
from l1node.p2p_api import BlockPolls, take_body
from simulation.loop import begin
from simulation.network import Answer, Handler, call_app

_HEARD = Answer(204, b"", "")
_ACCOUNTS = "/accounts/"


def routes(app: Any, node: L1Node | None) -> Handler:
    """What answers a service's requests: its app, but for the busiest routes. ``node``: the L1 node, if it is one."""
    endpoints = _endpoints(app)
    status, account = endpoints.get(("GET", "/status")), endpoints.get(("GET", "/accounts/{address}"))
    submit = endpoints.get(("POST", "/transactions"))
    polls = None if node is None else BlockPolls(node)

    def handle(
        method: str, path: str, params: Mapping[str, Any], body: bytes, kind: str
    ) -> Answer | Coroutine[Any, Any, Answer]:
        if node is not None and path == "/p2p/messages":
            return _hear(node, body)
        if polls is not None and path == "/certified-blocks":
            return _show(polls, params)
        if path == "/status" and status is not None:
            return begin(_answer(status()))
        if path == "/transactions" and method == "POST" and submit is not None:
            return _answer(submit(_request(method, path, params, body, kind)))
        if path.startswith(_ACCOUNTS) and path.count("/") == 2 and account is not None:
            at = params.get("at", "head")
            if at in HEAD_REFS:
                return begin(_answer(account(path[len(_ACCOUNTS) :], at)))
        return call_app(app, method, path, params, body, kind)

    return handle


def through_app(app: Any) -> Handler:
    """Every request through the routes and middleware of an app."""
    return partial(call_app, app)


def _endpoints(app: Any) -> dict[tuple[str, str], Callable[..., Coroutine[Any, Any, Response]]]:
    """The handlers of an app by method and path."""
    found = {}
    pending = list(app.router.routes)
    for route in pending:
        if isinstance(route, APIRoute):
            found.update({(method, route.path): route.endpoint for method in route.methods})
        else:
            pending += getattr(getattr(route, "original_router", None), "routes", [])
    return found


def _request(method: str, path: str, params: Mapping[str, Any], body: bytes, kind: str) -> Request:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return waiting.pop()

    headers = [(b"content-type", kind.encode())] if kind else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    return Request({**scope, "query_string": urlencode(params).encode()}, receive)


async def _answer(work: Awaitable[Response]) -> Answer:
    try:
        response = await work
    except Problem as problem:
        response = answer(problem)
    except BrokenNodeError as error:
        response = answer(Problem(503, "node_broken", "The node stopped", str(error)))
    return Answer(response.status_code, bytes(response.body), response.headers.get("content-type", ""))


def _hear(node: L1Node, body: bytes) -> Answer | Coroutine[Any, Any, Answer]:
    try:
        rest = begin(take_body(node, body))
    except Problem as problem:
        return Answer(problem.status, b"", PROBLEM)
    return _HEARD if rest is None else _hear_on(rest)


async def _hear_on(rest: Awaitable[None]) -> Answer:
    try:
        await rest
    except Problem as problem:
        return Answer(problem.status, b"", PROBLEM)
    return _HEARD


async def _show(polls: BlockPolls, params: Mapping[str, Any]) -> Answer:
    try:
        blocks = await polls.answer(int(params["from"]), int(params["limit"]), int(params.get("wait", 0)))
    except Problem as problem:
        return Answer(problem.status, b"", PROBLEM)
    return Answer(200, blocks, "application/msgpack")
