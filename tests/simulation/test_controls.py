"""Positive controls: the simulation finds a promise broken once our own code is made to break it.

Each case changes one rule in production code and names the seed that shows it and the promise that it breaks. A
simulation that finds nothing in these finds nothing in the real code either.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from simulation.faults import draw_plan
from simulation.run import run_plan
from simulation.world import key_of

import bridge.arbitration
import bridge.batches
import bridge.books
import bridge.dispute
import bridge.withdrawals
import chainkit.execution
import l1node.disk
import rollup.duties
from chainkit.block import ValidatorSet
from chainkit.contract import Revert

Patch = Callable[[pytest.MonkeyPatch], None]


def drop_rule(module: Any, code: str) -> Patch:
    """The contract no longer refuses what it refuses with this code."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        real = module.require

        def require(condition: bool, refusal: str, message: str) -> None:
            if refusal != code:
                real(condition, refusal, message)

        monkeypatch.setattr(module, "require", require)

    return patch


def replace(target: Any, name: str, value: Any) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(target, name, value)


def half_is_a_quorum(self: ValidatorSet, stake: int) -> bool:
    return 2 * stake >= sum(validator.stake for validator in self.validators)


def nothing_is_burned(self: bridge.books.Books, winner: bytes, amount: int) -> tuple[int, int]:
    self.return_bond(winner, amount)
    return amount, 0


def skim_the_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gwei of every fee on L2 is lost."""
    real, vault = chainkit.execution._add, key_of("vault").address

    def add(state: Any, address: bytes, amount: int) -> None:
        real(state, address, amount - (address == vault))

    monkeypatch.setattr(chainkit.execution, "_add", add)
    monkeypatch.setattr(chainkit.execution, "check_supply", lambda *_: None)


def swap_the_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.arbitration, "DEFENDER", "challenger")
    monkeypatch.setattr(bridge.arbitration, "CHALLENGER", "defender")


def nobody_challenges(_: Any) -> Iterator[Any]:
    return iter(())


def hurry_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block of a side's clock no longer counts as its own."""

    def require_timed_out(dispute: Any, height: int) -> None:
        if bridge.dispute.clock_left(dispute, height) > 0:
            raise Revert("clock_running", "not yet")

    monkeypatch.setattr(bridge.arbitration, "require_timed_out", require_timed_out)


CASES: dict[str, tuple[str, int, Patch]] = {
    "half of the stake is a quorum": ("P6", 16, replace(ValidatorSet, "is_quorum", half_is_a_quorum)),
    "votes are not kept on disk": ("P7", 1, replace(l1node.disk.Disk, "set_voted", lambda *_: None)),
    "a withdrawal has no nullifier": ("P3", 16, drop_rule(bridge.withdrawals, "already_claimed")),
    "an exit has no nullifier": ("P3", 12, drop_rule(bridge.withdrawals, "already_exited")),
    "whoever claims says who is paid": ("P18", 16, drop_rule(bridge.withdrawals, "wrong_withdrawal")),
    "the window is not waited for": ("P13", 16, drop_rule(bridge.batches, "too_early")),
    "a chess clock is a block short": ("P13", 34, hurry_the_clock),
    "overdue messages may be left out": ("P16", 2, drop_rule(bridge.batches, "inbox_overdue")),
    "a lost bond is not burned": ("P11", 16, replace(bridge.books.Books, "forfeit_bond", nothing_is_burned)),
    "the fee vault loses a gwei": ("P11", 16, skim_the_vault),
    "the verdict goes to the wrong side": ("P12", 16, swap_the_sides),
    "nobody challenges": ("P12", 16, replace(rollup.duties, "challenge_duties", nobody_challenges)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    promise, seed, patch = CASES[name]
    patch(monkeypatch)
    result = run_plan(draw_plan(seed))
    assert result.failures
    assert promise in result.failures[0], result.failures[0]


def test_the_same_seeds_pass_with_the_rules_as_they_are() -> None:
    for seed in sorted({seed for _, seed, _ in CASES.values()}):
        result = run_plan(draw_plan(seed))
        assert not result.failures, (seed, result.failures)
