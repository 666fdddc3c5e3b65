"""Values of a state that were lately read or written, carried from block to block.

Responsible for that the accounts which a node reads again and again are looked up in the tree once. Must not know
what a block is, nor what the values mean. A cache: without it everything comes out the same, later.
"""

from collections.abc import Mapping
from typing import Final

from chainkit.merkle import Tree
from chainkit.state import State

MOST: Final = 16_384
"""Values that are kept: about 5 MB of accounts."""


class AtHand:
    """What is known of one tree, the one that `move` named last; of any other tree nothing is known."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._tree: Tree | None = None
        self._values: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._values)

    def state(self, tree: Tree) -> State:
        """The state of a tree, to read or to go on from until the next `move`."""
        return State(tree, self._values if tree is self._tree else None)

    def move(self, before: Tree, after: Tree, values: Mapping[bytes, bytes]) -> None:
        """Go on from a tree to the one that follows it. ``values`` are of the latter: all that changed, and more."""
        if before is not self._tree or len(self._values) > self._most:
            self._values = {}
        self._values.update(values)
        self._tree = after
