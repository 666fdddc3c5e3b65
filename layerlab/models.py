"""The models that are compared: who runs what, and which chain carries the application.

Responsible for naming the services of each model and what they are for. Must not know how a service is started,
nor what an experiment does with it.
"""

from dataclasses import dataclass
from typing import Final

VALIDATOR: Final = "validator-"
SEQUENCER: Final = "sequencer"
VERIFIER: Final = "verifier"
BRIDGE: Final = "bridge"
SIDE_VALIDATORS: Final = tuple(f"side-{i}" for i in range(4))
OPERATORS: Final = tuple(f"operator-{i}" for i in range(3))
"""Who moves the money of a bridge with a committee."""
OPERATOR_THRESHOLD: Final = 2


@dataclass(frozen=True)
class Model:
    """``others``: the services besides L1's validators, in the order in which they start. ``app``: the service
    whose chain carries the application; ``replicas``: those that serve the same chain. ``about`` is for people."""

    name: str
    about: str
    app: str
    replicas: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def own_validators(self) -> bool:
        """Whether the second chain has validators of its own."""
        return bool(set(SIDE_VALIDATORS) & set(self.others))

    @property
    def bridged(self) -> bool:
        """Whether there is a second chain, and a bridge to it."""
        return BRIDGE in self.others

    @property
    def rollup(self) -> bool:
        """Whether the second chain is derived from L1."""
        return SEQUENCER in self.others

    def services(self, validators: int) -> list[str]:
        """Every service, in the order in which they start."""
        return [*(f"{VALIDATOR}{i}" for i in range(validators)), *self.others]


_ALL: Final = (
    Model(
        "sovereign",
        "an own L1 with its own validators, the application on it, no bridge",
        f"{VALIDATOR}0",
        (),
        (),
    ),
    Model(
        "sidechain",
        "an own chain with its own validators; two of three operator keys move the money on the L1",
        SIDE_VALIDATORS[0],
        SIDE_VALIDATORS,
        (*SIDE_VALIDATORS, *OPERATORS, BRIDGE),
    ),
    Model(
        "optimistic",
        "a rollup on the L1: one sequencer, fraud proofs, the bridge as L1 consensus code",
        SEQUENCER,
        (SEQUENCER, VERIFIER),
        (SEQUENCER, VERIFIER, BRIDGE),
    ),
)
MODELS: Final = {model.name: model for model in _ALL}
USUAL: Final = "optimistic"
