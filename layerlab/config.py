"""A devnet's configuration: how many of what, how fast, who has what, on which ports.

Responsible for the presets, for refusing values that cannot work, for ports and addresses, and for reading and
writing it all as JSON. Must not know how services are started, nor where files lie.
"""

import random
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from msgspec import structs

from bridge.abi import BridgeSettings
from bridge.settings import SettingsError, check_settings, longest_dispute, moves_of_a_side
from chainkit.block import MAX_VALIDATORS
from chainkit.codec import from_json, to_json
from chainkit.fault_token import DEVNET_TOKEN
from chainkit.keys import DEV_ACCOUNTS, DEV_VALIDATORS, InvalidDevNameError, dev_keypair
from layerlab.models import MODELS, OPERATORS, SIDE_VALIDATORS, USUAL, VALIDATOR, Model

COIN: Final = 1_000_000_000  # gwei
L1_CHAIN_ID: Final = 900
L2_CHAIN_ID: Final = 901
HOST: Final = "127.0.0.1"
FIRST_PORT: Final = 8545
"""L1's first validator; the others follow it."""
OTHER_PORTS: Final = {
    "sequencer": 1000,
    "verifier": 1001,
    "bridge": 2000,
    **{name: 1200 + i for i, name in enumerate(SIDE_VALIDATORS)},
    **{name: 2100 + i for i, name in enumerate(OPERATORS)},
}
"""Ports relative to `FIRST_PORT`: 9545, 9546, 10545; a side chain's validators at 9745, operators at 10645."""
MOST_VALIDATORS: Final = min(MAX_VALIDATORS, DEV_VALIDATORS)
MAX_EXTRA_ACCOUNTS: Final = 1000
MOST_HANDED_OUT: Final = 6000
_handed_out: Final[set[int]] = set()
"""Free ports that this process has given out; some of these may be another's again after `MOST_HANDED_OUT`."""


class DevnetError(Exception):
    """The devnet cannot do that; one line says why and what to do."""


def default_settings(**changes: Any) -> BridgeSettings:
    """The bridge's settings on a devnet: a window of 100 blocks, and no administrator.

    ``changes`` are fields of `BridgeSettings`. Raises `DevnetError` for a field that is none.
    """
    chosen: dict[str, Any] = {"sequencer": dev_keypair("sequencer").address, "challenge_window": 100}
    unknown = sorted(set(changes) - set(BridgeSettings.__struct_fields__))
    if unknown:
        raise DevnetError(f"the bridge has no setting {', '.join(unknown)}")
    return BridgeSettings(**{**chosen, **changes})


def student_names(count: int) -> tuple[str, ...]:
    """``student-01``, ``student-02``, ...: names of further accounts, all of one width."""
    width = max(2, len(str(count)))
    return tuple(f"student-{number:0{width}}" for number in range(1, count + 1))


def with_window(settings: BridgeSettings, window: int) -> BridgeSettings:
    """The same with another challenge window (L1 blocks), and what else must change for the bridge to accept it.

    A short window leaves less time to be censored in, so ``max_move_delay`` goes down; a long one makes disputes
    longer, so ``escape_timeout`` and ``exit_window`` go up. Raises `DevnetError` for a window that is too short.
    """
    moves = moves_of_a_side(settings)
    if type(window) is not int or not moves < window <= 1_000_000:
        raise DevnetError(
            f"a challenge window is from {moves + 1} to 1000000 blocks, not {window!r:.40}: a side makes {moves} moves"
        )
    delay = min(settings.max_move_delay, (window - 1) // moves)
    changed = structs.replace(settings, challenge_window=window, max_move_delay=delay)
    longest = longest_dispute(changed)
    escape = max(settings.escape_timeout, longest + delay)
    return structs.replace(changed, escape_timeout=escape, exit_window=max(settings.exit_window, longest + 1))


@dataclass(frozen=True)
class DevnetConfig:
    """Times in ms: ``slot_ms`` is L1's, ``block_ms`` the least between L2 blocks. Amounts in gwei.

    ``model`` is one of `layerlab.models.MODELS`. ``ports`` by service; empty means the usual ones. ``accounts`` are
    the names of further well-known accounts, funded as alice is. ``containers``: each service is a container and is
    reached by its name, not a process of this machine. ``l1_fund`` and ``l2_fund`` are what each account starts
    with, ``operator_fund`` what the sequencer and the verifier (or the bridge's operators) have on L1, ``stake`` each
    validator's.

    Raises `DevnetError` naming the first value that cannot work.
    """

    validators: int = 4
    slot_ms: int = 1000
    era_slots: int = 32
    block_ms: int = 10
    unbonding_eras: int = 4
    settings: BridgeSettings = field(default_factory=default_settings)
    ports: dict[str, int] = field(default_factory=dict)
    fault_token: str = DEVNET_TOKEN
    l1_chain_id: int = L1_CHAIN_ID
    l2_chain_id: int = L2_CHAIN_ID
    accounts: tuple[str, ...] = ()
    l1_fund: int = 10_000 * COIN
    l2_fund: int = 100 * COIN
    operator_fund: int = 100_000 * COIN
    stake: int = 1_000 * COIN
    containers: bool = False
    model: str = USUAL

    def __post_init__(self) -> None:
        object.__setattr__(self, "accounts", tuple(self.accounts))
        if self.model not in MODELS:
            raise DevnetError(f"no model {self.model!r:.40}; there are: {', '.join(MODELS)}")
        _check_integers(self)
        _check_accounts(self.accounts)
        if type(self.containers) is not bool:
            raise DevnetError("containers must be true or false")
        if self.l1_chain_id == self.l2_chain_id:
            raise DevnetError(f"both chains have the id {self.l1_chain_id}; give them different ones")
        if (
            not isinstance(self.fault_token, str)
            or not self.fault_token.isprintable()
            or not self.fault_token
        ):
            raise DevnetError("fault_token must be a secret of printable characters")
        try:
            check_settings(self.settings)
        except SettingsError as error:
            raise DevnetError(str(error)) from None
        for bond in ("proposer_bond", "challenger_bond"):
            if getattr(self.settings, bond) > self.operator_fund:
                raise DevnetError(f"{bond} is more than the operators' {self.operator_fund} gwei; give less")
        if not self.ports:
            object.__setattr__(self, "ports", self._ports_from(FIRST_PORT))
        _check_ports(self)

    # --- names and addresses ---

    @property
    def validator_names(self) -> list[str]:
        return [f"{VALIDATOR}{i}" for i in range(self.validators)]

    @property
    def all_validators(self) -> list[str]:
        """L1's and, of a side chain, its own."""
        return [*self.validator_names, *(SIDE_VALIDATORS if self.kind.own_validators else ())]

    @property
    def app_validators(self) -> list[str]:
        """Those of the chain that carries the application; a rollup has none."""
        if self.kind.rollup:
            return []
        return list(SIDE_VALIDATORS) if self.kind.own_validators else self.validator_names

    @property
    def services(self) -> list[str]:
        """Every service, in the order in which they start."""
        return self.kind.services(self.validators)

    @property
    def kind(self) -> Model:
        """What ``model`` names."""
        return MODELS[self.model]

    @property
    def account_names(self) -> list[str]:
        """Every funded account but the validators'."""
        return [*DEV_ACCOUNTS, *self.accounts]

    def url(self, service: str) -> str:
        """The address of a service. Raises `DevnetError` for a name that is none."""
        if service not in self.ports:
            raise DevnetError(f"no service {service!r}; there are: {', '.join(self.services)}")
        return f"http://{service if self.containers else HOST}:{self.ports[service]}"

    @property
    def l1_urls(self) -> list[str]:
        return [self.url(name) for name in self.validator_names]

    @property
    def app_urls(self) -> list[str]:
        """Where the chain that carries the application is served."""
        if not self.kind.bridged:
            return self.l1_urls
        return [self.url(name) for name in self.kind.replicas]

    # --- ports ---

    def with_port_base(self, base: int) -> Self:
        """The same with validators at ``base`` and on, and the others as far from it as usual."""
        return replace(self, ports=self._ports_from(base))

    def with_free_ports(self) -> Self:
        """The same with ports that nobody uses at this moment.

        No two calls in one process give the same: a service that is down for a while keeps its port.
        They lie below those that the system hands out to outgoing connections: a service that is killed and
        started again must not find its port taken by one of these.
        """
        sample = random.sample(range(20_000, _first_ephemeral_port()), k=400)
        candidates = [port for port in sample if port not in _handed_out]
        ports: dict[str, int] = {}
        with ExitStack() as stack:
            for name in self.services:
                ports[name] = _first_free(candidates, stack)
        if len(_handed_out) > MOST_HANDED_OUT:
            _handed_out.clear()
        _handed_out.update(ports.values())
        return replace(self, ports=ports)

    def _ports_from(self, base: int) -> dict[str, int]:
        ports = {name: base + i for i, name in enumerate(self.validator_names)}
        return ports | {name: base + OTHER_PORTS[name] for name in self.kind.others}

    # --- JSON ---

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "accounts": list(self.accounts), "settings": to_json(self.settings)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises `DevnetError`."""
        unknown = sorted(set(value) - set(cls.__dataclass_fields__)) if isinstance(value, dict) else []
        if unknown:
            raise DevnetError(
                f"the devnet was made by another version of layerlab: it has the unknown field {unknown[0]!r:.80}"
            )
        try:
            return cls(**{**value, "settings": from_json(BridgeSettings, value["settings"])})
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise DevnetError(f"the devnet's configuration cannot be read: {error}") from None

    def difference(self, other: "DevnetConfig") -> str:
        """What ``other`` has otherwise, ports aside, in a few words; empty if nothing."""
        mine, theirs = self.to_json(), other.to_json()
        mine |= mine.pop("settings")
        theirs |= theirs.pop("settings")
        names = [name for name in mine if name != "ports" and mine[name] != theirs.get(name)]
        return ", ".join(
            "its fault token is another"  # a secret is not for the screen
            if name == "fault_token"
            else f"its {name} is {theirs.get(name)}, not {mine[name]}"
            for name in names
        )


_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "validators": (1, MOST_VALIDATORS),
    "slot_ms": (50, 3_600_000),
    "era_slots": (2, 1_000_000),
    "block_ms": (1, 3_600_000),
    "unbonding_eras": (3, 64),
    "l1_chain_id": (1, 2**53 - 1),
    "l2_chain_id": (1, 2**53 - 1),
    "l1_fund": (0, 2**53 - 1),
    "l2_fund": (0, 2**53 - 1),
    "operator_fund": (0, 2**53 - 1),
    "stake": (COIN, 2**53 - 1),
}


def _check_integers(config: DevnetConfig) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name)
        if type(value) is not int or not low <= value <= high:  # type(): True is an int
            raise DevnetError(f"{name} must be an integer from {low} to {high}, not {value!r:.40}")


_RESERVED: Final = frozenset((*DEV_ACCOUNTS, *SIDE_VALIDATORS, *OPERATORS, "vault"))


def _check_accounts(names: tuple[str, ...]) -> None:
    if len(names) > MAX_EXTRA_ACCOUNTS:
        raise DevnetError(f"{len(names)} further accounts; give {MAX_EXTRA_ACCOUNTS} at most")
    for i, name in enumerate(names):
        try:
            dev_keypair(name)
        except InvalidDevNameError as error:
            raise DevnetError(str(error)) from None
        reserved = name in _RESERVED or name.startswith("validator-")
        if reserved or name in names[:i]:
            raise DevnetError(f"the account {name!r} exists already; choose another name")


def _check_ports(config: DevnetConfig) -> None:
    if not isinstance(config.ports, dict):
        raise DevnetError("ports must be given by service")
    missing = [name for name in config.services if name not in config.ports]
    if missing:
        raise DevnetError(f"no port for {', '.join(missing)}")
    taken: dict[int, str] = {}
    for name in config.services:
        port = config.ports[name]
        if type(port) is not int or not 1 <= port <= 65535:
            raise DevnetError(f"the port of {name} must be an integer from 1 to 65535, not {port!r:.40}")
        if port in taken:
            raise DevnetError(f"{taken[port]} and {name} have the same port {port}")
        taken[port] = name


def _first_ephemeral_port() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        return max(21_000, int(text.split()[0]))
    except (OSError, ValueError, IndexError):
        return 32_768


def _first_free(candidates: list[int], stack: ExitStack) -> int:
    """Take ports from ``candidates`` until one can be bound; it stays bound until ``stack`` closes."""
    while candidates:
        port = candidates.pop()
        probe = stack.enter_context(socket.socket())
        try:
            probe.bind((HOST, port))
        except OSError:
            continue
        return port
    raise DevnetError("no free port found; give ports with --port-base")


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
    return DevnetConfig(validators=5, slot_ms=400, era_slots=12, block_ms=150, settings=settings)


PRESETS: Final[Mapping[str, Callable[[], DevnetConfig]]] = {"devnet": DevnetConfig, "demo": demo_config}


def preset(name: str) -> DevnetConfig:
    """A configuration by name. Raises `DevnetError`."""
    if name not in PRESETS:
        raise DevnetError(f"no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]()
