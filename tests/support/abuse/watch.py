"""What the services cost and how far they get, looked at every second.

Responsible for memory, CPU and connections of each service with its children, and for finality. Must not know who
sends what.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import psutil

from abuse.wire import BROKEN, JSON, Line, request
from benchmarks.stack import Stack

LOOK_SECONDS: Final = 1.0
MIB: Final = 1024 * 1024


@dataclass
class Seen:
    """Peaks of one service: resident bytes of all its processes, connections, and its CPU seconds."""

    memory: int = 0
    connections: int = 0
    cpu: float = 0.0
    unanswered: int = 0


@dataclass
class Progress:
    """L1's finality: at each look the slot that it is and the last final block's, and its height."""

    slots: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def worst_lag(self) -> int:
        return max((slot - final for slot, final, _ in self.slots), default=0)

    @property
    def final_blocks(self) -> int:
        return self.slots[-1][2] - self.slots[0][2] if self.slots else 0


class Watch:
    """Looks at every service of a stack."""

    def __init__(self, stack: Stack, names: list[str]) -> None:
        self._stack = stack
        self._names = names
        self.seen = {name: Seen() for name in names}
        self.l1 = Progress()
        self.l2_final: list[int] = []
        self.looks = 0
        self._first_cpu: dict[str, float] = {}

    async def run(self) -> None:
        """Without end."""
        async with asyncio.TaskGroup() as group:
            for name in self._names:
                group.create_task(self._keep_asking(name))
            while True:
                await asyncio.to_thread(self._processes)
                self.looks += 1
                await asyncio.sleep(LOOK_SECONDS)

    async def _keep_asking(self, name: str) -> None:
        while True:
            await self._ask(name)
            await asyncio.sleep(LOOK_SECONDS)

    def _processes(self) -> None:
        for name in self._names:
            running = self._stack.devnet.supervisor.running.get(name)
            if running is None:
                continue
            with suppress(psutil.Error):
                own = psutil.Process(running.pid)
                memory, cpu = 0, 0.0
                for process in (own, *own.children(recursive=True)):
                    with suppress(psutil.Error):
                        memory += process.memory_info().rss
                        times = process.cpu_times()
                        cpu += times.user + times.system
                seen = self.seen[name]
                seen.memory = max(seen.memory, memory)
                seen.cpu = cpu - self._first_cpu.setdefault(name, cpu)
                kinds = Counter(
                    c.status for c in own.net_connections("tcp") if c.laddr.port == self._port(name)
                )
                seen.connections = max(seen.connections, kinds[psutil.CONN_ESTABLISHED])

    def _port(self, name: str) -> int:
        return self._stack.config.ports[name]

    async def _ask(self, name: str) -> None:
        line = Line(self._stack.url(name))
        try:
            _, body = await line.ask(request("GET", "/status", kind=JSON))
            status: dict[str, Any] = msgspec.json.decode(body)
        except BROKEN:
            self.seen[name].unanswered += 1
            return
        finally:
            line.close()
        if "heads" not in status:
            return
        final = status["heads"]["finalized"]
        if final is not None and name == "validator-2":  # one that no more than its share is sent to
            self.l1.slots.append((int(status["slot"]), int(final["slot"]), int(final["height"])))
        elif name == "verifier":
            safe = status["heads"]["safe"]
            self.l2_final.append(0 if safe is None else int(safe["height"]))
