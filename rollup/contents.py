"""What a batch contains, in whichever format: blocks, transactions, and the hashes that the contract commits to.

Responsible for reading batch data once for all who need it in one process, and for the list of a batch's steps.
Pure. Must not know what steps do.

Of a plain batch the contract commits to the hash of each step. Of a packed one it commits to the packed transaction,
T("packed-step", its bytes): the contract does not know which addresses the numbers stand for, and need not until a
dispute comes down to that one step; then whoever proves it opens them against the directory's root.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice
from typing import Final, Protocol

from chainkit.codec import Address, Bytes32, decode, encode
from chainkit.hashing import tagged_hash, tagged_hashes
from chainkit.merkle_list import list_proof
from chainkit.transaction import SignedTransaction
from rollup.batch import (
    HASHES_OF_AN_ENTRY,
    BatchBlock,
    BatchError,
    Bounds,
    encode_batch,
    inflate,
    inflating_cost,
    not_inflated,
    read_blocks,
)
from rollup.batch import VERSION as PLAIN
from rollup.directory import Directory
from rollup.packing import VERSION as PACKED
from rollup.packing import Packed, PackedBlock, Unpacked, numbers_of, pack, unpack_batch
from rollup.stf import BeginBlock, Step, Transact, decode_wire, step_hash

PACKED_STEP: Final = "packed-step"
KEPT: Final = 8
"""Batches that are kept as they were read."""
KEPT_ENTRIES: Final = 16_384
"""Blocks, transactions and addresses of a batch that is kept: large ones must not fill the memory of all who run the
contract."""


class Addresses(Protocol):
    """A directory, as far as unpacking needs one."""

    def at(self, numbers: Sequence[int], /) -> list[Address]:
        """The addresses with these numbers. Raises `IndexError`."""


class Extended:
    """A directory with addresses behind it that are not in it yet."""

    def __init__(self, directory: Directory, fresh: Sequence[Address]) -> None:
        self._directory, self._fresh = directory, fresh

    def at(self, numbers: Sequence[int], /) -> list[Address]:
        """The addresses with these numbers. Raises `IndexError`."""
        known = len(self._directory)
        if max(numbers, default=0) < known:
            return self._directory.at(numbers)
        return [self._directory[n] if n < known else self._fresh[n - known] for n in numbers]


@dataclass(frozen=True)
class Contents:
    """``transactions`` are those of all blocks, in order: wire bytes, or packed. ``addresses`` go to the directory.
    ``inflated`` is how many bytes the data has when it is inflated."""

    blocks: Sequence[PackedBlock]
    transactions: Sequence[bytes] | Unpacked
    addresses: Sequence[Address]
    inflated: int

    @property
    def entries(self) -> int:
        """Blocks and transactions: what there is to decode."""
        return len(self.blocks) + len(self.transactions)

    @property
    def messages(self) -> int:
        """Inbox messages that it takes in."""
        return sum(block.inbox_count for block in self.blocks)

    @property
    def steps(self) -> int:
        """How many steps the batch makes."""
        return self.entries + self.messages

    @property
    def cost(self) -> int:
        """What it costs to have read it and to hash what is in it, messages left out, in hashes."""
        return inflating_cost(self.inflated) + HASHES_OF_AN_ENTRY * (self.entries + len(self.addresses))

    @cached_property
    def committed(self) -> Sequence[bytes]:
        """The bytes that are hashed for each transaction: its wire, or its packed form."""
        transactions = self.transactions
        return transactions.committed() if isinstance(transactions, Unpacked) else transactions

    @cached_property
    def leaves(self) -> list[Bytes32]:
        """What the contract commits to for each transaction."""
        if isinstance(self.transactions, Unpacked):
            return tagged_hashes(PACKED_STEP, self.committed)
        return [step_hash(Transact(wire)) for wire in self.transactions]

    def wires(self, directory: Addresses, chain_id: int) -> list[BatchBlock]:
        """The blocks with their transactions' wire bytes; ``directory`` has the batch's own addresses already."""
        transactions = self.transactions
        if isinstance(transactions, Unpacked):
            transactions = transactions.wires(chain_id, directory.at)
        return self._in_blocks(transactions)

    def read(
        self, directory: Addresses, chain_id: int, limit: int
    ) -> tuple[list[BatchBlock], list[SignedTransaction | None]]:
        """`wires`, and beside them all transactions decoded, None for what is none or has over ``limit`` bytes."""
        transactions = self.transactions
        if isinstance(transactions, Unpacked):
            transfers = transactions.transfers(chain_id, directory.at)
            if transfers is not None:
                wires = [tx.wire for tx in transfers]
                return self._in_blocks(wires), [tx if len(tx.wire) <= limit else None for tx in transfers]
        blocks = self.wires(directory, chain_id)
        return blocks, [decode_wire(wire, limit) for block in blocks for wire in block.transactions]

    def _in_blocks(self, wires: Sequence[bytes]) -> list[BatchBlock]:
        """``wires`` are those of all blocks."""
        ends = accumulate(block.transactions for block in self.blocks)
        return [
            BatchBlock(b.time, b.inbox_count, list(wires[end - b.transactions : end]))
            for b, end in zip(self.blocks, ends, strict=True)
        ]


def packed_hash(data: bytes) -> Bytes32:
    """The hash of a packed transaction's canonical bytes."""
    return tagged_hash(PACKED_STEP, data)


ALL: Final = Bounds()
_kept: dict[tuple[bytes, int], Contents] = {}


def read_contents(data: bytes, addresses: int, bounds: Bounds = ALL) -> Contents:
    """Read batch data in bounded memory, for a directory with so many ``addresses``. Raises `BatchError`.

    The last ones are kept: in one process the contract and derivation read the same batch, some L1 blocks later.
    """
    contents = _kept.get((data, addresses))
    if contents is not None:
        _require_within(contents, bounds)
    else:
        contents = _read(data, addresses, bounds)
        if contents.entries + len(contents.addresses) <= KEPT_ENTRIES:
            _kept[data, addresses] = contents
            if len(_kept) > KEPT:
                del _kept[next(iter(_kept))]
    return contents


def forget_contents() -> None:
    """Read anew what was read before (to measure, or to try inputs one by one)."""
    _kept.clear()


def _require_within(contents: Contents, bounds: Bounds) -> None:
    """What was read within other bounds is refused, and costs, as if it were read now."""
    if contents.inflated > bounds.inflated:
        raise not_inflated("over what may be inflated")
    if contents.entries > bounds.entries_after(contents.inflated):
        error = BatchError("over what may be decoded")
        error.cost = bounds.refused(contents.inflated)
        raise error


def _read(data: bytes, addresses: int, bounds: Bounds) -> Contents:
    version = data[:1]
    if version not in (PLAIN, PACKED):
        raise BatchError("unknown batch version")
    inflated, rest = inflate(data[1:], bounds.inflated)
    most = bounds.entries_after(len(inflated))
    try:
        if version == PACKED:
            return Contents(*unpack_batch(inflated, rest, addresses, most), len(inflated))
        plain = read_blocks(inflated, rest, most)
    except BatchError as error:
        error.cost = bounds.refused(len(inflated))
        raise
    blocks = [PackedBlock(b.time, b.inbox_count, len(b.transactions)) for b in plain]
    return Contents(blocks, [wire for block in plain for wire in block.transactions], (), len(inflated))


def write_contents(
    blocks: Sequence[BatchBlock],
    chain_id: int,
    directory: Directory,
    decoded: Sequence[SignedTransaction] | None = None,
) -> bytes:
    """Batch data of these blocks: packed, or plain if a transaction has no packed form.

    ``decoded`` are the transactions of all blocks in order, if the caller has them.
    """
    plain = [(block.time, block.inbox_count, block.transactions) for block in blocks]
    return pack(plain, chain_id, len(directory), directory.numbers(), decoded) or encode_batch(blocks)


def step_hashes(
    contents: Contents, first_height: int, inbox_from: int, inbox: Callable[[int], Bytes32]
) -> list[Bytes32]:
    """What the contract commits to, step by step: each block begins, takes in its messages, runs its transactions.

    ``inbox(i)`` gives the step hash of inbox message ``i``.
    """
    hashes: list[Bytes32] = []
    cursor, leaves = inbox_from, iter(contents.leaves)
    for height, block in enumerate(contents.blocks, first_height):
        hashes.append(step_hash(BeginBlock(height, block.time)))
        for _ in range(block.inbox_count):
            hashes.append(inbox(cursor))
            cursor += 1
        hashes.extend(islice(leaves, block.transactions))
    return hashes


@dataclass(frozen=True)
class Opening:
    """One step as it is shown to the contract: its committed bytes, its place in the list, the addresses behind its
    numbers, each with its place in the directory."""

    step: bytes
    proof: list[Bytes32]
    addresses: list[tuple[Address, list[Bytes32]]]


class CommittedSteps(Sequence[Bytes32]):
    """The hashes that the contract committed to, and all it takes to open any of them."""

    def __init__(self, contents: Contents, hashes: Sequence[Bytes32], directory: Directory) -> None:
        """``directory`` has the batch's own addresses already (and may grow later)."""
        self._blocks = contents.blocks
        # Packed transactions as bytes: as objects they take four times the memory, and a batch is kept for its window.
        self._packed = tuple(contents.committed) if isinstance(contents.transactions, Unpacked) else ()
        self._hashes = tuple(hashes)
        self._directory = directory
        self._count = len(directory)

    def __len__(self) -> int:
        return len(self._hashes)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._hashes[index]

    def __iter__(self) -> Iterator[Bytes32]:
        return iter(self._hashes)

    def opening(self, index: int, step: Step) -> Opening:
        """How step ``index``, which is ``step``, is opened."""
        proof = list_proof(self._hashes, index)
        data = self._packed_at(index)
        if data is None:
            return Opening(encode(step), proof, [])
        packed: Packed = decode(Packed, data)  # type: ignore[arg-type]
        shown = [
            (self._directory[number], self._directory.proof(number, self._count))
            for number in numbers_of(packed)
        ]
        return Opening(data, proof, shown)

    def _packed_at(self, index: int) -> bytes | None:
        """The packed transaction that is step ``index``; None for what has no packed form."""
        if not 0 <= index < len(self._hashes):
            raise IndexError("no such step")
        before = 0
        for block in self._blocks if self._packed else ():
            index -= 1 + block.inbox_count
            if index < 0:
                return None
            if index < block.transactions:
                return self._packed[before + index]
            index -= block.transactions
            before += block.transactions
        return None


def open_step(hashes: Sequence[Bytes32], index: int, step: Step) -> Opening:
    """How a step is opened under the list root of ``hashes``, be they those of a batch or any."""
    if isinstance(hashes, CommittedSteps):
        return hashes.opening(index, step)
    return Opening(encode(step), list_proof(hashes, index), [])
