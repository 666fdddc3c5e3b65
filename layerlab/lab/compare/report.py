"""The page of a comparison: one HTML file that opens offline, every cell a link to the run behind it.

Responsible for what the page holds and for the geometry of its charts; `page.jinja` has its shape. Must not know how
anything was measured. Whatever comes from a run is escaped by the template.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from layerlab.lab.compare.columns import Column, Record
from layerlab.lab.compare.table import UNKNOWN, Cell, Filled, Row, empty_cells, with_overview
from layerlab.models import MODELS

BAR_LEFT: Final = 84
BAR_WIDTH: Final = 190
BAR_HEIGHT: Final = 18
BAR_STEP: Final = 26
CHARTS_OF: Final = ("users", "economics", "burden")
NOT_DRAWN: Final = ("processes_l1", "locked_l1_coins", "operators_margin_gwei", "burned_gwei")


@dataclass(frozen=True)
class Bar:
    """``width`` and ``y`` in the chart's own units. ``tone`` is the model's number; ``control``: unprotected."""

    label: str
    text: str
    run: str
    y: int
    width: float
    tone: int
    control: bool = False


@dataclass(frozen=True)
class Chart:
    title: str
    unit: str
    bars: tuple[Bar, ...]

    @property
    def height(self) -> int:
        return max(1, len(self.bars)) * BAR_STEP


def page(filled: Sequence[Filled], records: Sequence[Record], *, missing_runs: int = 0) -> str:
    """The whole page. ``missing_runs``: how many planned runs there is no record of."""
    return _template().render(
        parts=with_overview(filled),
        charts=defaultdict(list, {**_figure_charts(filled), "risks": _risk_charts(filled)}),
        runs=[_run(record) for record in records],
        about={model: MODELS[model].about for model in _models(filled) if model in MODELS},
        empty=empty_cells(filled),
        missing_runs=missing_runs,
        facts=_facts(records),
        bar_left=BAR_LEFT,
        bar_height=BAR_HEIGHT,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("layerlab.lab.compare", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _plain
    return environment.get_template("page.jinja")


def _models(filled: Sequence[Filled]) -> list[str]:
    return [row.model for row in filled[0].rows] if filled else []


# --- charts ---


def _figure_charts(filled: Sequence[Filled]) -> dict[str, list[Chart]]:
    """By section, one for each figure: a bar a model."""
    return {part.section.key: list(_section_charts(part)) for part in filled if part.section.key in CHARTS_OF}


def _section_charts(part: Filled) -> Iterator[Chart]:
    for i, column in enumerate(part.section.columns):
        chart = _chart(column, [(row, row.cells[i]) for row in part.rows])
        if column.key not in NOT_DRAWN and any(bar.width for bar in chart.bars):
            yield chart


def _chart(column: Column, cells: Sequence[tuple[Row, Cell]]) -> Chart:
    most = max((float(cell.value) for _, cell in cells if _is_number(cell.value)), default=0.0)
    bars = tuple(
        Bar(row.model, cell.text or "no figure", cell.run, i * BAR_STEP, _width(cell.value, most), i)
        for i, (row, cell) in enumerate(cells)
    )
    return Chart(column.title, column.unit, bars)


def _risk_charts(filled: Sequence[Filled]) -> list[Chart]:
    """One for each risk that was tried."""
    charts = [_risk_chart(part) for part in filled if part.section.group == "risks"]
    return [chart for chart in charts if any(bar.run for bar in chart.bars)]


def _risk_chart(part: Filled) -> Chart:
    """For each model what is recovered, and under it the same in the control."""
    bars: list[Bar] = []
    for tone, row in enumerate(part.rows):
        for control in (False, True):
            cell = row.cells[1 if control else 0]
            text = f"{cell.text} %" if cell.text else "no figure"
            y, width = len(bars) * BAR_STEP, _width(cell.value, 100.0)
            bars.append(Bar("" if control else row.model, text, cell.run, y, width, tone, control))
    return Chart(part.section.title, "% recovered", tuple(bars))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _width(value: Any, most: float) -> float:
    return round(BAR_WIDTH * max(0.0, float(value)) / most, 1) if _is_number(value) and most > 0 else 0.0


# --- runs ---


def _run(record: Record) -> dict[str, Any]:
    """A record as the page shows it."""
    return {
        "id": record["run"],
        "title": f"{record.get('experiment') or 'workload'} on {record['model']}",
        "verdict": record["verdict"],
        "unknown": record["verdict"] == UNKNOWN,
        "error": record.get("error") or "",
        "question": record.get("question") or "",
        "hypothesis": record.get("hypothesis") or "",
        "control": record.get("control") or "",
        "trials": [_trial(trial) for trial in record.get("trials") or ()],
        "measured": {name: _flat(found) for name, found in (record.get("measured") or {}).items()},
        "assumptions": _flat(record.get("assumptions") or {}),
        "facts": {
            name: record[name]
            for name in ("seed", "commit", "started", "seconds")
            if record.get(name) is not None
        },
        "raw": json.dumps(record, indent=1),
    }


def _trial(trial: Mapping[str, Any]) -> dict[str, Any]:
    held = trial.get("held")
    return {
        "name": "control" if trial.get("control") else "trial",
        "verdict": "no answer" if held is None else "held" if held else "did not hold",
        "told": trial.get("told") or trial.get("error") or "",
        "outcome": _flat(trial.get("outcome") or {}),
        "measured": _flat(trial.get("measured") or {}),
        "seconds": trial.get("seconds"),
    }


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested names joined by blanks, underscores as blanks."""
    flat: dict[str, Any] = {}
    for name, found in value.items():
        words = f"{before} {name}".strip().replace("_", " ")
        if isinstance(found, Mapping):
            flat |= _flat(found, words)
        else:
            flat[words] = found
    return flat


def _plain(value: Any) -> str:
    """A value for people: figures in groups of three."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _facts(records: Sequence[Record]) -> dict[str, Any]:
    """What all runs have in common."""
    if not records:
        return {}
    first = records[0]
    machine, versions = first.get("machine") or {}, first.get("versions") or {}
    found = {
        "commit": first.get("commit"),
        "seed": first.get("seed"),
        "machine": ", ".join(
            str(part)
            for part in (
                machine.get("cores") and f"{machine['cores']} cores",
                machine.get("processor"),
                machine.get("system"),
            )
            if part
        ),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}
