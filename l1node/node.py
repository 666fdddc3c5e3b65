"""One L1 node: the imperative shell around the consensus engine.

Responsible for doing what the engine says, in its order and durably, and for what the chain API asks
(`chainkit.backend.ChainBackend`). Must not know of HTTP: peers are behind `Gossip` and `Sync`; nor what becomes of
transactions: `Pending` does.

All of it runs on one event loop; no method but `submit`, `receive` and `run` awaits, so each change is whole.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol

from chainkit.backend import BlockView, Head, HeadRef, SubmitResult, TransactionView
from chainkit.block import CertifiedBlock, Proposal, Vote
from chainkit.chain import Chain, ExecutedBlock
from chainkit.clock import Clock, sleep_until
from chainkit.codec import Address, Bytes32, decode
from chainkit.contract import Event
from chainkit.events import EventLog
from chainkit.execution import InvalidTransaction, Receipt, Rules
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair, is_dev_address
from chainkit.state import State
from chainkit.store import Store
from chainkit.transaction import SignedTransaction
from l1node.actions import (
    Action,
    BlockNotarized,
    BlocksFinalized,
    Broadcast,
    EvidenceFound,
    PersistVoted,
    Rejection,
    RequestBlocks,
)
from l1node.checkpoint import Checkpoint
from l1node.disk import Disk, Slashing, certified_block
from l1node.engine import Engine
from l1node.gossip import Gossip
from l1node.messages import encode_message
from l1node.pending import Pending
from l1node.reporter import Reporter
from l1node.staking import SET_DELAY, Staking, ValidatorSlashed
from l1node.sync import Sync
from l1node.tail import Tail
from l1node.watch import EVIDENCE_SLOTS

ROLE = "l1node"
READY_SLOTS = 8
"""How old, in slots, the head of a node in step may be."""

_log = logging.getLogger("l1node")


class FaultState(Protocol):
    """What a node says of its own dishonesty."""

    @property
    def on(self) -> list[str]:
        """The faults that were turned on."""


class BrokenNodeError(Exception):
    """An action failed half-way (the disk, most likely): what the engine believes may not be on disk."""


class L1Node:
    """A validator, or without a key a follower.

    Parameters
    ----------
    chain, store, clock
        The rules, an open store of role `ROLE`, and the time.
    gossip, sync
        Made by the caller with the peers' addresses; ``sync`` is a function since it feeds this node.
    engine_type
        `Engine`, or one that can be told to break the rules.
    checkpoint
        A block that the chain must contain (weak subjectivity).
    """

    def __init__(
        self,
        chain: Chain,
        key: KeyPair | None,
        store: Store,
        clock: Clock,
        gossip: Gossip,
        make_sync: Callable[[Callable[[Sequence[CertifiedBlock]], None]], Sync],
        *,
        engine_type: type[Engine] = Engine,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.chain = chain
        self.key = key
        self.clock = clock
        self.gossip = gossip
        self.sync = make_sync(self.on_blocks)
        self.log = EventLog(store)
        self.disk = Disk(store, chain, None if key is None else key.address, self.log)
        self.checkpoint = checkpoint
        self.counts: Counter[str] = Counter()
        self.broken: Exception | None = None
        self.stopping = False
        self.faults: FaultState | None = None
        """The switch of the faults, where there is one."""
        self.tail = Tail()
        self._broke = asyncio.Event()
        self._waiting: dict[asyncio.Future[None], None] = {}
        """Those who wait for the next change, in order."""
        self.reporter = Reporter(chain.rules, key, self.disk.cases(), self.disk.set_cases)
        self.slashings = self.disk.slashings()
        final, certificate = self.disk.final()
        if checkpoint is not None:
            checkpoint.check_stored(self._final_hash(checkpoint.height, final))
        self.pending = Pending(chain, final.tree, self.counts)
        self.engine = engine_type(
            chain,
            key,
            final=final,
            final_certificate=certificate,
            voted=self.disk.voted(),
            select=self._select,
            evidence_slots=self._evidence_slots(),
            known=self.pending.recent,
        )
        self._look()
        self.on_blocks(self.disk.load_notarized())
        self._reload_pool()

    def _final_hash(self, height: int, final: ExecutedBlock) -> Bytes32 | None:
        if height == 0:
            return self.chain.genesis_hash
        stored = self.disk.store.block_by_height(height) if height <= final.header.height else None
        return None if stored is None else stored.hash

    def _evidence_slots(self) -> int:
        contracts = self.rules.contracts.values()
        eras = [c.settings.unbonding_eras for c in contracts if isinstance(c, Staking)]
        return max(EVIDENCE_SLOTS, (max(eras, default=0) + SET_DELAY + 1) * self.genesis.era_slots)

    def _reload_pool(self) -> None:
        for tx in self.disk.pool():
            with suppress(InvalidTransaction):
                self.pending.pool.add(tx, self.pending.account)

    # --- time ---

    @property
    def now_ms(self) -> int:
        """The clock in ms since 1970."""
        return int(self.clock.now() * 1000)

    @property
    def slot(self) -> int:
        """The slot that it is now."""
        return self.chain.slot_at(self.now_ms)

    async def run(self) -> None:
        """Tick at the beginning of every slot, without end. Slots that were missed are left out."""
        while True:
            self.tick()
            # A millisecond late rather than early: an early tick would be of the slot before.
            await sleep_until(self.clock, (self.chain.slot_time(self.slot + 1) + 1) / 1000)

    async def watch(self) -> None:
        """Return never, or raise `BrokenNodeError` once an action has failed."""
        await self._broke.wait()
        raise BrokenNodeError(f"stopped to keep its promises: {self.broken}") from self.broken

    def tick(self) -> None:
        """The engine's tick, and a report if one is due."""
        self._check_broken()
        self._perform(self.engine.on_tick(self.now_ms))
        if self.reporter.waiting:
            self._report()

    # --- what peers say ---

    def on_message(self, message: Proposal | Vote) -> Rejection | None:
        """A proposal or a vote; why it was refused, if it was. One of another history is passed over."""
        self._check_broken()
        if isinstance(message, Vote):
            self.counts["votes_in"] += 1
        elif self._agrees(message.block.header.height, message):
            self.counts["proposals_in"] += 1
        else:
            return None
        actions = self.engine.on_message(message, self.now_ms)
        if actions:
            self._perform(actions)
        return self.engine.refused

    def on_blocks(self, blocks: Sequence[CertifiedBlock]) -> None:
        """Certified blocks, lowest first."""
        self._check_broken()
        kept = []
        for block in blocks:
            if not self._agrees(block.block.header.height, block):
                break
            kept.append(block)
        self._perform(self.engine.on_blocks(kept, self.now_ms))

    def _agrees(self, height: int, block: Proposal | CertifiedBlock) -> bool:
        """Whether a block is no other than the checkpoint at its height."""
        if self.checkpoint is None or height != self.checkpoint.height:
            return True
        agrees = self.checkpoint.hash == block.block.header.hash()
        if not agrees and not self.counts["other_history"]:
            _log.error(
                "refused another history than that of the checkpoint; if it does not pass, delete the data "
                "directory and give other peers",
                extra={"fields": {"height": height, "hash": "0x" + block.block.header.hash().hex()}},
            )
        self.counts["other_history"] += not agrees
        return agrees

    # --- doing what the engine says ---

    def _perform(self, actions: Sequence[Action]) -> None:
        """Perform actions in order; what must be durable is on disk before the next message leaves."""
        durable: list[PersistVoted | BlockNotarized | BlocksFinalized] = []
        blocks = False
        try:
            for action in actions:
                if isinstance(action, Broadcast):
                    self._write(durable)
                    durable.clear()
                    self.gossip.broadcast(encode_message(action.message))
                    self.counts["votes_out" if isinstance(action.message, Vote) else "proposals_out"] += 1
                elif isinstance(action, RequestBlocks):
                    self.sync.want(action.from_height)
                elif isinstance(action, EvidenceFound):
                    self._on_evidence(action)
                else:
                    durable.append(action)
                    blocks = blocks or not isinstance(action, PersistVoted)
            self._write(durable)
        except Exception as error:
            self.broken = error
            self._broke.set()
            raise
        if blocks:
            self._look()

    def _write(self, actions: Sequence[PersistVoted | BlockNotarized | BlocksFinalized]) -> None:
        """Make these durable, all or nothing: any prefix of the engine's actions is a safe state."""
        if not actions:
            return
        final: list[ExecutedBlock] = []
        with self.disk.store.transaction():
            for action in actions:
                if isinstance(action, PersistVoted):
                    self.disk.set_voted(action.record)
                elif isinstance(action, BlockNotarized):
                    self.disk.add_notarized(action.block, action.certificate)
                else:
                    for block, certificate in action.blocks:
                        self.disk.add_final(block, certificate)
                        self._note_slashings(block)
                        final.append(block)
        if final:
            self.pending.on_final(final)

    def _note_slashings(self, block: ExecutedBlock) -> None:
        new = [
            _slashing(block.header.height, receipt, event)
            for receipt in block.receipts
            for event in receipt.events
            if event.name == ValidatorSlashed.__name__
            and isinstance(self.rules.contracts.get(event.contract), Staking)
        ]
        if new:
            self.disk.add_slashings(new)
            self.slashings = self.disk.slashings()

    def _look(self) -> None:
        """The notarized or the final chain changed."""
        head, final = self.engine.head, self.engine.final
        self.tail.update(self.engine.notarized_chain())
        self._head = Head(head.header, head.hash, head.tree)
        self._final = Head(final.header, final.hash, final.tree)
        self._wake()

    def _wake(self) -> None:
        """Whoever waits in `changed` goes on."""
        waiting, self._waiting = self._waiting, {}
        for each in waiting:
            _end_wait(each)

    def _check_broken(self) -> None:
        if self.broken is not None:
            raise BrokenNodeError(f"the node stopped: {self.broken}") from self.broken

    # --- evidence ---

    def _on_evidence(self, action: EvidenceFound) -> None:
        if self.reporter.add(action.evidence):
            case = self.reporter.cases[-1]
            name = is_dev_address(case.culprit) or "0x" + case.culprit.hex()
            fields = {"validator": name, "kind": case.kind, "slot": case.slot}
            _log.warning("evidence found", extra={"fields": fields})

    def _report(self) -> None:
        assert self.key is not None
        tx = self.reporter.due(self._head, self._final, self.slot, self.pending_nonce(self.key.address))
        if tx is None:
            return
        result = self.pending.admit(tx)
        _log.warning(
            "evidence reported",
            extra={"fields": {"tx": "0x" + tx.id.hex(), "accepted": result.accepted, "code": result.code}},
        )
        if result.accepted:
            self.gossip.pass_on([tx.wire])

    # --- transactions ---

    def _select(self, parent: ExecutedBlock, slot: int) -> Iterable[SignedTransaction]:
        return self.pending.candidates(parent, slot, self.engine.final.header.slot)

    async def submit(self, transactions: Sequence[SignedTransaction]) -> Sequence[SubmitResult]:
        """Take transactions into the mempool and pass the new ones on to the peers."""
        self._check_broken()
        results = [self.pending.admit(tx) for tx in transactions]
        new = [tx.wire for tx, r in zip(transactions, results, strict=True) if r.accepted and not r.code]
        self.gossip.pass_on(new)
        return results

    async def receive(self, wires: Sequence[bytes]) -> bool:
        """Transactions from a peer; False if a signature is bad: then the rest was not looked at."""
        self._check_broken()
        return await self.pending.receive(wires)

    # --- ChainBackend ---

    @property
    def genesis(self) -> Genesis:
        return self.chain.genesis

    @property
    def genesis_hash(self) -> Bytes32:
        return self.chain.genesis_hash

    @property
    def rules(self) -> Rules:
        return self.chain.rules

    @property
    def event_log(self) -> EventLog:
        return self.log

    def head(self, ref: HeadRef) -> Head | None:
        """The notarized tip; "safe" and "finalized" are the last final block."""
        return self._head if ref == "head" else self._final

    def block(self, ref: int | Bytes32) -> BlockView | None:
        """A block of the head's chain by height, or one of it by hash."""
        genesis = self.chain.genesis_block
        if ref in (0, genesis.hash):
            return BlockView(genesis.block, genesis.hash, "finalized")
        pair = self.tail.at(ref) if isinstance(ref, int) else self.tail.get(ref)
        if pair is not None:
            return BlockView(pair[0].block, pair[0].hash, "notarized", pair[1])
        store = self.disk.store
        stored = store.block_by_height(ref) if isinstance(ref, int) else store.block_by_hash(ref)
        if stored is None:
            return None
        block = certified_block(stored)
        return BlockView(block.block, stored.hash, "finalized", block.certificate)

    def transaction(self, tx_id: Bytes32) -> TransactionView | None:
        place = self.tail.place(tx_id)
        if place is not None:
            block, at = place
            tx, receipt = block.transactions[at], block.receipts[at]
            return TransactionView(tx, "notarized", block.header.height, block.hash, at, receipt)
        pending = self.pending.pool.get(tx_id)
        if pending is not None:
            return TransactionView(pending, "pending")
        stored = self.disk.store.transaction_by_id(tx_id)
        if stored is None:
            return None
        tx = SignedTransaction.decode(stored.wire)
        return TransactionView(
            tx, "finalized", stored.height, stored.block_hash, stored.position, stored.receipt
        )

    def included_at(self, tx_id: Bytes32) -> int | None:
        found = self.tail.place(tx_id)
        if found is not None:
            return found[0].header.height
        place = self.disk.store.place_of(tx_id)
        return None if place is None else place[0]

    def pending_nonce(self, address: Address) -> int:
        return self.pending.pool.next_nonce(address, State(self._head.tree).account(address))

    def status(self) -> Mapping[str, Any]:
        address = None if self.key is None else self.key.address
        return {
            "role": "validator" if self.key else "follower",
            "validator": address,
            "validator_name": is_dev_address(address) if address and self.genesis.devnet else None,
            "slot": self.slot,
            "mempool": len(self.pending.pool),
            "peers": [
                {"url": peer.url, "reached": peer.reached, "failures": peer.failures}
                for peer in self.gossip.peers
            ],
            "syncing": self.sync.busy,
            "dishonest_on_purpose": [] if self.faults is None else self.faults.on,
        }

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """First block made, head of a recent slot, checkpoint reached."""
        head, slot = self._head.header, self.slot
        facts = {"height": head.height, "head_slot": head.slot, "slot": slot}
        if self.broken is not None:
            return False, {"waits_for": "an operator: the node is broken", **facts}
        if head.height == 0:
            return False, {"waits_for": "the first block", **facts}
        if self.checkpoint is not None and head.height < self.checkpoint.height:
            return False, {"waits_for": f"the checkpoint at height {self.checkpoint.height}", **facts}
        if slot - head.slot > READY_SLOTS:
            return False, {"waits_for": "blocks from its peers", **facts}
        return True, facts

    def metrics(self) -> Mapping[str, float]:
        head, final = self._head.header, self._final.header
        names = ("votes_in", "votes_out", "proposals_in", "proposals_out", "transactions_in", "duplicates_in")
        return {
            "height": head.height,
            "final_height": final.height,
            "finality_lag_blocks": head.height - final.height,
            "finality_lag_slots": max(0, self.slot - final.slot),
            "mempool_transactions": len(self.pending.pool),
            "mempool_bytes": self.pending.pool.size,
            "peers": len(self.gossip.peers),
            "peers_reached": sum(peer.reached for peer in self.gossip.peers),
            "bodies_out": self.gossip.sent,
            "messages_dropped": sum(peer.dropped for peer in self.gossip.peers),
            "messages_refused": self.engine.rejected.total(),
            "sync_blocks": self.sync.blocks,
            "evidence_found": len(self.reporter.cases),
            **{name: self.counts[name] for name in names},
        }

    # --- for peers and followers ---

    def certified_blocks(self, from_height: int, limit: int) -> Iterator[CertifiedBlock]:
        """At most ``limit`` blocks with their certificates: final ones, then the notarized chain above. Each is read
        when it is asked for: together they may be a hundred times what an answer takes."""
        start = max(from_height, 1)
        final = self._final.header.height
        for height in range(start, min(start + limit, final + 1)):
            stored = self.disk.store.block_by_height(height)
            if stored is None:
                return
            limit -= 1
            yield certified_block(stored)
        for block, certificate in islice(self.tail.from_height(start), limit):
            yield CertifiedBlock(block.block, certificate)

    async def changed(self, seconds: float) -> None:
        """Return when the head or the final block has changed, or ``seconds`` of real time have gone."""
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()
        self._waiting[waiting] = None
        timer = loop.call_later(seconds, _end_wait, waiting)
        try:
            await waiting
        finally:
            timer.cancel()
            self._waiting.pop(waiting, None)

    # --- the end ---

    async def close(self) -> None:
        """Keep the pool, and let go of the disk."""
        try:
            if self.broken is None:
                self.disk.set_pool(list(self.pending.pool))
        finally:
            self.disk.store.close()

    def stop(self) -> None:
        """End every stream and every long poll now."""
        self.stopping = True
        self.log.close()
        self._wake()


def _end_wait(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _slashing(height: int, receipt: Receipt, event: Event) -> Slashing:
    e = decode(ValidatorSlashed, event.data)
    return Slashing(height, receipt.tx_id, e.validator, e.kind, e.slot, e.amount, e.reporter, e.reward)
