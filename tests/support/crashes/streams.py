"""Reading a service's event stream as a browser does: by Last-Event-ID, over every break.

Responsible for that each event comes once and in order, whatever is killed in between. Must not know what events mean.
"""

import asyncio
import contextlib
import json
from typing import Any

import httpx

from crashes.tap import Broken

_RETRY = 0.05
_LIMITS = httpx.Timeout(5.0, read=60.0)


class Stream:
    """The events of one service, from the first on. ``resumed``: how often it broke and went on."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.events: list[dict[str, Any]] = []
        self.resumed = 0
        self.problems: list[str] = []

    async def run(self) -> None:
        """Follow, without end."""
        async with httpx.AsyncClient(base_url=self.url, timeout=_LIMITS, trust_env=False) as http:
            while True:
                with contextlib.suppress(httpx.HTTPError, httpx.StreamError, OSError):
                    await self._follow(http)
                self.resumed += 1
                await asyncio.sleep(_RETRY)

    async def _follow(self, http: httpx.AsyncClient) -> None:
        headers = {"last-event-id": str(len(self.events))} if self.events else {}
        async with http.stream("GET", "/events/stream", headers=headers) as response:
            if response.status_code != 200:
                return
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.strip()
                    continue
                if "data" in fields and "event" not in fields:
                    self._take(fields)
                fields = {}

    def _take(self, fields: dict[str, str]) -> None:
        wanted = len(self.events) + 1
        if fields.get("id") != str(wanted):
            self.problems.append(f"{self.name}: event {fields.get('id')} came where {wanted} was due")
        event = json.loads(fields["data"])
        if event["seq"] != wanted:
            self.problems.append(f"{self.name}: event {event['seq']} under the id {fields.get('id')}")
        self.events.append(event)

    def check(self) -> None:
        """Raises `Broken` for an event that was lost, doubled or out of order."""
        if self.problems:
            raise Broken(self.problems[0])

    async def compare(self, http: httpx.AsyncClient) -> None:
        """Everything that came is what ``GET /events`` tells, and all of it has come. Raises `Broken`."""
        told: list[dict[str, Any]] = []
        while True:
            page = (
                await http.get(f"{self.url}/events", params={"from": len(told) + 1, "limit": 1000})
            ).json()
            told += page["events"]
            if not page["events"]:
                break
        for _ in range(100):
            if len(self.events) >= len(told):
                break
            await asyncio.sleep(0.05)
        if self.events[: len(told)] != told:
            seen, all_of_them = len(self.events), len(told)
            raise Broken(
                f"{self.name}: the stream gave {seen} events, /events has {all_of_them}, not the same"
            )
