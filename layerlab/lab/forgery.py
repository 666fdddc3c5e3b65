"""A second history, signed by validators who turned: real blocks, real votes, real certificates.

Responsible for what such validators can make with their keys alone, and for the evidence in what they signed. Pure.
Must not know how a history is shown to anybody, nor how evidence is reported.

Only tests and experiments may use it: every vote made here is an offence of its key.
"""

from collections.abc import Iterable, Sequence

from chainkit.block import Certificate, CertificateVote, CertifiedBlock, Vote
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Address
from chainkit.keys import KeyPair
from chainkit.transaction import SignedTransaction
from l1node.evidence import Evidence, EvidenceError, VoteEvidence, check_evidence

SLOTS_AHEAD = 10_000
"""So far the draw of leaders is searched for slots that these validators lead."""


class ForgeryError(Exception):
    """These keys cannot do it; the message says why."""


def forge(
    chain: Chain,
    parent: ExecutedBlock,
    keys: Sequence[KeyPair],
    transactions: Iterable[SignedTransaction],
    blocks: int = 3,
) -> list[CertifiedBlock]:
    """``blocks`` blocks in consecutive slots on ``parent``, the first with these transactions, signed by ``keys``.

    Streamlet holds the second of three for final, if ``keys`` are a quorum. Raises `ForgeryError` if no such slots
    come, or if a transaction may not run on ``parent``.
    """
    slot = _first_slot(chain, parent, keys, blocks)
    forged = []
    wanted = list(transactions)
    for place in range(blocks):
        leader = chain.leader(parent.tree, slot + place)
        assert leader is not None
        parent, refused = chain.build(parent, slot + place, leader, wanted)
        if refused:
            raise ForgeryError(f"the forged history refuses a transaction: {refused[0][1]}")
        forged.append(CertifiedBlock(parent.block, certify(parent, keys)))
        wanted = []
    return forged


def _first_slot(chain: Chain, parent: ExecutedBlock, keys: Sequence[KeyPair], blocks: int) -> int:
    own = {key.address for key in keys}
    led = 0
    for slot in range(parent.header.slot + 1, parent.header.slot + 1 + SLOTS_AHEAD):
        led = led + 1 if chain.leader(parent.tree, slot) in own else 0
        if led == blocks:
            return slot - blocks + 1
    raise ForgeryError(f"these {len(own)} keys lead no {blocks} slots in a row")


def certify(block: ExecutedBlock, keys: Iterable[KeyPair]) -> Certificate:
    """The votes of ``keys`` for a block, as a certificate; whether they are a quorum is for others to find out."""
    header = block.header
    votes = [Vote.sign(key, header.chain_id, header.slot, header.height, block.hash) for key in keys]
    signed = sorted((CertificateVote(v.voter, v.signature) for v in votes), key=lambda v: v.voter)
    return Certificate(header.slot, header.height, block.hash, signed)


def find_evidence(
    chain_id: int, ours: Iterable[Certificate], theirs: Iterable[Certificate]
) -> dict[Address, Evidence]:
    """For each voter whose votes in two histories break a rule of consensus, two such votes."""
    found: dict[Address, Evidence] = {}
    others = [vote for certificate in theirs for vote in _votes(chain_id, certificate)]
    for vote in (vote for certificate in ours for vote in _votes(chain_id, certificate)):
        for other in others:
            if vote.voter != other.voter or vote.voter in found:
                continue
            first, second = sorted((vote, other), key=lambda v: v.slot)
            evidence = VoteEvidence(first, second)
            try:
                check_evidence(evidence, chain_id)
            except EvidenceError:
                continue
            found[vote.voter] = evidence
    return found


def _votes(chain_id: int, certificate: Certificate) -> list[Vote]:
    place = (chain_id, certificate.slot, certificate.height, certificate.block_hash)
    return [Vote(*place, vote.voter, vote.signature) for vote in certificate.votes]
