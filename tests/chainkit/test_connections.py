"""Limits on connections, over real sockets: who is closed, when, and that others get in all the same."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from chainkit.connections import HEAD_BYTES, MAX_PIPELINED, Connections, LimitedProtocol, limited

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[..., Awaitable[Pair]]
GET = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /%s HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """``/large`` is 8 MiB, ``/wait`` never ends, ``/early`` is answered before its body, anything else is a word."""
    while scope["path"] != "/early" and (await receive()).get("more_body"):
        pass
    size = 8 * 1024 * 1024 if scope["path"] == "/large" else 2
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    if scope["path"] == "/wait":
        await receive()  # until the client goes
    await send({"type": "http.response.body", "body": bytes(size) if size > 2 else b"ok"})


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[tuple[Connections, Connect]]:
    book = Connections(**limits)
    config = uvicorn.Config(app, http=limited(book), lifespan="off", log_config=None, port=0, ws="none")
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    opened: list[asyncio.StreamWriter] = []

    async def connect(address: str = "127.0.0.1") -> Pair:
        pair = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0), limit=1024)
        opened.append(pair[1])
        return pair

    try:
        yield book, connect
    finally:
        for writer in opened:
            writer.close()
        server.force_exit = True
        await server.shutdown()


async def ask(pair: Pair, path: bytes = b"") -> bytes:
    """The status line of an answer; nothing if there is none."""
    reader, writer = pair
    writer.write(GET % path)
    line = await reader.readline()
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(2)
    return line


async def closed(pair: Pair) -> bool:
    """Return when the service has hung up."""
    try:
        while await pair[0].read(65_536):
            pass
    except ConnectionError:
        pass
    return True


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


def test_a_newcomer_gets_the_place_of_who_has_waited_longest() -> None:
    async def test() -> None:
        async with serving(most=3, most_from_one=3) as (book, connect):
            first, second, third = [await connect() for _ in range(3)]
            assert b"200" in await ask(first)  # it has just asked: the second waits longest now
            assert b"200" in await ask(await connect())
            assert await closed(second)
            assert b"200" in await ask(third)
            assert (len(book), book.refused["gave way"]) == (3, 1)

    run(test)


def test_one_address_cannot_have_all_and_takes_from_itself() -> None:
    async def test() -> None:
        async with serving(most=4, most_from_one=3) as (book, connect):
            mine = await connect("127.0.0.2")
            flood = [await connect() for _ in range(8)]
            for pair in flood[:5]:
                assert await closed(pair)
            assert b"200" in await ask(mine)
            others = [await connect("127.0.0.3") for _ in range(2)]  # the heaviest address pays
            for pair in [mine, *others]:
                assert b"200" in await ask(pair)
            assert len(book) == 4

    run(test)


def test_answers_under_way_are_not_cut_off_and_newcomers_are_told() -> None:
    async def test() -> None:
        async with serving(most=2, most_from_one=2) as (book, connect):
            for _ in range(2):
                _, writer = await connect()
                writer.write(GET % b"wait")
            while book._idle:
                await asyncio.sleep(0.01)
            reader, _ = await connect()
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"too_many_connections" in answer
            assert (len(book), book.refused["turned away"]) == (2, 1)

    run(test)


def test_an_answer_before_the_end_of_the_body_leaves_a_connection_that_may_give_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P23: connections are refused early, send the rest of their bodies and then nothing, to keep their places."""
    whole = []
    on_message_complete = LimitedProtocol.on_message_complete

    def noted(self: LimitedProtocol) -> None:
        on_message_complete(self)
        whole.append(self)

    monkeypatch.setattr(LimitedProtocol, "on_message_complete", noted)

    async def test() -> None:
        async with serving(most=2, most_from_one=2) as (book, connect):
            for number in range(2):
                reader, writer = await connect()
                writer.write(POST % b"early")
                await reader.readuntil(b"ok")
                assert len(whole) == number
                writer.write(b"12345")
                while len(whole) == number:
                    await asyncio.sleep(0.001)
            assert b"200" in await ask(await connect())
            assert (len(book), book.refused["gave way"]) == (2, 1)

    run(test)


def test_who_sends_half_a_request_behind_a_whole_one_may_give_way() -> None:
    """P23: connections are answered once and owe the rest of a second body for ever, to keep their places."""

    async def test() -> None:
        async with serving(most=2, most_from_one=2) as (book, connect):
            for _ in range(2):
                reader, writer = await connect()
                writer.write(GET % b"" + POST % b"" + b"1")
                await reader.readuntil(b"ok")
            assert b"200" in await ask(await connect())
            assert (len(book), book.refused["gave way"]) == (2, 1)

    run(test)


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nhost:", b"\r\n\r\n"])
def test_a_slow_head_is_closed_after_its_time_also_on_a_used_connection(start: bytes) -> None:
    async def test() -> None:
        async with serving(head_seconds=0.2) as (book, connect):
            fresh = await connect()
            fresh[1].write(start)
            assert await closed(fresh)
            if start.startswith(b"GET"):
                used = await connect()
                assert b"200" in await ask(used)
                used[1].write(start)
                assert await closed(used)
            assert book.refused["head too slow"] >= 1
            assert len(book) == 0

    run(test)


def test_a_head_without_end_is_closed() -> None:
    async def test() -> None:
        async with serving() as (book, connect):
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n")
            while not reader.at_eof() and book.refused["head too large"] == 0:
                writer.write(b"x-%d: y\r\n" % book.most * 1000)
                await asyncio.sleep(0)
            assert b"431" in await reader.readline()
            assert HEAD_BYTES < 1024 * 1024

    run(test)


def test_requests_far_ahead_of_their_answers_end_the_connection() -> None:
    async def test() -> None:
        async with serving() as (book, connect):
            pair = await connect()
            pair[1].write(GET % b"" * (MAX_PIPELINED * 20))
            assert await closed(pair)
            assert book.refused["too many at once"] == 1

    run(test)


def test_who_reads_nothing_is_let_go() -> None:
    async def test() -> None:
        async with serving(stall_seconds=0.2) as (book, connect):
            _, writer = await connect()
            writer.write(GET % b"large")
            while not book.refused["reads nothing"]:
                await asyncio.sleep(0.02)
            while len(book):
                await asyncio.sleep(0.02)

    run(test)


def test_unread_answers_have_a_hard_cap_for_all_together() -> None:
    async def test() -> None:
        most = 20 * 1024 * 1024
        async with serving(most_unread=most, stall_seconds=60.0) as (book, connect):
            for _ in range(12):
                _, writer = await connect()
                writer.write(GET % b"large")
            while book.refused["unread answers"] < 8:
                assert sum(each.unread for each in book._stalled) <= most
                await asyncio.sleep(0.02)
            assert len(book._stalled) >= 2

    run(test)


# --- those who hang up ---


@pytest.fixture(params=["uvloop", "asyncio"])
def on_either_loop(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Run a story on either loop: they treat a connection that goes away differently."""
    factory = asyncio.new_event_loop
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop

    async def bounded(story: Awaitable[None]) -> None:
        async with asyncio.timeout(20):
            await story

    def running(story: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded(story))

    return running


def test_who_says_no_more_still_gets_his_answer(on_either_loop: Callable[[Awaitable[None]], None]) -> None:
    """``printf ... | nc -N`` closes its sending side at once."""

    async def story() -> None:
        async with serving() as (_, connect):
            for _ in range(20):
                reader, writer = await connect()
                writer.write(GET % b"")
                writer.write_eof()
                assert (await reader.read()).endswith(b"ok")

    on_either_loop(story())


def test_a_connection_that_is_reset_raises_nothing(on_either_loop: Callable[[Awaitable[None]], None]) -> None:
    """A line in the log for each would let a stranger fill it."""
    raised: list[object] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        async with serving() as (book, connect):
            for _ in range(20):
                _, writer = await connect()
                linger = struct.pack("ii", 1, 0)  # closing sends a reset
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.write((GET % b"") * 3)
                await writer.drain()
                writer.transport.abort()
            while len(book):
                await asyncio.sleep(0)
            await asyncio.sleep(0)

    on_either_loop(story())
    assert raised == []
