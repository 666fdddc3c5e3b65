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
        new = {block.hash: (block, certificate) for block, certificate in chain}
        for block_hash in self._blocks.keys() - new.keys():
            for tx in self._blocks[block_hash][0].transactions:
                del self._places[tx.id]
        added = [block for block_hash, (block, _) in new.items() if block_hash not in self._blocks]
        for block in added:
            for position, tx in enumerate(block.transactions):
                self._places[tx.id] = block, position
        self._blocks = new
        self._by_height = {block.header.height: (block, certificate) for block, certificate in chain}

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
        return [pair for at, pair in sorted(self._by_height.items()) if at >= height]
