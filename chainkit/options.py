"""Command-line options that every service takes, and reading what they name.

Responsible for ``--genesis --data --host --port --clock --log-level``, keys and their environment variables.
Must not know which service it is for.

Each option has an environment variable ``LAYERLAB_<OPTION>``; the option wins.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from chainkit.clock import Clock, SystemClock, VirtualClock
from chainkit.genesis import Genesis, GenesisError, genesis_from_json
from chainkit.keys import InvalidDevNameError, KeyPair, dev_keypair
from chainkit.keystore import load_key
from chainkit.logs import LEVELS
from chainkit.service import RunOptions, StartupError

MAX_GENESIS_BYTES = 4 * 1024 * 1024


def service_parser(
    prog: str, description: str, *, port: int, environ: Mapping[str, str] = os.environ, key: bool = True
) -> argparse.ArgumentParser:
    """A parser with the common options; a service adds its own. ``port`` is the default port."""
    parser = argparse.ArgumentParser(prog, description=description, allow_abbrev=False)

    def add(option: str, help_: str, default: str | None = None, **more: object) -> None:
        name = "LAYERLAB_" + option.lstrip("-").upper().replace("-", "_")
        parser.add_argument(option, help=f"{help_} [{name}]", default=environ.get(name, default), **more)  # type: ignore[arg-type]

    add("--genesis", "genesis file of the chain", metavar="FILE")
    add("--data", "data directory (made if missing)", metavar="DIR")
    add("--host", "address to listen on (default 127.0.0.1)", "127.0.0.1")
    add("--port", f"port to listen on (default {port}; 0: any free one)", str(port), type=_port)
    add("--clock", "clock file of a devnet (default: wall time)", metavar="FILE")
    add("--log-level", "how much to log (default info)", "info", choices=LEVELS)
    if key:
        add("--key-file", "encrypted key file; its passphrase is in LAYERLAB_PASSPHRASE", metavar="FILE")
        add("--dev-key", "well-known key of a devnet, by name", metavar="NAME")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when the parent process ends")
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def run_options(name: str, args: argparse.Namespace) -> RunOptions:
    """What `chainkit.service.run` takes, from parsed options."""
    return RunOptions(name, args.host, args.port, args.log_level, args.exit_with_parent)


def read_genesis(args: argparse.Namespace) -> Genesis:
    """The genesis that ``--genesis`` names. Raises `StartupError`."""
    if not args.genesis:
        raise StartupError("no genesis; give the chain's file with --genesis")
    return read_genesis_file(Path(args.genesis))


def read_genesis_file(path: Path) -> Genesis:
    """A genesis file. Raises `StartupError` with one line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_GENESIS_BYTES + 1)
    except OSError as error:
        raise StartupError(
            f"genesis file {str(path)!r}: {error.strerror}; give another with --genesis"
        ) from None
    try:
        return genesis_from_json(data)
    except GenesisError as error:
        raise StartupError(f"genesis file {str(path)!r}: {error}") from None


def data_directory(args: argparse.Namespace) -> Path:
    """The directory that ``--data`` names. Raises `StartupError` if none is given."""
    if not args.data:
        raise StartupError("no data directory; give one with --data")
    return Path(args.data)


def make_clock(args: argparse.Namespace) -> Clock:
    """Wall time, or the clock of the file that ``--clock`` names. Raises `ClockError`."""
    return VirtualClock(Path(args.clock)) if args.clock else SystemClock()


def read_key(
    args: argparse.Namespace, genesis: Genesis, *, environ: Mapping[str, str] = os.environ
) -> KeyPair | None:
    """The key that the options name; None if they name none. Raises `StartupError`, `KeyFileError`."""
    if args.key_file and args.dev_key:
        raise StartupError("two keys; give --key-file or --dev-key, not both")
    if args.dev_key:
        if not genesis.devnet:
            raise StartupError(
                "--dev-key is a key that everyone knows; this chain is no devnet, use --key-file"
            )
        try:
            return dev_keypair(args.dev_key)
        except InvalidDevNameError as error:
            raise StartupError(f"--dev-key: {error}") from None
    if args.key_file:
        return load_key(Path(args.key_file), environ.get("LAYERLAB_PASSPHRASE", ""))
    return None
