"""Raw HTTP over sockets, cheap enough to send a flood with, and rude enough to send junk with.

Responsible for requests and status codes. Must not know what is sent, or why.
"""

import asyncio
import re
from typing import Any, Final
from urllib.parse import urlsplit

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ANSWER_SECONDS: Final = 20.0
MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"
BROKEN: Final = (OSError, asyncio.IncompleteReadError, TimeoutError, ConnectionError)


def request(method: str, path: str, body: bytes = b"", kind: str = MSGPACK) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: abuse\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Line:
    """One connection that is opened when it is needed, and opened again when it was closed."""

    def __init__(self, url: str, address: str = "127.0.0.1") -> None:
        parts = urlsplit(url)
        self._where = parts.hostname or "", parts.port or 80
        self._address = address
        self._pair: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        """Status and body. Raises one of `BROKEN`."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = self._pair or await self._open()
                writer.write(data)
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
        except BROKEN:
            self.close()
            raise
        if b"connection: close" in head.lower():
            self.close()
        return int(head[9:12]), body

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._pair = await asyncio.open_connection(*self._where, local_addr=(self._address, 0))
        return self._pair

    def close(self) -> None:
        if self._pair is not None:
            self._pair[1].close()
            self._pair = None


class Deaf(asyncio.Protocol):
    """A connection that sends and never reads. ``closed`` is set when the other side hangs up."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


async def deaf(url: str, address: str = "127.0.0.1") -> Deaf:
    """Raises `OSError`."""
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    _, found = await loop.create_connection(Deaf, parts.hostname, parts.port, local_addr=(address, 0))
    return found
