"""The stage: a devnet on which the story is told.

Responsible for what the steps share besides `World`, and for leaving a devnet that goes on as it was found. Must
not know the story.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from chainkit.client import ApiError
from layerlab.world import StepFailed as StepFailed
from layerlab.world import World
from layerlab.world import require as require


class StepSkipped(Exception):  # noqa: N818 - reads as what it is
    """A step cannot be told on this devnet; the message says why, and how to see it by hand."""


@dataclass
class Stage(World):
    """What the steps act on. ``own``: the devnet ends with the story."""

    own: bool = True
    notes: dict[str, Any] = field(default_factory=dict)
    """What a step leaves for later ones."""

    async def close(self) -> None:
        """Time runs at 1 again; of a devnet that goes on every service is honest."""
        if not self.own:
            for name in [*self.l1s, "sequencer", "verifier"]:
                with suppress(ApiError):  # faults are off, or it does not answer
                    await self.honest(name)
        await super().close()

    @property
    def containers(self) -> bool:
        """Whether the services are containers, which nobody can kill from here."""
        return self.devnet.config.containers

    async def require_faults(self) -> None:
        """Raises `StepSkipped` if the services do not take faults."""
        try:
            await self.faults("sequencer")
        except ApiError as error:
            if error.status != 404:
                raise
            raise StepSkipped(
                "skipped: needs a service that lies on purpose, and faults are off here"
            ) from None
