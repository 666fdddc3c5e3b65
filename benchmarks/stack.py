"""The services that a benchmark runs against: as `layerlab up` starts them, but only those that are wanted.

Responsible for their genesis (any number of funded accounts), for starting and ending them, and for their CPU time
and memory, child processes included. Must not know what is measured.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import psutil
from msgspec import structs

from benchmarks import workload
from bridge.abi import BridgeParams
from chainkit import genesis as genesis_module
from chainkit.codec import decode, encode
from chainkit.genesis import Genesis, GenesisAccount, genesis_to_json
from layerlab.config import DevnetConfig, DevnetError
from layerlab.devnet import Devnet, first_slot_ms
from layerlab.genesis import make_l1_genesis
from layerlab.layout import write_json
from layerlab.processes import Supervisor

L1_FUND: Final = 100_000_000_000
L2_FUND: Final = 1_000_000_000
"""gwei for each account: a million of them stay far below 2**53."""
BLOCK_MS: Final = 10
"""Least time between two L2 blocks, in every benchmark: the same configuration for rate and for latency."""
MOST_IN_JSON: Final = 15_000
"""Accounts in a genesis file of JSON (4 MiB); with more it is the record's bytes."""


@dataclass(frozen=True)
class Usage:
    """Of one service and its children, so far."""

    cpu_seconds: float
    memory_bytes: int


class _Supervisor(Supervisor):
    """``more`` are further arguments by service."""

    more: Mapping[str, Sequence[str]] = {}

    def command(self, name: str) -> list[str]:
        return [*super().command(name), *self.more.get(name, ())]


class _Devnet(Devnet):
    supervisor: _Supervisor
    supervisor_type = _Supervisor


class Stack:
    """Running services of one devnet."""

    def __init__(self, devnet: _Devnet, say: Callable[[str], None]) -> None:
        self.devnet = devnet
        self.config = devnet.config
        self._say = say
        self._http = httpx.Client(timeout=10.0, trust_env=False)

    def url(self, name: str) -> str:
        return self.config.url(name)

    def get(self, name: str, path: str) -> Any:
        """JSON of a service. Raises `httpx.HTTPError`."""
        return self._http.get(self.url(name) + path).raise_for_status().json()

    def status(self, name: str) -> Any:
        return self.get(name, "/status")

    def head(self, name: str, ref: str = "head") -> int:
        """A head's height; 0 if there is none."""
        head = self.status(name)["heads"][ref]
        return 0 if head is None else int(head["height"])

    # --- processes ---

    def start(self, names: Sequence[str], seconds: float = 60.0) -> None:
        """Start services and return when they are ready. Raises `DevnetError`."""
        for name in names:
            self.devnet.supervisor.start(name)
        self.devnet.save()
        self.wait(names, "/health/ready", seconds)

    def stop(self, *names: str) -> None:
        self.devnet.supervisor.stop(names)

    def wait(self, names: Sequence[str], path: str, seconds: float) -> None:
        """Until each answers ``path`` with 200. Raises `DevnetError` if one ends, or takes too long."""
        deadline, waiting = time.monotonic() + seconds, list(names)
        while waiting:
            waiting = [name for name in waiting if not self._good(name, path)]
            for name in names:
                if not self.devnet.supervisor.alive(name):
                    raise DevnetError(f"{name} ended: {' / '.join(self.devnet.supervisor.log_tail(name))}")
            if waiting and time.monotonic() > deadline:
                raise DevnetError(f"waited {seconds:g} s in vain for {', '.join(waiting)} ({path})")
            if waiting:
                time.sleep(0.02)

    def _good(self, name: str, path: str) -> bool:
        try:
            return self._http.get(self.url(name) + path).status_code == 200
        except httpx.HTTPError:
            return False

    def usage(self, name: str) -> Usage:
        """CPU time and memory (shared pages counted once) of a service with its children."""
        running = self.devnet.supervisor.running[name]
        own = psutil.Process(running.pid)
        cpu, memory = 0.0, 0
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                cpu += times.user + times.system
                if process is own:  # those that have ended; the others are asked themselves
                    cpu += times.children_user + times.children_system
                memory += process.memory_full_info().pss
        return Usage(cpu, memory)

    def wait_until(self, what: str, done: Callable[[], bool], seconds: float, every: float = 0.05) -> float:
        """Poll; returns the seconds that it took. Raises `DevnetError` after ``seconds``."""
        begin = time.monotonic()
        while not done():
            if time.monotonic() - begin > seconds:
                raise DevnetError(f"waited {seconds:g} s in vain: {what}")
            time.sleep(every)
        return time.monotonic() - begin

    def close(self) -> None:
        self._http.close()


# --- genesis ---


def with_accounts(genesis: Genesis, addresses: Sequence[bytes], balance: int) -> Genesis:
    """The same with further accounts."""
    accounts = [*genesis.accounts, *(GenesisAccount(address, balance) for address in addresses)]
    return structs.replace(genesis, accounts=sorted(accounts, key=lambda account: account.address))


def with_l2_accounts(l1: Genesis, addresses: Sequence[bytes], balance: int) -> Genesis:
    """An L1 genesis whose rollup has further accounts, backed by the bridge's own balance."""
    contracts = []
    for spec in l1.contracts:
        if spec.name == "bridge":
            params = decode(BridgeParams, spec.params)
            l2 = with_accounts(params.l2_genesis, addresses, balance)
            params = structs.replace(params, l2_genesis=l2)
            spec = structs.replace(spec, params=encode(params), balance=l2.total_supply)
        contracts.append(spec)
    return structs.replace(l1, contracts=contracts)


def _write_genesis(path: Path, genesis: Genesis, accounts: int) -> None:
    if accounts <= MOST_IN_JSON:
        write_json(path, genesis_to_json(genesis))
    elif hasattr(genesis_module, "genesis_from_bytes"):
        path.write_bytes(encode(genesis))
    else:
        raise DevnetError(f"a genesis file takes {MOST_IN_JSON} accounts at most")


@contextmanager
def running(
    config: DevnetConfig,
    services: Sequence[str],
    say: Callable[[str], None],
    *,
    l1_accounts: int = 0,
    l2_accounts: int = 0,
    seed: int = 1,
    more: Mapping[str, Sequence[str]] | None = None,
    seconds: float = 90.0,
) -> Iterator[Stack]:
    """Start ``services`` of a new devnet on free ports; nothing of it is left when the block ends.

    ``l1_accounts``, ``l2_accounts``: how many of the seed's accounts are funded on each. Raises `DevnetError`.
    """
    with TemporaryDirectory(prefix="layerlab-bench-") as temporary:
        devnet = _Devnet(Path(temporary) / "devnet", config.with_free_ports(), with_parent=True)
        devnet.supervisor.more = more or {}
        now, time_ms = time.time(), first_slot_ms()
        genesis = make_l1_genesis(devnet.config, time_ms)
        if l1_accounts:
            genesis = with_accounts(genesis, workload.addresses(seed, l1_accounts), L1_FUND)
        if l2_accounts:
            genesis = with_l2_accounts(genesis, workload.addresses(seed, l2_accounts), L2_FUND)
        devnet.genesis_hash = genesis.hash().hex()
        devnet.save()
        devnet.layout.genesis_file.parent.mkdir()
        _write_genesis(devnet.layout.genesis_file, genesis, max(l1_accounts, l2_accounts))
        del genesis
        devnet.time.create(now)
        stack = Stack(devnet, say)
        try:
            _bring_up(stack, services, seconds)
            yield stack
        finally:
            stack.close()
            devnet.supervisor.stop_all()


def _bring_up(stack: Stack, services: Sequence[str], seconds: float) -> None:
    """No slot passes before there is somebody to fill it (as `Devnet.up`)."""
    devnet = stack.devnet
    devnet.supervisor.check_ports(services)
    devnet.time.settle()
    for name in services:
        devnet.supervisor.start(name)
    devnet.save()
    validators = [name for name in services if name in stack.config.all_validators]
    stack.wait(validators, "/health/live", seconds)
    devnet.time.set_rate(1.0)
    stack.wait(services, "/health/ready", seconds)
    devnet.time.wait_running()


def rollup_config(*, validators: int = 1, slot_ms: int = 500, **changes: Any) -> DevnetConfig:
    """The configuration of a benchmark: fast L2 blocks, everything else as usual."""
    return replace(
        DevnetConfig(), validators=validators, slot_ms=slot_ms, block_ms=BLOCK_MS, ports={}, **changes
    )
