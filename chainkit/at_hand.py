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
    """What is known of one tree, the one that `move` or `begin` named last; of any other tree nothing is known."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._tree: Tree | None = None
        self._values: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._values)

    @property
    def is_full(self) -> bool:
        """Whether the next `move` forgets everything but what it is given."""
        return len(self._values) > self._most

    def state(self, tree: Tree) -> State:
        """The state of a tree, to read or to go on from until the next `move`."""
        return State(tree, self._values if tree is self._tree else None)

    def known(self, tree: Tree, read: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """What is known of a tree until the next `move`; ``read`` is of it, too."""
        if tree is not self._tree:
            return read
        self._values.update(read)
        return self._values

    def begin(self, tree: Tree, values: Mapping[bytes, bytes]) -> None:
        """Of this tree these values are known, and of no other any."""
        self._values = dict(values)
        self._tree = tree

    def move(self, before: Tree, after: Tree, values: Mapping[bytes, bytes]) -> None:
        """Go on from a tree to the one that follows it. ``values`` are of the latter: all that changed, and more."""
        if before is not self._tree or self.is_full:
            self.begin(after, values)
        else:
            self._values.update(values)
            self._tree = after
