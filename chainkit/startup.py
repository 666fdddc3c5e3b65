"""How a service is started, and why it does not, in one line for whoever started it.

Responsible for where it serves, for the error, its exit code and its form. Must not load what a service is made of:
commands that start none read the same options and say the same in the same words.
"""

from dataclasses import dataclass
from typing import Final

EXIT_STARTUP: Final = 2


@dataclass(frozen=True)
class RunOptions:
    """Where and how to serve. ``port`` 0 takes a free one."""

    name: str
    host: str = "127.0.0.1"
    port: int = 0
    log_level: str = "info"
    exit_with_parent: bool = False


class StartupError(Exception):
    """The service cannot start; one line says why and what to do."""


def one_line(text: str, limit: int = 800) -> str:
    """``text`` as one line that cannot steer a terminal, of ``limit`` characters at most.

    What is too long loses its middle: the end says what to do.
    """
    safe = "".join(c if c.isprintable() or c.isspace() else ascii(c)[1:-1] for c in text)
    line = " ".join(safe.split())
    half = (limit - 5) // 2
    return line if len(line) <= limit else f"{line[:half]} ... {line[-half:]}"
