"""A devnet whose services are stubs, and looking at processes from outside."""

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import psutil

from layerlab.config import HOST, DevnetConfig
from layerlab.devnet import Devnet
from layerlab.processes import Supervisor

STUB = Path(__file__).with_name("stub_service.py")


class StubSupervisor(Supervisor):
    """Starts stubs; ``modes`` by service, "good" if not named."""

    modes: ClassVar[dict[str, str]] = {}

    def command(self, name: str) -> list[str]:
        where = [
            "--host",
            HOST,
            "--port",
            str(self.config.ports[name]),
            "--data",
            str(self.layout.data(name)),
        ]
        mode = self.modes.get(name, "good")
        return [sys.executable, str(STUB), mode, name, *where, "--clock", str(self.layout.clock_file)]


class StubDevnet(Devnet):
    """A devnet of stubs."""

    supervisor_type = StubSupervisor

    def state(self, name: str) -> dict[str, Any]:
        """What a stub last wrote."""
        found: dict[str, Any] = json.loads((self.layout.data(name) / "state").read_text())
        return found


def small_config() -> DevnetConfig:
    """Two validators and free ports."""
    return DevnetConfig(validators=2).with_free_ports()


def processes_in(directory: Path) -> list[psutil.Process]:
    """Every process whose command line names something in ``directory`` as its data."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        data = Path(line[line.index("--data") + 1]) if "--data" in line[:-1] else None
        if data and data.is_relative_to(directory) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
