"""anvil beside us: the same number of transfers, one a request over 16 connections, and 500 a JSON-RPC batch.

anvil (Rust) mining every 0.25 s, with room in a block for all that comes. (As it comes, mining at every transaction, it
hardly gets anything mined while thousands wait: version 1.7.1 made some 15 blocks a second of one or two transfers.)
Transfers are signed beforehand; accounts get their money through ``anvil_setBalance``. The clock runs from the first
byte sent until the last receipt is there.

It is taken from the npm registry (@foundry-rs/anvil) into the cache directory, outside of the repository; where that
cannot be done this is skipped, with the reason. ``LAYERLAB_ANVIL`` names a binary to use instead.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from benchmarks import ethereum, load, workload
from benchmarks.lab import Figures, Lab, SkippedError, microseconds, plain, rate
from benchmarks.load import JSON, LoadError
from benchmarks.machine import process_pool

VERSION: Final = "1.7.1"
CHAIN_ID: Final = 31337
FIRST_SECRET: Final = 10**6
ACCOUNTS: Final = 1_000
COUNT: Final = 20_000
MAX_FEE: Final = 10**12  # wei per gas: the base fee may climb
BATCH: Final = 500
CONNECTIONS: Final = 16
OPTIONS: Final = ("--silent", "--accounts", "1", "--block-time", "0.25", "--gas-limit", "1000000000")
INSTALL_SECONDS: Final = 120
START_SECONDS: Final = 20.0
SETTLE_SECONDS: Final = 60.0


def run(lab: Lab) -> Figures:
    binary = find(lab)
    count, accounts = lab.size(COUNT, 500), lab.size(ACCOUNTS, 50)
    raw = transfers(accounts, count)
    figures: Figures = {}
    for name, per_request, connections in (("single", 1, CONNECTIONS), ("batch", BATCH, 1)):
        with running(binary, lab.scratch) as (url, process):
            load.run(_fund(url, accounts))
            before = process.cpu_times()
            seconds = load.run(_offer(url, raw, per_request, connections, accounts))
            after = process.cpu_times()
            cpu = after.user + after.system - before.user - before.system
            figures[name] = rate(count / seconds)
            figures[f"{name}_cpu"] = microseconds(cpu / count)
            figures[f"{name}_memory"] = plain(process.memory_info().rss / 2**20, "MiB")
    lab.note(f"anvil {VERSION} {' '.join(OPTIONS[3:])}")
    return figures


# --- getting it ---


def find(lab: Lab) -> Path:
    """The binary. Raises `SkippedError`."""
    named = os.environ.get("LAYERLAB_ANVIL")
    if named:
        if not Path(named).is_file():
            raise SkippedError(f"LAYERLAB_ANVIL: no file {named!r}")
        return Path(named)
    home = workload.cache_directory() / f"anvil-{VERSION}"
    found = _binary(home)
    if found is None:
        lab.say("  installing @foundry-rs/anvil into the cache")
        _install(home)
        found = _binary(home)
    if found is None:
        raise SkippedError(f"the npm package has no binary for this machine (looked in {home})")
    return found


def _binary(home: Path) -> Path | None:
    return next((p for p in home.glob("node_modules/@foundry-rs/anvil-*/bin/anvil") if p.is_file()), None)


def _install(home: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise SkippedError("there is no npm to get anvil with; set LAYERLAB_ANVIL to a binary")
    home.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--no-fund", "--no-audit", "--ignore-scripts", "--prefix", str(home)]
    try:
        done = subprocess.run(
            [*command, f"@foundry-rs/anvil@{VERSION}"],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SkippedError(f"npm has not installed anvil within {INSTALL_SECONDS} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise SkippedError(f"npm cannot install anvil: {said[0] if said else done.stderr[:200]}")


@contextmanager
def running(binary: Path, scratch: Path) -> Iterator[tuple[str, psutil.Process]]:
    """anvil on a free port; it is gone when the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(binary), "--port", str(port), "--chain-id", str(CHAIN_ID), *OPTIONS]
    with (scratch / "anvil.log").open("wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=scratch)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if child.poll() is not None or time.monotonic() > deadline:
                said = (scratch / "anvil.log").read_text(errors="replace")[-200:]
                raise SkippedError(f"anvil does not start: {said}")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", psutil.Process(child.pid)
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- what is sent ---


def transfers(accounts: int, count: int) -> list[str]:
    """Signed transfers as hex; transaction i is of account ``i % accounts``. Cached on disk."""
    path = workload.cache_directory() / f"anvil-transfers-1-{accounts}-{count}"
    if not path.exists():
        bounds = [(accounts, start, min(start + 2_500, count)) for start in range(0, count, 2_500)]
        with process_pool() as pool:
            parts = list(pool.map(_sign, bounds))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
        temporary.write_bytes(msgspec.msgpack.encode([raw for part in parts for raw in part]))
        temporary.replace(path)
    return msgspec.msgpack.decode(path.read_bytes(), type=list[str])


def _sign(work: tuple[int, int, int]) -> list[str]:
    accounts, start, end = work
    signer = ethereum.Signer(CHAIN_ID, 10**9 + start)
    people = list(ethereum.accounts(FIRST_SECRET, accounts))
    signed = []
    for i in range(start, end):
        to = people[(i * 7919 + 13) % accounts][1]
        signed.append(
            "0x" + signer.transfer(people[i % accounts][0], i // accounts, to, 1 + i, MAX_FEE).hex()
        )
    return signed


def _call(method: str, *params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}


async def _fund(url: str, accounts: int) -> None:
    reader = await load.Reader.open(url)
    people = [address for _, address in ethereum.accounts(FIRST_SECRET, accounts)]
    calls = [_call("anvil_setBalance", "0x" + address.hex(), hex(10**24)) for address in people]
    for start in range(0, len(calls), BATCH):
        for answer in await reader.post("/", calls[start : start + BATCH]):
            if "error" in answer:
                raise LoadError(f"anvil_setBalance: {answer['error']}")
    reader.close()


async def _offer(url: str, raw: Sequence[str], per_request: int, connections: int, accounts: int) -> float:
    """Seconds until every transfer is mined. Raises `LoadError`."""
    calls = [_call("eth_sendRawTransaction", each) for each in raw]
    groups: list[Any] = (
        list(calls)
        if per_request == 1
        else [calls[i : i + per_request] for i in range(0, len(calls), per_request)]
    )
    requests = [load.post(url, "/", JSON, msgspec.json.encode(group)) for group in groups]
    last: list[bytes] = []

    def answered(status: int, body: bytes, _: bytes) -> None:
        if status != 200 or b'"error"' in body:
            raise LoadError(f"anvil answered {status}: {body[:300]!r}")
        last.append(body)

    reader = await load.Reader.open(url)
    begin = time.perf_counter()
    await load.send_all(url, requests, connections, answered)
    waiting = _hashes(last[-connections:])
    while waiting:
        receipt = (await reader.post("/", _call("eth_getTransactionReceipt", waiting[-1])))["result"]
        if receipt is not None:
            waiting.pop()
        elif time.perf_counter() - begin > SETTLE_SECONDS:
            raise LoadError(f"anvil has not mined everything after {SETTLE_SECONDS:g} s")
    seconds = time.perf_counter() - begin
    people = [address for _, address in ethereum.accounts(FIRST_SECRET, accounts)]
    counts = []
    for start in range(0, accounts, BATCH):
        asked = [
            _call("eth_getTransactionCount", "0x" + a.hex(), "latest") for a in people[start : start + BATCH]
        ]
        counts += [int(answer["result"], 16) for answer in await reader.post("/", asked)]
    reader.close()
    if sum(counts) != len(raw):
        raise LoadError(f"anvil mined {sum(counts)} of {len(raw)} transfers")
    return seconds


def _hashes(bodies: Sequence[bytes]) -> list[str]:
    found = []
    for body in bodies:
        answers = msgspec.json.decode(body)
        found += [answer["result"] for answer in (answers if isinstance(answers, list) else [answers])]
    return found
