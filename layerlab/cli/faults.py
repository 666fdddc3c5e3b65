"""Verbs that make a service dishonest on purpose, for teaching.

Responsible for finding the service and the token. Must not know what a fault does: the service says.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from chainkit.client import ApiError, ChainClient
from layerlab.cli import signing
from layerlab.cli.common import AmountOption, Session, verb
from layerlab.cli.errors import CommandError
from layerlab.layout import named

fault_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Make a service dishonest on purpose, and honest again.",
)
On = Annotated[
    str | None,
    typer.Option("--on", envvar="LAYERLAB_ON", metavar="SERVICE", help="sequencer, verifier or validator-N."),
]
Token = Annotated[
    str | None, typer.Option("--token", envvar="LAYERLAB_FAULT_TOKEN", help="The services' fault token.")
]
ROLE_FAULTS = {
    "sequencer": ("steal", "mint", "bad-root", "skip-deposit", "halt", "withhold", "silent-in-dispute"),
    "verifier": ("asleep", "late", "frivolous"),
}
"""Faults that only one service can play: there --on may be left out."""
LIES = ("steal", "mint", "bad-root")
"""Told once, in the next batch."""


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    verb(fault_app, "list")(fault_list)
    verb(fault_app, "set")(fault_set)
    verb(fault_app, "clear")(fault_clear)
    app.add_typer(fault_app, name="fault", rich_help_panel="Disputes and dishonesty")


def _client(session: Session, on: str, token: str | None) -> ChainClient:
    if on == "bridge":
        raise CommandError(f"the bridge service has no faults; give {_players(session)}", "no_faults")
    token = token or session.network.fault_token
    if token is None and session.network.directory is None:
        raise CommandError(
            f"no devnet in {str(session.directory)!r}; make one with layerlab up, or give the services' fault token "
            "with --token",
            "no_token",
        )
    if token is None:
        raise CommandError("no fault token is known here; give it with --token", "no_token")
    return session.client(session.network.service(on), token)


def _players(session: Session) -> str:
    """The services that can be dishonest."""
    return ", ".join(name for name in session.network.urls if name != "bridge")


async def fault_list(session: Session, on: On = None, token: Token = None) -> None:
    """List the faults that each service can play, and those that are on.

    Examples:
    layerlab fault list
    layerlab fault list --on sequencer --json
    """
    names = [on] if on else [name for name in session.network.urls if name != "bridge"]
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = await _client(session, name, token).get("/faults")
        except ApiError as error:
            if on or not signing.unreachable(error):
                raise
            found[name] = None
    if not any(found.values()):
        raise CommandError("nothing answers; start it with layerlab up", "unreachable")
    session.out.result(found, lambda: _show_faults(session, found))


def _show_faults(session: Session, found: Mapping[str, Any]) -> None:
    rows, seen = [], set()
    for service, faults in found.items():
        kind = "validator" if service.startswith("validator-") else service
        active = {_name(fault): fault for fault in (faults or {}).get("active", [])}
        for fault, about in (faults or {}).get("known", {}).items():
            if fault in active:
                rows.append((service, fault, "ON", about))
            elif (kind, fault) not in seen:
                rows.append((kind + ("-N" if kind == "validator" else ""), fault, "", about))
                seen.add((kind, fault))
    session.out.table(["service", "fault", "", "what it does"], rows)


def _name(fault: Any) -> str:
    return str(fault["name"]) if isinstance(fault, Mapping) else str(fault)


async def fault_set(
    session: Session,
    name: Annotated[str, typer.Argument(help="The fault; see layerlab fault list.", metavar="NAME")],
    on: On = None,
    at_step: Annotated[
        int | None, typer.Option("--at-step", min=0, help="The step of the batch to lie at.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="WHO", help="Whom to rob or to censor: name or address."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Draws the step.")] = None,
    amount: Annotated[int | None, AmountOption] = None,
    blocks: Annotated[int | None, typer.Option("--blocks", min=1, help="How late, in L1 blocks.")] = None,
    token: Token = None,
) -> None:
    """Turn a fault on: the service plays it with its own key until it is turned off.

    steal, mint and bad-root are lies about one batch: the next one, once.

    Examples:
    layerlab fault set steal --seed 7
    layerlab fault set censor --on sequencer --address carol
    layerlab fault set double-vote --on validator-2
    """
    service = on or next((role for role, names in ROLE_FAULTS.items() if name in names), None)
    if service is None:
        raise typer.BadParameter(f"say who plays {name!r} with --on: {_players(session)}")
    client = _client(session, service, token)
    body: dict[str, Any] = {"name": name}
    given = {"at_step": at_step, "seed": seed, "amount": amount, "blocks": blocks}
    body |= {key: value for key, value in given.items() if value is not None}
    if address is not None:
        who = "0x" + (await session.address(client, address)).hex()
        body |= {"censored": [who]} if service.startswith(("validator-", "l1")) else {"address": who}
    shown = await client.post("/faults", body)
    ending = (
        "its next batch lies, once"
        if name in LIES
        else f"turn it off with layerlab fault clear --on {service}{named(session.directory)}"
    )
    line = f"[bold]{service} is dishonest on purpose:[/] {name}; {ending}"
    session.out.result({"service": service, **shown}, lambda: session.out.say(line))


async def fault_clear(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="The fault (default: all).", metavar="[NAME]")] = None,
    on: On = None,
    token: Token = None,
) -> None:
    """Turn a fault off, or all of a service, or without --on those of all services.

    Examples:
    layerlab fault clear
    layerlab fault clear censor --on sequencer
    """
    path = "/faults" if name is None else f"/faults/{name}"
    only = next((role for role, names in ROLE_FAULTS.items() if name in names), None)
    services = [on or only] if (on or only) else [n for n in session.network.urls if n != "bridge"]
    found: dict[str, Any] = {}
    for service in services:
        assert service is not None
        try:
            found[service] = await _client(session, service, token).delete(path)
        except ApiError as error:
            if on or error.status not in (0, 404):
                raise
    if not found:
        raise CommandError(
            f"no service took it off: none has a fault {name!r}, or none answers"
            if name
            else "nothing answers; start it with layerlab up",
            "no_service",
        )
    session.out.result(found, lambda: session.out.say(f"honest again: {', '.join(found)}"))
