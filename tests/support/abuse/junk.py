"""What abusers send, each kind in a task of its own, until they are cancelled.

Responsible for making the junk and for counting what became of it. Must not know what services make of it.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from abuse.wire import BROKEN, JSON, Line, deaf, request
from benchmarks import workload
from chainkit.block import Vote
from chainkit.codec import encode
from chainkit.keys import KeyPair, dev_keypair
from chainkit.transaction import Body, SignedTransaction, Transfer
from l1node.messages import encode_message, encode_transactions, join

ACCOUNTS: Final = 2000
"""Of the flood."""
JUNK_ACCOUNTS: Final = 50
"""Funded as well, or their gapped transfers would not be taken in at all."""
PACKETS: Final = 5  # a second, of each kind of junk transactions
PACKET: Final = 100
LORIS: Final = 300
STREAMS: Final = 200
UNREAD: Final = 40
LORIS_SECONDS: Final = 1.0
STRANGER: Final = KeyPair(b"\x07" * 32)
ABUSERS: Final = tuple(f"127.0.0.{n}" for n in range(2, 6))
"""Addresses that slow connections and streams come from; some share the honest one, 127.0.0.1."""


class Tally:
    """By kind of thing sent: how many, and what was said to them."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.answers: dict[str, Counter[str]] = defaultdict(Counter)

    def note(self, kind: str, count: int, answer: str) -> None:
        self.sent[kind] += count
        self.answers[kind][answer] += count

    def results(self, kind: str, body: bytes, count: int, status: int) -> list[str]:
        """Of a bulk submission: the code of each, "" if it was taken."""
        if status != 202:
            code = str(msgspec.json.decode(body)["code"]) if body else str(status)
            codes = [code] * count
        else:
            codes = ["" if r["accepted"] else r["code"] for r in msgspec.json.decode(body)["results"]]
        self.sent[kind] += count
        self.answers[kind].update(code or "accepted" for code in codes)
        return codes


class Junk:
    """All of it, against the services of ``urls``."""

    def __init__(self, urls: dict[str, str], validators: Sequence[str], tally: Tally, seed: int) -> None:
        self.urls = urls
        self.validators = validators
        self.tally = tally
        self.choice = random.Random(f"junk {seed}")
        self.open: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, share: float = 1.0) -> None:
        """Begin. ``share``: how many of the hundreds of connections."""
        packets = self._packets()
        for name, chain in (("sequencer", 901), (self.validators[1], 900)):
            for kind, bodies in packets[chain].items():
                self._go(self._submit(kind, name, bodies))
        for name in self.urls:
            self._go(self._oversized(name))
            for number in range(int(LORIS * share)):
                self._go(self._loris(name, ABUSERS[number % len(ABUSERS)], number))
        for name in ("sequencer", "verifier", "bridge", self.validators[0]):
            for number in range(int(STREAMS * share)):
                self._go(self._stream(name, ("127.0.0.1", *ABUSERS)[number % 5]))
        for name, path in ((self.validators[0], "/certified-blocks"), ("sequencer", "/genesis")):
            for number in range(int(UNREAD * share)):
                self._go(self._unread(name, path, ABUSERS[number % len(ABUSERS)]))
        for name in self.validators:
            self._go(self._peer(name))

    async def stop(self) -> None:
        left = set(self._tasks)
        while left:  # again and again: Python 3.11's `wait_for` may swallow a cancellation
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=1.0)

    def _go(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    # --- transactions ---

    def _packets(self) -> dict[int, dict[str, list[bytes]]]:
        """By chain and kind: bodies of `PACKET` transactions each."""
        found: dict[int, dict[str, list[bytes]]] = {}
        for chain in (900, 901):
            keys = [
                workload.key(1, ACCOUNTS + index) for index in range(JUNK_ACCOUNTS)
            ]  # none of the flood's
            gapped = [_transfer(chain, key, 10**6 + n) for n in range(10) for key in keys]
            near = [_transfer(chain, key, 40 + n) for n in range(10) for key in keys]
            bad = [
                tx[:-1] + bytes([tx[-1] ^ 1])
                for tx in (_transfer(chain, k, n) for n in range(10) for k in keys)
            ]
            kinds = {"bad signatures": bad, "far gapped nonces": gapped, "near gapped nonces": near}
            found[chain] = {
                f"{kind} ({'L1' if chain == 900 else 'L2'})": [
                    request("POST", "/transactions", encode(wires[i : i + PACKET]))
                    for i in range(0, len(wires), PACKET)
                ]
                for kind, wires in kinds.items()
            }
        return found

    async def _submit(self, kind: str, name: str, bodies: list[bytes]) -> None:
        line, turn = Line(self.urls[name]), 0
        while True:
            try:
                status, body = await line.ask(bodies[turn % len(bodies)])
                self.tally.results(kind, body, PACKET, status)
            except BROKEN:
                self.tally.note(kind, PACKET, "connection closed")
            turn += 1
            await asyncio.sleep(1 / PACKETS)

    async def _oversized(self, name: str) -> None:
        """Ten megabytes: said beforehand, and in chunks without a length."""
        head = b"POST /transactions HTTP/1.1\r\nHost: x\r\nContent-Type: application/msgpack\r\n"
        said = head + b"Content-Length: 10000000\r\n\r\n"
        chunked = (
            head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"40000\r\n" + bytes(0x40000) + b"\r\n") * 20
        )
        while True:
            for data in (said, chunked):
                line = Line(self.urls[name])
                try:
                    status, _ = await line.ask(data)
                    self.tally.note("oversized bodies", 1, str(status))
                except BROKEN:
                    self.tally.note("oversized bodies", 1, "connection closed")
                line.close()
            await asyncio.sleep(0.5)

    # --- connections ---

    async def _loris(self, name: str, address: str, number: int) -> None:
        """A head, or a body, a byte at a time."""
        head = b"GET /status HTTP/1.1\r\nHost: x\r\nX: "
        body = b"POST /transactions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        await asyncio.sleep(self.choice.random() * 2)
        while True:
            with suppress(OSError):
                found = await deaf(self.urls[name], address)
                self.tally.sent["slow-loris connections"] += 1
                self.open["loris"] += 1
                found.transport.write(body if number % 3 == 0 else head)
                try:
                    while not found.closed.is_set():
                        with suppress(TimeoutError):
                            await asyncio.wait_for(found.closed.wait(), LORIS_SECONDS)
                        if not found.closed.is_set():
                            found.transport.write(b"x")
                    self.tally.answers["slow-loris connections"]["closed by the service"] += 1
                finally:
                    self.open["loris"] -= 1
                    found.transport.abort()
            await asyncio.sleep(0.2)

    async def _stream(self, name: str, address: str) -> None:
        await self._deaf(
            "event streams never read",
            name,
            address,
            b"GET /events/stream?from=1 HTTP/1.1\r\nHost: x\r\n\r\n",
        )

    async def _unread(self, name: str, path: str, address: str) -> None:
        """Large answers, asked for again and again, and never read."""
        data = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 8
        await self._deaf("large answers never read", name, address, data)

    async def _deaf(self, kind: str, name: str, address: str, data: bytes) -> None:
        await asyncio.sleep(self.choice.random() * 2)
        while True:
            with suppress(OSError):
                found = await deaf(self.urls[name], address)
                self.tally.sent[kind] += 1
                found.transport.write(data)
                try:
                    await found.closed.wait()
                    self.tally.answers[kind]["closed by the service"] += 1
                finally:
                    found.transport.abort()
            await asyncio.sleep(1.0)

    # --- peers ---

    async def _peer(self, name: str) -> None:
        """All that a validator must refuse from a peer, one body after the other."""
        line = Line(self.urls[name])
        while True:
            slot = await _slot(self.urls[name])
            for kind, messages in peer_junk(slot).items():
                for count in (1, len(messages)):
                    try:
                        status, _ = await line.ask(request("POST", "/p2p/messages", join(messages[:count])))
                        self.tally.note(f"peers: {kind}", count, str(status))
                    except BROKEN:
                        self.tally.note(f"peers: {kind}", count, "connection closed")
                    await asyncio.sleep(0.02)
            for data in (b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 100_000, bytes(1_000_000)):
                with suppress(*BROKEN):
                    status, _ = await line.ask(request("POST", "/p2p/messages", data))
                    self.tally.note("peers: no messages", 1, str(status))
            await asyncio.sleep(0.2)


async def _slot(url: str) -> int:
    with suppress(*BROKEN):
        _, body = await Line(url).ask(request("GET", "/p2p/status", kind=JSON))
        return int(msgspec.json.decode(body)["slot"])
    return 1


def peer_junk(slot: int, count: int = 256) -> dict[str, list[bytes]]:
    """Messages by what is wrong with them; none is worth the check of a signature but the third and the last."""
    insider = dev_keypair("validator-0").address
    zero, block = bytes(64), b"\x05" * 32
    wires = [
        _transfer(900, dev_keypair("alice"), 50)[:-64] + n.to_bytes(64, "big") for n in range(1, count + 1)
    ]
    return {
        "not a validator": [
            encode_message(Vote.sign(STRANGER, 900, slot, 5, n.to_bytes(32, "big"))) for n in range(count)
        ],
        "stale": [encode_message(Vote(900, 1, n, block, insider, zero)) for n in range(count)],
        "unsigned": [encode_message(Vote(900, slot, n, block, insider, zero)) for n in range(count)],
        "another chain": [encode_message(Vote(1, slot, n, block, insider, zero)) for n in range(count)],
        "unsigned transactions": [encode_transactions(wires)],
    }


def _transfer(chain: int, key: KeyPair, nonce: int) -> bytes:
    body = Body(chain, key.address, nonce, 30_000, 1000, 1, Transfer(dev_keypair("bob").address, 1))
    return SignedTransaction.sign(body, key).wire
