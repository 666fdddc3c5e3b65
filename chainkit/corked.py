"""A connection that writes once in each turn of the event loop what is said in that turn.

Responsible for that an answer's head and body, which uvicorn hands over one after the other, cost one system call and
wake the reader once (what TCP_CORK is for). Must not know what is written.
"""

import asyncio
from typing import Any, Final

MOST: Final = 64 * 1024
"""Bytes that wait for the end of the turn at most: what is large goes on at once."""
_Bytes = bytes | bytearray | memoryview


class Corked(asyncio.Transport):
    """The same transport; what `write` takes goes out when the loop comes round, in order, or with `close`."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._parts: list[_Bytes] = []
        self._size = 0
        self._due = False

    def write(self, data: _Bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > MOST:
            self.flush()
        elif not self._due:
            self._due = True
            self._loop.call_soon(self._at_end_of_turn)

    def write_now(self, data: _Bytes) -> None:
        """`write` of what nothing follows in this turn: it waits for nothing."""
        self._parts.append(data)
        self.flush()

    def _at_end_of_turn(self) -> None:
        self._due = False
        self.flush()

    def flush(self) -> None:
        """Write what waits, without waiting for the end of the turn."""
        if self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            self._size = 0
            if not self._transport.is_closing():  # uvloop raises once the other side has hung up
                self._transport.write(data)

    def close(self) -> None:
        if not self._transport.is_closing():
            self.flush()
            self._transport.close()

    def abort(self) -> None:
        self._parts.clear()
        self._size = 0
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._size + self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)
