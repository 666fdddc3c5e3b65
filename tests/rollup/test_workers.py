"""A sequencer's process with signature workers: they serve, are replaced when killed, and end with it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from chainkit.genesis import genesis_to_json
from chainkit.keys import dev_keypair
from chainkit.signature_pool import default_workers
from chainkit.transaction import Body, SignedTransaction, Transfer
from layerlab.config import DevnetConfig
from layerlab.genesis import make_l1_genesis

SECONDS = 60.0
ALICE, BOB = dev_keypair("alice"), dev_keypair("bob")


class Sequencer:
    """The process, in a group of its own as if a terminal had started it. There is no L1: nothing gets into a block."""

    def __init__(self, directory: Path, workers: int) -> None:
        genesis = directory / "l1.json"
        genesis.write_text(json.dumps(genesis_to_json(make_l1_genesis(DevnetConfig(), 1_700_000_000_000))))
        self.port = DevnetConfig().with_free_ports().ports["sequencer"]
        options = {"--l1-genesis": genesis, "--l1": "http://127.0.0.1:9", "--data": directory / "data"}
        options |= {"--port": self.port, "--dev-key": "sequencer", "--workers": workers}
        words = [str(word) for pair in options.items() for word in pair]
        command = [sys.executable, "-m", "rollup", "sequencer", *words]
        self.process = psutil.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)

    def workers(self) -> list[psutil.Process]:
        return [child for child in self.process.children() if "chainkit.verify_worker" in child.cmdline()]

    def until_workers(self, count: int, but: frozenset[int] = frozenset()) -> list[psutil.Process]:
        deadline = time.monotonic() + SECONDS
        while True:
            with suppress(psutil.Error):
                found = self.workers()
                if len(found) == count and not but & {worker.pid for worker in found}:
                    return found
            assert time.monotonic() < deadline, "no such number of workers"
            time.sleep(0.05)

    def until_live(self) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{self.port}/health/live").status_code == 200:
                    return
            assert self.process.poll() is None
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.05)

    def codes(self, first: int, count: int) -> list[str]:
        """What becomes of so many transfers of alice's; every third has a forged copy in front of it."""
        wires = []
        for nonce in range(first, first + count):
            body = Body(901, ALICE.address, nonce, 30_000, 20, 1, Transfer(BOB.address, 1))
            wire = SignedTransaction.sign(body, ALICE).wire
            if nonce % 3 == 0:
                wires.append(wire[:-1] + bytes([wire[-1] ^ 1]))
            wires.append(wire)
        answer = httpx.post(
            f"http://127.0.0.1:{self.port}/transactions",
            content=msgspec.msgpack.encode(wires),
            headers={"content-type": "application/msgpack", "accept": "application/msgpack"},
            timeout=SECONDS,
        )
        assert answer.status_code == 202
        return [result["code"] for result in msgspec.msgpack.decode(answer.content)["results"]]


def expected(first: int, count: int) -> list[str]:
    codes = []
    for nonce in range(first, first + count):
        codes += ["bad_signature", ""] if nonce % 3 == 0 else [""]
    return codes


@pytest.fixture
def start() -> Iterator[list[Sequencer]]:
    started: list[Sequencer] = []
    yield started
    for sequencer in started:
        with suppress(psutil.Error):
            sequencer.process.kill()
        sequencer.process.wait()


def begun(start: list[Sequencer], directory: Path, workers: int) -> Sequencer:
    start.append(Sequencer(directory, workers))
    start[0].until_live()
    return start[0]


def test_ctrl_c_ends_all_of_it_in_order(start: list[Sequencer], tmp_path: Path) -> None:
    sequencer = begun(start, tmp_path, 2)
    workers = sequencer.until_workers(2)
    assert sequencer.codes(0, 120) == expected(0, 120)
    os.killpg(sequencer.process.pid, signal.SIGINT)
    assert sequencer.process.wait(SECONDS) == 0
    assert psutil.wait_procs(workers, timeout=SECONDS)[1] == []


def test_workers_that_are_killed_are_missed_by_nobody(start: list[Sequencer], tmp_path: Path) -> None:
    sequencer = begun(start, tmp_path, 2)
    workers = sequencer.until_workers(2)
    for worker in workers:
        worker.kill()
    assert sequencer.codes(0, 60) == expected(0, 60)
    sequencer.until_workers(2, frozenset(worker.pid for worker in workers))
    assert sequencer.codes(60, 60) == expected(60, 60)
    workers = sequencer.workers()
    sequencer.process.kill()
    assert psutil.wait_procs(workers, timeout=SECONDS)[1] == []


def test_without_workers_one_process_does_it_all(start: list[Sequencer], tmp_path: Path) -> None:
    sequencer = begun(start, tmp_path, 0)
    assert sequencer.codes(0, 60) == expected(0, 60)
    assert sequencer.process.children() == []
    sequencer.process.send_signal(signal.SIGTERM)
    assert sequencer.process.wait(SECONDS) == 0


@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 1), (4, 3), (64, 4)])
def test_execution_keeps_a_core_for_itself(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert default_workers() == workers
