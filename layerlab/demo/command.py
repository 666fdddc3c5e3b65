"""`layerlab demo`: sets the stage, tells the story step by step, and clears everything away.

Responsible for the order of the steps, what is shown while they run, the JSON at the end and the exit code.
Must not know what a step does.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from chainkit.client import ApiError, WaitTimeoutError
from layerlab.cli.amounts import show_coins
from layerlab.cli.errors import tell
from layerlab.config import DevnetError, demo_config
from layerlab.demo import dishonesty, failures, money
from layerlab.demo.stage import Stage, StepFailed, StepSkipped
from layerlab.devnet import Devnet
from layerlab.escape import EscapeError
from layerlab.judge import JudgeError
from layerlab.layout import DEFAULT_DIRECTORY
from layerlab.models import USUAL

MAX_RESIDENT_MIB: Final = 150
Tell = Callable[[Stage], Awaitable[dict[str, Any]]]

STORY: Final[tuple[tuple[str, str, Tell], ...]] = (
    ("deposit", "alice deposits on L1; L2 credits her when the block is final", money.deposit),
    ("transfers", "500 signed transfers, each with the sequencer's receipt", money.transfers),
    ("batch", "the batch is on L1; unsafe -> safe -> finalized", money.batch_on_l1),
    ("withdraw", "bob withdraws: too early refused, paid, twice refused", money.withdraw),
    ("theft", "the sequencer steals; the verifier proves it", dishonesty.theft),
    ("frivolous", "a frivolous challenge loses its bond", dishonesty.frivolous),
    ("censorship", "carol is censored and forces her way through L1", dishonesty.censorship),
    ("crashes", "SIGKILL, a double vote, and nothing is lost", failures.crashes),
    ("burn-down", "every operator above L1 is gone; dave gets out", failures.burn_down),
    ("judge", "promises P1 to P4, judged from L1 data alone", failures.verdict),
)
EXPECTED: Final = (StepFailed, ApiError, WaitTimeoutError, DevnetError, EscapeError, JudgeError)


@dataclass
class Result:
    """How a step went. ``facts`` are hashes, heights and amounts in gwei."""

    name: str
    title: str
    state: str = "waiting"
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class Show:
    """The live display on a terminal, one line a step elsewhere, nothing for ``--json``."""

    def __init__(self, results: list[Result], *, quiet: bool) -> None:
        self.results = results
        self.console = Console(stderr=quiet)
        self.now = ""
        self._spinner = Spinner("dots")
        live = self.console.is_terminal
        self._live = (
            Live(get_renderable=self._table, console=self.console, refresh_per_second=8) if live else None
        )
        self._quiet = quiet

    def __enter__(self) -> "Show":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self.now = ""
            self._live.stop()

    def say(self, line: str) -> None:
        """What is going on at this moment."""
        self.now = line

    def finished(self, result: Result) -> None:
        if self._live is None and not self._quiet:
            mark = {"held": "ok    ", "skipped": "--    "}.get(result.state, "FAILED")
            self.console.print(
                f"{mark} {result.seconds:5.1f} s  {result.title}  {_brief(result)}", soft_wrap=True
            )

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1), show_header=False)
        for _ in range(3):
            table.add_column()
        for i, result in enumerate(self.results, 1):
            mark: Any = {
                "held": "[green]✓",
                "failed": "[red]✗",
                "waiting": "[dim]·",
                "skipped": "[yellow]-",
            }.get(result.state, self._spinner)
            style = "dim" if result.state == "waiting" else ""
            seconds = f"{result.seconds:.1f} s" if result.seconds else ""
            table.add_row(mark, f"{i}. {result.title}", seconds, style=style)
            if result.state == "running":
                table.add_row("", f"[cyan]{self.now}", "")
            elif result.state != "waiting":
                table.add_row("", f"[dim]{_brief(result)}", "")
        return table


def _brief(result: Result) -> str:
    """A step in a sentence: what it told, or why it failed."""
    return result.error or str(result.facts.get("told", ""))


def demo_command(
    seed: Annotated[int, typer.Option(min=0, max=2**53 - 1, help="Draws the step of the theft.")] = 7,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object at the end, nothing else.")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep the devnet's files here (default: deleted at the end).")
    ] = None,
    running: Annotated[
        bool,
        typer.Option(
            "--running", help="Tell it on the devnet that runs in --dir already; it goes on running after."
        ),
    ] = False,
) -> None:
    """Tell the whole story over real services: deposit, transfer, fraud, challenge, withdraw, escape.

    Starts 5 validators, a sequencer, a verifier and the bridge as 8 processes on free ports, and leaves
    nothing running. With --running it starts nothing, and skips what would end the devnet that is there.
    Exit code 0 only if every step that was told held.

    Examples: layerlab demo · layerlab demo --seed 42 · layerlab demo --json > story.json · layerlab demo --running
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="layerlab-demo-") as temporary:
        try:
            if running:
                place = directory or Path(os.environ.get("LAYERLAB_DIR") or DEFAULT_DIRECTORY)
                devnet = _theirs(place)
            else:
                devnet = _our_own(directory or Path(temporary) / "devnet")
            report = asyncio.run(_tell(seed, devnet, own=not running, quiet=as_json))
        except KeyboardInterrupt:
            left = "the devnet runs on" if running else "everything is stopped"
            typer.echo(f"interrupted; {left}", err=True)
            raise typer.Exit(130) from None
        except DevnetError as error:
            tell(f"layerlab demo: {error}")
            raise typer.Exit(1) from None
        if as_json:
            typer.echo(json.dumps(report, indent=2))
        else:
            _closing_words(report)
    raise typer.Exit(0 if report["held"] else 1)


def _our_own(directory: Path) -> Devnet:
    """Raises `DevnetError` if there is one already: it is not ours to throw away."""
    if Devnet.exists(directory):
        raise DevnetError(
            f"{str(directory)!r} holds a devnet already; give another directory with --dir, "
            "or tell the story on it with --running"
        )
    return Devnet.create(directory, demo_config().with_free_ports(), with_parent=True)


def _theirs(directory: Path) -> Devnet:
    """Raises `DevnetError` if nothing runs there."""
    devnet = Devnet.open(directory)
    if not devnet.is_running:
        raise DevnetError(f"no devnet runs in {str(directory)!r}; start it, or leave out --running")
    if devnet.config.model != USUAL:
        raise DevnetError(
            f"the story is one of the model {USUAL!r}, and this devnet is {devnet.config.model!r}"
        )
    return devnet


async def _tell(seed: int, devnet: Devnet, *, own: bool, quiet: bool) -> dict[str, Any]:
    results = [Result(name, title) for name, title, _ in STORY]
    begin = time.monotonic()
    resident: dict[str, int] = {}
    stage: Stage | None = None
    with Show(results, quiet=quiet) as show:
        try:
            if own:
                await asyncio.to_thread(devnet.up, lambda line: show.say(line))
            ready = time.monotonic() - begin
            stage = Stage(devnet, devnet.genesis(), seed, show.say, own)
            stage.set_rate(1.0)
            watch = asyncio.create_task(_watch_memory(devnet, resident))
            for result, (_, _, tell) in zip(results, STORY, strict=True):
                await _step(result, tell, stage)
                show.finished(result)
                if result.state == "failed":
                    break
            watch.cancel()
        finally:
            if stage is not None:
                await stage.close()
            if own:
                devnet.supervisor.end()  # `up` may be at work in its thread yet
    mib = {name: round(size / 2**20, 1) for name, size in sorted(resident.items())}
    small = max(mib.values(), default=0) <= MAX_RESIDENT_MIB
    return {
        "held": small and all(result.state in ("held", "skipped") for result in results),
        "seed": seed,
        "seconds": round(time.monotonic() - begin, 1),
        "seconds_to_ready": round(ready, 1),
        "processes": len(devnet.config.services),
        "left_running": not own,
        "resident_mib": mib,
        "steps": [
            {
                "step": i,
                "name": result.name,
                "title": result.title,
                "held": result.state == "held",
                "skipped": result.state == "skipped",
                "seconds": round(result.seconds, 1),
                **({"error": result.error} if result.error else {}),
                **result.facts,
            }
            for i, result in enumerate(results, 1)
        ],
    }


async def _step(result: Result, tell: Tell, stage: Stage) -> None:
    result.state, begin = "running", time.monotonic()
    try:
        result.facts = await tell(stage)
        result.state = "held"
    except StepSkipped as skipped:
        result.state, result.facts = "skipped", {"told": str(skipped)}
    except EXPECTED as error:
        result.state, result.error = "failed", str(error)
    finally:
        result.seconds = time.monotonic() - begin


async def _watch_memory(devnet: Devnet, resident: dict[str, int]) -> None:
    """The most resident memory that each service ever had."""
    while True:
        for name, size in devnet.supervisor.resident_bytes().items():
            resident[name] = max(size, resident.get(name, 0))
        await asyncio.sleep(1.0)


_COUNTS: Final = ("claims", "exits", "refunds", "deposits", "taken_in")


def _figure(key: str, value: Any) -> str:
    return str(value) if key in _COUNTS else show_coins(int(value))


def _closing_words(report: dict[str, Any]) -> None:
    console = Console()
    promises = report["steps"][-1]
    for name in ("P1", "P2", "P3", "P4"):
        if name in promises:
            terms = {k: v for k, v in promises[name].items() if k not in ("says", "holds")}
            figures = ", ".join(
                f"{key.replace('_', ' ')} {_figure(key, value)}" for key, value in terms.items()
            )
            console.print(
                f"[bold]{name}[/] {'holds' if promises[name]['holds'] else 'BROKEN'}: {promises[name]['says']}"
            )
            console.print(f"   [dim]{figures}[/]", soft_wrap=True)
    memory = [
        f"at most {most} MiB each" for most in [max(report["resident_mib"].values(), default=0)] if most
    ]
    told = [step for step in report["steps"] if not step["skipped"]]
    left = "the devnet runs on" if report["left_running"] else "nothing is left running"
    counts = [f"{report['processes']} services", *memory]
    console.print(
        f"{sum(step['held'] for step in told)} of {len(told)} steps held in {report['seconds']} s; "
        f"{', '.join(counts)}; {left}."
    )
