"""Shared by the tests of chainkit's shell."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_chain import MemoryBackend


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[MemoryBackend]:
    """A fresh chain in memory."""
    made = MemoryBackend(tmp_path / "data")
    yield made
    made.store.close()
