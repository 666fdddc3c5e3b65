"""Batches as they stand in L1 transactions: where they are, how they are read, and reading them before their turn.

Responsible for the way from a call on L1 to batch contents, and for what is known of L1 blocks that are final but not
applied yet: their transactions are decoded once, so that signatures can be checked while earlier blocks are executed.
Must not know what a batch does, nor whether L1's contract was right to accept it.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bridge import abi
from chainkit.codec import Address, CodecError, decode
from chainkit.execution import Receipt, Rules
from chainkit.transaction import Call, SignedTransaction
from rollup.batch import BatchBlock, BatchError
from rollup.contents import Contents, Extended, read_contents
from rollup.directory import Directory

L1Transaction = tuple[SignedTransaction, Receipt]


class DerivationError(Exception):
    """L1 says what its contract cannot have done: wrong genesis, wrong order, or an error in our code."""


def is_batch(tx: SignedTransaction, bridge: str) -> bool:
    """Whether an L1 transaction submits a batch."""
    action = tx.body.action
    return isinstance(action, Call) and (action.contract, action.method) == (bridge, "submit_batch")


def batch_data(tx: SignedTransaction, bridge: str) -> bytes:
    """The data of the batch that a transaction submits. Raises `DerivationError`."""
    action = tx.body.action
    if not isinstance(action, Call) or not is_batch(tx, bridge):
        raise DerivationError("a batch was submitted by something else than a top-level call")
    try:
        return decode(abi.SubmitBatchArgs, action.args).data
    except CodecError as error:
        raise DerivationError(f"L1 accepted a malformed batch: {error}") from None


def read_batch(data: bytes, addresses: int) -> Contents:
    """What is in a batch, for a directory of so many ``addresses``. Raises `DerivationError`."""
    try:
        return read_contents(data, addresses)
    except (BatchError, CodecError) as error:
        raise DerivationError(f"L1 accepted a malformed batch: {error}") from None


@dataclass(frozen=True)
class Read:
    """A batch that was read. ``transactions`` are those of all ``blocks``, in order: None for what is none. If
    they are None altogether, nobody has decoded them."""

    contents: Contents
    blocks: Sequence[BatchBlock]
    transactions: Sequence[SignedTransaction | None] | None = None


@dataclass
class _Block:
    """What was read of an L1 block. ``batches``: by their data and how many addresses there were before them."""

    height: int
    addresses: list[Address] = field(default_factory=list)
    batches: dict[tuple[bytes, int], Read] = field(default_factory=dict)


class ReadAhead:
    """What was read of L1 blocks that ``directory`` does not have yet: they must be read in order, none left out.

    Addresses keep their numbers, since the directory only grows: so what was read before an earlier block was applied
    is what would be read after it.
    """

    def __init__(self, rules: Rules, bridge: str, directory: Directory) -> None:
        self._rules = rules
        self._bridge = bridge
        self._directory = directory
        self._blocks: deque[_Block] = deque()

    def read(self, height: int, transactions: Sequence[L1Transaction]) -> list[SignedTransaction]:
        """The L2 transactions in the batches of the next L1 block, as far as they can be decoded."""
        block = _Block(height)
        self._blocks.append(block)
        for tx, receipt in transactions:
            if receipt.success and is_batch(tx, self._bridge):
                try:
                    self._read(block, batch_data(tx, self._bridge))
                except DerivationError:
                    break  # whoever applies the block says so
        decoded = [batch.transactions or () for batch in block.batches.values()]
        return [tx for transactions in decoded for tx in transactions if tx is not None]

    def _read(self, block: _Block, data: bytes) -> None:
        fresh = [address for each in self._blocks for address in each.addresses]
        before = len(self._directory) + len(fresh)
        contents = read_batch(data, before)
        block.addresses += contents.addresses
        known = Extended(self._directory, [*fresh, *contents.addresses])
        limit = self._rules.fees.max_transaction_bytes
        block.batches[data, before] = Read(contents, *contents.read(known, self._rules.chain_id, limit))

    def batch(self, data: bytes) -> Read | None:
        """The next batch of the block that is being applied; None if it was not read before."""
        return self._blocks[0].batches.get((data, len(self._directory))) if self._blocks else None

    def forget(self, height: int) -> None:
        """The L1 blocks up to a height are applied."""
        while self._blocks and self._blocks[0].height <= height:
            self._blocks.popleft()
