"""Seeds of the simulation as tests: copied beside the tree under test as ``test_seeds``.

Reads ``MUTANTS_SEEDS``: numbers with commas between.
"""

import os

import pytest
from simulation.faults import draw_plan
from simulation.run import run_plan


@pytest.mark.parametrize("seed", [int(seed) for seed in os.environ["MUTANTS_SEEDS"].split(",")])
def test_seed(seed: int) -> None:
    result = run_plan(draw_plan(seed))
    assert not result.failures, result.failures[0]
