"""Limits on what a stranger can make an HTTP service hold: an ASGI middleware.

Responsible for body size, body time, requests and body bytes under way, and for what other web pages may do.
Must not know which routes exist.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chainkit.problems import MEDIA_TYPE, Problem

MAX_BODY: Final = 4 * 1024 * 1024 + 1024  # bytes
MAX_BUFFERED: Final = 24 * 1024 * 1024  # bytes of all bodies together
MAX_REQUESTS: Final = 512
BODY_SECONDS: Final = 10.0
FORGET_BODY: Final = "layerlab.forget_body"
"""In the scope: to be called by an application that goes on without the body that it has read."""

WHOLE: Final = "layerlab.whole"
"""In the scope, if the server knows: the body has come, so that nothing needs a deadline."""

_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class HttpLimits:
    """Refuses, with a problem, what is too large, too slow, too much at once, or written by another site.

    A body is counted as it arrives, whatever Content-Length says, and nothing above ``max_body`` is passed
    on. Any web page may read (``Access-Control-Allow-Origin: *`` on GET); none may write, since a devnet
    signs for whoever asks: a write with an Origin other than the service's own is refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body: int = MAX_BODY,
        max_buffered: int = MAX_BUFFERED,
        max_requests: int = MAX_REQUESTS,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._app = app
        self._max_body = max_body
        self._max_buffered = max_buffered
        self._max_requests = max_requests
        self._body_seconds = body_seconds
        self._requests = 0
        self._buffered = 0
        self._coming: dict[_Request, None] = {}  # whose bodies have not come whole, longest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope["method"], dict(scope["headers"]))
        if refusal is not None:
            await _answer(refusal, send)
            return
        request = _Request(self, scope, receive, send)
        self._requests += 1
        try:
            await request.run(self._app, {**scope, FORGET_BODY: request.forget})
        finally:
            self._requests -= 1
            self._coming.pop(request, None)
            self._buffered -= request.size

    def _refusal(self, method: str, headers: Mapping[bytes, bytes]) -> Problem | None:
        if self._requests >= self._max_requests:
            return _busy("too many requests are under way")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 15 or int(length) > self._max_body):
            return _too_large(self._max_body)
        origin = headers.get(b"origin")
        if origin is not None and method not in _READS:
            own = origin.partition(b"://")[2]
            if own != headers.get(b"host"):
                return Problem(
                    403,
                    "cross_origin_write",
                    "Another site may not write here",
                    "send the request from this origin, or from a program that sends no Origin header",
                )
        return None

    def add(self, request: "_Request", size: int) -> Problem | None:
        """Count ``size`` more bytes of a body; the problem, if it is too much.

        If all together are, the one that has been coming for longest gives way: whoever sends quickly is not kept out
        by bodies that never end.
        """
        self._buffered += size
        if request.size > self._max_body:
            return _too_large(self._max_body)
        self._coming[request] = None
        while self._buffered > self._max_buffered:
            oldest = next(iter(self._coming))
            if oldest is request:
                return _busy("too many bodies are under way")
            del self._coming[oldest]
            self._buffered -= oldest.give_way()
        return None

    def forget(self, size: int) -> None:
        """So many bytes are held no more."""
        self._buffered -= size

    def whole(self, request: "_Request") -> None:
        """The body of a request has come."""
        self._coming.pop(request, None)

    @property
    def body_seconds(self) -> float:
        return self._body_seconds


class _BodyRefusedError(Exception):
    """Ends the application's read of the body; the answer is sent by `_Request`."""


class _Request:
    """One request under its limits. ``size`` is how many bytes of its body have arrived."""

    def __init__(self, limits: HttpLimits, scope: Scope, receive: Receive, send: Send) -> None:
        self._limits = limits
        self._open_to_all = scope["method"] in ("GET", "HEAD")
        self._receive = receive
        self._send = send
        self._deadline = None if WHOLE in scope else asyncio.get_running_loop().time() + limits.body_seconds
        self._complete = False
        self._started = False
        self._problem: Problem | None = None
        self._waiting: asyncio.Timeout | None = None
        self.size = 0

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            if self._problem is None:
                raise
        # Whatever the application made of the refused body, the answer is ours.
        if self._problem is not None and not self._started:
            await _answer(self._problem, self._send)

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        if self._problem is not None:
            raise _BodyRefusedError
        message = await (self._receive() if self._deadline is None else self._receive_by(self._deadline))
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.size += size
            problem = self._limits.add(self, size)
            if problem is not None:
                self._refuse(problem)
            self._complete = not message.get("more_body", False)
            if self._complete:
                self._limits.whole(self)
        return message

    async def _receive_by(self, deadline: float) -> Message:
        try:
            async with asyncio.timeout_at(deadline) as self._waiting:
                return await self._receive()
        except TimeoutError:
            if self._problem is None:  # else it was told to give way
                detail = f"it has {self._limits.body_seconds:g} s to arrive"
                self._problem = Problem(408, "body_too_slow", "The body came too slowly", detail)
            raise _BodyRefusedError from None

    def forget(self) -> None:
        """The body is held no more."""
        self._limits.forget(self.size)
        self.size = 0

    def give_way(self) -> int:
        """End the reading of the body, and let go of it; how many bytes it had."""
        size, self.size = self.size, 0
        self._problem = _busy("too many bodies are under way")
        if self._waiting is not None and not self._waiting.expired():
            with contextlib.suppress(RuntimeError):  # it is between two reads, and will find the problem
                self._waiting.reschedule(0.0)
        return size

    def _refuse(self, problem: Problem) -> None:
        self._problem = problem
        raise _BodyRefusedError

    async def send(self, message: Message) -> None:
        if self._problem is not None and not self._started:
            return
        if message["type"] == "http.response.start":
            self._started = True
            if self._open_to_all:
                headers = [*message.get("headers", ()), (b"access-control-allow-origin", b"*")]
                message = {**message, "headers": headers}
        await self._send(message)


def _too_large(limit: int) -> Problem:
    return Problem(413, "body_too_large", "The body is too large", f"a body is at most {limit} bytes")


def _busy(detail: str) -> Problem:
    return Problem(503, "overloaded", "The service is overloaded", f"{detail}; try again in a moment")


async def _answer(problem: Problem, send: Send) -> None:
    body = problem.body()
    headers: list[tuple[bytes, Any]] = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    if problem.status in (408, 503):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
