"""What every service offers, how it refuses to start, and how it and the demo end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from chainkit.client import ChainClient
from chainkit.genesis import genesis_to_json
from layerlab.config import DevnetConfig
from layerlab.devnet import Devnet
from layerlab.genesis import make_l1_genesis

pytestmark = pytest.mark.xdist_group("e2e")

SERVICES = ("validator-0", "sequencer", "verifier", "bridge")


@pytest.mark.parametrize("name", SERVICES)
def test_docs_health_and_metrics(devnet: Devnet, name: str) -> None:
    url = devnet.config.url(name)
    for path in ("/docs", "/openapi.json", "/health/live", "/health/ready", "/metrics", "/status"):
        assert httpx.get(url + path, trust_env=False, timeout=10).status_code == 200, path
    assert "layerlab_" in httpx.get(url + "/metrics", trust_env=False).text
    paths = httpx.get(url + "/openapi.json", trust_env=False).json()["paths"]
    assert all(method.get("summary") for methods in paths.values() for method in methods.values())


@pytest.mark.parametrize("name", SERVICES)
def test_the_event_stream_gives_each_event_once_in_order_and_resumes(devnet: Devnet, name: str) -> None:
    url = devnet.config.url(name)
    body = {"from": "frank", "action": {"type": "transfer", "to": "grace", "amount": 1000}}
    answer = httpx.post(devnet.config.url("sequencer") + "/transactions", json=body, trust_env=False)
    assert answer.status_code == 202
    deposit = {"from": "frank", "to": "frank", "amount": 10_000}
    assert httpx.post(devnet.config.url("bridge") + "/deposits", json=deposit, trust_env=False).is_success

    async def take(count: int, start: int) -> list[int]:
        seen: list[int] = []
        async with ChainClient(url) as client:
            async for event in client.stream_events(start):
                seen.append(event.seq)
                if len(seen) == count:
                    return seen
        raise AssertionError("the stream ended")

    async def story() -> None:
        # The validator logs contract events only: the deposit above is one.
        count = 1 if name == "validator-0" else 3
        async with asyncio.timeout(30):
            whole = await take(count + 1 if name != "validator-0" else 1, 1)
            assert whole == list(range(whole[0], whole[0] + len(whole)))
            assert await take(1, whole[-1]) == whole[-1:]

    asyncio.run(story())


def test_last_event_id_resumes(devnet: Devnet) -> None:
    url = devnet.config.url("sequencer") + "/events/stream"
    with httpx.stream("GET", url, headers={"last-event-id": "1"}, timeout=20, trust_env=False) as response:
        for line in response.iter_lines():
            if line.startswith("id:"):
                assert line.split(":")[1].strip() == "2"
                break


def test_readers_that_never_read_hold_up_nobody(devnet: Devnet) -> None:
    url = devnet.config.url("bridge")
    with httpx.Client(timeout=10, trust_env=False) as http:
        streams = [http.stream("GET", url + "/events/stream") for _ in range(4)]
        for stream in streams:
            stream.__enter__()
        begin = time.monotonic()
        assert httpx.get(url + "/bridge", timeout=10, trust_env=False).is_success
        assert time.monotonic() - begin < 5
        for stream in streams:
            stream.__exit__(None, None, None)


# --- starting ---


def commands(genesis: Path, data: Path, port: int) -> dict[str, list[str]]:
    common = ["--data", str(data), "--port", str(port)]
    l1 = ["--l1-genesis", str(genesis), "--l1", "http://127.0.0.1:1"]
    return {
        "l1node": ["l1node", "--genesis", str(genesis), "--dev-key", "validator-0", *common],
        "sequencer": ["rollup", "sequencer", *l1, "--dev-key", "sequencer", *common],
        "verifier": ["rollup", "verifier", *l1, "--dev-key", "verifier", *common],
        "bridge": ["bridge", *l1, *common],
    }


def one_line(command: list[str]) -> str:
    """Exit code 2 and one line on stderr."""
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2, (done.returncode, done.stderr)
    (line,) = done.stderr.strip().splitlines()
    assert "Traceback" not in line
    return line


def write_genesis(path: Path, time_ms: int = 1_700_000_000_000) -> Path:
    path.write_text(json.dumps(genesis_to_json(make_l1_genesis(DevnetConfig(), time_ms))))
    return path


@pytest.mark.parametrize("service", ["l1node", "sequencer", "verifier", "bridge"])
def test_what_cannot_start_says_why_in_one_line(devnet: Devnet, tmp_path: Path, service: str) -> None:
    genesis = write_genesis(tmp_path / "l1.json")
    busy = devnet.config.ports["validator-0"]
    assert str(busy) in one_line(commands(genesis, tmp_path / "a", busy)[service])
    assert "missing.json" in one_line(commands(tmp_path / "missing.json", tmp_path / "b", 0)[service])
    broken = tmp_path / "broken.json"
    broken.write_text('{"chain_id": 1.5}')
    assert "broken.json" in one_line(commands(broken, tmp_path / "c", 0)[service])


@pytest.mark.parametrize("service", ["l1node", "sequencer", "verifier", "bridge"])
def test_a_damaged_or_foreign_data_directory_is_refused_and_sigterm_is_clean(
    tmp_path: Path, service: str
) -> None:
    genesis, data = write_genesis(tmp_path / "l1.json"), tmp_path / "data"
    command = [sys.executable, "-m", *commands(genesis, data, 0)[service]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "serving" in line:
            break
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert time.monotonic() - begin < 5
    other = write_genesis(tmp_path / "other.json", 1_800_000_000_000)
    assert "another chain" in one_line(commands(other, data, 0)[service])
    files = sorted(data.rglob("node.db"))
    assert files
    for file in files:
        file.write_bytes(b"garbage" * 500)
    assert "node.db" in one_line(commands(genesis, data, 0)[service])


# --- ending ---


def services_of(directory: Path) -> list[int]:
    """Pids of services that work in a directory."""
    running = psutil.process_iter(["pid", "cmdline"])
    return [p.pid for p in running if any(str(directory) in part for part in p.info["cmdline"] or [])]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    place = tmp_path / "devnet"
    command = [
        sys.executable,
        "-c",
        # A shell's background jobs ignore SIGINT, and so would this one if the tests are such a job.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from layerlab.cli import main; main()",
        "demo",
        "--json",
        "--dir",
        str(place),
    ]
    demo = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(services_of(place)) < 9:  # eight services and the demo itself
        assert time.monotonic() < deadline, "the demo's services did not start"
        assert demo.poll() is None
        time.sleep(0.1)
    os.kill(demo.pid, number)
    assert demo.wait(timeout=30) == code
    deadline = time.monotonic() + 10
    while services_of(place):
        assert time.monotonic() < deadline, services_of(place)
        time.sleep(0.1)
