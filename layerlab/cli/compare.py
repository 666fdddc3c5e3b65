"""The verb that compares the models: workload and experiments on each, a table, and a page.

Responsible for options, progress, the table on a terminal, and for saying where the results are however it ends.
Must not know what is measured nor how a cell is filled.
"""

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from layerlab.cli.common import Session, verb
from layerlab.cli.errors import CommandError
from layerlab.cli.output import duration
from layerlab.lab.compare import measure, plan, report, results, runner, table
from layerlab.lab.experiments import EXPERIMENTS
from layerlab.models import MODELS

TERMINATED: Final = 143
WIDTH: Final = 100
"""A table fits this many characters."""
MOST_JOBS: Final = 8


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    verb(app, "compare", ("as_json",), panel="Laboratory")(compare)


def _models(text: str) -> list[str]:
    """Names with commas between them, each once. Raises `typer.BadParameter`."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in MODELS:
            raise typer.BadParameter(f"no model {name[:40]!r}; there are {', '.join(MODELS)}")
    return names


async def compare(
    session: Session,
    models: Annotated[
        str,
        typer.Option(
            "--models", envvar="LAYERLAB_MODELS", metavar="NAMES", help=f"With commas: {', '.join(MODELS)}."
        ),
    ] = ",".join(MODELS),
    quick: Annotated[bool, typer.Option("--quick", help="A smaller workload; the same experiments.")] = False,
    seed: Annotated[
        int,
        typer.Option("--seed", envvar="LAYERLAB_SEED", min=0, max=2**53 - 1, help="Draws what is random."),
    ] = 7,
    out: Annotated[
        Path, typer.Option("--out", envvar="LAYERLAB_OUT", help="Where results are kept.", show_default=True)
    ] = Path("results"),
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            envvar="LAYERLAB_JOBS",
            min=1,
            max=MOST_JOBS,
            help="Experiments at a time; workloads run alone.",
        ),
    ] = 3,
) -> None:
    """Run one workload and every experiment on each model, and show what each costs and withstands.

    Every figure is measured on services that this starts and that are gone after it. Writes runs.jsonl, table.csv and
    report.html, which opens offline, into a new directory below --out. Exit code 0 only if every run gave an answer.

    Examples:
    layerlab compare --quick
    layerlab compare --models sovereign,optimistic --seed 42 --json
    """
    names = _models(models)
    planned = plan.jobs(names, EXPERIMENTS)
    try:
        kept = results.Results.create(out)
    except results.ResultsError as error:
        raise typer.BadParameter(str(error)) from None
    begin = time.monotonic()
    records: list[runner.Record] = []
    settings = runner.Settings(seed, measure.QUICK if quick else measure.FULL, jobs, EXPERIMENTS)
    session.on_interrupt = f"nothing is left running; what was measured is in {kept.directory}"
    stopped = _Stopped()
    try:
        with stopped, _Progress(session, planned, kept, records) as progress:
            await runner.run_all(planned, settings, progress)
    except asyncio.CancelledError:
        _write(kept, records, planned)
        if not stopped.terminated:
            raise
        print(f"terminated; {session.on_interrupt}", file=sys.stderr)
        raise typer.Exit(TERMINATED) from None
    except results.ResultsError as error:
        raise CommandError(f"{error}; nothing is left running", "results") from None
    document = _write(kept, records, planned)
    document |= {"seconds": round(time.monotonic() - begin, 1), "directory": str(kept.directory)}
    session.out.result(document, lambda: _show(session, kept, records, planned, begin))
    unknown = [
        f"{r['experiment'] or r['kind']} on {r['model']}" for r in records if r["verdict"] == table.UNKNOWN
    ]
    if unknown:
        count = f"{len(unknown)} of {len(planned)} runs gave no answer"
        print(f"layerlab compare: {count}: {', '.join(unknown)}", file=sys.stderr)
        raise typer.Exit(1)


def _write(
    kept: results.Results, records: Sequence[runner.Record], planned: Sequence[plan.Job]
) -> dict[str, Any]:
    """The table and the page, of what there is so far; the whole as one JSON-able document."""
    filled = table.build(records, plan.by_model(planned))
    rows = table.csv_rows(filled)
    kept.write(results.TABLE, results.csv_text(rows))
    kept.write(results.PAGE, report.page(filled, records, missing_runs=len(planned) - len(records)))
    return {
        "table": [dict(zip(rows[0], row, strict=True)) for row in rows[1:]],
        "empty": table.empty_cells(filled),
        "runs": list(records),
    }


# --- the table on a terminal ---


def _show(
    session: Session,
    kept: results.Results,
    records: Sequence[runner.Record],
    planned: Sequence[plan.Job],
    begin: float,
) -> None:
    console = session.out.console
    filled, width = table.build(records, plan.by_model(planned)), min(WIDTH, console.width)
    for part in table.with_overview(filled):
        console.print(_heading(part))
        console.print(_grid(part), soft_wrap=False, width=width)
        for line in part.assumptions:
            console.print(Text(f"assumed · {line}", style="dim"), width=width, soft_wrap=False)
    for line in table.empty_cells(filled):
        session.out.say(Text(f"empty  {line}", style="yellow"))
    verdicts = Counter(record["verdict"] for record in records)
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    session.out.say(
        f"\n{len(records)} runs in {duration(time.monotonic() - begin)}: {said}; each with its cells:"
    )
    session.out.say(Text(str(kept.directory / results.PAGE), style="bold"))


def _heading(part: table.Filled) -> Text:
    section = part.section
    title = section.title if section.title == section.group else f"{section.group}: {section.title}"
    return Text(f"\n{title}", style="bold") + Text(f"  {section.about}", style="not bold")


def _grid(part: table.Filled) -> RenderableType:
    apart = 1 if len(part.section.columns) > 6 else 2
    grid = Table(box=None, padding=(0, apart, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column("", no_wrap=True, min_width=10)
    tried = part.section.tried
    for column in part.section.columns:
        side: Any = "left" if column.words else "right"
        words = max(map(len, column.title.split()))  # none of them is broken
        grid.add_column(f"{column.title}\n{column.unit}", justify=side, overflow="fold", min_width=words)
    if tried:
        grid.add_column("\nverdict", no_wrap=True)
    for row in part.rows:
        cells = [Text(cell.text) for cell in row.cells]
        grid.add_row(row.model, *cells, *([_verdict(row)] if tried else []))
    return grid


def _verdict(row: table.Row) -> Text:
    style = {"confirmed": "green", "refuted": "red", table.UNKNOWN: "yellow"}.get(row.verdict, "dim")
    return Text(row.verdict or "-", style=style)


# --- while it runs ---


class _Stopped:
    """SIGTERM ends the verb as Ctrl-C does: what runs is ended first."""

    terminated = False

    def __enter__(self) -> Self:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def stop() -> None:
            self.terminated = True
            if task is not None:
                task.cancel()

        loop.add_signal_handler(signal.SIGTERM, stop)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


class _Progress:
    """What runs now, how many are done, how long it has taken; keeps each record the moment it is there.

    On stderr, so that a table or JSON can go elsewhere: a live display on a terminal, else a line at each end.
    """

    def __init__(
        self,
        session: Session,
        planned: Sequence[plan.Job],
        kept: results.Results,
        records: list[runner.Record],
    ) -> None:
        self._planned, self._kept, self._records = planned, kept, records
        self._console: Console = session.out.error_console
        self._now: dict[plan.Job, str] = {}
        self._begin = time.monotonic()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._shown, console=self._console, refresh_per_second=4, transient=True
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, job: plan.Job) -> None:
        self._now[job] = "starting"
        if self._live is None:
            self._line(f"{self._counts()}  {job.title} ...")

    def says(self, job: plan.Job, line: str) -> None:
        if job in self._now:
            self._now[job] = line

    def ended(self, job: plan.Job, record: runner.Record) -> None:
        self._now.pop(job, None)
        self._records.append(record)
        self._kept.append(record)
        good = record["verdict"] in ("confirmed", "measured")
        mark = Text("ok " if good else "?? " if record["verdict"] == table.UNKNOWN else "!! ")
        mark.stylize("green" if good else "yellow")
        said = f"{self._counts()}  {job.title}: {record['verdict']} in {record['seconds']:.0f} s"
        self._console.print(mark + Text(said + (f": {record['error']}" if record["error"] else "")))

    def _line(self, line: str) -> None:
        self._console.print(Text(line, style="dim"))

    def _counts(self) -> str:
        return f"{len(self._records)} of {len(self._planned)}, {duration(time.monotonic() - self._begin)}"

    def _shown(self) -> RenderableType:
        lines = [Text(f"{self._counts()}", style="bold")]
        for job, line in self._now.items():
            row = Text(f"  {job.title}  ", style="cyan") + Text(line, style="dim")
            row.truncate(max(20, self._console.width - 1), overflow="ellipsis")
            lines.append(row)
        return Group(*lines)
