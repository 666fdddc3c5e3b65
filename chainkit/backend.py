"""What a chain must offer so that the chain API can serve it.

Responsible for the `ChainBackend` protocol and the values that cross it. Must not know of HTTP.

Statuses, from least to most certain: "pending" (known, in no block), "unsafe" or "notarized" (in the head's
chain; the first is a rollup's word, the second L1's), "safe" (in a batch on L1), "finalized".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from chainkit.block import Block, Certificate, Header
from chainkit.codec import Address, Bytes32
from chainkit.events import EventLog
from chainkit.execution import Receipt, Rules
from chainkit.genesis import Genesis
from chainkit.merkle import Tree
from chainkit.transaction import SignedTransaction

HeadRef = Literal["head", "safe", "finalized"]
HEAD_REFS: Final[tuple[HeadRef, ...]] = ("head", "safe", "finalized")

Status = Literal["pending", "unsafe", "notarized", "safe", "finalized"]

_CERTAINTY = {"pending": 0, "unsafe": 1, "notarized": 1, "safe": 2, "finalized": 3}
_NEEDED = {"head": 1, "safe": 2, "finalized": 3}


def has_reached(status: str, ref: HeadRef) -> bool:
    """Whether something of this status is in the chain up to the head called ``ref``."""
    return _CERTAINTY.get(status, 0) >= _NEEDED[ref]


class Head(NamedTuple):
    """One of a chain's heads: its header, its hash and the state after it."""

    header: Header
    hash: Bytes32
    tree: Tree


@dataclass(frozen=True)
class BlockView:
    """A block as the API shows it. ``extra`` adds members to its JSON (a rollup's L1 origin, say)."""

    block: Block
    hash: Bytes32
    status: Status
    certificate: Certificate | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TransactionView:
    """A transaction as the API shows it; all but the first two are None while it is pending.

    ``extra`` adds members to its JSON (the sequencer's signed receipt, the batch that it is in).
    """

    transaction: SignedTransaction
    status: Status
    height: int | None = None
    block_hash: Bytes32 | None = None
    position: int | None = None
    receipt: Receipt | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class SubmitResult(msgspec.Struct, frozen=True, gc=False):
    """Whether a transaction was taken. ``code`` is empty, or "already_known" for one taken before; if it was
    refused, the reason (the codes of `chainkit.execution.InvalidTransaction` and the pool's own). ``extra``
    adds members to the JSON answer (a signed receipt)."""

    hash: Bytes32
    accepted: bool
    code: str = ""
    message: str = ""
    extra: Mapping[str, Any] = MappingProxyType({})

    def with_members(self, members: Mapping[str, Any]) -> "SubmitResult":
        """The same with more in its answer."""
        extra = {**self.extra, **members}
        return SubmitResult(self.hash, self.accepted, self.code, self.message, extra)


class ChainBackend(Protocol):
    """A chain behind the API. All methods but `submit` answer at once, from memory or one short query."""

    @property
    def genesis(self) -> Genesis: ...

    @property
    def genesis_hash(self) -> Bytes32: ...

    @property
    def rules(self) -> Rules: ...

    @property
    def event_log(self) -> EventLog: ...

    def status(self) -> Mapping[str, Any]:
        """The service's part of ``GET /status`` (role, peers, faults); the router adds chain and heads."""

    def head(self, ref: HeadRef) -> Head | None:
        """A head of the chain; genesis counts. None while it is not known (nothing safe yet, say)."""

    def block(self, ref: int | Bytes32) -> BlockView | None:
        """The block at a height of the head's chain (0 is genesis), or the one with a hash."""

    def transaction(self, tx_id: Bytes32) -> TransactionView | None:
        """A transaction in the pool or in a block."""

    def included_at(self, tx_id: Bytes32) -> int | None:
        """The height of the block in which a transaction was executed; -1 if that is on its way to the disk. Asked
        for each of a thousand in a body, so it must cost next to nothing."""

    def pending_nonce(self, address: Address) -> int:
        """The nonce of the account's next transaction after all that are in the pool."""

    async def submit(self, transactions: Sequence[SignedTransaction]) -> Sequence[SubmitResult]:
        """Offer transactions, in order; one result each. The router has checked what needs no state
        (`check_stateless`: chain, sizes, signature), so no signature is verified again."""

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether the service is of use now, and what it waits for or stands at."""

    def metrics(self) -> Mapping[str, float]:
        """Gauges of the service's own: snake_case names, served as ``layerlab_<name>``."""
