"""One audit: whatever somebody shows of L1, read in order, judged, and held against the state that it ends in.

Responsible for the order of reading and for saying that somebody lies. Must not know where it is read from.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from layerlab.audit.l1 import L1, LieError
from layerlab.audit.plain import MALFORMED, Plain
from layerlab.audit.verdict import Verdict

Progress = Callable[[int, int], None]
"""Told (L1 blocks judged, L1 blocks in all)."""


class Source(Protocol):
    """Somebody who shows L1. What it returns is believed in nothing. Each raises `SourceError`."""

    name: str

    def final(self) -> int:
        """The height of a final block, the last one that there is."""

    def blocks(self, start: int) -> Sequence[Plain]:
        """``[block, certificate]`` from height ``start`` on, some of them; none if there are no more."""

    def receipts(self, start: int) -> Sequence[Sequence[bytes]]:
        """Encoded receipts of the final blocks from ``start`` on, some of them."""

    def state(self, height: int) -> Mapping[bytes, bytes] | None:
        """All of the state after a final block; None if it is not shown."""


class SourceError(Exception):
    """The source cannot be read; the message says why."""


def audit(genesis: bytes, source: Source, progress: Progress = lambda _done, _all: None) -> Verdict:
    """Judge P1 to P5 at the last final block that the source has. ``genesis``: canonical bytes.

    Raises `LieError` if what it shows is not what the validators signed, `SourceError`, `UnknownContractError`.
    """
    try:
        return _audit(genesis, source, progress)
    except MALFORMED as error:
        raise LieError(f"what {source.name} shows is malformed: {error!r}") from None


def _audit(genesis: bytes, source: Source, progress: Progress) -> Verdict:
    verdict = Verdict()
    l1 = L1(genesis, verdict)
    goal = source.final()
    state = source.state(goal)
    while l1.judged < goal:
        blocks = source.blocks(l1.height + 1)
        if not blocks:
            raise LieError(
                f"block {goal} is said to be final, and no votes show it: the last that is, is {l1.final}"
            )
        for block, certificate in blocks:
            l1.add(block, certificate)
            _judge_due(l1, source, goal, progress)
            if l1.judged >= goal:
                break
    l1.compare(state)
    return verdict


def _judge_due(l1: L1, source: Source, goal: int, progress: Progress) -> None:
    """Judge what has become final: the sets that later blocks are held against come of it."""
    while l1.due() and l1.judged < goal:
        if not l1.receipts:
            l1.receipts.extend(source.receipts(l1.judged + 1))
            if not l1.receipts:
                raise LieError(f"the receipts of final block {l1.judged + 1} are not shown")
        l1.judge_final(l1.receipts.popleft())
        progress(l1.judged, goal)
