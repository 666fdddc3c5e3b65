"""The target of HTTP: the way of a request through the limits and the short way of a bulk submission.

Responsible for requests as a client may send them (any header, any chunks, a client that goes away) and for what must
hold of the answer. Must not know what is in a body.
"""

import asyncio
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from chainkit.backend import SubmitResult
from chainkit.codec import encode
from chainkit.execution import Rules
from chainkit.http_limits import HttpLimits
from chainkit.intake import BulkRoute, Intake
from chainkit.transaction import SignedTransaction
from fuzzing import objects
from fuzzing.target import Target

MAX_BODY = 2048
PATHS = ("/transactions", "/transactions/", "/status")
METHODS = ("POST", "GET", "PUT")


class _Backend:
    """Takes everything, and counts."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.taken = rules, 0

    async def submit(self, transactions: Sequence[SignedTransaction]) -> Sequence[SubmitResult]:
        self.taken += len(transactions)
        return [SubmitResult(tx.id, True) for tx in transactions]

    def included_at(self, _: bytes) -> None:
        return None

    def transaction(self, _: bytes) -> None:
        return None


async def _elsewhere(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def request(data: bytes) -> bool:
    """Bytes: method, path, a choice of headers, a header's length and text, query's length and text, then chunks."""
    if len(data) < 5:
        return False
    method, path, flags = METHODS[data[0] % 3], PATHS[data[1] % 3], data[2]
    header, rest = data[4 : 4 + data[3]], data[4 + data[3] :]
    query, rest = rest[1 : 1 + rest[0]] if rest else b"", rest[1 + rest[0] :] if rest else b""
    headers = [(b"host", b"here")]
    if flags & 1:
        headers.append((b"content-type", b"application/msgpack"))
    for bit, name in ((2, b"content-type"), (4, b"accept"), (8, b"content-length"), (16, b"origin")):
        if flags & bit:
            headers.append((name, header))
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": headers}
    return _loop().run_until_complete(_answer(scope, rest, gone=bool(flags & 32), cut=flags >> 6))


async def _answer(scope: dict[str, Any], body: bytes, *, gone: bool, cut: int) -> bool:
    backend = _Backend(objects.world().chain.rules)
    limits = HttpLimits(BulkRoute(_elsewhere, Intake(backend)), max_body=MAX_BODY)  # type: ignore[arg-type]
    size = max(1, len(body) // (1 + cut))
    chunks = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    coming = [
        {"type": "http.request", "body": chunk, "more_body": gone or at + 1 < len(chunks)}
        for at, chunk in enumerate(chunks)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await limits(scope, receive, send)  # type: ignore[arg-type]
    assert (limits._requests, limits._buffered) == (0, 0), "what a request held is given back"
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert len(starts) == (1 if sent else 0), "one answer"
    assert sent or gone, "an answer to whoever waits for it"
    status = starts[0]["status"] if starts else 0
    assert status == 202 or backend.taken == 0, "what was refused was not taken"
    if status not in (0, 202, 404):
        assert 400 <= status < 500 or status == 503
        problem = json.loads(sent[-1]["body"])
        assert problem["status"] == status
        assert dict(starts[0]["headers"])[b"content-type"] == b"application/problem+json"
    return status == 202


def _requests() -> list[bytes]:
    body = encode([tx.wire for tx in objects.transactions()])
    plain = bytes([0, 0, 1, 0, 0]) + body
    accepting = bytes([0, 0, 5 + 64, 19]) + b"application/msgpack" + bytes([7]) + b"wait=10" + body
    return [plain, accepting, bytes([0, 0, 1 + 8, 9]) + b"999999999" + bytes(9), bytes([1, 2, 0, 0, 0])]


REQUESTS = Target("http-intake", "requests to POST /transactions", request, _requests, handler=True)
