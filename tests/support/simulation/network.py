"""The simulated network: requests between processes, and what can happen to their packets.

Responsible for delay, loss, duplication, reordering and partitions, one direction at a time, and for standing
where httpx stands in production. Must not know what is asked. A request and its answer are one packet each;
the requester learns of a lost one by its own timeout, as with real sockets.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit
from zlib import crc32

import httpx

from chainkit.client import ApiError, ChainClient, _api_error

if TYPE_CHECKING:
    from simulation.process import Process


class Answer(NamedTuple):
    """Status, body and content type."""

    status: int
    body: bytes
    kind: str


Handler = Callable[[str, str, dict[str, Any], bytes, str], Coroutine[Any, Any, Answer]]
"""(method, path, parameters, body, content type) -> answer."""


@dataclass
class Weather:
    """What the network does to packets now. Rates are per packet, delays in seconds."""

    drop: float = 0.0
    duplicate: float = 0.0
    slow: float = 0.0
    """Share of packets that take up to ``slow_seconds``: these arrive after later ones."""
    slow_seconds: float = 0.0
    cuts: set[tuple[str, str]] = field(default_factory=set)
    """Directions (from, to) in which nothing arrives."""


class Unreachable(Exception):  # noqa: N818
    """No answer: refused at once, or nothing came in time."""

    def __init__(self, reason: str, late: bool) -> None:
        super().__init__(reason)
        self.late = late


class Network:
    """Carries requests to ``processes`` by host name."""

    FASTEST, SLOWEST = 0.004, 0.040

    def __init__(self, rng: Random, trace: Callable[..., None]) -> None:
        self.weather = Weather()
        self.processes: dict[str, Process] = {}
        self.counts: Counter[str] = Counter()
        self.twins: dict[str, str] = {}
        """Who gets a copy of the consensus messages to a host: a second process with the same key."""
        self.taps: list[Callable[[str, str, bytes], None]] = []
        """Called with (sender, path, body) of each POST that leaves."""
        self._rng = rng
        self._trace = trace

    def _fate(self, source: str, target: str) -> list[float]:
        """After how many seconds the packet arrives: never, once or twice."""
        weather, rng = self.weather, self._rng
        if weather.cuts and (source, target) in weather.cuts:
            self.counts["cut"] += 1
            return []
        if weather.drop and rng.random() < weather.drop:
            self.counts["drop"] += 1
            return []
        copies = 1
        if weather.duplicate and rng.random() < weather.duplicate:
            self.counts["duplicate"] += 1
            copies = 2
        return [self._latency() for _ in range(copies)]

    def _latency(self) -> float:
        weather, rng = self.weather, self._rng
        latency = self.FASTEST + (self.SLOWEST - self.FASTEST) * rng.random()
        if weather.slow and rng.random() < weather.slow:
            self.counts["delay"] += 1
            latency += weather.slow_seconds * rng.random()
        return latency

    async def request(
        self,
        source: str,
        target: str,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        body: bytes = b"",
        kind: str = "",
        timeout: float = 10.0,
    ) -> Answer:
        """Ask ``target``. Raises `Unreachable`."""
        loop = asyncio.get_running_loop()
        if body:
            for tap in self.taps:
                tap(source, path, body)
        answered: asyncio.Future[Answer] = loop.create_future()
        call = _Call(self, source, target, method, path, dict(params or {}), body, kind, answered)
        for latency in self._fate(source, target):
            loop.call_later(latency, call.arrive)
        deadline = loop.call_later(timeout, _expire, answered)
        try:
            return await answered
        finally:
            deadline.cancel()


def _expire(answered: "asyncio.Future[Answer]") -> None:
    if not answered.done():
        answered.set_exception(Unreachable("timed out", late=True))


class _Call:
    """One request under way, or its twin."""

    __slots__ = ("answered", "body", "kind", "method", "network", "params", "path", "source", "target")

    def __init__(
        self,
        network: Network,
        source: str,
        target: str,
        method: str,
        path: str,
        params: dict[str, Any],
        body: bytes,
        kind: str,
        answered: "asyncio.Future[Answer]",
    ) -> None:
        self.network, self.source, self.target = network, source, target
        self.method, self.path, self.params = method, path, params
        self.body, self.kind, self.answered = body, kind, answered

    def arrive(self) -> None:
        """The request is there."""
        network = self.network
        network.counts["packets"] += 1
        network._trace("net", self.source, self.target, self.path, crc32(self.body))
        twin = network.processes.get(network.twins.get(self.target, ""))
        if twin is not None and twin.handler is not None and self.path == "/p2p/messages":
            work = twin.handler(self.method, self.path, self.params, self.body, self.kind)
            twin.spawn_request(work, lambda _: None)
        process = network.processes.get(self.target)
        if process is None or process.handler is None:
            self._back(Unreachable("connection refused", late=False))
            return
        process.spawn_request(
            process.handler(self.method, self.path, self.params, self.body, self.kind), self._back
        )

    def _back(self, result: "Answer | Unreachable") -> None:
        """The answer leaves."""
        loop = asyncio.get_running_loop()
        for latency in self.network._fate(self.target, self.source)[:1]:
            loop.call_later(latency, self._settle, result)

    def _settle(self, result: "Answer | Unreachable") -> None:
        if self.answered.done():
            return
        if isinstance(result, Unreachable):
            self.answered.set_exception(result)
        else:
            self.answered.set_result(result)


# --- where httpx stands in production ---


class NoTransport(httpx.AsyncBaseTransport):
    """A client that is simulated has no sockets."""


class SimHttp(httpx.AsyncClient):
    """What `Gossip` and `Sync` call of an `httpx.AsyncClient`."""

    network: Network
    source: str

    def __init__(self, **_: Any) -> None:
        super().__init__(transport=NoTransport(), trust_env=False)

    @asynccontextmanager
    async def stream(self, method: str, url: Any, **options: Any) -> AsyncIterator[Any]:
        kind = options.get("headers", {}).get("content-type", "")
        body, params = options.get("content", b""), options.get("params")
        yield _Raw(await self._ask(method, urlsplit(str(url)), params, body, kind, options["timeout"]))

    async def _ask(
        self, method: str, url: Any, params: Any, body: bytes, kind: str, timeout: float
    ) -> Answer:
        try:
            return await self.network.request(
                self.source, url.hostname, method, url.path, params, body, kind, timeout
            )
        except Unreachable as error:
            failure = httpx.ReadTimeout if error.late else httpx.ConnectError
            raise failure(str(error)) from None


class _Raw:
    """What `Gossip` and `Sync` read of an answer; an `httpx.Response` costs more than the rest of a message's way."""

    def __init__(self, answer: Answer) -> None:
        self.status_code = answer.status
        self.is_error = answer.status >= 400
        self._body = answer.body

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        yield self._body


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
    app: Any, method: str, path: str, params: dict[str, Any], body: bytes, kind: str
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
