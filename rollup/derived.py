"""What derivation yields: inbox messages, batches beside their execution, and the events of a change.

Responsible for the shapes that shells read. Must not know how they come about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bridge import abi
from chainkit.codec import Address, Bytes32
from chainkit.merkle import Tree
from rollup.batch import BatchBlock
from rollup.batch import steps_root as compute_steps_root
from rollup.block import L2Block
from rollup.stf import Deposit, Forced, Step

_STUB = b"\x02"
"""The tag of a cut-away subtree in a state proof (chainkit/merkle.py)."""


@dataclass(frozen=True)
class InboxMessage:
    """A queued message: its L2 step, and where L1 took it (``l1_height``, ``l1_tx_id``)."""

    step: Deposit | Forced
    step_hash: Bytes32
    l1_height: int
    l1_tx_id: Bytes32


@dataclass(frozen=True, eq=False)
class DerivedBatch:
    """A posted batch beside what executing it gave.

    ``record`` is the contract's own. ``computed_root`` is the true root after the batch on top of its
    parent's true state, ``start`` and ``end`` the L2 blocks before and at its end. ``parent_matches``: every
    batch before it is true. ``blocks`` are the batch data, ``l2_blocks`` the execution, ``step_hashes`` what the
    contract committed to (`rollup.contents.CommittedSteps`). After `slim` the blocks have their steps,
    and only the last one its state. Once the batch is final or reverted these three are
    empty, and only the last final ``end`` still has a state: the other trees are cut down to their roots, and
    raise `MissingWitness`.
    """

    record: abi.Batch
    start: L2Block
    end: L2Block
    blocks: tuple[BatchBlock, ...]
    l2_blocks: tuple[L2Block, ...]
    step_hashes: Sequence[Bytes32]
    computed_root: Bytes32
    parent_matches: bool
    status: str
    l1_height: int
    l1_tx_id: Bytes32

    @property
    def index(self) -> int:
        return self.record.index

    @property
    def steps(self) -> list[Step]:
        """All steps of the batch, BeginBlocks included, in the order of ``record.steps_root``."""
        return [step for block in self.l2_blocks for step in block.all_steps]

    @property
    def matches(self) -> bool:
        """Whether the claim and all claims that it stands on are true."""
        return self.parent_matches and self.computed_root == self.record.state_root

    @property
    def flagged(self) -> bool:
        """Whether this is the first false claim of its line: the one to challenge."""
        return self.parent_matches and not self.matches


@dataclass(frozen=True, eq=False)
class Resume:
    """What an earlier run of this node derived, so that it need not be executed again.

    ``end`` is the last L2 block of ``batch``, which is final and true, with its state; ``roots`` are the roots that
    were computed for batches 1 to ``batch``, those that were reverted too. All of them are settled on L1.
    """

    batch: int
    end: L2Block
    roots: Mapping[int, Bytes32]


# --- what a shell learns from a block ---


@dataclass(frozen=True)
class InboxMessageQueued:
    message: InboxMessage


@dataclass(frozen=True)
class BatchDerived:
    """A batch was read from L1 and executed; ``batch.l2_blocks`` are its blocks."""

    batch: DerivedBatch


@dataclass(frozen=True)
class BatchFlagged:
    """The batch claims a false root, and is the first of its line to do so."""

    batch: int
    claimed: Bytes32
    computed: Bytes32


@dataclass(frozen=True)
class BatchReverted:
    """``inbox_from`` is the inbox cursor after it: messages from there on are to be taken in again.

    ``lost`` is the batch as it was, with its blocks, whose transactions may be ordered anew.
    """

    batch: int
    reason: str
    inbox_from: int
    lost: DerivedBatch


@dataclass(frozen=True)
class BatchFinalized:
    """``matches`` is False if nobody challenged a false root in time: L1 now believes what is not so."""

    batch: int
    matches: bool


@dataclass(frozen=True)
class DisputeChanged:
    """A dispute was opened, moved or resolved (its record as it now stands)."""

    dispute: abi.Dispute


@dataclass(frozen=True)
class Frozen:
    """The bridge stopped: no more batches, exits only."""

    by: Address


@dataclass(frozen=True)
class SettingsChanged:
    """The bridge's settings, first seen or upgraded."""

    settings: abi.BridgeSettings


DerivationEvent = (
    InboxMessageQueued
    | BatchDerived
    | BatchFlagged
    | BatchReverted
    | BatchFinalized
    | DisputeChanged
    | Frozen
    | SettingsChanged
)


def genesis_batch(block: L2Block) -> DerivedBatch:
    root = block.tree.root
    record = abi.Batch(
        index=abi.GENESIS_BATCH,
        parent=abi.GENESIS_BATCH,
        first_block=0,
        blocks=1,
        last_time=block.header.time,
        inbox_from=0,
        inbox_to=0,
        steps=0,
        steps_root=compute_steps_root([]),
        previous_root=root,
        state_root=root,
        data_hash=bytes(32),
        proposer=bytes(32),
        bond=0,
        height=0,
        status=abi.FINALIZED,
    )
    return DerivedBatch(record, block, block, (), (), (), root, True, abi.FINALIZED, 0, bytes(32))


def without_steps(block: L2Block) -> L2Block:
    return replace(block, steps=(), transactions=(), receipts=(), changes={})


def hollow(block: L2Block) -> L2Block:
    """The block with its state cut down to the root, so that old states can be forgotten."""
    return replace(without_steps(block), tree=stub_tree(block.tree.root))


def slim(batch: DerivedBatch) -> DerivedBatch:
    """A true batch with what a dispute about it or its revert needs, and no more: the order of its transactions, and
    the states before and after it. States in between, decoded
    transactions, receipts, their bytes and changes are four fifths of its memory."""
    *inner, end = (
        replace(block, transactions=(), receipts=(), changes={}, encoded=[]) for block in batch.l2_blocks
    )
    l2_blocks = (*(replace(block, tree=stub_tree(block.tree.root)) for block in inner), end)
    return replace(batch, blocks=(), l2_blocks=l2_blocks, end=end)


def stub_tree(root: Bytes32) -> Tree:
    """A state of which only the root is known."""
    return Tree.from_proof(_STUB + root, root)
