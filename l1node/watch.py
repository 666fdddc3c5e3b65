"""What has been signed lately: the vote table, and the contradictions found in it.

Responsible for keeping at most one vote a validator and slot, for counting votes, and for noticing two
signed messages that contradict each other (`l1node.evidence`).
Must not know blocks, stakes or validator sets, nor check signatures: whoever calls it does.
"""

from typing import Any

from chainkit.block import SignedHeader, Vote
from chainkit.codec import Address, Bytes32
from l1node.evidence import Evidence, ProposalEvidence, VoteEvidence

RECENT_SLOTS = 64
"""Votes and proposals of older slots are no longer taken one by one (certificates still are)."""

EVIDENCE_SLOTS = 1 << 16
"""How many slots a voter's highest vote is remembered: at least an unbonding period."""

MAX_HEADERS = 2
"""Proposals kept a proposer and slot: two prove the offence, a third adds nothing."""


def forget_slots(table: dict[int, Any], before: int, floor: int) -> None:
    """Remove the slots below ``floor`` of a table that has none below ``before``, at the cost of those that go."""
    if floor == before + 1:
        table.pop(before, None)
        return
    gone = range(before, floor) if floor - before <= len(table) else [s for s in table if s < floor]
    for slot in gone:
        table.pop(slot, None)


def _same_block(a: Vote, b: Vote) -> bool:
    return a.height == b.height and a.block_hash == b.block_hash


def contradiction(a: Vote, b: Vote) -> VoteEvidence | None:
    """The offence that two votes of one voter prove, if they do."""
    if a.slot == b.slot:
        return None if _same_block(a, b) else VoteEvidence(a, b)
    first, second = (a, b) if a.slot < b.slot else (b, a)
    return VoteEvidence(first, second) if second.height < first.height else None


class Watch:
    """Verified votes and proposal headers of recent slots, and each voter's highest vote.

    Memory is bounded by ``RECENT_SLOTS`` x validators, once `prune` is called as slots pass.
    """

    def __init__(self, evidence_slots: int = EVIDENCE_SLOTS) -> None:
        self._evidence_slots = evidence_slots
        self._votes: dict[int, dict[Address, Vote]] = {}
        self._highest: dict[Address, Vote] = {}
        self._newest: dict[Address, int] = {}  # the latest slot that each of `_highest` voted in
        self._headers: dict[int, dict[Address, list[SignedHeader]]] = {}
        self._reported: set[tuple[str, int, Address]] = set()
        self._floor = 0
        self._has_older_headers = False
        """Whether one below the floor was kept: a clock that was set back may bring any."""

    # --- votes ---

    def has_settled(self, vote: Vote) -> bool:
        """Whether the vote can tell nothing new: it is kept, or its voter convicted in that slot."""
        votes = self._votes.get(vote.slot)
        kept = None if votes is None else votes.get(vote.voter)
        if kept is None:
            return False
        return _same_block(kept, vote) or ("double-vote", vote.slot, vote.voter) in self._reported

    def has_kept(self, vote: Vote) -> bool:
        """Whether this very vote is kept: it was held against all others when it came, and they against it."""
        kept = self._votes.get(vote.slot, {}).get(vote.voter)
        return kept is not None and _same_block(kept, vote)

    def contradicted(self, vote: Vote) -> VoteEvidence | None:
        """Evidence, not reported before, that this vote and one that is kept are an offence."""
        highest = self._highest.get(vote.voter)
        if highest is not None:
            newest = self._newest[vote.voter]
            if vote.slot > newest and vote.height >= highest.height:
                return None  # later than all, lower than none: what every honest vote is
            if vote.slot == newest == highest.slot and _same_block(vote, highest):
                return None  # that very vote again, as it comes in every certificate
        seen = [slot[vote.voter] for slot in self._votes.values() if vote.voter in slot]
        if highest is not None:
            seen.append(highest)
        for other in seen:
            evidence = contradiction(other, vote)
            if evidence is not None and _offence(evidence) not in self._reported:
                return evidence
        return None

    def keep(self, vote: Vote) -> None:
        """Remember a verified vote: the first of its voter and slot, and the voter's highest."""
        slot, voter = vote.slot, vote.voter
        if slot >= self._floor:
            votes = self._votes.get(slot)
            if votes is None:
                self._votes[slot] = {voter: vote}
            else:
                votes.setdefault(voter, vote)
        if slot > self._newest.get(voter, -1):
            self._newest[voter] = slot
        highest = self._highest.get(voter)
        if highest is None or vote.height >= highest.height:
            self._highest[voter] = vote

    def votes_for(self, slot: int, height: int, block_hash: Bytes32) -> list[Vote]:
        """The kept votes for exactly this place and hash."""
        votes = self._votes.get(slot)
        if votes is None:
            return []
        return [v for v in votes.values() if v.block_hash == block_hash and v.height == height]

    # --- proposals ---

    def headers(self, slot: int, proposer: Address) -> list[SignedHeader]:
        """The kept proposals of a proposer in a slot, in order of arrival; at most `MAX_HEADERS`."""
        return self._headers.get(slot, {}).get(proposer, [])

    def keep_header(self, header: SignedHeader) -> ProposalEvidence | None:
        """Remember a verified header; evidence if it is the proposer's second one in the slot."""
        self._has_older_headers = self._has_older_headers or header.slot < self._floor
        kept = self._headers.setdefault(header.slot, {}).setdefault(header.proposer, [])
        if len(kept) >= MAX_HEADERS or any(h.block_hash == header.block_hash for h in kept):
            return None
        kept.append(header)
        return ProposalEvidence(kept[0], header) if len(kept) > 1 else None

    # --- both ---

    def report(self, evidence: Evidence) -> None:
        """Note that this offence has been reported, so that it is not again."""
        self._reported.add(_offence(evidence))

    def prune(self, slot: int) -> None:
        """Forget what is too old in ``slot``."""
        before, self._floor = self._floor, max(self._floor, slot - RECENT_SLOTS)
        forget_slots(self._votes, before, self._floor)
        forget_slots(self._headers, 0 if self._has_older_headers else before, self._floor)
        self._has_older_headers = False
        oldest = slot - self._evidence_slots
        for voter in [v for v, vote in self._highest.items() if vote.slot < oldest]:
            del self._highest[voter], self._newest[voter]
        if self._reported:
            self._reported = {offence for offence in self._reported if offence[1] >= oldest}


def _offence(evidence: Evidence) -> tuple[str, int, Address]:
    # A vote that is too high makes every later vote lower: it is one offence, so it counts by its first vote.
    first, second = evidence.first, evidence.second
    if isinstance(evidence, ProposalEvidence):
        return "double-propose", first.slot, evidence.first.proposer
    kind = "double-vote" if first.slot == second.slot else "vote-lower"
    return kind, first.slot, evidence.first.voter
