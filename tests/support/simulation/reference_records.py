"""What the reference keeps of a batch and of a dispute, besides the contract's own records.

Responsible for the truth about a batch's steps and for the arithmetic of a game. Shares no code with bridge or rollup.
"""

from dataclasses import dataclass, field
from typing import Any

from simulation.reference_l2 import L2State
from simulation.reference_merkle import list_root, tagged


@dataclass
class Batch:
    """A batch and the truth about it. ``state`` is what L2 really is after it."""

    index: int
    parent: int
    first_block: int
    blocks: int
    inbox_to: int
    steps: list[Any]
    leaves: list[tuple[str, bytes]]
    claimed: bytes
    root: bytes
    state: L2State
    start: L2State
    line_true: bool
    proposer: bytes
    bond: int
    height: int
    status: str = "pending"

    @property
    def steps_root(self) -> bytes:
        return list_root([tagged(tag, data) for tag, data in self.leaves])


@dataclass
class Dispute:
    """A game; positions count steps, ``clocks`` are defender's and challenger's blocks left."""

    index: int
    batch: int
    challenger: bytes
    claimed: bytes
    bond: int
    low: int
    high: int
    low_root: bytes
    high_root: bytes
    clocks: list[int]
    last: int
    turn: int = 0
    points: list[bytes] = field(default_factory=list)
    open: bool = True
    winner: str = ""

    def cuts(self, k: int) -> list[int]:
        n = min(k, self.high - self.low)
        return [self.low + i * (self.high - self.low) // n for i in range(n + 1)]

    def spend(self, height: int) -> None:
        self.clocks[self.turn] -= height - self.last
        assert self.clocks[self.turn] >= 0, f"P13 a move in dispute {self.index} after its clock ran out"
        self.last = height

    def narrowed(self) -> None:
        self.turn = 1 if self.high - self.low == 1 else 0
        self.points = []
