"""What every verb has in common: its options, its session and its exit code.

Responsible for turning a function into a verb: shared options are added to its own, refusals become one line
(or a problem object with ``--json``) and exit code 1, Ctrl-C becomes 130. Must not know any verb.
"""

import asyncio
import inspect
import os
import re
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from chainkit.client import ChainClient
from chainkit.codec import CodecError, parse_hex
from chainkit.genesis import Genesis, GenesisError, genesis_from_json
from chainkit.keys import (
    DEV_ACCOUNTS,
    InvalidDevNameError,
    KeyPair,
    dev_keypair,
    is_dev_address,
    is_valid_address,
)
from layerlab.cli import errors
from layerlab.cli.amounts import AmountError, parse_positive
from layerlab.cli.errors import CommandError
from layerlab.cli.network import Network, find_network
from layerlab.cli.output import Output
from layerlab.layout import DEFAULT_DIRECTORY
from layerlab.models import MODELS, Model

INTERRUPTED: Final = 130
_RETRIES: Final = 1
_USAGE_ERROR: Final[type[Exception]] = typer.BadParameter.__mro__[2]
"""click's ClickException, whichever click typer brings along."""


# --- parameters ----------------------------------------------------------------------------------------------


def read_amount(text: str) -> int:
    """An amount on the command line, in gwei; more than zero."""
    try:
        return parse_positive(text)
    except AmountError as error:
        raise typer.BadParameter(str(error)) from None


AmountOption = typer.Option(
    "--amount",
    parser=read_amount,
    metavar="COINS",
    envvar="LAYERLAB_AMOUNT",
    help="Coins, decimals allowed (30, 0.5), or gwei (500gwei).",
)
Amount = Annotated[int, AmountOption]
OptionalAmount = Annotated[int | None, AmountOption]
From = Annotated[
    str,
    typer.Option(
        "--from",
        envvar="LAYERLAB_FROM",
        metavar="WHO",
        help="Who signs: a devnet name (alice), or a key file.",
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to", envvar="LAYERLAB_TO", metavar="WHO", help="A devnet name, a 0x address, or a key file."
    ),
]

_JSON = Annotated[
    bool, typer.Option("--json", envvar="LAYERLAB_JSON", help="Print one JSON value and nothing else.")
]
_DIR = Annotated[
    Path, typer.Option("--dir", envvar="LAYERLAB_DIR", help="The devnet's directory.", show_default=True)
]
_L2 = Annotated[bool, typer.Option("--l2", envvar="LAYERLAB_L2", help="Ask the rollup instead of L1.")]
_URL = Annotated[
    str | None, typer.Option("--url", envvar="LAYERLAB_URL", help="Ask the chain API at this address.")
]
_L1_URL = Annotated[
    str | None,
    typer.Option(
        "--l1-url", envvar="LAYERLAB_L1_URL", help="L1 nodes, with commas between them.", metavar="URLS"
    ),
]
_L2_URL = Annotated[
    str | None,
    typer.Option("--l2-url", envvar="LAYERLAB_L2_URL", help="The rollup's sequencer.", metavar="URL"),
]
_BRIDGE_URL = Annotated[
    str | None,
    typer.Option("--bridge-url", envvar="LAYERLAB_BRIDGE_URL", help="The bridge service.", metavar="URL"),
]
_GENESIS = Annotated[
    Path | None,
    typer.Option(
        "--l1-genesis",
        envvar="LAYERLAB_L1_GENESIS",
        metavar="FILE",
        help="L1's genesis file (default: the devnet's; else what the L1 node says).",
    ),
]
_SHARED: Final[Mapping[str, tuple[Any, Any]]] = {
    "as_json": (_JSON, False),
    "directory": (_DIR, DEFAULT_DIRECTORY),
    "l2": (_L2, False),
    "url": (_URL, None),
    "l1_url": (_L1_URL, None),
    "l2_url": (_L2_URL, None),
    "bridge_url": (_BRIDGE_URL, None),
    "l1_genesis": (_GENESIS, None),
}
PLAIN: Final = ("as_json", "directory")
CHAIN: Final = ("l2", "url", *PLAIN)
STACK: Final = ("l1_url", "l2_url", "bridge_url", *PLAIN)
L1_ONLY: Final = ("l1_url", "l1_genesis", *PLAIN)
ELSEWHERE: Final = ("l1_url", "l2_url", "bridge_url")
"""With one of these a verb acts on other services than the devnet's."""
Needs = Callable[[Model], bool]


def a_bridge(model: Model) -> bool:
    """For verbs that need a second chain and a bridge to it."""
    return model.bridged


def a_rollup(model: Model) -> bool:
    """For verbs that need batches on L1, and what protects users from a dishonest sequencer."""
    return model.rollup


# --- the session ---------------------------------------------------------------------------------------------


class Session:
    """One run of a verb: its output, the services it may ask, and closing them."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.out = Output(as_json=bool(options.get("as_json")))
        self.directory: Path = options.get("directory") or DEFAULT_DIRECTORY
        self.on_interrupt = ""
        """What the user may do after Ctrl-C."""
        self._network: Network | None = None
        self._clients: dict[tuple[str, str | None], ChainClient] = {}
        self._status: dict[str, Mapping[str, Any]] = {}

    @property
    def network(self) -> Network:
        """Raises `DevnetError` for a damaged devnet directory."""
        if self._network is None:
            self._network = find_network(self.directory)
        return self._network

    def client(self, url: str, token: str | None = None) -> ChainClient:
        """A client that is closed when the verb ends. Raises `CommandError` for what is no address."""
        if not url.startswith(("http://", "https://")):
            raise CommandError(f"{url[:80]!r} is no address; give it as http://HOST:PORT", "invalid_address")
        key = (url, token)
        if key not in self._clients:
            self._clients[key] = ChainClient(url, retries=_RETRIES, token=token)
        return self._clients[key]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    # --- services ---

    @property
    def chain_url(self) -> str:
        """The chain that ``--l2`` or ``--url`` picks: L1 without either."""
        url: str | None = self.options.get("url")
        if url:
            return url
        return self.network.service("l2" if self.options.get("l2") else "l1")

    @property
    def chain(self) -> ChainClient:
        return self.client(self.chain_url)

    @property
    def l1_urls(self) -> list[str]:
        given: str | None = self.options.get("l1_url")
        if given:
            return [url.strip() for url in given.split(",") if url.strip()]
        return self.network.l1_urls

    @property
    def l1(self) -> ChainClient:
        urls = self.l1_urls
        if not urls:
            raise CommandError("no L1 node is known; give one with --l1-url", "no_l1")
        return self.client(urls[0])

    @property
    def l2(self) -> ChainClient:
        return self.client(self.options.get("l2_url") or self.network.service("l2"))

    @property
    def bridge(self) -> ChainClient:
        return self.client(self.options.get("bridge_url") or self.network.service("bridge"))

    async def status(self, client: ChainClient) -> Mapping[str, Any]:
        """The chain's ``/status``, asked once: for what does not change."""
        if client.url not in self._status:
            self._status[client.url] = await client.status()
        return self._status[client.url]

    async def genesis(self) -> Genesis:
        """L1's genesis: from a file, else from the node. Raises `CommandError`."""
        file: Path | None = self.options.get("l1_genesis") or self.network.genesis_file
        if file is None or (self.options.get("l1_url") and not self.options.get("l1_genesis")):
            self.out.note("L1's genesis is taken from the node; give a file that you trust with --l1-genesis")
            return await self.l1.genesis()
        try:
            return genesis_from_json(file.read_bytes())
        except (OSError, GenesisError) as error:
            raise CommandError(f"genesis file {str(file)!r}: {error}", "bad_genesis") from None

    def require(self, name: str, needs: Needs | None) -> None:
        """Refuse a verb that means nothing on the devnet's model. Raises `CommandError`."""
        if needs is None or any(self.options.get(option) for option in ELSEWHERE):
            return
        model = MODELS.get(self.network.model)
        if model is not None and not needs(model):
            fit = [other.name for other in MODELS.values() if needs(other)]
            raise CommandError(
                f"{name} means nothing on this devnet: {model.name} is {model.about}; it is for {', '.join(fit)}",
                "wrong_model",
                model=model.name,
                known=fit,
            )

    # --- people ---

    async def address(self, client: ChainClient, who: str) -> bytes:
        """The address of a devnet name, a 0x address or a key file. Raises `CommandError`."""
        if who.startswith("0x"):
            return hex_address(who)
        if looks_like_file(who):
            return key_file_address(Path(who))
        return (await self.dev_key(client, who)).address

    async def dev_key(self, client: ChainClient, name: str) -> KeyPair:
        """The well-known key of a name: the usual ones, and any that the chain's genesis funds.

        Raises `CommandError` for a name that nobody has, or if the chain is no devnet.
        """
        await self.require_devnet(client, name)
        try:
            key = dev_keypair(name)
        except InvalidDevNameError:
            raise _nobody(name) from None
        if is_dev_address(key.address):
            return key
        funded = (await client.genesis()).accounts
        if all(account.address != key.address for account in funded):
            raise _nobody(name)
        return key

    async def require_devnet(self, client: ChainClient, who: str) -> None:
        """Names stand for keys that everyone knows: on a real chain they must mean nothing."""
        if not (await self.status(client))["devnet"]:
            raise CommandError(
                f"{who!r}: {client.url} is no devnet, so names mean nothing there; give an address or a key file",
                "not_a_devnet",
            )


def hex_address(text: str) -> bytes:
    """Raises `CommandError`."""
    try:
        address = parse_hex(text.lower(), "an address", 32)
    except CodecError as error:
        raise CommandError(f"{text[:80]!r} is no address: {error}", "invalid_address") from None
    if not is_valid_address(address):
        raise CommandError(f"{text} is no address: not a valid Ed25519 public key", "invalid_address")
    return address


def _nobody(name: str) -> CommandError:
    return CommandError(
        f"nobody is called {name[:80]!r}; layerlab accounts shows who there is, besides validator-0 to -31; "
        "or give a 0x address or a key file",
        "unknown_account",
        known=list(DEV_ACCOUNTS),
    )


def looks_like_file(text: str) -> bool:
    """Whether somebody is named by a key file: a path, or a name with a dot."""
    return "/" in text or "." in text


def key_file_address(path: Path) -> bytes:
    """The address in a key file's first line; needs no passphrase. Raises `CommandError`."""
    try:
        with path.open("rb") as file:
            line = file.read(80).partition(b"\n")[0]
    except OSError as error:
        raise CommandError(f"key file {str(path)!r}: {error.strerror}", "key_file") from None
    label, _, text = line.partition(b": ")
    if label != b"Address":
        raise CommandError(f"{str(path)!r} is no key file: it has no address line", "key_file")
    return hex_address(text.decode("ascii", "replace").strip())


# --- verbs -----------------------------------------------------------------------------------------------------

Verb = Callable[..., Any]


def verb(
    app: typer.Typer,
    name: str,
    shared: tuple[str, ...] = PLAIN,
    *,
    panel: str | None = None,
    needs: Needs | None = None,
) -> Callable[[Verb], Verb]:
    """Make a function of a `Session` and its own options a verb of ``app``, with the ``shared`` options.

    ``needs``: on a devnet whose model has it not the verb is refused before it does anything.
    """

    def decorate(function: Verb) -> Verb:
        own = [p for p in inspect.signature(function).parameters.values() if p.name != "session"]
        added = [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for n, (annotation, default) in ((n, _SHARED[n]) for n in shared)
        ]
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        def run(ctx: typer.Context, **given: Any) -> None:
            options = {n: given.pop(n) for n in shared}
            session = Session(_one_chain(ctx, options))
            _run(function, session, given, lambda: session.require(_words(ctx), needs))

        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        run.__annotations__ = {p.name: p.annotation for p in (context, *own, *added)}
        run.__signature__ = inspect.Signature([context, *own, *added])  # type: ignore[attr-defined]
        app.command(name, rich_help_panel=panel)(run)
        return function

    return decorate


def _one_chain(ctx: typer.Context, options: dict[str, Any]) -> dict[str, Any]:
    """``--l2`` on the command line goes before an address from the environment, and not with ``--url``."""
    if options.get("l2") and options.get("url"):
        sources = {name: str(getattr(ctx.get_parameter_source(name), "name", "")) for name in ("l2", "url")}
        if set(sources.values()) == {"COMMANDLINE"}:
            raise typer.BadParameter("--l2 and --url name two chains; give one of them")
        return {**options, "url": None} if sources["l2"] == "COMMANDLINE" else options
    return options


def _words(ctx: typer.Context) -> str:
    """The verb as the user wrote it."""
    return str(ctx.command_path).partition(" ")[2]


def _run(function: Verb, session: Session, given: dict[str, Any], check: Callable[[], None]) -> None:
    try:
        check()
        result = function(session, **given)
        if inspect.iscoroutine(result):
            asyncio.run(_with_session(session, result))
    except KeyboardInterrupt:
        hint = f"; {session.on_interrupt}" if session.on_interrupt else ""
        errors.tell(f"interrupted{hint}")
        raise typer.Exit(INTERRUPTED) from None
    except errors.REFUSALS as error:
        errors.report(error, as_json=session.out.as_json)
        raise typer.Exit(1) from None


async def _with_session(session: Session, verb_running: Coroutine[Any, Any, None]) -> None:
    try:
        await verb_running
    finally:
        await session.close()


class LayerlabGroup(TyperGroup):
    """The root command: its exit codes are 0, 1 (refused or failed), 2 (usage) and 130 (Ctrl-C)."""

    def main(self, *args: Any, **options: Any) -> Any:
        options["standalone_mode"] = False
        given = options.get("args") or (args[0] if args else None)
        words = list(sys.argv[1:] if given is None else given)
        try:
            code = super().main(*args, **options)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except typer.Abort:
            print("aborted", file=sys.stderr)
            code = 1
        except _USAGE_ERROR as error:
            code = _report_usage(error, words)
        sys.exit(code if isinstance(code, int) else 0)


def _report_usage(error: Exception, words: list[str]) -> int:
    message = re.sub(
        r" \(env var: '[A-Z0-9_]+'\)", "", str(getattr(error, "format_message", error.__str__)())
    )
    context, option = getattr(error, "ctx", None), getattr(error, "param", None)
    if context and option and getattr(option, "envvar", None):
        source = context.get_parameter_source(option.name)
        if source and source.name == "ENVIRONMENT":  # name what the user set
            message = message.replace(f"'{option.opts[0]}'", str(option.envvar), 1)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return 2
    if "--json" in words or os.environ.get("LAYERLAB_JSON", "").lower() in ("1", "true", "yes"):
        errors.report(CommandError(message, "usage"), as_json=True)
    else:
        path = getattr(context, "command_path", "layerlab")
        errors.tell(f"{path}: {message.rstrip('.')}; see {path} --help")
    return int(getattr(error, "exit_code", 2))
