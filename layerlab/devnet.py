"""A devnet in a directory: its genesis, its clock, its processes, and bringing it up and down.

Responsible for what `layerlab up`, `down`, `status` and `warp` do. Must not know how any of it is shown.

The directory holds ``devnet.json`` (configuration and pids; also the mark that layerlab made the directory),
``genesis/``, ``clock.json``, ``data/<service>/``, ``logs/`` and ``snapshots/``.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import httpx

from chainkit.clock import ClockError, VirtualClock, create_clock, rebase, set_rate, stop_clock
from chainkit.genesis import Genesis, GenesisError, genesis_from_json, genesis_to_json
from layerlab.config import DevnetConfig, DevnetError
from layerlab.genesis import make_l1_genesis
from layerlab.processes import POLL_SECONDS, Progress, Running, Supervisor

MARK: Final = "devnet.json"
DEFAULT_DIRECTORY: Final = Path(".layerlab/devnet")
FIRST_SLOT_MS: Final = 4000
"""Time between making genesis and slot 0, for the services to start in."""
WARP_SLOT_SECONDS: Final = 0.1
"""Real seconds that a slot is given while warping; the rate follows from it."""
SLOWEST_SLOT_SECONDS: Final = 0.4


class Devnet:
    """One devnet. ``with_parent``: its services end with this process."""

    def __init__(self, directory: Path, config: DevnetConfig, *, with_parent: bool = False) -> None:
        self.directory = directory.resolve()
        self.config = config
        self.supervisor = Supervisor(config, self.directory, with_parent=with_parent)

    # --- making and opening ---

    @classmethod
    def create(cls, directory: Path, config: DevnetConfig, *, with_parent: bool = False) -> Self:
        """Make a new devnet in an empty or missing directory. Raises `DevnetError`."""
        if directory.exists() and any(directory.iterdir()):
            raise DevnetError(f"{str(directory)!r} is not empty; give another directory, or use up --fresh")
        devnet = cls(directory, config, with_parent=with_parent)
        time_ms = int(time.time() * 1000) + FIRST_SLOT_MS
        genesis = make_l1_genesis(config, time_ms - time_ms % 1000)
        file = devnet.supervisor.genesis_file
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(genesis_to_json(genesis), indent=2) + "\n")
        create_clock(devnet.supervisor.clock_file, None)
        devnet.save()
        return devnet

    @classmethod
    def open(cls, directory: Path, *, with_parent: bool = False) -> Self:
        """Open what `create` made. Raises `DevnetError` for anything else."""
        mark = directory / MARK
        try:
            content = json.loads(mark.read_text())
            config = DevnetConfig.from_json(content["config"])
            running = {name: Running(pid, started) for name, (pid, started) in content["running"].items()}
        except FileNotFoundError:
            raise DevnetError(f"no devnet in {str(directory)!r}; make one with layerlab up") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DevnetError(
                f"{str(mark)!r} cannot be read ({error}); start anew with layerlab up --fresh"
            ) from None
        devnet = cls(directory, config, with_parent=with_parent)
        devnet.supervisor.running = {name: r for name, r in running.items() if r.process()}
        devnet._check_files()
        return devnet

    def _check_files(self) -> None:
        try:
            self.genesis()
            VirtualClock(self.supervisor.clock_file)
        except (OSError, GenesisError, ClockError) as error:
            raise DevnetError(
                f"the devnet in {str(self.directory)!r} is damaged ({error}); restore a snapshot, or start anew "
                "with layerlab up --fresh"
            ) from None

    @staticmethod
    def remove(directory: Path) -> None:
        """Delete a devnet that layerlab made here, snapshots excepted. Raises `DevnetError` otherwise."""
        if not directory.exists():
            return
        if any(directory.iterdir()) and not (directory / MARK).is_file():
            raise DevnetError(
                f"{str(directory)!r} was not made by layerlab (it has no {MARK}); nothing deleted"
            )
        for name in ("data", "logs", "genesis"):
            shutil.rmtree(directory / name, ignore_errors=True)
        for name in ("clock.json", "clock.json.lock", MARK):
            (directory / name).unlink(missing_ok=True)

    def save(self) -> None:
        """Write configuration and pids, atomically."""
        running = {name: [r.pid, r.started] for name, r in self.supervisor.running.items()}
        content = {"config": self.config.to_json(), "running": running, "urls": self.urls()}
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self.directory / (MARK + ".new")
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(self.directory / MARK)

    def genesis(self) -> Genesis:
        """L1's genesis (L2's is in its bridge contract's parameters)."""
        return genesis_from_json(self.supervisor.genesis_file.read_bytes())

    def urls(self) -> dict[str, str]:
        return {name: self.config.url(name) for name in self.config.services}

    @property
    def clock(self) -> VirtualClock:
        return VirtualClock(self.supervisor.clock_file)

    @property
    def is_running(self) -> bool:
        return any(running.process() for running in self.supervisor.running.values())

    # --- up and down ---

    def up(self, progress: Progress = lambda _: None) -> None:
        """Start every service and wait until all are ready; time goes on where it stood."""
        if self.is_running:
            raise DevnetError("the devnet is up already; see layerlab status, or stop it with layerlab down")
        self.supervisor.check_ports()
        if (self.directory / "data").exists():
            rebase(self.supervisor.clock_file, self.clock.now())
        try:
            self.supervisor.start_all(progress)
        finally:
            self.save()

    def down(self, progress: Progress = lambda _: None) -> None:
        """Stop time, then every service; their data stays."""
        progress("stopping")
        stop_clock(self.supervisor.clock_file)
        self.supervisor.stop_all()
        self.save()

    def restart(self, name: str, progress: Progress = lambda _: None) -> None:
        """Start one service again and wait until it is ready."""
        self.supervisor.start(name)
        self.supervisor.wait_ready([name], progress)
        self.save()

    def kill(self, name: str) -> None:
        """SIGKILL one service."""
        self.supervisor.kill(name)
        self.save()

    def delete_data(self, name: str) -> None:
        """Delete a stopped service's data directory."""
        if self.supervisor.alive(name):
            raise DevnetError(f"{name} is running; stop it first")
        shutil.rmtree(self.supervisor.data(name), ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """Every service's ``GET /status``, or why there is none."""
        answers: dict[str, Any] = {}
        with httpx.Client(timeout=2.0, trust_env=False) as http:
            for name, url in self.urls().items():
                try:
                    answers[name] = {"up": True, **http.get(url + "/status").json()}
                except (httpx.HTTPError, ValueError) as error:
                    answers[name] = {"up": False, "error": str(error) or type(error).__name__}
        return answers

    # --- time ---

    def final_height(self) -> int:
        """L1's highest final height among the validators that answer. Raises `DevnetError` if none does."""
        with httpx.Client(timeout=2.0, trust_env=False) as http:
            for url in self.config.l1_urls:
                try:
                    return int(http.get(url + "/status").json()["heads"]["finalized"]["height"])
                except (httpx.HTTPError, ValueError, KeyError, TypeError):
                    continue
        raise DevnetError("no validator answers; start the devnet with layerlab up")

    def set_rate(self, rate: float) -> None:
        """Let virtual time run ``rate`` times as fast as real time, for every service alike."""
        set_rate(self.supervisor.clock_file, rate, delay=0.2)

    def warp(
        self, done: Callable[[int], bool], progress: Callable[[int, float], None] = lambda _h, _r: None
    ) -> int:
        """Run time fast until ``done(final height)``; returns that height. Time runs at its own pace again after.

        If blocks do not become final at that pace (the machine is too slow), the pace is lowered.
        """
        slot_seconds = self.config.slot_ms / 1000
        pace = min(WARP_SLOT_SECONDS, slot_seconds)
        height = self.final_height()
        if done(height):
            return height
        try:
            self.set_rate(slot_seconds / pace)
            since, seen = time.monotonic(), height
            while not done(height):
                progress(height, slot_seconds / pace)
                time.sleep(POLL_SECONDS / 2)
                height = self.final_height()
                if time.monotonic() - since > 25 * pace:
                    made, since = height - seen, time.monotonic()
                    seen = height
                    if made < 12 and pace < min(SLOWEST_SLOT_SECONDS, slot_seconds):
                        pace = min(pace * 1.5, SLOWEST_SLOT_SECONDS, slot_seconds)
                        self.set_rate(slot_seconds / pace)
            return height
        finally:
            self.set_rate(1.0)

    def warp_to(self, height: int, progress: Callable[[int, float], None] = lambda _h, _r: None) -> int:
        """Run time fast until L1's final height is at least ``height``."""
        return self.warp(lambda final: final >= height, progress)
