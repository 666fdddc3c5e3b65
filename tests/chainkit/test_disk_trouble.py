"""A disk that fails under a service: one line, 503 while it lasts, and on by itself once it can be written."""

import errno
import os
import re
import resource
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from chainkit.datadir import DataDirDiskError, DiskTrouble
from chainkit.disk_trouble import disk_trouble
from chainkit.store import Store, StoreDiskError, StoreError

PROGRAM = Path(__file__).parents[1] / "support" / "service_program.py"
NOTE = {"type": "call", "contract": "notes", "method": "put", "args": {"owner": "bob", "number": 2}}
REQUEST = {"from": "alice", "action": NOTE}  # its event goes to the disk


def break_writes(pid: int, yes: bool) -> None:
    """As a disk that takes no byte more."""
    limit = 0 if yes else resource.RLIM_INFINITY
    psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@pytest.fixture
def breakable() -> Iterator[None]:
    """Writes of this process may be broken; they are whole again afterwards."""
    yield
    break_writes(os.getpid(), False)


@pytest.mark.usefixtures("breakable")
def test_a_full_disk_is_no_corruption_and_the_advice_is_not_to_delete(tmp_path: Path) -> None:
    store = Store(tmp_path, genesis_hash=bytes(32), role="test")
    store.set_meta("a", b"1")
    break_writes(os.getpid(), True)
    with pytest.raises(StoreDiskError) as refused:
        store.set_meta("b", bytes(100_000))
    with pytest.raises(StoreDiskError), store.transaction():
        store.append_event("Happened", {"c": "x" * 100_000}, height=1, source="x")
    break_writes(os.getpid(), False)
    message = str(refused.value)
    assert str(tmp_path) in message
    assert "free some space" in message
    assert "delete" not in message
    assert refused.value.path == tmp_path
    assert (store.get_meta("a"), store.get_meta("b"), store.last_seq()) == (b"1", None, 0)
    store.set_meta("b", b"2")
    store.close()
    again = Store(tmp_path, genesis_hash=bytes(32), role="test")
    assert (again.get_meta("a"), again.get_meta("b"), again.last_seq()) == (b"1", b"2", 0)
    again.close()


@pytest.mark.usefixtures("breakable")
def test_a_directory_on_a_failing_disk_is_told_apart_and_can_be_opened_later(tmp_path: Path) -> None:
    Store(tmp_path, genesis_hash=bytes(32), role="test").close()
    break_writes(os.getpid(), True)
    with pytest.raises(StoreDiskError, match="free some space"):
        Store(tmp_path, genesis_hash=bytes(32), role="test")
    break_writes(os.getpid(), False)
    Store(tmp_path, genesis_hash=bytes(32), role="test").close()


def test_trouble_is_found_behind_other_errors_and_only_then() -> None:
    trouble = DataDirDiskError(Path("/x"), os.strerror(errno.ENOSPC))
    wrapped = RuntimeError("a node stopped")
    wrapped.__cause__ = trouble
    for error in (
        trouble,
        wrapped,
        ExceptionGroup("tasks", [ValueError(), ExceptionGroup("more", [wrapped])]),
    ):
        assert disk_trouble(error) is trouble
    looped = RuntimeError()
    looped.__cause__, wrapped.__cause__ = wrapped, looped
    for other in (None, RuntimeError(), StoreError("damaged"), looped, ExceptionGroup("x", [ValueError()])):
        assert disk_trouble(other) is None
    assert isinstance(trouble, DiskTrouble)


def lines_until(process: "subprocess.Popen[bytes]", pattern: str) -> list[str]:
    """What it logs up to a line with ``pattern``, which must come within 20 s."""
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or not re.search(pattern, lines[-1]):
        ready, _, _ = select.select([process.stderr], [], [], 20)
        assert ready, lines
        lines.append(process.stderr.readline().decode())  # unbuffered, so select tells the truth
        assert lines[-1], lines
    return lines


def test_a_service_tells_waits_and_goes_on_by_itself(tmp_path: Path) -> None:
    data = tmp_path / "data"
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), "seal", str(data)], stderr=subprocess.PIPE, bufsize=0
    )
    try:
        port = int(re.findall(r"port=(\d+)", lines_until(process, "serving")[-1])[0])
        url = f"http://127.0.0.1:{port}"
        first = httpx.post(f"{url}/transactions", json=REQUEST).json()["hash"]
        while httpx.get(f"{url}/transactions/{first}").json()["receipt"] is None:
            pass
        break_writes(process.pid, True)
        httpx.post(f"{url}/transactions", json=REQUEST)
        told = lines_until(process, "serving")  # the stand-in
        assert sum(str(data) in line for line in told) == 1, told
        assert not any("Traceback" in line for line in told), told
        for path in ("/health/ready", "/status", "/events/stream", f"/transactions/{first}"):
            answer = httpx.get(url + path)
            assert (answer.status_code, answer.json()["code"]) == (503, "disk_failed"), path
            assert str(data) in answer.json()["detail"]
        assert httpx.get(f"{url}/health/live").json() == {"live": True}
        break_writes(process.pid, False)
        again = int(re.findall(r"port=(\d+)", lines_until(process, "serving")[-1])[0])
        kept = httpx.get(f"http://127.0.0.1:{again}/events").json()
        assert kept["last"] == 1
        process.terminate()
        process.communicate(timeout=10)
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_start_on_such_a_disk_is_one_line_and_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _START_BROKEN, str(PROGRAM), "idle", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(tmp_path / "data") in done.stderr
    assert "free some space" in done.stderr


_START_BROKEN = (
    "import os, resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
)
