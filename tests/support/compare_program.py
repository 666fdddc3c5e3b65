"""`layerlab` with a workload that costs nothing and experiments that hang on real services, for being interrupted.

Each experiment leaves a mark in the directory that LAYERLAB_TEST_MARKS names once its service runs.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerlab.cli import compare, main
from layerlab.config import DevnetConfig
from layerlab.lab.compare import runner
from layerlab.lab.experiment import Seen
from layerlab.world import World


class Hanging:
    """Never comes to an end."""

    question = "Does it end?"
    hypothesis: Mapping[str, str] = {"sovereign": "it does not"}
    control: Mapping[str, str] = {"sovereign": "none"}

    def __init__(self, name: str) -> None:
        self.name = name

    def config(self, model: str, control: bool) -> DevnetConfig:
        return DevnetConfig(model=model, validators=1, slot_ms=200)

    async def run(self, world: World, control: bool) -> Seen:
        (Path(os.environ["LAYERLAB_TEST_MARKS"]) / self.name).touch()
        await asyncio.Event().wait()
        raise AssertionError("nothing ends this")


async def no_workload(*_: object) -> dict[str, Any]:
    return {"assumptions": {}, "measured": {"users": {"transactions_per_second": 1.0}}}


if __name__ == "__main__":
    compare.EXPERIMENTS = {name: Hanging(name) for name in ("hangs-1", "hangs-2")}  # type: ignore[misc]
    runner.measure = no_workload
    main()
