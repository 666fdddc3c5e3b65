"""A peer that only listens: every validator is told of it, so it hears all that validators say.

Responsible for keeping each vote and proposal off the wire, and for who contradicted himself (promise P7). Must not
say anything to anyone: to the validators it is a node that has no blocks.
"""

import asyncio
import re
from collections import defaultdict

from chainkit.codec import CodecError, encode
from l1node.messages import ProposalMessage, VoteMessage, decode_body

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NO_BLOCKS = encode([])
_NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"
_EMPTY = b"HTTP/1.1 200 OK\r\ncontent-type: application/msgpack\r\ncontent-length: %d\r\n\r\n" % len(
    _NO_BLOCKS
)


class Broken(AssertionError):  # noqa: N818 - it is a promise that is broken
    """A promise does not hold; the message says which, and what was seen."""


class Tap:
    """What validators said: by voter, slot -> (height, block hash); by proposer, slot -> block hash."""

    def __init__(self) -> None:
        self.votes: dict[bytes, dict[int, tuple[int, bytes]]] = defaultdict(dict)
        self.proposals: dict[bytes, dict[int, bytes]] = defaultdict(dict)
        self.problems: list[str] = []
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                if head.startswith(b"POST"):
                    self.hear(body)
                    writer.write(_NOTHING)
                else:
                    writer.write(_EMPTY + _NO_BLOCKS)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    def hear(self, body: bytes) -> None:
        """Take in a gossip body; what it contradicts is noted in ``problems``."""
        try:
            messages = decode_body(body)
        except CodecError as error:
            self.problems.append(f"a validator sent what is no gossip: {error}")
            return
        for message in messages:
            if isinstance(message, VoteMessage):
                vote = message.vote
                if vote.valid():
                    self._vote(vote.voter, vote.slot, vote.height, vote.block_hash)
                else:
                    self.problems.append(f"a vote of slot {vote.slot} has a bad signature")
            elif isinstance(message, ProposalMessage):
                header = message.proposal.block.header
                self._propose(header.proposer, header.slot, header.hash())

    def _vote(self, voter: bytes, slot: int, height: int, block_hash: bytes) -> None:
        votes, who = self.votes[voter], voter.hex()[:8]
        said = votes.setdefault(slot, (height, block_hash))
        if said != (height, block_hash):
            self.problems.append(f"P7: {who} voted twice in slot {slot}")
        before = max((s for s in votes if s < slot), default=None)
        after = min((s for s in votes if s > slot), default=None)
        if (before is not None and votes[before][0] > height) or (
            after is not None and votes[after][0] < height
        ):
            self.problems.append(f"P7: {who} voted lower in a later slot (slot {slot}, height {height})")

    def _propose(self, proposer: bytes, slot: int, block_hash: bytes) -> None:
        if self.proposals[proposer].setdefault(slot, block_hash) != block_hash:
            self.problems.append(f"P7: {proposer.hex()[:8]} proposed twice in slot {slot}")

    def check(self) -> None:
        """Raises `Broken` for the first contradiction."""
        if self.problems:
            raise Broken(self.problems[0])

    @property
    def heard(self) -> int:
        """How many votes were heard."""
        return sum(map(len, self.votes.values()))
