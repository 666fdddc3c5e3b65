"""Executing blocks: from a parent's state to a child's, and building new ones.

Responsible for the L1-style block rule: a block is valid if its transactions all may run and its header
states what came out. Must not know who may propose, nor how blocks become final.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Protocol, TypeVar

from chainkit.at_hand import AtHand
from chainkit.block import (
    LAST_ERA_KEY,
    MAX_BLOCK_BYTES,
    Block,
    Header,
    ValidatorSet,
    check_block_shape,
    era_of,
    era_seed,
    validators_key,
)
from chainkit.codec import Address, Bytes32, CodecError, decode
from chainkit.contract import Event
from chainkit.execution import (
    InvalidTransaction,
    Receipt,
    Rules,
    apply_transaction,
    begin_block,
    receipts_root,
)
from chainkit.genesis import Genesis, genesis_state, make_rules, trust_genesis
from chainkit.merkle import Tree
from chainkit.merkle_list import list_root
from chainkit.state import State
from chainkit.transaction import SignedTransaction

REMEMBERED: Final = 64
"""Validator sets, and leaders, that a chain remembers: a node asks for those of a block several times."""
K = TypeVar("K")
V = TypeVar("V")


class InvalidBlock(Exception):  # noqa: N818 - reads as the reason it is
    """The block breaks a rule of its chain; the message says which."""


class MisshapenBlock(InvalidBlock):
    """The transactions are not those of the header, or too many: that says nothing about the header."""


class Known(Protocol):
    """Transactions that are decoded, and whose signatures are good or being checked, by their wire bytes."""

    def get(self, wire: bytes) -> SignedTransaction | None:
        """The transaction with these bytes, if it is known."""

    def add(self, tx: SignedTransaction) -> None:
        """One more; its signature has been checked."""


@dataclass(frozen=True)
class ExecutedBlock:
    """A block with all that its execution gave. ``changes`` are the state keys that it wrote.

    ``events`` are those of the block's beginning: no receipt holds them, whoever executes sees them.
    """

    block: Block
    hash: Bytes32
    transactions: tuple[SignedTransaction, ...]
    receipts: tuple[Receipt, ...]
    tree: Tree
    changes: dict[bytes, bytes]
    events: tuple[Event, ...] = ()

    @cached_property
    def header(self) -> Header:
        return self.block.header


class Chain:
    """The rules of one chain, made from its genesis: executes and builds blocks. Holds no blocks."""

    def __init__(self, genesis: Genesis, known_root: Bytes32 | None = None) -> None:
        """``known_root``: the root of the genesis state, if an earlier start has checked this genesis and
        computed it; then that is not done again unless somebody asks for the state. Raises
        `chainkit.genesis.GenesisError`.
        """
        self.genesis = genesis
        self.genesis_hash = genesis.hash()
        self._genesis_tree: Tree | None = None
        self._at_hand = AtHand()
        self._sets: dict[tuple[Bytes32, int], ValidatorSet] = {}
        """By state root and era: the newest that were asked for."""
        self._leaders: dict[tuple[Bytes32, int], Address | None] = {}
        """By state root and slot."""
        self.rules: Rules
        if known_root is None:
            self.rules, self._genesis_tree = genesis_state(genesis)
            known_root = self._genesis_tree.root
        else:
            trust_genesis(self.genesis_hash)
            self.rules = make_rules(genesis)
        self.genesis_header = Header(
            chain_id=genesis.chain_id,
            height=0,
            slot=0,
            time=genesis.time,
            parent=bytes(32),
            proposer=bytes(32),
            state_root=known_root,
            tx_root=list_root([]),
            receipts_root=list_root([]),
            base_fee=genesis.fees.initial_base_fee,
            gas_used=0,
        )

    @property
    def genesis_tree(self) -> Tree:
        """The state at height 0."""
        if self._genesis_tree is None:
            _, self._genesis_tree = genesis_state(self.genesis)
        return self._genesis_tree

    @property
    def genesis_block(self) -> ExecutedBlock:
        """The block of height 0, with its state."""
        return ExecutedBlock(Block(self.genesis_header, []), self.genesis_hash, (), (), self.genesis_tree, {})

    def forget_genesis_tree(self) -> None:
        """Let go of the state at height 0: a node that is far from it need not keep it in memory."""
        self._genesis_tree = None

    def slot_time(self, slot: int) -> int:
        """When a slot begins, in ms since 1970."""
        return self.genesis.time + slot * self.genesis.slot_ms

    def slot_at(self, time_ms: int) -> int:
        """The slot of an instant (0 before and at genesis)."""
        return max(0, (time_ms - self.genesis.time) // self.genesis.slot_ms)

    def validators(self, parent: Tree, slot: int) -> ValidatorSet:
        """The validator set of a slot on the branch whose tip state is ``parent``."""
        era = era_of(slot, self.genesis.era_slots)
        found = self._sets.get((parent.root, era))
        if found is None:
            found = _keep(self._sets, (parent.root, era), self._read_set(parent, era))
        return found

    def _read_set(self, parent: Tree, era: int) -> ValidatorSet:
        last = decode(int, parent.get(LAST_ERA_KEY) or b"\x00")
        value = parent.get(validators_key(min(era, last)))
        return _decode_set(value) if value else ValidatorSet([])

    def leader(self, parent: Tree, slot: int) -> Address | None:
        """Who may propose in a slot on that branch."""
        key = parent.root, slot
        found = self._leaders.get(key)
        if found is not None or key in self._leaders:
            return found
        seed = era_seed(self.genesis_hash, era_of(slot, self.genesis.era_slots))
        return _keep(self._leaders, key, self.validators(parent, slot).leader(seed, slot))

    def execute(self, parent: ExecutedBlock, block: Block, known: Known | None = None) -> ExecutedBlock:
        """Check a block against its parent and run it. Raises `InvalidBlock`; changes nothing.

        ``known`` has transactions that are decoded, and their signatures checked, already; those of a valid block
        are put to them.
        """
        header = block.header
        try:
            check_block_shape(block, self.rules.chain_id)
        except CodecError as error:
            raise MisshapenBlock(str(error)) from None
        try:
            transactions = self._decode(block.transactions, known)
        except CodecError as error:
            raise InvalidBlock(str(error)) from None
        if header.parent != parent.hash or header.height != parent.header.height + 1:
            raise InvalidBlock("the block does not extend its parent")
        if header.slot <= parent.header.slot or header.time != self.slot_time(header.slot):
            raise InvalidBlock("slot or time is wrong")
        executed, skipped = self._run(parent, header.slot, header.proposer, transactions, header.tx_root)
        if skipped:
            raise InvalidBlock(f"transaction {skipped[0][0]!r} may not run: {skipped[0][1]}")
        if executed.header != header:
            raise InvalidBlock("the header does not state what execution gives")
        if known is not None:
            for tx in transactions:
                known.add(tx)
        return executed

    def _decode(self, wires: Sequence[bytes], known: Known | None) -> list[SignedTransaction]:
        limit = self.rules.fees.max_transaction_bytes
        if known is None:
            return [SignedTransaction.decode(wire, limit=limit) for wire in wires]
        return [known.get(wire) or SignedTransaction.decode(wire, limit=limit) for wire in wires]

    def state(self, tree: Tree) -> State:
        """The state of a tree, to be read before anything else is executed; quick for that of the last block run."""
        return self._at_hand.state(tree)

    def build(
        self,
        parent: ExecutedBlock,
        slot: int,
        proposer: Address,
        candidates: Iterable[SignedTransaction],
    ) -> tuple[ExecutedBlock, list[tuple[SignedTransaction, InvalidTransaction]]]:
        """Make a block of the candidates that may run, in order; also returns those that may not."""
        return self._run(parent, slot, proposer, candidates)

    def _run(
        self,
        parent: ExecutedBlock,
        slot: int,
        proposer: Address,
        candidates: Iterable[SignedTransaction],
        tx_root: Bytes32 | None = None,
    ) -> tuple[ExecutedBlock, list[tuple[SignedTransaction, InvalidTransaction]]]:
        """``tx_root`` is that of all candidates, if it is known."""
        state = self._at_hand.state(parent.tree)
        height, time = parent.header.height + 1, self.slot_time(slot)
        events: list[Event] = []
        env = begin_block(
            self.rules, state, height=height, slot=slot, time=time, proposer=proposer, events=events
        )
        included: list[SignedTransaction] = []
        receipts: list[Receipt] = []
        skipped: list[tuple[SignedTransaction, InvalidTransaction]] = []
        size = 0
        for tx in candidates:
            try:
                if size + len(tx.wire) > MAX_BLOCK_BYTES:
                    raise InvalidTransaction("block_full", "the block has too few bytes left")
                receipts.append(apply_transaction(self.rules, state, tx))
                included.append(tx)
                size += len(tx.wire)
            except InvalidTransaction as refusal:
                skipped.append((tx, refusal))
        changes = state.changes()
        tree = state.commit()
        self._at_hand.move(parent.tree, tree, state.read())
        wires = [tx.wire for tx in included]
        header = Header(
            chain_id=self.rules.chain_id,
            height=height,
            slot=slot,
            time=time,
            parent=parent.hash,
            proposer=proposer,
            state_root=tree.root,
            tx_root=list_root(wires) if tx_root is None or skipped else tx_root,
            receipts_root=receipts_root(receipts),
            base_fee=env.base_fee,
            gas_used=sum(receipt.gas_used for receipt in receipts),
        )
        block = Block(header, wires)
        executed = ExecutedBlock(
            block, header.hash(), tuple(included), tuple(receipts), tree, changes, tuple(events)
        )
        return executed, skipped


@lru_cache(maxsize=REMEMBERED)
def _decode_set(value: bytes) -> ValidatorSet:
    """One object for one set: it remembers what it was asked, and most blocks change no set."""
    return decode(ValidatorSet, value)


def _keep(memory: dict[K, V], key: K, value: V) -> V:
    """Remember a value; the oldest ones go."""
    memory[key] = value
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]
    return value


def executed_transactions(
    block: ExecutedBlock,
) -> Sequence[tuple[SignedTransaction, Receipt]]:
    """Each transaction of a block beside its receipt."""
    return list(zip(block.transactions, block.receipts, strict=True))
