"""The trace of a batch: the state after each of its steps, roots at any position, witnesses for any step.

Responsible for what both sides of a dispute need to know. A liar's trace carries its lie; everybody
else's has none. Must not know the game's rules.
"""

from collections.abc import Callable, Sequence

from chainkit.codec import Bytes32
from chainkit.execution import Rules
from chainkit.merkle import Tree
from chainkit.state import State
from rollup.stf import Step, apply_step

CHECKPOINT_EVERY = 64

Lie = Callable[[int, State], None]
"""Called after step ``i`` with the state, which it may falsify."""


class Trace:
    """Re-executes a batch on demand. Position ``n`` is the state after ``n`` steps; 0 is before the first."""

    def __init__(self, rules: Rules, start: Tree, steps: Sequence[Step], lie: Lie | None = None) -> None:
        self.rules = rules
        self.steps = steps
        self.lie = lie
        self._trees: dict[int, Tree] = {0: start}

    def tree(self, position: int) -> Tree:
        """The state after ``position`` steps. Raises `IndexError` beyond the batch."""
        if not 0 <= position <= len(self.steps):
            raise IndexError(f"position {position} of a batch of {len(self.steps)} steps")
        if position not in self._trees:
            self._advance(max(p for p in self._trees if p <= position), position)
        return self._trees[position]

    def _advance(self, start: int, position: int) -> None:
        state = State(self._trees[start])
        for i in range(start, position):
            apply_step(self.rules, state, self.steps[i])
            if self.lie is not None:
                self.lie(i, state)
            if (i + 1) % CHECKPOINT_EVERY == 0:
                self._trees[i + 1] = state.commit()
        self._trees[position] = state.commit()

    def root(self, position: int) -> Bytes32:
        """The state root after ``position`` steps."""
        return self.tree(position).root

    def witness(self, index: int) -> bytes:
        """A proof of everything that step ``index`` reads or writes, against the root before it."""
        before = self.tree(index)
        state = State(before)
        apply_step(self.rules, state, self.steps[index])
        return before.prove(state.touched())
