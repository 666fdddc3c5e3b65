"""Places for experiments whose directories and processes a test can find, and places that are none."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fake_chain import make_genesis
from lab_world import StubPlaceSupervisor
from stub_devnet import StubSupervisor, processes_in

from layerlab.config import DevnetConfig
from layerlab.devnet import Devnet
from layerlab.lab import place
from layerlab.world import World


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where `running_world` makes its directories; what runs there at the end is killed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path.resolve()
    for process in processes_in(tmp_path.resolve()):
        process.kill()
        process.wait(10)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> Iterator[Path]:
    """As ``temporary``, with stubs for services."""
    monkeypatch.setattr(place.Devnet, "supervisor_type", StubPlaceSupervisor)
    yield temporary
    StubSupervisor.modes.clear()


@pytest.fixture
def no_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Experiments take place nowhere, at once: a world whose services are never started.

    The list is what became of the places: "begins" and "ends".
    """
    acts: list[str] = []

    @asynccontextmanager
    async def nowhere(config: DevnetConfig, seed: int, say: Callable[[str], None]) -> AsyncIterator[World]:
        acts.append("begins")
        say("no service is started")
        devnet = Devnet(tmp_path / str(len(acts)), config)
        try:
            yield World(devnet, make_genesis(), seed, say)
        finally:
            acts.append("ends")

    monkeypatch.setattr("layerlab.lab.experiment.running_world", nowhere)
    return acts
