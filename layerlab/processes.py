"""The devnet's processes: starting, watching, killing, and never leaving one behind.

Responsible for one operating-system process a service, its log and its health. Must not know what the services
say to each other, nor what time it is for them.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from chainkit.parent import PARENT_VARIABLE
from layerlab.config import HOST, DevnetConfig, DevnetError
from layerlab.layout import Layout, named
from layerlab.models import BRIDGE, OPERATORS, SEQUENCER

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 4.0
"""From SIGTERM to SIGKILL; a service gives its last requests three."""
KILL_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.1
LOG_TAIL_LINES: Final = 6
LOG_LINE_CHARS: Final = 300
ANOTHER_VERSION: Final = "another version of layerlab"
"""So says a service whose data it cannot read (`chainkit.store`)."""
MAX_LOG_BYTES: Final = 32 * 1024 * 1024
"""A log that is larger when its service starts is set aside as ``<name>.log.old``."""

Progress = Callable[[str], None]


def nothing(_: str) -> None:
    """The progress of whoever does not look."""


@dataclass(frozen=True)
class Running:
    """A process by pid and birth: a pid alone may be another's by now."""

    pid: int
    birth: str

    @classmethod
    def of(cls, pid: int) -> "Running | None":
        """The process that has this pid now, None if there is none."""
        birth = _birth(pid)
        return None if birth is None else cls(pid, birth)

    def process(self) -> psutil.Process | None:
        """The process if it still runs, else None."""
        try:
            found = psutil.Process(self.pid)
            runs = found.status() != psutil.STATUS_ZOMBIE and _birth(self.pid) == self.birth
        except psutil.Error:
            return None
        return found if runs else None

    def send(self, number: signal.Signals) -> None:
        """Signal this very process, or nobody. Raises `DevnetError` if it is another user's."""
        # Open first, then look: what is open keeps meaning one process, whatever becomes of the pid.
        handle = _open_process(self.pid)
        try:
            if self.process() is None:
                return
            if handle is not None:
                signal.pidfd_send_signal(handle, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return
        except PermissionError:
            raise DevnetError(f"process {self.pid} is another user's; who started it can stop it") from None
        finally:
            if handle is not None:
                os.close(handle)


def _open_process(pid: int) -> int | None:
    """A handle that no other process can inherit; None where there is no such thing (or process)."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _birth(pid: int) -> str | None:
    """What no other process with this pid has had or will have."""
    if sys.platform == "linux":
        # In ticks since boot: unlike a wall instant it does not move when the clock is set.
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return f"{boot}/{fields[19]}"
    try:
        return repr(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def service_command(config: DevnetConfig, layout: Layout, name: str) -> list[str]:
    """What starts a service."""
    genesis, l1 = str(layout.genesis_file), ",".join(config.l1_urls)
    faults = ["--enable-faults", "--fault-token", config.fault_token]
    both = ["--l1-genesis", genesis, "--l1", l1]
    if not config.kind.rollup:
        both += ["--side-genesis", str(layout.l2_genesis_file)]
    if name in config.all_validators:
        l1_validator = name in config.validator_names
        group = config.validator_names if l1_validator else config.kind.replicas
        peers = ",".join(config.url(peer) for peer in group if peer != name)
        own = genesis if l1_validator else str(layout.l2_genesis_file)
        special = ["l1node", "--genesis", own, "--peers", peers, "--dev-key", name, *faults]
    elif name == BRIDGE:
        second = [config.url(SEQUENCER)] if config.kind.rollup else config.app_urls
        special = ["bridge", *both, "--l2", ",".join(second)]
    elif name in OPERATORS:
        special = [
            "bridge",
            "operator",
            *both,
            "--side",
            ",".join(config.app_urls),
            "--dev-key",
            name,
            *faults,
        ]
    else:
        special = ["rollup", name, "--l1-genesis", genesis, "--l1", l1, "--dev-key", name]
        special += ["--block-ms", str(config.block_ms), *faults]
    where = ["--host", HOST, "--port", str(config.ports[name]), "--data", str(layout.data(name))]
    # -P: a user's own bridge.py in the current directory is not ours.
    return [sys.executable, "-P", "-m", *special, *where, "--clock", str(layout.clock_file)]


class Supervisor:
    """The processes of one devnet. ``with_parent``: they end when this process ends, however it ends."""

    def __init__(self, config: DevnetConfig, layout: Layout, *, with_parent: bool) -> None:
        self.config = config
        self.layout = layout
        self.with_parent = with_parent
        self.variables: dict[str, str] = {}
        """What the services find in their environment besides: settings that only they know."""
        self.running: dict[str, Running] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ended = False
        self._starting = threading.Lock()
        self._log_starts: dict[str, int] = {}
        if with_parent:
            atexit.register(self._stop_children)

    def command(self, name: str) -> list[str]:
        """The command line of a service, but for ``--exit-with-parent``."""
        return service_command(self.config, self.layout, name)

    def log(self, name: str) -> Path:
        """The file that a service logs to."""
        return self.layout.log(name)

    def require_known(self, name: str) -> None:
        """Raises `DevnetError` for a name that is no service."""
        if name not in self.config.services:
            raise DevnetError(f"no service {name!r}; there are: {', '.join(self.config.services)}")

    def check_ports(self, names: Iterable[str] | None = None) -> None:
        """Raises `DevnetError` for the first port that somebody uses."""
        for name in self.config.services if names is None else names:
            port = self.config.ports[name]
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except PermissionError:
                    raise DevnetError(
                        f"port {port} (for {name}) is not for everyone; give others with --port-base"
                    ) from None
                except OSError:
                    raise DevnetError(
                        f"port {port} (for {name}) is in use{_holder(port)}; stop what uses it, "
                        "or give other ports with --port-base or --free-ports"
                    ) from None

    # --- starting ---

    def start(self, name: str) -> None:
        """Start one service; does not wait for it. Raises `DevnetError`."""
        self.require_known(name)
        with self._starting:
            self._require_wanted(name)
            self._start(name)

    def _start(self, name: str) -> None:
        if self.alive(name):
            raise DevnetError(f"{name} runs already; stop it first")
        command = self.command(name) + (["--exit-with-parent"] if self.with_parent else [])
        try:
            self.layout.data(name).parent.mkdir(parents=True, exist_ok=True)
            with self._open_log(name) as log:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.layout.directory,
                    env=_environment() | self.variables,
                    start_new_session=True,  # Ctrl-C is for us; we tell the services
                )
        except OSError as error:
            raise DevnetError(f"{name} cannot be started: {error.strerror}") from None
        self._children[name] = child
        self.running[name] = Running.of(child.pid) or Running(child.pid, "")

    def _open_log(self, name: str) -> Any:
        path = self.layout.log(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(path.name + ".old"))
        log = path.open("ab")
        self._log_starts[name] = log.tell()
        return log

    def wait_live(self, names: Iterable[str], progress: Progress = nothing) -> None:
        """Return when each service answers at all. Raises `DevnetError` with the end of its log."""
        self._wait(names, "/health/live", "to answer", progress)

    def wait_ready(self, names: Iterable[str], progress: Progress = nothing) -> None:
        """Return when each service says that it is ready. Raises `DevnetError` with the end of its log."""
        self._wait(names, "/health/ready", "to be ready", progress)

    def _wait(self, names: Iterable[str], path: str, what: str, progress: Progress) -> None:
        names = list(names)
        waiting, said = names, ""
        deadline = time.monotonic() + READY_SECONDS
        with ThreadPoolExecutor(16) as pool, httpx.Client(timeout=2.0, trust_env=False) as http:

            def good(name: str) -> bool:
                try:
                    return http.get(self.config.url(name) + path).status_code == 200
                except httpx.HTTPError:
                    return False

            while waiting:
                line = f"waiting for {', '.join(waiting)} {what}"
                if line != said:
                    progress(said := line)
                self._require_wanted(waiting[0])
                answers = dict(zip(waiting, pool.map(good, waiting), strict=True))
                for name in names:  # also those that were ready already
                    self._require_alive(name)
                waiting = [name for name in waiting if not answers[name]]
                if waiting and time.monotonic() > deadline:
                    late = ", ".join(waiting)
                    raise DevnetError(
                        f"waited {READY_SECONDS:g} s in vain for {late} {what}{self._tail(waiting[0])}"
                    )
                if waiting:
                    time.sleep(POLL_SECONDS)

    def _require_wanted(self, name: str) -> None:
        if self._ended:
            raise DevnetError(f"{name} is not started: the devnet is ending")

    def _require_alive(self, name: str) -> None:
        if not self.alive(name):
            raise DevnetError(f"{name} ended while starting{self._tail(name)}{self._way_out(name)}")

    def _way_out(self, name: str) -> str:
        """A service cannot know how its data came about; here it is known how to be rid of them."""
        if not any(ANOTHER_VERSION in line for line in self.log_tail(name)):
            return ""
        option = named(self.layout.directory)
        return f"\nstart anew with layerlab up --fresh{option}, or give another directory with --dir"

    def _tail(self, name: str) -> str:
        lines = self.log_tail(name)
        said = "\n".join(f"  {line}" for line in lines)
        return f"; the end of {str(self.layout.log(name))!r}:\n{said}" if lines else "; it logged nothing"

    def log_tail(self, name: str) -> list[str]:
        """The last lines that a service logged since we started it."""
        try:
            with self.layout.log(name).open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_starts.get(name, 0), end - 65_536))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [line[:LOG_LINE_CHARS] for line in lines[-LOG_TAIL_LINES:]]

    # --- watching ---

    def alive(self, name: str) -> bool:
        child = self._children.get(name)
        running = self.running.get(name)
        if child is not None and child.poll() is None and running is not None and running.pid == child.pid:
            return True  # perhaps a zombie already; while its last thread ends its port is still taken
        return running is not None and running.process() is not None

    def adopt(self) -> None:
        """Forget what has ended, and know again what runs on our data, whatever was written down about it."""
        self.running = {name: running for name, running in self.running.items() if self.alive(name)}
        wanted = {str(self.layout.data(name)): name for name in self.config.services}
        for found, running in _services_by_data():
            name = wanted.get(found)
            if name is not None and name not in self.running:
                self.running[name] = running

    def resident_bytes(self) -> dict[str, int]:
        """Resident memory of each service that runs."""
        sizes = {}
        for name, running in list(self.running.items()):
            process = running.process()
            try:
                if process is not None:
                    sizes[name] = process.memory_info().rss
            except psutil.Error:
                continue
        return sizes

    # --- ending ---

    def kill(self, name: str) -> None:
        """SIGKILL: no goodbye. Raises `DevnetError` if it does not run."""
        self.require_known(name)
        if not self.alive(name):
            raise DevnetError(f"{name} does not run")
        self._end([name], signal.SIGKILL, KILL_SECONDS)

    def stop(self, names: Sequence[str]) -> list[str]:
        """SIGTERM, and SIGKILL for what is still there after four seconds; returns the names of those."""
        return self._end(names, signal.SIGTERM, STOP_SECONDS)

    def stop_all(self) -> list[str]:
        """Stop every service; first those that depend on others."""
        return self.stop(list(reversed({**self.running, **self._children})))

    def end(self) -> None:
        """Stop every service, for good: a thread that starts some, or waits for them, gives up."""
        with self._starting:
            self._ended = True
        self.stop_all()

    def _stop_children(self) -> None:
        """At our own end. What another command has started since under the same name is not ours to end."""
        left = [child for child in self._children.values() if child.poll() is None]
        for child in left:
            child.terminate()
        for child in left:
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _end(self, names: Sequence[str], number: signal.Signals, seconds: float) -> list[str]:
        with _undisturbed():
            for name in names:
                if self.alive(name):
                    self.running[name].send(number)
            late = self._still_alive(names, seconds)
            for name in late:
                self.running[name].send(signal.SIGKILL)
            stuck = self._still_alive(late, KILL_SECONDS)
            for name in set(names) - set(stuck):
                self.running.pop(name, None)
                self._children.pop(name, None)
        if stuck:
            raise DevnetError(f"{', '.join(stuck)} cannot be killed; the disk may not answer")
        return late if number != signal.SIGKILL else []

    def _still_alive(self, names: Sequence[str], seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds
        while left := [name for name in names if self.alive(name)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return left


def find_services(layout: Layout) -> dict[str, Running]:
    """What runs on the data of this directory, by service, whatever its configuration says."""
    parent = layout.directory / "data"
    return {Path(data).name: r for data, r in _services_by_data() if Path(data).parent == parent}


def end_all(found: Collection[Running]) -> None:
    """SIGKILL all of these and wait until they are gone."""
    for running in found:
        running.send(signal.SIGKILL)
    deadline = time.monotonic() + KILL_SECONDS
    while any(r.process() for r in found) and time.monotonic() < deadline:
        time.sleep(0.02)


def _services_by_data() -> Iterator[tuple[str, Running]]:
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "--data" in line[:-1] and "--clock" in line and (running := Running.of(process.pid)):
            yield line[line.index("--data") + 1], running


def _environment() -> dict[str, str]:
    """Ours, without what would set a service's options, and with the very code that we run."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("LAYERLAB_")}
    code = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(part for part in (code, found.get("PYTHONPATH", "")) if part)
    return found | {"PYTHONPATH": path, PARENT_VARIABLE: str(os.getpid())}


def _holder(port: int) -> str:
    """Which process listens there, as far as the system tells."""
    try:
        for connection in psutil.net_connections("tcp"):
            here = connection.laddr and connection.laddr.port == port
            if here and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError, AttributeError):
        pass
    return ""


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until this is done: half a stop would leave processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda n, _: came.append(n)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if came:
            signal.raise_signal(came[0])
