"""The verb that makes a devnet's genesis and clock and starts nothing: for services that others start.

Responsible for what services in containers need to find, and for refusing settings that cannot work before any
service is started. Must not know how containers are made.
"""

import json
import os
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from chainkit.fault_token import check_fault_token
from chainkit.genesis import genesis_to_json
from chainkit.startup import StartupError
from layerlab.cli import settings
from layerlab.cli.common import Session, verb
from layerlab.cli.errors import CommandError
from layerlab.config import DevnetConfig, DevnetError
from layerlab.devnet import Devnet, first_slot_ms
from layerlab.genesis import make_l1_genesis
from layerlab.layout import Layout

TOKEN_BYTES: Final = 24


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    verb(app, "genesis", panel="Devnet")(genesis)


def genesis(
    session: Session,
    show: Annotated[bool, typer.Option("--print", help="Print L1's genesis file and write nothing.")] = False,
    containers: Annotated[
        bool,
        typer.Option("--containers", envvar="LAYERLAB_CONTAINERS", help="The services are containers."),
    ] = False,
    fault_token: Annotated[
        str | None,
        typer.Option(
            "--fault-token",
            envvar="LAYERLAB_FAULT_TOKEN",
            help="The secret that faults ask for (default: drawn, for containers).",
        ),
    ] = None,
    validators: settings.Validators = None,
    slot_ms: settings.SlotMs = None,
    block_ms: settings.BlockMs = None,
    window: settings.Window = None,
    proposer_bond: settings.ProposerBond = None,
    challenger_bond: settings.ChallengerBond = None,
    students: settings.Students = None,
) -> None:
    """Make a devnet's genesis and clock, and start nothing. What is there already is checked and kept.

    This is the first step of docker compose up. With --print it makes the genesis file of a network whose
    services run by wall time, on as many machines as you like.

    Examples:
    layerlab genesis --dir /devnet --containers
    layerlab genesis --print --slot-ms 2000 --students 30 > genesis.json
    """
    wanted = {
        "validators": validators,
        "slot_ms": slot_ms,
        "block_ms": block_ms,
        "window": window,
        "proposer_bond": proposer_bond,
        "challenger_bond": challenger_bond,
        "students": students,
    }
    _check_service_variables(os.environ)
    if show:
        made = make_l1_genesis(settings.changed(DevnetConfig(), wanted), first_slot_ms())
        print(json.dumps(genesis_to_json(made), indent=2))
        return
    if Devnet.exists(session.directory):
        devnet = Devnet.open(session.directory)
        _require_same(devnet.config, wanted, fault_token)
        new = False
    else:
        given = DevnetConfig(containers=containers, fault_token=_new_token(fault_token, containers))
        devnet = Devnet.create(session.directory, settings.changed(given, wanted))
        new = True
    if devnet.config.containers:
        _write_token(devnet.layout, devnet.config.fault_token)
        devnet.time.begin()
    value: dict[str, Any] = {
        "directory": str(devnet.directory),
        "new": new,
        "genesis": "0x" + devnet.genesis_hash,
        "slot_ms": devnet.config.slot_ms,
        "challenge_window": devnet.config.settings.challenge_window,
        "accounts": len(devnet.config.account_names),
    }
    state = "is new" if new else "goes on"
    line = (
        f"the devnet in {value['directory']} {state}: genesis {value['genesis'][:18]}…, a slot every "
        f"{value['slot_ms']} ms, challenge window {value['challenge_window']} blocks, "
        f"{value['accounts']} funded accounts"
    )
    session.out.result(value, lambda: session.out.say(line))


def _check_service_variables(environ: Mapping[str, str]) -> None:
    """A wrong value of a service's variable is told here, once, before services are started with it."""
    # Here, since only verbs that start services need what they are made of: it takes long to load.
    import bridge.service
    import l1node.service
    import rollup.service

    parsers = [l1node.service.parser(environ), bridge.service.parser(environ)]
    parsers += [rollup.service.parser("sequencer", environ), rollup.service.parser("verifier", environ)]
    for parser in parsers:
        parser.parse_args([])


def _new_token(given: str | None, containers: bool) -> str:
    """Others can reach a container, so its token must be nobody's guess.

    Raises `CommandError` for one that services would refuse, or that no HTTP header can carry.
    """
    if given:
        if " " in given:
            raise CommandError("LAYERLAB_FAULT_TOKEN must be printable ASCII without spaces", "invalid_token")
        try:
            check_fault_token("0.0.0.0" if containers else "127.0.0.1", given)
        except StartupError as error:
            raise CommandError(
                f"LAYERLAB_FAULT_TOKEN: {error}; or give none: then one is drawn", "invalid_token"
            ) from None
        return given
    return secrets.token_urlsafe(TOKEN_BYTES) if containers else DevnetConfig.fault_token


def _require_same(config: DevnetConfig, wanted: Mapping[str, int | None], fault_token: str | None) -> None:
    """What a genesis says cannot be changed. Raises `CommandError` naming the first option that asks for it."""
    for name, value in wanted.items():
        if value is not None and (difference := settings.changed(config, {name: value}).difference(config)):
            raise CommandError(_not_now(settings.variable(name), difference), "another_genesis")
    if fault_token and fault_token != config.fault_token:
        raise CommandError(_not_now("LAYERLAB_FAULT_TOKEN", "the token is another one"), "another_genesis")


def _not_now(variable: str, difference: str) -> str:
    return (
        f"{variable} cannot change once there is a chain ({difference}); take it back, or start anew: "
        "docker compose down -v, or layerlab up --fresh"
    )


def _write_token(layout: Layout, token: str) -> None:
    """For services to read: ``fault-token``, the owner's alone. Raises `DevnetError`."""
    try:
        descriptor = os.open(
            layout.fault_token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
    except OSError as error:
        raise DevnetError(f"{str(layout.fault_token_file)!r}: {error.strerror}") from None
