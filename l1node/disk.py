"""What an L1 node keeps on disk, beside what every follower of a chain keeps.

Responsible for its votes, the notarized blocks that are not final yet, the events of final blocks, evidence,
and for reading it all back. Must not know when anything is due: the caller groups writes in a transaction.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from chainkit.block import Block, Certificate, CertifiedBlock
from chainkit.block_rows import StoredBlock
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import U53, Address, Bytes32, CodecError, Record, decode, encode
from chainkit.events import EventLog, event_data
from chainkit.replica import Replica
from chainkit.store import Store, StoreError
from chainkit.transaction import SignedTransaction
from l1node.actions import VotedRecord
from l1node.evidence import Evidence

MAX_CASES = 64
"""Offences remembered, the newest ones."""
MAX_POOL_BYTES = 3 * 1024 * 1024
"""Of pending transactions, kept over a restart."""


class Case(Record, frozen=True):
    """An offence that this node found, and the transaction in which it reported it last (or b"")."""

    evidence: Evidence
    report: bytes = b""


class Slashing(Record, frozen=True):
    """A punishment that is in a final block; ``amount`` and ``reward`` in gwei."""

    height: U53
    tx_id: Bytes32
    validator: Address
    kind: str
    slot: U53
    amount: U53
    reporter: Address
    reward: U53


class _Voted(Record, frozen=True):
    slot: U53
    height: U53
    proposed: U53


_Cases = Annotated[list[Case], Meta(max_length=MAX_CASES)]
_Slashings = Annotated[list[Slashing], Meta(max_length=MAX_CASES)]


class Disk:
    """The disk of one node. Raises `StoreError` for a file that cannot be written, read or believed."""

    def __init__(self, store: Store, chain: Chain, address: Address | None, log: EventLog) -> None:
        self.store = store
        self._chain = chain
        self._log = log
        self._voted_key = "voted/" + ("" if address is None else address.hex())
        self._replica = Replica(store, chain)
        self._tail: dict[Bytes32, tuple[int, int]] = {}  # block hash -> place, height

    # --- final blocks ---

    def final(self) -> tuple[ExecutedBlock, Certificate | None]:
        """The last final block with its state, and its certificate (None for genesis)."""
        tip = self._replica.tip
        if tip.header.height == 0:
            return tip, None
        certified = self.certified(tip.header.height)
        if certified is None:
            raise StoreError(f"block {tip.header.height} in {str(self.store.file)!r} has no certificate")
        return tip, certified.certificate

    def add_final(self, block: ExecutedBlock, certificate: Certificate) -> None:
        """A block became final: keep it, its receipts, its state and its events; forget the tail below."""
        height = block.header.height
        with self.store.transaction():
            self._replica.append(block, certificate)
            contracts = self._chain.rules.contracts
            for event in block.events:
                data = event_data(contracts, event)
                self._log.append(event.name, data, height=height, source=event.contract)
            self._log.append_receipts(contracts, block.receipts, height)
            for block_hash in [h for h, (_, at) in self._tail.items() if at <= height]:
                place, _ = self._tail.pop(block_hash)
                self.store.set_meta(f"tail/{place}", b"")

    def certified(self, height: int) -> CertifiedBlock | None:
        """A final block with its certificate."""
        stored = self.store.block_by_height(height)
        return None if stored is None else certified_block(stored)

    # --- the notarized blocks above ---

    def add_notarized(self, block: ExecutedBlock, certificate: Certificate) -> None:
        """A block is notarized: keep it until it is final, or cannot be any more."""
        if block.hash in self._tail:
            return
        # Places are used again, so that the table stays as long as the longest tail ever was.
        used = {place for place, _ in self._tail.values()}
        place = 0
        while place in used:
            place += 1
        self._tail[block.hash] = place, block.header.height
        self.store.set_meta(f"tail/{place}", encode(CertifiedBlock(block.block, certificate)))

    def load_notarized(self) -> list[CertifiedBlock]:
        """What `add_notarized` kept, lowest first."""
        final = self._replica.tip.header.height
        blocks, place = [], 0
        while (value := self.store.get_meta(f"tail/{place}")) is not None:
            if value:
                block = decode(CertifiedBlock, value)
                header = block.block.header
                if header.height > final:
                    self._tail[header.hash()] = place, header.height
                    blocks.append(block)
            place += 1
        return sorted(blocks, key=lambda b: (b.block.header.height, b.block.header.slot))

    # --- promises and evidence ---

    def voted(self) -> VotedRecord:
        """What this key has voted and proposed."""
        value = self.store.get_meta(self._voted_key)
        if value is None:
            return VotedRecord()
        record = decode(_Voted, value)
        return VotedRecord(record.slot, record.height, record.proposed)

    def set_voted(self, record: VotedRecord) -> None:
        value = encode(_Voted(record.slot, record.height, record.proposed))
        self.store.set_meta(self._voted_key, value)

    def cases(self) -> list[Case]:
        """The offences found, oldest first."""
        value = self.store.get_meta("cases")
        return [] if value is None else list(decode(_Cases, value))

    def set_cases(self, cases: Sequence[Case]) -> None:
        self.store.set_meta("cases", encode(list(cases[-MAX_CASES:])))

    def slashings(self) -> list[Slashing]:
        """The punishments in final blocks, oldest first."""
        value = self.store.get_meta("slashings")
        return [] if value is None else list(decode(_Slashings, value))

    def add_slashings(self, new: Sequence[Slashing]) -> None:
        if new:
            self.store.set_meta("slashings", encode([*self.slashings(), *new][-MAX_CASES:]))

    # --- pending transactions ---

    def set_pool(self, transactions: Sequence[SignedTransaction]) -> None:
        """Keep pending transactions over a restart, as many as fit."""
        wires, size = [], 0
        for tx in transactions:
            size += len(tx.wire)
            if size > MAX_POOL_BYTES:
                break
            wires.append(tx.wire)
        self.store.set_meta("pool", encode(wires))

    def pool(self) -> list[SignedTransaction]:
        """What `set_pool` kept. A convenience only, so what cannot be read is no error."""
        try:
            wires: list[bytes] = decode(list[bytes], self.store.get_meta("pool") or encode([]))
            return [SignedTransaction.decode(wire) for wire in wires]
        except CodecError:
            return []


def certified_block(stored: StoredBlock) -> CertifiedBlock:
    """A stored final block as it is handed to others. Raises `StoreError` if it has no certificate."""
    if stored.certificate is None:
        raise StoreError(f"block {stored.height} is stored without its certificate")
    return CertifiedBlock(decode(Block, stored.block), decode(Certificate, stored.certificate))
