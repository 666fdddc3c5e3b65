"""The bridge's public records: parameters, arguments, events and stored state.

Responsible for the bytes that the contract takes, keeps and emits; clients, sequencer, verifier and service
read them from here. Must not know any rule.

Units: amounts in gwei, windows, clocks and delays in L1 blocks, times in ms. ``index`` counts from 0.
"""

from typing import Annotated

from msgspec import Meta

from chainkit.codec import U53, Address, Amount, Bytes32, Record
from chainkit.genesis import Genesis
from chainkit.merkle_list import list_root
from chainkit.state import storage_key

MAX_WITNESS_BYTES = 160 * 1024
MAX_BISECTION = 64
MAX_DIRECTORY_DEPTH = 40
"""Siblings in the proof of one address: a directory of 2**40 is beyond what any chain can carry."""
MAX_PENDING_BATCHES = 256
"""Batches that may wait for finality at once: bounds what one proven fraud has to revert."""
STALL_FACTOR = 2
"""Without a new final batch for this many times ``escape_timeout``, the bridge may be frozen all the same."""
NO_ADDRESSES = list_root([])
GENESIS_BATCH = 0
"""Batch 0 is the L2 genesis block: final from the start."""


class BridgeSettings(Record, frozen=True):
    """What an upgrade may change.

    ``max_move_delay`` is for how many L1 blocks in a row censoring leaders can leave a move out; ``dispute_clock``
    is what each side has for all its answers of one dispute, that delay included.
    """

    sequencer: Address
    admin: Address | None = None
    proposer_bond: Amount = 10_000_000_000
    challenger_bond: Amount = 5_000_000_000
    challenge_window: U53 = 100
    dispute_clock: U53 = 60
    max_move_delay: U53 = 4
    inclusion_delay: U53 = 20
    sequencer_timeout: U53 = 150
    escape_timeout: U53 = 300
    exit_window: U53 = 400
    bisection: U53 = 32
    max_steps: U53 = 16_384
    max_inbox_per_batch: U53 = 1_024
    min_deposit: Amount = 1_000


class BridgeParams(Record, frozen=True):
    """The contract's genesis parameters. The L2 rules live in L1 genesis, so L1 alone tells all."""

    l2_genesis: Genesis
    settings: BridgeSettings


# --- arguments ---


class DepositArgs(Record, frozen=True):
    """``value`` of the call goes to ``to`` on L2."""

    to: Address


class ForceArgs(Record, frozen=True):
    """The wire bytes of a signed L2 transaction."""

    transaction: bytes


class SubmitBatchArgs(Record, frozen=True):
    """``parent`` is the batch that this one extends, ``inbox_to`` the inbox index after the last message
    taken in, ``data`` as in rollup/batch.py, ``state_root`` the claim after the last step."""

    parent: U53
    inbox_to: U53
    data: bytes
    state_root: Bytes32


class ChallengeArgs(Record, frozen=True):
    """The root that the challenger holds to be true after the batch."""

    batch: U53
    state_root: Bytes32


class BisectArgs(Record, frozen=True):
    """The defender's roots at the interior cut points of the disputed range."""

    dispute: U53
    roots: Annotated[list[Bytes32], Meta(max_length=MAX_BISECTION)]


class ChooseArgs(Record, frozen=True):
    """The first segment (from 0) whose end the challenger disagrees with."""

    dispute: U53
    segment: U53


class KnownAddress(Record, frozen=True):
    """An address and its place in the directory: the siblings up to the batch's ``addresses_root``."""

    address: Address
    proof: Annotated[list[Bytes32], Meta(max_length=MAX_DIRECTORY_DEPTH)]


class ProveArgs(Record, frozen=True):
    """The disputed step's bytes as committed, its place in the batch's step list and a witness of the state before it.

    ``addresses`` are those behind the numbers of a packed transaction, in the order of its fields, each once.
    """

    dispute: U53
    step: bytes
    step_proof: Annotated[list[Bytes32], Meta(max_length=64)]
    witness: bytes
    addresses: Annotated[list[KnownAddress], Meta(max_length=2)] = []  # noqa: RUF012 - msgspec copies it


class DisputeArgs(Record, frozen=True):
    dispute: U53


class BatchArgs(Record, frozen=True):
    batch: U53


class ClaimArgs(Record, frozen=True):
    """A withdrawal and its inclusion proof under the state root of a finalized batch."""

    batch: U53
    index: U53
    recipient: Address
    amount: Amount
    proof: bytes


class ExitArgs(Record, frozen=True):
    """An account's inclusion proof under the last final state root."""

    account: Address
    proof: bytes


class RefundArgs(Record, frozen=True):
    index: U53


class UpgradeArgs(Record, frozen=True):
    settings: BridgeSettings


# --- stored records ---

PENDING, FINALIZED, REVERTED = "pending", "finalized", "reverted"
BISECT, CHOOSE, PROVE, RESOLVED = "bisect", "choose", "prove", "resolved"
DEFENDER, CHALLENGER = "defender", "challenger"


class InboxEntry(Record, frozen=True):
    """A queued message: the hash of its L2 step, the L1 height that took it, what a refund would pay."""

    step_hash: Bytes32
    height: U53
    depositor: Address
    amount: Amount
    refunded: bool = False


class Batch(Record, frozen=True):
    """A posted batch. ``first_block`` is its first L2 height, ``previous_root`` its parent's claim,
    ``challenge_until`` the last L1 height at which it may be challenged (fixed when it is posted), ``addresses`` and
    ``addresses_root`` the directory of addresses with the batch's own (rollup/directory.py)."""

    index: U53
    parent: U53
    first_block: U53
    blocks: U53
    last_time: U53
    inbox_from: U53
    inbox_to: U53
    steps: U53
    steps_root: Bytes32
    previous_root: Bytes32
    state_root: Bytes32
    data_hash: Bytes32
    proposer: Address
    bond: Amount
    height: U53
    status: str
    open_disputes: U53 = 0
    resolved_height: U53 = 0
    challenge_until: U53 = 0
    addresses: U53 = 0
    addresses_root: Bytes32 = NO_ADDRESSES


class Dispute(Record, frozen=True):
    """A dispute. ``low_root`` is agreed by both sides, ``high_root`` is the defender's claim; ``bisection``
    is how many segments a range is cut into, fixed when it is opened; clocks are blocks left."""

    index: U53
    batch: U53
    challenger: Address
    defender: Address
    claimed_root: Bytes32
    bond: Amount
    low: U53
    high: U53
    low_root: Bytes32
    high_root: Bytes32
    points: list[Bytes32]
    stage: str
    turn: str
    defender_clock: U53
    challenger_clock: U53
    last_move: U53
    opened: U53
    moves: U53 = 0
    winner: str = ""
    reason: str = ""
    bisection: U53 = 2


class BridgeTotals(Record, frozen=True):
    """The books and cursors. ``escrow`` and ``bonds`` are apart and together are the contract's balance.

    ``deposited``, ``claimed``, ``exited`` and ``refunded`` are sums in gwei since genesis; ``pending`` counts
    the batches after the final one; ``frozen_height`` is 0 until the bridge freezes, ``last_final_height`` is
    when a batch last became final.
    """

    escrow: Amount
    bonds: Amount = 0
    inbox_length: U53 = 0
    next_batch: U53 = 1
    head_batch: U53 = GENESIS_BATCH
    final_batch: U53 = GENESIS_BATCH
    next_dispute: U53 = 0
    last_batch_height: U53 = 0
    frozen_height: U53 = 0
    deposited: U53 = 0
    claimed: U53 = 0
    exited: U53 = 0
    refunded: U53 = 0
    pending: U53 = 0
    last_final_height: U53 = 0


class ScheduledUpgrade(Record, frozen=True):
    settings: BridgeSettings
    height: U53


class Withdrawal(Record, frozen=True):
    """What the L2 messenger stores for each withdrawal; L1 pays ``recipient``."""

    index: U53
    sender: Address
    recipient: Address
    amount: Amount


# --- events ---


class DepositInitiated(Record, frozen=True):
    index: U53
    depositor: Address
    to: Address
    amount: Amount


class TransactionForced(Record, frozen=True):
    index: U53
    by: Address
    transaction: bytes


class BatchSubmitted(Record, frozen=True):
    batch: Batch


class BatchChallenged(Record, frozen=True):
    dispute: U53
    batch: U53
    challenger: Address
    state_root: Bytes32


class DisputeBisected(Record, frozen=True):
    dispute: U53
    low: U53
    high: U53
    roots: list[Bytes32]


class SegmentChosen(Record, frozen=True):
    dispute: U53
    segment: U53
    low: U53
    high: U53


class StepProved(Record, frozen=True):
    dispute: U53
    step: U53
    claimed_root: Bytes32
    proved_root: Bytes32


class DisputeResolved(Record, frozen=True):
    """``paid`` of the loser's bond went to the winner, whose own bond came back besides; ``reason`` is
    "step-proved", "timeout" or "batch-reverted" (no winner: the challenger's bond came back)."""

    dispute: U53
    batch: U53
    winner: str
    reason: str
    paid: Amount
    burned: Amount


class BatchReverted(Record, frozen=True):
    """``reason`` is "step-proved" or "timeout" for the disputed batch, "ancestor-reverted" for those built
    on it."""

    batch: U53
    reason: str


class BatchFinalized(Record, frozen=True):
    batch: U53
    state_root: Bytes32


class WithdrawalClaimed(Record, frozen=True):
    index: U53
    batch: U53
    recipient: Address
    amount: Amount


class BridgeFrozen(Record, frozen=True):
    batch: U53
    by: Address


class AccountExited(Record, frozen=True):
    account: Address
    amount: Amount


class DepositRefunded(Record, frozen=True):
    index: U53
    depositor: Address
    amount: Amount


class UpgradeScheduled(Record, frozen=True):
    height: U53


class UpgradeApplied(Record, frozen=True):
    by: Address


class UpgradeCancelled(Record, frozen=True):
    by: Address


EVENTS: tuple[type[Record], ...] = (
    DepositInitiated,
    TransactionForced,
    BatchSubmitted,
    BatchChallenged,
    DisputeBisected,
    SegmentChosen,
    StepProved,
    DisputeResolved,
    BatchReverted,
    BatchFinalized,
    WithdrawalClaimed,
    BridgeFrozen,
    AccountExited,
    DepositRefunded,
    UpgradeScheduled,
    UpgradeApplied,
    UpgradeCancelled,
)

# --- storage keys (of the contract called "bridge") ---

TOTALS_KEY = b"totals"
SETTINGS_KEY = b"settings"
UPGRADE_KEY = b"upgrade"
DIRECTORY_KEY = b"directory"
"""A `rollup.directory.Frontier`; absent until a batch names an address."""


def _indexed(prefix: bytes, index: int) -> bytes:
    return prefix + index.to_bytes(8, "big")


def inbox_key(index: int) -> bytes:
    return _indexed(b"inbox/", index)


def batch_key(index: int) -> bytes:
    return _indexed(b"batch/", index)


def dispute_key(index: int) -> bytes:
    return _indexed(b"dispute/", index)


def challenge_key(batch: int, challenger: Address, state_root: Bytes32) -> bytes:
    """Marks an open dispute, so that nobody opens the same one twice."""
    return _indexed(b"challenge/", batch) + challenger + state_root


def claimed_key(index: int) -> bytes:
    """The nullifier of a withdrawal: its index, never anything that a proof carries."""
    return _indexed(b"claimed/", index)


def exited_key(account: Address) -> bytes:
    """The nullifier of an exit."""
    return b"exited/" + account


def withdrawal_storage_key(index: int) -> bytes:
    """Key of a withdrawal in the storage of the L2 contract ``messenger``."""
    return _indexed(b"withdrawal/", index)


def withdrawal_state_key(index: int) -> bytes:
    """L2 state key whose inclusion a claim proves."""
    return storage_key("messenger", withdrawal_storage_key(index))
