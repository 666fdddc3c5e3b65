"""Four validators in one process, over a network that does its worst until it settles: safe, and then live.

A failing seed is replayed with ``LAYERLAB_SEED=<n> pytest tests/l1node/test_network.py``.
"""

import os
from collections import Counter

import pytest
from l1_simulation import HEAL_SLOT, Disk, Simulation, Weather, offences

from chainkit.block import ValidatorSet, Vote
from l1node.actions import Action, EvidenceFound, PersistVoted
from l1node.observer import Observer

SEEDS = [int(os.environ["LAYERLAB_SEED"])] if "LAYERLAB_SEED" in os.environ else range(1, 221)

LIVE_SLOTS = {"": 12, "faults": 32, "twins": 32}
"""Slots after healing in which a block of the settled time is final on every honest node (promise P9).

Streamlet needs three leaders in a row that are honest; a dishonest one of four leads a quarter of the slots.
"""

TWO_TWINS = Weather(byzantine="twins")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_network_is_safe_and_after_healing_live(seed: int) -> None:
    simulation = Simulation(seed)
    limit = LIVE_SLOTS[simulation.weather.byzantine]
    live = simulation.run(HEAL_SLOT + limit)
    simulation.check()
    assert live is not None, f"no finality within {limit} slots: LAYERLAB_SEED={seed}, {simulation.weather}"


def test_every_fault_and_every_defence_is_seen() -> None:
    """A simulation that never reaches the rare branches proves nothing about them."""
    seen: Counter[str] = Counter()
    for seed in range(1, 65):  # the rarest, an unknown parent, is met in the 62nd
        simulation = Simulation(seed)
        simulation.run(HEAL_SLOT + LIVE_SLOTS[simulation.weather.byzantine])
        simulation.check()
        seen += simulation.seen
    expected = {
        "crash",
        "drop",
        "RequestBlocks",
        "double-vote",
        "double-propose",
        "vote-lower",
        "refused: duplicate",
        "refused: invalid-block",
        "refused: stale",
        "refused: unknown-parent",
    }
    assert expected <= set(seen), expected - set(seen)


def test_a_seed_names_one_run() -> None:
    """Else a failing seed could not be replayed."""
    first, second = Simulation(7), Simulation(7)
    assert first.run(HEAL_SLOT) == second.run(HEAL_SLOT)
    assert first.seen == second.seen
    assert [node.said for node in first.nodes] == [node.said for node in second.nodes]


# --- positive controls: what the simulation would notice -----------------------------------------------------


def test_two_of_four_can_fork_the_chain_and_are_named() -> None:
    """Beyond a third of stake there is no safety; but whoever broke it can be shown (promise P6)."""
    simulation = Simulation(1, TWO_TWINS, dishonest=2)
    simulation.split("v0b", "v1b", "v3")
    simulation.run(HEAL_SLOT - 1)

    assert simulation.conflict() is not None
    with pytest.raises(AssertionError, match="two final blocks"):
        simulation.check()
    validators = simulation.chain.validators(simulation.chain.genesis_tree, 1)
    for culprits in (_culprits_among_all_messages(simulation), _culprits_found_by_a_follower(simulation)):
        assert 3 * sum(validators.stake_of(culprit) for culprit in culprits) >= validators.total
        assert culprits.isdisjoint(node.key.address for node in simulation.honest)


def test_conflicting_final_blocks_always_imply_evidence_against_a_third_of_stake() -> None:
    conflicts = 0
    for seed in range(1, 31):
        weather = Weather(byzantine="twins", partitions=True, drop=0.05)
        simulation = Simulation(seed, weather, dishonest=2)
        simulation.run(HEAL_SLOT - 1)
        culprits = _culprits_among_all_messages(simulation)
        assert culprits.isdisjoint(node.key.address for node in simulation.honest)
        if simulation.conflict() is not None:
            conflicts += 1
            assert len(culprits) == 2, "two of four equal validators, or there is none to hold to account"
    assert conflicts > 0


def _culprits_among_all_messages(simulation: Simulation) -> set[bytes]:
    messages = [message for node in simulation.nodes for message in node.said]
    return {culprit for culprit, _, _ in offences(messages, simulation.chain.rules.chain_id)}


def _culprits_found_by_a_follower(simulation: Simulation) -> set[bytes]:
    chain = simulation.chain
    follower = Observer(chain, final=chain.genesis_block, final_certificate=None)
    actions: list[Action] = []
    votes = [message for node in simulation.nodes for message in node.said if isinstance(message, Vote)]
    for vote in sorted(votes, key=lambda vote: vote.slot):
        actions += follower.on_message(vote, chain.slot_time(vote.slot))
    evidence = [action.evidence for action in actions if isinstance(action, EvidenceFound)]
    return {e.first.voter for e in evidence if isinstance(e.first, Vote)}


def test_it_would_notice_votes_that_are_not_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    perform = Disk.perform

    def forgetful(disk: Disk, action: Action) -> None:
        if not isinstance(action, PersistVoted):
            perform(disk, action)

    monkeypatch.setattr(Disk, "perform", forgetful)
    assert _some_seed_fails("is slashable")


def test_it_would_notice_a_quorum_of_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ValidatorSet, "is_quorum", lambda self, stake: 2 * stake >= self.total > 0)
    assert _some_seed_fails("two final blocks")


def _some_seed_fails(message: str) -> bool:
    for seed in range(1, 200):
        simulation = Simulation(seed)
        try:
            simulation.run(HEAL_SLOT)
            simulation.check()
        except AssertionError as failure:
            if message in str(failure):
                return True
    return False
