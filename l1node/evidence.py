"""Evidence: proof that one key broke a rule of consensus.

Responsible for what is slashable and for checking it from two signed messages alone.
Must not know of stakes, nor of how the messages were found.

Rules (docs/ARCHITECTURE.md, "L1"): no two votes in one slot, no two proposals in one slot, no later vote at a lower
height. An honest validator that keeps its highest slot and height on disk can break none of them.
"""

from chainkit.block import SignedHeader, Vote
from chainkit.codec import Address, Record


class VoteEvidence(Record, frozen=True, tag=0):
    """Two votes by one key: in one slot but different, or later in slot but lower in height."""

    first: Vote
    second: Vote


class ProposalEvidence(Record, frozen=True, tag=1):
    """Two proposals by one key in one slot."""

    first: SignedHeader
    second: SignedHeader


Evidence = VoteEvidence | ProposalEvidence


class EvidenceError(ValueError):
    """The two messages do not prove an offence."""


def check_evidence(evidence: Evidence, chain_id: int) -> tuple[Address, str, int]:
    """The culprit, the kind ("double-vote", "double-propose", "vote-lower") and the slot of the offence.

    Raises `EvidenceError`.
    """
    first, second = evidence.first, evidence.second
    if first.chain_id != chain_id or second.chain_id != chain_id:
        raise EvidenceError("signed for another chain")
    if isinstance(evidence, VoteEvidence):
        culprit, kind = _check_votes(evidence.first, evidence.second)
    else:
        culprit, kind = evidence.first.proposer, "double-propose"
        if culprit != evidence.second.proposer:
            raise EvidenceError("two different proposers")
        if first.slot != second.slot or first.block_hash == second.block_hash:
            raise EvidenceError("not two different proposals in one slot")
    if not (first.valid() and second.valid()):
        raise EvidenceError("a signature is not the culprit's")
    return culprit, kind, max(first.slot, second.slot)


def _check_votes(first: Vote, second: Vote) -> tuple[Address, str]:
    if first.voter != second.voter:
        raise EvidenceError("two different voters")
    if first.slot == second.slot and (first.height, first.block_hash) != (second.height, second.block_hash):
        return first.voter, "double-vote"
    if first.slot < second.slot and second.height < first.height:
        return first.voter, "vote-lower"
    raise EvidenceError("the two votes contradict no rule")
