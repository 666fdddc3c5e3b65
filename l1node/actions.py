"""What the consensus engine takes in and gives out, as values.

Responsible for the names of messages, actions and refusals. Must not know why any of them happens.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum

from msgspec import Struct

from chainkit.block import Certificate, Proposal, Vote
from chainkit.chain import ExecutedBlock
from chainkit.transaction import SignedTransaction
from l1node.evidence import Evidence

Message = Proposal | Vote
Select = Callable[[ExecutedBlock, int], Iterable[SignedTransaction]]


class VotedRecord(Struct, frozen=True):
    """What must be on disk before a message leaves: the highest slot and height voted, and slot proposed."""

    slot: int = 0
    height: int = 0
    proposed: int = 0


class PersistVoted(Struct, frozen=True):
    """Make the record durable before any later action of the list."""

    record: VotedRecord


class Broadcast(Struct, frozen=True):
    """Send to all peers. The engine has handled its own message already."""

    message: Message


class RequestBlocks(Struct, frozen=True):
    """Ask peers for their certified blocks from this height on: final ones, then their notarized chain."""

    from_height: int


class BlockNotarized(Struct, frozen=True):
    """A quorum voted for the block. Make it durable: it is needed after a restart."""

    block: ExecutedBlock
    certificate: Certificate


class BlocksFinalized(Struct, frozen=True):
    """Blocks that became final, each with its certificate, in order, each once."""

    blocks: tuple[tuple[ExecutedBlock, Certificate], ...]


class EvidenceFound(Struct, frozen=True):
    """A validator broke a rule; the evidence is for the staking contract."""

    evidence: Evidence


Action = PersistVoted | Broadcast | RequestBlocks | BlockNotarized | BlocksFinalized | EvidenceFound


class Rejection(StrEnum):
    """Why a message or a block was refused."""

    WRONG_CHAIN = "wrong-chain"
    STALE = "stale"
    FUTURE = "future"
    DUPLICATE = "duplicate"
    NOT_VALIDATOR = "not-validator"
    NOT_LEADER = "not-leader"
    BAD_SIGNATURE = "bad-signature"
    BAD_CERTIFICATE = "bad-certificate"
    INVALID_BLOCK = "invalid-block"
    CONFLICTS_WITH_FINAL = "conflicts-with-final"
    UNKNOWN_PARENT = "unknown-parent"
    TOO_MANY = "too-many"


class Refused(Exception):  # noqa: N818 - reads as what happened
    """A message was refused, for this reason; never leaves the engine."""

    def __init__(self, reason: Rejection) -> None:
        super().__init__(reason.value)
        self.reason = reason
