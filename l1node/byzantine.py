"""Validators that break the rules, for teaching: each fault is played with the validator's own key.

Responsible for what a dishonest validator says instead of, or besides, what `l1node.engine` would say.
Must not be used unless faults were asked for: its messages are evidence against its own key.
"""

from collections.abc import Collection, Iterable

from msgspec.structs import replace

from chainkit.block import Block, Certificate, Proposal, Vote
from chainkit.chain import Chain, ExecutedBlock, Known
from chainkit.codec import Address, Bytes32
from chainkit.hashing import tagged_hash
from chainkit.keys import KeyPair
from chainkit.merkle_list import list_root
from chainkit.transaction import SignedTransaction
from l1node.actions import Broadcast, Select, VotedRecord
from l1node.blocktree import Node
from l1node.engine import Engine
from l1node.evidence import Evidence
from l1node.watch import EVIDENCE_SLOTS

FAULTS = {
    "double-vote": "votes for two blocks in one slot, once",
    "double-propose": "proposes two blocks in one slot, once",
    "vote-lower": "votes below a height that it voted for before, once",
    "silent": "neither votes nor proposes",
    "censor": "leaves transactions out of its blocks",
}
"""Each fault and what it does. Those that are played once leave ``ByzantineEngine.faults`` then."""


class UnknownFaultError(ValueError):
    """No such fault; the message lists those that exist."""


class ByzantineEngine(Engine):
    """An `Engine` that plays ``faults``; without any it is honest.

    ``faults`` may be changed at any time (`start_fault`, `stop_fault`). ``censored`` are the senders that
    `censor` leaves out of its blocks; if empty, all but its own key. Raises `UnknownFaultError`.
    """

    def __init__(
        self,
        chain: Chain,
        key: KeyPair,
        *,
        final: ExecutedBlock,
        final_certificate: Certificate | None,
        voted: VotedRecord,
        select: Select,
        evidence_slots: int = EVIDENCE_SLOTS,
        known: Known | None = None,
        faults: Iterable[str] = (),
        censored: Collection[Address] = (),
    ) -> None:
        super().__init__(
            chain,
            key,
            final=final,
            final_certificate=final_certificate,
            voted=voted,
            select=select,
            evidence_slots=evidence_slots,
            known=known,
        )
        self._own = key
        self.faults: set[str] = set()
        self.censored = frozenset(censored)
        for fault in faults:
            self.start_fault(fault)

    def start_fault(self, fault: str) -> None:
        """Play a fault from now on. Raises `UnknownFaultError`."""
        if fault not in FAULTS:
            raise UnknownFaultError(f"no fault {fault!r}; there are {', '.join(sorted(FAULTS))}")
        self.faults.add(fault)

    def stop_fault(self, fault: str) -> bool:
        """Play it no more; whether it was being played."""
        playing = fault in self.faults
        self.faults.discard(fault)
        return playing

    def _speak(self) -> None:
        if "silent" in self.faults:
            return
        if "vote-lower" in self.faults:
            self._vote_lower()
        super()._speak()

    def _consider(self) -> None:
        if "silent" not in self.faults:
            super()._consider()

    def _cast_vote(self, node: Node) -> None:
        super()._cast_vote(node)
        if "double-vote" in self.faults:
            self.faults.remove("double-vote")
            self._say_vote(node.slot, node.height, self._other_hash(node))

    def _propose(self) -> None:
        already = len(self._actions)
        super()._propose()
        sent = [a.message for a in self._actions[already:] if isinstance(a, Broadcast)]
        proposals = [message for message in sent if isinstance(message, Proposal)]
        if proposals and "double-propose" in self.faults:
            self.faults.remove("double-propose")
            other = Proposal.sign(self._own, _variant(proposals[0].block), proposals[0].parent_certificate)
            self._actions.append(Broadcast(other))

    def _vote_lower(self) -> None:
        """Vote one below the highest vote, in a slot of its own, so that it is no double vote as well."""
        if self._voted.height < 2 or self._slot <= max(self._voted.slot, self._voted.proposed):
            return
        self.faults.remove("vote-lower")
        self._persist(replace(self._voted, slot=self._slot))
        height = self._voted.height - 1
        self._say_vote(self._slot, height, _made_up(self._slot, height))

    def _say_vote(self, slot: int, height: int, block_hash: Bytes32) -> None:
        vote = Vote.sign(self._own, self._chain.rules.chain_id, slot, height, block_hash)
        self._actions.append(Broadcast(vote))

    def _other_hash(self, node: Node) -> Bytes32:
        """A competing proposal of the same slot, or else one that nobody made."""
        rivals = [block_hash for block_hash in self._proposals.get(node.slot, []) if block_hash != node.hash]
        return rivals[0] if rivals else _made_up(node.slot, node.height)

    def _candidates(self, parent: ExecutedBlock, slot: int) -> Iterable[SignedTransaction]:
        for transaction in super()._candidates(parent, slot):
            if "censor" not in self.faults or not self._is_censored(transaction.body.sender):
                yield transaction

    def _is_censored(self, sender: Address) -> bool:
        return sender in self.censored if self.censored else sender != self._own.address

    def _report(self, evidence: Evidence) -> None:
        # An offender does not report itself.
        culprit = evidence.first.voter if isinstance(evidence.first, Vote) else evidence.first.proposer
        if culprit != self._own.address:
            super()._report(evidence)


def _variant(block: Block) -> Block:
    """Another block for the same place: one transaction less, and a false state root."""
    transactions = block.transactions[:-1]
    false_root = tagged_hash("header", block.header.hash())
    header = replace(block.header, tx_root=list_root(transactions), state_root=false_root)
    return Block(header, transactions)


def _made_up(slot: int, height: int) -> Bytes32:
    return tagged_hash(
        "header", b"nobody made this block" + slot.to_bytes(8, "big") + height.to_bytes(8, "big")
    )
