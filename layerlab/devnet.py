"""A devnet in a directory: making and opening it, bringing it up and down, its time and its status.

Responsible for what `layerlab up`, `down`, `status` and `warp` do. Must not know how any of it is shown.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import httpx

from bridge.abi import BridgeParams
from chainkit.codec import decode
from chainkit.genesis import Genesis, GenesisError, genesis_from_json, genesis_to_json
from layerlab import archive
from layerlab.config import DevnetConfig, DevnetError
from layerlab.containers import NOT_OURS, ContainerSupervisor
from layerlab.devtime import DevnetTime
from layerlab.genesis import make_l1_genesis, make_second_genesis
from layerlab.layout import DEFAULT_DIRECTORY as DEFAULT_DIRECTORY
from layerlab.layout import MARK as MARK
from layerlab.layout import Layout, named, write_json
from layerlab.processes import Progress, Running, Supervisor, end_all, find_services, nothing
from layerlab.warp import WarpProgress, unseen, warp

FIRST_SLOT_MS: Final = 500
"""Virtual time between making genesis and slot 0; time does not run before the validators answer."""
WATCH_SECONDS: Final = 0.5


def first_slot_ms() -> int:
    """When slot 0 of a chain that is made now begins (unix ms)."""
    return int(time.time() * 1000) + FIRST_SLOT_MS


class Devnet:
    """One devnet. ``with_parent``: its services end with this process.

    Of one whose services are containers the files, the time and the status are here; whatever would start, stop
    or delete a service raises `DevnetError`.
    """

    supervisor_type: type[Supervisor] = Supervisor

    def __init__(self, directory: Path, config: DevnetConfig, *, with_parent: bool = False) -> None:
        self.layout = Layout(directory.resolve())
        self.config = config
        self.time = DevnetTime(self.layout)
        self.genesis_hash = ""
        kind = ContainerSupervisor if config.containers else self.supervisor_type
        self.supervisor = kind(config, self.layout, with_parent=with_parent)
        self._guard = threading.RLock()
        self._depth = 0

    @property
    def directory(self) -> Path:
        return self.layout.directory

    # --- making and opening ---

    @classmethod
    def create(cls, directory: Path, config: DevnetConfig, *, with_parent: bool = False) -> Self:
        """Make a new devnet in an empty or missing directory. Raises `DevnetError`."""
        devnet = cls(directory, config, with_parent=with_parent)
        devnet.layout.require_vacant()  # before the lock: nothing is left behind where we have no business
        now, time_ms = time.time(), first_slot_ms()
        genesis, second = make_l1_genesis(config, time_ms), make_second_genesis(config, time_ms)
        with devnet._locked():
            devnet.layout.require_vacant()
            devnet.genesis_hash = genesis.hash().hex()
            devnet.save()  # the mark first: whatever comes next is known as ours
            devnet.layout.genesis_file.parent.mkdir(exist_ok=True)
            write_json(devnet.layout.genesis_file, genesis_to_json(genesis))
            if second is not None:
                write_json(devnet.layout.l2_genesis_file, genesis_to_json(second))
            devnet.time.create(now)
        return devnet

    @classmethod
    def open(cls, directory: Path, *, with_parent: bool = False) -> Self:
        """Open what `create` made. Raises `DevnetError` for anything else."""
        layout = Layout(directory.resolve())
        if not layout.exists:
            raise DevnetError(f"no devnet in {str(directory)!r}; make one with layerlab up")
        config, genesis_hash, _ = _read_mark(layout)
        devnet = cls(directory, config, with_parent=with_parent)
        devnet.genesis_hash = genesis_hash
        if archive.pending(layout):
            with devnet._locked():
                devnet.conclude_restore()
        devnet.reload()
        if not devnet.is_running:  # what runs can be taken down, however damaged
            devnet._check_files()
        return devnet

    @classmethod
    def open_or_create(
        cls,
        directory: Path,
        config: DevnetConfig | None = None,
        *,
        fresh: bool = False,
        with_parent: bool = False,
    ) -> Self:
        """Open the devnet there or make one; ``fresh`` deletes the old one first, snapshots excepted.

        ``config`` None: the one that it has, or the usual. A given one must be that of the devnet, ports aside:
        those are taken over. Raises `DevnetError`.
        """
        if fresh:
            cls.remove(directory)
        if not cls.exists(directory):
            return cls.create(directory, config or DevnetConfig(), with_parent=with_parent)
        devnet = cls.open(directory, with_parent=with_parent)
        if config is None:
            return devnet
        if difference := config.difference(devnet.config):
            raise DevnetError(
                f"the devnet in {str(directory)!r} is another one ({difference}); start anew with --fresh, "
                "or give another directory with --dir"
            )
        if config.ports != devnet.config.ports:
            devnet.change_ports(config)
        return devnet

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether layerlab made a devnet there."""
        return Layout(directory.resolve()).exists

    @staticmethod
    def remove(directory: Path) -> None:
        """End what runs there and delete what layerlab made there, snapshots excepted. Raises `DevnetError`."""
        layout = Layout(directory.resolve())
        if not layout.directory.exists():
            return
        if not layout.exists:
            layout.require_vacant()
        with layout.locked():
            if layout.exists:
                _require_processes(layout)
                end_all(find_services(layout).values())
            layout.remove()

    def _check_files(self) -> None:
        problem = ""
        try:
            if self.genesis().hash().hex() != self.genesis_hash:
                problem = "its genesis file is another chain's"
            self.time.schedule()
        except OSError as error:
            problem = f"{str(error.filename)!r}: {error.strerror}"
        except (GenesisError, DevnetError) as error:
            problem = str(error)
        if problem:
            raise DevnetError(
                f"the devnet in {str(self.directory)!r} is damaged ({problem}); "
                f"start anew with layerlab up --fresh{named(self.directory)}"
            )

    def save(self) -> None:
        """Write configuration and processes, atomically."""
        running = {name: [r.pid, r.birth] for name, r in self.supervisor.running.items()}
        content = {"config": self.config.to_json(), "genesis": self.genesis_hash, "running": running}
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.layout.mark, {**content, "urls": self.urls()})

    def reload(self) -> None:
        """Take over what another command may have changed. Raises `DevnetError`."""
        config, self.genesis_hash, running = _read_mark(self.layout)
        self._configure(config)
        self.supervisor.running = dict(running)
        self.supervisor.adopt()

    def change_ports(self, config: DevnetConfig) -> None:
        """Take over the ports of ``config``. Raises `DevnetError` if the devnet is up."""
        with self._at_work():
            if self.is_running:
                raise DevnetError("the devnet is up; to change its ports stop it first with layerlab down")
            self._configure(replace(self.config, ports=config.ports))
            self.save()

    def _configure(self, config: DevnetConfig) -> None:
        self.config = self.supervisor.config = config

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time works on the directory, threads of this process included."""
        with self._guard:
            if self._depth:
                yield
                return
            with self.layout.locked():
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Nobody else starts or stops; what we know is up to date. Raises `DevnetError` for containers."""
        if self.config.containers:
            raise DevnetError(NOT_OURS)
        with self._locked():
            self.reload()
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """As a snapshot needs it: nobody else starts, stops or warps. Raises `DevnetError`."""
        with self.layout.locked("clock"), self._at_work():
            yield

    def genesis(self) -> Genesis:
        """L1's genesis (L2's is in its bridge contract's parameters)."""
        return genesis_from_json(self.layout.genesis_file.read_bytes())

    def l2_genesis(self) -> Genesis | None:
        """The second chain's genesis: a rollup's as L1's has it; None if there is no second chain."""
        if not self.config.kind.bridged:
            return None
        if not self.config.kind.rollup:
            return genesis_from_json(self.layout.l2_genesis_file.read_bytes())
        spec = next(spec for spec in self.genesis().contracts if spec.name == "bridge")
        return decode(BridgeParams, spec.params).l2_genesis

    def urls(self) -> dict[str, str]:
        return {name: self.config.url(name) for name in self.config.services}

    @property
    def is_running(self) -> bool:
        return any(self.supervisor.alive(name) for name in self.config.services)

    # --- up and down ---

    def up(self, progress: Progress = nothing, services: Sequence[str] | None = None) -> None:
        """Start every service (or these) and return when all are ready; time goes on where it stood.

        Raises `DevnetError` with nothing left running.
        """
        names = list(self.config.services if services is None else services)
        with self._at_work():
            if self.is_running:
                raise DevnetError(
                    "the devnet is up already; see layerlab status, or stop it with layerlab down"
                )
            if archive.pending(self.layout):  # validators on half of the old data could vote twice
                self.conclude_restore()
            self.supervisor.check_ports(names)
            self.time.settle()
            try:
                # No slot passes before there is somebody to fill it: validators start alone, the others once time runs.
                first = [name for name in names if name in self.config.all_validators] or names
                self._start(first)
                self.supervisor.wait_live(first, progress)
                self.time.set_rate(1.0)
                self._start([name for name in names if name not in first])
                self.supervisor.wait_ready(names, progress)
                self.time.wait_running()
            except BaseException:
                self.halt(nothing)
                raise

    def _start(self, names: Sequence[str]) -> None:
        for name in names:
            self.supervisor.start(name)
            self.save()

    def down(self, progress: Progress = nothing) -> list[str]:
        """Stop time, then every service; their data stays. Returns the names of those that ran."""
        with self._at_work():
            return self.halt(progress)

    def halt(self, progress: Progress) -> list[str]:
        """As `down`, for a command that has the directory for itself already."""
        ran = [name for name in self.config.services if self.supervisor.alive(name)]
        if ran:
            with suppress(DevnetError):  # whatever became of the clock, services can be stopped
                self.time.stop()
            progress(f"stopping {len(ran)} services")
            self.supervisor.stop_all()
        with suppress(DevnetError):
            self.time.settle()
        self.save()
        return ran

    def watch(
        self, ended: Callable[[str, list[str]], None], wait: Callable[[float], object] = time.sleep
    ) -> None:
        """Return when another command has taken the devnet down; until then tell which services end by themselves.

        ``ended(name, last log lines)`` is called once for each; ``wait(seconds)`` may raise to end it all.
        """
        known: set[str] = set()
        while True:
            wait(WATCH_SECONDS)
            with suppress(DevnetError), self.layout.locked(seconds=0):  # else a command is at work
                expected = set(_read_mark(self.layout)[2])
                self.reload()
                gone = {name for name in expected if not self.supervisor.alive(name)}
                for name in sorted(gone - known):
                    ended(name, self.supervisor.log_tail(name))
                known = gone
                if not self.is_running:
                    return

    def restart(self, *names: str, progress: Progress = nothing) -> None:
        """Start services (again), all at once, and return when they are ready. Raises `DevnetError`."""
        with self._at_work():
            for name in names:
                self.supervisor.require_known(name)
            if not self.is_running:
                raise DevnetError("the devnet is down; start it with layerlab up")
            self.supervisor.stop(names)
            self.supervisor.check_ports(names)
            for name in names:
                self.supervisor.start(name)
                self.save()
            self.supervisor.wait_ready(names, progress)

    def kill(self, name: str) -> None:
        """SIGKILL one service. Raises `DevnetError` if it does not run."""
        with self._at_work():
            self.supervisor.kill(name)
            self.save()

    def delete_data(self, name: str) -> None:
        """Delete a stopped service's data directory. Raises `DevnetError`."""
        with self._at_work():
            self.supervisor.require_known(name)
            if self.supervisor.alive(name):
                raise DevnetError(f"{name} is running; stop it first")
            archive.remove_tree(self.layout.data(name))

    def conclude_restore(self) -> None:
        """Finish a restore that `archive.commit` promised; ports stay if they can. Nothing may run."""
        ports = self.config.ports
        manifest = archive.put_in_place(self.layout)
        config = DevnetConfig.from_json(manifest.config)
        if set(config.services) <= set(ports):
            config = replace(config, ports=ports)
        self._configure(config)
        self.genesis_hash = manifest.genesis
        self.time.stand_at(manifest.virtual)
        self.save()
        archive.clear(self.layout)

    # --- status ---

    def status(self) -> dict[str, Any]:
        """Directory, time, and for each service what ``GET /status`` says, or why it says nothing."""
        resident = self.supervisor.resident_bytes()
        with httpx.Client(timeout=2.0, trust_env=False) as http, ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda url: _ask(http, url), self.urls().values()))
        services: dict[str, Any] = {}
        for (name, url), answer in zip(self.urls().items(), answers, strict=True):
            running = self.supervisor.running.get(name) if self.supervisor.alive(name) else None
            about = {"url": url, "pid": running and running.pid, "resident_bytes": resident.get(name)}
            services[name] = {**about, **answer}
        virtual, rate = self.time.now()
        return {
            "directory": str(self.directory),
            "running": self.is_running,
            "time": {"virtual": virtual, "rate": rate},
            "services": services,
        }

    def final_height(self) -> int:
        """L1's final height at the first validator that answers. Raises `DevnetError` if none does."""
        with httpx.Client(timeout=2.0, trust_env=False) as http:
            for name in self.config.validator_names:
                answer = _ask(http, self.config.url(name))
                with suppress(KeyError, TypeError, ValueError):
                    return int(answer["heads"]["finalized"]["height"])
        raise DevnetError("no validator answers; start the devnet with layerlab up")

    # --- time ---

    def set_rate(self, rate: float) -> None:
        """Let virtual time run ``rate`` times as fast as real time, for every service alike."""
        self.time.set_rate(rate)

    def warp(
        self,
        done: Callable[[int], bool],
        progress: WarpProgress = unseen,
        *,
        goal: int | None = None,
        max_rate: float | None = None,
    ) -> int:
        """Run time fast until ``done(final L1 height)``; returns that height. See `layerlab.warp`.

        Raises `DevnetError`, with time running at its own pace again.
        """
        with self.layout.locked("clock"):
            return warp(
                self.final_height,
                self.time,
                done,
                slot_seconds=self.config.slot_ms / 1000,
                goal=goal,
                max_rate=max_rate,
                progress=progress,
            )

    def warp_to(self, height: int, progress: WarpProgress = unseen, *, max_rate: float | None = None) -> int:
        """Run time fast until L1's final height is at least ``height``; returns it."""
        return self.warp(lambda final: final >= height, progress, goal=height, max_rate=max_rate)

    def warp_blocks(
        self, blocks: int, progress: WarpProgress = unseen, *, max_rate: float | None = None
    ) -> int:
        """Run time fast until ``blocks`` more L1 blocks are final; returns the final height."""
        return self.warp_to(self.final_height() + blocks, progress, max_rate=max_rate)


def _read_mark(layout: Layout) -> tuple[DevnetConfig, str, Mapping[str, Running]]:
    try:
        content = json.loads(layout.mark.read_bytes())
        config = DevnetConfig.from_json(content["config"])
        running = {
            name: Running(int(pid), str(birth))
            for name, (pid, birth) in content["running"].items()
            if name in config.services
        }
        return config, str(content["genesis"]), running
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DevnetError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DevnetError(
            f"{str(layout.mark)!r} cannot be read ({reason}); "
            f"start anew with layerlab up --fresh{named(layout.directory)}"
        ) from None


def _require_processes(layout: Layout) -> None:
    """Raises `DevnetError` if the services are containers. A mark that cannot be read is no reason to stay."""
    try:
        config, _, _ = _read_mark(layout)
    except DevnetError:
        return
    if config.containers:
        raise DevnetError(NOT_OURS)


def _ask(http: httpx.Client, url: str) -> dict[str, Any]:
    try:
        answer = http.get(url + "/status").json()
        if isinstance(answer, dict):
            return {"up": True, **answer}
        return {"up": False, "error": "the answer is no JSON object"}
    except (httpx.HTTPError, ValueError) as error:
        return {"up": False, "error": str(error) or type(error).__name__}
