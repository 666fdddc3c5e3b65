"""Delay attacks (P13): however many attackers, a batch is settled in a stated time, and the honest side loses nothing.

The whole of it, k = 64 in every style and a plot: ``make delay-attack``.
"""

from dataclasses import replace as replace_run
from pathlib import Path

import pytest
from delay_attack import ATTACKS, SETTLED, Run, run
from delay_report import good, write
from msgspec.structs import replace

from bridge import abi
from bridge.settings import CALLS_AFTER_A_CLOCK, SEEN_BLOCKS, finality_bound, longest_dispute
from layerlab.config import demo_config
from rollup import duties, player

SLOWEST = "last second"


def attacked(path: Path, attack: str, k: int, style: str = SLOWEST) -> Run:
    found = run(path, attack, style, k)
    assert found.settled <= found.bound, found
    assert found.final <= found.bound, found
    assert found.honest >= 0, found
    assert found.disputes >= k
    return found


def test_the_bound_is_stated_in_one_place() -> None:
    delay = SETTLED.max_move_delay
    calls = CALLS_AFTER_A_CLOCK * (SEEN_BLOCKS + 1 + delay)
    assert finality_bound(SETTLED) == SETTLED.challenge_window + 2 * SETTLED.dispute_clock + delay + calls
    assert finality_bound(demo_config().settings) > longest_dispute(demo_config().settings)
    assert finality_bound(replace(SETTLED, challenge_window=124)) == finality_bound(SETTLED) + 100


@pytest.mark.parametrize("k", [1, 4, 16])
@pytest.mark.parametrize("attack", list(ATTACKS))
def test_delay_attack_is_bounded(tmp_path: Path, attack: str, k: int) -> None:
    found = attacked(tmp_path, attack, k)
    void = attack in ("liar", "abandoned")
    assert found.outcome == (abi.REVERTED if void else abi.FINALIZED)
    assert found.attackers < 0, "it costs"


def test_delay_attack_by_sixty_four_challengers_takes_no_longer_than_by_one(tmp_path: Path) -> None:
    one, crowd = (attacked(tmp_path / str(k), "challengers", k) for k in (1, 64))
    assert one.settled == crowd.settled
    assert crowd.honest == 64 * (SETTLED.challenger_bond // 2)
    assert crowd.honest_fees < crowd.honest, "who defends is paid more than it pays"


def test_delay_attack_comes_close_to_the_bound(tmp_path: Path) -> None:
    """Control: the attackers here are no straw men. They use up both clocks."""
    found = attacked(tmp_path, "collusion", 1)
    assert found.settled > SETTLED.challenge_window + 2 * SETTLED.dispute_clock - 2 * 4


def test_delay_attack_control_without_a_bystander_two_that_collude_stop_finality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither side calls timeout: before somebody else did, their batch was pending until the bridge froze."""
    monkeypatch.setattr(player, "bystander_move", lambda *_: None)
    assert duties.player is player
    with pytest.raises(AssertionError, match="not so after"):
        run(tmp_path, "abandoned", SLOWEST, 1)


def test_delay_attack_is_reported(tmp_path: Path) -> None:
    runs = [run(tmp_path / attack, attack, "at once", 1) for attack in ATTACKS]
    assert all(map(good, runs))
    assert not good(replace_run(runs[0], settled=runs[0].bound + 1))
    assert not good(replace_run(runs[0], honest=-1))
    write(tmp_path / "out", runs)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["plot.svg", "runs.csv", "runs.json"]
    assert f"bound {runs[0].bound}" in (tmp_path / "out" / "plot.svg").read_text()
