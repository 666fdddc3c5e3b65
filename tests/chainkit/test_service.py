"""The service runner, as real processes: ports, signals, exit codes, streams that end, parents that die."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from chainkit.options import service_parser
from chainkit.service import bind
from chainkit.startup import StartupError

PROGRAM = Path(__file__).parents[1] / "support" / "service_program.py"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the program; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(
        mode: str, *options: str, data: str = "data", env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), mode, str(tmp_path / data), *options],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=None if env is None else {**os.environ, **env},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _port_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"serving .*port=(\d+)", line)
        if found:
            return int(found[1])
    raise AssertionError("it never served")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_code_0_and_closes_its_store(start: Start, number: int) -> None:
    process = start("idle")
    port = _port_of(process)
    assert httpx.get(f"http://127.0.0.1:{port}/health/live").json() == {"live": True}
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "closed" in err
    assert "Traceback" not in err


def test_an_open_event_stream_and_a_half_sent_body_do_not_hold_up_the_end(start: Start) -> None:
    process = start("idle")
    port = _port_of(process)
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"POST /transactions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        with httpx.stream("GET", f"http://127.0.0.1:{port}/events/stream?from=1", timeout=10) as stream:
            assert stream.status_code == 200
            process.send_signal(signal.SIGTERM)
            rest = b"".join(stream.iter_raw())  # ends by itself, and cleanly
        assert b"data:" not in rest
        process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_port_in_use_is_one_line_and_code_2_before_anything_is_made(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("idle", "--port", str(port), data="untouched")
        _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err.splitlines() == [
        f"test-service: port {port} on 127.0.0.1 is in use; stop what uses it, or give another with --port "
        "(LAYERLAB_PORT)"
    ]
    assert not (tmp_path / "untouched").exists()


def test_an_error_at_the_start_is_one_line_and_code_2(start: Start) -> None:
    process = start("refuse")
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (2, "test-service: there is no reason; find one\n")


def test_a_second_service_on_one_directory_is_refused_in_one_line(start: Start) -> None:
    first = start("idle")
    _port_of(first)
    second = start("idle")
    _, err = second.communicate(timeout=20)
    assert second.returncode == 2
    assert len(err.splitlines()) == 1
    assert f"in use by process {first.pid}" in err


def test_a_bug_at_the_start_is_code_1_with_its_trace(start: Start) -> None:
    process = start("crash")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "RuntimeError: a bug" in err


def test_a_failed_task_ends_the_process_with_code_1(start: Start) -> None:
    process = start("fail")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "a background task failed task=task" in err
    assert "closed" in err


def test_a_signal_while_it_is_being_made_ends_it(start: Start) -> None:
    process = start("hang")
    assert process.stderr is not None
    assert process.stderr.readline() == "creating\n"
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_it_ends_with_its_parent_if_asked_to(tmp_path: Path) -> None:
    parent_code = (
        "import subprocess,sys\n"
        "child = subprocess.Popen(sys.argv[1:], stderr=subprocess.PIPE, text=True)\n"
        "for line in child.stderr:\n"
        "    if 'serving' in line: print(child.pid, flush=True); break\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, str(PROGRAM), "idle", str(tmp_path / "data"), "--exit-with-parent"]
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    watched = os.pidfd_open(child)
    try:
        parent.kill()
        parent.communicate()
        ended, _, _ = select.select([watched], [], [], 10)
        assert ended, "the child outlived its parent"
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(watched, signal.SIGKILL)
        os.close(watched)


def test_a_transaction_goes_all_the_way_through_a_real_process(start: Start) -> None:
    process = start("seal")
    url = f"http://127.0.0.1:{_port_of(process)}"
    with httpx.stream("GET", f"{url}/events/stream", timeout=10) as stream:
        action = {"type": "call", "contract": "notes", "method": "put", "args": {"owner": "bob", "number": 2}}
        assert httpx.post(f"{url}/transactions", json={"from": "alice", "action": action}).status_code == 202
        data = next(line for line in stream.iter_lines() if line.startswith("data: "))
    assert json.loads(data[6:])["name"] == "NotePut"


def test_a_service_is_small(start: Start) -> None:
    process = start("idle")
    _port_of(process)
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGESIZE") < 100 * 1024 * 1024


def test_bind_names_what_is_wrong() -> None:
    with pytest.raises(StartupError, match="cannot resolve host"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(StartupError, match="cannot listen"):
        bind("203.0.113.1", 0)


def test_an_option_wins_over_its_environment_variable() -> None:
    environ = {"LAYERLAB_PORT": "1234", "LAYERLAB_DATA": "/from/env", "LAYERLAB_LOG_LEVEL": "debug"}
    args = service_parser("x", "x", port=1, environ=environ).parse_args(["--data", "/given"])
    assert (args.port, args.data, args.log_level) == (1234, "/given", "debug")


@pytest.mark.parametrize("port", ["65536", "-1", "x", "٣", "1.0", ""])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        service_parser("x", "x", port=1).parse_args([f"--port={port}"])
    assert refused.value.code == 2
    assert "is not a port" in capsys.readouterr().err
