"""The options that make a devnet what it is: who is in it, how fast it is, what the bridge asks for.

Responsible for their names, variables and ranges, and for changing a configuration by them. Must not know what
becomes of the configuration.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import typer
from msgspec import structs

from layerlab.cli.common import read_amount
from layerlab.config import DevnetConfig, DevnetError, student_names, with_window
from layerlab.models import MODELS, USUAL

MOST_STUDENTS: Final = 300


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
