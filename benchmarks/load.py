"""The load generator: requests over raw sockets, as cheap as Python can.

Responsible for sending prepared requests over a fixed number of connections and handing out what comes back. Must
not know what is sent. `client_limit` measures what it can do at most, against a server that does nothing.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
import uvloop

T = TypeVar("T")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
MSGPACK, JSON = "application/msgpack", "application/json"


class LoadError(Exception):
    """The service did not do what it was asked for."""


class ClosedError(LoadError):
    """The service closed the connection."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def post(url: str, path: str, kind: str, body: bytes) -> bytes:
    """The bytes of a POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def batch_body(wires: Sequence[bytes]) -> bytes:
    """Wire bytes as the MessagePack array that ``POST /transactions`` takes."""
    return msgspec.msgpack.encode(wires)


class Connection(asyncio.Protocol):
    """One request at a time; ``done(status, body)`` is called with each answer, or raises in `ask`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._end = 0  # of the answer in the buffer, once its head is read
        self._body = 0
        self._done: Callable[[int, bytes], None] | None = None
        self.lost: Callable[[Exception], None] = lambda _: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None:
            self._done = None
            self.lost(exc or ClosedError("the service closed the connection"))

    def send(self, request: bytes, done: Callable[[int, bytes], None]) -> None:
        assert self._transport is not None
        self._done = done
        if self._transport.is_closing():
            self.connection_lost(None)
            return
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._end:
            head = buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(buffer, 0, head)
            if length is None:
                self.lost(LoadError("an answer without Content-Length"))
                return
            self._body = head + 4
            self._end = self._body + int(length[1])
        if len(buffer) < self._end:
            return
        status, body = int(buffer[9:12]), bytes(buffer[self._body : self._end])
        del buffer[: self._end]
        self._end = 0
        done, self._done = self._done, None
        if done is not None:
            done(status, body)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send and wait for the answer. Raises `LoadError` or `OSError`."""
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.lost = lambda error: None if answer.done() else answer.set_exception(error)
        self.send(request, lambda status, body: None if answer.done() else answer.set_result((status, body)))
        return await answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def connect(url: str) -> Connection:
    """Raises `OSError`."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, parts.hostname or "", parts.port or 80)
    return connection


class Reader:
    """GETs of JSON on a connection of its own."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._url, self._connection = url, connection

    @classmethod
    async def open(cls, url: str) -> "Reader":
        return cls(url, await connect(url))

    async def get(self, path: str, *, missing: bool = False) -> Any:
        """Raises `LoadError` for anything but 200; with ``missing`` a 404 is None."""
        host = urlsplit(self._url).netloc
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        try:
            status, body = await self._connection.ask(request)
        except (ClosedError, ConnectionError):  # as services do with a connection that was idle for a while
            self._connection = await connect(self._url)
            status, body = await self._connection.ask(request)
        if status == 404 and missing:
            return None
        if status != 200:
            raise LoadError(f"GET {path}: {status} {body[:200]!r}")
        return msgspec.json.decode(body)

    async def post(self, path: str, value: Any) -> Any:
        """A POST of JSON. Raises `LoadError` for a refusal."""
        request = post(self._url, path, JSON, msgspec.json.encode(value))
        status, body = await self._connection.ask(request)
        if status not in (200, 202):
            raise LoadError(f"POST {path}: {status} {body[:300]!r}")
        return msgspec.json.decode(body)

    def close(self) -> None:
        self._connection.close()


Again = bytes | None
"""What an answer leaves to be sent again a little later: a request, or None."""


async def send_all(
    url: str,
    requests: Sequence[bytes],
    connections: int,
    answered: Callable[[int, bytes, bytes], Again],
    *,
    pause: float = 0.02,
) -> None:
    """Send every request; each connection sends its next as soon as it has its answer.

    ``answered(status, answer, request)`` may raise, and may return what is to be sent again after ``pause`` seconds.
    """
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()
    queue, again = deque(requests), deque[bytes]()
    under_way = 0

    def fail(error: Exception) -> None:
        if not finished.done():
            finished.set_exception(error)

    def next_of(connection: Connection) -> None:
        nonlocal under_way
        if finished.done():
            return
        if again:
            request = again.popleft()
        elif queue:
            request = queue.popleft()
        else:
            if not under_way:
                finished.set_result(None)
            return
        under_way += 1

        def done(status: int, body: bytes) -> None:
            nonlocal under_way
            under_way -= 1
            try:
                rest = answered(status, body, request)
            except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits shall have it
                fail(error)
                return
            if rest is None:
                next_of(connection)
            else:
                again.append(rest)
                loop.call_later(pause, next_of, connection)

        connection.lost = fail
        connection.send(request, done)

    opened = [await connect(url) for _ in range(connections)]
    try:
        for connection in opened:
            next_of(connection)
        await finished
    finally:
        for connection in opened:
            connection.close()


# --- what the client itself can do ---


class _Nothing(asyncio.Protocol):
    """Answers each request (known by its Content-Length) with as many bytes as it was told."""

    def __init__(self, answer: bytes) -> None:
        self._answer, self._buffer = answer, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while (head := buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(buffer, 0, head)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(buffer) < end:
                return
            del buffer[:end]
            self._transport.write(self._answer)  # type: ignore[attr-defined]


def _serve(pipe: Pipe, answer_bytes: int) -> None:
    answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: %d\r\n\r\n" % answer_bytes + b"x" * answer_bytes

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: _Nothing(answer), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.poll, None)

    run(main())


def client_limit(body: bytes, answer_bytes: int, count: int, connections: int) -> float:
    """Requests a second that this generator sends to a server, in a process of its own, that does nothing."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, answer_bytes), daemon=True)
    process.start()
    theirs.close()
    try:
        url = f"http://127.0.0.1:{ours.recv()}"
        request = post(url, "/transactions", MSGPACK, body)
        begin = time.perf_counter()
        run(send_all(url, [request] * count, connections, lambda *_: None))
        return count / (time.perf_counter() - begin)
    finally:
        ours.close()
        process.terminate()
        process.join()
