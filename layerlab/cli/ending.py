"""How a verb that runs for long is ended from outside.

Responsible for the signals. Must not know what there is to clear away: whoever started it does that.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """In here a SIGTERM or a closed terminal ends the verb as Ctrl-C does: what it started goes with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)  # asyncio's, which cancels the verb
    if not callable(handler):  # a shell's background jobs ignore SIGINT
        handler = signal.default_int_handler
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_DFL if old is None else old)
