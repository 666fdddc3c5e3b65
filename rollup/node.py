"""A rollup node's core: what it does with a final L1 block, and how a sequencer makes L2 blocks.

Responsible for keeping derivation, local chain, mempool and event log in step. No sockets, clocks or tasks:
time and L1 blocks come in as arguments. Must not know how calls reach L1.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bridge.abi import BridgeSettings
from chainkit.block import Certificate
from chainkit.chain import ExecutedBlock
from chainkit.codec import U53, Bytes32, CodecError, Record, decode, encode, to_json
from chainkit.events import EventLog
from chainkit.execution import InvalidTransaction, Rules, environment
from chainkit.keys import KeyPair, dev_keypair
from chainkit.mempool import Mempool
from chainkit.merkle import Tree
from chainkit.replica import Replica
from chainkit.state import Account
from chainkit.store import Store
from chainkit.transaction import IsAccount, SignedTransaction
from rollup.block import BlockBuilder, L2Block, execute_block
from rollup.derivation import Derivation, StaleResume
from rollup.derived import (
    BatchDerived,
    BatchFinalized,
    BatchFlagged,
    BatchReverted,
    DerivationEvent,
    DerivedBatch,
    DisputeChanged,
    Frozen,
    InboxMessageQueued,
    SettingsChanged,
)
from rollup.fault_switch import FaultSwitch
from rollup.faults import Fault, FaultSet, make_lie
from rollup.final_state import FinalState
from rollup.local import LocalChain
from rollup.stf import Step, Transact
from rollup.trace import Trace

log = logging.getLogger("layerlab.rollup")

Role = Literal["sequencer", "verifier"]

MAX_BLOCK_TRANSACTIONS_BYTES = 224 * 1024
"""A block must fit in one batch, and a batch in one L1 transaction (256 KiB), also if packing it gains nothing."""
MAX_BLOCK_MESSAGES = 256
MAX_UNPOSTED_BYTES = 32 * 1024 * 1024
"""Transactions in blocks that are in no final batch: about 170,000 transfers, and as they are in memory
some 450 MB. More is not taken in: whoever offers more than L1 takes must hear of it."""
MEMPOOL_PER_SENDER = 256
SEEN = "l1_height"
"""Meta key in the L2 store: up to which L1 block the event log is told."""
MAX_POOL_BYTES = 64 * 1024 * 1024
LIES_KEY, POOL_KEY = "lies", "pool"
THIEF = dev_keypair("mallory").address
"""Who gets what a lie takes."""


class LieRecord(Record, frozen=True):
    """What a restart needs to keep up a lie: the blocks that the falsified batch spans, and how it was made."""

    first_block: U53
    last_block: U53
    root: Bytes32
    fault: Fault


@dataclass
class Lie:
    """A batch that this sequencer falsified; ``trace`` plays the lie again and again the same way."""

    record: LieRecord
    trace: Trace

    @property
    def root(self) -> Bytes32:
        """The false root at the batch's end."""
        return self.record.root

    @property
    def last_block(self) -> int:
        return self.record.last_block


@dataclass
class RollupNode:
    """Sequencer or verifier. Call `start` once, then `on_l1_final` for each final L1 block, in order."""

    role: Role
    replica: Replica
    store: Store
    events: EventLog
    derivation: Derivation
    key: KeyPair
    switch: FaultSwitch
    local: LocalChain = field(init=False)
    mempool: Mempool = field(init=False)
    final_state: FinalState = field(init=False)
    lies: dict[int, Lie] = field(default_factory=dict)
    traces: dict[int, Trace] = field(default_factory=dict)

    @property
    def faults(self) -> FaultSet:
        return self.switch.faults

    def __post_init__(self) -> None:
        rules = self.derivation.rules
        signer = self.key if self.role == "sequencer" else None
        self.final_state = FinalState(self.store)
        self.local = LocalChain(rules, self.store, self.events, signer)
        self.mempool = Mempool(rules, max_per_sender=MEMPOOL_PER_SENDER)

    def start(self) -> None:
        """Derive again from the L1 blocks on disk, then take up the local chain where it was.

        What was final is not executed again if its state is on disk, and L1 agrees that it is the one. Raises
        `chainkit.store.StoreError` if what is on disk is damaged.
        """
        seen = decode(int, self.store.get_meta(SEEN) or b"\x00")
        try:
            self._derive_again(seen)
        except StaleResume as error:
            log.warning("%s; executing everything again", error)
            self.derivation = self.derivation.anew()
            self._derive_again(seen)
        self._refresh_after_restart(seen)
        final, resume = self.derivation.finalized_batch, self.derivation.resume
        resumed = None if resume is None else resume.batch
        self.final_state.catch_up(final, self.derivation.batches, resumed)
        self.derivation.chain.forget_genesis_tree()
        self.local.open(final.end, final.record.inbox_to)
        for batch in self._pending_line():
            self.local.adopt(batch.l2_blocks, batch.record.inbox_to)
        if self.role == "verifier" and self.local.recent:  # it makes no blocks: these were reverted
            safe = self.derivation.safe_batch
            self.local.rewind(safe.end, safe.record.inbox_to, "a batch was reverted on L1")
        self.derivation.slim_down()
        self._restore_lies()
        self._restore_pool()
        if self.role == "sequencer":
            self.derivation.made = self.local.at

    def _derive_again(self, seen: int) -> None:
        """From the L1 blocks on disk. Raises `StaleResume` before anything is written, or what `start` raises."""
        pending: dict[int, DerivedBatch] = {}
        for header, transactions in self.replica.busy_blocks():
            events = self.derivation.apply_l1_block(header, transactions, None)
            if header.height > seen:
                self._record_all(events)
            for event in events:
                if isinstance(event, BatchDerived):
                    pending[event.batch.index] = event.batch
                elif isinstance(event, BatchFinalized):
                    batch = pending.pop(event.batch)
                    if event.matches and batch.l2_blocks:
                        self.local.restore(batch.l2_blocks)
                elif isinstance(event, BatchReverted):
                    del pending[event.batch]
        resume = self.derivation.resume
        if resume is not None and self.derivation.finalized < resume.batch:
            raise StaleResume(
                "the final state on disk is of a batch that is not final in the L1 blocks on disk"
            )

    def _refresh_after_restart(self, seen: int) -> None:
        """Read settings and disputes; note what changed in a block that was cut off before it was noted."""
        events, height = self.derivation.refresh(self.replica.tip.tree), self.l1_height
        if height > seen:
            fresh = [e for e in events if isinstance(e, DisputeChanged) and e.dispute.last_move == height]
            self.derivation.l1_height = height
            self._record_all(fresh)

    def _record_all(self, events: Sequence[DerivationEvent]) -> None:
        """Into the event log, and up to which L1 block it is told: all or nothing."""
        if events:
            with self.store.transaction():
                for event in events:
                    self._record(event)
                self.store.set_meta(SEEN, encode(self.derivation.l1_height))

    def _pending_line(self) -> list[DerivedBatch]:
        """The true batches after the final one, in order."""
        line: list[DerivedBatch] = []
        batch = self.derivation.safe_batch
        while batch.index != self.derivation.finalized_batch.index:
            line.append(batch)
            batch = self.derivation.batches[batch.record.parent]
        return line[::-1]

    @property
    def l1_height(self) -> int:
        """Height of the last final L1 block that this node has taken in."""
        return self.replica.tip.header.height

    # --- what survives a restart besides blocks ---

    def _restore_lies(self) -> None:
        """Keep up lies that are on L1: a liar that forgets what it said would lose by that alone."""
        for record in decode(list[LieRecord], self.store.get_meta(LIES_KEY) or b"\x90"):
            batch = self.derivation.head_batch
            while batch.record.state_root != record.root and batch.index != self.derivation.finalized:
                batch = self.derivation.batches[batch.record.parent]
            if batch.flagged and batch.record.state_root == record.root:
                self.falsify(make_trace(self.derivation.rules, record, batch.steps, batch.start.tree))

    def _save_lies(self) -> None:
        self.store.set_meta(LIES_KEY, encode([lie.record for lie in self.lies.values()]))

    def save_pool(self) -> None:
        """Put the mempool on disk (before a clean end)."""
        self.store.set_meta(POOL_KEY, encode([tx.wire for tx in self.mempool]))

    def _restore_pool(self) -> None:
        for wire in decode(list[bytes], self.store.get_meta(POOL_KEY) or b"\x90", limit=MAX_POOL_BYTES):
            try:
                self.mempool.add(SignedTransaction.decode(wire), self.account)
            except (CodecError, InvalidTransaction) as refusal:
                log.info("a waiting transaction is gone: %s", refusal)

    # --- L1 ---

    def on_l1_final(self, executed: ExecutedBlock, certificate: Certificate) -> list[DerivationEvent]:
        """Take in the next final L1 block: on disk first, then everything that follows from it."""
        self.replica.append(executed, certificate)
        pairs = list(zip(executed.transactions, executed.receipts, strict=True))
        events = self.derivation.apply_l1_block(executed.header, pairs, executed.tree, executed.changes)
        lost: list[DerivedBatch] = []
        final: list[int] = []
        with self.store.transaction():
            self._record_all(events)
            for event in events:
                if isinstance(event, BatchDerived):
                    self.final_state.note(event.batch)
                    if lost and event.batch.matches:
                        # It takes the place of what was lost: first go back to there.
                        self._on_reverted(lost, event.batch.start, event.batch.record.inbox_from)
                        lost = []
                    self._on_batch(event.batch)
                elif isinstance(event, BatchReverted):
                    lost.append(event.lost)
                    self.traces.pop(event.batch, None)
                    self.final_state.drop(event.batch)
                elif isinstance(event, BatchFinalized):
                    self.traces.pop(event.batch, None)
                    if event.matches:
                        final.append(event.batch)
            if final:
                *before, last = final
                self.final_state.keep(self.derivation.batches[last], before)
            if lost:
                safe = self.derivation.safe_batch
                self._on_reverted(lost, safe.end, safe.record.inbox_to)
        self.derivation.slim_down()
        return events

    def _on_batch(self, batch: DerivedBatch) -> None:
        if not batch.matches:
            return
        head = self.local.head
        lost = self.local.adopt(batch.l2_blocks, batch.record.inbox_to)
        if self.local.head is head:
            return  # our own blocks: nothing is new to the pool
        if lost:  # somebody else posted other blocks: what we were about to lie about is gone
            self.lies = {}
            self._save_lies()
        for block in lost:
            self._wait_again(block)
        self._refresh_mempool(batch.l2_blocks)

    def _on_reverted(self, lost: list[DerivedBatch], end: L2Block, cursor: int) -> None:
        """Back to ``end`` of the last true batch; a sequencer runs the same blocks again: their order is promised.

        Those of true batches had become the base; above them are our own. The blocks of a false batch that
        is not ours are nobody's promise.
        """
        blocks = {b.header.height: b for batch in lost if batch.matches for b in batch.l2_blocks}
        blocks.update({block.header.height: block for block in self.local.recent})
        above = [blocks[height] for height in sorted(blocks) if height > end.header.height]
        self.local.rewind(end, cursor, "a batch was reverted on L1")
        self.lies = {first: lie for first, lie in self.lies.items() if first <= end.header.height}
        self._save_lies()
        if self.role == "sequencer":
            self.local.replay(above)
            self._update_mempool()

    def _wait_again(self, block: L2Block) -> None:
        for tx in block.transactions:
            if tx is not None:
                try:
                    self.mempool.add(tx, self.account)
                except InvalidTransaction as refusal:
                    log.info("a transaction of a replaced block is gone: %s", refusal)

    def _record(self, event: DerivationEvent) -> None:
        """Put what L1 showed into the event log, in the words of this node's role."""
        height = self.derivation.l1_height
        name, data = _event_data(event)
        self.events.append(name, data, height=height, source=self.role)
        if isinstance(event, BatchFlagged) and self.role == "verifier":
            log.warning("batch %d claims a false state root", event.batch)

    # --- L2 blocks ---

    def account(self, address: Bytes32) -> Account:
        """An account at the head."""
        return self.local.view.account(address)

    def accounts(self) -> IsAccount:
        """Tells, until the head is another one, whether there is such an account."""
        return self.local.view.has_account

    def pending_messages(self) -> int:
        """How many final inbox messages the local chain has not taken in."""
        return len(self.derivation.inbox) - self.local.cursor

    def produce(self, now_ms: int, *, heartbeat: bool = False, flush: bool = True) -> L2Block | None:
        """Make the next L2 block and put it on disk, if there is something for it (or a ``heartbeat``).

        Without ``flush`` the caller sees to what `LocalChain.append` says of it.
        """
        if self.role != "sequencer" or self.derivation.frozen or self.faults.get("halt"):
            return None
        cursor = self.local.cursor
        settings = self.derivation.block_limits()
        if settings is None:
            return None
        most = 0 if self.faults.get("skip-deposit") else min(MAX_BLOCK_MESSAGES, settings.max_inbox_per_batch)
        messages = self.derivation.inbox[cursor : cursor + most]
        if not (messages or heartbeat or self._has_candidates()):
            return None
        head = self.local.head
        builder = BlockBuilder(
            self.derivation.rules, head, max(now_ms, head.header.time), self.local.at_hand()
        )
        builder.add([message.step for message in messages])
        self._fill(builder, _transactions_room(settings, len(messages)))
        if len(builder) == 1 and not heartbeat:
            return None
        block = builder.seal()
        self.local.append(block, flush=flush)
        self._refresh_mempool([block])
        return block

    @property
    def is_behind(self) -> bool:
        """Whether L1 takes so much less than users offer that nothing more should be taken in."""
        return self.local.transaction_bytes + self.mempool.size > MAX_UNPOSTED_BYTES

    def has_whole_block(self) -> bool:
        """Whether more waits than a block may hold."""
        return self.mempool.size >= MAX_BLOCK_TRANSACTIONS_BYTES

    def _has_candidates(self) -> bool:
        return len(self.mempool) > self.mempool.gapped

    def _fill(self, builder: BlockBuilder, room: int) -> None:
        rules = self.derivation.rules
        candidates = self.mempool.select(
            None,  # the pool is up to the head: it hears of every block (`_refresh_mempool`, `_update_mempool`)
            environment(self.local.view).base_fee,
            rules.fees.block_gas_limit,
            MAX_BLOCK_TRANSACTIONS_BYTES,
        )
        censors = self.faults.censors if len(self.faults) else None
        offered = [tx for tx in candidates if censors is None or not censors(tx.body.sender)]
        for tx, refusal in builder.add_transactions(offered, room):
            if refusal.code not in ("block_full", "fee_too_low", "nonce_gap"):
                self.mempool.remove(tx.id)

    def _refresh_mempool(self, blocks: list[L2Block] | tuple[L2Block, ...]) -> None:
        """What ran needs no place any more. (What did not, a forced one, may still be sent.)"""
        ran = [
            tx
            for block in blocks
            for tx, receipt in zip(block.transactions, block.receipts, strict=True)
            if tx is not None and receipt.gas_used
        ]
        self.mempool.remove_included(ran, self.local.view.account)

    def _update_mempool(self) -> None:
        """The head's state is another one than before."""
        self.mempool.update(self.account, sorted({tx.body.sender for tx in self.mempool}))

    def bring_messages_forward(self) -> bool:
        """Run the blocks that are in no batch again, inbox messages first; False if there is nothing to gain.

        The order of messages, and that of transactions, stays. (A forced transaction that moves into an earlier
        block shifts the positions there: the one case in which a promise gives way, to L1's deadline.)
        """
        settings, head = self.derivation.settings, self.derivation.head_batch
        blocks, last = self.local.recent, head.end.header.height
        if settings is None or not blocks or self.local.base.hash != head.end.hash:
            return False
        if any(first <= last for first in self.lies):  # what is on L1 must be kept up
            return False
        waiting = [
            message.step for message in self.derivation.inbox[head.record.inbox_to : self.local.cursor]
        ]
        again: list[tuple[int, list[Step]]] = []
        for block in blocks:
            own = [step for step in block.steps if isinstance(step, Transact)]
            room = max(0, min(settings.max_inbox_per_batch, settings.max_steps - 1 - len(own)))
            again.append((block.header.time, [*waiting[:room], *own]))
            waiting = waiting[room:]
        if waiting or all(
            tuple(steps) == block.steps for (_, steps), block in zip(again, blocks, strict=True)
        ):
            return False
        log.warning("inbox messages are almost overdue: running %d L2 blocks again", len(blocks))
        with self.store.transaction():
            self._take_lies_back()
            self.local.rewind(head.end, head.record.inbox_to, "inbox messages must come first")
            for time, steps in again:
                self.local.append(execute_block(self.derivation.rules, self.local.head, time, steps))
        self._update_mempool()
        return True

    def _take_lies_back(self) -> None:
        """L1 has heard none of them, and the blocks run again: they are to be told anew, in whatever comes next."""
        for lie in self.lies.values():
            self.switch.lie_lost(lie.record.fault, first_block=lie.record.first_block)
        self.lies = {}
        self._save_lies()

    def falsify(self, lie: Lie) -> None:
        """Go on from the lie: the state after its last block is now the liar's; later blocks run again."""
        later = self.local.between(lie.last_block + 1, self.local.head.header.height)
        with self.store.transaction():
            self.local.falsify(lie.last_block, lie.trace.tree(len(lie.trace.steps)))
            self.local.replay(later)
            self.lies[lie.record.first_block] = lie
            self._save_lies()
        self._update_mempool()
        log.warning("DISHONEST ON PURPOSE: the state after L2 block %d is a lie", lie.last_block)


def make_trace(rules: Rules, record: LieRecord, steps: Sequence[Step], start: Tree) -> Lie:
    """The lie that a record tells of; its fault names the step, so that it is the same each time."""
    _, change = make_lie(record.fault, rules, steps, start, THIEF)
    return Lie(record, Trace(rules, start, steps, change))


def _transactions_room(settings: BridgeSettings, messages: int) -> int:
    """How many transactions a block may hold, so that it fits a batch, also with all the messages of one."""
    room = settings.max_steps - 1 - settings.max_inbox_per_batch
    return room if room > 0 else settings.max_steps - 1 - messages


def _event_data(event: DerivationEvent) -> tuple[str, dict[str, object]]:
    """Name and JSON-able data of a derivation event in the event log."""
    name = type(event).__name__
    if isinstance(event, BatchDerived):
        batch, record = event.batch, event.batch.record
        return name, {
            "batch": record.index,
            "first_block": record.first_block,
            "blocks": record.blocks,
            "steps": record.steps,
            "claimed_root": to_json(record.state_root),
            "computed_root": to_json(batch.computed_root),
            "matches": batch.matches,
        }
    if isinstance(event, BatchFlagged):
        roots = {"claimed_root": to_json(event.claimed), "computed_root": to_json(event.computed)}
        return name, {"batch": event.batch, **roots}
    if isinstance(event, BatchReverted):
        return name, {"batch": event.batch, "reason": event.reason}
    if isinstance(event, BatchFinalized):
        return name, {"batch": event.batch, "matches": event.matches}
    if isinstance(event, DisputeChanged):
        fields = ("index", "batch", "stage", "turn", "low", "high", "moves", "winner", "reason")
        return name, {field: getattr(event.dispute, field) for field in fields}
    if isinstance(event, Frozen):
        return "BridgeFrozen", {"by": to_json(event.by)}
    if isinstance(event, SettingsChanged):
        return name, {"settings": to_json(event.settings)}
    assert isinstance(event, InboxMessageQueued)
    return name, {"message": to_json(event.message.step)}
