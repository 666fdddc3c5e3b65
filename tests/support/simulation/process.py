"""A service as a process: it starts, it serves, it dies and is started again.

Responsible for keeping one service's tasks together, so that all of them end at once, and for restarting what
ended by itself. Must not know what the service does. What `chainkit.service.run` does with uvicorn and signals
is done here with a simulated network.
"""

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from chainkit.service import CLOSE_SECONDS, Service
from chainkit.store import StoreError
from l1node.node import BrokenNodeError
from simulation.disk import Disk, PowerLost
from simulation.loop import SimClock
from simulation.network import Answer, Handler, Request, Unreachable

RESTART_SECONDS = 1.0
"""A supervisor starts again what ended by itself."""

Create = Callable[["Process"], Awaitable[tuple[Service, Any, Handler]]]
"""Makes the service, what is behind it, and what answers its requests."""


class Process:
    """One service. ``core`` is what `Create` gave besides; None while the process is down."""

    def __init__(
        self,
        name: str,
        path: Path,
        clock: SimClock,
        create: Create,
        rng: Random,
        note: Callable[[str, str], None],
        on_up: Callable[["Process"], None],
        sqlite: bool,
    ) -> None:
        self.name = name
        self.path = path
        self.clock = clock
        self.disk = Disk(rng, self.kill, sqlite=sqlite)
        self.core: Any = None
        self.service: Service | None = None
        self.handler: Handler | None = None
        self.wanted = False
        """Whether it should be running: a crash does not change that."""
        self.restart_after = RESTART_SECONDS
        self.starts = 0
        self.failures: list[str] = []
        """Whatever ended a task or a request."""
        self.unexpected: list[str] = []
        """Those of them that are no answer to a failing disk: errors in the program."""
        self._create = create
        self._note = note
        self._on_up = on_up
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._burial: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether it answers."""
        return self.handler is not None

    # --- life ---

    def start(self) -> None:
        """Start it, once it is down."""
        self.wanted = True
        if self.service is None and not self._tasks and self._burial is None:
            self.starts += 1
            self._note("start", self.name)
            self.spawn(self._boot())

    async def _boot(self) -> None:
        service, core, handler = await self._create(self)
        self.service, self.core, self.handler = service, core, handler
        for _, task in service.tasks:
            self.spawn(task())
        self._on_up(self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something as a part of this process: it ends with it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None or isinstance(error, PowerLost) or self._burial is not None:
            return
        # Exit code 1: something that should go on for ever has failed.
        self._note_failure(error)
        self._note("exit 1", f"{self.name}: {error!r:.200}")
        self._go_down()  # also if it never came up

    def kill(self) -> None:
        """kill -9: nothing more is written or sent. It is started again after ``restart_after`` seconds."""
        if self._burial is None and (self.service is not None or self._tasks):
            self._go_down()

    def _go_down(self) -> None:
        self._note("down", self.name)
        self.disk.lose_power()
        self.handler = self.core = self.service = None
        for task in list(self._tasks):
            task.cancel()
        self.service = None
        self._burial = asyncio.get_running_loop().create_task(self._bury(self.restart_after))

    async def _bury(self, restart_after: float) -> None:
        self.restart_after = RESTART_SECONDS
        for _ in range(1000):
            # Again and again: asyncio.wait_for of Python 3.11 may swallow a cancellation, kill -9 knows no mercy.
            for task in list(self._tasks):
                task.cancel()
            await asyncio.sleep(0)
            if not self._tasks:
                break
        assert not self._tasks, f"{self.name} outlives its death: {list(self._tasks)}"
        self.disk.mount_again()
        await asyncio.sleep(restart_after)
        self._burial = None
        if self.wanted:
            self.start()

    async def stop(self) -> None:
        """A clean end, as on SIGTERM; a dead process stays dead."""
        self.wanted = False
        service = self.service
        self.handler = self.core = None
        if service is not None:
            for stopping in service.stopping:
                stopping()
            for _ in range(20):
                for task in list(self._tasks):
                    task.cancel()
                await asyncio.sleep(CLOSE_SECONDS / 20)
            if service.close is not None:
                await service.close()
        self.service = None
        if self._burial is not None:
            self._burial.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._burial
            self._burial = None
        self.disk.mount_again()

    def _note_failure(self, error: BaseException) -> None:
        self.failures.append(repr(error))
        if not _is_disk_failure(error):
            where = traceback.extract_tb(error.__traceback__)[-1:]
            self.unexpected.append(f"{error!r:.300} at {where}")

    # --- requests ---

    def request(self, request: Request, back: Callable[[Answer | Unreachable], None]) -> bool:
        """Handle a request; whether that is done. ``back`` gets the answer, or what a broken connection is."""
        assert self.handler is not None
        try:
            work = self.handler(*request)
        except PowerLost:
            back(Unreachable("connection reset", late=False))
        except Exception as error:  # noqa: BLE001 - as a server does, and the process goes on
            back(self._internal_error(error))
        else:
            if not isinstance(work, Answer):
                task = self.clock.loop.create_task(work)
                self._tasks[task] = None
                task.add_done_callback(partial(self._answered, back))
                return False
            back(work)
        return True

    def _answered(self, back: Callable[[Answer | Unreachable], None], task: asyncio.Task[Answer]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or isinstance(task.exception(), PowerLost):
            back(Unreachable("connection reset", late=False))
            return
        error = task.exception()
        back(task.result() if error is None else self._internal_error(error))

    def _internal_error(self, error: BaseException) -> Answer:
        self._note_failure(error)
        self._note("500", f"{self.name}: {error!r:.300}")
        return Answer(500, b"", "text/plain")


def _is_disk_failure(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_disk_failure(each) for each in error.exceptions)
    return isinstance(error, (StoreError, BrokenNodeError, PowerLost))
