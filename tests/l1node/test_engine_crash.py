"""Crashes between any two actions, and restarts from what was on disk (promise P7)."""

import pytest
from l1_script import KEYS, Script, requests_in, votes_in
from l1_simulation import Disk, offences

from chainkit.block import Proposal, Vote
from l1node.actions import Broadcast, Message, VotedRecord

ME = KEYS[3]


# --- crashes (promise P7) -----------------------------------------------------------------------------------


def _story(script: Script) -> list[tuple[int, Proposal | Vote | None]]:
    """Slots with ticks, an equivocating leader, forks, and all the others' votes; times in ms."""
    story: list[tuple[int, Proposal | Vote | None]] = []
    parent = script.genesis
    for slot in range(1, 13):
        story.append((script.at(slot), None))
        if script.leader(slot) == ME:
            continue
        first = script.block(parent, slot)
        rival = script.block(parent, slot, [script.transfer(slot, parent)])
        story += [(script.at(slot, 0.1), script.propose(block)) for block in (first, rival)]
        story += [(script.at(slot, 0.2), script.vote(key, first)) for key in KEYS[:3]]
        if slot % 4 != 3:  # now and then the votes come to nothing, and the next leader goes back
            script.certify(first)
            parent = first
    return story


def _play(
    script: Script, story: list[tuple[int, Proposal | Vote | None]], crash: int
) -> tuple[list[Message], int]:
    """Play with a crash before the ``crash``-th action; then restart and play the last two slots again."""
    disk, count = Disk(script.genesis), 0
    said: list[Message] = []
    engine = script.engine()
    step = 0
    while step < len(story):
        now, message = story[step]
        actions = engine.on_tick(now) if message is None else engine.on_message(message, now)
        step += 1
        for action in actions:
            count += 1
            if count == crash:
                engine = script.engine(voted=disk.voted, final=disk.final, certificate=disk.certificate)
                for found in engine.on_blocks(disk.pending(), now):
                    disk.perform(found)
                step = max(0, step - 8)
                break
            disk.perform(action)
            if isinstance(action, Broadcast):
                said.append(action.message)
    return said, count


def test_a_crash_between_any_two_actions_never_makes_a_validator_slashable(script: Script) -> None:
    story = _story(script)
    _, total = _play(script, story, crash=0)
    assert total > 40
    for crash in range(1, total + 1):
        said, _ = _play(script, story, crash)
        assert said
        assert not offences(said, 900), f"crash before action {crash}"


def test_without_its_record_the_same_crashes_would_make_it_slashable(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = _story(script)
    monkeypatch.setattr(Disk, "perform", lambda _disk, _action: None)
    assert any(offences(_play(script, story, crash)[0], 900) for crash in range(1, 40))


def test_a_restarted_validator_that_lost_its_blocks_waits_for_them(script: Script) -> None:
    blocks = script.chain_of([2, 4, 6])
    certified = script.certified(*blocks)
    slot = script.slot_of(KEYS[0], after=7)
    low = script.block(script.genesis, slot)
    high = script.block(blocks[-1], slot)
    engine = script.engine(voted=VotedRecord(6, 3, 0))
    assert not votes_in(engine.on_message(script.propose(low), script.at(slot)))
    assert requests_in(engine.on_message(script.propose(high), script.at(slot)))
    assert votes_in(engine.on_blocks(certified, script.at(slot))) == [script.vote(ME, high)]
