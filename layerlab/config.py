"""A devnet's configuration: how many of what, how fast, on which ports.

Responsible for the presets, for ports and addresses, and for reading and writing it all as JSON.
Must not know how services are started.
"""

import socket
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from bridge.abi import BridgeSettings
from chainkit.codec import from_json, to_json
from chainkit.fault_api import DEVNET_TOKEN
from chainkit.keys import dev_keypair

COIN: Final = 1_000_000_000  # gwei
L1_CHAIN_ID: Final = 900
L2_CHAIN_ID: Final = 901
HOST: Final = "127.0.0.1"
FIRST_VALIDATOR_PORT: Final = 8545
OTHER_PORTS: Final = {"sequencer": 9545, "verifier": 9546, "bridge": 10545}


class DevnetError(Exception):
    """The devnet cannot do that; one line says why and what to do."""


def default_settings(**changes: Any) -> BridgeSettings:
    """The bridge's settings on a devnet: a window of 100 blocks, an administrator with an exit window."""
    settings = BridgeSettings(
        sequencer=dev_keypair("sequencer").address,
        admin=None,
        challenge_window=100,
        dispute_clock=60,
        max_move_delay=4,
        inclusion_delay=20,
        sequencer_timeout=150,
        escape_timeout=300,
        exit_window=400,
    )
    return BridgeSettings(**{**_fields(settings), **changes})


def _fields(settings: BridgeSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}


@dataclass(frozen=True)
class DevnetConfig:
    """Times in ms: ``slot_ms`` is L1's, ``block_ms`` the least between L2 blocks. ``ports`` by service."""

    validators: int = 4
    slot_ms: int = 1000
    era_slots: int = 32
    block_ms: int = 250
    unbonding_eras: int = 4
    settings: BridgeSettings = field(default_factory=default_settings)
    ports: dict[str, int] = field(default_factory=dict)
    fault_token: str = DEVNET_TOKEN

    def __post_init__(self) -> None:
        if not 1 <= self.validators <= 32:
            raise DevnetError(f"{self.validators} validators: give 1 to 32")
        if self.slot_ms < 50 or self.block_ms < 1:
            raise DevnetError("slot_ms must be at least 50, block_ms at least 1")
        if not self.ports:
            object.__setattr__(self, "ports", _default_ports(self.validators))
        missing = set(self.services) - set(self.ports)
        if missing:
            raise DevnetError(f"no port for {', '.join(sorted(missing))}")

    @property
    def validator_names(self) -> list[str]:
        return [f"validator-{i}" for i in range(self.validators)]

    @property
    def services(self) -> list[str]:
        """Every service, in the order in which they start."""
        return [*self.validator_names, "sequencer", "verifier", "bridge"]

    def url(self, service: str) -> str:
        return f"http://{HOST}:{self.ports[service]}"

    @property
    def l1_urls(self) -> list[str]:
        return [self.url(name) for name in self.validator_names]

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "settings": to_json(self.settings)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises `DevnetError`."""
        try:
            return cls(**{**value, "settings": from_json(BridgeSettings, value["settings"])})
        except (TypeError, KeyError, ValueError) as error:
            raise DevnetError(f"the devnet's configuration cannot be read: {error}") from None

    def with_free_ports(self) -> Self:
        """The same with ports that nobody uses at this moment."""
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in self.services]
            for item in sockets:
                item.bind((HOST, 0))
            ports = {name: s.getsockname()[1] for name, s in zip(self.services, sockets, strict=True)}
        return replace(self, ports=ports)


def _default_ports(validators: int) -> dict[str, int]:
    return {**{f"validator-{i}": FIRST_VALIDATOR_PORT + i for i in range(validators)}, **OTHER_PORTS}


def demo_config() -> DevnetConfig:
    """The demo's: five validators, fast slots, windows as short as the bridge's own rules allow."""
    settings = default_settings(
        challenge_window=24,
        dispute_clock=24,
        max_move_delay=2,
        max_steps=4096,
        inclusion_delay=20,
        sequencer_timeout=60,
        escape_timeout=80,
        exit_window=100,
    )
    return DevnetConfig(
        validators=5, slot_ms=400, era_slots=12, block_ms=150, unbonding_eras=4, settings=settings
    )
