"""Snapshots with stubs for services: whole or not at all, checked, finished when interrupted, time included."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stub_devnet import StubDevnet, processes_in

from layerlab import archive
from layerlab.config import DevnetError
from layerlab.snapshot import list_snapshots, restore_snapshot, save_snapshot


def _write(devnet: StubDevnet, text: str) -> None:
    """What a service that is down has on disk."""
    for name in devnet.config.services:
        directory = devnet.layout.data(name) / "deep"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "chain.db").write_text(f"{name} {text}")


def _read(devnet: StubDevnet) -> set[str]:
    files = devnet.layout.directory.glob("data/*/deep/chain.db")
    return {file.read_text().partition(" ")[2] for file in files}


@pytest.fixture
def saved(devnet: StubDevnet) -> StubDevnet:
    """A devnet that is down, with the snapshot "one"; its data was "old" then and is "new" now."""
    _write(devnet, "old")
    save_snapshot(devnet, "one")
    _write(devnet, "new")
    return devnet


# --- the whole world ---


def test_a_running_world_is_stopped_copied_and_goes_on(devnet: StubDevnet) -> None:
    devnet.up()
    pids = {name: running.pid for name, running in devnet.supervisor.running.items()}
    said: list[str] = []
    shown = save_snapshot(devnet, "one", said.append)
    assert "copying" in said
    copy = devnet.layout.snapshots / "one" / "data"
    states = [json.loads((copy / name / "state").read_text()) for name in devnet.config.services]
    assert all(state["clean"] for state in states), "services ended cleanly before they were copied"
    assert all(0 <= shown["virtual"] - state["instant"] < 60 for state in states)
    assert shown["height"] is not None
    assert shown["virtual"] == pytest.approx(devnet.time.now()[0], abs=60)
    assert all(devnet.supervisor.alive(name) for name in devnet.config.services)
    assert not pids.items() & {n: r.pid for n, r in devnet.supervisor.running.items()}.items()
    assert devnet.time.now()[1] == 1.0
    devnet.down()


def test_restored_twice_it_begins_at_the_same_instant_both_times(devnet: StubDevnet) -> None:
    devnet.up()
    shown = save_snapshot(devnet, "one")
    saved = {
        name: devnet.layout.snapshots / "one" / "data" / name / "state" for name in devnet.config.services
    }
    for _ in range(2):
        devnet.warp_blocks(30)
        devnet.down()
        restored = restore_snapshot(devnet, "one")
        assert restored == shown
        assert devnet.time.now() == (shown["virtual"], 0.0)
        assert all(devnet.state(name) == json.loads(file.read_text()) for name, file in saved.items())
        devnet.up()
        assert devnet.time.now()[0] >= shown["virtual"]
    restore_snapshot(devnet, "one")
    assert all(devnet.supervisor.alive(name) for name in devnet.config.services)
    devnet.down()


def test_what_was_dead_stays_dead(devnet: StubDevnet) -> None:
    devnet.up()
    devnet.kill("verifier")
    save_snapshot(devnet, "one")
    assert not devnet.supervisor.alive("verifier")
    restore_snapshot(devnet, "one")
    assert not devnet.supervisor.alive("verifier")
    assert len(processes_in(devnet.directory)) == 4
    devnet.down()


def test_a_world_that_is_down_stays_down(saved: StubDevnet) -> None:
    assert restore_snapshot(saved, "one")["height"] is None
    assert _read(saved) == {"old"}
    assert not processes_in(saved.directory)


def test_data_that_is_newer_than_the_snapshot_is_gone_after_a_restore(saved: StubDevnet) -> None:
    (saved.layout.data("bridge") / "later.db").write_text("x")
    shutil.rmtree(saved.layout.data("verifier"))
    restore_snapshot(saved, "one")
    assert not (saved.layout.data("bridge") / "later.db").exists()
    assert saved.layout.data("verifier").exists()


def test_a_snapshot_outlives_fresh_and_brings_its_own_chain_back(saved: StubDevnet) -> None:
    old = saved.genesis_hash
    other = replace(saved.config, slot_ms=200)
    again = StubDevnet.open_or_create(saved.directory, other, fresh=True)
    assert again.genesis_hash != old
    restore_snapshot(again, "one")
    found = StubDevnet.open(saved.directory)
    assert (found.genesis_hash, found.config) == (old, saved.config)


def test_a_restore_keeps_the_ports_of_now(saved: StubDevnet) -> None:
    moved = saved.config.with_free_ports()
    saved.change_ports(moved)
    restore_snapshot(saved, "one")
    assert StubDevnet.open(saved.directory).config.ports == moved.ports


# --- names ---


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", ".hidden", "A", "ä", "a b", "x" * 65, "-", "a\n", "a\x00b"]
)
def test_a_name_that_is_none_is_refused(saved: StubDevnet, name: str) -> None:
    for act in (save_snapshot, restore_snapshot):
        with pytest.raises(DevnetError, match="is no snapshot name") as caught:
            act(saved, name)
        assert "\n" not in str(caught.value)


def test_an_unknown_snapshot_is_told_with_what_there_is(saved: StubDevnet) -> None:
    save_snapshot(saved, "two")
    with pytest.raises(DevnetError, match=r"^no snapshot 'three'; there are: one, two$"):
        restore_snapshot(saved, "three")
    assert _read(saved) == {"new"}


def test_without_snapshots_there_are_none(devnet: StubDevnet) -> None:
    assert list_snapshots(devnet) == []
    with pytest.raises(DevnetError, match="there are: none"):
        restore_snapshot(devnet, "one")


def test_a_snapshot_is_never_overwritten(saved: StubDevnet) -> None:
    with pytest.raises(DevnetError, match="there is a snapshot 'one' already"):
        save_snapshot(saved, "one")
    restore_snapshot(saved, "one")
    assert _read(saved) == {"old"}


# --- damage ---


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "bit": lambda place: _flip(place / "data/bridge/deep/chain.db"),
    "genesis": lambda place: _flip(place / "genesis/l1.json"),
    "missing": lambda place: (place / "data/bridge/deep/chain.db").unlink(),
    "added": lambda place: (place / "data/bridge/more.db").write_text("x"),
    "no data": lambda place: shutil.rmtree(place / "data"),
    "manifest gone wrong": lambda place: (place / "manifest.json").write_text("{"),
    "manifest of nothing": lambda place: (place / "manifest.json").write_text("{}"),
    "manifest too deep": lambda place: (place / "manifest.json").write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_snapshot_is_refused_and_nothing_changes(
    saved: StubDevnet, damage: Callable[[Path], Any]
) -> None:
    damage(saved.layout.snapshots / "one")
    standing = saved.time.standing()
    with pytest.raises(DevnetError, match="is damaged") as caught:
        restore_snapshot(saved, "one")
    assert "\n" not in str(caught.value)
    assert _read(saved) == {"new"}
    assert saved.time.standing() == standing
    assert not saved.layout.restoring.with_name(".restoring.new").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("virtual", -1),
        ("virtual", True),
        ("virtual", "1"),
        ("virtual", float("nan")),
        ("height", 1.5),
        ("files", []),
    ],
)
def test_a_manifest_with_a_bad_value_is_damage(saved: StubDevnet, field: str, value: Any) -> None:
    file = saved.layout.snapshots / "one" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(DevnetError, match="is damaged"):
        restore_snapshot(saved, "one")
    assert _read(saved) == {"new"}


def test_the_list_shows_the_damaged_beside_the_sound(saved: StubDevnet) -> None:
    save_snapshot(saved, "two")
    (saved.layout.snapshots / "one" / "manifest.json").write_text("{")
    (saved.layout.snapshots / "notes.txt").write_text("mine")
    one, two = list_snapshots(saved)
    assert (one["name"], "error" in one) == ("one", True)
    assert (two["name"], two["bytes"] > 0) == ("two", True)


# --- interruptions ---


STEPS = 26
"""At least as many as a restore takes; see the test after it."""


class Unplugged(BaseException):
    """The power is gone."""


def test_an_interrupted_save_leaves_no_half_snapshot_and_lets_the_world_go_on(
    devnet: StubDevnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    devnet.up()
    with monkeypatch.context() as patched:
        patched.setattr(archive, "write_json", _unplugged)
        with pytest.raises(Unplugged):
            save_snapshot(devnet, "one")
    assert list_snapshots(devnet) == []
    assert list(devnet.layout.snapshots.iterdir()) == []
    assert all(devnet.supervisor.alive(name) for name in devnet.config.services)
    save_snapshot(devnet, "one")
    devnet.down()


def _unplugged(*_: object) -> None:
    raise Unplugged


def test_what_a_killed_save_left_is_in_nobody_s_way(saved: StubDevnet) -> None:
    left = saved.layout.snapshots / ".two.new" / "data"
    left.mkdir(parents=True)
    assert [item["name"] for item in list_snapshots(saved)] == ["one"]
    save_snapshot(saved, "two")
    assert not left.parent.exists()


def test_a_full_disk_is_one_line_and_no_snapshot(saved: StubDevnet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", full)
        with pytest.raises(DevnetError, match=r"^the snapshot cannot be written: No space left on device$"):
            save_snapshot(saved, "two")
        with pytest.raises(DevnetError, match="snapshot 'one' cannot be read: No space left on device"):
            restore_snapshot(saved, "one")
    assert [item["name"] for item in list_snapshots(saved)] == ["one"]
    assert _read(saved) == {"new"}


@pytest.mark.parametrize("step", range(STEPS))
def test_a_restore_that_is_cut_off_anywhere_has_not_begun_or_is_finished_at_the_next_opening(
    saved: StubDevnet, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    virtual = list_snapshots(saved)[0]["virtual"]
    left = step

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Unplugged
            return real(*args, **options)

        return act

    cut = False
    with monkeypatch.context() as patched:
        for where, name in ((shutil, "copytree"), (shutil, "rmtree"), (Path, "replace"), (Path, "unlink")):
            patched.setattr(where, name, counting(getattr(where, name)))
        try:
            restore_snapshot(saved, "one")
        except Unplugged:
            cut = True
    opened = StubDevnet.open(saved.directory)
    states = _read(opened)
    assert states in ({"old"}, {"new"}), "never a mixture"
    if states == {"old"}:
        assert opened.time.now() == (virtual, 0.0)
    assert cut or states == {"old"}
    assert not opened.layout.restoring.exists() or not archive.pending(opened.layout)
    restore_snapshot(opened, "one")
    assert _read(opened) == {"old"}


def test_the_steps_of_that_test_reach_the_end(saved: StubDevnet, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            return real(*args, **options)

        return act

    with monkeypatch.context() as patched:
        for where, name in ((shutil, "copytree"), (shutil, "rmtree"), (Path, "replace"), (Path, "unlink")):
            patched.setattr(where, name, counted(getattr(where, name)))
        restore_snapshot(saved, "one")
    assert count <= STEPS


def test_nobody_else_starts_or_warps_while_the_world_stands(saved: StubDevnet) -> None:
    other = StubDevnet.open(saved.directory)
    with other.exclusive():
        for lock in ("devnet", "clock"):
            with (
                pytest.raises(DevnetError, match="another layerlab command"),
                saved.layout.locked(lock, seconds=0),
            ):
                pytest.fail("it is not exclusive")


def test_services_never_start_on_half_of_the_old_and_half_of_the_new(
    devnet: StubDevnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    devnet.up()
    save_snapshot(devnet, "one")
    saved = {
        name: devnet.layout.snapshots / "one" / "data" / name / "state" for name in devnet.config.services
    }
    real = Path.replace

    def broken(self: Path, target: Path) -> Path:
        if self.parent == devnet.layout.restoring:
            raise OSError(5, "Input/output error")
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", broken)
        with pytest.raises(DevnetError, match="the restore cannot be finished: Input/output error"):
            restore_snapshot(devnet, "one")
    assert not processes_in(devnet.directory)
    opened = StubDevnet.open(devnet.directory)
    assert all(opened.state(name) == json.loads(file.read_text()) for name, file in saved.items())
