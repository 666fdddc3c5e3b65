"""The options that make a devnet what it is: who is in it, how fast it is, what the bridge asks for.

Responsible for their names, variables and ranges, and for changing a configuration by them. Must not know what
becomes of the configuration.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import typer
from msgspec import structs

from chainkit.fault_token import check_fault_token
from chainkit.options import read_yes_or_no
from chainkit.startup import StartupError
from layerlab.cli.common import read_amount
from layerlab.config import OTHER_PORTS, DevnetConfig, DevnetError, student_names, with_window
from layerlab.models import MODELS, USUAL, VALIDATOR

MOST_STUDENTS: Final = 300
ENABLE_FAULTS: Final = "LAYERLAB_ENABLE_FAULTS"
FAULT_TOKEN: Final = "LAYERLAB_FAULT_TOKEN"
FOR_SERVICES: Final = ("LAYERLAB_LOG_LEVEL", "LAYERLAB_WORKERS")
"""Variables that `layerlab up` has no option for, and hands on to the services."""


def variable(option: str) -> str:
    """The environment variable of an option (``--slot-ms`` or ``slot_ms``)."""
    return "LAYERLAB_" + option.lstrip("-").upper().replace("-", "_")


def _integer(option: str, low: int, high: int, text: str) -> Any:
    return typer.Option(option, envvar=variable(option), min=low, max=high, help=text)


def _coins(option: str, text: str) -> Any:
    return typer.Option(option, envvar=variable(option), parser=read_amount, metavar="COINS", help=text)


Wanted = Mapping[str, int | str | None]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", envvar="LAYERLAB_MODEL", help=f"{', '.join(MODELS)}. Default {USUAL}.", metavar="MODEL"
    ),
]
Validators = Annotated[int | None, _integer("--validators", 1, 32, "L1 validators. Default 4.")]
SlotMs = Annotated[int | None, _integer("--slot-ms", 50, 60_000, "L1 slot, in ms. Default 1000.")]
BlockMs = Annotated[
    int | None, _integer("--block-ms", 1, 60_000, "Least time between L2 blocks, in ms. Default 10.")
]
Window = Annotated[
    int | None, _integer("--window", 1, 1_000_000, "The challenge window, in L1 blocks. Default 100.")
]
ProposerBond = Annotated[int | None, _coins("--proposer-bond", "What a batch puts at stake. Default 10.")]
ChallengerBond = Annotated[
    int | None, _coins("--challenger-bond", "What a challenge puts at stake. Default 5.")
]
Students = Annotated[
    int | None,
    _integer("--students", 0, MOST_STUDENTS, "So many further funded accounts: student-01, student-02, ..."),
]


def changed(config: DevnetConfig, wanted: Wanted) -> DevnetConfig:
    """``config`` with these options, None being none. Raises `DevnetError` naming the first that cannot work."""
    for name, value in wanted.items():
        if value is not None:
            try:
                config = replace(config, **_change(config, name, value))
            except DevnetError as error:
                option = "--" + name.replace("_", "-")
                raise DevnetError(f"{option} ({variable(option)}): {error}") from None
    return config


def _change(config: DevnetConfig, name: str, value: Any) -> dict[str, Any]:
    """The fields of a configuration that an option changes."""
    if name == "window":
        return {"settings": with_window(config.settings, value)}
    if name.endswith("_bond"):
        return {"settings": structs.replace(config.settings, **{name: value})}
    if name == "students":
        return {"accounts": student_names(value)}
    if value == getattr(config, name):
        return {}
    moved: dict[str, Any] = (
        {"ports": {}} if name in ("validators", "model") else {}
    )  # other services, other ports
    return {name: value, **moved}


# --- variables without an option -------------------------------------------------------------------------------------


def for_services(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that go on to the services of `layerlab up`.

    Ends the process with one line for a wrong value; raises `DevnetError` for a setting that only containers have.
    """
    try:
        faults = read_yes_or_no(environ.get(ENABLE_FAULTS) or "yes")
    except argparse.ArgumentTypeError as error:
        raise DevnetError(f"{ENABLE_FAULTS}: {error}") from None
    if not faults:
        raise DevnetError(
            f"{ENABLE_FAULTS}: services of layerlab up always have faults, for those who know the token; unset it "
            "(it is a setting of containers)"
        )
    given = {name: environ[name] for name in FOR_SERVICES if environ.get(name)}
    import rollup.service  # here: only verbs that start services need what they are made of, long to load

    rollup.service.parser("sequencer", given).parse_args([])
    return given


def with_variables(config: DevnetConfig, environ: Mapping[str, str], *, new: bool) -> DevnetConfig:
    """``config`` with the fault token and the ports that variables ask for. Raises `DevnetError` naming one."""
    token = environ.get(FAULT_TOKEN)
    if token and token != config.fault_token:
        if not new:
            raise DevnetError(
                f"{FAULT_TOKEN} cannot change once there is a chain; unset it, or start anew with --fresh"
            )
        try:
            check_fault_token("127.0.0.1", token)
            config = replace(config, fault_token=token)
        except (StartupError, DevnetError) as error:
            raise DevnetError(f"{FAULT_TOKEN}: {error}") from None
    ports = {name: _port(name, text, config) for name, text in _given_ports(environ).items()}
    return replace(config, ports=config.ports | ports) if ports else config


def _given_ports(environ: Mapping[str, str]) -> dict[str, str]:
    """Text by service, of every service that there is in some model."""
    found = {}
    for name, text in environ.items():
        service = name.removeprefix("LAYERLAB_PORT_").lower().replace("_", "-")
        known = service in OTHER_PORTS or service.removeprefix(VALIDATOR).isdecimal()
        if text and known and name == variable(f"port-{service}"):
            found[service] = text
    return found


def _port(service: str, text: str, config: DevnetConfig) -> int:
    name = variable(f"port-{service}")
    if service not in config.services:
        raise DevnetError(f"{name}: there is no {service} in this devnet; unset it")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise DevnetError(f"{name}: {text[:40]!r} is no port; give 1 to 65535")
    return int(text)
