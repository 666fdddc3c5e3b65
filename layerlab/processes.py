"""The devnet's processes: starting, watching, killing, and never leaving one behind.

Responsible for one operating-system process a service, its log and its health. Must not know what the services
say to each other.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil

from layerlab.config import HOST, DevnetConfig, DevnetError

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.1
LOG_TAIL_LINES: Final = 6

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Running:
    """A process by pid and start time: a pid alone may be another's by now."""

    pid: int
    started: float

    def process(self) -> psutil.Process | None:
        """The process if it still runs, else None."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started) < 1.0
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


class Supervisor:
    """The processes of one devnet in ``directory``. ``with_parent``: they end when this process ends."""

    def __init__(self, config: DevnetConfig, directory: Path, *, with_parent: bool) -> None:
        self.config = config
        self.directory = directory
        self.with_parent = with_parent
        self.running: dict[str, Running] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    # --- where things are ---

    def data(self, name: str) -> Path:
        return self.directory / "data" / name

    def log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    @property
    def genesis_file(self) -> Path:
        return self.directory / "genesis" / "l1.json"

    @property
    def clock_file(self) -> Path:
        return self.directory / "clock.json"

    # --- commands ---

    def command(self, name: str) -> list[str]:
        """The command line of a service."""
        config = self.config
        common = ["--host", HOST, "--port", str(config.ports[name]), "--data", str(self.data(name))]
        common += ["--clock", str(self.clock_file)]
        if self.with_parent:
            common.append("--exit-with-parent")
        genesis, l1 = str(self.genesis_file), ",".join(config.l1_urls)
        faults = ["--enable-faults", "--fault-token", config.fault_token]
        if name in config.validator_names:
            peers = ",".join(config.url(peer) for peer in config.validator_names if peer != name)
            special = ["l1node", "--genesis", genesis, "--peers", peers, "--dev-key", name, *faults]
        elif name == "bridge":
            special = ["bridge", "--l1-genesis", genesis, "--l1", l1, "--l2", config.url("sequencer")]
        else:
            block_ms = str(config.block_ms)
            special = ["rollup", name, "--l1-genesis", genesis, "--l1", l1, "--dev-key", name]
            special += ["--block-ms", block_ms, *faults]
        return [sys.executable, "-m", *special, *common]

    def check_ports(self) -> None:
        """Raises `DevnetError` for the first port that somebody uses."""
        for name in self.config.services:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, self.config.ports[name]))
                except OSError:
                    port = self.config.ports[name]
                    raise DevnetError(
                        f"port {port} (for {name}) is in use; stop what uses it (layerlab down?), "
                        "or give other ports with --free-ports"
                    ) from None

    # --- starting ---

    def start(self, name: str) -> None:
        """Start one service; does not wait for it."""
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        self.data(name).parent.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                self.command(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children[name] = child
        self.running[name] = Running(child.pid, psutil.Process(child.pid).create_time())

    def start_all(self, progress: Progress = lambda _: None) -> None:
        """Start every service and wait until each is ready. On failure nothing is left running."""
        self.check_ports()
        try:
            for name in self.config.services:
                self.start(name)
            self.wait_ready(self.config.services, progress)
        except BaseException:
            self.stop_all()
            raise

    def wait_ready(self, names: Iterable[str], progress: Progress = lambda _: None) -> None:
        """Return when each service says that it is ready. Raises `DevnetError` with the end of its log."""
        deadline = time.monotonic() + READY_SECONDS
        waiting = list(names)
        with httpx.Client(timeout=2.0, trust_env=False) as http:
            while waiting:
                progress(f"waiting for {', '.join(waiting)}")
                waiting = [name for name in waiting if not self._is_ready(http, name)]
                if not waiting:
                    return
                for name in waiting:
                    self._require_alive(name)
                if time.monotonic() > deadline:
                    raise DevnetError(
                        f"not ready after {READY_SECONDS:g} s: {', '.join(waiting)}{self._tail(waiting[0])}"
                    )
                time.sleep(POLL_SECONDS)

    def _is_ready(self, http: httpx.Client, name: str) -> bool:
        try:
            return http.get(self.config.url(name) + "/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def _require_alive(self, name: str) -> None:
        if not self.alive(name):
            raise DevnetError(f"{name} ended while starting{self._tail(name)}")

    def _tail(self, name: str) -> str:
        try:
            lines = self.log(name).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        except OSError:
            return ""
        return f"; the end of {self.log(name)}:\n" + "\n".join(f"  {line}" for line in lines)

    # --- watching and ending ---

    def alive(self, name: str) -> bool:
        child = self._children.get(name)
        if child is not None and child.poll() is not None:
            return False
        running = self.running.get(name)
        return running is not None and running.process() is not None

    def resident_bytes(self) -> dict[str, int]:
        """Resident memory of each service that runs."""
        found = {name: running.process() for name, running in self.running.items()}
        return {name: process.memory_info().rss for name, process in found.items() if process}

    def kill(self, name: str) -> None:
        """SIGKILL: no goodbye."""
        self._end([name], signal.SIGKILL, STOP_SECONDS)

    def stop(self, names: Sequence[str]) -> None:
        """SIGTERM, and SIGKILL for what is still there after five seconds."""
        self._end(names, signal.SIGTERM, STOP_SECONDS)

    def stop_all(self) -> None:
        """Stop every service; first those that depend on others."""
        self.stop(list(reversed(self.running)))

    def _end(self, names: Sequence[str], number: signal.Signals, seconds: float) -> None:
        found = {name: p for name in names if name in self.running and (p := self.running[name].process())}
        for process in found.values():
            _signal(process, number)
        _, left = psutil.wait_procs(list(found.values()), timeout=seconds)
        for process in left:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=seconds)
        for name in names:
            self.running.pop(name, None)
            child = self._children.pop(name, None)
            if child is not None:
                child.wait()


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return
