"""A devnet in containers, for tests: its compose commands, its services from outside and from inside, and its end.

Whatever is made here carries the project's name and is removed by `Stack.remove`, also after a failure.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from layerlab.config import DevnetConfig

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
VALIDATORS = ["validator-0", "validator-1", "validator-2", "validator-3"]
SERVICES = [*VALIDATORS, "sequencer", "verifier", "bridge"]
COMMAND_SECONDS = 180.0
GO_ON_BLOCKS = 6


def docker(*words: str, check: bool = True, seconds: float = COMMAND_SECONDS) -> str:
    """What a docker command prints."""
    return run(["docker", *words], check=check, seconds=seconds).stdout.strip()


def run(
    words: list[str],
    *,
    check: bool = True,
    seconds: float = COMMAND_SECONDS,
    environ: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository; a failure shows what it said."""
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=seconds, env=environ, check=False
    )
    if check:
        assert done.returncode == 0, (
            f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done


def find_engine() -> str:
    """Why no container can be run here; empty if one can."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    try:
        answer = run(["docker", "info", "--format", "{{.ServerVersion}}"], check=False, seconds=30)
    except subprocess.TimeoutExpired:
        return "the Docker Engine does not answer"
    # The command ends with 0 even if there is no engine: then it knows no version.
    if answer.returncode != 0 or not answer.stdout.strip():
        return f"no Docker Engine answers: {' '.join(answer.stderr.split())[:200]}"
    return "" if find_compose() else "there is neither docker compose nor docker-compose"


def find_compose() -> list[str]:
    """The compose command: that of LAYERLAB_COMPOSE, else version 2, else 1; empty if there is none."""
    given = os.environ.get("LAYERLAB_COMPOSE", "").split()
    for words in (given, ["docker", "compose"], ["docker-compose"]):
        if words and shutil.which(words[0]) and run([*words, "version"], check=False).returncode == 0:
            return words
    return []


class Stack:
    """One compose project, its containers made of ``image``. ``settings`` are variables of docker-compose.yml."""

    def __init__(self, project: str, image: str) -> None:
        self.project = project
        self.image = image
        self.settings: dict[str, str] = {}  # further ones, for every command from then on
        free = DevnetConfig().with_free_ports().ports
        self.ports = {
            f"LAYERLAB_PORT_{name.upper().replace('-', '_')}": str(port) for name, port in free.items()
        }
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in free.items()}
        self.http = httpx.Client(timeout=5.0, trust_env=False)

    # --- commands ---

    def compose(
        self, *words: str, check: bool = True, seconds: float = COMMAND_SECONDS, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a compose command for this project, with further settings."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LAYERLAB_")}
        environ = {**clean, "LAYERLAB_IMAGE": self.image, **self.ports, **self.settings, **settings}
        command = [*find_compose(), "-p", self.project, *words]
        return run(command, check=check, seconds=seconds, environ=environ)

    def up(self) -> None:
        """Start what does not run, and wait until every service is ready."""
        self.compose("up", "-d")
        self.wait_ready()

    def heal(self) -> None:
        """As `up`, unless every service runs and is ready."""
        try:
            well = self.running() >= set(SERVICES) and all(
                self.get(service, "/health/ready").get("ready") for service in SERVICES
            )
        except httpx.HTTPError:
            well = False
        if not well:
            self.up()

    def cli(self, *words: str) -> Any:
        """What a verb of the command line answers, run beside the services."""
        return json.loads(self.compose("run", "--rm", "-T", "cli", *words, "--json").stdout)

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        found = docker(
            *("ps", "-aq", "--no-trunc", *self._label()),
            *("--filter", f"label=com.docker.compose.service={service}"),
            *("--filter", "label=com.docker.compose.oneoff=False"),
        ).split()
        assert len(found) == 1, f"{service} has containers {found}"
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    def running(self) -> set[str]:
        """The services whose containers run."""
        names = docker("ps", *self._label(), "--format", '{{.Label "com.docker.compose.service"}}')
        return set(names.split())

    def _label(self) -> list[str]:
        return ["--filter", f"label=com.docker.compose.project={self.project}"]

    # --- services ---

    def get(self, service: str, path: str) -> Any:
        """The JSON answer of a GET, whatever its status. Raises `httpx.HTTPError` if there is none."""
        return self.http.get(self.urls[service] + path).json()

    def post(self, service: str, path: str, body: Any) -> Any:
        answer = self.http.post(self.urls[service] + path, json=body)
        assert answer.is_success, f"POST {path} at {service}: {answer.text}"
        return answer.json()

    def inside(self, service: str, path: str) -> Any:
        """As `get`, asked by the container itself: also when it has no network."""
        port = DevnetConfig().ports[service]
        code = (
            "import urllib.request as r, urllib.error as e\n"
            f"try: print(r.urlopen('http://127.0.0.1:{port}{path}', timeout=5).read().decode())\n"
            "except e.HTTPError as error: print(error.read().decode())"
        )
        return json.loads(docker("exec", self.container(service), "python", "-c", code))

    def final(self, service: str) -> int:
        """The height of L1's last final block, as a validator sees it (from inside)."""
        return int(self.finalized(service)["height"])

    def finalized(self, service: str) -> dict[str, Any]:
        """L1's last final block, height and slot, as a validator sees it (from inside)."""
        return dict(self.inside(service, "/status")["heads"]["finalized"])

    def slot(self, service: str) -> int:
        """The present slot, as a validator's clock has it (from inside)."""
        return int(self.inside(service, "/health/ready")["slot"])

    def balance(self, service: str, account: str, ref: str = "head") -> int:
        return int(self.get(service, f"/accounts/{address_of(account)}?at={ref}")["balance"])

    def transfer(self, sender: str, to: str, amount: int) -> str:
        """Send on L2 and wait for the receipt; the transaction's hash."""
        action = {"type": "transfer", "to": to, "amount": amount}
        sent = self.post("sequencer", "/transactions", {"from": sender, "action": action})
        path = f"/transactions/{sent['hash']}"
        wait_until(
            "the transfer is in an L2 block", lambda: self.get("sequencer", path).get("sequencer_receipt"), 30
        )
        return str(sent["hash"])

    # --- waiting ---

    def wait_ready(self, services: Iterable[str] = SERVICES, seconds: float = 60) -> None:
        for service in services:
            self.wait(
                f"{service} is ready", lambda s=service: self.get(s, "/health/ready").get("ready"), seconds
            )

    def wait(self, what: str, probe: Callable[[], T | None], seconds: float = 60) -> T:
        """As `wait_until`; a failure shows the end of the logs."""
        try:
            return wait_until(what, probe, seconds)
        except AssertionError as error:
            logs = self.compose("logs", "--tail", "8", check=False)
            raise AssertionError(f"{error}\n{logs.stdout[-6000:]}{logs.stderr[-500:]}") from None

    def wait_final(self, service: str, height: int, seconds: float = 60) -> None:
        self.wait(f"block {height} is final at {service}", lambda: self.final(service) >= height, seconds)

    def finality_goes_on(self, validators: Iterable[str] = ("validator-0",)) -> None:
        """Six more blocks become final at each of these."""
        target = self.final("validator-0") + GO_ON_BLOCKS
        for validator in validators:
            self.wait_final(validator, target)

    def require_nobody_slashed(self) -> None:
        """All validators are in the set, with the same stake, and there is evidence against none."""
        shown = self.get("validator-0", "/validators")
        assert {item["address"] for item in shown["set"]} == {address_of(name) for name in VALIDATORS}
        assert {item["stake"] for item in shown["set"]} == {shown["total_stake"] // len(VALIDATORS)}
        assert all(self.get(name, "/evidence") == {"found": [], "slashed": []} for name in VALIDATORS)

    def require_no_fork(self, validators: Iterable[str] = VALIDATORS) -> int:
        """All agree on every block that is final at all of them; returns the last such height."""
        names = list(validators)
        last = min(self.final(name) for name in names)
        hashes = {
            name: [self._hash(name, height) for height in range(max(0, last - 60), last + 1)]
            for name in names
        }
        first = hashes[names[0]]
        assert all(chain == first for chain in hashes.values()), f"a fork below {last}: {hashes}"
        return last

    def _hash(self, validator: str, height: int) -> str:
        return str(self.get(validator, f"/blocks/{height}")["hash"])

    # --- the end ---

    def remove(self) -> None:
        """Remove everything that carries the project's name. Somebody who presses Ctrl-C again has to wait."""
        with undisturbed():
            self.compose("down", "-v", "--remove-orphans", "-t", "2", check=False)
            self._remove_left()

    def _remove_left(self) -> None:
        """What compose does not count as its own any more: one-off containers, networks made by hand."""
        for kind, command in (
            ("ps", ["rm", "-f"]),
            ("network", ["network", "rm"]),
            ("volume", ["volume", "rm"]),
        ):
            if left := self.left(kind):
                docker(*command, *left, check=False)

    def left(self, kind: str) -> list[str]:
        """Containers ("ps"), networks or volumes with the project's name."""
        listing = ["ps", "-a", "--no-trunc"] if kind == "ps" else [kind, "ls"]
        by_label = docker(*listing, "-q", *self._label()).split()
        shown = {"ps": "{{.ID}} {{.Names}}", "network": "{{.ID}} {{.Name}}", "volume": "{{.Name}} {{.Name}}"}
        named = [line.split() for line in docker(*listing, "--format", shown[kind]).splitlines()]
        # Not the engine's name filter: it finds project-12 in project-123, which is somebody else's.
        ours = (self.project + "_", self.project + "-")
        return sorted({*by_label, *(thing for thing, name in named if name.startswith(ours))})

    def story(self) -> str:
        """What its containers do and last said, for whoever reads a failure."""
        state = self.compose("ps", check=False)
        logs = self.compose("logs", "--no-color", "--tail", "12", check=False)
        return f"{state.stdout}{state.stderr}\n{logs.stdout[-12_000:]}{logs.stderr[-500:]}"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals to end wait until this is done; commands that are run here inherit that."""
    ends = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(end, signal.SIG_IGN) for end in ends]
    try:
        yield
    finally:
        for end, handler in zip(ends, before, strict=True):
            signal.signal(end, handler)


@contextmanager
def networks_kept() -> Iterator[None]:
    """Gives containers back the networks that `docker swarm leave` takes from them.

    It clears every network that is attachable, and docker-compose 1.29 makes all of its own so: without this, a
    devnet that somebody else runs on this engine would be cut to pieces.
    """
    before = _attachments()
    try:
        yield
    finally:
        now = _attachments()
        for (container, network), aliases in before.items():
            if (container, network) not in now:
                names = [word for alias in aliases for word in ("--alias", alias)]
                docker("network", "connect", *names, network, container, check=False)


def _attachments() -> dict[tuple[str, str], list[str]]:
    """(container, network) of those that run, and by which names they are known there."""
    running = docker("ps", "-q", "--no-trunc").split()
    found = json.loads(docker("inspect", *running)) if running else []
    return {
        (container["Id"], network): seat["Aliases"] or []
        for container in found
        for network, seat in container["NetworkSettings"]["Networks"].items()
        if container["HostConfig"]["NetworkMode"] not in ("host", "none")
    }


def address_of(name: str) -> str:
    from chainkit.keys import dev_keypair

    return "0x" + dev_keypair(name).address.hex()


def wait_until(what: str, probe: Callable[[], T | None], seconds: float) -> T:
    """Ask until the answer is neither None nor False; no answer at all counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = probe()
        except (httpx.HTTPError, json.JSONDecodeError, KeyError, AssertionError):
            found = None
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.2)
