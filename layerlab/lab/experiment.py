"""What an experiment is, and running one: the trial, its negative control, and the verdict.

Responsible for the order of things and for the report. Must not know what is tried.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from chainkit.client import ApiError, WaitTimeoutError
from layerlab.config import DevnetConfig, DevnetError
from layerlab.escape import EscapeError
from layerlab.lab.place import running_world
from layerlab.lab.tracker import NotIncludedError
from layerlab.world import StepFailed, World

FAILURES: Final = (StepFailed, ApiError, WaitTimeoutError, DevnetError, EscapeError, NotIncludedError)
"""What ends a trial without an answer."""


@dataclass(frozen=True)
class Outcome:
    """What an attack came to, in terms that are the same for all of them.

    ``recovered_percent``: of what was at risk, how much its owners have in the end (0 to 100). ``seconds`` of the
    chain's clock until then; None: it never came about. ``online``: who had to be there for it. ``attacker_paid``:
    what the attacker lost, in gwei.
    """

    recovered_percent: int
    seconds: float | None
    online: str
    attacker_paid: int = 0


@dataclass(frozen=True)
class Seen:
    """What a trial saw. ``held``: the hypothesis did. ``measured``: what else was, amounts as `Gwei`, times in
    seconds of the chain's clock."""

    held: bool
    told: str
    outcome: Outcome
    measured: dict[str, Any] = field(default_factory=dict)


class Experiment(Protocol):
    """One experiment. ``hypothesis`` by model: those that it is for. ``control`` says what is switched off."""

    name: str
    question: str
    hypothesis: Mapping[str, str]
    control: Mapping[str, str]

    def config(self, model: str, control: bool) -> DevnetConfig:
        """The devnet on which it takes place."""

    async def run(self, world: World, control: bool) -> Seen:
        """Try it. Raises one of `FAILURES` if it cannot tell."""


@dataclass(frozen=True)
class Trial:
    """A run of one side of an experiment: with the protection, or (``control``) without it."""

    control: bool
    seen: Seen | None
    error: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        seen = self.seen
        return {
            "control": self.control,
            "held": seen.held if seen else None,
            "told": seen.told if seen else "",
            "outcome": asdict(seen.outcome) if seen else None,
            "measured": seen.measured if seen else {},
            "error": self.error,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Report:
    """``confirmed``: the hypothesis held, and where the protection is off the opposite was seen."""

    run_id: str
    experiment: Experiment
    model: str
    seed: int
    trials: tuple[Trial, ...]

    @property
    def verdict(self) -> str:
        """``confirmed``, ``refuted`` (the hypothesis failed, or held without its protection), ``unknown``."""
        if any(trial.seen is None for trial in self.trials):
            return "unknown"
        return "confirmed" if all(t.seen and t.seen.held != t.control for t in self.trials) else "refuted"

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run_id,
            "experiment": self.experiment.name,
            "model": self.model,
            "seed": self.seed,
            "question": self.experiment.question,
            "hypothesis": self.experiment.hypothesis[self.model],
            "control": self.experiment.control[self.model],
            "verdict": self.verdict,
            "trials": [trial.to_json() for trial in self.trials],
        }


async def run_experiment(experiment: Experiment, model: str, seed: int, say: Callable[[str], None]) -> Report:
    """Run an experiment and its control, each on a devnet of its own."""
    trials = tuple([await _try(experiment, model, seed, control, say) for control in (False, True)])
    return Report(secrets.token_hex(4), experiment, model, seed, trials)


async def _try(
    experiment: Experiment, model: str, seed: int, control: bool, say: Callable[[str], None]
) -> Trial:
    side = "control" if control else "trial"
    begin = time.monotonic()
    seen: Seen | None = None
    error = ""
    try:
        config = experiment.config(model, control)
        async with running_world(config, seed, lambda line: say(f"{side}: {line}")) as world:
            seen = await experiment.run(world, control)
    except FAILURES as failure:
        error = str(failure)
    return Trial(control, seen, error, round(time.monotonic() - begin, 1))
