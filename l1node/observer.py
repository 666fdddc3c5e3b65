"""Following consensus: what a node learns from blocks, votes and certificates.

Responsible for checking what peers send, cheapest check first, for what is notarized and final, for what to
ask peers for, and for which offences to report. Must not know what this node itself says (`l1node.engine`),
nor of networks, disks or clocks.
"""

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter

from chainkit.block import (
    Certificate,
    CertificateError,
    CertificateVote,
    CertifiedBlock,
    Header,
    Proposal,
    ValidatorSet,
    Vote,
    check_certificate,
)
from chainkit.chain import Chain, ExecutedBlock, InvalidBlock, Known, MisshapenBlock
from chainkit.codec import Address, Bytes32
from l1node.actions import (
    Action,
    BlockNotarized,
    BlocksFinalized,
    EvidenceFound,
    Message,
    Refused,
    Rejection,
    RequestBlocks,
)
from l1node.blocktree import BlockTree, Node
from l1node.evidence import Evidence
from l1node.watch import EVIDENCE_SLOTS, MAX_HEADERS, RECENT_SLOTS, Watch, forget_slots

MAX_ORPHANS = 8
"""Proposals kept while their parent is being fetched; each may be `MAX_BLOCK_BYTES` large."""

MAX_REJECTED_BLOCKS = 8
"""After so many bad blocks the rest of an answer to `RequestBlocks` is not looked at."""

STALL_SLOTS = 2
"""Slots without a newly notarized block after which a node asks a peer for one.

Short, since a leader that shows a notarized block to one node alone makes it refuse all shorter chains: then
there is no quorum until the others have that block too."""


class Observer:
    """A node that only follows. Nothing that a peer sends raises; ``rejected`` counts refusals by reason.

    ``evidence_slots`` is how long a voter's highest vote is remembered: at least an unbonding period.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        final: ExecutedBlock,
        final_certificate: Certificate | None,
        evidence_slots: int = EVIDENCE_SLOTS,
        known: Known | None = None,
    ) -> None:
        self._known = known
        self.rejected: Counter[Rejection] = Counter()
        self.refused: Rejection | None = None
        """Why the last message was refused; None if it was taken (an orphan that it brought in may not have been)."""
        self._chain = chain
        # A restarted node no longer has the state below the final block; its own names the same era's set.
        own_set = chain.validators(final.tree, final.header.slot)
        self._tree = BlockTree(final, final_certificate, own_set)
        self._watch = Watch(evidence_slots)
        self._orphans: dict[Bytes32, Proposal] = {}
        self._invalid: dict[Bytes32, int] = {}
        self._proposals: dict[int, list[Bytes32]] = {}
        self._now = 0
        self._slot = 0
        self._progress_slot = 0
        self._request_slot = -1
        self._fork_slot = -1
        self._asked = 0
        self._actions: list[Action] = []

    # --- what the shell sees ---

    @property
    def final(self) -> ExecutedBlock:
        """The last final block."""
        return self._tree.final.executed

    @property
    def final_certificate(self) -> Certificate | None:
        """Its certificate; None for genesis."""
        return self._tree.final.certificate

    @property
    def head(self) -> ExecutedBlock:
        """The tip of the longest notarized chain."""
        return self._tree.head.executed

    def notarized_chain(self) -> list[tuple[ExecutedBlock, Certificate]]:
        """The longest notarized chain from above the final block to the head."""
        return _pairs(self._tree.path(self._tree.head))

    def pending_blocks(self) -> list[ExecutedBlock]:
        """Every known block above the final one, notarized or not, by height."""
        return [node.executed for node in self._tree.nodes()]

    def on_tick(self, now_ms: int) -> list[Action]:
        """Time passed; to be called at least once a slot, best at its beginning."""
        self._enter(now_ms)
        self._speak()
        quiet = self._slot - max(self._progress_slot, self._request_slot)
        if quiet >= STALL_SLOTS:
            self._request(self._tree.head.height + 1)
        return self._leave()

    def on_message(self, message: Message, now_ms: int) -> list[Action]:
        """A message from a peer (or from anyone: it is checked here); ``refused`` says whether it was taken."""
        self._enter(now_ms)
        self.refused = None
        try:
            if isinstance(message, Vote):
                self._on_vote(message)
            else:
                self._on_proposal(message)
        except Refused as refusal:
            self.refused = refusal.reason
            self.rejected[refusal.reason] += 1
        return self._leave()

    def on_blocks(self, blocks: Sequence[CertifiedBlock], now_ms: int) -> list[Action]:
        """An answer to `RequestBlocks`, or the notarized blocks on disk after a restart, lowest first."""
        self._enter(now_ms)
        refused: Counter[Rejection] = Counter()
        news, known = None, None
        for certified in blocks:
            try:
                if self._on_certified(certified):
                    news = certified.block.header
                elif self._tree.get(certified.block.header.hash()):
                    known = certified.block.header
            except Refused as refusal:
                refused[refusal.reason] += 1
                if refused.total() >= MAX_REJECTED_BLOCKS:
                    break
        self.rejected += refused
        self._go_on(news, known, refused[Rejection.UNKNOWN_PARENT] > 0)
        return self._leave()

    def _go_on(self, news: Header | None, known: Header | None, is_fork: bool) -> None:
        """Ask for more at once, however recent the last request, if an answer helped and is not all."""
        last = news
        if known is not None and known.height >= self._asked and (news is None or known.height > news.height):
            last = known  # a page may lie within what we have; each takes us higher, so this ends
        if last is not None:
            if last.slot < self._slot - 1:
                self._ask(last.height + 1)
        elif is_fork and self._slot > self._fork_slot:
            self._fork_slot = self._slot
            self._ask(self._tree.final.height + 1)

    # --- entering and leaving ---

    def _enter(self, now_ms: int) -> None:
        self._now = now_ms
        slot = self._chain.slot_at(now_ms)
        if slot > self._slot:
            floor = slot - RECENT_SLOTS
            self._watch.prune(slot)
            self._tree.prune(floor)
            self._invalid = {h: s for h, s in self._invalid.items() if s >= floor}
            forget_slots(self._proposals, self._slot - RECENT_SLOTS, floor)
            self._orphans = {h: p for h, p in self._orphans.items() if p.block.header.slot >= floor}
        self._slot = slot

    def _speak(self) -> None:
        """A time at which a validator may propose."""

    def _consider(self) -> None:
        """A time at which a validator may vote: there is a new block, or a new slot, or a new head."""

    def _leave(self) -> list[Action]:
        self._consider()
        actions, self._actions = self._actions, []
        return actions

    # --- votes ---

    def _on_vote(self, vote: Vote) -> None:
        self._check_place(vote.chain_id, vote.slot)
        node = self._tree.get(vote.block_hash)
        if not self._may_vote(node, vote):
            raise Refused(Rejection.NOT_VALIDATOR)
        if self._watch.has_settled(vote):
            raise Refused(Rejection.DUPLICATE)
        if not vote.valid():
            raise Refused(Rejection.BAD_SIGNATURE)
        self._take_vote(vote)
        if node is not None:
            if not node.notarized:
                self._tally(node)
        elif self._unknown_has_quorum(vote):
            self._request()

    def _check_place(self, chain_id: int, slot: int) -> None:
        if chain_id != self._chain.rules.chain_id:
            raise Refused(Rejection.WRONG_CHAIN)
        if slot <= self._slot - RECENT_SLOTS:
            raise Refused(Rejection.STALE)
        if slot > self._slot + 1:
            raise Refused(Rejection.FUTURE)

    def _may_vote(self, node: Node | None, vote: Vote) -> bool:
        """``node``: the one that the vote is for, if it is known."""
        if node is not None:
            return node.validators.stake_of(vote.voter) > 0
        return any(self._set(n, vote.slot).stake_of(vote.voter) for n in self._tips())

    def _take_vote(self, vote: Vote) -> None:
        evidence = self._watch.contradicted(vote)
        if evidence is not None:
            self._report(evidence)
        self._watch.keep(vote)

    def _report(self, evidence: Evidence) -> None:
        self._watch.report(evidence)
        self._actions.append(EvidenceFound(evidence))

    def _unknown_has_quorum(self, vote: Vote) -> bool:
        if vote.height <= self._tree.final.height:
            return False
        votes = self._watch.votes_for(vote.slot, vote.height, vote.block_hash)
        sets = [self._set(n, vote.slot) for n in self._tips()]
        return any(s.is_quorum(sum(s.stake_of(v.voter) for v in votes)) for s in sets)

    def _tally(self, node: Node) -> None:
        if node.notarized or self._tree.get(node.hash) is not node:
            return
        stakes = node.validators.stakes
        votes = self._watch.votes_for(node.slot, node.height, node.hash)
        if node.validators.is_quorum(sum([stakes.get(vote.voter, 0) for vote in votes])):
            signatures = [
                CertificateVote(vote.voter, vote.signature) for vote in votes if stakes.get(vote.voter)
            ]
            signatures.sort(key=_voter)
            self._notarize(node, Certificate(node.slot, node.height, node.hash, signatures))

    def _notarize(self, node: Node, certificate: Certificate) -> None:
        self._tree.notarize(node, certificate)
        self._progress_slot = self._slot
        self._actions.append(BlockNotarized(node.executed, certificate))
        final = self._tree.finalize(node)
        if final:
            self._actions.append(BlocksFinalized(tuple(_pairs(final))))

    # --- proposals ---

    def _on_proposal(self, proposal: Proposal) -> None:
        header, signed = proposal.block.header, proposal.signed_header()
        self._check_place(header.chain_id, header.slot)
        block_hash = signed.block_hash
        if self._tree.get(block_hash) or block_hash in self._orphans or block_hash in self._invalid:
            raise Refused(Rejection.DUPLICATE)
        parent = self._tree.get(header.parent)
        known = self._watch.headers(header.slot, header.proposer)
        # A leader whose proposal we hold has led that slot, whatever this one builds on.
        if not known and header.proposer not in self._leaders(parent, header.slot):
            raise Refused(Rejection.NOT_LEADER)
        if len(known) >= MAX_HEADERS and all(h.block_hash != block_hash for h in known):
            raise Refused(Rejection.TOO_MANY)
        if not signed.valid():
            raise Refused(Rejection.BAD_SIGNATURE)
        evidence = self._watch.keep_header(signed)
        if evidence is not None:
            self._report(evidence)
        self._check_above_final(header)
        if parent is None:
            self._keep_orphan(block_hash, proposal)
        else:
            self._admit(parent, proposal)

    def _check_above_final(self, header: Header) -> None:
        final = self._tree.final
        if header.slot <= final.slot or header.height <= final.height:
            raise Refused(Rejection.STALE)
        if header.height == final.height + 1 and header.parent != final.hash:
            raise Refused(Rejection.CONFLICTS_WITH_FINAL)

    def _leaders(self, parent: Node | None, slot: int) -> list[Address | None]:
        # With the parent unknown the branch is too: take whoever leads on a branch that is known.
        parents = [parent] if parent else self._tips()
        return [self._chain.leader(node.executed.tree, slot) for node in parents]

    def _keep_orphan(self, block_hash: Bytes32, proposal: Proposal) -> None:
        if proposal.block.tx_root() != proposal.block.header.tx_root:
            raise Refused(Rejection.INVALID_BLOCK)
        if proposal.parent_certificate is not None:
            self._look_at(proposal.parent_certificate)
        self._orphans[block_hash] = proposal
        if len(self._orphans) > MAX_ORPHANS:
            del self._orphans[min(self._orphans, key=lambda h: self._orphans[h].block.header.slot)]
        self._request()

    def _admit(self, parent: Node, proposal: Proposal) -> None:
        """Take in a block whose signature is good and whose parent is known. Raises `Refused`."""
        block, certificate = proposal.block, proposal.parent_certificate
        if self._tree.get(parent.hash) is None:
            raise Refused(Rejection.CONFLICTS_WITH_FINAL)
        if block.header.proposer not in self._leaders(parent, block.header.slot):
            raise Refused(Rejection.NOT_LEADER)
        if not parent.notarized:
            # The signature does not cover the certificate: a bad one says nothing about the block.
            if certificate is None:
                raise Refused(Rejection.BAD_CERTIFICATE)
            self._certify(parent, certificate)
        elif certificate is not None and certificate != parent.certificate:
            self._look_at(certificate)
        try:
            executed = self._chain.execute(parent.executed, block, self._known)
        except MisshapenBlock:
            raise Refused(Rejection.INVALID_BLOCK) from None
        except InvalidBlock:
            self._invalid[block.header.hash()] = block.header.slot
            raise Refused(Rejection.INVALID_BLOCK) from None
        self._proposals.setdefault(executed.header.slot, []).append(executed.hash)
        node = self._tree.add(executed, self._set(parent, executed.header.slot))
        self._consider()
        self._tally(node)
        self._adopt_orphans(node)

    def _certify(self, node: Node, certificate: Certificate) -> None:
        try:
            check_certificate(node.executed.header, certificate, node.validators)
        except CertificateError:
            raise Refused(Rejection.BAD_CERTIFICATE) from None
        for vote in self._votes_of(certificate):
            self._take_vote(vote)
        self._notarize(node, certificate)

    def _adopt_orphans(self, node: Node) -> None:
        children = [h for h, p in self._orphans.items() if p.block.header.parent == node.hash]
        for block_hash in children:
            orphan = self._orphans.pop(block_hash)
            try:
                self._admit(node, orphan)
            except Refused as refusal:
                self.rejected[refusal.reason] += 1

    def _votes_of(self, certificate: Certificate) -> list[Vote]:
        place = self._chain.rules.chain_id, certificate.slot, certificate.height, certificate.block_hash
        return [Vote(*place, vote.voter, vote.signature) for vote in certificate.votes]

    def _look_at(self, certificate: Certificate) -> None:
        """Search an unverified certificate for offences; a signature is checked only where one shows."""
        for vote in self._votes_of(certificate):
            evidence = None if self._watch.has_kept(vote) else self._watch.contradicted(vote)
            if evidence is None:
                continue
            if not vote.valid():
                raise Refused(Rejection.BAD_CERTIFICATE)
            self._report(evidence)

    # --- certified blocks ---

    def _on_certified(self, certified: CertifiedBlock) -> bool:
        """Take in a block with its certificate; whether it was news. Raises `Refused`."""
        block, certificate = certified.block, certified.certificate
        header = block.header
        if header.height <= self._tree.final.height:
            self._look_at(certificate)  # of another chain, it names who voted for both (promise P6)
            return False
        node = self._tree.get(header.hash())
        if node is not None and node.notarized:
            return False
        if node is None:
            node = self._execute_certified(certified)
        else:
            self._certify(node, certificate)
        self._adopt_orphans(node)
        return True

    def _execute_certified(self, certified: CertifiedBlock) -> Node:
        block, certificate = certified.block, certified.certificate
        header = block.header
        parent = self._tree.get(header.parent)
        if parent is None or not parent.notarized:
            self._look_at(certificate)
            raise Refused(Rejection.UNKNOWN_PARENT)
        validators = self._set(parent, header.slot)
        try:
            check_certificate(header, certificate, validators)
            executed = self._chain.execute(parent.executed, block, self._known)
        except CertificateError:
            raise Refused(Rejection.BAD_CERTIFICATE) from None
        except InvalidBlock:
            raise Refused(Rejection.INVALID_BLOCK) from None
        if header.proposer not in self._leaders(parent, header.slot):
            raise Refused(Rejection.NOT_LEADER)
        node = self._tree.add(executed, validators)
        for vote in self._votes_of(certificate):
            self._take_vote(vote)
        self._notarize(node, certificate)
        return node

    def _request(self, from_height: int | None = None) -> None:
        """Ask for blocks, by default for all above the final one; at most once a slot."""
        if self._slot > self._request_slot:
            self._ask(from_height or self._tree.final.height + 1)

    def _ask(self, from_height: int) -> None:
        self._request_slot = self._slot
        self._asked = from_height
        self._actions.append(RequestBlocks(from_height))

    # --- validator sets ---

    def _tips(self) -> list[Node]:
        head, final = self._tree.head, self._tree.final
        return [head] if head is final else [head, final]

    def _set(self, parent: Node, slot: int) -> ValidatorSet:
        """The validator set of a slot on the branch that ends in ``parent``."""
        return self._chain.validators(parent.executed.tree, slot)


_voter = attrgetter("voter")


def _pairs(nodes: list[Node]) -> list[tuple[ExecutedBlock, Certificate]]:
    return [(node.executed, node.certificate) for node in nodes if node.certificate is not None]
