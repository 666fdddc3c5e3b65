"""What validators say to each other: the bytes of a gossip body.

Responsible for the shape and the bounds of one body. Must not know who sends it, nor whether it is true.

A body is a MessagePack array of messages, each an array headed by its tag: ``[0, proposal]``, ``[1, vote]``,
``[2, [wire, ...]]``. Each is encoded once, however many peers get it.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from chainkit.block import Proposal, Vote
from chainkit.codec import Record, decode, encode

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_MESSAGES = 512
"""Messages in one body."""
MAX_WIRES = 1024
"""Transactions in one message."""


class ProposalMessage(Record, frozen=True, tag=0):
    """A leader's block."""

    proposal: Proposal


class VoteMessage(Record, frozen=True, tag=1):
    """A validator's vote."""

    vote: Vote


class TransactionsMessage(Record, frozen=True, tag=2):
    """Transactions that the sender's mempool took in."""

    wires: Annotated[list[bytes], Meta(min_length=1, max_length=MAX_WIRES)]


_ARRAY_OF_ONE = b"\x91"

PeerMessage = ProposalMessage | VoteMessage | TransactionsMessage
_Body = Annotated[list[PeerMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]


def encode_message(message: Proposal | Vote) -> bytes:
    """One consensus message, as a member of a body."""
    return encode(VoteMessage(message) if isinstance(message, Vote) else ProposalMessage(message))


def encode_transactions(wires: list[bytes]) -> bytes:
    """Transactions, as a member of a body."""
    return encode(TransactionsMessage(wires))


def join(messages: Sequence[bytes]) -> bytes:
    """The body that carries these encoded messages, in order."""
    if len(messages) == 1:
        return _ARRAY_OF_ONE + messages[0]
    return encode([msgspec.Raw(message) for message in messages])


def decode_body(data: bytes) -> list[PeerMessage]:
    """The messages of a body. Raises `CodecError`."""
    messages: list[PeerMessage] = decode(_Body, data, limit=MAX_BODY_BYTES)
    return messages
