"""The simulated network: requests between processes, and what can happen to their packets.

Responsible for delay, loss, duplication, reordering and partitions, one direction at a time, and for standing
where httpx stands in production. Must not know what is asked. A request and its answer are one packet each;
the requester learns of a lost one by its own timeout, as with real sockets.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import httpx
from msgspec import Struct

from chainkit.client import ApiError, ChainClient, _api_error
from l1node.peer_http import Reply
from simulation.loop import Handle, VirtualLoop

if TYPE_CHECKING:
    from simulation.process import Process


class Answer(NamedTuple):
    """Status, body and content type."""

    status: int
    body: bytes
    kind: str


Request = tuple[str, str, Mapping[str, Any], bytes, str]
Handler = Callable[[str, str, Mapping[str, Any], bytes, str], "Answer | Coroutine[Any, Any, Answer]"]
"""(method, path, parameters, body, content type) -> answer, now or later."""


@dataclass(frozen=True)
class Weather:
    """What the network does to packets. Rates are per packet, delays in seconds."""

    drop: float = 0.0
    duplicate: float = 0.0
    slow: float = 0.0
    """Share of packets that take up to ``slow_seconds``: these arrive after later ones."""
    slow_seconds: float = 0.0
    cuts: frozenset[tuple[str, str]] = frozenset()
    """Directions (from, to) in which nothing arrives."""

    @cached_property
    def is_fair(self) -> bool:
        """Whether every packet arrives, once and soon."""
        return not (self.drop or self.duplicate or self.slow or self.cuts)


class Unreachable(Exception):  # noqa: N818
    """No answer: refused at once, or nothing came in time."""

    def __init__(self, reason: str, late: bool) -> None:
        super().__init__(reason)
        self.late = late


class Network:
    """Carries requests to ``processes`` by host name."""

    FASTEST, SLOWEST = 0.004, 0.040
    _SPREAD = SLOWEST - FASTEST

    def __init__(self, loop: VirtualLoop, rng: Random, trace: Callable[[bytes, bytes], None]) -> None:
        self.loop = loop
        self.weather = Weather()
        self.processes: dict[str, Process] = {}
        self.counts: Counter[str] = Counter()
        self.twins: dict[str, str] = {}
        """Who gets a copy of the consensus messages to a host: a second process with the same key."""
        self.taps: list[Callable[[str, str, bytes], None]] = []
        """Called with (sender, path, body) of each POST that leaves."""
        self._rng = rng
        self._trace = trace
        self._labels: dict[tuple[str, str, str], bytes] = {}

    def _fate(self, source: str, target: str) -> list[float]:
        """After how many seconds the packet arrives: never, once or twice."""
        weather, rng = self.weather, self._rng
        if weather.is_fair:
            return [self.FASTEST + self._SPREAD * rng.random()]
        if weather.cuts and (source, target) in weather.cuts:
            self.counts["cut"] += 1
            return []
        if weather.drop and rng.random() < weather.drop:
            self.counts["drop"] += 1
            return []
        if weather.duplicate and rng.random() < weather.duplicate:
            self.counts["duplicate"] += 1
            return [self._latency(), self._latency()]
        return [self._latency()]

    def _latency(self) -> float:
        weather, rng = self.weather, self._rng
        latency = self.FASTEST + self._SPREAD * rng.random()
        if weather.slow and rng.random() < weather.slow:
            self.counts["delay"] += 1
            latency += weather.slow_seconds * rng.random()
        return latency

    def _label(self, place: tuple[str, str, str]) -> bytes:
        """What a request is called in the trace."""
        self._labels[place] = label = f"net {' '.join(place)}".encode()
        return label

    def request(
        self,
        source: str,
        target: str,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        body: bytes = b"",
        kind: str = "",
        timeout: float = 10.0,
    ) -> "asyncio.Future[Answer]":
        """Ask ``target``. What is returned raises `Unreachable`."""
        loop = self.loop
        if body and self.taps:
            for tap in self.taps:
                tap(source, path, body)
        answered: asyncio.Future[Answer] = loop.create_future()
        deadline = loop._now + timeout
        _Call(self, source, target, method, path, params or {}, body, kind, answered, deadline).leave()
        return answered


class _Call(Struct, eq=False):
    """One request under way, or its twin.

    Most are answered at once, so the requester's timer is set only when no answer is on its way in time: a packet is
    lost or late, or whoever was asked thinks about it.
    """

    network: Network
    source: str
    target: str
    method: str
    path: str
    params: Mapping[str, Any]
    body: bytes
    kind: str
    answered: "asyncio.Future[Answer]"
    deadline: float
    timer: Handle | None = None

    def leave(self) -> None:
        """The request leaves."""
        loop = self.network.loop
        latencies = self.network._fate(self.source, self.target)
        for latency in latencies:
            loop.call_later(latency, self._arrive)
        if not latencies or loop._now + latencies[0] >= self.deadline:
            self._watch()

    def _watch(self) -> None:
        if self.timer is None and not self.answered.done():
            self.timer = self.network.loop.call_at(self.deadline, self._expire)

    def _expire(self) -> None:
        if not self.answered.done():
            self.answered.set_exception(Unreachable("timed out", late=True))

    def _arrive(self) -> None:
        """The request is there."""
        network = self.network
        path, target, body = self.path, self.target, self.body
        network.counts["packets"] += 1
        place = self.source, target, path
        network._trace(network._labels.get(place) or network._label(place), body)
        request = self.method, path, self.params, body, self.kind
        if network.twins and path == "/p2p/messages":
            twin = network.processes.get(network.twins.get(target, ""))
            if twin is not None and twin.handler is not None:
                twin.request(request, lambda _: None)
        process = network.processes.get(target)
        if process is None or process.handler is None:
            self._back(Unreachable("connection refused", late=False))
        elif not process.request(request, self._back):
            self._watch()

    def _back(self, result: "Answer | Unreachable") -> None:
        """The answer leaves."""
        loop = self.network.loop
        latencies = self.network._fate(self.target, self.source)
        if latencies:
            loop.call_later(latencies[0], self._settle, result)
        if not latencies or loop._now + latencies[0] >= self.deadline:
            self._watch()

    def _settle(self, result: "Answer | Unreachable") -> None:
        answered = self.answered
        if self.timer is not None:
            self.timer.cancel()
        if answered.done():
            return
        if isinstance(result, Unreachable):
            answered.set_exception(result)
        else:
            answered.set_result(result)


# --- where httpx stands in production ---


class NoTransport(httpx.AsyncBaseTransport):
    """A client that is simulated has no sockets."""


class SimLink:
    """What a validator reaches its peers through (`l1node.peer_http.PeerLink`)."""

    def __init__(self, network: Network, source: str) -> None:
        self._network, self._source = network, source
        self._hosts: dict[str, tuple[str, str]] = {}
        """URL -> host and path: there are few."""

    async def ask(
        self,
        method: str,
        url: str,
        *,
        seconds: float,
        most: int,
        body: bytes = b"",
        params: Mapping[str, Any] | None = None,
    ) -> Reply:
        found = self._hosts.get(url)
        if found is None:
            parts = urlsplit(url)
            found = self._hosts[url] = parts.hostname or "", parts.path
        kind = "application/msgpack" if body else ""
        try:
            answer = await self._network.request(
                self._source, found[0], method, found[1], params, body, kind, seconds
            )
        except Unreachable as error:
            failure = httpx.ReadTimeout if error.late else httpx.ConnectError
            raise failure(str(error)) from None
        return Reply(answer.status, answer.body)

    async def aclose(self) -> None:
        """There is nothing to close."""


class SimChainClient(ChainClient):
    """The production client over the simulated network; typed answers and errors are its own."""

    def __init__(self, url: str, *, network: Network, source: str, **options: Any) -> None:
        super().__init__(url, transport=NoTransport(), **options)
        self._network, self._source = network, source
        self._host = urlsplit(url).hostname or ""

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        kind: str | None = None,
        timeout: float | None = None,
    ) -> bytes:
        try:
            answer = await self._network.request(
                self._source,
                self._host,
                method,
                path,
                params,
                content or b"",
                kind or "",
                timeout or self._timeout,
            )
        except Unreachable as error:
            raise ApiError("unreachable", 0, f"{self.url} cannot be reached: {error}") from None
        if 200 <= answer.status < 300:
            return answer.body
        response = httpx.Response(answer.status, headers={"content-type": answer.kind})
        raise _api_error(response, answer.body)


async def call_app(
    app: Any, method: str, path: str, params: Mapping[str, Any], body: bytes, kind: str
) -> Answer:
    """Ask an ASGI app: the service's own routes, middleware and problem details."""
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"sim"), (b"content-length", str(len(body)).encode())]
    if kind:
        headers.append((b"content-type", kind.encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": urlencode(params).encode(),
        "root_path": "",
        "headers": headers,
        "client": ("sim", 1),
        "server": ("sim", 80),
        "state": {},
    }
    await app(scope, receive, send)
    found = dict(sent[0]["headers"])
    return Answer(
        sent[0]["status"],
        b"".join(part.get("body", b"") for part in sent[1:]),
        found.get(b"content-type", b"").decode(),
    )
