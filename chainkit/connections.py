"""Limits on connections: how many, how slow, how much unread. uvicorn has none of its own.

Responsible for closing connections that cost more than they are worth, oldest first, so that a newcomer gets in while
hundreds of others hold on to theirs. Must not know what is asked for: requests have their own limits
(chainkit/http_limits.py).

Hard caps, whoever connects: `MAX_CONNECTIONS` of a service, `MAX_FROM_ONE` of one address, `HEAD_SECONDS` and
`HEAD_BYTES` for a request's head, `MAX_PIPELINED` requests ahead of their answers, `STALL_SECONDS` for a reader that
takes nothing, `MAX_UNREAD` bytes of answers that nobody reads. A connection that waits for a request (or for the rest
of one) gives way; one whose answer is under way does not.
"""

import asyncio
import logging
from collections import Counter
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chainkit.corked import Corked
from chainkit.http_limits import WHOLE
from chainkit.problems import MEDIA_TYPE, Problem

MAX_CONNECTIONS: Final = 512
MAX_FROM_ONE: Final = 384
"""Fewer than all, so that one address never has every connection; many, since a class may share an address."""
HEAD_SECONDS: Final = 10.0
HEAD_BYTES: Final = 64 * 1024
MAX_PIPELINED: Final = 32
STALL_SECONDS: Final = 15.0
MAX_UNREAD: Final = 24 * 1024 * 1024
_SAY_SECONDS: Final = 30.0

_log = logging.getLogger("layerlab.connections")


class Connections:
    """The connections of one service. All of it runs on one event loop."""

    def __init__(
        self,
        *,
        most: int = MAX_CONNECTIONS,
        most_from_one: int = MAX_FROM_ONE,
        head_seconds: float = HEAD_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        most_unread: int = MAX_UNREAD,
    ) -> None:
        self.most = most
        self.most_from_one = most_from_one
        self.head_seconds = head_seconds
        self.stall_seconds = stall_seconds
        self.most_unread = most_unread
        self.refused: Counter[str] = Counter()
        """Connections that were closed or turned away, by reason."""
        self._addresses: dict[LimitedProtocol, str] = {}
        self._of: Counter[str] = Counter()
        self._idle: dict[LimitedProtocol, None] = {}  # those that wait for a whole request, longest first
        self._stalled: dict[LimitedProtocol, None] = {}  # those whose answer is not read, longest first
        self._said = float("-inf")

    def __len__(self) -> int:
        return len(self._addresses)

    def enter(self, connection: "LimitedProtocol", address: str) -> bool:
        """Count a new connection, at the price of another if there are too many; False: turn it away."""
        if self._of[address] >= self.most_from_one or len(self._addresses) >= self.most:
            full = self._of[address] >= self.most_from_one
            victim = self._who_gives_way(address if full else "")
            if victim is None:
                self.note("turned away")
                return False
            self.note("gave way")
            self.leave(victim)
            victim.hang_up()
        self._addresses[connection] = address
        self._of[address] += 1
        self._idle[connection] = None
        return True

    def _who_gives_way(self, address: str) -> "LimitedProtocol | None":
        """Who has waited longest for a request, of ``address`` or else of the address with the most connections."""
        if not address and self._idle:
            address = max((self._addresses[c] for c in self._idle), key=self._of.__getitem__)
        return next((c for c in self._idle if self._addresses[c] == address), None)

    def leave(self, connection: "LimitedProtocol") -> None:
        """It is closed."""
        address = self._addresses.pop(connection, None)
        if address is None:
            return
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]
        self._idle.pop(connection, None)
        self._stalled.pop(connection, None)

    def busy(self, connection: "LimitedProtocol") -> None:
        """A whole request has come."""
        self._idle.pop(connection, None)

    def idle(self, connection: "LimitedProtocol") -> None:
        """It waits for a request again."""
        if connection in self._addresses:
            self._idle[connection] = None

    def stalled(self, connection: "LimitedProtocol") -> None:
        """Its answer waits to be read: whoever has kept answers waiting longest pays if there are too many bytes."""
        self._stalled[connection] = None
        while sum(each.unread for each in self._stalled) > self.most_unread:
            oldest = next(iter(self._stalled))
            del self._stalled[oldest]
            self.note("unread answers")
            oldest.hang_up()

    def read(self, connection: "LimitedProtocol") -> None:
        """Its answer was read, or nearly."""
        self._stalled.pop(connection, None)

    def note(self, reason: str) -> None:
        """Count a connection that was closed; say so, now and then."""
        self.refused[reason] += 1
        now = asyncio.get_running_loop().time()
        if now - self._said >= _SAY_SECONDS:
            self._said = now
            _log.warning("connections are closed to stay within limits", extra={"fields": dict(self.refused)})


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with those limits; ``book`` is set by `limited`."""

    book: Connections
    _in_head = True
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._corked = transport = Corked(transport, self.loop)
        super().connection_made(transport)
        if not self.book.enter(self, self.client[0] if self.client else ""):
            transport.write(_TURNED_AWAY)
            transport.close()
            return
        self._timer = self.loop.call_later(self.book.head_seconds, self._head_too_slow)

    def eof_received(self) -> None:
        """Who says no more may still read: the transport closes itself now, so what waits in it goes out before."""
        self._corked.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.book.leave(self)
        self._cancel_timers()
        super().connection_lost(exc)

    def hang_up(self) -> None:
        """Close at once, whatever is left to be said."""
        self._cancel_timers()
        self.transport.abort()

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()
        self._timer = self._stall = None

    # --- a request's head and body ---

    def data_received(self, data: bytes) -> None:
        if self.parser is None:  # it was turned away
            return
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self.book.note("head too large")
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()
        elif self._timer is None:  # counted from the first byte
            self._timer = self.loop.call_later(self.book.head_seconds, self._head_too_slow)

    def _head_too_slow(self) -> None:
        self._timer = None
        self.book.note("head too slow")
        self.hang_up()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self.pipeline) >= MAX_PIPELINED:
            self.book.note("too many at once")
            raise ValueError("too many requests ahead of their answers")  # the parser stops, uvicorn hangs up
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.cycle.scope[WHOLE] = True  # type: ignore[typeddict-unknown-key]
        if not self.cycle.response_complete:  # else it was answered before it had come whole
            self.book.busy(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        cycle = self.cycle  # the latest; one behind the answered one may lack the rest of its body
        if not self.pipeline and (cycle is None or cycle.response_complete or cycle.more_body):
            self.book.idle(self)

    # --- answers that nobody reads ---

    @property
    def unread(self) -> int:
        """Bytes of answers that wait here."""
        return int(self.transport.get_write_buffer_size())

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self.book.stall_seconds, self._stalled, self.unread)
        self.book.stalled(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.book.read(self)
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _stalled(self, before: int) -> None:
        """Whoever has read nothing since is let go."""
        self._stall = None
        if self.unread >= before:
            self.book.note("reads nothing")
            self.hang_up()
        else:
            self._stall = self.loop.call_later(self.book.stall_seconds, self._stalled, self.unread)


def limited(book: Connections) -> type[LimitedProtocol]:
    """The protocol class for one server's connections."""
    return type("LimitedProtocol", (LimitedProtocol,), {"book": book})


def _raw(problem: Problem) -> bytes:
    body = problem.body()
    head = (
        f"HTTP/1.1 {problem.status} Refused\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
    )
    return head.encode() + b"connection: close\r\n\r\n" + body


_TURNED_AWAY: Final = _raw(
    Problem(503, "too_many_connections", "Too many connections are open", "try again in a moment")
)
_HEAD_TOO_LARGE: Final = _raw(
    Problem(
        431, "head_too_large", "The head of the request is too large", f"it has at most {HEAD_BYTES} bytes"
    )
)
