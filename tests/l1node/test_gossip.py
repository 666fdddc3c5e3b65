"""Gossip: bounded outboxes, consensus first, one body for what waits, and no peer that holds up another."""

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit.block import Block, Certificate, CertifiedBlock, Header, Proposal, Vote
from chainkit.codec import CodecError, encode
from chainkit.keys import dev_keypair
from l1node import gossip as gossip_module
from l1node import sync as sync_module
from l1node.gossip import MAX_CONSENSUS, MAX_TRANSACTIONS, BoundedQueue, Gossip, Peer
from l1node.messages import (
    MAX_MESSAGES,
    ProposalMessage,
    TransactionsMessage,
    VoteMessage,
    decode_body,
    encode_message,
    encode_transactions,
    join,
)
from l1node.peer_http import PeerHttp
from l1node.sync import Sync

KEY = dev_keypair("validator-0")
MIB = 1024 * 1024


def vote(slot: int) -> Vote:
    return Vote.sign(KEY, 900, slot, slot, bytes(32))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


class Empty(httpx.AsyncByteStream):
    """The body of an answer that has none, as it comes from a socket."""

    async def __aiter__(self) -> Any:
        yield b""


class Long(httpx.AsyncByteStream):
    """The body of an answer in pieces of 1 KiB; ``given`` is how many of its bytes were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data, self.given = data, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), 1024):
            self.given = min(start + 1024, len(self.data))
            yield self.data[start : self.given]


class Wire(httpx.AsyncBaseTransport):
    """Answers by host: a status code, a whole answer, an exception to raise, or an event to wait for."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {}
        self.plan: dict[str, Any] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        plan = self.plan.get(host, 204)
        self.bodies.setdefault(host, []).append(request.content)
        if isinstance(plan, asyncio.Event):
            await plan.wait()
            plan = 204
        if isinstance(plan, Exception):
            raise plan
        if isinstance(plan, httpx.Response):
            return plan
        return httpx.Response(plan, request=request, stream=Empty())


async def gossiping(
    urls: list[str], use: Callable[[Gossip, Wire], Coroutine[Any, Any, None]], wire: Wire | None = None
) -> None:
    wire = wire or Wire()
    async with httpx.AsyncClient(transport=wire) as client:
        gossip = Gossip(urls, PeerHttp(client))
        task = asyncio.create_task(gossip.run())
        try:
            await use(gossip, wire)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, BaseExceptionGroup):
                await task


# --- bytes ------------------------------------------------------------------------------------------------


def test_a_body_carries_each_kind_of_message() -> None:
    header = Header(900, 1, 1, 5, bytes(32), KEY.address, bytes(32), bytes(32), bytes(32), 1, 0)
    proposal = Proposal.sign(KEY, Block(header, [b"tx"]), None)
    body = join([encode_message(proposal), encode_message(vote(1)), encode_transactions([b"a", b"b"])])
    assert decode_body(body) == [
        ProposalMessage(proposal),
        VoteMessage(vote(1)),
        TransactionsMessage([b"a", b"b"]),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x90",
        b"\xc0",
        encode_message(vote(1)),
        join([encode_message(vote(1))]) + b"\xc0",
        join([encode_message(vote(1))])[:-1],
        join([encode_transactions([])]),
        join([b"\x92\x03\x90"]),
        join([b"\x92\xcc\x01" + encode_message(vote(1))[2:]]),  # tag 1 in two bytes
        join([encode_message(vote(1))] * (MAX_MESSAGES + 1)),
        b"\x91" * 100_000,
    ],
)
def test_a_body_has_one_shape(body: bytes) -> None:
    with pytest.raises(CodecError):
        decode_body(body)


# --- the outbox -------------------------------------------------------------------------------------------

_items = st.lists(st.binary(max_size=8), max_size=6)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.binary(max_size=8)),
        st.tuples(st.just("take"), st.tuples(st.integers(1, 4), st.integers(1, 20))),
        st.tuples(st.just("give_back"), st.just(None)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(_steps, st.integers(1, 6), st.integers(8, 24))
def test_a_queue_is_bounded_and_in_order(steps: list[Any], max_items: int, max_bytes: int) -> None:
    queue = BoundedQueue(max_items, max_bytes)
    model: list[bytes] = []
    taken: list[bytes] = []
    for kind, value in steps:
        if kind == "push":
            queue.push(value)
            model.append(value)
            while len(model) > max_items or sum(map(len, model)) > max_bytes:
                model.pop(0)
        elif kind == "take":
            items, size = value
            taken = queue.take(items, size)
            assert taken == model[: len(taken)]
            assert len(taken) <= items
            assert len(taken) <= 1 or sum(map(len, taken)) <= size
            assert taken or not model
            model = model[len(taken) :]
        else:
            queue.give_back(taken)
            while taken:
                item = taken.pop()
                if len(model) < max_items and sum(map(len, model)) + len(item) <= max_bytes:
                    model.insert(0, item)
        assert len(queue) == len(model) <= max_items
        assert queue.size == sum(map(len, model)) <= max_bytes
    assert queue.take(100, 10_000) == model


def test_a_dead_peers_outbox_keeps_the_newest() -> None:
    peer = Peer("http://dead/")
    for number in range(MAX_CONSENSUS + 10):
        peer.say(b"%d" % number)
    peer.pass_on(b"%d" % number for number in range(MAX_TRANSACTIONS + 5))
    assert len(peer.consensus) == MAX_CONSENSUS
    assert len(peer.transactions) == MAX_TRANSACTIONS
    assert peer.dropped == 15
    assert peer.consensus.take(1, 100) == [b"10"]


# --- sending ----------------------------------------------------------------------------------------------


def test_what_waits_is_one_body_consensus_first() -> None:
    async def use(gossip: Gossip, wire: Wire) -> None:
        gate = wire.plan["a"] = asyncio.Event()
        gossip.pass_on([b"t1"])
        await until(lambda: bool(wire.bodies))
        gossip.pass_on([b"t2"])
        gossip.broadcast(encode_message(vote(1)))
        gossip.pass_on([b"t3"])
        gossip.broadcast(encode_message(vote(2)))
        gate.set()
        await until(lambda: gossip.sent == 2)
        assert decode_body(wire.bodies["a"][1]) == [
            VoteMessage(vote(1)),
            VoteMessage(vote(2)),
            TransactionsMessage([b"t2", b"t3"]),
        ]

    run(gossiping(["http://a"], use))


def test_a_peer_that_never_answers_holds_up_no_other() -> None:
    async def use(gossip: Gossip, wire: Wire) -> None:
        wire.plan["slow"] = asyncio.Event()
        wire.plan["dead"] = httpx.ConnectError("refused")
        for slot in range(1, 200):
            gossip.broadcast(encode_message(vote(slot)))
            await asyncio.sleep(0)
        await until(lambda: sum(len(decode_body(body)) for body in wire.bodies["good"]) == 199)
        assert len(wire.bodies["slow"]) == 1
        slow, dead, good = gossip.peers
        assert (slow.reached, dead.reached, good.reached) == (False, False, True)

    run(gossiping(["http://slow", "http://dead", "http://good"], use))


def test_a_peer_that_comes_back_gets_what_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(gossip_module, "LONGEST_PAUSE", 0.004)

    async def use(gossip: Gossip, wire: Wire) -> None:
        for failure in (
            httpx.ConnectError("refused"),
            httpx.ReadTimeout("slow"),
            RuntimeError("handle is closed"),
            503,
        ):
            wire.plan["a"] = failure
            seen = len(wire.bodies.get("a", []))
            gossip.broadcast(encode_message(vote(1)))
            gossip.pass_on([b"t"])
            await until(lambda seen=seen: len(wire.bodies.get("a", [])) >= seen + 2)  # type: ignore[misc]
        wire.plan["a"] = 204
        await until(lambda: gossip.sent > 0)
        assert not gossip.peers[0].consensus
        messages = decode_body(wire.bodies["a"][-1])
        assert messages.count(VoteMessage(vote(1))) == 4
        assert messages[-1] == TransactionsMessage([b"t"] * 4)

    run(gossiping(["http://a"], use))


def test_a_refusal_is_final() -> None:
    async def use(gossip: Gossip, wire: Wire) -> None:
        wire.plan["a"] = 422
        gossip.broadcast(encode_message(vote(1)))
        await until(lambda: gossip.sent == 1)
        gossip.broadcast(encode_message(vote(2)))
        await until(lambda: gossip.sent == 2)
        assert [decode_body(body) for body in wire.bodies["a"]] == [
            [VoteMessage(vote(1))],
            [VoteMessage(vote(2))],
        ]

    run(gossiping(["http://a"], use))


@pytest.mark.parametrize("status", [200, 422])
def test_of_an_answer_no_more_is_read_than_what_it_may_say(status: int) -> None:
    """P20, P23: a peer answers what it is told with a body that does not end."""
    body = Long(bytes(4 * MIB))

    async def use(gossip: Gossip, wire: Wire) -> None:
        wire.plan["a"] = httpx.Response(status, stream=body)
        gossip.broadcast(encode_message(vote(1)))
        await until(lambda: gossip.sent == 1)
        assert body.given < 64 * 1024

    run(gossiping(["http://a"], use))


def test_an_answer_that_does_not_come_whole_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9, P23: a peer begins an answer and keeps it coming, so that it hears of nothing and we wait for ever."""
    monkeypatch.setattr(gossip_module, "REQUEST_SECONDS", 0.01)
    monkeypatch.setattr(gossip_module, "FIRST_PAUSE", 0.001)

    class Unfinished(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.Event().wait()

    async def use(gossip: Gossip, wire: Wire) -> None:
        wire.plan["a"] = httpx.Response(200, stream=Unfinished())
        gossip.broadcast(encode_message(vote(1)))
        await until(lambda: gossip.peers[0].failures > 0)
        wire.plan["a"] = 204
        await until(lambda: gossip.sent == 1)
        assert decode_body(wire.bodies["a"][-1]) == [VoteMessage(vote(1))]

    run(gossiping(["http://a"], use))


def test_a_packed_answer_is_not_unpacked() -> None:
    """P20, P23: a peer answers with a few KiB that unpack to many MiB."""
    body = Long(gzip.compress(bytes(16 * MIB)))

    async def use(gossip: Gossip, wire: Wire) -> None:
        wire.plan["a"] = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=body)
        tracemalloc.start()
        try:
            gossip.broadcast(encode_message(vote(1)))
            await until(lambda: gossip.sent == 1)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * MIB

    run(gossiping(["http://a"], use))


def test_large_proposals_go_one_by_one() -> None:
    header = Header(900, 1, 1, 5, bytes(32), KEY.address, bytes(32), bytes(32), bytes(32), 1, 0)
    large = encode_message(Proposal.sign(KEY, Block(header, [bytes(2 * 1024 * 1024)]), None))

    async def use(gossip: Gossip, wire: Wire) -> None:
        gossip.broadcast(large)
        gossip.broadcast(large)
        gossip.pass_on([bytes(100_000)] * 20)
        await until(lambda: sum(len(decode_body(body)) for body in wire.bodies.get("a", [])) >= 4)
        assert all(len(body) < 4 * 1024 * 1024 for body in wire.bodies["a"])
        assert not gossip.peers[0].dropped

    run(gossiping(["http://a"], use))


# --- catching up ------------------------------------------------------------------------------------------


def certified(height: int) -> CertifiedBlock:
    header = Header(900, height, height, 5, bytes(32), KEY.address, bytes(32), bytes(32), bytes(32), 1, 0)
    return CertifiedBlock(Block(header, []), Certificate(height, height, bytes(32), []))


class Library(httpx.AsyncBaseTransport):
    """Serves certified blocks; what each host answers is in ``answers``."""

    def __init__(self, answers: dict[str, bytes | Exception | int]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.host, request.url.query.decode()))
        answer = self.answers[request.url.host]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx.Response(answer, request=request)
        return httpx.Response(200, stream=httpx.ByteStream(answer), request=request)


def test_a_useless_peer_is_passed_over_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(sync_module, "LONGEST_PAUSE", 0.002)
    blocks = [certified(height) for height in range(7, 30)]
    answers: dict[str, bytes | Exception | int] = {
        "a": httpx.ConnectError("refused"),
        "b": 503,
        "c": b"junk",
        "d": encode(blocks) + b"\x00",
        "e": bytes(sync_module.MAX_ANSWER_BYTES + 1),
        "f": encode(blocks),
    }

    async def test() -> None:
        fed: list[CertifiedBlock] = []
        library = Library(answers)
        async with httpx.AsyncClient(transport=library) as client:
            sync = Sync([f"http://{host}" for host in answers], PeerHttp(client), fed.extend)
            task = asyncio.create_task(sync.run())
            sync.want(7)
            await until(lambda: fed == blocks)
            task.cancel()
        hosts = [host for host, _ in library.asked]
        assert hosts == sorted(set(hosts) - {"a"}) or hosts[-1] == "f"
        assert {query for _, query in library.asked} == {f"from=7&limit={sync_module.PAGE}"}
        assert not sync.busy

    run(test())


def test_what_feeding_asks_for_is_fetched_next() -> None:
    async def test() -> None:
        library = Library({"a": encode([certified(1)])})
        async with httpx.AsyncClient(transport=library) as client:

            def feed(_: Any) -> None:
                if len(library.asked) < 3:
                    sync.want(len(library.asked) + 1)

            sync = Sync(["http://a"], PeerHttp(client), feed)
            task = asyncio.create_task(sync.run())
            sync.want(1)
            await until(lambda: len(library.asked) == 3 and not sync.busy)
            task.cancel()
        assert [query.split("&")[0] for _, query in library.asked] == ["from=1", "from=2", "from=3"]

    run(test())
