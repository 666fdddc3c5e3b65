"""The short way of a single transaction: whatever comes, in whatever pieces, is answered as the ordinary way does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import uvicorn
from fake_chain import MemoryBackend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware
from uvicorn.server import ServerState

from chainkit import express
from chainkit.backend import SubmitResult
from chainkit.codec import encode
from chainkit.connections import Connections, LimitedProtocol, limited
from chainkit.express import ExpressProtocol, with_lane
from chainkit.intake import BulkRoute, Intake
from chainkit.keys import dev_keypair
from chainkit.problems import Problem
from chainkit.service import make_app
from chainkit.singles import Singles
from chainkit.transaction import Body, Call, SignedTransaction, Transfer

ALICE, BOB = dev_keypair("alice"), dev_keypair("bob")
LINE = b"POST /transactions HTTP/1.1\r\n"
KIND = b"content-type: application/msgpack"
DATE = [(b"date", b"Sat, 21 Nov 2026 23:00:00 GMT")]


def signed(nonce: int) -> SignedTransaction:
    return SignedTransaction.sign(
        Body(900, ALICE.address, nonce, 100_000, 20, 1, Transfer(BOB.address, 5)), ALICE
    )


TXS = [signed(nonce) for nonce in range(6)]
LONG = SignedTransaction.sign(
    Body(900, ALICE.address, 0, 900_000, 20, 1, Call("notes", "put", bytes(300), 0)), ALICE
)


def request(body: bytes, *headers: bytes, line: bytes = LINE) -> bytes:
    length = b"content-length: %d" % len(body)
    return line + b"\r\n".join([b"host: here", *headers, length]) + b"\r\n\r\n" + body


def single(nonce: int, *headers: bytes) -> bytes:
    return request(encode([TXS[nonce].wire]), KIND, *headers)


class Wire(asyncio.Transport):
    """What a connection's other end sees."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.writes = 0
        self.closing = self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said += bytes(data)
        self.writes += 1

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0


class Service:
    """A service without sockets: an app with the intake, and connections with or without the short way."""

    def __init__(
        self, backend: Any, *, lane: bool = True, is_open: Callable[[], bool] = lambda: True
    ) -> None:
        self.intake = Intake(backend)
        self.book = Connections()
        self.singles = Singles(backend.rules, self.intake)
        app = make_app("test")
        app.user_middleware.append(Middleware(BulkRoute, self.intake))
        self.kind: type[LimitedProtocol] = (
            with_lane(self.book, self.singles, is_open) if lane else limited(self.book)
        )
        self.config = uvicorn.Config(app, http=self.kind, lifespan="off", log_config=None, ws="none")
        self.config.load()
        self.state = ServerState()
        self.state.default_headers = DATE

    def connect(self) -> tuple[LimitedProtocol, Wire]:
        wire = Wire()
        connection = self.kind(config=self.config, server_state=self.state, app_state={})
        connection.connection_made(wire)
        return connection, wire

    @property
    def heads(self) -> dict[bytes, int]:
        assert issubclass(self.kind, ExpressProtocol)
        return self.kind.heads


async def settle() -> None:
    """Nothing here waits for anything but turns of the loop."""
    for _ in range(40):
        await asyncio.sleep(0)


async def feed(connection: LimitedProtocol, wire: Wire, chunks: Sequence[tuple[bytes, bool]]) -> None:
    """Chunks as they are read; True: everything that can be answered has been before the next comes."""
    for data, pause in chunks:
        while wire.paused:
            await asyncio.sleep(0)
        if not wire.closing:
            connection.data_received(data)
        if pause:
            await settle()
    await settle()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


def told(
    backend: MemoryBackend, chunks: Sequence[tuple[bytes, bool]], *, lane: bool
) -> tuple[bytes, bool, Any]:
    """What the client reads, whether it was hung up on, and what is in the pool."""

    async def story() -> tuple[bytes, bool, Any]:
        backend.pool.clear()
        connection, wire = Service(backend, lane=lane).connect()
        await feed(connection, wire, chunks)
        said, closing = wire.said, wire.closing
        connection.connection_lost(None)
        await settle()
        return said, closing, [tx.id for tx in backend.pool]

    return asyncio.run(story())


# --- the same answers -------------------------------------------------------------------------------------

_BODIES = [
    *[encode([tx.wire]) for tx in TXS],
    encode([TXS[0].wire[:-1] + b"\0"]),
    encode([TXS[0].wire[:-1]]),
    encode([LONG.wire]),
    encode([TXS[0].wire, TXS[1].wire]),
    b"\x91\xc4" + bytes([len(TXS[0].wire) - 1]) + TXS[0].wire,
    b"\x91\xc4\x00",
    b"\x91\xc4",
    b"\x90",
    b"",
    b"POST /transactions HTTP/1.1\r\n\r\n",
]
_HEADERS = [
    b"connection: close",
    b"connection: keep-alive",
    b"Connection: Upgrade",
    b"upgrade: websocket",
    b"origin: http://elsewhere",
    b"origin: http://here",
    b"accept: application/json",
    b"accept: application/msgpack",
    b"accept: */*",
    b"x: y",
    b"content-type: application/json",
    b"content-type: application/msgpack; charset=x",
    b"expect: 100-continue",
    b"transfer-encoding: chunked",
]
_LINES = [
    b"POST /transactions HTTP/1.0\r\n",
    b"POST /transactions?wait=1 HTTP/1.1\r\n",
    b"POST /transactions/ HTTP/1.1\r\n",
    b"POST http://here/transactions HTTP/1.1\r\n",
    b"GET /transactions HTTP/1.1\r\n",
    b"PUT /transactions HTTP/1.1\r\n",
    b"\r\n" + LINE,
    LINE[:-2] + b"\n",
]
_PLAIN = [single(nonce) for nonce in range(6)]
_odd = st.builds(
    lambda body, headers, line, kind: request(body, *([KIND] if kind else []), *headers, line=line),
    st.sampled_from(_BODIES),
    st.lists(st.sampled_from(_HEADERS), max_size=2, unique=True),
    st.sampled_from([LINE] * 4 + _LINES),
    st.integers(0, 4).map(bool),
)
_requests = st.lists(st.one_of(st.sampled_from(_PLAIN), _odd), min_size=1, max_size=6)


@st.composite
def _chunks(draw: st.DrawFn) -> list[tuple[bytes, bool]]:
    """Requests one by one, or cut anywhere, or several at once; plain ones also before the answer to the last.

    (What no parser takes makes uvicorn hang up at once, with an answer under way or not; the short way gives the
    answer first. So before anything odd everything is answered.)
    """
    chunks: list[tuple[bytes, bool]] = []
    for each in draw(_requests):
        if chunks and draw(st.integers(0, 5)) == 0:
            each = chunks.pop()[0] + each
        if chunks and each not in _PLAIN:
            chunks[-1] = chunks[-1][0], True
        cut = draw(st.sampled_from([0, 0, 0, 1])) and draw(st.integers(1, len(each) - 1))
        parts = [each[:cut], each[cut:]] if cut else [each]
        chunks += [(part, draw(st.booleans())) for part in parts]
    return [(data, pause or data not in _PLAIN) for data, pause in chunks]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_chunks())
def test_whatever_comes_is_answered_as_the_ordinary_way_does(
    backend: MemoryBackend, chunks: list[tuple[bytes, bool]]
) -> None:
    assert told(backend, chunks, lane=True) == told(backend, chunks, lane=False)


def test_a_client_that_sends_one_after_the_other_goes_the_short_way_from_the_second_on(
    backend: MemoryBackend,
) -> None:
    async def test() -> None:
        service = Service(backend)
        connection, wire = service.connect()
        for nonce in range(6):
            await feed(connection, wire, [(single(nonce), True)])
        assert wire.said.count(b"202 Accepted") == 6
        assert wire.said.count(b'"accepted":true') == 6
        first = connection.cycle
        assert first is not None  # the head was learned from it, and no other request made one
        other, seen = service.connect()
        await feed(other, seen, [(single(0), True)])
        assert (connection.cycle, other.cycle) == (first, None)
        assert b'"already_known"' in seen.said
        assert list(service.heads.values()) == [len(encode([TXS[0].wire]))]

    run(test)


@pytest.mark.parametrize(
    "unusual",
    [
        single(1, b"origin: http://elsewhere"),
        single(1, b"accept: application/msgpack"),
        single(1, b"expect: 100-continue"),
        single(1, b"connection: close"),
        request(encode([TXS[1].wire]), b"content-type: application/json"),
        request(encode([TXS[1].wire]), KIND, line=b"POST /transactions?wait=5 HTTP/1.1\r\n"),
        request(encode([TXS[1].wire]), KIND, line=b"POST /transactions HTTP/1.0\r\n"),
        request(encode([TXS[1].wire]), KIND, b"x: " + bytes([65]) * 2000),
        single(1) + single(2),
        single(1)[: -len(encode([TXS[1].wire]))],
    ],
    ids=["origin", "accept", "expect", "close", "kind", "query", "1.0", "long", "two", "no body yet"],
)
def test_what_means_more_than_its_body_is_not_remembered(backend: MemoryBackend, unusual: bytes) -> None:
    async def test() -> None:
        service = Service(backend)
        await feed(*service.connect(), [(unusual, True)])
        assert service.heads == {}

    run(test)


def test_a_body_that_looks_like_a_head_is_none(backend: MemoryBackend) -> None:
    """Else whoever sends it once could have others' requests read otherwise than a proxy before us reads them."""

    async def test() -> None:
        service = Service(backend)
        hidden = LINE + b"transfer-encoding: chunked\r\nx: "
        begin = LINE + b"content-length: %d\r\n\r\n" % len(hidden)
        await feed(*service.connect(), [(begin, False), (hidden + single(0), True)])
        assert service.heads == {}
        await feed(*service.connect(), [(begin, False), (single(0)[: len(hidden)], True)])
        assert service.heads == {}

    run(test)


def test_few_heads_are_remembered_and_the_oldest_goes(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "MOST_HEADS", 3)

    async def test() -> None:
        service = Service(backend)
        connection, wire = service.connect()
        for number in range(5):
            await feed(connection, wire, [(single(number, b"x: %d" % number), True)])
        kept = [head[head.index(b"x: ") + 3 :][:1] for head in service.heads]
        assert kept == [b"2", b"3", b"4"]

    run(test)


# --- order and ends ------------------------------------------------------------------------------------------


def test_what_comes_before_the_answer_waits_unread_and_is_answered_after_it(backend: MemoryBackend) -> None:
    async def test() -> None:
        connection, wire = Service(backend).connect()
        await feed(connection, wire, [(single(0), True)])
        connection.data_received(single(1))
        assert not wire.paused
        connection.data_received(single(2) + single(3))
        assert wire.paused
        await settle()
        assert not wire.paused
        ids = [b'"0x' + TXS[nonce].id.hex().encode() + b'"' for nonce in range(4)]
        places = [wire.said.find(each) for each in ids]
        assert places == sorted(places)
        assert min(places) > 0

    run(test)


def test_a_service_that_ends_gives_the_answer_and_closes(backend: MemoryBackend) -> None:
    async def test() -> None:
        service = Service(backend)
        connection, wire = service.connect()
        await feed(connection, wire, [(single(0), True)])
        connection.data_received(single(1))
        connection.shutdown()
        assert not wire.closing
        await settle()
        assert wire.closing
        answer = wire.said[wire.said.rindex(b"HTTP/1.1") :]
        assert b"connection: close\r\n" in answer
        assert b'"accepted":true' in answer
        other, seen = service.connect()
        other.shutdown()
        assert seen.closing

    run(test)


def test_one_that_has_gone_is_told_nothing_and_its_transaction_is_taken(backend: MemoryBackend) -> None:
    async def test() -> None:
        service = Service(backend)
        connection, wire = service.connect()
        await feed(connection, wire, [(single(0), True)])
        said = wire.said
        connection.data_received(single(1))
        wire.closing = True
        connection.connection_lost(None)
        await settle()
        assert wire.said == said
        assert len(backend.pool) == 2
        assert len(service.book) == 0

    run(test)


def test_a_connection_gives_way_while_it_waits_and_not_while_its_answer_is_under_way(
    backend: MemoryBackend,
) -> None:
    async def test() -> None:
        service = Service(backend)
        service.book.most = 1
        connection, wire = service.connect()
        await feed(connection, wire, [(single(0), True)])
        connection.data_received(single(1))
        _, turned_away = service.connect()
        await settle()
        assert b"too_many_connections" in turned_away.said
        assert not wire.closing
        assert wire.said.count(b'"accepted":true') == 2
        service.connect()
        assert wire.closing

    run(test)


def test_a_connection_is_closed_when_nothing_has_come_for_long_after_the_last_answer(
    backend: MemoryBackend,
) -> None:
    async def test() -> None:
        service = Service(backend)
        connection, wire = service.connect()
        await feed(connection, wire, [(single(0), True)])
        assert isinstance(connection, ExpressProtocol)
        alarm = connection.timeout_keep_alive_task
        connection.data_received(single(1))
        connection.timeout_keep_alive_handler()  # it may go off now, too
        await settle()
        connection.timeout_keep_alive_handler()
        assert not wire.closing
        assert connection.timeout_keep_alive_task not in (None, alarm)
        connection._quiet_since -= connection.timeout_keep_alive
        connection.timeout_keep_alive_handler()
        assert wire.closing

    run(test)


def test_a_head_known_before_ends_the_wait_for_the_first_one(backend: MemoryBackend) -> None:
    async def test() -> None:
        service = Service(backend)
        await feed(*service.connect(), [(single(0), True)])
        connection, wire = service.connect()
        assert connection._timer is not None
        await feed(connection, wire, [(single(1), True)])
        assert connection._timer is None
        assert wire.writes == 1  # head and body together

    run(test)


# --- what goes wrong -----------------------------------------------------------------------------------------


def test_nothing_goes_the_short_way_once_the_disk_has_failed(backend: MemoryBackend) -> None:
    async def test() -> None:
        open_ = [True]
        service = Service(backend, is_open=lambda: open_[0])
        connection, wire = service.connect()
        await feed(connection, wire, [(single(0), True)])
        open_.clear()
        open_.append(False)
        before = connection.cycle
        await feed(connection, wire, [(single(1), True)])
        assert connection.cycle is not before

    run(test)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("unforeseen"), b"500 Internal Server Error"),
        (Problem(503, "full", "Full"), b"503 Service"),
    ],
    ids=["unforeseen", "problem"],
)
def test_each_is_told_what_went_wrong_for_all(
    backend: MemoryBackend, error: Exception, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Any) -> list[SubmitResult]:
        raise error

    async def test() -> None:
        service = Service(backend)
        await feed(*service.connect(), [(single(0), True)])
        monkeypatch.setattr(backend, "submit", fail)
        pairs = [service.connect() for _ in range(3)]
        for connection, _ in pairs:
            connection.data_received(single(1))
        await settle()
        for connection, wire in pairs:
            assert connection.cycle is None
            assert wire.said.startswith(b"HTTP/1.1 " + status)
            assert b"content-type: application/problem+json\r\n" in wire.said
            assert not wire.closing

    run(test)


def test_those_of_one_turn_are_offered_together_in_order(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[int] = []
    submit = backend.submit

    async def count(transactions: Sequence[SignedTransaction]) -> list[SubmitResult]:
        offered.append(len(transactions))
        return await submit(transactions)

    async def test() -> None:
        service = Service(backend)
        await feed(*service.connect(), [(single(0), True)])
        monkeypatch.setattr(backend, "submit", count)
        pairs = [service.connect() for _ in range(5)]
        for nonce, (connection, _) in enumerate(pairs, start=1):
            connection.data_received(single(nonce))
        await settle()
        assert offered == [5]
        assert all(wire.said.count(b'"accepted":true') == 1 for _, wire in pairs)

    run(test)
