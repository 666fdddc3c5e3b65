"""Ending when the parent process ends, so that a devnet leaves nothing behind even if it is killed.

Responsible for noticing the death of the parent. Must not know what is to be done about it.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

PARENT_VARIABLE: Final = "LAYERLAB_PARENT_PID"
"""Set by whoever starts services: a parent that died before we could look for it is missed otherwise."""
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.5


def watch_parent(on_death: Callable[[], None]) -> asyncio.Task[None]:
    """Call ``on_death`` on the event loop once the parent of this process is gone; keep the task.

    On Linux the kernel tells at once (prctl); everywhere a look twice a second finds it out. The signal comes
    also when only the *thread* ends that started us, so it is never believed without a look.
    """
    named = os.environ.get(PARENT_VARIABLE, "")
    parent = int(named) if named.isascii() and named.isdigit() else os.getppid()
    looked_for = asyncio.Event()
    loop = asyncio.get_running_loop()
    if sys.platform == "linux":
        loop.add_signal_handler(signal.SIGUSR2, looked_for.set)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGUSR2), 0, 0, 0)
    task = loop.create_task(_watch(parent, looked_for, on_death), name="parent-watch")
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


_tasks: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly


async def _watch(parent: int, looked_for: asyncio.Event, on_death: Callable[[], None]) -> None:
    while os.getppid() == parent:
        looked_for.clear()
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await looked_for.wait()
        except TimeoutError:
            continue
    on_death()
