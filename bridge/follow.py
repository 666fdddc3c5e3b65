"""What the bridge service knows: the final L1 state, the L2 derived from it, and indices over both.

Responsible for remembering, block by block, what became of each deposit, forced transaction, withdrawal,
claim, exit and dispute. Must not know of HTTP, disks or networks, nor believe anybody: all of it follows from
final L1 blocks that were executed here.

Batches that settle lose their steps in `Derivation`, so the indices are filled as a batch is derived.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from bridge import abi
from bridge.ledger import Invariant, L2Books, advance_books, genesis_books
from chainkit.block import Header
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Address, Bytes32, CodecError, Record, decode, to_json
from chainkit.execution import Receipt
from chainkit.state import State, contract_address, storage_key
from chainkit.transaction import Call, SignedTransaction
from rollup.block import L2Block
from rollup.derivation import Derivation
from rollup.derived import (
    BatchDerived,
    BatchFinalized,
    BatchFlagged,
    BatchReverted,
    DerivationEvent,
    DerivedBatch,
    InboxMessage,
)
from rollup.messenger import WithdrawalInitiated, WithdrawArgs
from rollup.stf import Deposit, Forced

BRIDGE: Final = "bridge"
MESSENGER: Final = "messenger"
DERIVATION: Final = "derivation"
"""Who says what follows from L1 without standing in it, in the event log."""

R = TypeVar("R", bound=Record)
_ACCOUNT: Final = contract_address(BRIDGE)
_EVENT_TYPES = {kind.__name__: kind for kind in abi.EVENTS}


@dataclass(frozen=True)
class Note:
    """An entry for the event log. ``source``: the contract that emitted it, or `DERIVATION`."""

    name: str
    data: Mapping[str, Any]
    source: str
    tx_id: Bytes32 | None = None


@dataclass(frozen=True)
class OnL1:
    """Where something stands on L1: the transaction and the height of its block."""

    tx_id: Bytes32
    height: int


@dataclass(frozen=True)
class Taken:
    """An inbox message as a batch took it in, and what executing it gave (``tx_id``: its L2 id)."""

    batch: int
    l2_height: int
    tx_id: Bytes32
    success: bool
    code: str
    message: str


@dataclass
class Queued:
    """An inbox message: ``by`` queued it; ``taken`` are the batches that took it in, reverted ones too."""

    message: InboxMessage
    by: Address
    taken: list[Taken] = field(default_factory=list)

    @property
    def index(self) -> int:
        return self.message.step.index


@dataclass(frozen=True)
class Inclusion:
    """A withdraw transaction in a batch; ``index`` is None if it failed there (``code`` says why)."""

    batch: int
    l2_height: int
    index: int | None
    code: str = ""
    message: str = ""


@dataclass
class WithdrawalEntry:
    """A withdrawal: the ``ordinal``-th of its L2 transaction, in every batch that it ever stood in."""

    tx_id: Bytes32
    ordinal: int
    sender: Address
    recipient: Address
    amount: int
    inclusions: list[Inclusion] = field(default_factory=list)


@dataclass(frozen=True)
class Paid:
    """Something that L1 paid out of escrow: gwei, to whom, where."""

    recipient: Address
    amount: int
    at: OnL1


class BridgeState:
    """All that the service shows. Feed it with `restore` once, then `apply` for each final block, in order."""

    def __init__(self, l1: Chain, derivation: Derivation) -> None:
        self.l1 = l1
        self.derivation = derivation
        self.tip: ExecutedBlock = l1.genesis_block
        self.inbox: list[Queued] = []
        self.inbox_by_tx: dict[Bytes32, int] = {}
        self.inbox_by_l2_tx: dict[Bytes32, int] = {}
        self.inbox_by_address: defaultdict[Address, list[int]] = defaultdict(list)
        self.withdrawals: dict[tuple[Bytes32, int], WithdrawalEntry] = {}
        self.withdrawal_by_index: dict[int, WithdrawalEntry] = {}
        self.withdrawals_by_address: defaultdict[Address, list[WithdrawalEntry]] = defaultdict(list)
        self.claims: dict[int, Paid] = {}
        self.exits: dict[Address, Paid] = {}
        self.refunds: dict[int, Paid] = {}
        self.revert_reasons: dict[int, str] = {}
        self.history: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        self.books: dict[int, L2Books] = {
            abi.GENESIS_BATCH: genesis_books(derivation.batches[abi.GENESIS_BATCH].end.tree)
        }
        self._owing: set[int] = set()
        """The batches with withdrawals that are not claimed: a walk over all batches would grow with the chain."""

    # --- reading ---

    @property
    def height(self) -> int:
        """Height of the last final L1 block taken in."""
        return self.tip.header.height

    def load(self, key: bytes, kind: type[R]) -> R | None:
        """A record in the contract's storage at the final L1 head."""
        value = self.tip.tree.get(storage_key(BRIDGE, key))
        return decode(kind, value) if value else None

    @property
    def totals(self) -> abi.BridgeTotals:
        totals = self.load(abi.TOTALS_KEY, abi.BridgeTotals)
        assert totals is not None, "the contract writes its totals at genesis"
        return totals

    @property
    def settings(self) -> abi.BridgeSettings:
        settings = self.load(abi.SETTINGS_KEY, abi.BridgeSettings)
        assert settings is not None, "the contract writes its settings at genesis"
        return settings

    def batch(self, index: int) -> DerivedBatch | None:
        return self.derivation.batches.get(index)

    def batch_record(self, index: int) -> abi.Batch | None:
        """L1's own record of a batch."""
        return self.load(abi.batch_key(index), abi.Batch)

    def dispute(self, index: int) -> abi.Dispute | None:
        return self.derivation.disputes.get(index)

    def stands(self, batch: int) -> bool:
        """Whether a batch is on L1 and not reverted."""
        return self.derivation.batches[batch].status != abi.REVERTED

    def taken(self, queued: Queued) -> Taken | None:
        """How the line of batches took in a message, if it did."""
        return next((taken for taken in reversed(queued.taken) if self.stands(taken.batch)), None)

    def inclusion(self, entry: WithdrawalEntry) -> Inclusion | None:
        """Where a withdrawal stands in the line of batches: where it succeeded, if it did anywhere."""
        standing = [found for found in entry.inclusions if self.stands(found.batch)]
        good = [found for found in standing if found.index is not None]
        found = good or standing
        return found[-1] if found else None

    def line(self, batch: int) -> Iterator[int]:
        """The indices of a batch and of all that it stands on, last first; genesis included."""
        while True:
            yield batch
            if batch == abi.GENESIS_BATCH:
                return
            batch = self.derivation.batches[batch].record.parent

    def pending_line(self) -> list[int]:
        """The batches after the final one, oldest first."""
        line = self.line(self.derivation.head)
        found = []
        for index in line:
            if index == self.derivation.finalized:
                break
            found.append(index)
        return found[::-1]

    def invariant(self) -> Invariant:
        """Promises P1 and P15 at the final L1 head, for the state after the last true batch of the line."""
        totals, safe = self.derivation.totals or self.totals, self.derivation.safe_batch
        waiting = self.inbox[safe.record.inbox_to :]
        deposits = [q.message.step for q in waiting if q.index not in self.refunds]
        bonds = sum(self.derivation.batches[index].record.bond for index in self.pending_line())
        return Invariant(
            batch=safe.index,
            escrow=totals.escrow,
            l2_balances=self.books[safe.index].balances,
            withdrawals=sum(
                sum(self.books[index].unclaimed.values())
                for index in self._owing
                if index <= safe.index and self.stands(index)
            ),
            deposits=sum(step.amount for step in deposits if isinstance(step, Deposit)),
            exited=totals.exited,
            bonds=totals.bonds,
            bonds_owed=bonds + sum(dispute.bond for dispute in self.derivation.open_disputes()),
            balance=State(self.tip.tree).account(_ACCOUNT).balance,
        )

    # --- taking in ---

    def restore(
        self, blocks: Iterator[tuple[Header, list[tuple[SignedTransaction, Receipt]]]], tip: ExecutedBlock
    ) -> None:
        """Take in again what is on disk (blocks with transactions, in order) up to ``tip``."""
        for header, pairs in blocks:
            self._take(header, pairs)
        self.tip = tip
        self.derivation.refresh(tip.tree)

    def apply(self, block: ExecutedBlock) -> list[Note]:
        """Take in the next final L1 block; returns what happened, in order."""
        pairs = list(zip(block.transactions, block.receipts, strict=True))
        notes = self._take(block.header, pairs, block)
        self.tip = block
        return notes

    def _take(
        self,
        header: Header,
        pairs: Sequence[tuple[SignedTransaction, Receipt]],
        block: ExecutedBlock | None = None,
    ) -> list[Note]:
        """``block`` with its state; None if that is not known any more."""
        state, written = (None, None) if block is None else (block.tree, block.changes)
        derived = self.derivation.apply_l1_block(header, pairs, state, written)
        notes: list[Note] = []
        for tx, receipt in pairs:
            for event in receipt.events if receipt.success else ():
                kind = _EVENT_TYPES.get(event.name)
                if event.contract == BRIDGE and kind is not None:
                    record = decode(kind, event.data)
                    at = OnL1(tx.id, header.height)
                    self._on_event(record, tx, at)
                    data = to_json(record)
                    notes.append(Note(event.name, data, BRIDGE, tx.id))
        for change in derived:
            notes += self._on_derived(change)
        self.derivation.slim_down()
        return notes

    def _on_event(self, event: Record, tx: SignedTransaction, at: OnL1) -> None:
        if isinstance(event, abi.DepositInitiated):
            self._queue(event.index, event.depositor, {event.depositor, event.to}, at)
        elif isinstance(event, abi.TransactionForced):
            self._queue(event.index, event.by, {event.by, *self._forced_sender(event.transaction)}, at)
        elif isinstance(event, abi.WithdrawalClaimed):
            self.claims[event.index] = Paid(event.recipient, event.amount, at)
            self._drop_from_books(event.index)
        elif isinstance(event, abi.AccountExited):
            self.exits[event.account] = Paid(event.account, event.amount, at)
        elif isinstance(event, abi.DepositRefunded):
            self.refunds[event.index] = Paid(event.depositor, event.amount, at)
        self._note_history(event, tx.body.sender, at)

    def _forced_sender(self, wire: bytes) -> list[Address]:
        try:
            tx = SignedTransaction.decode(wire)
        except CodecError:
            return []
        self.inbox_by_l2_tx[tx.id] = len(self.inbox)
        return [tx.body.sender]

    def _queue(self, index: int, by: Address, concerned: set[Address], at: OnL1) -> None:
        self.inbox.append(Queued(self.derivation.inbox[index], by))
        self.inbox_by_tx.setdefault(at.tx_id, index)
        for address in concerned:
            self.inbox_by_address[address].append(index)

    def _drop_from_books(self, index: int) -> None:
        entry = self.withdrawal_by_index.get(index)
        found = None if entry is None else self.inclusion(entry)
        if found is not None:
            unclaimed = self.books[found.batch].unclaimed
            unclaimed.pop(index, None)
            if not unclaimed:
                self._owing.discard(found.batch)

    def _note_history(self, event: Record, sender: Address, at: OnL1) -> None:
        index = getattr(event, "dispute", None)
        if isinstance(index, int):
            shown = {"name": type(event).__name__, "height": at.height, "tx": to_json(at.tx_id)}
            self.history[index].append({**shown, "by": to_json(sender), "data": to_json(event)})

    # --- what derivation says ---

    def _on_derived(self, change: DerivationEvent) -> list[Note]:
        if isinstance(change, BatchDerived):
            return self._on_batch(change.batch)
        if isinstance(change, BatchFlagged):
            roots = {"claimed_root": to_json(change.claimed), "computed_root": to_json(change.computed)}
            return [Note("BatchFlagged", {"batch": change.batch, **roots}, DERIVATION)]
        if isinstance(change, BatchReverted):
            self.revert_reasons[change.batch] = change.reason
            self._owing.discard(change.batch)
            return self._each_withdrawal(change.batch, "WithdrawalReverted", reason=change.reason)
        if isinstance(change, BatchFinalized) and change.matches:
            return self._each_withdrawal(change.batch, "WithdrawalReadied")
        return []

    def _each_withdrawal(self, batch: int, name: str, **more: str) -> list[Note]:
        found = sorted(self.books[batch].unclaimed.items())
        return [
            Note(name, {"index": index, "batch": batch, "amount": amount, **more}, DERIVATION)
            for index, amount in found
        ]

    def _on_batch(self, batch: DerivedBatch) -> list[Note]:
        record = batch.record
        books = advance_books(self.books[record.parent], batch.start.tree, batch.l2_blocks)
        self.books[batch.index] = books
        if books.unclaimed:
            self._owing.add(batch.index)
        derived = {
            "batch": batch.index,
            "first_block": record.first_block,
            "blocks": record.blocks,
            "steps": record.steps,
            "claimed_root": to_json(record.state_root),
            "computed_root": to_json(batch.computed_root),
            "matches": batch.matches,
        }
        notes = [Note("BatchDerived", derived, DERIVATION, batch.l1_tx_id)]
        for block in batch.l2_blocks:
            happened = self._on_l2_block(batch.index, block)
            notes += happened if batch.matches else []  # what a false batch holds is yet to happen
        return notes

    def _on_l2_block(self, batch: int, block: L2Block) -> list[Note]:
        notes: list[Note] = []
        height = block.header.height
        for step, tx, receipt in zip(block.steps, block.transactions, block.receipts, strict=True):
            if isinstance(step, (Deposit, Forced)):
                taken = Taken(batch, height, receipt.tx_id, receipt.success, receipt.code, receipt.message)
                self.inbox[step.index].taken.append(taken)
                if isinstance(step, Deposit):
                    notes.append(Note("DepositCredited", {**_deposit(step), "batch": batch}, DERIVATION))
                else:
                    shown = {"index": step.index, "batch": batch, "hash": to_json(receipt.tx_id)}
                    outcome = {"success": receipt.success, "code": receipt.code}
                    notes.append(Note("ForcedTransactionExecuted", {**shown, **outcome}, DERIVATION))
            if tx is not None:
                notes += self._on_l2_transaction(batch, height, tx, receipt)
        return notes

    def _on_l2_transaction(
        self, batch: int, height: int, tx: SignedTransaction, receipt: Receipt
    ) -> list[Note]:
        notes: list[Note] = []
        found = [event for event in receipt.events if event.name == WithdrawalInitiated.__name__]
        for ordinal, event in enumerate(event for event in found if event.contract == MESSENGER):
            made = decode(WithdrawalInitiated, event.data)
            entry = self._withdrawal(tx.id, ordinal, made.sender, made.recipient, made.amount)
            entry.inclusions.append(Inclusion(batch, height, made.index))
            self.withdrawal_by_index[made.index] = entry
            notes.append(Note("WithdrawalInitiated", {**to_json(made), "batch": batch}, MESSENGER, tx.id))
        asked = withdraw_request(tx)
        if not receipt.success and asked is not None:
            entry = self._withdrawal(tx.id, 0, tx.body.sender, asked.recipient, tx.value)
            entry.inclusions.append(Inclusion(batch, height, None, receipt.code, receipt.message))
        return notes

    def _withdrawal(
        self, tx_id: Bytes32, ordinal: int, sender: Address, recipient: Address, amount: int
    ) -> WithdrawalEntry:
        entry = self.withdrawals.get((tx_id, ordinal))
        if entry is None:
            entry = WithdrawalEntry(tx_id, ordinal, sender, recipient, amount)
            self.withdrawals[tx_id, ordinal] = entry
            for address in {sender, recipient}:
                self.withdrawals_by_address[address].append(entry)
        return entry


def _deposit(step: Deposit) -> dict[str, Any]:
    to = to_json(step.to)
    return {"index": step.index, "depositor": to_json(step.depositor), "to": to, "amount": step.amount}


def withdraw_request(tx: SignedTransaction) -> WithdrawArgs | None:
    """What an L2 transaction asks of the messenger, if it is a withdrawal."""
    action = tx.body.action
    if not isinstance(action, Call) or (action.contract, action.method) != (MESSENGER, "withdraw"):
        return None
    try:
        return decode(WithdrawArgs, action.args)
    except CodecError:
        return None
