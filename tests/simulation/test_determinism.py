"""One seed, one trace: on every run, under every hash seed, and with nothing shared between the nodes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from simulation.faults import draw_plan
from simulation.run import run_plan

SUPPORT = Path(__file__).parents[1] / "support"
SEED = 1042
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


def test_another_seed_gives_another_trace() -> None:
    assert run_plan(draw_plan(1, "calm")).trace != run_plan(draw_plan(2, "calm")).trace
