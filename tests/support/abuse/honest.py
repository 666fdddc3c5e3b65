"""Who means it: the flood of good transfers, and a few people who pay the least that a wallet suggests.

Responsible for sending both and for how long each honest transfer took. Must not know of any junk.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from abuse.junk import Tally
from abuse.wire import BROKEN, JSON, Line, request
from chainkit.codec import encode
from chainkit.keys import dev_keypair
from chainkit.transaction import Body, SignedTransaction, Transfer

TICK: Final = 0.1
LINES: Final = 32
LATER: Final = frozenset({"mempool_full", "nonce_gap", "overloaded", "l1_behind", "connection closed"})
"""Refusals that mean: not now."""
PEOPLE: Final = ("carol", "dave", "erin", "frank", "grace")
FLOOD: Final = "transfers offered"


class Flood:
    """``rate`` transfers a second, whatever becomes of them; what was not taken for now is offered again."""

    def __init__(self, url: str, wires: Sequence[bytes], rate: int, tally: Tally) -> None:
        self._lines = [Line(url) for _ in range(LINES)]
        self._wires = deque(wires)
        self._per_tick = max(1, int(rate * TICK))
        self._tally = tally
        self.accepted = 0
        self.behind = 0
        """Ticks at which every line was still busy: nothing could be offered."""

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        begin, tick = loop.time(), 0
        busy: set[asyncio.Task[None]] = set()
        free = deque(self._lines)
        while (now := loop.time() - begin) < seconds:
            tick += 1
            if free:
                line = free.popleft()
                group = [self._wires.popleft() for _ in range(min(self._per_tick, len(self._wires)))]
                task = asyncio.create_task(self._offer(line, group, free))
                busy.add(task)
                task.add_done_callback(busy.discard)
            else:
                self.behind += 1
            await asyncio.sleep(max(0.0, tick * TICK - now))
        await asyncio.gather(*busy)

    async def _offer(self, line: Line, group: list[bytes], free: deque[Line]) -> None:
        try:
            status, body = await line.ask(request("POST", "/transactions", encode(group)))
            codes = self._tally.results(FLOOD, body, len(group), status)
        except BROKEN:
            codes = ["connection closed"] * len(group)
            self._tally.note(FLOOD, len(group), "connection closed")
        self.accepted += codes.count("")
        self._wires.extendleft(
            w for w, code in reversed(list(zip(group, codes, strict=True))) if code in LATER
        )
        free.append(line)


@dataclass
class Waited:
    """How long an honest transfer took: seconds, and blocks (L2) or slots (L1) from its first offer."""

    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    attempts: int = 0
    in_time: int = 0
    late: list[str] = field(default_factory=list)


class Honest:
    """One person with one account: a transfer without a tip, again when it is in."""

    def __init__(self, name: str, url: str, chain: int, waited: Waited) -> None:
        self.key = dev_keypair(name)
        self.url = url
        self.chain = chain
        self.waited = waited
        self._nonce = 0

    async def run(self, seconds: float, patience: float) -> None:
        """Until ``seconds`` have gone; each transfer has ``patience`` seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await self._one(patience)
            await asyncio.sleep(0.5)

    async def _one(self, patience: float) -> None:
        begin, first, last = time.monotonic(), -1, "nothing"
        while time.monotonic() - begin < patience:
            line = Line(self.url)  # a new connection each time: a newcomer must get in
            try:
                status = await self._get(line, "/status")
                now = int(status["slot"] if self.chain == 900 else status["heads"]["head"]["height"])
                first = now if first < 0 else first
                body = Body(
                    self.chain,
                    self.key.address,
                    self._nonce,
                    30_000,
                    status["fees"]["max_fee_per_gas"],
                    0,
                    Transfer(dev_keypair("bob").address, 1),
                )
                tx = SignedTransaction.sign(body, self.key)
                self.waited.attempts += 1
                code, answer = await line.ask(request("POST", "/transactions", encode([tx.wire])))
                last = answer[:200].decode(errors="replace")
                if code == 202 and await self._included(line, tx):
                    view = await self._get(line, "/status")
                    then = int(view["slot"] if self.chain == 900 else view["heads"]["head"]["height"])
                    self.waited.seconds.append(time.monotonic() - begin)
                    self.waited.steps.append(then - first)
                    self.waited.in_time += 1
                    self._nonce += 1
                    return
            except BROKEN as error:
                last = repr(error)
            except (KeyError, TypeError) as error:
                last = f"an answer without {error}"
            finally:
                line.close()
            await asyncio.sleep(0.1)
        self.waited.late.append(f"{self.key.address.hex()[:8]} nonce {self._nonce}: {last}")
        self._nonce = await self._ask_nonce()

    async def _included(self, line: Line, tx: SignedTransaction) -> bool:
        for _ in range(40):
            view = await self._get(line, f"/transactions/0x{tx.id.hex()}")
            if view.get("receipt") is not None:
                return True
            await asyncio.sleep(0.1)
        return False

    async def _ask_nonce(self) -> int:
        try:
            account = await self._get(Line(self.url), f"/accounts/0x{self.key.address.hex()}")
            return int(account["nonce"])
        except (*BROKEN, KeyError):
            return self._nonce

    @staticmethod
    async def _get(line: Line, path: str) -> dict[str, Any]:
        _, body = await line.ask(request("GET", path, kind=JSON))
        found: dict[str, Any] = msgspec.json.decode(body)
        return found
