"""A devnet whose services are containers: what can be asked of it from inside, and what cannot.

Responsible for knowing which services answer, and for saying who starts and stops them instead of us. Must not
know of Docker's API: nothing here can start or kill a container.
"""

from collections.abc import Sequence
from typing import Final

import httpx

from layerlab.config import DevnetError
from layerlab.processes import Supervisor

ANSWER_SECONDS: Final = 2.0
NOT_OURS: Final = (
    "the services of this devnet are containers; use docker compose up, down, stop and kill on its host"
)


class ContainerSupervisor(Supervisor):
    """Reaches each service by its name. Starting and ending one raises `DevnetError`."""

    def alive(self, name: str) -> bool:
        """Whether the service answers."""
        try:
            with httpx.Client(timeout=ANSWER_SECONDS, trust_env=False) as http:
                return http.get(self.config.url(name) + "/health/live").status_code == 200
        except httpx.HTTPError:
            return False

    def adopt(self) -> None:
        """There are no processes of ours to find."""

    def resident_bytes(self) -> dict[str, int]:
        """Unknown from here."""
        return {}

    def start(self, name: str) -> None:
        raise DevnetError(NOT_OURS)

    def kill(self, name: str) -> None:
        raise DevnetError(NOT_OURS)

    def stop(self, names: Sequence[str]) -> list[str]:
        raise DevnetError(NOT_OURS)
