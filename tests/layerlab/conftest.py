"""Fixtures for devnets of stubs: whatever a test does, nothing it started outlives it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_devnet import StubDevnet, StubSupervisor, processes_in, small_config


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where a devnet may be made; what runs there at the end is killed."""
    directory = tmp_path.resolve() / "devnet"
    yield directory
    for process in processes_in(directory):
        process.kill()
        process.wait(10)
    StubSupervisor.modes.clear()


@pytest.fixture
def modes() -> dict[str, str]:
    """How each stub behaves; "good" if not named. See `stub_service`."""
    return StubSupervisor.modes


@pytest.fixture
def devnet(place: Path) -> StubDevnet:
    """A new devnet of stubs, down."""
    return StubDevnet.create(place, small_config())
