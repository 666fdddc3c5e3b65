"""The short way of one small request that comes again and again, past what an HTTP server does for every request.

Responsible for recognising it, and for one answer to each, in the order in which they came. Whatever is unusual in any
way (another head, a body in pieces, an answer still under way) goes the ordinary way, before anything was done for it.
Must not know what a body means: a `Lane` does.

What makes it fast: a head that was read once need not be read again. A client sends the same few heads over and over,
so those that the parser found complete and the lane found plain are remembered, each with the length of its body. What
is one of these heads and so many bytes, all of it there and nothing behind it, goes to the lane as it is: no header is
read, there is no scope, no task, no timer, and the answer is one write.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from chainkit.connections import Connections, LimitedProtocol

MOST_BYTES: Final = 4096
"""Of a request that goes the short way, head and body."""
MOST_HEAD: Final = 1024
MOST_HEADS: Final = 256
"""Heads that are remembered, of all connections together."""
_END: Final = b"\r\n\r\n"

Answer = Callable[[int, bytes, bytes], None]
"""Status, media type and body. To be called once, later than `Lane.take` returns."""
Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, and values."""


class Lane(Protocol):
    """What takes the requests of one route. ``line`` is their first line, with its end."""

    line: bytes

    def admits(self, headers: Headers) -> bool:
        """Whether a request with these headers means no more than its body."""

    def take(self, body: bytes, answer: Answer) -> bool:
        """Begin with a request; False if nothing was done: then it goes the ordinary way."""


class ExpressProtocol(LimitedProtocol):
    """A connection with a short way. ``lane``, ``is_open`` and ``heads`` are set by `with_lane`."""

    lane: Lane
    is_open: Callable[[], bool]
    heads: dict[bytes, int]
    _between = True  # the parser is at the begin of a message
    _under_way = False  # the lane owes an answer
    _last = False  # which is the last one of this connection
    _held = b""  # what came meanwhile
    _quiet_since = 0.0

    def data_received(self, data: bytes) -> None:
        if self._under_way:
            self._held += data
            self.flow.pause_reading()
        elif not self._goes_express(data):
            between = self._between
            super().data_received(data)
            if between and data.startswith(self.lane.line):
                self._remember_head(data)

    def _goes_express(self, data: bytes) -> bool:
        if len(data) > MOST_BYTES or not self.is_open():
            return False
        end = data.find(_END) + len(_END)
        if self.heads.get(data[:end]) != len(data) - end or not self._is_free():
            return False
        if not self.lane.take(data[end:], self._answer):
            return False
        self._under_way = True
        if self._timer is not None:  # the head has come
            self._timer.cancel()
            self._timer = None
        self.book.busy(self)
        return True

    def _is_free(self) -> bool:
        """Whether nothing is between this request and its answer."""
        cycle = self.cycle
        return (
            self._between
            and (cycle is None or cycle.response_complete)
            and self.parser is not None
            and not self.flow.write_paused
            and not self.transport.is_closing()
        )

    def _remember_head(self, data: bytes) -> None:
        """Remember the head, if these bytes are one whole request and it is plain."""
        cycle = self.cycle
        if len(data) > MOST_BYTES or not self._between or cycle.response_complete or not cycle.keep_alive:
            return
        head = data[: len(data) - len(cycle.body)]
        if (
            len(head) <= MOST_HEAD
            and head.find(_END) == len(head) - len(_END)
            and self.lane.admits(self.headers)
        ):
            if len(self.heads) >= MOST_HEADS:
                del self.heads[next(iter(self.heads))]
            self.heads[head] = len(cycle.body)

    def _answer(self, status: int, kind: bytes, body: bytes) -> None:
        self._under_way = False
        transport = self.transport
        if transport.is_closing():
            return
        usual = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        closing = b"connection: close\r\n" if self._last else b""
        head = b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b\r\n" % (usual, kind, len(body), closing)
        self._corked.write_now(STATUS_LINE[status] + head + body)
        self.server_state.total_requests += 1
        if self._last:
            transport.close()
            return
        self._quiet_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_for_more(self.timeout_keep_alive)
        self.book.idle(self)
        self.flow.resume_reading()
        if self._held:
            data, self._held = self._held, b""
            self.data_received(data)

    # --- what uvicorn asks of a connection, as it is with an answer of the lane under way ---

    def _wait_for_more(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """The short way leaves the alarm as it is, so it may be early."""
        left = self._quiet_since + self.timeout_keep_alive - self.loop.time()
        if self._under_way or left > 0:
            self._wait_for_more(self.timeout_keep_alive if self._under_way else left)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        if self._under_way:
            self._last = True
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._held = b""
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._between = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._between = True


def with_lane(
    book: Connections, lane: Lane, is_open: Callable[[], bool] = lambda: True
) -> type[ExpressProtocol]:
    """The protocol class for one server's connections. While ``is_open`` says no all goes the ordinary way."""
    members: dict[str, Any] = {"book": book, "lane": lane, "is_open": staticmethod(is_open), "heads": {}}
    return type("ExpressProtocol", (ExpressProtocol,), members)
