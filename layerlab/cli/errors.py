"""Refusals of the command line: one line for people, a problem object (RFC 9457) for programs.

Responsible for what a refusal says. Must not know which verb was refused.
"""

import json
import shutil
import sys
import textwrap
from typing import Any, Final

from chainkit.client import ApiError, WaitTimeoutError
from chainkit.keystore import KeyFileError
from layerlab.config import DevnetError


class CommandError(Exception):
    """A verb cannot do that; one line says what happened and what to do. ``problem``: more for programs."""

    def __init__(self, message: str, code: str = "refused", **problem: Any) -> None:
        super().__init__(message)
        self.code = code
        self.problem = problem


REFUSALS: tuple[type[Exception], ...] = (
    CommandError,
    ApiError,
    WaitTimeoutError,
    DevnetError,
    KeyFileError,
)


def add_refusal(kind: type[Exception]) -> None:
    """One more kind of error that is the user's business and not a bug."""
    global REFUSALS
    REFUSALS = (*REFUSALS, kind)


def report(error: Exception, *, as_json: bool) -> None:
    """One line on stderr, or a problem object (RFC 9457)."""
    problem = problem_of(error)
    if as_json:
        print(json.dumps(problem, indent=2), file=sys.stderr)
        return
    tell(f"layerlab: {problem['detail']}")


def tell(text: str) -> None:
    """For people, on stderr; on a terminal lines break between words."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        lines = [
            textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
            for line in text.splitlines()
        ]
        text = "\n".join(part for parts in lines for part in parts)
    print(text, file=sys.stderr)


def problem_of(error: Exception) -> dict[str, Any]:
    """A refusal as a problem object."""
    if isinstance(error, ApiError):
        detail, code = error.detail or str(error), error.code
        if code == "unreachable":
            detail += "; start it with layerlab up, or give its address (see --help)"
        known = error.problem.get("known")
        if isinstance(known, list) and known and len(known) <= 40 and code.startswith("unknown_"):
            detail += f"; there is {', '.join(map(str, known))}"
        if code == "unknown_block" and "head" in error.problem:
            detail += f"; the head is block {error.problem['head']}"
        return {
            "type": f"urn:layerlab:problem:{code}",
            "title": "The service refused",
            "status": error.status,
            **error.problem,
            "code": code,
            "detail": detail,
        }
    code = error.code if isinstance(error, CommandError) else _CODES.get(type(error).__name__, "failed")
    extra = error.problem if isinstance(error, CommandError) else {}
    title = "The command failed"
    return {
        "type": f"urn:layerlab:problem:{code}",
        "title": title,
        "code": code,
        "detail": str(error),
        **extra,
    }


_CODES: Final = {"WaitTimeoutError": "timeout", "DevnetError": "devnet", "KeyFileError": "key_file"}
