"""For all tests: what pytest calls a parameter, and that Ctrl-C reaches what they start.

Responsible for names of tests that stay short, and for being the same however the tests are run. Must not know any
package under test.
"""

import signal
from typing import Any

LONGEST_NAME = 80


def pytest_configure() -> None:
    """What a shell runs in the background ignores SIGINT, and so would every command that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: Any, argname: str) -> str | None:
    """A long string or bytes as a parameter by its length: pytest would spell it out, 100 MB of it as 400."""
    if isinstance(val, (bytes, str)) and len(val) > LONGEST_NAME:
        return f"{argname}-of-{len(val)}"
    return None
