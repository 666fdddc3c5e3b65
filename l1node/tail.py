"""The notarized blocks above the last final one, and where each of their transactions stands.

Responsible for quick answers about blocks that are not on the disk as final yet. Must not know how they
became notarized.
"""

from collections.abc import Iterable, Sequence

from chainkit.block import Certificate
from chainkit.chain import ExecutedBlock
from chainkit.codec import Bytes32

Pair = tuple[ExecutedBlock, Certificate]


class Tail:
    """The longest notarized chain above the final block; `update` after every change of it."""

    def __init__(self) -> None:
        self._blocks: dict[Bytes32, Pair] = {}
        self._by_height: dict[int, Pair] = {}
        self._places: dict[Bytes32, tuple[ExecutedBlock, int]] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def update(self, chain: Sequence[Pair]) -> None:
        """The chain is this one now; only what changed is looked at."""
        new = {pair[0].hash: pair for pair in chain}
        for block_hash, (block, _) in self._blocks.items():
            if block_hash not in new:
                for tx in block.transactions:
                    del self._places[tx.id]
        for block_hash, (block, _) in new.items():
            if block_hash not in self._blocks:
                for position, tx in enumerate(block.transactions):
                    self._places[tx.id] = block, position
        self._blocks = new
        self._by_height = {pair[0].header.height: pair for pair in chain}

    def at(self, height: int) -> Pair | None:
        """The block at a height."""
        return self._by_height.get(height)

    def get(self, block_hash: Bytes32) -> Pair | None:
        """The block with a hash."""
        return self._blocks.get(block_hash)

    def place(self, tx_id: Bytes32) -> tuple[ExecutedBlock, int] | None:
        """The block that a transaction is in, and its position there."""
        return self._places.get(tx_id)

    def from_height(self, height: int) -> Iterable[Pair]:
        """The blocks from a height on, in order."""
        return [pair for at, pair in self._by_height.items() if at >= height]
