"""What follows from the final blocks of both chains of a committee bridge: what went in, what was paid, what is not.

Responsible for remembering, block by block, each deposit and withdrawal and each payment, and for the sum that must
hold between the chains. Must not know of HTTP, disks or networks, nor believe anybody: all of it follows from final
blocks that were executed here.

The two chains are followed at their own pace, so one may show a payment before the other shows its reason. Both
tell time in slots, and a reason is final before it is paid: a payment is called baseless once the other chain's final
block is no older than the payment's, and still shows no reason for it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.abi import DepositInitiated
from bridge.committee_abi import (
    BRIDGE,
    GATEWAY,
    CommitteeParams,
    DepositAttested,
    DepositCredited,
    EscrowTotals,
    GatewayTotals,
    Voice,
    WithdrawalAttested,
    WithdrawalInitiated,
    WithdrawalPaid,
)
from bridge.follow import Note, OnL1
from bridge.operator import escrow_totals, gateway_totals, voices_of
from chainkit.block import Header
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Address, Bytes32, Record, decode, to_json
from chainkit.execution import Receipt
from chainkit.transaction import SignedTransaction

_EVENTS: dict[tuple[str, str], type[Record]] = {
    (contract, kind.__name__): kind
    for contract, kinds in (
        (BRIDGE, (DepositInitiated, WithdrawalAttested, WithdrawalPaid)),
        (GATEWAY, (WithdrawalInitiated, DepositAttested, DepositCredited)),
    )
    for kind in kinds
}

Pairs = Sequence[tuple[SignedTransaction, Receipt]]


@dataclass(frozen=True)
class Passage:
    """A deposit or a withdrawal, as the chain on which it began took it; ``at`` says where there."""

    index: int
    sender: Address
    to: Address
    amount: int
    at: OnL1


@dataclass(frozen=True)
class Payment:
    """What the other chain paid for an index. ``time`` is that of its block, in ms since 1970."""

    index: int
    to: Address
    amount: int
    at: OnL1
    time: int


class Lane:
    """One direction: passages that began on one chain, payments on the other."""

    def __init__(self) -> None:
        self.passages: list[Passage] = []
        self.by_tx: dict[Bytes32, int] = {}
        self.by_address: defaultdict[Address, list[int]] = defaultdict(list)
        self.payments: dict[int, Payment] = {}
        self.waiting: dict[int, int] = {}
        """Amounts of the passages that were not paid as they should be, by index."""
        self.baseless: dict[int, Payment] = {}
        """Payments that no passage is known to be the reason of."""

    def begin(self, passage: Passage) -> None:
        self.passages.append(passage)
        self.by_tx.setdefault(passage.at.tx_id, passage.index)
        for address in {passage.sender, passage.to}:
            self.by_address[address].append(passage.index)
        payment = self.baseless.get(passage.index)
        if payment is not None and _matches(passage, payment):
            del self.baseless[passage.index]
        else:
            self.waiting[passage.index] = passage.amount

    def pay(self, payment: Payment) -> None:
        self.payments[payment.index] = payment
        known = self.passage(payment.index)
        if known is not None and _matches(known, payment):
            self.waiting.pop(payment.index)
        else:
            self.baseless[payment.index] = payment

    def passage(self, index: int) -> Passage | None:
        return self.passages[index] if 0 <= index < len(self.passages) else None

    def payment_of(self, passage: Passage) -> Payment | None:
        """The payment of this very passage; None if it was not paid, or its index to somebody else."""
        payment = self.payments.get(passage.index)
        return payment if payment is not None and _matches(passage, payment) else None

    def settling(self, other_time: int) -> int:
        """Gwei of payments whose reason may yet be shown by the other chain, which has come to ``other_time``."""
        return sum(p.amount for p in self.baseless.values() if self._may_settle(p, other_time))

    def lies(self, other_time: int) -> list[Payment]:
        """Payments that have no reason, by index."""
        found = [p for p in self.baseless.values() if not self._may_settle(p, other_time)]
        return sorted(found, key=lambda payment: payment.index)

    def _may_settle(self, payment: Payment, other_time: int) -> bool:
        return payment.index >= len(self.passages) and payment.time > other_time


def _matches(passage: Passage, payment: Payment) -> bool:
    return (passage.to, passage.amount) == (payment.to, payment.amount)


@dataclass(frozen=True)
class CommitteeInvariant:
    """L1's escrow, less what is in flight, is what is outside the reserve. In gwei."""

    escrow: int
    outstanding: int
    deposits: int
    withdrawals: int
    settling: int
    lies: int

    @property
    def expected(self) -> int:
        """What escrow must hold: what side chain users own, and what is on its way in either direction."""
        return self.outstanding + self.deposits + self.withdrawals - self.settling

    @property
    def holds(self) -> bool:
        """False with any lie: what it paid is missing, for its index goes on being owed or never was."""
        return self.escrow == self.expected


class CommitteeState:
    """Feed it with `restore` once for each chain, then `apply_l1` and `apply_side` for each final block, in order."""

    def __init__(self, l1: Chain, side: Chain) -> None:
        params = l1.rules.contracts[BRIDGE].params
        assert isinstance(params, CommitteeParams)
        self.params = params
        self.l1 = l1
        self.side = side
        self.l1_tip: ExecutedBlock = l1.genesis_block
        self.side_tip: ExecutedBlock = side.genesis_block
        self.deposits = Lane()
        self.withdrawals = Lane()
        self.voices: defaultdict[tuple[str, Address], int] = defaultdict(int)
        """How many attestations an operator made, by the contract that heard them."""

    # --- reading ---

    @property
    def escrow(self) -> EscrowTotals:
        return escrow_totals(self.l1_tip.tree)

    @property
    def gateway(self) -> GatewayTotals:
        return gateway_totals(self.side_tip.tree)

    def deposit_voices(self, index: int) -> list[tuple[Address, Voice]]:
        """Who has attested a deposit, final on the side chain."""
        return voices_of(self.side_tip.tree, GATEWAY, index, self.params)

    def withdrawal_voices(self, index: int) -> list[tuple[Address, Voice]]:
        """Who has attested a withdrawal, final on L1."""
        return voices_of(self.l1_tip.tree, BRIDGE, index, self.params)

    def lies(self) -> list[tuple[str, Payment]]:
        """Baseless payments, with the contract that paid them."""
        found = [(BRIDGE, lie) for lie in self.withdrawals.lies(self.side_tip.header.time)]
        return found + [(GATEWAY, lie) for lie in self.deposits.lies(self.l1_tip.header.time)]

    def invariant(self) -> CommitteeInvariant:
        """The sum over both chains, as far as each was followed."""
        settling = self.withdrawals.settling(self.side_tip.header.time)
        settling += self.deposits.settling(self.l1_tip.header.time)
        return CommitteeInvariant(
            escrow=self.escrow.escrow,
            outstanding=self.gateway.outstanding,
            deposits=sum(self.deposits.waiting.values()),
            withdrawals=sum(self.withdrawals.waiting.values()),
            settling=settling,
            lies=len(self.lies()),
        )

    # --- taking in ---

    def restore(
        self, chain: Chain, blocks: Iterator[tuple[Header, Any]], tip: ExecutedBlock
    ) -> Iterator[Any]:
        """Take in again what is on disk of one chain (blocks with transactions, in order) up to ``tip``.

        Yields the height and the notes of each block. The caller must go through all of them.
        """
        for header, pairs in blocks:
            yield header.height, self._take(chain, header, pairs)
        if chain is self.l1:
            self.l1_tip = tip
        else:
            self.side_tip = tip

    def apply(self, chain: Chain, block: ExecutedBlock) -> list[Note]:
        """Take in the next final block of one of the two chains; returns what happened, in order."""
        pairs = list(zip(block.transactions, block.receipts, strict=True))
        notes = self._take(chain, block.header, pairs)
        if chain is self.l1:
            self.l1_tip = block
        else:
            self.side_tip = block
        return notes

    def _take(self, chain: Chain, header: Header, pairs: Pairs) -> list[Note]:
        contract = BRIDGE if chain is self.l1 else GATEWAY
        notes: list[Note] = []
        for tx, receipt in pairs:
            for event in receipt.events if receipt.success else ():
                kind = _EVENTS.get((event.contract, event.name))
                if event.contract == contract and kind is not None:
                    record = decode(kind, event.data)
                    self._on_event(record, OnL1(tx.id, header.height), header.time)
                    notes.append(Note(event.name, to_json(record), contract, tx.id))
        return notes

    def _on_event(self, event: Record, at: OnL1, time: int) -> None:
        if isinstance(event, DepositInitiated):
            self.deposits.begin(Passage(event.index, event.depositor, event.to, event.amount, at))
        elif isinstance(event, WithdrawalInitiated):
            self.withdrawals.begin(Passage(event.index, event.sender, event.recipient, event.amount, at))
        elif isinstance(event, WithdrawalPaid):
            self.withdrawals.pay(Payment(event.index, event.recipient, event.amount, at, time))
        elif isinstance(event, DepositCredited):
            self.deposits.pay(Payment(event.index, event.to, event.amount, at, time))
        elif isinstance(event, WithdrawalAttested):
            self.voices[BRIDGE, event.operator] += 1
        elif isinstance(event, DepositAttested):
            self.voices[GATEWAY, event.operator] += 1
