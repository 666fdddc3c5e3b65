"""The rows of docs/PERFORMANCE.md: which figure each shows, and the target of issue 5 beside it.

Responsible for what is wanted. Must not know how anything is measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

Values = Mapping[str, float]
"""Medians by ``benchmark.figure``; ratios to the signature limit by ``benchmark.figure/limit``."""
Met = Callable[[Values], bool | None]
"""Whether the target is met; None: it cannot be said from these results."""


@dataclass(frozen=True)
class Row:
    """``figures`` stand in one cell; ``wanted`` is the target as words, each of ``met`` a part of it."""

    what: str
    figures: tuple[str, ...]
    wanted: str
    met: tuple[Met, ...] = ()


def at_least(figure: str, bound: float) -> Met:
    return lambda values: None if figure not in values else values[figure] >= bound


def at_most(figure: str, bound: float) -> Met:
    return lambda values: None if figure not in values else values[figure] <= bound


def times(figure: str, factor: float, *others: str) -> Met:
    """At least ``factor`` times the best of ``others``."""

    def met(values: Values) -> bool | None:
        known = [values[other] for other in others if other in values]
        return None if figure not in values or not known else values[figure] >= factor * max(known)

    return met


def at_most_over(figure: str, other: str, more: float) -> Met:
    """At most ``other`` and ``more``."""
    both = (figure, other)
    return lambda values: (
        None if any(f not in values for f in both) else values[figure] <= values[other] + more
    )


def no_faster_than_log(prefix: str, sizes: tuple[int, ...]) -> Met:
    """A tenfold size adds no more at the end than the tenfold before did (a quarter is noise).

    The first size cannot tell: a block touches all of a thousand accounts, but not of ten thousand.
    """

    def met(values: Values) -> bool | None:
        known = [values[f"{prefix}{size}"] for size in sizes[1:] if f"{prefix}{size}" in values]
        if len(known) < len(sizes) - 1:
            return None
        steps = [after - before for before, after in pairwise(known)]
        return steps[-1] <= 1.25 * max(steps[:-1])

    return met


SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
ANVIL: Final = ("anvil.single", "anvil.batch")

ROWS: Final = (
    Row(
        "L2 transfers end to end, bulk (MessagePack, 500 a request)",
        ("l2_bulk.rate",),
        ">= 0.5 x the two-process signature limit and >= 3 x anvil's best",
        (at_least("l2_bulk.rate/limit", 0.5), times("l2_bulk.rate", 3, *ANVIL)),
    ),
    Row(
        "L2 transfers end to end, one a request, 16 connections",
        ("l2_single.rate",),
        ">= 1 x anvil's same case",
        (times("l2_single.rate", 1, "anvil.single"),),
    ),
    Row(
        "anvil beside it: one a request over 16 connections; 500 a JSON-RPC batch",
        ("anvil.single", "anvil.batch"),
        "",
    ),
    Row(
        "L1 transfers final, 4 validators on the same cores",
        ("l1_final.rate",),
        ">= 2,000",
        (at_least("l1_final.rate", 2000),),
    ),
    Row(
        "CPU per L2 transfer, all of the sequencer's processes",
        ("l2_bulk.cpu",),
        "<= 100 us, at least half of it inside libsodium: <= 2 verifications",
        (at_most("l2_bulk.cpu", 100), at_most("l2_bulk.cpu/limit", 2)),
    ),
    Row(
        "receipt latency at 500/s offered, p50 / p99",
        ("latency.p50", "latency.p99"),
        "<= 15 ms / <= 60 ms",
        (at_most("latency.p50", 15), at_most("latency.p99", 60)),
    ),
    Row(
        "deposit: sent -> usable on L2 (and sent -> final on L1)",
        ("deposit.usable", "deposit.final"),
        "<= finality + 2 slots",
        (at_most_over("deposit.usable", "deposit.final", 2),),
    ),
    Row(
        "verifier alone: derive from L1 and compare",
        ("verifier.rate",),
        ">= 1.2 x the sequencer's rate",
        (times("verifier.rate", 1.2, "l2_bulk.rate"),),
    ),
    Row(
        "bulk with the full stack (4 validators, verifier, bridge) on the same cores; until all of it is final on L1",
        ("full_stack.rate", "full_stack.caught_up"),
        "given; nothing falls behind without bound",
    ),
    Row(
        "one-step proof with 10^6 accounts: bytes / contract time",
        ("one_step.bytes", "one_step.time"),
        "<= 8 KiB / <= 3 ms",
        (at_most("one_step.bytes", 8192), at_most("one_step.time", 3)),
    ),
    Row(
        "dispute over 10,000 steps: moves of the defender / of the challenger",
        ("dispute.defender", "dispute.challenger"),
        "<= 6 rounds of each side",
        (at_most("dispute.defender", 6), at_most("dispute.challenger", 6)),
    ),
    Row(
        "L1 bytes per L2 transfer, signature included (addresses known / named for the first time)",
        ("bytes_on_l1.known", "bytes_on_l1.first"),
        "<= 80",
        (at_most("bytes_on_l1.known", 80),),
    ),
    Row(
        "state root of a block of 1,000 transfers with 10^3, 10^4, 10^5, 10^6 accounts",
        tuple(f"state_root.n{size}" for size in SIZES),
        "grows no faster than log n; <= 40 ms at 10^6",
        (at_most("state_root.n1000000", 40), no_faster_than_log("state_root.n", SIZES)),
    ),
    Row(
        "start of a sequencer with 10^6 accounts on disk",
        ("million.start",),
        "<= 15 s",
        (at_most("million.start", 15),),
    ),
    Row(
        "`layerlab up` to the first final block, 0.5 s slots",
        ("start.first_final",),
        "<= 6 s",
        (at_most("start.first_final", 6),),
    ),
    Row(
        "memory of the sequencer with 10^6 accounts, all its processes",
        ("million.memory",),
        "<= 1,536 MiB",
        (at_most("million.memory", 1536),),
    ),
    Row(
        "batch calldata of 10,000 transfers: the contract's submission check",
        ("submission_check.time",),
        "<= 150 ms",
        (at_most("submission_check.time", 150),),
    ),
)
