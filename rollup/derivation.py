"""Derivation: the rollup's state as a pure function of finalized L1 blocks.

Responsible for rebuilding inbox, batches, L2 blocks and heads from the bridge's events and calldata, for
executing every batch anew, and for saying which posted roots are false. Must not know of sequencers,
networks, disks or where L1 blocks come from; they must be final, in order, and already verified.

To restart, replay the stored L1 blocks (those without bridge transactions may be left out), with
``l1_state=None``, then call `Derivation.refresh` once with the newest final L1 state.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from typing import NamedTuple, TypeVar

import msgspec

from bridge import abi
from chainkit.at_hand import AtHand
from chainkit.block import Header
from chainkit.chain import Chain
from chainkit.codec import Bytes32, CodecError, Record, decode
from chainkit.contract import Event
from chainkit.genesis import Genesis
from chainkit.merkle import Tree
from chainkit.state import storage_key
from chainkit.transaction import SignedTransaction, verify_signatures
from rollup.batch import BatchBlock
from rollup.batch import steps_root as compute_steps_root
from rollup.block import L2Block, block_steps, decode_transaction, execute_block, genesis_block
from rollup.contents import CommittedSteps, step_hashes
from rollup.derived import (
    BatchDerived,
    BatchFinalized,
    BatchFlagged,
    BatchReverted,
    DerivationEvent,
    DerivedBatch,
    DisputeChanged,
    Frozen,
    InboxMessage,
    InboxMessageQueued,
    Resume,
    SettingsChanged,
    genesis_batch,
    hollow,
    slim,
    stub_tree,
    without_steps,
)
from rollup.directory import Directory
from rollup.reading import DerivationError, L1Transaction, Read, ReadAhead, batch_data, read_batch
from rollup.stf import Deposit, Forced, Step, step_hash

__all__ = [
    "BatchDerived",
    "BatchFinalized",
    "BatchFlagged",
    "BatchReverted",
    "Derivation",
    "DerivationError",
    "DerivationEvent",
    "DerivedBatch",
    "DisputeChanged",
    "Frozen",
    "InboxMessage",
    "InboxMessageQueued",
    "L1Transaction",
    "Resume",
    "SettingsChanged",
    "StaleResume",
]

R = TypeVar("R", bound=Record)
MAX_REMEMBERED = 16
"""Batches of its own that a node remembers: as many as may be on their way, and some that were made again."""


class StaleResume(DerivationError):  # noqa: N818 - it names what is stale
    """What an earlier run left is not what L1 made final: derive again without it."""


class _Body(NamedTuple):
    """What a block runs after its beginning; ``known`` are the steps' transactions as far as they are decoded."""

    time: int
    steps: list[Step]
    known: list[SignedTransaction | None]


_EVENT_TYPES: dict[str, type[Record]] = {kind.__name__: kind for kind in abi.EVENTS}


@dataclass
class Derivation:
    """All that follows from L1 so far. Feed it with `apply_l1_block`; read its attributes.

    ``executor``: threads for signature checks, or None to check in place. ``l2_chain``: that of ``l2_genesis``, if
    it is made already. ``resume``: what need not be executed again; if L1 says otherwise, `StaleResume` is raised.
    ``made`` gives the block that this node made at a height, so that it is not run twice if L1 has the same.
    """

    l2_genesis: Genesis
    bridge: str = "bridge"
    executor: Executor | None = None
    l2_chain: Chain | None = None
    resume: Resume | None = None
    made: Callable[[int], L2Block | None] | None = None
    inbox: list[InboxMessage] = field(default_factory=list)
    batches: dict[int, DerivedBatch] = field(default_factory=dict)
    disputes: dict[int, abi.Dispute] = field(default_factory=dict)
    directory: Directory = field(default_factory=Directory)
    """All addresses that batches ever named, those of reverted ones too."""
    settings: abi.BridgeSettings | None = None
    scheduled: abi.ScheduledUpgrade | None = None
    """The upgrade that is announced, if one is."""
    totals: abi.BridgeTotals | None = None
    frozen: bool = False
    l1_height: int = 0
    """Height of the last L1 block applied."""
    diverged: int | None = None
    """The first false batch that became final, if that ever happened."""
    head: int = abi.GENESIS_BATCH
    """The batch that the next one extends."""
    finalized: int = abi.GENESIS_BATCH
    """The last final batch, true or not."""

    def __post_init__(self) -> None:
        self.chain = self.l2_chain or Chain(self.l2_genesis)
        self.rules = self.chain.rules
        start = self._start()
        self.batches[abi.GENESIS_BATCH] = genesis_batch(start)
        self._disputes_read = 0
        self._refreshed = -1  # the last L1 block whose state was read, or wrote nothing of the bridge's
        self._whole: list[int] = []  # batches derived since the last `slim_down`
        self._read = ReadAhead(self.rules, self.bridge, self.directory)
        self._packed: dict[bytes, Sequence[BatchBlock]] = {}
        self._at_hand = AtHand()
        self._safe = abi.GENESIS_BATCH
        self._finalized_true = abi.GENESIS_BATCH

    def _start(self) -> L2Block:
        """The genesis block; without its state where nothing will be executed on it."""
        if self.resume is None:
            return genesis_block(self.chain)
        if self.resume.batch == abi.GENESIS_BATCH:
            return self.resume.end
        header = self.chain.genesis_header
        return L2Block(header, self.chain.genesis_hash, (), (), (), stub_tree(header.state_root), {})

    def anew(self) -> "Derivation":
        """One that has taken in nothing yet, and executes everything."""
        return Derivation(self.l2_genesis, self.bridge, self.executor, self.chain)

    # --- heads ---

    @property
    def head_batch(self) -> DerivedBatch:
        """The last batch that is not reverted, true or not."""
        return self.batches[self.head]

    @property
    def safe_batch(self) -> DerivedBatch:
        """The last batch that is on L1 with a true root over true roots; the genesis batch at first."""
        return self.batches[self._safe]

    @property
    def finalized_batch(self) -> DerivedBatch:
        """The last final batch whose whole line is true (see ``diverged``); the genesis batch at first."""
        return self.batches[self._finalized_true]

    @property
    def inbox_cursor(self) -> int:
        """Index of the first inbox message that the line of batches has not taken in."""
        return self.head_batch.record.inbox_to

    def l2_blocks(self, batch: int) -> tuple[L2Block, ...]:
        """The executed blocks of a pending batch. Raises `KeyError` for a batch that L1 never had."""
        return self.batches[batch].l2_blocks

    def block_limits(self) -> abi.BridgeSettings | None:
        """The settings that an L2 block made now must fit: also those of an upgrade that is announced, or the block may
        fit no batch once it is in force. None as long as L1's are not known."""
        now, later = self.settings, self.scheduled
        if now is None or later is None:
            return now
        return msgspec.structs.replace(
            now,
            max_steps=min(now.max_steps, later.settings.max_steps),
            max_inbox_per_batch=min(now.max_inbox_per_batch, later.settings.max_inbox_per_batch),
        )

    def open_disputes(self) -> list[abi.Dispute]:
        """The disputes that are not resolved, by index."""
        return [dispute for _, dispute in sorted(self.disputes.items()) if dispute.stage != abi.RESOLVED]

    # --- input ---

    def remember(self, data: bytes, blocks: Sequence[BatchBlock]) -> None:
        """This node made ``data`` of these blocks and the directory: whenever L1 has it, these are what it stands for.

        That holds for as long as addresses keep their numbers, and they do: the directory only grows.
        """
        self._packed[data] = blocks
        if len(self._packed) > MAX_REMEMBERED:
            del self._packed[next(iter(self._packed))]

    def prepare(self, height: int, transactions: Sequence[L1Transaction]) -> list[SignedTransaction]:
        """The L2 transactions in the batches of a coming L1 block, whose signatures the caller may have checked, in its
        own way and time, before `apply_l1_block` takes them from here. Whatever is left out is checked there.

        Blocks may be prepared long before they are applied, but in order and with none left out in between.
        """
        return self._read.read(height, transactions)

    def apply_l1_block(
        self,
        header: Header,
        transactions: Sequence[L1Transaction],
        l1_state: Tree | None,
        written: Iterable[bytes] | None = None,
    ) -> list[DerivationEvent]:
        """Take in the next final L1 block; returns what follows from it, in order.

        Blocks without bridge transactions may be skipped. ``l1_state`` is the state after the block;
        with None disputes and settings stay as they are until `refresh`. ``written``: the state keys that the
        block wrote, if they are known. Raises `DerivationError`, after which this derivation must not be used: L1
        and our code disagree.
        """
        if header.height <= self.l1_height:
            raise DerivationError(f"L1 block {header.height} after {self.l1_height}")
        events: list[DerivationEvent] = []
        for tx, receipt in transactions:
            if receipt.success:
                for record in self._bridge_events(receipt.events):
                    events.extend(self._apply_event(record, header.height, tx))
        self.l1_height = header.height
        self._read.forget(header.height)
        if l1_state is not None:
            if written is None or self._refreshed != header.height - 1 or self._concerns(written):
                events.extend(self.refresh(l1_state))
            self._refreshed = header.height
        return events

    def _concerns(self, written: Iterable[bytes]) -> bool:
        """Whether the bridge's storage is among these keys."""
        prefix = storage_key(self.bridge, b"")
        return any(key.startswith(prefix) for key in written)

    def slim_down(self) -> None:
        """Whoever asked has taken in all events: of true batches keep only what may still be needed."""
        for index in self._whole:
            batch = self.batches[index]
            if batch.status == abi.PENDING and batch.matches and batch.l2_blocks:
                self.batches[index] = slim(batch)
        self._whole.clear()

    def refresh(self, l1_state: Tree) -> list[DerivationEvent]:
        """Read settings, totals and disputes from a final L1 state; returns what changed."""
        events: list[DerivationEvent] = []
        settings = self._load(l1_state, abi.SETTINGS_KEY, abi.BridgeSettings)
        if settings is not None and settings != self.settings:
            self.settings = settings
            events.append(SettingsChanged(settings))
        self.scheduled = self._load(l1_state, abi.UPGRADE_KEY, abi.ScheduledUpgrade)
        self.totals = self._load(l1_state, abi.TOTALS_KEY, abi.BridgeTotals)
        count = self.totals.next_dispute if self.totals is not None else 0
        unresolved = [dispute.index for dispute in self.open_disputes()]
        for index in [*unresolved, *range(self._disputes_read, count)]:
            dispute = self._load(l1_state, abi.dispute_key(index), abi.Dispute)
            if dispute is not None and dispute != self.disputes.get(index):
                self.disputes[index] = dispute
                events.append(DisputeChanged(dispute))
        self._disputes_read = max(self._disputes_read, count)
        return events

    def _load(self, tree: Tree, key: bytes, kind: type[R]) -> R | None:
        value = tree.get(storage_key(self.bridge, key))
        return decode(kind, value) if value else None

    def _bridge_events(self, events: Sequence[Event]) -> Iterator[Record]:
        for event in events:
            if event.contract == self.bridge:
                kind = _EVENT_TYPES.get(event.name)
                if kind is None:
                    raise DerivationError(f"the bridge emitted an unknown event {event.name!r}")
                try:
                    yield decode(kind, event.data)
                except CodecError as error:
                    raise DerivationError(f"the bridge emitted a malformed {event.name}: {error}") from None

    def _apply_event(self, event: Record, height: int, tx: SignedTransaction) -> list[DerivationEvent]:
        if isinstance(event, abi.DepositInitiated):
            deposit = Deposit(event.index, event.depositor, event.to, event.amount)
            return self._queue(event.index, deposit, height, tx)
        if isinstance(event, abi.TransactionForced):
            return self._queue(event.index, Forced(event.index, event.transaction), height, tx)
        if isinstance(event, abi.BatchSubmitted):
            return self._derive(event.batch, height, tx)
        if isinstance(event, abi.BatchReverted):
            return self._revert(event, height)
        if isinstance(event, abi.BatchFinalized):
            return self._finalize(event.batch, height)
        if isinstance(event, abi.BridgeFrozen):
            self.frozen = True
            return [Frozen(event.by)]
        return []

    def _queue(
        self, index: int, step: Deposit | Forced, height: int, tx: SignedTransaction
    ) -> list[DerivationEvent]:
        if index != len(self.inbox):
            raise DerivationError(f"inbox message {index} where {len(self.inbox)} is due")
        message = InboxMessage(step, step_hash(step), height, tx.id)
        self.inbox.append(message)
        return [InboxMessageQueued(message)]

    def _derive(self, record: abi.Batch, height: int, tx: SignedTransaction) -> list[DerivationEvent]:
        parent = self.batches.get(record.parent)
        if parent is None or record.parent != self.head:
            raise DerivationError(f"batch {record.index} extends batch {record.parent}, head is {self.head}")
        data = batch_data(tx, self.bridge)
        read = self._read.batch(data)
        contents = read_batch(data, len(self.directory)) if read is None else read.contents
        self.directory.append(contents.addresses)
        if (record.addresses, record.addresses_root) != (len(self.directory), self.directory.frontier.root()):
            raise DerivationError(f"the addresses of batch {record.index} are not those that L1 committed to")
        if self.resume is not None and record.index <= self.resume.batch:
            return self._take_up(self.resume, record, parent, height, tx.id)
        own = self._packed.pop(data, None)
        if own is not None or read is None:
            read = Read(contents, own or contents.wires(self.directory, self.rules.chain_id))
        l2_blocks = self._execute(parent.end, read, record)
        end = l2_blocks[-1]
        hashes = step_hashes(
            contents, record.first_block, record.inbox_from, lambda i: self.inbox[i].step_hash
        )
        if compute_steps_root(hashes) != record.steps_root:
            raise DerivationError(f"the steps of batch {record.index} are not those that L1 committed to")
        batch = DerivedBatch(
            record=record,
            start=parent.end,
            end=end,
            blocks=tuple(read.blocks),
            l2_blocks=tuple(l2_blocks),
            step_hashes=CommittedSteps(contents, hashes, self.directory),
            computed_root=end.tree.root,
            parent_matches=parent.matches,
            status=abi.PENDING,
            l1_height=height,
            l1_tx_id=tx.id,
        )
        return self._add(batch)

    def _add(self, batch: DerivedBatch) -> list[DerivationEvent]:
        record = batch.record
        self.batches[record.index] = batch
        self._whole.append(record.index)
        self.head = record.index
        if batch.matches:
            self._safe = record.index
        events: list[DerivationEvent] = [BatchDerived(batch)]
        if batch.flagged:
            events.append(BatchFlagged(record.index, record.state_root, batch.computed_root))
        return events

    def _take_up(
        self, resume: Resume, record: abi.Batch, parent: DerivedBatch, height: int, tx_id: Bytes32
    ) -> list[DerivationEvent]:
        """A batch that an earlier run executed. Only the end of the last one has a whole header, and its state."""
        root = resume.roots[record.index]
        end = replace(parent.end, tree=stub_tree(root))
        if record.index == resume.batch:
            end = resume.end
            last = record.first_block + record.blocks - 1
            if not (
                end.header.height == last and end.tree.root == root == record.state_root and parent.matches
            ):
                raise StaleResume(f"the final state on disk is not the one after batch {record.index}")
        return self._add(
            DerivedBatch(
                record, parent.end, end, (), (), (), root, parent.matches, abi.PENDING, height, tx_id
            )
        )

    def _execute(self, parent: L2Block, read: Read, record: abi.Batch) -> list[L2Block]:
        bodies = self._bodies(read, record)
        executed: list[L2Block] = []
        for body in bodies:  # those in front that this node made itself
            own = None if self.made is None else self.made(parent.header.height + 1)
            if own is None or not own.is_outcome_of(parent, body.time, body.steps):
                break
            executed.append(own)
            parent = own
        rest = bodies[len(executed) :]
        for body, transactions in zip(rest, self._checked(rest), strict=True):
            known = self._at_hand.known(parent.tree, {})
            made = execute_block(self.rules, parent, body.time, body.steps, transactions, known)
            self._at_hand.move(parent.tree, made.tree, made.changes)
            executed.append(made)
            parent = made
        return executed

    def _bodies(self, read: Read, record: abi.Batch) -> list["_Body"]:
        """What its blocks run: the inbox messages that each takes in, then its transactions."""
        cursor, bodies = record.inbox_from, []
        decoded = repeat(None) if read.transactions is None else iter(read.transactions)
        for block in read.blocks:
            messages = [message.step for message in self.inbox[cursor : cursor + block.inbox_count]]
            cursor += block.inbox_count
            known = [*repeat(None, len(messages)), *islice(decoded, len(block.transactions))]
            bodies.append(_Body(block.time, block_steps(messages, block.transactions), known))
        if cursor != record.inbox_to or cursor > len(self.inbox):
            raise DerivationError(f"batch {record.index} takes in inbox messages that are not there")
        return bodies

    def _checked(self, bodies: Sequence["_Body"]) -> list[list[SignedTransaction | None]]:
        """Each step's transaction, its signature checked; those that `prepare` gave out are taken as they came back."""
        decoded = [
            [
                tx or decode_transaction(self.rules, step)
                for step, tx in zip(body.steps, body.known, strict=True)
            ]
            for body in bodies
        ]
        verify_signatures([tx for body in decoded for tx in body if tx is not None], self.executor)
        return decoded

    def _revert(self, event: abi.BatchReverted, height: int) -> list[DerivationEvent]:
        """Undo a batch and all after it, last first. A second word on one already undone says nothing."""
        events: list[DerivationEvent] = []
        if event.batch not in self.batches:
            raise DerivationError(f"batch {event.batch} was reverted but never posted")
        while self.batches[event.batch].status == abi.PENDING:
            lost = self.head_batch
            self._settle(lost, abi.REVERTED, height)
            self.head = lost.record.parent
            reason = event.reason if lost.index == event.batch else "ancestor-reverted"
            events.append(BatchReverted(lost.index, reason, self.inbox_cursor, lost))
        self._safe = self._last_true(self.head)
        return events

    def _finalize(self, index: int, height: int) -> list[DerivationEvent]:
        batch = self.batches.get(index)
        if batch is None or batch.record.parent != self.finalized or batch.status != abi.PENDING:
            raise DerivationError(f"batch {index} became final out of order")
        before = self.batches[self.finalized]
        self._settle(batch, abi.FINALIZED, height)
        self.finalized = index
        if batch.matches:
            self._finalized_true = index
        elif self.diverged is None:
            self.diverged = index
        if before.index != self._finalized_true:
            self.batches[before.index] = replace(before, start=hollow(before.start), end=hollow(before.end))
        return [BatchFinalized(index, batch.matches)]

    def _settle(self, batch: DerivedBatch, status: str, height: int) -> None:
        """Note how the batch ended, and let go of what only a pending batch needs."""
        self.batches[batch.index] = replace(
            batch,
            record=msgspec.structs.replace(batch.record, status=status, resolved_height=height),
            start=hollow(batch.start),
            end=without_steps(batch.end) if status == abi.FINALIZED else hollow(batch.end),
            blocks=(),
            l2_blocks=(),
            step_hashes=(),
            status=status,
        )

    def _last_true(self, index: int) -> int:
        while not self.batches[index].matches:
            index = self.batches[index].record.parent
        return index
