"""The devnet's processes, with stubs for services: starts that fail, ports, kills, recycled pids, no orphans."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from stub_devnet import StubDevnet, processes_in, small_config

from chainkit.parent import PARENT_VARIABLE
from layerlab import processes
from layerlab.config import DevnetError
from layerlab.layout import Layout
from layerlab.processes import Running, Supervisor, _undisturbed, find_services

SUPPORT = Path(__file__).parents[1] / "support"
UP = """
import sys, time
from pathlib import Path
sys.path.insert(0, {support!r})
from stub_devnet import StubDevnet
devnet = StubDevnet.open(Path(sys.argv[1]), with_parent=sys.argv[2] == "foreground")
devnet.up()
print("up", flush=True)
if sys.argv[2] == "foreground":
    time.sleep(3600)
"""


def _gone(found: list[psutil.Process]) -> None:
    """Wait until all of these have ended."""
    _, alive = psutil.wait_procs(found, timeout=20)
    assert not alive


def _up_elsewhere(place: Path, how: str) -> "subprocess.Popen[str]":
    code = UP.format(support=str(SUPPORT))
    return subprocess.Popen([sys.executable, "-c", code, str(place), how], stdout=subprocess.PIPE, text=True)


# --- starting ---


def test_up_starts_every_service_and_down_ends_every_one(devnet: StubDevnet) -> None:
    said: list[str] = []
    devnet.up(said.append)
    assert len(processes_in(devnet.directory)) == 5
    assert all(devnet.supervisor.alive(name) for name in devnet.config.services)
    assert any("validator-0" in line and "to answer" in line for line in said)
    assert any("bridge" in line and "to be ready" in line for line in said)
    assert devnet.down() == devnet.config.services
    assert not processes_in(devnet.directory)
    assert all(devnet.state(name)["clean"] for name in devnet.config.services)
    assert devnet.down() == []


def test_a_service_that_dies_at_its_start_is_named_with_its_last_words_and_the_rest_is_ended(
    devnet: StubDevnet, modes: dict[str, str]
) -> None:
    log = devnet.layout.log("verifier")
    log.parent.mkdir()
    log.write_text("words of long ago\n")
    modes["verifier"] = "die"
    with pytest.raises(DevnetError) as caught:
        devnet.up()
    first, *tail = str(caught.value).splitlines()
    assert first.startswith("verifier ended while starting; the end of")
    assert tail == ["  verifier runs in mode die", "  verifier: the moon is in the wrong phase; wait"]
    assert not processes_in(devnet.directory)
    assert not devnet.is_running
    modes.clear()
    devnet.up()
    devnet.down()


def test_a_service_that_is_never_ready_is_named(
    devnet: StubDevnet, modes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "READY_SECONDS", 3.0)
    modes["bridge"] = "deaf"
    with pytest.raises(DevnetError, match="in vain for bridge to be ready"):
        devnet.up()
    assert not processes_in(devnet.directory)


def test_a_port_in_use_is_named_before_anything_starts(devnet: StubDevnet) -> None:
    port = devnet.config.ports["verifier"]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(DevnetError) as caught:
            devnet.up()
    line = str(caught.value)
    assert line.startswith(f"port {port} (for verifier) is in use by process {os.getpid()} ")
    assert "\n" not in line
    assert not processes_in(devnet.directory)
    assert not devnet.layout.log("validator-0").exists()
    devnet.up()
    devnet.down()


def test_a_program_that_is_not_there_is_one_line(devnet: StubDevnet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devnet.supervisor, "command", lambda _: ["/no/such/program"])
    with pytest.raises(DevnetError, match=r"^validator-0 cannot be started: No such file or directory$"):
        devnet.up()


def test_up_twice_is_refused_also_from_another_process(devnet: StubDevnet) -> None:
    devnet.up()
    with pytest.raises(DevnetError, match="is up already"):
        devnet.up()
    with pytest.raises(DevnetError, match="is up already"):
        StubDevnet.open(devnet.directory).up()
    assert len(processes_in(devnet.directory)) == 5
    devnet.down()


def test_options_in_our_environment_do_not_reach_the_services(
    devnet: StubDevnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERLAB_KEY_FILE", "/my/own/key")
    monkeypatch.setenv("LAYERLAB_PORT", "1")
    devnet.up()
    assert devnet.state("sequencer")["environment"] == {PARENT_VARIABLE: str(os.getpid())}
    devnet.down()


def test_real_commands_name_everything_that_a_service_needs(place: Path) -> None:
    config, layout = small_config(), Layout(place)
    supervisor = Supervisor(config, layout, with_parent=False)
    for name in config.services:
        line = " ".join(supervisor.command(name))
        for part in (
            f"--port {config.ports[name]}",
            f"--data {layout.data(name)}",
            f"--clock {layout.clock_file}",
            "--host 127.0.0.1",
            str(layout.genesis_file),
        ):
            assert part in line
        assert ("--enable-faults" in line) == (name != "bridge")
    peers = supervisor.command("validator-0")
    assert peers[peers.index("--peers") + 1] == config.url("validator-1")
    bridge = supervisor.command("bridge")
    assert bridge[bridge.index("--l2") + 1] == config.url("sequencer")


# --- ending ---


def test_what_ignores_sigterm_is_killed(
    devnet: StubDevnet, modes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.5)
    modes["validator-1"] = "stubborn"
    devnet.up()
    assert devnet.supervisor.stop_all() == ["validator-1"]
    assert not processes_in(devnet.directory)


HALF_DEAD = """
import ctypes, os, pathlib, platform, sys, threading, time
def last():
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
    os._exit(0)
threading.Thread(target=last).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)  # the main thread alone ends
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks like a zombie on Linux alone")
def test_a_process_that_ends_is_alive_until_its_last_thread_is_gone(
    devnet: StubDevnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it holds its port: whoever starts it again would find that in use."""
    end = tmp_path / "end"
    monkeypatch.setattr(devnet.supervisor, "command", lambda _: [sys.executable, "-c", HALF_DEAD, str(end)])
    devnet.supervisor.start("bridge")
    process = psutil.Process(devnet.supervisor.running["bridge"].pid)
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert devnet.supervisor.alive("bridge")
    end.touch()
    while devnet.supervisor.alive("bridge"):
        time.sleep(0.01)
    assert not psutil.pid_exists(process.pid)


def test_kill_restart_and_delete_data(devnet: StubDevnet) -> None:
    devnet.up()
    devnet.kill("validator-1")
    assert not devnet.supervisor.alive("validator-1")
    assert not devnet.state("validator-1")["clean"]
    with pytest.raises(DevnetError, match="validator-1 does not run"):
        devnet.kill("validator-1")
    with pytest.raises(DevnetError, match="sequencer is running"):
        devnet.delete_data("sequencer")
    devnet.delete_data("validator-1")
    assert not devnet.layout.data("validator-1").exists()
    devnet.restart("validator-1")
    assert devnet.supervisor.alive("validator-1")
    for act in (devnet.kill, devnet.restart, devnet.delete_data):
        with pytest.raises(DevnetError, match=r"no service '\.\./x'; there are: validator-0"):
            act("../x")
    devnet.down()
    with pytest.raises(DevnetError, match="the devnet is down"):
        devnet.restart("validator-1")


def test_restart_replaces_a_service_that_runs(devnet: StubDevnet) -> None:
    devnet.up()
    before = devnet.supervisor.running["bridge"]
    devnet.restart("bridge")
    assert before.process() is None
    assert len(processes_in(devnet.directory)) == 5
    devnet.down()


def test_a_recycled_pid_is_neither_taken_for_ours_nor_killed() -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        real = Running.of(stranger.pid)
        assert real is not None
        assert real.process() is not None
        stale = Running(stranger.pid, "another boot/1")
        assert stale.process() is None
        stale.send(signal.SIGKILL)
        # The second signal is the proof that the first one was not sent: it decides the exit code.
        real.send(signal.SIGTERM)
        assert stranger.wait(20) == -signal.SIGTERM
    finally:
        stranger.kill()
        stranger.wait()
    assert real.process() is None
    real.send(signal.SIGKILL)
    assert Running.of(stranger.pid) is None


def test_down_does_not_kill_the_process_that_has_an_old_pid(devnet: StubDevnet) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        devnet.supervisor.running = {"bridge": Running(stranger.pid, "long ago")}
        devnet.save()
        other = StubDevnet.open(devnet.directory)
        assert not other.is_running
        assert other.down() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """Python's own handler for SIGINT, whatever a test before this one left there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_raises")
def test_ctrl_c_waits_until_the_stop_is_whole() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - where it comes from is the point
        with _undisturbed():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            steps.append("whole")
        steps.append("too late")
    assert steps == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- no orphans ---


def test_services_in_the_foreground_end_with_us_even_if_we_are_killed(devnet: StubDevnet) -> None:
    parent = _up_elsewhere(devnet.directory, "foreground")
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    found = processes_in(devnet.directory)
    assert len(found) == 5
    parent.kill()
    parent.wait()
    _gone(found)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_of_a_start_that_was_broken_off(devnet: StubDevnet, number: signal.Signals) -> None:
    parent = _up_elsewhere(devnet.directory, "foreground")
    while not (found := processes_in(devnet.directory)):
        time.sleep(0.01)
    parent.send_signal(number)
    parent.wait()
    _gone(found + processes_in(devnet.directory))


def test_a_parent_that_died_before_a_service_could_look_for_it_is_missed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    command = [
        sys.executable,
        str(SUPPORT / "service_program.py"),
        "idle",
        str(tmp_path),
        "--exit-with-parent",
    ]
    environment = {**os.environ, PARENT_VARIABLE: str(dead.pid)}
    assert (
        subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode == 0
    )


def test_a_detached_devnet_outlives_its_maker_and_is_found_again(devnet: StubDevnet) -> None:
    parent = _up_elsewhere(devnet.directory, "detached")
    parent.communicate(timeout=60)
    assert parent.returncode == 0
    assert len(processes_in(devnet.directory)) == 5
    other = StubDevnet.open(devnet.directory)
    assert other.is_running
    other.kill("bridge")
    other.restart("bridge")
    assert StubDevnet.open(devnet.directory).down() == devnet.config.services
    assert not processes_in(devnet.directory)


def test_services_are_found_again_by_their_data_when_their_pids_are_lost(devnet: StubDevnet) -> None:
    devnet.up()
    devnet.supervisor.running = {}
    devnet.save()
    assert set(find_services(devnet.layout)) == set(devnet.config.services)
    other = StubDevnet.open(devnet.directory)
    with pytest.raises(DevnetError, match="is up already"):
        other.up()
    assert other.down() == devnet.config.services
    assert not processes_in(devnet.directory)


def test_fresh_ends_what_still_runs_even_if_the_mark_cannot_be_read(devnet: StubDevnet) -> None:
    devnet.up()
    devnet.layout.mark.write_text("{")
    with pytest.raises(DevnetError, match="start anew with layerlab up --fresh"):
        StubDevnet.open(devnet.directory)
    StubDevnet.remove(devnet.directory)
    assert not processes_in(devnet.directory)
    assert not devnet.layout.mark.exists()


def test_watch_tells_of_what_ended_by_itself_and_ends_when_all_is_down(devnet: StubDevnet) -> None:
    devnet.up()
    seen: list[tuple[str, list[str]]] = []
    other = StubDevnet.open(devnet.directory)
    steps = iter([lambda: os.kill(other.supervisor.running["bridge"].pid, signal.SIGKILL), int, other.down])
    devnet.watch(lambda name, log: seen.append((name, log)), lambda _: next(steps)())
    assert seen == [("bridge", ["bridge runs in mode good"])]


def test_a_damaged_devnet_that_runs_can_still_be_taken_down(devnet: StubDevnet) -> None:
    devnet.up()
    devnet.layout.genesis_file.write_text("{")
    devnet.layout.clock_file.write_text("{")
    assert StubDevnet.open(devnet.directory).down() == devnet.config.services
    assert not processes_in(devnet.directory)
    with pytest.raises(DevnetError, match="is damaged"):
        StubDevnet.open(devnet.directory)


def test_at_our_end_we_do_not_stop_what_another_command_has_started_since(place: Path) -> None:
    mine = StubDevnet.create(place, small_config(), with_parent=True)
    mine.up()
    other = StubDevnet.open(place)
    other.down()
    other.up()
    mine.reload()
    mine.supervisor._stop_children()
    assert len(processes_in(place)) == 5
    other.down()


def test_a_service_that_was_ready_and_died_while_others_start_is_noticed(
    devnet: StubDevnet, modes: dict[str, str]
) -> None:
    modes["bridge"] = "deaf"

    def kill_when_alone(line: str) -> None:
        if line == "waiting for bridge to be ready":
            os.kill(devnet.supervisor.running["sequencer"].pid, signal.SIGKILL)

    with pytest.raises(DevnetError, match=r"^sequencer ended while starting"):
        devnet.up(kill_when_alone)
    assert not processes_in(devnet.directory)


def test_what_is_at_an_end_starts_nothing_more_and_waits_for_nothing(devnet: StubDevnet) -> None:
    """A thread cannot be cancelled: whoever is interrupted while services start must not wait for it, nor leave any."""
    devnet.up()
    devnet.supervisor.end()
    with pytest.raises(DevnetError, match="bridge is not started: the devnet is ending"):
        devnet.supervisor.start("bridge")
    with pytest.raises(DevnetError, match="ending"):
        devnet.supervisor.wait_ready(["bridge"])
    assert not any(devnet.supervisor.alive(name) for name in devnet.config.services)
