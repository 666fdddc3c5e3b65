"""Stake-weighted Streamlet (Chan & Shi, "Streamlet: Textbook Streamlined Blockchains", 2020), sans I/O.

Responsible for what a validator says: when it proposes, when it votes, and what it must remember before.
Must not know of networks, disks, clocks, or what the transactions do: time and messages come in as
arguments, what is to be done goes out as a list of actions. What it learns from others is `l1node.observer`.

The shell performs the actions of a list **in order**. `PersistVoted`, `BlockNotarized` and `BlocksFinalized`
must be durable before any later `Broadcast` of the list leaves: a vote binds its voter to the notarized chain
below it, so whoever forgets that chain can vote no more until a peer hands it back. After a crash
``Engine(final=..., voted=...)`` made from the last durable values is safe (promise P7); the notarized blocks
on disk then go into `Engine.on_blocks`, lowest first.
"""

from collections.abc import Iterable, Iterator

from chainkit.block import MAX_BLOCK_BYTES, Certificate, Proposal, Vote
from chainkit.chain import Chain, ExecutedBlock, Known
from chainkit.keys import KeyPair
from chainkit.transaction import SignedTransaction
from l1node.actions import (
    Action,
    BlockNotarized,
    BlocksFinalized,
    Broadcast,
    EvidenceFound,
    Message,
    PersistVoted,
    Rejection,
    RequestBlocks,
    Select,
    VotedRecord,
)
from l1node.blocktree import Node
from l1node.observer import Observer
from l1node.watch import EVIDENCE_SLOTS

__all__ = [
    "Action",
    "BlockNotarized",
    "BlocksFinalized",
    "Broadcast",
    "Engine",
    "EvidenceFound",
    "Message",
    "PersistVoted",
    "Rejection",
    "RequestBlocks",
    "Select",
    "VotedRecord",
]


class Engine(Observer):
    """One node's part in consensus. ``key`` None makes a follower, which never votes.

    ``final`` and ``final_certificate`` (None for genesis) are where it starts; ``voted`` is the durable
    record of its key; ``select(parent, slot)`` gives candidate transactions for a block of its own; ``known`` finds
    transactions that were verified before they came in a block.
    """

    def __init__(
        self,
        chain: Chain,
        key: KeyPair | None,
        *,
        final: ExecutedBlock,
        final_certificate: Certificate | None,
        voted: VotedRecord,
        select: Select,
        evidence_slots: int = EVIDENCE_SLOTS,
        known: Known | None = None,
    ) -> None:
        super().__init__(
            chain,
            final=final,
            final_certificate=final_certificate,
            evidence_slots=evidence_slots,
            known=known,
        )
        self._key = key
        self._voted = voted
        self._select = select

    @property
    def voted(self) -> VotedRecord:
        """The record of the last `PersistVoted` (or the one given)."""
        return self._voted

    def _speak(self) -> None:
        self._consider()
        self._propose()

    def _propose(self) -> None:
        """Propose, once, if this slot is ours: a child of the longest notarized chain."""
        slot, parent, key = self._slot, self._tree.head, self._key
        if key is None or slot <= max(self._voted.proposed, self._voted.slot, parent.slot):
            return
        if self._chain.leader(parent.executed.tree, slot) != key.address:
            return
        if parent.height + 1 < self._voted.height:
            self._request()  # we voted above a chain that a restart made us forget
            return
        candidates = _limited(self._candidates(parent.executed, slot))
        executed, _ = self._chain.build(parent.executed, slot, key.address, candidates)
        self._persist(VotedRecord(slot, executed.header.height, slot))
        proposal = Proposal.sign(key, executed.block, parent.certificate)
        self._watch.keep_header(proposal.signed_header())
        self._actions.append(Broadcast(proposal))
        node = self._tree.add(executed, self._set(parent, slot))
        self._cast_vote(node)

    def _candidates(self, parent: ExecutedBlock, slot: int) -> Iterable[SignedTransaction]:
        return self._select(parent, slot)

    def _consider(self) -> None:
        """Vote for what may be voted for now, in order of slot, then of arrival."""
        if self._key is None or self._voted.slot >= self._slot:
            return
        for slot in (self._slot - 1, self._slot):  # of older ones it is too late: see `_is_voting_time`
            if slot > self._voted.slot and slot in self._proposals and self._is_voting_time(slot):
                nodes = [self._tree.get(block_hash) for block_hash in self._proposals[slot]]
                choice = next((n for n in nodes if n is not None and self._may_be_voted(n)), None)
                if choice is not None:
                    self._cast_vote(choice)

    def _is_voting_time(self, slot: int) -> bool:
        """In the slot, or at most half a slot after it: a proposal may be late, never early."""
        late = self._now - self._chain.slot_time(slot + 1)
        return slot == self._slot or (slot < self._slot and late <= self._chain.genesis.slot_ms // 2)

    def _may_be_voted(self, node: Node) -> bool:
        """Whether it extends a longest notarized chain, and not below what we voted for before."""
        assert self._key is not None
        longest = self._tree.head.height
        extends = node.height == longest + 1 or (node.notarized and node.height == longest)
        allowed = node.slot > self._voted.slot and node.height >= self._voted.height
        return extends and allowed and node.validators.stake_of(self._key.address) > 0

    def _cast_vote(self, node: Node) -> None:
        assert self._key is not None
        self._persist(VotedRecord(node.slot, node.height, self._voted.proposed))
        vote = Vote.sign(self._key, self._chain.rules.chain_id, node.slot, node.height, node.hash)
        self._take_vote(vote)
        self._actions.append(Broadcast(vote))
        self._tally(node)

    def _persist(self, record: VotedRecord) -> None:
        if record != self._voted:
            self._voted = record
            self._actions.append(PersistVoted(record))


def _limited(candidates: Iterable[SignedTransaction]) -> Iterator[SignedTransaction]:
    """As many as surely fit into a block."""
    size = 0
    for transaction in candidates:
        size += len(transaction.wire)
        if size > MAX_BLOCK_BYTES:
            return
        yield transaction
