"""A devnet's directory and time: what is resumed, what is refused with one line, what is deleted and what never."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from stub_devnet import StubDevnet, processes_in, small_config

from chainkit.clock import rebase
from chainkit.genesis import genesis_from_json
from layerlab.config import DevnetConfig, DevnetError, default_settings
from layerlab.devnet import Devnet
from layerlab.devtime import CRASH_MARGIN_SECONDS


def _one_line(error: pytest.ExceptionInfo[DevnetError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    return line


# --- making and opening ---


def test_a_new_devnet_has_both_genesis_files_and_a_clock_that_stands(devnet: StubDevnet) -> None:
    l1 = genesis_from_json(devnet.layout.genesis_file.read_bytes())
    l2 = genesis_from_json(devnet.layout.l2_genesis_file.read_bytes())
    assert l1.hash().hex() == devnet.genesis_hash
    assert l2 == devnet.l2_genesis()
    instant, rate = devnet.time.now()
    assert rate == 0.0
    assert 0 < l1.time / 1000 - instant < 1
    assert StubDevnet.open(devnet.directory).config == devnet.config


def test_a_directory_of_others_is_neither_used_nor_deleted(place: Path) -> None:
    place.mkdir()
    (place / "data").mkdir()
    (place / "data" / "thesis.txt").write_text("mine")
    for act in (
        lambda: StubDevnet.create(place, small_config()),
        lambda: StubDevnet.remove(place),
        lambda: StubDevnet.open_or_create(place, fresh=True),
    ):
        with pytest.raises(DevnetError) as caught:
            act()
        assert "was not made by layerlab" in _one_line(caught)
    assert (place / "data" / "thesis.txt").read_text() == "mine"


def test_fresh_deletes_what_layerlab_made_and_nothing_else(devnet: StubDevnet) -> None:
    (devnet.directory / "notes.txt").write_text("mine")
    (devnet.layout.snapshots / "one").mkdir(parents=True)
    devnet.layout.data("bridge").mkdir(parents=True)
    StubDevnet.remove(devnet.directory)
    left = {path.name for path in devnet.directory.iterdir()}
    assert left == {"notes.txt", "snapshots", "devnet.lock"}
    (devnet.directory / "notes.txt").unlink()
    again = StubDevnet.open_or_create(devnet.directory, small_config(), fresh=True)
    assert again.genesis_hash
    StubDevnet.remove(devnet.directory / "missing")


def test_fresh_does_not_follow_a_link_out_of_the_directory(devnet: StubDevnet, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").write_text("mine")
    (devnet.directory / "logs").symlink_to(outside)
    with pytest.raises(DevnetError):
        StubDevnet.remove(devnet.directory)
    assert (outside / "thesis.txt").read_text() == "mine"
    assert devnet.layout.exists, "the mark goes last"


def test_there_is_no_devnet_where_there_is_none(place: Path) -> None:
    with pytest.raises(DevnetError) as caught:
        StubDevnet.open(place)
    assert "make one with layerlab up" in _one_line(caught)
    with pytest.raises(DevnetError):
        StubDevnet.open(Path("/proc/1/nothing"))


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"config": {}}', '{"config": 1, "genesis": "", "running": {}}', "\x00"],
)
def test_a_mark_that_cannot_be_read_says_what_to_do(devnet: StubDevnet, content: str) -> None:
    devnet.layout.mark.write_text(content)
    with pytest.raises(DevnetError) as caught:
        StubDevnet.open(devnet.directory)
    assert "cannot be read" in _one_line(caught)
    assert "--fresh" in str(caught.value)


@pytest.mark.parametrize("name", ["genesis/l1.json", "clock.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe", b"[" * 5000])
def test_a_damaged_devnet_says_what_to_do(devnet: StubDevnet, name: str, content: bytes | None) -> None:
    file = devnet.directory / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(DevnetError) as caught:
        StubDevnet.open(devnet.directory)
    assert "is damaged" in _one_line(caught)
    assert "--fresh" in str(caught.value)


def test_a_genesis_of_another_devnet_is_refused(devnet: StubDevnet, tmp_path: Path) -> None:
    other = StubDevnet.create(tmp_path / "other", replace(small_config(), slot_ms=200))
    devnet.layout.genesis_file.write_bytes(other.layout.genesis_file.read_bytes())
    with pytest.raises(DevnetError, match="its genesis file is another chain's"):
        StubDevnet.open(devnet.directory)


def test_a_devnet_of_another_configuration_is_not_resumed(devnet: StubDevnet) -> None:
    other = replace(devnet.config, settings=default_settings(challenge_window=99))
    with pytest.raises(DevnetError) as caught:
        StubDevnet.open_or_create(devnet.directory, other)
    assert "its challenge_window is 100, not 99" in _one_line(caught)
    more = DevnetConfig(validators=5)
    with pytest.raises(DevnetError, match="its validators is 2, not 5"):
        StubDevnet.open_or_create(devnet.directory, more)


def test_ports_may_change_between_runs_but_not_in_one(devnet: StubDevnet) -> None:
    moved = devnet.config.with_free_ports()
    again = StubDevnet.open_or_create(devnet.directory, moved)
    assert again.config.ports == moved.ports
    assert StubDevnet.open_or_create(devnet.directory).config.ports == moved.ports
    again.up()
    with pytest.raises(DevnetError, match="the devnet is up"):
        StubDevnet.open_or_create(devnet.directory, moved.with_free_ports())
    again.down()


def test_one_command_at_a_time(devnet: StubDevnet) -> None:
    with devnet.layout.locked(), pytest.raises(DevnetError) as caught, devnet.layout.locked(seconds=0.1):
        pytest.fail("two hold the lock")
    assert "another layerlab command is at work" in _one_line(caught)
    with devnet.layout.locked(seconds=0):
        pass


# --- time ---


def test_time_stands_while_the_devnet_is_down(devnet: StubDevnet) -> None:
    devnet.up()
    devnet.down()
    stopped = devnet.time.standing()
    past = time.time() - 3 * 86_400  # as if it had been down for days
    rebase(devnet.layout.clock_file, stopped, rate=0.0, wall=lambda: past)
    assert devnet.time.standing() == stopped
    before = time.time()
    devnet.up()
    instant, rate = devnet.time.now()
    assert rate == 1.0
    assert stopped < instant <= stopped + (time.time() - before)
    devnet.down()


def test_after_a_crash_time_goes_on_from_the_last_write(devnet: StubDevnet) -> None:
    devnet.up()
    for process in processes_in(devnet.directory):
        process.kill()
        process.wait(20)
    # The crash was an hour ago, and the clock has run on since.
    wall = time.time()
    rebase(devnet.layout.clock_file, 5_000_000.0, wall=lambda: wall - 7200)
    for name in devnet.config.services:
        os.utime(devnet.layout.data(name) / "state", (wall - 3600, wall - 3600))
    expected = 5_000_000.0 + 3600 + CRASH_MARGIN_SECONDS
    assert devnet.time.standing() == pytest.approx(expected, abs=0.01)
    assert devnet.down() == []
    assert devnet.time.now() == (pytest.approx(expected, abs=0.01), 0.0)


def test_a_last_write_in_the_future_does_not_take_time_there(devnet: StubDevnet) -> None:
    file = devnet.layout.data("bridge") / "state"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    os.utime(file, (time.time() + 86_400,) * 2)
    rebase(devnet.layout.clock_file, 1_000.0)
    assert devnet.time.standing() < 1_000.0 + 60


def test_a_failed_start_costs_no_time(devnet: StubDevnet, modes: dict[str, str]) -> None:
    modes["bridge"] = "die"
    before = devnet.time.standing()
    with pytest.raises(DevnetError):
        devnet.up()
    assert devnet.time.now()[1] == 0.0
    assert before <= devnet.time.standing() < before + 60


def test_warp_makes_blocks_final_fast_and_time_runs_as_usual_after(devnet: StubDevnet) -> None:
    devnet.up()
    start = devnet.final_height()
    assert devnet.warp_blocks(30) >= start + 30
    schedule = devnet.time.schedule()
    assert schedule[-1].rate == 1.0
    assert max(segment.rate for segment in schedule) > 1.0
    devnet.down()
    with pytest.raises(DevnetError, match="no validator answers"):
        devnet.warp_to(10**6)


def test_a_warp_that_is_killed_leaves_a_return_to_normal_planned(devnet: StubDevnet) -> None:
    devnet.time.run(10.0)
    assert [segment.rate for segment in devnet.time.schedule()][-2:] == [10.0, 1.0]
    devnet.time.run(20.0)
    assert [segment.rate for segment in devnet.time.schedule()][-2:] == [20.0, 1.0]


def test_status_tells_of_those_that_answer_and_those_that_do_not(devnet: StubDevnet) -> None:
    devnet.up()
    devnet.kill("verifier")
    status = json.loads(json.dumps(devnet.status()))
    assert status["running"]
    assert status["time"]["rate"] == 1.0
    assert status["services"]["validator-0"]["up"]
    assert status["services"]["validator-0"]["resident_bytes"] > 0
    dead = status["services"]["verifier"]
    assert (dead["up"], dead["pid"], bool(dead["error"])) == (False, None, True)
    devnet.down()
    assert not any(service["up"] for service in devnet.status()["services"].values())


def test_two_devnets_run_side_by_side(devnet: StubDevnet, tmp_path: Path) -> None:
    other = StubDevnet.create(tmp_path / "second", small_config())
    devnet.up()
    try:
        other.up()
        assert devnet.down() == devnet.config.services
        assert other.is_running
    finally:
        other.down()


def test_the_real_thing_has_the_real_commands(place: Path) -> None:
    real = Devnet.create(place, small_config())
    assert "l1node" in real.supervisor.command("validator-0")
