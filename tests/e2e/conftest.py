"""One devnet of real processes for all end-to-end tests of a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from layerlab.config import demo_config
from layerlab.devnet import Devnet


@pytest.fixture(scope="session")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    """The whole stack on free ports, with short windows; it ends with this process, whatever happens."""
    directory: Path = tmp_path_factory.mktemp("e2e") / "devnet"
    made = Devnet.create(directory, demo_config().with_free_ports(), with_parent=True)
    try:
        made.up()
        yield made
    finally:
        made.supervisor.stop_all()
