"""What a comparison runs: one workload for each model, then every experiment that is for it.

Responsible for the list and its order. Must not know how anything is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from layerlab.lab.experiment import Experiment

Kind = Literal["workload", "experiment"]


@dataclass(frozen=True)
class Job:
    """One run to come. ``experiment`` is empty for a workload."""

    kind: Kind
    model: str
    experiment: str = ""

    @property
    def title(self) -> str:
        return f"{self.experiment or self.kind} on {self.model}"


def jobs(models: Sequence[str], experiments: Mapping[str, Experiment]) -> list[Job]:
    """Workloads first: they are measured with nothing beside them. Experiments by name, so that models alternate."""
    return [Job("workload", model) for model in models] + [
        Job("experiment", model, name)
        for name, experiment in experiments.items()
        for model in models
        if model in experiment.hypothesis
    ]


def by_model(planned: Sequence[Job]) -> dict[str, tuple[str, ...]]:
    """The experiments of each model."""
    return {
        model: tuple(job.experiment for job in planned if job.model == model and job.experiment)
        for model in dict.fromkeys(job.model for job in planned)
    }
