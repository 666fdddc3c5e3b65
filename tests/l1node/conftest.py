"""Fixtures of the L1's tests."""

import pytest
from l1_script import Script

from chainkit import block as block_module
from chainkit.keys import verify


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The key of each signature check from here on."""
    seen: list[bytes] = []

    def counted(key: bytes, message: bytes, signature: bytes) -> bool:
        seen.append(key)
        return verify(key, message, signature)

    monkeypatch.setattr(block_module, "verify", counted)
    return seen
