"""A network of validators inside one process: real engines, seeded time, and a transport that does its worst.

A run is named by its seed; `Simulation(seed)` draws which faults it has (swarm testing). Until `HEAL_SLOT`
messages are dropped, duplicated, delayed, reordered and cut off by partitions, clocks disagree, and nodes crash
between any two actions of a list and come back from their disk. After it the network has settled: nothing is
lost and all are up. One of four validators may be dishonest, before and after: it plays the faults of
`l1node.byzantine` and talks to some peers only, or it is *twins*: two engines with one key (Bano et al., "Twins:
BFT Systems Made Robust", 2020).
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from random import Random

from l1_devnet import l1_genesis

from chainkit.block import Certificate, CertifiedBlock, Proposal, SignedHeader, Vote
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Address
from chainkit.keys import KeyPair, dev_keypair
from chainkit.state import State
from chainkit.transaction import Body, SignedTransaction, Transfer
from l1node.actions import (
    Action,
    BlockNotarized,
    BlocksFinalized,
    Broadcast,
    EvidenceFound,
    Message,
    PersistVoted,
    RequestBlocks,
    VotedRecord,
)
from l1node.byzantine import FAULTS, ByzantineEngine
from l1node.engine import Engine
from l1node.evidence import EvidenceError, ProposalEvidence, VoteEvidence, check_evidence

SLOT = 1000  # ms
HEAL_SLOT = 24
ANSWER_BLOCKS = 8


@dataclass(frozen=True)
class Weather:
    """Which faults a run has, and how hard."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay: int = SLOT // 8  # ms, at most
    skew: int = 0  # ms, at most, either way
    partitions: bool = False
    crash: float = 0.0
    byzantine: str = ""  # "", "faults" or "twins"
    selective: float = 0.0  # share of peers that a dishonest node leaves out, also after healing

    @classmethod
    def draw(cls, rng: Random) -> "Weather":
        return cls(
            drop=rng.choice((0.0, 0.05, 0.3)),
            duplicate=rng.choice((0.0, 0.2)),
            delay=rng.choice((SLOT // 8, SLOT, 3 * SLOT)),
            skew=rng.choice((0, SLOT // 8)),
            partitions=rng.random() < 0.5,
            crash=rng.choice((0.0, 0.01, 0.05)),
            byzantine=rng.choice(("", "", "faults", "twins")),
            selective=rng.choice((0.0, 0.3)),
        )


@dataclass
class Disk:
    """What survives a crash."""

    final: ExecutedBlock
    certificate: Certificate | None = None
    voted: VotedRecord = field(default_factory=VotedRecord)
    notarized: dict[bytes, CertifiedBlock] = field(default_factory=dict)
    history: list[CertifiedBlock] = field(default_factory=list)

    def perform(self, action: Action) -> None:
        """Write what an action wants durable; a final block must be the next one."""
        if isinstance(action, PersistVoted):
            self.voted = action.record
        elif isinstance(action, BlockNotarized):
            certified = CertifiedBlock(action.block.block, action.certificate)
            self.notarized[action.block.hash] = certified
        elif isinstance(action, BlocksFinalized):
            for block, certificate in action.blocks:
                assert block.header.parent == self.final.hash, "final blocks are a chain, each once"
                self.final, self.certificate = block, certificate
                self.history.append(CertifiedBlock(block.block, certificate))

    def pending(self) -> list[CertifiedBlock]:
        """The notarized blocks on disk, lowest first; those below the final one may still be there."""
        return sorted(self.notarized.values(), key=lambda c: (c.block.header.height, c.block.header.slot))


@dataclass
class Node:
    """A process: its key, its disk, and its engine while it runs."""

    name: str
    key: KeyPair
    disk: Disk
    honest: bool = True
    skew: int = 0
    engine: Engine | None = None
    said: list[Message] = field(default_factory=list)


class Simulation:
    """One run of ``validators`` equal ones; the first ``dishonest`` are so, if the weather has it at all."""

    def __init__(
        self, seed: int, weather: Weather | None = None, *, validators: int = 4, dishonest: int = 1
    ) -> None:
        self.rng = Random(seed)
        self.weather = weather or Weather.draw(self.rng)
        self.chain = Chain(l1_genesis(validators=validators, slot_ms=SLOT, time=seed * 10_000))
        self.seen: Counter[str] = Counter()
        self.evidence: list[EvidenceFound] = []
        self.now = self.chain.slot_time(1)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._groups: dict[str, int] = {}
        self.nodes: list[Node] = []
        keys = [dev_keypair(f"validator-{i}") for i in range(validators)]
        for i, key in enumerate(keys):
            fault = self.weather.byzantine if i < dishonest else ""
            for twin in ("a", "b") if fault == "twins" else ("",):
                disk = Disk(self.chain.genesis_block)
                skew = self.rng.randint(-self.weather.skew, self.weather.skew)
                self.nodes.append(Node(f"v{i}{twin}", key, disk, not fault, skew))
        for node in self.nodes:
            self._start(node)

    def split(self, *names: str) -> None:
        """Cut these nodes off from the others, until the network heals."""
        self._groups = dict.fromkeys(names, 1)

    # --- time ---

    @property
    def slot(self) -> int:
        return self.chain.slot_at(self.now)

    @property
    def healed(self) -> bool:
        return self.slot >= HEAL_SLOT

    def run(self, max_slot: int) -> int | None:
        """The slot in which all honest nodes had made a block of the settled time final; None if none was."""
        slot = 0
        while slot < max_slot:
            slot += 1
            self._begin_slot(slot)
            end = self.chain.slot_time(slot + 1)
            while self._events and self._events[0][0] < end:
                self.now, _, event = heapq.heappop(self._events)
                event()
            self.now = end
            if slot > HEAL_SLOT and all(n.disk.final.header.slot > HEAL_SLOT for n in self.honest):
                return slot
        return None

    def _begin_slot(self, slot: int) -> None:
        start = self.chain.slot_time(slot)
        if slot == HEAL_SLOT:
            for node in self.nodes:
                self._at(start, partial(self._start, node))
        if self.weather.partitions and slot % 6 == 1:
            self._groups = {node.name: self.rng.randrange(2) for node in self.nodes}
        for node in self.nodes:
            # A node's slot begins by its own clock; now and then it ticks again within the slot.
            self._at(max(start - node.skew, self.now), partial(self._tick, node))
            if self.rng.random() < 0.3:
                later = start - node.skew + self.rng.randrange(1, SLOT // 2)
                self._at(max(later, self.now), partial(self._tick, node))

    def _at(self, time: int, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, event))

    # --- nodes ---

    @property
    def honest(self) -> list[Node]:
        return [node for node in self.nodes if node.honest]

    def _start(self, node: Node) -> None:
        if node.engine is not None:
            return
        disk = node.disk
        kind = ByzantineEngine if not node.honest and self.weather.byzantine == "faults" else Engine
        node.engine = kind(
            self.chain,
            node.key,
            final=disk.final,
            final_certificate=disk.certificate,
            voted=disk.voted,
            select=self._select,
        )
        self._act(node, node.engine.on_blocks(disk.pending(), self._clock(node)))

    def _restart(self, node: Node) -> None:
        self._start(node)
        self._tick(node)

    def _clock(self, node: Node) -> int:
        return self.now + node.skew

    def _tick(self, node: Node) -> None:
        if node.engine is None:
            return
        if isinstance(node.engine, ByzantineEngine) and self.rng.random() < 0.3:
            node.engine.start_fault(self.rng.choice(sorted(FAULTS)))
            node.engine.stop_fault("silent" if self.rng.random() < 0.8 else "")
        self._act(node, node.engine.on_tick(self._clock(node)))

    def _select(self, parent: ExecutedBlock, _slot: int) -> Iterable[SignedTransaction]:
        """Now and then a transfer, of which there are several: so blocks of one place differ."""
        if self.rng.random() < 0.7:
            return []
        alice, bob = dev_keypair("alice"), dev_keypair("bob").address
        nonce = State(parent.tree).account(alice.address).nonce
        action = Transfer(bob, self.rng.randrange(1, 4))
        return [SignedTransaction.sign(Body(900, alice.address, nonce, 100_000, 100, 1, action), alice)]

    def _act(self, node: Node, actions: list[Action]) -> None:
        """Perform actions in order, or crash between any two of them."""
        crash = None
        if actions and node.honest and not self.healed and self.rng.random() < self.weather.crash:
            crash = self.rng.randrange(len(actions) + 1)
        for position, action in enumerate(actions):
            if position == crash:
                break
            self._perform(node, action)
        if crash is not None:
            self.seen["crash"] += 1
            node.engine = None
            downtime = self.rng.randrange(1, self.rng.choice((SLOT // 4, 6 * SLOT)))
            self._at(self.now + downtime, partial(self._restart, node))

    def _perform(self, node: Node, action: Action) -> None:
        self.seen[type(action).__name__] += 1
        if isinstance(action, Broadcast):
            node.said.append(action.message)
            self._broadcast(node, action.message)
        elif isinstance(action, RequestBlocks):
            peer = self.rng.choice([other for other in self.nodes if other is not node])
            self._send(node, peer, partial(self._answer, peer, node, action.from_height))
        elif isinstance(action, EvidenceFound):
            self.evidence.append(action)
        else:
            node.disk.perform(action)

    # --- the network ---

    def _broadcast(self, source: Node, message: Message) -> None:
        for peer in self.nodes:
            if peer is source or (not source.honest and self.rng.random() < self.weather.selective):
                continue
            self._send(source, peer, partial(self._receive, peer, message))

    def _receive(self, node: Node, message: Message) -> None:
        if node.engine is not None:
            self._act(node, node.engine.on_message(message, self._clock(node)))

    def _answer(self, peer: Node, asker: Node, height: int) -> None:
        if peer.engine is None:
            return
        tail = [CertifiedBlock(b.block, c) for b, c in peer.engine.notarized_chain()]
        blocks = [c for c in [*peer.disk.history, *tail] if c.block.header.height >= height]
        self._send(peer, asker, partial(self._receive_blocks, asker, blocks[:ANSWER_BLOCKS]))

    def _receive_blocks(self, node: Node, blocks: list[CertifiedBlock]) -> None:
        if node.engine is not None:
            self._act(node, node.engine.on_blocks(blocks, self._clock(node)))

    def _send(self, source: Node, target: Node, event: Callable[[], None]) -> None:
        if self.healed:
            self._at(self.now + self.rng.randint(1, SLOT // 8), event)
            return
        cut = self._groups.get(source.name, 0) != self._groups.get(target.name, 0)
        if cut or self.rng.random() < self.weather.drop:
            self.seen["drop"] += 1
            return
        for _ in range(1 + (self.rng.random() < self.weather.duplicate)):
            self._at(self.now + self.rng.randint(1, self.weather.delay), event)

    # --- what must hold ---

    def check(self) -> None:
        """No two honest nodes disagree on a final block, and no honest validator can be slashed."""
        assert self.conflict() is None, f"two final blocks at height {self.conflict()}"
        chain_id = self.chain.rules.chain_id
        culprits = {node.key.address for node in self.nodes if not node.honest}
        for found in self.evidence:
            culprit, kind, _ = check_evidence(found.evidence, chain_id)
            assert culprit in culprits, "evidence against an honest validator"
            self.seen[kind] += 1
        for node in self.honest:
            assert not offences(node.said, chain_id), f"{node.name} is slashable"
            if node.engine is not None:
                for reason, count in node.engine.rejected.items():
                    self.seen[f"refused: {reason.value}"] += count

    def conflict(self) -> int | None:
        """The lowest height at which two honest nodes hold different blocks for final."""
        heights = [
            ours.block.header.height
            for a, b in combinations(self.honest, 2)
            for ours, theirs in zip(a.disk.history, b.disk.history, strict=False)
            if ours.block.header != theirs.block.header
        ]
        return min(heights, default=None)


def offences(messages: Iterable[Message], chain_id: int) -> list[tuple[Address, str, int]]:
    """Every offence that any two of these messages prove, by brute force: independent of `l1node.watch`."""
    messages = list(messages)
    votes = {message for message in messages if isinstance(message, Vote)}
    headers = {message.signed_header() for message in messages if isinstance(message, Proposal)}
    pairs: list[VoteEvidence | ProposalEvidence] = []
    for a, b in combinations(sorted(votes, key=_by_place), 2):
        if a.voter == b.voter:
            pairs.append(VoteEvidence(a, b))
    for c, d in combinations(sorted(headers, key=_by_place), 2):
        if c.proposer == d.proposer:
            pairs.append(ProposalEvidence(c, d))
    found = []
    for pair in pairs:
        try:
            found.append(check_evidence(pair, chain_id))
        except EvidenceError:
            continue
    return found


def _by_place(message: Vote | SignedHeader) -> tuple[int, int, bytes]:
    return message.slot, message.height, message.block_hash
