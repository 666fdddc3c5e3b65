"""Command-line options that every service takes, their environment variables, and reading what they name.

Responsible for ``--genesis --data --host --port --clock --log-level``, keys, secrets and addresses. Must not know
which service it is for.

Each option has an environment variable ``LAYERLAB_<OPTION>``; the option wins, and an empty variable is none. A
wrong value is one line that names where it came from, and exit code 2.
"""

import argparse
import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import httpx

from chainkit.clock import Clock, ClockError, SystemClock, VirtualClock
from chainkit.fault_token import DEVNET_TOKEN, check_fault_token
from chainkit.genesis import MAX_GENESIS_BYTES, Genesis, GenesisError, genesis_from_bytes
from chainkit.keys import InvalidDevNameError, KeyPair, dev_keypair, well_known_name
from chainkit.keystore import KeyFileError, load_key
from chainkit.logs import LEVELS
from chainkit.startup import EXIT_STARTUP, RunOptions, StartupError, one_line

MAX_SECRET_BYTES: Final = 4096
MAX_URLS: Final = 64
MAX_MESSAGE_CHARS: Final = 400
QUOTED_CHARS: Final = 80
PATH_CHARS: Final = 240
PASSPHRASE: Final = "LAYERLAB_PASSPHRASE"
_YES: Final = ("1", "true", "yes", "on")
_NO: Final = ("0", "false", "no", "off")

Read = Callable[[str], Any]
"""From text to a value; raises `argparse.ArgumentTypeError` with a message that quotes the text."""


def variable(option: str) -> str:
    """The environment variable of an option."""
    return "LAYERLAB_" + option.lstrip("-").upper().replace("-", "_")


def named(option: str) -> str:
    """An option and its variable, for messages."""
    return f"{option} ({variable(option)})"


@dataclass(frozen=True)
class Setting:
    """An option with a variable. ``flag``: it takes no value on the command line, and yes or no in the variable."""

    option: str
    help: str
    default: Any
    read: Read
    flag: bool

    @property
    def name(self) -> str:
        return self.option.lstrip("-").replace("-", "_")


class ServiceParser(argparse.ArgumentParser):
    """Options declared with `setting` are taken from the command line, else from ``environ``, else the default.

    What is parsed has ``on_command_line`` besides: the names of the settings that were given there.
    """

    def __init__(self, prog: str, description: str, environ: Mapping[str, str]) -> None:
        super().__init__(prog, description=description, allow_abbrev=False)
        self.settings: dict[str, Setting] = {}
        self.secrets: dict[str, str] = {}
        self._environ = environ

    def setting(
        self,
        option: str,
        help_: str,
        default: Any = None,
        *,
        read: Read = str,
        metavar: str | None = None,
        flag: bool = False,
    ) -> None:
        """Declare an option. ``default`` is a value as ``read`` returns it."""
        self.settings[variable(option)] = Setting(
            option, help_, default, read_yes_or_no if flag else read, flag
        )
        more: dict[str, Any] = {"action": "store_true"} if flag else {"type": read, "metavar": metavar}
        self.add_argument(option, help=f"{help_} [{variable(option)}]", default=argparse.SUPPRESS, **more)

    def secret(self, name: str, help_: str) -> None:
        """Mention a variable that has no option, for everyone on the machine reads command lines."""
        self.secrets[name] = help_

    def variables(self) -> dict[str, tuple[str, str, Any]]:
        """Every variable that is read, with its option ("": it has none), help and default."""
        options = {name: (s.option, s.help, s.default) for name, s in self.settings.items()}
        return options | {name: ("", help_, None) for name, help_ in self.secrets.items()}

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """As argparse does; ends the process with exit code 2 and one line for a wrong value."""
        found: argparse.Namespace = super().parse_args(args, namespace)
        found.on_command_line = frozenset(vars(found)) & {s.name for s in self.settings.values()}
        for name, setting in self.settings.items():
            if setting.name not in found.on_command_line:
                setattr(found, setting.name, self._from_environment(name, setting))
        return found

    def _from_environment(self, name: str, setting: Setting) -> Any:
        text = self._environ.get(name, "")
        if not text:
            return setting.default
        try:
            return setting.read(text)
        except argparse.ArgumentTypeError as error:
            self._refuse(f"{name}: {error}")

    def error(self, message: str) -> NoReturn:
        """A wrong command line: one line, whatever it quotes, and exit code 2."""
        self._refuse(one_line(message.removeprefix("argument "), MAX_MESSAGE_CHARS) + "; see --help")

    def _refuse(self, message: str) -> NoReturn:
        self.exit(EXIT_STARTUP, f"{self.prog}: {one_line(message, MAX_MESSAGE_CHARS + 20)}\n")
        raise AssertionError("exit returns to nobody")


def service_parser(
    prog: str, description: str, *, port: int, environ: Mapping[str, str] = os.environ, key: bool = True
) -> ServiceParser:
    """A parser with the common options; a service adds its own. ``port`` is the default port."""
    parser = ServiceParser(prog, description, environ)
    add = parser.setting
    add("--genesis", "genesis file of the chain", metavar="FILE")
    add("--data", "data directory (made if missing)", metavar="DIR")
    add("--host", "address to listen on (default 127.0.0.1)", "127.0.0.1", metavar="HOST")
    add("--port", f"port to listen on (default {port}; 0: any free one)", port, read=_port, metavar="PORT")
    add("--clock", "clock file of a devnet (default: wall time)", metavar="FILE")
    add("--no-devnet", "refuse a devnet's genesis, whose keys everybody knows", False, flag=True)
    add(
        "--log-level",
        f"how much to log: {', '.join(LEVELS)} (default info)",
        "info",
        read=_level,
        metavar="LEVEL",
    )
    if key:
        add(
            "--key-file",
            f"encrypted key file; its passphrase is in {PASSPHRASE} or in the file that {PASSPHRASE}_FILE names",
            metavar="FILE",
        )
        add("--dev-key", "well-known key of a devnet, by name", metavar="NAME")
        parser.secret(PASSPHRASE, "passphrase of the key file")
        parser.secret(PASSPHRASE + "_FILE", "a file that holds that passphrase")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when the parent process ends")
    return parser


def add_fault_options(parser: ServiceParser) -> None:
    """``--enable-faults`` and its token, for a service that can be made dishonest; see `read_fault_token`."""
    parser.setting(
        "--enable-faults", "serve /faults, by which this node can be made dishonest", False, flag=True
    )
    parser.setting("--fault-token", "the secret that /faults asks for", metavar="TOKEN")
    parser.setting("--fault-token-file", "a file that holds that secret", metavar="FILE")


# --- values ----------------------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    shown = repr(text[:QUOTED_CHARS])
    if len(text) <= QUOTED_CHARS and len(shown) <= QUOTED_CHARS + 2:
        return shown
    return f"{shown[: QUOTED_CHARS - 3]}...{shown[0]}"  # an escape may take ten characters


def _shown(path: Path) -> str:
    """A path for a message. Of a long one the middle goes: its end is what people look for."""
    text = repr(str(path))
    return text if len(text) <= PATH_CHARS else f"{text[:60]}...{text[63 - PATH_CHARS :]}"


def read_integer(low: int, high: int) -> Read:
    """A reader of decimal integers from ``low`` to ``high``."""

    def read(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= 16
        if not digits or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{_quoted(text)} is no integer from {low} to {high}")
        return int(text)

    return read


def read_yes_or_no(text: str) -> bool:
    """Raises `argparse.ArgumentTypeError` for anything but a word for yes or for no."""
    if text.lower() not in (*_YES, *_NO):
        raise argparse.ArgumentTypeError(f"{_quoted(text)} is neither yes nor no")
    return text.lower() in _YES


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{_quoted(text)} is not a port (0 to 65535)")
    return int(text)


def _level(text: str) -> str:
    if text not in LEVELS:
        raise argparse.ArgumentTypeError(f"{_quoted(text)} is none of {', '.join(LEVELS)}")
    return text


def parse_urls(option: str, text: str) -> list[str]:
    """Addresses with commas between them, each once, at most `MAX_URLS`. Raises `StartupError`."""
    urls = [part.strip().rstrip("/") for part in text.split(",") if part.strip()]
    for url in urls:
        if not _is_address(url):
            raise StartupError(f"{named(option)}: {_quoted(url)} is no address like http://127.0.0.1:8545")
    if len(urls) > MAX_URLS:
        raise StartupError(f"{named(option)}: {len(urls)} addresses, {MAX_URLS} at most")
    return list(dict.fromkeys(urls))


def _is_address(url: str) -> bool:
    try:
        parts, host = urlsplit(url), httpx.URL(url).host
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        return False
    # What resolves names raises no OSError for labels of another length: a loop would end of it, much later.
    good = good and len(host) <= 253 and all(0 < len(label) < 64 for label in host.split("."))
    return good and not any((parts.query, parts.fragment, *map(str.isspace, url)))


# --- what the options name ---------------------------------------------------------------------------------------


def run_options(name: str, args: argparse.Namespace) -> RunOptions:
    """What `chainkit.service.run` takes, from parsed options."""
    return RunOptions(name, args.host, args.port, args.log_level, args.exit_with_parent)


def read_genesis(args: argparse.Namespace, option: str = "--genesis") -> Genesis:
    """The genesis that ``option`` names. Raises `StartupError`, also for what only a devnet may be run with."""
    path = getattr(args, option.lstrip("-").replace("-", "_"))
    if not path:
        raise StartupError(f"no genesis; give the chain's file with {named(option)}")
    genesis = read_genesis_file(Path(path), option)
    check_devnet(args, genesis)
    return genesis


def check_devnet(args: argparse.Namespace, genesis: Genesis) -> None:
    """What is made for a devnet, on a chain that is none, and the other way round. Raises `StartupError`."""
    if genesis.devnet:
        if args.no_devnet:
            raise StartupError(
                f"{named('--no-devnet')}: this genesis is a devnet's, everybody knows its keys"
            )
        return
    if args.clock:
        raise StartupError(
            f"{named('--clock')} is a devnet's time, which its owner bends; this chain is no devnet"
        )
    if getattr(args, "enable_faults", False):
        raise StartupError(
            f"{named('--enable-faults')} makes a devnet's node dishonest; this chain is no devnet"
        )


def read_genesis_file(path: Path, option: str = "--genesis") -> Genesis:
    """A genesis file. Raises `StartupError` with one line."""
    try:
        return genesis_from_bytes(_read_file(path, MAX_GENESIS_BYTES))
    except OSError as error:
        problem = error.strerror
    except GenesisError as error:
        problem = str(error)
    raise StartupError(f"genesis file {_shown(path)}: {problem}; give another with {named(option)}")


def data_directory(args: argparse.Namespace) -> Path:
    """The directory that ``--data`` names. Raises `StartupError` if none is given."""
    if not args.data:
        raise StartupError(f"no data directory; give one with {named('--data')}")
    return Path(args.data)


def make_clock(args: argparse.Namespace) -> Clock:
    """Wall time, or the clock of the file that ``--clock`` names. Raises `StartupError`."""
    try:
        return VirtualClock(Path(args.clock)) if args.clock else SystemClock()
    except ClockError as error:
        raise StartupError(f"{named('--clock')}: {error}") from None


def read_key(
    args: argparse.Namespace, genesis: Genesis, *, environ: Mapping[str, str] = os.environ
) -> KeyPair | None:
    """The key that the options name; None if they name none. Raises `StartupError`."""
    if args.key_file and args.dev_key:
        raise StartupError(f"two keys; give {named('--key-file')} or {named('--dev-key')}, not both")
    if args.dev_key:
        if not genesis.devnet:
            raise StartupError(
                f"{named('--dev-key')} is a key that everyone knows; this chain is no devnet, use --key-file"
            )
        try:
            return dev_keypair(args.dev_key)
        except InvalidDevNameError as error:
            raise StartupError(f"{named('--dev-key')}: {error}") from None
    if args.key_file:
        passphrase, where = _passphrase(environ)
        try:
            key = load_key(Path(args.key_file), passphrase)
        except KeyFileError as error:
            raise StartupError(f"{named('--key-file')} with {where}: {error}") from None
        name = None if genesis.devnet else well_known_name(key.address)
        if name is not None:
            raise StartupError(
                f"{named('--key-file')} holds the well-known key of {name!r}; this chain is no devnet, make a new one"
            )
        return key
    return None


def _passphrase(environ: Mapping[str, str]) -> tuple[str, str]:
    """The passphrase, and the variable that it is from."""
    given, file = environ.get(PASSPHRASE, ""), environ.get(PASSPHRASE + "_FILE", "")
    if given and file:
        raise StartupError(f"two passphrases; give {PASSPHRASE} or {PASSPHRASE}_FILE, not both")
    if not given and not file:
        raise StartupError(
            f"no passphrase for {named('--key-file')}; give {PASSPHRASE}, or a file with {PASSPHRASE}_FILE"
        )
    if given:
        return given, PASSPHRASE
    return read_secret_file(Path(file), PASSPHRASE + "_FILE"), PASSPHRASE + "_FILE"


def read_fault_token(args: argparse.Namespace) -> str | None:
    """The token of `add_fault_options`; None if faults are off. Raises `StartupError`."""
    if not args.enable_faults:
        return None
    token, file = args.fault_token, args.fault_token_file
    given = args.on_command_line & {"fault_token", "fault_token_file"}
    if len(given) == 1:  # even an empty one wins: it is refused, and no other is taken in its place
        token, file = (token, None) if "fault_token" in given else (None, file)
    if token is not None and file is not None:
        raise StartupError(
            f"two fault tokens; give {named('--fault-token')} or {named('--fault-token-file')}, not both"
        )
    if file is not None:
        token = read_secret_file(Path(file), named("--fault-token-file"))
    token = DEVNET_TOKEN if token is None else token
    check_fault_token(args.host, token)
    return str(token)


def read_secret_file(path: Path, where: str) -> str:
    """The one line in a file. Raises `StartupError`; what it says never shows the secret."""
    shown = _shown(path)
    try:
        data = _read_file(path, MAX_SECRET_BYTES)
    except OSError as error:
        raise StartupError(f"{where}: {shown}: {error.strerror}; give a file that can be read") from None
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or len(data) > MAX_SECRET_BYTES:
        raise StartupError(
            f"{where}: {shown} does not hold one line of 1 to {MAX_SECRET_BYTES} printable characters"
        )
    return text


def _read_file(path: Path, limit: int) -> bytes:
    """At most ``limit`` + 1 bytes of a regular file. Raises `OSError` with a ``strerror`` for people."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            return file.read(limit + 1)
    except ValueError:  # a zero byte, or half a surrogate pair
        raise OSError(errno.EINVAL, "not the name of a file") from None


def _open_without_waiting(name: str, flags: int) -> int:
    # O_NONBLOCK: a FIFO in the file's place must not hang the start.
    return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)
