"""The verb that judges a running network from L1 alone.

Responsible for options, for whom to ask, and for showing the verdict. Must not judge anything.
"""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.markup import escape

from chainkit.codec import encode
from chainkit.genesis import GenesisError, genesis_from_bytes
from layerlab.audit.applications import UnknownContractError
from layerlab.audit.auditor import SourceError, audit
from layerlab.audit.l1 import LieError
from layerlab.audit.source import GENESIS, ArchiveSource, NodeSource, save
from layerlab.audit.verdict import BROKEN, HOLDS, Verdict
from layerlab.cli.common import Session, verb
from layerlab.cli.errors import CommandError
from layerlab.cli.output import Waiting

NOT_JUDGED: Final = 2
QUIET_SECONDS: Final = 1.0
"""What takes no longer needs no progress display."""


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    verb(app, "audit", ("as_json", "directory"), panel="Look")(audit_verb)


async def audit_verb(
    session: Session,
    l1: Annotated[
        str | None,
        typer.Option(
            "--l1",
            envvar="LAYERLAB_L1_URL",
            metavar="URLS",
            help="L1 nodes, with commas between them, or a directory that --save wrote (default: the devnet's nodes).",
        ),
    ] = None,
    genesis: Annotated[
        Path | None,
        typer.Option(
            "--genesis",
            envvar="LAYERLAB_L1_GENESIS",
            metavar="FILE",
            help="L1's genesis file, from where you trust it (default: the devnet's, or the directory's).",
        ),
    ] = None,
    save_to: Annotated[
        Path | None,
        typer.Option("--save", metavar="DIR", help="Keep what was read, to be judged again with --l1 DIR."),
    ] = None,
) -> None:
    """Judge from L1 alone whether promises P1 to P5 hold, by code that is not the nodes'.

    No sequencer, verifier or bridge service is asked, and no L1 node is believed: votes, hashes and roots are checked.
    Exit code 0: all hold. 1: one is broken; block and account are named. 2: one could not be judged; what is missing is
    said.

    Examples:
    layerlab audit
    layerlab audit --l1 http://127.0.0.1:8545,http://127.0.0.1:8546 --genesis l1.json --json
    layerlab audit --save today && layerlab audit --l1 today
    """
    sources = _sources(session, l1, keep=save_to is not None)
    data = _genesis(session, l1, genesis)
    refused: list[dict[str, str]] = []
    notes: list[str] = []
    try:
        for source in await asyncio.to_thread(_furthest_first, sources):
            try:
                verdict = await asyncio.to_thread(_judge, session, data, source)
            except (LieError, SourceError, UnknownContractError) as error:
                kind = "lies" if isinstance(error, LieError) else "cannot be judged by"
                why = f"{kind}: {str(error).removeprefix(source.name).lstrip()}"
                refused.append({"source": source.name, "why": why})
                if not isinstance(error, UnknownContractError):
                    notes.append(f"{source.name} {why}")
                continue
            if save_to is not None and isinstance(source, NodeSource) and source.kept is not None:
                save(save_to, data, source.kept, verdict.height)
            for line in notes:  # if nobody could be judged, they are the answer
                session.out.note(line)
            _show(session, verdict, source.name, refused)
            raise typer.Exit(verdict.exit_code)
    except SourceError as error:
        raise CommandError(str(error), "cannot_save") from None
    finally:
        for source in sources:
            source.close()
    _nobody(session, refused)


def _sources(session: Session, l1: str | None, *, keep: bool) -> list[NodeSource | ArchiveSource]:
    if l1 is None:
        urls = session.network.l1_urls
    elif "://" not in l1:
        try:
            return [ArchiveSource(Path(l1))]
        except SourceError as error:
            _nobody(session, [{"source": l1, "why": str(error)}])
    else:
        urls = [url.strip().rstrip("/") for url in l1.split(",") if url.strip()]
    return [NodeSource(url, keep=keep) for url in urls]


def _genesis(session: Session, l1: str | None, genesis: Path | None) -> bytes:
    """Canonical bytes. A genesis is never asked of those who are judged."""
    file = genesis
    if file is None and l1 is not None and "://" not in l1:
        file = Path(l1) / GENESIS
    if file is None and l1 is None:
        file = session.network.genesis_file
    if file is None:
        why = "which chain? Give L1's genesis with --genesis FILE: a node could make up a chain of its own"
        if l1 is None and session.network.directory is None:
            why = f"no devnet in {str(session.directory)!r}; make one with layerlab up, or give --l1 and --genesis"
        _nobody(session, [{"source": "genesis", "why": why}])
    try:
        return encode(genesis_from_bytes(file.read_bytes()))
    except (OSError, GenesisError) as error:
        _nobody(session, [{"source": str(file), "why": f"genesis file: {error}"}])


def _furthest_first(sources: list[NodeSource | ArchiveSource]) -> list[NodeSource | ArchiveSource]:
    """Who says that most is final is asked first: a node that is behind shows nothing false, only less."""

    def height(source: NodeSource | ArchiveSource) -> int:
        try:
            return source.final()
        except SourceError:
            return -1

    heights = {id(source): height(source) for source in sources} if len(sources) > 1 else {}
    return sorted(sources, key=lambda source: -heights.get(id(source), 0))


def _judge(session: Session, genesis: bytes, source: NodeSource | ArchiveSource) -> Verdict:
    started = time.monotonic()
    with session.out.waiting() as waiting:

        def progress(done: int, goal: int) -> None:
            if time.monotonic() - started > QUIET_SECONDS:
                _tell(waiting, done, goal)

        return audit(genesis, source, progress)


def _tell(waiting: Waiting, done: int, goal: int) -> None:
    waiting.now("judging L1 block by block", f"{done} of {goal}", every=str(10 * done // max(1, goal)))


def _nobody(session: Session, refused: list[dict[str, str]]) -> NoReturn:
    """Nothing could be judged: exit code 2."""
    if session.out.as_json:
        session.out.json({"exit_code": NOT_JUDGED, "promises": {}, "refused": refused})
    else:
        for item in refused:
            session.out.say(f"[yellow]not judged[/]  {escape(item['source'])} {escape(item['why'])}")
    raise typer.Exit(NOT_JUDGED)


def _show(session: Session, verdict: Verdict, name: str, refused: list[dict[str, str]]) -> None:
    def lines() -> None:
        session.out.say(f"[dim]L1 up to final block {verdict.height}, shown by {escape(name)}[/]")
        for line in verdict.lines():
            style = (
                "bold red"
                if BROKEN in line or line.startswith(" ")
                else "green"
                if HOLDS in line
                else "yellow"
            )
            session.out.say(f"[{style}]{escape(line[:2])}[/]{escape(line[2:])}")

    session.out.result({"source": name, "refused": refused, **verdict.to_json()}, lines)
