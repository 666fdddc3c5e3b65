"""Verbs for snapshots of the whole stack.

Responsible for options and for showing progress. Must not know what a snapshot holds: `layerlab.snapshot` does.
"""

import os
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from layerlab.cli import settings
from layerlab.cli.common import Session, verb
from layerlab.devnet import Devnet
from layerlab.snapshot import list_snapshots, restore_snapshot, save_snapshot

snapshot_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Save and restore the whole stack: chains, mempools, disputes, the clock.",
)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    verb(snapshot_app, "save")(snapshot_save)
    verb(snapshot_app, "restore")(snapshot_restore)
    verb(snapshot_app, "list")(snapshot_list)
    app.add_typer(snapshot_app, name="snapshot", rich_help_panel="Devnet")


Name = Annotated[str, typer.Argument(help="The snapshot's name.")]


def snapshot_save(session: Session, name: Name) -> None:
    """Save the whole stack at one instant. A running devnet is stopped for a moment and goes on.

    Faults are not saved: services are honest after it, until layerlab fault set.

    Examples:
    layerlab snapshot save before-the-theft
    """
    devnet = _open(session)
    with session.out.waiting() as waiting:
        saved = save_snapshot(devnet, name, lambda line: waiting.now(line))
    session.out.result(saved, lambda: session.out.say(f"saved {name!r}{_at(saved)}"))


def snapshot_restore(session: Session, name: Name) -> None:
    """Put the whole stack back to a snapshot; what happened since is gone.

    Faults are not restored: services are honest after it, until layerlab fault set.

    Examples:
    layerlab snapshot restore before-the-theft
    """
    devnet = _open(session)
    with session.out.waiting() as waiting:
        restored = restore_snapshot(devnet, name, lambda line: waiting.now(line))
    session.out.result(restored, lambda: session.out.say(f"restored {name!r}{_at(restored)}"))


def _open(session: Session) -> Devnet:
    """The devnet, whose services are started again as `layerlab up` would here."""
    devnet = Devnet.open(session.directory)
    devnet.supervisor.variables = settings.for_services(os.environ)
    return devnet


def _at(saved: Mapping[str, Any]) -> str:
    return "" if saved["height"] is None else f" at final L1 block {saved['height']}"


def snapshot_list(session: Session) -> None:
    """List the snapshots.

    Examples:
    layerlab snapshot list --json
    """
    found = list_snapshots(Devnet.open(session.directory))
    rows = [
        (item["name"], "", "", item["error"])
        if "error" in item
        else (
            item["name"],
            "" if item["height"] is None else item["height"],
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(item["virtual"])),
            f"{item['bytes'] / 2**20:.1f} MiB",
        )
        for item in found
    ]
    if not found and not session.out.as_json:
        print("no snapshots yet; make one with layerlab snapshot save NAME", file=sys.stderr)
    columns = ["name", "L1 block", "devnet time (UTC)", "size"]
    session.out.result(
        found, lambda: session.out.table(columns, rows, right=["L1 block", "size"]) if found else None
    )
