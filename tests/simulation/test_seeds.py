"""A few seeds of the simulation of the whole system: one of each story. Many more: ``make sim SEEDS=300``."""

import pytest
from simulation.faults import STORIES, draw_plan
from simulation.run import run_plan
from simulation.runner import keep_faults, shrink


@pytest.mark.parametrize("story", STORIES)
def test_the_promises_hold_in_every_story(story: str) -> None:
    result = run_plan(draw_plan(1000 + STORIES.index(story), story))
    assert not result.failures, "\n".join([*result.failures, *result.story])
    assert result.height > 20


def test_a_calm_network_makes_a_final_block_in_every_slot_but_the_first_and_the_last_ones() -> None:
    plan = keep_faults(draw_plan(2000, "calm"), [])
    result = run_plan(plan)
    assert not result.failures
    assert result.height >= plan.end - 4


def test_a_failure_is_shrunk_to_the_faults_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the lie is needed for a verifier that never challenges to be found out."""
    monkeypatch.setattr("rollup.duties.challenge_duties", lambda _: iter(()))
    plan = draw_plan(16)
    lies = [index for index, fault in enumerate(plan.faults) if fault.kind == "lie"]
    assert lies
    assert len(plan.faults) > 1
    kept, result = shrink(plan, budget=10)
    assert set(kept) <= set(range(len(plan.faults)))
    assert any("P12" in failure for failure in result.failures)
    assert any(plan.faults[index].kind == "lie" for index in kept)
    assert len(kept) < len(plan.faults)
