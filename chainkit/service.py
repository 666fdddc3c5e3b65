"""Running a service: one process, one HTTP port, supervised background tasks, and a clean end.

Responsible for the order of starting and stopping, signals, and exit codes. Must not know what the service
does.

Exit codes: 0 stopped by a signal, 1 a background task failed, 2 it could not start (one line on stderr).

A service whose disk fails says so in one line and answers 503 until the disk can be written; then it begins anew
(chainkit/disk_trouble.py).

Order: bind the port, `create` the service, start its tasks, serve; on SIGTERM or SIGINT: end the event
streams, finish the requests under way (3 s at most), cancel the tasks, close. A second signal does not wait.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from chainkit.clock import ClockError
from chainkit.connections import Connections, LimitedProtocol, limited
from chainkit.datadir import DataDirError, DiskTrouble
from chainkit.disk_trouble import (
    RESUMING,
    OutOfOrder,
    begin_anew,
    disk_problem,
    disk_trouble,
    wait_until_writable,
)
from chainkit.express import Lane, with_lane
from chainkit.genesis import GenesisError
from chainkit.http_limits import HttpLimits
from chainkit.keystore import KeyFileError
from chainkit.logs import configure_logging
from chainkit.openapi import install_openapi
from chainkit.parent import watch_parent
from chainkit.problem_answers import answer, install_problem_handlers
from chainkit.startup import EXIT_STARTUP, RunOptions, StartupError, one_line
from chainkit.store import StoreError

EXIT_FAILED: Final = 1
GRACE_SECONDS: Final = 3  # for requests under way
CLOSE_SECONDS: Final = 1.0  # for tasks, and for closing
GC_THRESHOLDS: Final = (20_000, 10, 5)

_log = logging.getLogger("layerlab.service")

BackgroundTask = Callable[[], Coroutine[Any, Any, None]]


STARTUP_ERRORS: Final = (StartupError, StoreError, DataDirError, GenesisError, KeyFileError, ClockError)


@dataclass
class Service:
    """A service ready to serve. All of it runs on one event loop.

    ``tasks`` run from just before the first request until the end; one that raises ends the process with exit
    code 1, one that returns is done. ``stopping`` functions are called at once on a signal (end the streams:
    `EventLog.close`); ``close`` is awaited last, when nothing else runs (close the store).
    """

    app: FastAPI | OutOfOrder
    tasks: Sequence[tuple[str, BackgroundTask]] = ()
    stopping: Sequence[Callable[[], None]] = ()
    close: Callable[[], Awaitable[None]] | None = None
    lane: Lane | None = None


Create = Callable[[], Awaitable[Service]]


def make_app(title: str, *, description: str = "", version: str = "0.1.0", **limits: Any) -> FastAPI:
    """An app with problem details for every error and `HttpLimits` (``limits`` are its parameters)."""
    app = FastAPI(title=title, description=description, version=version)
    install_problem_handlers(app)
    install_openapi(app)
    app.add_exception_handler(DiskTrouble, _answer_trouble)
    app.add_middleware(HttpLimits, **limits)
    return app


async def _answer_trouble(_: Request, error: Exception) -> Response:
    trouble = disk_trouble(error)
    assert trouble is not None
    return answer(disk_problem(trouble))


def run(create: Create, options: RunOptions) -> int:
    """Run until a signal or a failure; returns the exit code: ``sys.exit(run(create, options))``.

    ``create`` is awaited after the port is bound and before anything is served; it raises `StartupError` (or
    one of the errors in ``STARTUP_ERRORS``) with one line for people.
    """
    configure_logging(options.name, options.log_level)
    try:
        listener = bind(options.host, options.port)
    except StartupError as error:
        return _cannot_start(options, error)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            main = _Run(create, options, listener)
            code = runner.run(main.main())
    finally:
        listener.close()
    if main.again:
        begin_anew()
    return code


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `StartupError` if the port is taken or the address is not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise StartupError(
            f"cannot resolve host {host!r}; give an address with --host (LAYERLAB_HOST)"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)  # at once: two sockets may be bound to one port until one of them listens
        listener.setblocking(False)
    except (OSError, OverflowError) as error:
        listener.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise StartupError(
                f"port {port} on {host} is in use; stop what uses it, or give another with --port (LAYERLAB_PORT)"
            ) from None
        reason = getattr(error, "strerror", None) or str(error)
        raise StartupError(
            f"cannot listen on {host} port {port}: {reason}; correct --host (LAYERLAB_HOST) or "
            f"--port (LAYERLAB_PORT)"
        ) from None
    return listener


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _cannot_start(options: RunOptions, error: Exception) -> int:
    print(f"{options.name}: {one_line(str(error))}", file=sys.stderr, flush=True)
    return EXIT_STARTUP


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: it would die of the signal again after a clean end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@dataclass
class _Run:
    create: Create
    options: RunOptions
    listener: socket.socket
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    failed: bool = False
    signals: int = 0
    server: _Server | None = None
    trouble: DiskTrouble | None = None
    again: bool = False

    async def main(self) -> int:
        self._handle_signals()
        if self.options.exit_with_parent:
            watch_parent(self._on_signal)
        try:
            service = await self._create()
        except STARTUP_ERRORS as error:
            self.trouble = disk_trouble(error)
            if self.trouble is not None and RESUMING in os.environ:
                _tell_of(self.trouble)
                return await self._out_of_order(self.trouble)
            return _cannot_start(self.options, error)
        except Exception:  # noqa: BLE001 - the last resort of the process
            _log.exception("the service could not start")
            return EXIT_FAILED
        if service is None:  # a signal came first
            return 0
        collect_rarely()
        try:
            await self._serve(service)
        finally:
            await self._close(service)
        if self.trouble is not None and not self.signals:
            return await self._out_of_order(self.trouble)
        return EXIT_FAILED if self.failed else 0

    async def _out_of_order(self, trouble: DiskTrouble) -> int:
        """Answer 503 until the disk can be written, then begin anew; 0 if a signal comes first."""
        self.stop = asyncio.Event()
        fixed = asyncio.create_task(wait_until_writable(trouble.path))
        fixed.add_done_callback(lambda _: self.stop.set())
        await self._serve(Service(OutOfOrder(trouble)))
        self.again = fixed.done() and not self.signals
        fixed.cancel()
        return 0

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        self.signals += 1
        self.stop.set()
        if self.signals > 1 and self.server is not None:
            self.server.force_exit = True

    async def _create(self) -> Service | None:
        creating = asyncio.ensure_future(self.create())
        stopped = asyncio.ensure_future(self.stop.wait())
        await asyncio.wait({creating, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not creating.done():
            creating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await creating
            return None
        return await creating

    async def _serve(self, service: Service) -> None:
        config = uvicorn.Config(
            self._until_trouble(service.app),
            http=self._protocol(service.lane),
            ws="none",
            lifespan="off" if isinstance(service.app, OutOfOrder) else "on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who connects is who connects: limits count addresses
            timeout_keep_alive=20,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        self.server = server = _Server(config)
        tasks = [asyncio.create_task(self._supervised(name, task), name=name) for name, task in service.tasks]
        serving = asyncio.create_task(server.serve(sockets=[self.listener.dup()]), name="http")
        serving.add_done_callback(lambda _: self.stop.set())
        port = self.listener.getsockname()[1]
        _log.info("serving", extra={"fields": {"host": self.options.host, "port": port}})
        await self.stop.wait()
        self.failed = self.failed or serving.done()  # it ends only when told to
        _log.info("stopping")
        for stopping in service.stopping:
            stopping()
        server.should_exit = True
        try:
            await serving
        except Exception:  # noqa: BLE001 - the last resort of the process
            self.failed = True
            _log.exception("the HTTP server failed")
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in left:
                _log.warning("a task did not stop", extra={"fields": {"task": task.get_name()}})

    def _until_trouble(self, app: ASGIApp) -> ASGIApp:
        """What is in memory may be ahead of a disk that failed: nothing of it is told to anyone from then on."""

        async def gate(scope: Scope, receive: Receive, send: Send) -> None:
            if self.trouble is None or scope["type"] != "http":
                await app(scope, receive, send)
            else:
                await OutOfOrder(self.trouble)(scope, receive, send)

        return gate

    def _protocol(self, lane: Lane | None) -> type[LimitedProtocol]:
        book = Connections()
        return limited(book) if lane is None else with_lane(book, lane, lambda: self.trouble is None)

    async def _supervised(self, name: str, task: BackgroundTask) -> None:
        try:
            await task()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the process ends of it
            self.stop.set()
            if self.trouble is None and (trouble := disk_trouble(error)) is not None:
                self.trouble = trouble
                _tell_of(trouble)  # at once: a clean end of what is under way takes seconds
            if self.trouble is not None:
                return
            # Better gone than limping: what starts services sees an exit code, not a half-dead process.
            _log.exception("a background task failed", extra={"fields": {"task": name}})
            self.failed = True

    async def _close(self, service: Service) -> None:
        if service.close is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await service.close()
        except Exception as error:  # noqa: BLE001 - the last resort of the process
            self.failed = True
            if disk_trouble(error) is None:
                _log.exception("closing failed")


def _tell_of(trouble: DiskTrouble) -> None:
    _log.error("out of order: %s", one_line(str(trouble)))


def collect_rarely() -> None:
    """Let Python look for cycles of garbage seldom, and never among what is there now.

    Blocks, receipts and states are made in great numbers, live long and are in no cycles: with the usual
    thresholds the collector walks through all of them every few hundred transactions. Not too seldom, either:
    a connection that ends leaves a cycle of some 10 KB, and thousands of them are one of the ways to fill memory.
    """
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """Run a service's tasks without a socket, for tests; raises what a task raises."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(task(), name=name) for name, task in service.tasks]
        try:
            yield
        finally:
            for stopping in service.stopping:
                stopping()
            for task in tasks:
                task.cancel()
    if service.close is not None:
        await service.close()
