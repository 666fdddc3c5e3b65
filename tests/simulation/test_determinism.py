"""One seed, one trace: on every run, under every hash seed, and with nothing shared between the nodes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from simulation.faults import draw_plan
from simulation.run import run_plan
from simulation.runner import keep_faults

SUPPORT = Path(__file__).parents[1] / "support"
SEED = 1042
CRASHING_SEED = 1046
PROGRAM = f"""
from simulation.faults import draw_plan
from simulation.run import run_plan
result = run_plan(draw_plan({SEED}, "storm"))
print(result.trace, result.height, result.failures)
"""


def run_with(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(SUPPORT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_seed_gives_one_trace_under_any_hash_seed() -> None:
    assert run_with("1") == run_with("4321")


def test_sharing_work_between_nodes_changes_nothing() -> None:
    """Blocks executed once for all or once each, signatures checked once or by everybody: the same trace."""
    plan = draw_plan(SEED, "storm")
    apart = replace(plan, setup=replace(plan.setup, shared=False))
    shared = replace(plan, setup=replace(plan.setup, shared=True))
    one, other = run_plan(apart), run_plan(shared)
    assert (one.trace, one.failures) == (other.trace, other.failures)


def test_stores_in_memory_and_in_sqlite_give_the_same_trace() -> None:
    """But for torn writes: what of one is left depends on what the bytes are."""
    plan = draw_plan(CRASHING_SEED, "storm")
    tears = {
        i for i, f in enumerate(plan.faults) if f.kind == "flap" or (f.kind == "crash" and "torn" in f.value)
    }
    plan = keep_faults(plan, [i for i in range(len(plan.faults)) if i not in tears])
    modes = {fault.value[1] for fault in plan.faults if fault.kind == "crash"}
    assert modes == {"before", "after", "error"}
    one, other = (
        run_plan(replace(plan, setup=replace(plan.setup, sqlite=sqlite))) for sqlite in (True, False)
    )
    assert (one.trace, one.failures) == (other.trace, other.failures)


def test_another_seed_gives_another_trace() -> None:
    assert run_plan(draw_plan(1, "calm")).trace != run_plan(draw_plan(2, "calm")).trace
