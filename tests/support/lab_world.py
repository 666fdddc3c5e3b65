"""What the tests of the laboratory stand on: the smallest real devnet, and what it may leave behind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from stub_devnet import processes_in

from layerlab.config import DevnetConfig, demo_config


def smallest(**changes: Any) -> DevnetConfig:
    """One validator with the applications on its chain: the model that starts fastest."""
    return replace(
        demo_config(), **{"model": "sovereign", "validators": 1, "slot_ms": 200, "ports": {}, **changes}
    )


def left_in(place: Path) -> list[str]:
    """What is left of a devnet: its processes and its directory."""
    found = [f"process {process.pid}" for process in processes_in(place)]
    return found + ([str(place)] if place.exists() else [])
