"""The command line: ``python -m benchmarks`` and ``python -m benchmarks table``.

Responsible for options, progress and exit codes. Must not know any benchmark.

Exit codes: 0 every benchmark ran (or was skipped, which is said), 1 one did not run, 2 wrong usage, 130 Ctrl-C.
No timing ever changes the exit code.
"""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from benchmarks import runner
from benchmarks.table import HERE, PAGE, REFERENCE, TableError, read, table, write_page
from layerlab.cli.ending import ended_like_ctrl_c

INTERRUPTED: Final = 130
_console = Console(stderr=True, highlight=False)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure the running services beside the machine's limits.",
)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NAME", help=f"Only this one (again for more): {', '.join(runner.NAMES)}."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Append the result lines here (default: results/)."),
    ] = None,
    repeat: Annotated[
        int | None, typer.Option("--repeat", min=1, max=25, help="How often (3; 1 with --quick).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="In miniature: only whether each runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result lines and nothing else.")] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, max=64, help="Pass --workers to rollup nodes (default: theirs)."),
    ] = None,
) -> None:
    """Measure; without --only everything."""
    if context.invoked_subcommand is not None:
        return
    names = list(dict.fromkeys(only or runner.NAMES))
    unknown = [name for name in names if name not in runner.NAMES]
    if unknown:
        raise typer.BadParameter(f"no benchmark {unknown[0]!r}; there are: {', '.join(runner.NAMES)}")
    path = _results_file(out, quick)
    count = repeat or (1 if quick else 3)
    began, bad = time.monotonic(), list[str]()
    try:
        with ended_like_ctrl_c():
            for line in runner.run_all(
                names, repeat=count, quick=quick, workers=workers, say=_progress(as_json)
            ):
                text = json.dumps(line)
                if path is not None:
                    _append(path, text)
                if as_json:
                    print(text, flush=True)
                else:
                    _show(line)
                if line["outcome"] == "failed":
                    bad.append(line["benchmark"])
    except KeyboardInterrupt:
        _console.print("interrupted; nothing is left running")
        raise typer.Exit(INTERRUPTED) from None
    if not as_json:
        where = "" if path is None else f"; results in {path}"
        _console.print(f"{len(names)} benchmarks in {time.monotonic() - began:.0f} s{where}", soft_wrap=True)
    if bad:
        _console.print(f"did not run: {', '.join(bad)}", style="red")
        raise typer.Exit(1)


@app.command("table")
def make_table(
    results: Annotated[Path, typer.Argument(help="Result lines.")] = REFERENCE,
    show: Annotated[
        bool, typer.Option("--print", help="Print it instead of writing docs/PERFORMANCE.md.")
    ] = False,
) -> None:
    """Make docs/PERFORMANCE.md's table from results."""
    try:
        made = table(read(results))
        if show:
            print(made, end="")
        else:
            changed = write_page(made)
            _console.print(f"{PAGE}: {'written' if changed else 'is so already'}", soft_wrap=True)
    except TableError as error:
        _console.print(str(error), style="red", soft_wrap=True)
        raise typer.Exit(1) from None


@app.command("names")
def names() -> None:
    """Name the benchmarks."""
    print("\n".join(runner.NAMES))


def _results_file(out: Path | None, quick: bool) -> Path | None:
    if out is not None:
        return out
    if quick:
        return None
    return HERE / "results" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"


def _append(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text + "\n")
    except OSError as error:
        raise typer.BadParameter(f"{str(path)!r}: {error.strerror}; give another with --out") from None


def _progress(quiet: bool) -> Any:
    begin = time.monotonic()

    def say(text: str) -> None:
        if not quiet:
            _console.print(f"[dim]{time.monotonic() - begin:6.1f} s[/]  {text}", soft_wrap=True)

    return say


def _show(line: dict[str, Any]) -> None:
    if line["outcome"] != "measured":
        style = "yellow" if line["outcome"] == "skipped" else "red"
        _console.print(f"          {line['outcome'].upper()}: {line['reason']}", style=style, soft_wrap=True)
    for name, figure in line["figures"].items():
        ratio = figure["ratio"]
        words = {"rate": "x the two-process limit", "time": "verifications"}.get(figure["kind"], "")
        beside = "" if ratio is None else f"  ({ratio:.3g} {words})"
        _console.print(
            f"          {name:18} {figure['median']:14,.3f} {figure['unit']}{beside}", soft_wrap=True
        )


def main() -> None:
    """Run the command line."""
    app()
