"""The blocks above the last final one, as a tree.

Responsible for which blocks are known, which are notarized, which notarized chain is the longest, what is
final by it, and for forgetting the rest. Must not know votes, leaders, messages or time.

Every block in the tree but the leaves is notarized, since a block enters only above a notarized parent.
"""

from collections.abc import Callable
from dataclasses import dataclass

from chainkit.block import Certificate, ValidatorSet, final_count
from chainkit.chain import ExecutedBlock
from chainkit.codec import Bytes32

MAX_BLOCKS = 512
"""Blocks kept above the final one, the longest notarized chain not counted."""


@dataclass(eq=False)
class Node:
    """A block and its standing. ``validators`` are those who may certify it."""

    executed: ExecutedBlock
    validators: ValidatorSet
    certificate: Certificate | None = None
    notarized: bool = False

    def __post_init__(self) -> None:
        header = self.executed.header
        self.hash: Bytes32 = self.executed.hash
        self.parent: Bytes32 = header.parent
        self.height: int = header.height
        self.slot: int = header.slot

    @property
    def rank(self) -> tuple[int, int, Bytes32]:
        """Longer is better; ties go to the later slot, then to the larger hash, alike on every node."""
        return self.height, self.slot, self.hash


class BlockTree:
    """Executed blocks that descend from ``final``, which is the root."""

    def __init__(
        self, final: ExecutedBlock, certificate: Certificate | None, validators: ValidatorSet
    ) -> None:
        self.final = Node(final, validators, certificate, notarized=True)
        self.head = self.final
        self._nodes = {final.hash: self.final}  # parents before their children
        self.get: Callable[[Bytes32], Node | None] = self._nodes.get
        """The node of a block hash, if it is here."""

    def __len__(self) -> int:
        return len(self._nodes)

    def nodes(self) -> list[Node]:
        """All nodes above the final one, by height, then slot, then hash."""
        return sorted((n for n in self._nodes.values() if n is not self.final), key=lambda n: n.rank)

    def add(self, executed: ExecutedBlock, validators: ValidatorSet) -> Node:
        """Add a block whose parent is in the tree and notarized."""
        parent = self._nodes[executed.header.parent]
        assert parent.notarized, "a block may enter only above a notarized one"
        node = Node(executed, validators)
        self._nodes[node.hash] = node
        return node

    def notarize(self, node: Node, certificate: Certificate) -> None:
        """Mark a node as notarized; it may become the head."""
        node.certificate = certificate
        node.notarized = True
        if node.rank > self.head.rank:
            self.head = node

    def path(self, node: Node) -> list[Node]:
        """The nodes from above the final one up to ``node``."""
        path = []
        while node is not self.final:
            path.append(node)
            node = self._nodes[node.parent]
        return path[::-1]

    def finalize(self, node: Node) -> list[Node]:
        """What the notarized chain that ends in ``node`` makes final, in order; the last is the new root."""
        path = self.path(node)
        final = path[: final_count([n.slot for n in path], self.final.slot)]
        if final:
            self.final = final[-1]
            self._keep_descendants()
            if self.head.hash not in self._nodes:
                self.head = max((n for n in self._nodes.values() if n.notarized), key=lambda n: n.rank)
        return final

    def _keep_descendants(self) -> None:
        kept = {self.final.hash}
        for block_hash, node in list(self._nodes.items()):
            if node.parent in kept:
                kept.add(block_hash)
            elif node is not self.final:
                del self._nodes[block_hash]

    def prune(self, floor_slot: int) -> None:
        """Forget blocks that no vote can notarize any more, then forks, until `MAX_BLOCKS` are left."""
        for node in [n for n in self._nodes.values() if not n.notarized and n.slot < floor_slot]:
            del self._nodes[node.hash]
        if len(self._nodes) <= MAX_BLOCKS:
            return
        longest = {node.hash for node in self.path(self.head)} | {self.final.hash}
        while len(self._nodes) - len(longest) > MAX_BLOCKS:
            parents = {node.parent for node in self._nodes.values()}
            leaves = [n for n in self._nodes.values() if n.hash not in parents and n.hash not in longest]
            worst = min(leaves, key=lambda n: (n.notarized, n.rank))
            del self._nodes[worst.hash]
