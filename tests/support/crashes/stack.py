"""The devnet that is killed: four validators that also tell a `Tap`, sequencer, verifier and bridge.

Responsible for its configuration, for SIGKILL and for starting again. Must not know when, nor what must hold.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from subprocess import TimeoutExpired
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx

from chainkit.codec import U53, Record, decode
from chainkit.keys import dev_keypair
from chainkit.store import FILE_NAME
from crashes.tap import Broken
from layerlab.config import DevnetConfig, demo_config
from layerlab.devnet import Devnet
from layerlab.processes import Supervisor

VALIDATORS: Final = 4
SLOT_MS: Final = 300
USERS: Final = tuple(f"user-{i:02}" for i in range(10))
READY_SECONDS: Final = 20.0
POLL: Final = 0.05


class _Supervisor(Supervisor):
    tap_url = ""

    def command(self, name: str) -> list[str]:
        command = super().command(name)
        if name in self.config.validator_names and self.tap_url:
            command[command.index("--peers") + 1] += f",{self.tap_url}"
        return command


class CrashDevnet(Devnet):
    """One whose validators count the tap among their peers."""

    supervisor_type = _Supervisor

    def tell(self, url: str) -> None:
        self.supervisor.tap_url = url  # type: ignore[attr-defined]


def config() -> DevnetConfig:
    """Short slots and the demo's short windows."""
    return replace(
        demo_config(),
        validators=VALIDATORS,
        slot_ms=SLOT_MS,
        block_ms=20,
        accounts=USERS,
        ports={},
    ).with_free_ports()


class Voted(Record, frozen=True):
    """What a validator's data directory says it has voted."""

    slot: U53
    height: U53
    proposed: U53


class Stack:
    """The running services of a devnet."""

    def __init__(self, devnet: CrashDevnet) -> None:
        self.devnet = devnet
        self.config = devnet.config
        self.http = httpx.AsyncClient(timeout=5.0, trust_env=False)
        self._voted: dict[str, Voted] = {}

    async def close(self) -> None:
        await self.http.aclose()

    def url(self, name: str) -> str:
        return self.config.url(name)

    async def get(self, name: str, path: str, **params: Any) -> Any:
        """JSON of a service. Raises `httpx.HTTPError`."""
        answer = await self.http.get(self.url(name) + path, params=params)
        return answer.raise_for_status().json()

    # --- killing and starting ---

    async def kill(self, names: Sequence[str]) -> None:
        """SIGKILL all of these at once."""
        await asyncio.gather(*(asyncio.to_thread(self.devnet.supervisor.kill, name) for name in names))

    async def start(self, names: Sequence[str]) -> None:
        """Start these and return when they are ready. Raises `Broken` if one does not come back."""
        for name in names:
            await asyncio.to_thread(self.devnet.supervisor.start, name)
        self.devnet.save()
        await self.wait_ready(names)

    async def wait_ready(self, names: Iterable[str]) -> None:
        """Raises `Broken`."""
        waiting, loop = list(names), asyncio.get_running_loop()
        deadline = loop.time() + READY_SECONDS
        while waiting:
            waiting = [name for name in waiting if not await self.is_ready(name)]
            for name in waiting:
                ended = not self.devnet.supervisor.alive(name)
                if ended or loop.time() > deadline:
                    tail = " / ".join(self.devnet.supervisor.log_tail(name))
                    raise Broken(f"{name} {'ended' if ended else 'is not ready'} after its restart: {tail}")
            if waiting:
                await asyncio.sleep(POLL)

    async def wait_for_trouble(self, name: str, seconds: float) -> None:
        """Until the service says that its disk failed: alive, not ready. Raises `Broken`."""
        loop = asyncio.get_running_loop()
        deadline, told = loop.time() + seconds, "nothing"
        while loop.time() < deadline:
            with suppress(httpx.HTTPError):
                answer = await self.http.get(self.url(name) + "/health/ready")
                told = answer.text
                if answer.status_code == 503 and answer.json()["code"] == "disk_failed":
                    live = await self.http.get(self.url(name) + "/health/live")
                    if str(self.devnet.layout.data(name)) not in told or live.status_code != 200:
                        raise Broken(f"{name} does not say which disk failed: {told}")
                    return
            await asyncio.sleep(POLL)
        raise Broken(f"{name} cannot write its disk and says after {seconds:g} s: {told[:300]}")

    async def exit_code(self, name: str) -> int | None:
        """Of a service that should end by itself; None if it does not in `READY_SECONDS`."""
        child = self.devnet.supervisor._children[name]
        try:
            return await asyncio.to_thread(child.wait, READY_SECONDS)
        except TimeoutExpired:
            return None

    async def is_ready(self, name: str) -> bool:
        try:
            return (await self.http.get(self.url(name) + "/health/ready")).status_code == 200
        except httpx.HTTPError:
            return False

    # --- the disk of a dead validator ---

    def check_disk(self, name: str, said: dict[int, tuple[int, bytes]], proposed: dict[int, bytes]) -> None:
        """What it voted and proposed was on its disk before it was heard, and never goes back. Raises `Broken`."""
        voted = read_voted(self.devnet.layout.data(name), name)
        before = self._voted.get(name, Voted(0, 0, 0))
        if (voted.slot, voted.height) < (before.slot, before.height) or voted.height < before.height:
            raise Broken(f"P8: the voting record of {name} went back from {before} to {voted}")
        top = max(said, default=0)
        height = max((h for h, _ in said.values()), default=0)
        if voted.slot < top or voted.height < height or voted.proposed < max(proposed, default=0):
            raise Broken(f"P7: {name} said more (slot {top}, height {height}) than its disk has: {voted}")
        self._voted[name] = voted


def read_voted(data: Path, name: str) -> Voted:
    """The voting record in a data directory that nobody has open, read from a copy: who opens the files mends them."""
    with TemporaryDirectory(prefix="layerlab-crash-") as copy:
        for file in data.glob(f"{FILE_NAME}*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, copy)
        with closing(sqlite3.connect(Path(copy) / FILE_NAME)) as db:
            key = "voted/" + dev_keypair(name).address.hex()
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return Voted(0, 0, 0) if row is None else decode(Voted, row[0])
