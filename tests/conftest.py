"""For all tests: what pytest calls a parameter.

Responsible for names of tests that stay short. Must not know any package under test.
"""

from typing import Any

LONGEST_NAME = 80


def pytest_make_parametrize_id(val: Any, argname: str) -> str | None:
    """A long string or bytes as a parameter by its length: pytest would spell it out, 100 MB of it as 400."""
    if isinstance(val, (bytes, str)) and len(val) > LONGEST_NAME:
        return f"{argname}-of-{len(val)}"
    return None
