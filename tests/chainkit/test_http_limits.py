"""Limits on what a stranger can make a service hold: each at its edge, over the middleware itself."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from chainkit.http_limits import HttpLimits

CHUNK = 100


class Application:
    """Reads a whole body and answers with its length; ``most`` is the longest that it ever held."""

    def __init__(self) -> None:
        self.most = 0
        self.hold: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            self.most = max(self.most, len(body))
            more = message.get("more_body", False)
        if self.hold is not None:
            await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % len(body)})


class Client:
    """One request: ``read`` counts the bytes of its body that the service asked for."""

    def __init__(
        self, chunks: Iterable[bytes], headers: dict[str, str] | None = None, method: str = "POST"
    ) -> None:
        self._chunks = list(chunks)
        self._method = method
        self._headers = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self.read = 0
        self.stalls = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}

    async def send_to(self, app: HttpLimits) -> int:
        """The status of the answer."""
        await app(
            {"type": "http", "method": self._method, "headers": self._headers}, self._receive, self._take
        )
        return self.status

    async def _receive(self) -> Message:
        if not self._chunks:
            await asyncio.Event().wait()  # a client that sends no more and stays
        chunk = self._chunks.pop(0)
        self.read += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks) or self.stalls}

    async def _take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


@pytest.mark.parametrize("length", [None, "1", "0", "nonsense"])
def test_a_body_is_counted_as_it_arrives_whatever_its_length_is_said_to_be(length: str | None) -> None:
    app = Application()
    client = Client([bytes(CHUNK)] * 1000, {} if length is None else {"content-length": length})
    assert run(client.send_to(HttpLimits(app, max_body=5 * CHUNK))) == 413
    assert app.most <= 5 * CHUNK
    assert client.read == 6 * CHUNK


def test_a_body_that_says_how_large_it_is_is_refused_unread() -> None:
    client = Client([bytes(CHUNK)], {"content-length": str(5 * CHUNK + 1)})
    assert run(client.send_to(HttpLimits(Application(), max_body=5 * CHUNK))) == 413
    assert client.read == 0


def test_the_largest_body_that_is_allowed_passes() -> None:
    client = Client([bytes(CHUNK)] * 5, {"content-length": str(5 * CHUNK)})
    assert run(client.send_to(HttpLimits(Application(), max_body=5 * CHUNK))) == 200


def test_all_bodies_together_are_bounded_and_room_comes_back() -> None:
    async def story() -> None:
        app = Application()
        limits = HttpLimits(app, max_body=5 * CHUNK, max_buffered=9 * CHUNK)
        app.hold = asyncio.Event()
        first = asyncio.create_task(Client([bytes(5 * CHUNK)]).send_to(limits))
        await asyncio.sleep(0)
        assert await Client([bytes(5 * CHUNK)]).send_to(limits) == 503
        app.hold.set()
        assert await first == 200
        assert await Client([bytes(5 * CHUNK)]).send_to(limits) == 200

    run(story())


def test_bodies_that_never_end_give_way_to_one_that_comes_at_once() -> None:
    """P23, P9: a few connections send nearly whole bodies and stop, so that no vote and no transfer has room."""

    async def story() -> None:
        limits = HttpLimits(Application(), max_body=5 * CHUNK, max_buffered=10 * CHUNK)
        slow = []
        for _ in range(2):
            client = Client([bytes(CHUNK)] * 5)
            client.stalls = True
            slow.append(asyncio.create_task(client.send_to(limits)))
            while client.read < 5 * CHUNK:
                await asyncio.sleep(0)
        assert await Client([bytes(CHUNK)]).send_to(limits) == 200
        assert await slow[0] == 503, "who has taken longest"
        assert not slow[1].done(), "one made room enough"
        assert await Client([bytes(CHUNK)] * 5).send_to(limits) == 200, "all that it held has come back"
        assert not slow[1].done(), "and that was room enough again"
        slow[1].cancel()

    run(story())


def test_requests_under_way_are_bounded_and_room_comes_back() -> None:
    async def story() -> None:
        app = Application()
        limits = HttpLimits(app, max_requests=2)
        app.hold = asyncio.Event()
        held = [asyncio.create_task(Client([b""]).send_to(limits)) for _ in range(2)]
        await asyncio.sleep(0)
        refused = Client([b""])
        assert await refused.send_to(limits) == 503
        assert refused.headers[b"connection"] == b"close"
        app.hold.set()
        assert await asyncio.gather(*held) == [200, 200]
        assert await Client([b""]).send_to(limits) == 200

    run(story())


def test_a_body_that_never_ends_is_given_up() -> None:
    client = Client([bytes(CHUNK)])
    client.stalls = True
    assert run(client.send_to(HttpLimits(Application(), body_seconds=0.05))) == 408


def test_another_site_may_read_and_not_write() -> None:
    limits = HttpLimits(Application())
    elsewhere = {"host": "localhost:8545", "origin": "https://evil.example"}
    assert run(Client([b""], elsewhere).send_to(limits)) == 403
    assert run(Client([b""], {**elsewhere, "origin": "null"}).send_to(limits)) == 403
    assert run(Client([b""], {**elsewhere, "origin": "http://localhost:8545"}).send_to(limits)) == 200
    reader = Client([b""], elsewhere, method="GET")
    assert run(reader.send_to(limits)) == 200
    assert reader.headers[b"access-control-allow-origin"] == b"*"
