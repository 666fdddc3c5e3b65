"""Saying things to peers: one bounded outbox a peer, and one long-lived sender for each.

Responsible for that a slow or dead peer costs the others nothing, and this node little: what waits is sent
as one body, consensus before transactions, and the oldest is dropped when the outbox is full.
Must not know what a message means. Peers form a full mesh, so nothing that was heard is said again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence

from chainkit.client import UNREACHABLE
from l1node.messages import MAX_MESSAGES, encode_transactions, join
from l1node.peer_http import PeerLink

REQUEST_SECONDS = 2.0
MAX_ANSWER_BYTES = 16 * 1024
FIRST_PAUSE = 0.05  # seconds of real time after a failure; doubles up to
LONGEST_PAUSE = 2.0
MAX_CONSENSUS = 64
"""Proposals and votes that wait for one peer. Older ones than the last few slots' help nobody."""
MAX_CONSENSUS_BYTES = 8 * 1024 * 1024
MAX_TRANSACTIONS = 16_384
MAX_TRANSACTION_BYTES = 8 * 1024 * 1024
_BODY_BYTES = 1024 * 1024  # of transactions in one body: a proposal must not wait for more
_CONSENSUS_BODY = 3 * 1024 * 1024  # of votes and proposals; one proposal is at most 2 MiB and little more
_WIRES = 512  # transactions in one body
_LATER = frozenset((408, 429, 502, 503, 504))  # what a peer that may take the body later answers


_log = logging.getLogger("l1node.gossip")


class BoundedQueue:
    """Byte strings in order, at most ``max_items`` and ``max_bytes``: the oldest go when it is full."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self.items: deque[bytes] = deque()
        """Oldest first; to look at only."""
        self._max_items = max_items
        self._max_bytes = max_bytes
        self.size = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self.items)

    def push(self, item: bytes) -> None:
        self.items.append(item)
        self.size += len(item)
        while len(self.items) > self._max_items or self.size > self._max_bytes:
            self.size -= len(self.items.popleft())
            self.dropped += 1

    def take(self, max_items: int, max_bytes: int) -> list[bytes]:
        """Remove the oldest items: at least one, if there is one, and as many as stay within the bounds."""
        if len(self.items) == 1:  # as nearly always
            self.size = 0
            return [self.items.pop()]
        taken: list[bytes] = []
        size = 0
        while self.items and len(taken) < max_items and (not taken or size + len(self.items[0]) <= max_bytes):
            item = self.items.popleft()
            size += len(item)
            taken.append(item)
        self.size -= size
        return taken

    def give_back(self, items: Sequence[bytes]) -> None:
        """Put back what was taken and could not be sent, in front, as far as there is room."""
        for item in reversed(items):
            if len(self.items) >= self._max_items or self.size + len(item) > self._max_bytes:
                self.dropped += 1
            else:
                self.items.appendleft(item)
                self.size += len(item)


class Peer:
    """One peer: its address, its outbox and how it is doing."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.consensus = BoundedQueue(MAX_CONSENSUS, MAX_CONSENSUS_BYTES)
        self.transactions = BoundedQueue(MAX_TRANSACTIONS, MAX_TRANSACTION_BYTES)
        self.failures = 0
        """Failed requests since the last good one."""
        self.reached = False
        """Whether the last request got an answer."""
        self._idle: asyncio.Future[None] | None = None
        """What the sender waits for while there is nothing to send."""

    @property
    def dropped(self) -> int:
        """Messages and transactions that went unsent."""
        return self.consensus.dropped + self.transactions.dropped

    def say(self, message: bytes) -> None:
        """Queue an encoded consensus message."""
        self.consensus.push(message)
        self._wake()

    def pass_on(self, wires: Iterable[bytes]) -> None:
        """Queue transactions."""
        for wire in wires:
            self.transactions.push(wire)
        self._wake()

    def _wake(self) -> None:
        idle = self._idle
        if idle is not None and not idle.done():
            idle.set_result(None)

    async def next_body(self) -> tuple[list[bytes], list[bytes]]:
        """Wait for something to send; what was taken: consensus messages and transaction wires.

        Transactions wait until no consensus message does: they may be large, and they have time.
        """
        while not (self.consensus.items or self.transactions.items):
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        messages = self.consensus.take(MAX_MESSAGES - 1, _CONSENSUS_BODY)
        if self.consensus.items or not self.transactions.items:
            return messages, []
        wires = self.transactions.take(_WIRES, _BODY_BYTES)
        return messages, wires

    def put_back(self, messages: Sequence[bytes], wires: Sequence[bytes]) -> None:
        """What `next_body` gave could not be sent."""
        self.consensus.give_back(messages)
        self.transactions.give_back(wires)


class Gossip:
    """Sends to all peers. ``link`` is shared; whoever made it closes it."""

    def __init__(self, urls: Sequence[str], link: PeerLink) -> None:
        self.peers = [Peer(url) for url in urls]
        self.sent = 0
        """Bodies that a peer answered."""
        self._link = link

    def broadcast(self, message: bytes) -> None:
        """Say an encoded consensus message to every peer. Never waits."""
        for peer in self.peers:
            peer.say(message)

    def pass_on(self, wires: Sequence[bytes]) -> None:
        """Pass transactions on to every peer. Never waits."""
        for peer in self.peers:
            peer.pass_on(wires)

    async def run(self) -> None:
        """Send, without end."""
        async with asyncio.TaskGroup() as group:
            for peer in self.peers:
                group.create_task(self._serve(peer), name=f"gossip {peer.url}")

    async def _serve(self, peer: Peer) -> None:
        pause = FIRST_PAUSE
        while True:
            messages, wires = await peer.next_body()
            body = join([*messages, encode_transactions(wires)] if wires else messages)
            if await self._post(peer, body):
                pause = FIRST_PAUSE
                continue
            peer.put_back(messages, wires)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _post(self, peer: Peer, body: bytes) -> bool:
        """Whether the peer has taken or refused the body; False if it should be sent again later."""
        try:
            answer = await self._link.ask(
                "POST", f"{peer.url}/p2p/messages", body=body, seconds=REQUEST_SECONDS, most=MAX_ANSWER_BYTES
            )
        except UNREACHABLE as error:
            self._note(peer, f"{type(error).__name__}: {error}")
            return False
        if answer.status in _LATER:
            self._note(peer, f"status {answer.status}")
            return False
        if answer.status >= 400:
            reason = answer.body[:200].decode("utf-8", "replace")
            _log.warning(
                "a peer refused what we said",
                extra={"fields": {"peer": peer.url, "status": answer.status, "answer": reason}},
            )
        self.sent += 1
        if peer.failures or not peer.reached:
            _log.info("reached a peer", extra={"fields": {"peer": peer.url}})
        peer.failures, peer.reached = 0, True
        return True

    def _note(self, peer: Peer, reason: str) -> None:
        if not peer.failures:  # once, not at every attempt
            _log.info("cannot reach a peer", extra={"fields": {"peer": peer.url, "reason": reason[:200]}})
        peer.failures, peer.reached = peer.failures + 1, False
