"""A service whose disk has failed: it says so, and starts again once the disk can be written.

Responsible for telling such a failure from others, for what the service answers meanwhile, and for trying the disk.
Must not know what the service keeps there.

Nothing is carried over in memory: what was not on disk was not promised to anyone, so the process begins anew, as
after a crash (`os.execv`: the same pid, so whoever supervises it notices nothing but its health).
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Final

from starlette.types import Receive, Scope, Send

from chainkit.datadir import DiskTrouble
from chainkit.problems import MEDIA_TYPE, Problem

RESUMING: Final = "_LAYERLAB_RESUMING"
"""Set in the environment of a process that has begun anew: it waits for the disk at its start, too."""
TRY_SECONDS: Final = 1.0
TRY_BYTES: Final = 1024 * 1024
"""So much must fit before the service begins anew."""
_TRIAL: Final = ".trial"


def disk_trouble(error: BaseException | None) -> DiskTrouble | None:
    """The failure of a disk behind an error, if that is what it is."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DiskTrouble):
            return error
        if isinstance(error, BaseExceptionGroup):
            found = [trouble for each in error.exceptions if (trouble := disk_trouble(each)) is not None]
            if found:
                return found[0]
        error = error.__cause__ or error.__context__
    return None


def disk_problem(trouble: DiskTrouble) -> Problem:
    """What a request is answered while the disk cannot be written."""
    return Problem(503, "disk_failed", "The disk of the service failed", str(trouble))


class OutOfOrder:
    """ASGI app: alive, but not ready; every route gives the reason."""

    def __init__(self, trouble: DiskTrouble) -> None:
        self._body = disk_problem(trouble).body()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        alive = scope["path"] == "/health/live"
        body = b'{"live":true}' if alive else self._body
        kind = b"application/json" if alive else MEDIA_TYPE.encode()
        headers = [
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 200 if alive else 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def wait_until_writable(directory: Path) -> None:
    """Return when a file of `TRY_BYTES` can be written to ``directory`` and is on disk."""
    while not await asyncio.to_thread(_try, directory):
        await asyncio.sleep(TRY_SECONDS)


def _try(directory: Path) -> bool:
    trial = directory / _TRIAL
    try:
        try:
            with trial.open("wb") as file:
                file.write(bytes(TRY_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):
                trial.unlink()
    except OSError:
        return False
    return True


def begin_anew() -> None:
    """Replace this process by itself, from the start. Does not return."""
    os.environ[RESUMING] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
