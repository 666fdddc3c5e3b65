"""One exchange with a peer over HTTP.

Responsible for its bounds: however slow or talkative a peer is, an exchange ends in time and brings no more than was
asked for. Must not know what is said, nor whom to ask next.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import httpx

MAX_REFUSAL_BYTES: Final = 16 * 1024
"""Read of an answer that is not what was asked for."""


class Reply(NamedTuple):
    """A status, and the body: cut off somewhere above the bytes that were asked for, if it has more."""

    status: int
    body: bytes


class PeerLink(Protocol):
    """What gossip and sync reach their peers through."""

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
        """One exchange; ``body`` is MessagePack. Raises what is in `chainkit.client.UNREACHABLE`."""

    async def aclose(self) -> None:
        """Let go of all connections."""


class PeerHttp:
    """`PeerLink` over an `httpx.AsyncClient`, which it owns."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

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
        """``seconds`` for each part of the exchange, twice that for all of it; reading ends above ``most`` bytes."""
        data = bytearray()
        async with (
            asyncio.timeout(2 * seconds),
            self._client.stream(
                method,
                url,
                params=params,
                content=body or None,
                headers=_HEADERS if body else None,
                timeout=seconds,
            ) as answer,
        ):
            bound = most if answer.status_code == 200 else min(most, MAX_REFUSAL_BYTES)
            async for chunk in answer.aiter_raw():
                data += chunk
                if len(data) > bound:
                    break  # the connection is closed with it: the rest may never end, or unpack to anything
        return Reply(answer.status_code, bytes(data))

    async def aclose(self) -> None:
        await self._client.aclose()


_HEADERS = {"content-type": "application/msgpack", "accept-encoding": "identity"}
