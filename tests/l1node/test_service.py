"""Four validators as OS processes: finality, SIGKILL, restart, slashing, a clean end; bad starts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from l1_devnet import l1_genesis

from chainkit.fault_token import DEVNET_TOKEN
from chainkit.genesis import genesis_to_json

SLOT_MS = 250
DEADLINE = 25.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def until(what: str, condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Poll until ``condition()`` is true; its value."""
    end = time.monotonic() + seconds
    while True:
        with suppress(httpx.HTTPError):
            value = condition()
            if value:
                return value
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.05)


class Devnet:
    """The processes and their addresses."""

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self.genesis = path / "genesis.json"
        genesis = l1_genesis(validators=count, slot_ms=SLOT_MS, time=int(time.time() * 1000))
        self.genesis.write_text(json.dumps(genesis_to_json(genesis)))
        self.ports = free_ports(count)
        self.processes: dict[int, subprocess.Popen[str]] = {}
        self.client = httpx.Client(timeout=5, trust_env=False)

    def url(self, index: int) -> str:
        return f"http://127.0.0.1:{self.ports[index]}"

    def start(self, index: int) -> subprocess.Popen[str]:
        peers = ",".join(self.url(i) for i in range(len(self.ports)) if i != index)
        command = [sys.executable, "-m", "l1node", "--genesis", str(self.genesis), "--peers", peers]
        command += ["--data", str(self.path / f"v{index}"), "--port", str(self.ports[index])]
        command += ["--dev-key", f"validator-{index}", "--exit-with-parent", "--enable-faults"]
        with (self.path / f"v{index}.log").open("a") as log:
            process = subprocess.Popen(command, stderr=log, text=True)
        self.processes[index] = process
        return process

    def get(self, index: int, path: str) -> Any:
        return self.client.get(self.url(index) + path).json()

    def final(self, index: int) -> int:
        return int(self.get(index, "/p2p/status")["final_height"])

    def metric(self, index: int, name: str) -> float:
        lines = self.client.get(self.url(index) + "/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"layerlab_{name} "))

    def close(self) -> None:
        self.client.close()
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def devnet(tmp_path: Path) -> Iterator[Devnet]:
    devnet = Devnet(tmp_path, 4)
    try:
        for index in range(4):
            devnet.start(index)
        yield devnet
    finally:
        devnet.close()


def test_a_network_lives_through_a_kill_and_ends_cleanly(devnet: Devnet) -> None:
    for index in range(4):
        until("ready", lambda i=index: devnet.client.get(devnet.url(i) + "/health/ready").status_code == 200)
    until("finality", lambda: devnet.final(0) >= 3)

    # A killed validator does not stop the others.
    devnet.processes[3].send_signal(signal.SIGKILL)
    devnet.processes[3].wait()
    before = devnet.final(0)
    until("finality without one", lambda: devnet.final(0) >= before + 3)

    # Restarted, it catches up and votes again.
    devnet.start(3)
    until("catching up", lambda: devnet.final(3) >= devnet.final(0) - 2 and devnet.final(3) > before)
    until("voting again", lambda: devnet.metric(3, "votes_out") >= 3)
    height = devnet.final(3)
    hashes = {devnet.get(i, f"/blocks/{height}")["hash"] for i in range(4) if devnet.final(i) >= height}
    assert len(hashes) == 1
    assert not any(devnet.get(i, "/evidence")["found"] for i in range(4)), "an honest node looks guilty"

    # A user's transaction by plain JSON, and the money it moved.
    body = {"from": "alice", "action": {"type": "transfer", "to": "bob", "amount": 7}}
    sent = devnet.client.post(devnet.url(3) + "/transactions", json=body).json()
    until("a receipt", lambda: devnet.get(0, f"/transactions/{sent['hash']}").get("status") == "finalized")

    # Twice-voting on purpose is found, reported, slashed; nobody but the chain was told.
    headers = {"authorization": f"Bearer {DEVNET_TOKEN}"}
    on = devnet.client.post(devnet.url(2) + "/faults", json={"name": "double-vote"}, headers=headers)
    assert on.status_code == 201, on.text
    assert devnet.get(2, "/status")["dishonest_on_purpose"] == ["double-vote"]
    slashed = until("slashing", lambda: devnet.get(0, "/evidence")["slashed"])
    assert slashed[0]["name"] == "validator-2"
    assert slashed[0]["kind"] == "double-vote"
    before = devnet.final(0)
    until("finality goes on", lambda: devnet.final(0) >= before + 3)
    assert "DISHONEST ON PURPOSE" in (devnet.path / "v2.log").read_text()

    for process in devnet.processes.values():
        assert psutil.Process(process.pid).memory_info().rss < 150 * 2**20
        assert psutil.Process(process.pid).children() == []
        process.send_signal(signal.SIGTERM)
    codes = [process.wait(timeout=10) for process in devnet.processes.values()]
    assert codes == [0, 0, 0, 0]


# --- starts that cannot work ------------------------------------------------------------------------------


@pytest.fixture
def genesis_file(tmp_path: Path) -> Path:
    path = tmp_path / "genesis.json"
    path.write_text(json.dumps(genesis_to_json(l1_genesis())))
    return path


def refused(*arguments: str, **environ: str) -> str:
    """The one line with which a start is refused."""
    done = subprocess.run(
        [sys.executable, "-m", "l1node", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environ},
        check=False,
    )
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_bad_starts_are_refused_in_one_line(genesis_file: Path, tmp_path: Path) -> None:
    common = ["--genesis", str(genesis_file), "--data", str(tmp_path / "data"), "--port", "0"]
    assert "genesis" in refused("--port", "0")
    assert "no such file" in refused("--genesis", str(tmp_path / "none.json"), "--port", "0").lower()
    assert "nobody" in refused(*common, "--dev-key", "nobody")
    assert "checkpoint" in refused(*common, "--checkpoint", "12")
    assert "--peers" in refused(*common, LAYERLAB_PEERS="nonsense")
    assert "--fault-token" in refused(*common, "--enable-faults", "--host", "0.0.0.0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "in use" in refused(*common[:-1], str(taken.getsockname()[1]))
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "node.db").write_bytes(b"not a database, " * 1000)
    assert "cannot be used" in refused(*common)
