"""L2 blocks: the one way to run steps into a block with a header.

Responsible for what stands in an L2 header, so that the sequencer that makes a block and everybody who
derives it from L1 get the same hash. Must not know of batches, L1 or who orders the steps.

An L2 block is a `chainkit.block.Block` whose ``transactions`` are the encoded steps after its BeginBlock
(height and time of which are the header's). Slots do not exist on L2: ``slot`` equals ``height``.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from chainkit.block import Block, Header
from chainkit.chain import Chain
from chainkit.codec import Bytes32, encode
from chainkit.execution import InvalidTransaction, Receipt, Rules, apply_transaction, environment
from chainkit.merkle import Tree
from chainkit.merkle_list import list_root
from chainkit.state import State
from chainkit.transaction import SignedTransaction, verify_signatures
from chainkit.transfers import Transfers
from rollup.stf import BeginBlock, Deposit, Forced, Step, Transact, apply_step, decode_wire

MAX_STORED_BYTES = 1 << 30
"""Of a block on this node's own disk: one may take in thousands of forced transactions."""


class Encoded(NamedTuple):
    """The canonical bytes of a block's steps and receipts, in order."""

    steps: list[bytes]
    receipts: list[bytes]


@dataclass(frozen=True, eq=False)
class L2Block:
    """An executed L2 block.

    ``steps`` are those after the BeginBlock; ``receipts`` and ``transactions`` go with them one to one
    (None where a step carries no decodable transaction). ``tree`` is the state after the block,
    ``changes`` the state keys that it wrote.
    """

    header: Header
    hash: Bytes32
    steps: tuple[Step, ...]
    transactions: tuple[SignedTransaction | None, ...]
    receipts: tuple[Receipt, ...]
    tree: Tree
    changes: dict[bytes, bytes]
    encoded: list["Encoded"] = field(default_factory=list, repr=False)
    built_on: Bytes32 = b""
    """Root of the state on which it was executed: its parent's, unless somebody lies."""

    @property
    def block(self) -> Block:
        """The block as the chain API serves it."""
        return Block(self.header, [encode(step) for step in self.steps])

    def is_outcome_of(self, parent: "L2Block", time: int, steps: Sequence[Step]) -> bool:
        """Whether `execute_block` with these arguments would make this very block: then it need not be run."""
        return (
            self.header.parent == parent.hash
            and self.built_on == parent.tree.root
            and self.tree.root == self.header.state_root  # not so if it was falsified since
            and self.header.time == time
            and self.steps == tuple(steps)
        )

    def take_encoded(self) -> "Encoded":
        """The bytes that were hashed when the block was made. They are handed out once, to who writes them to
        disk: a block stays in memory for minutes, and its bytes need not."""
        if self.encoded:
            return self.encoded.pop()
        return Encoded(list(map(encode, self.steps)), list(map(encode, self.receipts)))

    @cached_property
    def inbox_count(self) -> int:
        """How many inbox messages the block takes in."""
        return len(self.steps) - list(map(type, self.steps)).count(Transact)

    @cached_property
    def transaction_bytes(self) -> int:
        """Bytes of its transactions."""
        return sum([len(tx.wire) for tx in self.transactions if tx is not None])

    @property
    def wires(self) -> list[bytes]:
        """The bytes of its own transactions: those that the sequencer ordered, none that was forced."""
        return [step.transaction for step in self.steps if isinstance(step, Transact)]

    @property
    def own_transactions(self) -> Sequence[SignedTransaction | None]:
        """What `wires` decode to, while they are at hand: a block's messages come first."""
        return self.transactions[self.inbox_count :]

    @property
    def all_steps(self) -> list[Step]:
        """What the batch commits to for this block: its BeginBlock, then its steps."""
        return [BeginBlock(self.header.height, self.header.time), *self.steps]


def genesis_block(chain: Chain) -> L2Block:
    """The L2 block of height 0: no steps; its hash is the hash of genesis."""
    executed = chain.genesis_block
    return L2Block(executed.header, executed.hash, (), (), (), executed.tree, {})


def decode_transaction(rules: Rules, step: Step) -> SignedTransaction | None:
    """The transaction that a step carries, or None; signature not yet checked."""
    if isinstance(step, (BeginBlock, Deposit)):
        return None
    return decode_wire(step.transaction, rules.fees.max_transaction_bytes)


def decode_transactions(
    rules: Rules, steps: Sequence[Step], executor: Executor | None = None
) -> list[SignedTransaction | None]:
    """Decode each step's transaction once, and check all signatures up front in the executor's threads."""
    decoded = [decode_transaction(rules, step) for step in steps]
    verify_signatures([tx for tx in decoded if tx is not None], executor)
    return decoded


class BlockBuilder:
    """An L2 block that is being made, step by step, on top of ``parent``."""

    def __init__(
        self, rules: Rules, parent: L2Block, time: int, known: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Open the block; ``time`` in ms since 1970. ``known`` is what the caller has read of the parent's state."""
        self.rules = rules
        self.parent = parent
        self.height = parent.header.height + 1
        self.time = time
        self._state = State(parent.tree, known)
        self._transfers = Transfers(rules, self._state)
        self._steps: list[Step] = []
        self._transactions: list[SignedTransaction | None] = []
        self._receipts: list[Receipt] = []
        apply_step(rules, self._state, BeginBlock(self.height, time))

    def __len__(self) -> int:
        """How many steps it has so far, its BeginBlock included."""
        return 1 + len(self._steps)

    def add(self, steps: Sequence[Step], decoded: Sequence[SignedTransaction | None] | None = None) -> None:
        """Run steps, whatever comes of them. ``decoded`` are their transactions where known."""
        known = decoded if decoded is not None else [None] * len(steps)
        ordered = [tx if isinstance(step, Transact) else None for step, tx in zip(steps, known, strict=True)]
        coming, at = iter(ordered), 0
        while True:
            receipts = self._transfers.apply(coming)
            ran = slice(at, at := at + len(receipts))
            self._append(steps[ran], known[ran], receipts)
            if at == len(steps):
                return
            step = steps[at]
            if isinstance(step, BeginBlock):
                raise TypeError("a block begins once")
            tx = known[at] or decode_transaction(self.rules, step)
            self._transfers.flush()
            self._append([step], [tx], [apply_step(self.rules, self._state, step, tx)])
            at += 1

    def add_transactions(
        self, transactions: Sequence[SignedTransaction], room: int
    ) -> list[tuple[SignedTransaction, InvalidTransaction]]:
        """Run those that may run here and now, one after the other, ``room`` of them at most.

        What is refused leaves the block as it was otherwise; returns it, and why.
        """
        refused: list[tuple[SignedTransaction, InvalidTransaction]] = []
        coming, at = iter(transactions), 0
        while True:
            receipts = self._transfers.apply(islice(coming, max(room, 0)))
            ran = transactions[at : at + len(receipts)]
            self._append([Transact(tx.wire) for tx in ran], ran, receipts)
            at, room = at + len(ran), room - len(ran)
            if room <= 0 or at == len(transactions):
                return refused
            tx = transactions[at]
            at += 1
            self._transfers.flush()
            try:
                receipt = apply_transaction(self.rules, self._state, tx)
            except InvalidTransaction as refusal:
                refused.append((tx, refusal))
                continue
            self._state.end_step()
            self._append([Transact(tx.wire)], [tx], [receipt])
            room -= 1

    def falsify(self, change: Callable[[State], None]) -> None:
        """For fault injection only: let ``change`` write to the state as no step could."""
        self._transfers.flush()
        change(self._state)

    def seal(self) -> L2Block:
        """Finish the block; the builder must not be used after."""
        rules, state, parent = self.rules, self._state, self.parent
        self._transfers.flush()
        env = environment(state)
        tree, changes = state.commit_changes()
        encoded = Encoded(list(map(encode, self._steps)), list(map(encode, self._receipts)))
        header = Header(
            chain_id=rules.chain_id,
            height=self.height,
            slot=self.height,
            time=self.time,
            parent=parent.hash,
            proposer=rules.vault or bytes(32),
            state_root=tree.root,
            tx_root=list_root(encoded.steps),
            receipts_root=list_root(encoded.receipts),
            base_fee=env.base_fee,
            gas_used=sum([receipt.gas_used for receipt in self._receipts]),
        )
        steps, receipts = tuple(self._steps), tuple(self._receipts)
        transactions = tuple(self._transactions)
        return L2Block(
            header,
            header.hash(),
            steps,
            transactions,
            receipts,
            tree,
            changes,
            [encoded],
            parent.tree.root,
        )

    def _append(
        self,
        steps: Sequence[Step],
        decoded: Sequence[SignedTransaction | None],
        receipts: Sequence[Receipt],
    ) -> None:
        self._steps += steps
        self._transactions += decoded
        self._receipts += receipts


def execute_block(
    rules: Rules,
    parent: L2Block,
    time: int,
    steps: Sequence[Step],
    decoded: Sequence[SignedTransaction | None] | None = None,
    at_hand: Mapping[bytes, bytes] | None = None,
) -> L2Block:
    """Run the steps that follow a BeginBlock into a block. Never refuses any (invalid ones are no-ops).

    ``decoded`` are their transactions and ``at_hand`` values of the parent's state, as far as the caller has them.
    """
    builder = BlockBuilder(rules, parent, time, at_hand)
    known = decoded if decoded is not None else decode_transactions(rules, steps)
    builder.add(steps, known)
    return builder.seal()


def block_steps(block_messages: Sequence[Deposit | Forced], wires: Sequence[bytes]) -> list[Step]:
    """The steps of a block after its BeginBlock: inbox messages first, then transactions."""
    return [*block_messages, *(Transact(wire) for wire in wires)]
