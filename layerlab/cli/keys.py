"""Verbs for key files: making one, showing its address.

Responsible for asking for the passphrase. Must not know how a key file looks: `chainkit.keystore` does.
"""

import secrets
from pathlib import Path
from typing import Annotated

import typer

from chainkit.keys import SEED_SIZE, KeyPair
from chainkit.keystore import load_key, save_key
from layerlab.cli.common import Session, key_file_address, verb
from layerlab.cli.signing import passphrase

keys_app = typer.Typer(
    no_args_is_help=True, help="Make and show encrypted key files.", rich_markup_mode="rich"
)
KeyPath = Annotated[Path, typer.Argument(help="The key file.", metavar="FILE")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    verb(keys_app, "new")(new)
    verb(keys_app, "show")(show)
    app.add_typer(keys_app, name="keys", rich_help_panel="Keys")


def new(session: Session, path: KeyPath) -> None:
    """Make a new key in an encrypted file that only you can read. An existing file is never replaced.

    The passphrase is asked for, or taken from LAYERLAB_PASSPHRASE.

    Examples:
    layerlab keys new me.pem
    LAYERLAB_PASSPHRASE=… layerlab keys new me.pem --json
    """
    key = KeyPair(secrets.token_bytes(SEED_SIZE))
    save_key(path, key, passphrase(f"passphrase for {path}: ", twice=True))
    value = {"file": str(path), "address": "0x" + key.address.hex()}
    where = path if "/" in str(path) or "." in str(path) else f"./{path}"
    session.out.result(
        value,
        lambda: session.out.say(
            f"{value['address']}\nfund it: layerlab send --from alice --to {where} --amount 10"
        ),
    )


def show(
    session: Session,
    path: KeyPath,
    check: Annotated[
        bool, typer.Option("--check", help="Open it with the passphrase, to see that both are right.")
    ] = False,
) -> None:
    """Show a key file's address. Without --check no passphrase is needed.

    Examples:
    layerlab keys show me.pem
    layerlab keys show me.pem --check --json
    """
    address = (
        load_key(path, passphrase(f"passphrase of {path}: ")).address if check else key_file_address(path)
    )
    value = {"file": str(path), "address": "0x" + address.hex(), "checked": check}
    session.out.result(value, lambda: session.out.say(str(value["address"])))
