"""One L1 node: the imperative shell around the consensus engine.

Responsible for doing what the engine says, in its order and durably, for the mempool, and for what the chain
API asks (`chainkit.backend.ChainBackend`). Must not know of HTTP: peers are behind `Gossip` and `Sync`.

All of it runs on one event loop; no method but `submit`, `receive` and `run` awaits, so each change is whole.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from chainkit.at_hand import MOST as MOST_AT_HAND
from chainkit.at_hand import AtHand
from chainkit.backend import BlockView, Head, HeadRef, SubmitResult, TransactionView
from chainkit.block import MAX_BLOCK_BYTES, CertifiedBlock, Proposal, Vote
from chainkit.chain import Chain, ExecutedBlock
from chainkit.clock import Clock, sleep_until
from chainkit.codec import Address, Bytes32, CodecError, decode
from chainkit.contract import Event
from chainkit.events import EventLog
from chainkit.execution import InvalidTransaction, Receipt, Rules, intrinsic_gas
from chainkit.fees import suggest_fees
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair, is_dev_address
from chainkit.mempool import Mempool
from chainkit.signature_pool import SignaturePool
from chainkit.state import Account, State
from chainkit.store import Store
from chainkit.submission import check_submitted
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
from l1node.recent import Recent
from l1node.reporter import Reporter
from l1node.staking import SET_DELAY, Staking, ValidatorSlashed
from l1node.sync import Sync
from l1node.tail import Tail
from l1node.watch import EVIDENCE_SLOTS

ROLE = "l1node"
READY_SLOTS = 8
"""How old, in slots, the head of a node in step may be."""
CALM_SLOTS = 3
"""How far, in slots, a new block is above the last final one when all goes well: two, and one to spare."""
FIRST_SHARE = 4
"""The share of a full block, one part in so many, that may follow an empty one."""
MAX_HALVINGS = 6
"""How often the room in a block is halved while finality lags, once for every two slots."""
_MOST_AT_ONCE = 256
MAX_CHECKING = 4096
"""Transactions from peers whose signatures may wait for their check: a quarter of a second."""

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
        self.pool = Mempool(chain.rules)
        self.recent = Recent()
        self._checking = 0
        self._signatures = SignaturePool()
        self._at_hand = AtHand()
        self._broke = asyncio.Event()
        self._changed = asyncio.Event()
        self.reporter = Reporter(chain.rules, key, self.disk.cases(), self.disk.set_cases)
        self.slashings = self.disk.slashings()
        final, certificate = self.disk.final()
        if checkpoint is not None:
            checkpoint.check_stored(self._final_hash(checkpoint.height, final))
        self.engine = engine_type(
            chain,
            key,
            final=final,
            final_certificate=certificate,
            voted=self.disk.voted(),
            select=self._select,
            evidence_slots=self._evidence_slots(),
            known=self.recent,
        )
        self._final_state = State(final.tree)
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
                self.pool.add(tx, self._final_account)

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
        if isinstance(message, Proposal) and not self._agrees(message.block.header.height, message):
            return None
        self._perform(self.engine.on_message(message, self.now_ms))
        self.counts["proposals_in" if isinstance(message, Proposal) else "votes_in"] += 1
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

    def _perform(self, actions: Iterable[Action]) -> None:
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
            self._on_final(final)

    def _final_account(self, address: Address) -> Account:
        """An account in the last final block; what was asked is remembered, however many strangers are asked for."""
        if len(self._final_state.read()) > MOST_AT_HAND:
            self._final_state = self._at_hand.state(self._final.tree)
        return self._final_state.account(address)

    def _on_final(self, final: Sequence[ExecutedBlock]) -> None:
        tree = self._final.tree
        for block in final:
            self._at_hand.move(tree, block.tree, {**self._final_state.read(), **block.changes})
            tree = block.tree
            self._final_state = self._at_hand.state(tree)
        # Whatever a block took in has changed its sender's nonce.
        self.recent.remove(tx for block in final for tx in block.transactions)
        touched = {k[1:] for block in final for k in block.changes if k[:1] == b"a" and len(k) == 33}
        self.pool.update(self._final_state.account, sorted(touched))

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
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

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
        result = self._admit(tx)
        _log.warning(
            "evidence reported",
            extra={"fields": {"tx": "0x" + tx.id.hex(), "accepted": result.accepted, "code": result.code}},
        )
        if result.accepted:
            self.gossip.pass_on([tx.wire])

    # --- transactions ---

    def _select(self, parent: ExecutedBlock, slot: int) -> Iterable[SignedTransaction]:
        base_fee = suggest_fees(self.rules, parent.tree).base_fee
        gas_limit = self.rules.fees.block_gas_limit
        candidates = self.pool.select(
            self.chain.state(parent.tree).account, base_fee, gas_limit, MAX_BLOCK_BYTES
        )
        return self._few(candidates, self._room(parent, slot, gas_limit))

    def _room(self, parent: ExecutedBlock, slot: int, gas_limit: int) -> int:
        """How much gas a block of ours may use: full blocks may take these machines longer than a slot, and then no
        three consecutive ones would come together while the load lasts. So blocks shrink while finality lags, and
        grow from one to the next by no more than twofold."""
        lag = slot - self.engine.final.header.slot
        if lag > CALM_SLOTS:
            return gas_limit >> min((lag - CALM_SLOTS + 1) // 2, MAX_HALVINGS)
        return min(gas_limit, max(gas_limit // FIRST_SHARE, 2 * parent.header.gas_used))

    def _few(self, candidates: Iterable[SignedTransaction], gas_left: int) -> Iterator[SignedTransaction]:
        """The first of them, at least one: the largest transaction finds its place in any block. What counts is the gas
        that each uses at least: a limit that nobody pays for must not keep others out."""
        for tx in candidates:
            yield tx
            gas_left -= intrinsic_gas(self.rules, tx)
            if gas_left <= 0:
                return

    async def submit(self, transactions: Sequence[SignedTransaction]) -> Sequence[SubmitResult]:
        """Take transactions into the mempool and pass the new ones on to the peers."""
        self._check_broken()
        results = [self._admit(tx) for tx in transactions]
        new = [tx.wire for tx, r in zip(transactions, results, strict=True) if r.accepted and not r.code]
        self.gossip.pass_on(new)
        return results

    def _admit(self, tx: SignedTransaction) -> SubmitResult:
        try:
            self.pool.add(tx, self._final_account)
        except InvalidTransaction as refusal:
            known = refusal.code == "already_known"
            return SubmitResult(tx.id, known, refusal.code, refusal.message)
        self.recent.add(tx)
        return SubmitResult(tx.id, True)

    async def receive(self, wires: Sequence[bytes]) -> bool:
        """Transactions from a peer; False if a signature is bad: then the rest was not looked at.

        They are not passed on: the peer told everyone. More than `MAX_CHECKING` at once are left out: who sent them
        has them still.
        """
        self._check_broken()
        fresh = self._fresh(wires)
        if self._checking + len(fresh) > MAX_CHECKING:
            self.counts["transactions_left_out"] += len(fresh)
            return True
        self._checking += len(fresh)
        self.recent.begin_check(fresh)
        try:
            start, size = 0, 1
            while start < len(fresh):  # a few first: one bad signature must not cost the check of a thousand
                if not await self._take(fresh[start : start + size]):
                    return False
                start, size = start + size, min(2 * size, _MOST_AT_ONCE)
        finally:
            self._checking -= len(fresh)
            self.recent.end_check(fresh)
        return True

    async def _take(self, fresh: Sequence[SignedTransaction]) -> bool:
        """Check signatures, and take in what is good; whether all signatures were."""
        unseen = [tx for tx in fresh if not self.recent.is_good(tx)]
        await self._signatures.verify(unseen)
        for tx in fresh:
            if not tx.signature_valid():
                self.counts["bad_signatures_in"] += 1
                return False
            with suppress(InvalidTransaction):
                check_submitted(self.rules, tx)
                self.pool.add(tx, self._final_account)
                self.recent.add(tx)
                self.counts["transactions_in"] += 1
        return True

    def _fresh(self, wires: Sequence[bytes]) -> list[SignedTransaction]:
        """Those that may be news, by what can be seen without checking a signature."""
        fresh = []
        for wire in wires:
            with suppress(CodecError):
                tx = self.recent.get(wire) or SignedTransaction.decode(
                    wire, limit=self.rules.fees.max_transaction_bytes
                )
                account, body = self._final_account(tx.body.sender), tx.body
                stale = body.nonce < account.nonce
                if tx.id in self.pool or stale or body.chain_id != self.rules.chain_id:
                    self.counts["duplicates_in"] += 1
                elif body.gas_limit * body.max_fee_per_gas + tx.value > account.balance:
                    self.counts["unpaid_in"] += 1  # the pool would refuse it, after its signature was checked
                else:
                    fresh.append(tx)
        return fresh

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
        pending = self.pool.get(tx_id)
        if pending is not None:
            return TransactionView(pending, "pending")
        stored = self.disk.store.transaction_by_id(tx_id)
        if stored is None:
            return None
        tx = SignedTransaction.decode(stored.wire)
        in_block = self.disk.store.block_by_height(stored.height)
        block_hash = None if in_block is None else in_block.hash
        return TransactionView(tx, "finalized", stored.height, block_hash, stored.position, stored.receipt)

    def pending_nonce(self, address: Address) -> int:
        return self.pool.next_nonce(address, State(self._head.tree).account(address))

    def status(self) -> Mapping[str, Any]:
        address = None if self.key is None else self.key.address
        return {
            "role": "validator" if self.key else "follower",
            "validator": address,
            "validator_name": is_dev_address(address) if address and self.genesis.devnet else None,
            "slot": self.slot,
            "mempool": len(self.pool),
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
            "mempool_transactions": len(self.pool),
            "mempool_bytes": self.pool.size,
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

    def certified_blocks(self, from_height: int, limit: int) -> list[CertifiedBlock]:
        """At most ``limit`` blocks with their certificates: final ones, then the notarized chain above."""
        start = max(from_height, 1)
        blocks: list[CertifiedBlock] = []
        if start <= self._final.header.height:
            count = min(limit, self._final.header.height - start + 1)
            blocks = [certified_block(stored) for stored in self.disk.store.blocks_from(start, count)]
        for block, certificate in self.tail.from_height(start):
            if len(blocks) >= limit:
                break
            blocks.append(CertifiedBlock(block.block, certificate))
        return blocks

    async def changed(self, seconds: float) -> None:
        """Return when the head or the final block has changed, or ``seconds`` of real time have gone."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    # --- the end ---

    async def close(self) -> None:
        """Keep the pool, and let go of the disk."""
        try:
            if self.broken is None:
                self.disk.set_pool(list(self.pool))
        finally:
            self.disk.store.close()

    def stop(self) -> None:
        """End every stream and every long poll now."""
        self.stopping = True
        self.log.close()
        self._changed.set()


def _slashing(height: int, receipt: Receipt, event: Event) -> Slashing:
    e = decode(ValidatorSlashed, event.data)
    return Slashing(height, receipt.tx_id, e.validator, e.kind, e.slot, e.amount, e.reporter, e.reward)
