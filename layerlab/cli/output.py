"""What the commands print: tables and lines for people, one JSON value for programs.

Responsible for stdout, stderr and the live display. Must not know what is shown.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from layerlab.cli.amounts import show_amount

WAIT_STYLE: Final = "cyan"
PIPE_WIDTH: Final = 240
"""Characters of a line where no terminal says how many: nothing is cut off in a file or a pipe."""


class Output:
    """Where a command prints. With ``as_json`` stdout gets one JSON value and nothing else."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        # Made at each command: tests and pipes replace sys.stdout.
        # On a terminal lines break between words; what goes into a pipe does not break at all.
        self._folds = sys.stdout.isatty()
        width = None if self._folds else PIPE_WIDTH
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=not self._folds, width=width)
        folds = sys.stderr.isatty()
        self.error_console = Console(file=sys.stderr, highlight=False, soft_wrap=not folds)

    # --- results ---

    def result(self, value: Any, show: Callable[[], object]) -> None:
        """The command's result: ``value`` as JSON, or what ``show`` prints."""
        if self.as_json:
            self.json(value)
        else:
            show()

    def json(self, value: Any) -> None:
        """One JSON value on stdout."""
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        sys.stdout.flush()

    def json_line(self, value: Any) -> None:
        """One JSON value on one line, for streams."""
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    def say(self, line: RenderableType, *, whole: bool = False) -> None:
        """A line for people (markup allowed); silent with ``--json``. ``whole``: to be copied, so it has no break."""
        if not self.as_json:
            self.console.print(line, soft_wrap=True if whole else None)

    def note(self, line: str) -> None:
        """A remark beside the result, on stderr; silent with ``--json``."""
        if not self.as_json:
            self.error_console.print(Text(line, style="dim"))

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()
    ) -> None:
        """A plain table; columns named in ``right`` are right-aligned."""
        table = Table(
            box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False, show_header=any(columns)
        )
        cells = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
        widths = [max([len(name), *(row[i].cell_len for row in cells)]) for i, name in enumerate(columns)]
        for i, name in enumerate(columns):
            # Where there is too little room only the widest column gives way, and goes on in the next line.
            widest = widths[i] == max(widths)
            side: Literal["left", "right"] = "right" if name in right else "left"
            least = None if widest else widths[i]
            table.add_column(name, justify=side, no_wrap=not widest, overflow="fold", min_width=least)
        for row in cells:
            table.add_row(*row)
        self.console.print(table, soft_wrap=False)

    def fields(self, pairs: Mapping[str, Any]) -> None:
        """Names and values, one pair a line; pairs whose value is None or empty are left out.

        A value that takes several lines stands below itself.
        """
        shown = {name: value for name, value in pairs.items() if value not in (None, "", [], {})}
        width = max((len(name) for name in shown), default=0)
        room = self.console.width - width - 2 if self._folds else None
        for name, value in shown.items():
            text = value if isinstance(value, Text) else Text(str(value))
            lines = text.split("\n") if room is None else text.wrap(self.console, max(room, 1))
            for i, line in enumerate(lines):
                line.rstrip()
                self.console.print(Text(f"{'' if i else name:<{width}}  ", style="dim") + line)

    # --- waiting ---

    def waiting(self) -> "Waiting":
        """A display for something that takes time."""
        return Waiting(self)


class Waiting:
    """Says what is waited for: a live line on a terminal, a line at each change elsewhere, nothing for JSON.

    With ``--json`` the display goes to stderr if that is a terminal.
    """

    def __init__(self, output: Output) -> None:
        console = output.error_console if output.as_json else output.console
        self._console = console
        self._quiet = output.as_json and not console.is_terminal
        self._last = ""
        self._line: Text = Text("")
        self._spinner = Spinner("dots", style=WAIT_STYLE)
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                get_renderable=self._shown, console=console, refresh_per_second=8, transient=True
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._line = Text("")
            self._live.stop()

    def _shown(self) -> RenderableType:
        if not self._line.plain:
            return Text("")
        row = Table.grid(padding=(0, 1))
        row.add_row(self._spinner, self._line)
        return row

    def now(self, what: str, counting: str = "", *, every: str | None = None) -> None:
        """What is waited for. ``counting`` changes all the time: elsewhere than on a terminal it is printed
        with ``what`` when that changes, or ``every`` does."""
        self._line = Text(what, style=WAIT_STYLE) + Text(f"  {counting}" if counting else "", style="dim")
        key = f"{what} {every or ''}"
        if self._live is None and not self._quiet and key != self._last:
            self._console.print(Text(what + (f"  {counting}" if counting else "")))
        self._last = key

    def done(self, line: str) -> None:
        """Something that is over: stays on the screen."""
        if not self._quiet:
            self._console.print(Text("✓ ", style="green") + Text(line))

    def trouble(self, line: str) -> None:
        """Something that went wrong, though not for good."""
        if not self._quiet:
            self._console.print(Text("! ", style="yellow") + Text(line))


def short(value: str | None, keep: int = 10) -> str:
    """A long hex string, cut; for tables only."""
    text = value or ""
    return text if len(text) <= keep + 4 else text[: keep + 2] + "…"


def person(who: Any) -> str:
    """Somebody as the services show them: by name if there is one."""
    if isinstance(who, Mapping):
        return str(who.get("name") or short(str(who.get("address", ""))))
    return short(str(who)) if who else ""


def duration(seconds: float) -> str:
    """``45 s``, ``2 min 5 s``, ``1 h 3 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def blocks(count: int) -> str:
    return f"{count} block" + ("" if count == 1 else "s")


__all__ = ["Output", "Waiting", "blocks", "duration", "person", "short", "show_amount"]
