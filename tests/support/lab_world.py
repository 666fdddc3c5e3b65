"""What the tests of the laboratory stand on: the smallest real devnet, places with stubs for services, experiments
that see what they are told to, and what may be left behind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stub_devnet import StubSupervisor, processes_in

from layerlab.amounts import Gwei
from layerlab.config import DevnetConfig, demo_config
from layerlab.lab.experiment import Outcome, Seen
from layerlab.processes import Supervisor
from layerlab.world import World

OUTCOME = Outcome(100, 1.5, "nobody", 7)


def smallest(**changes: Any) -> DevnetConfig:
    """One validator with the applications on its chain: the model that starts fastest."""
    return replace(
        demo_config(), **{"model": "sovereign", "validators": 1, "slot_ms": 200, "ports": {}, **changes}
    )


def left_in(directory: Path) -> list[str]:
    """What is left of a devnet: its processes and its directory."""
    found = [f"process {process.pid}" for process in processes_in(directory)]
    return found + ([str(directory)] if directory.exists() else [])


class StubPlaceSupervisor(Supervisor):
    """The laboratory's, with stubs for services."""

    command = StubSupervisor.command
    modes = StubSupervisor.modes


Side = bool | BaseException | Callable[[World], None]


@dataclass
class FakeExperiment:
    """``trial`` and ``control`` are what each side sees (the hypothesis held or not), raises or does."""

    trial: Side = True
    control_sees: Side = False
    name: str = "fake"
    question: str = "Does it hold?"
    hypothesis: Mapping[str, str] = field(default_factory=lambda: {"sovereign": "it holds"})
    control: Mapping[str, str] = field(default_factory=lambda: {"sovereign": "it is switched off"})
    worlds: list[World] = field(default_factory=list)

    def config(self, model: str, control: bool) -> DevnetConfig:
        assert model == "sovereign"
        return smallest(validators=2 if control else 1)

    async def run(self, world: World, control: bool) -> Seen:
        self.worlds.append(world)
        side = self.control_sees if control else self.trial
        if isinstance(side, BaseException):
            raise side
        if callable(side):
            side(world)
            return Seen(True, "done", OUTCOME)
        return Seen(
            side,
            f"it {'holds' if side else 'does not hold'}",
            OUTCOME,
            {"some_money": Gwei(5_000_000_001), "blocks": 3},
        )
