"""The table of a comparison: which figure of which run is which cell, and what stands beside it.

Responsible for filling `columns.SECTIONS` from records (as `runner` makes them). Must not know how a run came about,
nor how the table is drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from layerlab.lab.compare.columns import SECTIONS, Column, Record, Section, coins

UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Cell:
    """``text`` is empty if there is no figure; ``run`` if there was no run. ``value`` is for files."""

    value: Any = None
    text: str = ""
    run: str = ""


@dataclass(frozen=True)
class Row:
    """A model in a section. ``missing`` says why it is empty, if it is."""

    model: str
    cells: tuple[Cell, ...]
    run: str = ""
    source: str = ""
    verdict: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Filled:
    """A section with its rows, and what its figures rest on, one line each."""

    section: Section
    rows: tuple[Row, ...]
    assumptions: tuple[str, ...]


def build(records: Sequence[Record], planned: Mapping[str, Sequence[str]]) -> list[Filled]:
    """Fill every section. ``planned``: the experiments that there are, by model, in the order of rows."""
    runs = {(record["model"], record.get("experiment") or ""): record for record in records}
    return [_fill(section, runs, planned) for section in SECTIONS]


def _fill(
    section: Section, runs: Mapping[tuple[str, str], Record], planned: Mapping[str, Sequence[str]]
) -> Filled:
    rows, used = [], []
    for model, there in planned.items():
        source, missing = choose(section, model, there)
        record = None if missing else runs.get((model, source))
        if record is None:
            rows.append(
                Row(model, (Cell(),) * len(section.columns), source=source, missing=missing or "not run")
            )
            continue
        used.append(record)
        cells = tuple(_cell(column, record) for column in section.columns)
        verdict = str(record["verdict"])
        missing = str(record.get("error") or "no answer") if verdict == UNKNOWN else ""
        rows.append(Row(model, cells, str(record["run"]), source, verdict, missing))
    return Filled(section, tuple(rows), tuple(filter(None, (rests_on(section, record) for record in used))))


def choose(section: Section, model: str, there: Sequence[str]) -> tuple[str, str]:
    """The experiment that fills a section for a model (empty: the workload), and why none does, if so."""
    candidates = section.candidates(model)
    if not candidates:
        return "", ""
    for name in candidates:
        if name in there:
            return name, ""
    return "", f"there is no {' or '.join(candidates)} for {model}"


def _cell(column: Column, record: Record) -> Cell:
    run = str(record["run"])
    value = None if record["verdict"] == UNKNOWN else column.find(record)
    return Cell(run=run) if value is None else Cell(value, column.show(value), run)


_ASSUMED: Final[Mapping[str, Callable[[Any], str]]] = {
    "agents": lambda n: f"{n} agents",
    "rounds": lambda n: f"{n} calls each",
    "l1_validators": lambda n: f"{n} L1 validator{'s' * (n != 1)}",
    "side_validators": lambda n: f"{n} side validators",
    "operators": lambda n: f"{n} bridge operators",
    "threshold": lambda n: f"{n} of them move the money",
    "l1_slot_ms": lambda n: f"L1 slots of {n} ms",
    "l2_block_ms": lambda n: f"L2 blocks of {n} ms",
    "side_slot_ms": lambda n: f"side slots of {n} ms",
    "challenge_window_l1_blocks": lambda n: f"challenge window {n} L1 blocks",
    "inclusion_delay_l1_blocks": lambda n: f"inclusion delay {n}",
    "escape_timeout_l1_blocks": lambda n: f"escape timeout {n}",
    "exit_window_l1_blocks": lambda n: f"exit window {n}",
    "stake_per_validator_gwei": lambda n: f"stake {coins(n)} coins a validator",
    "proposer_bond_gwei": lambda n: f"bond {coins(n)} coins a batch",
    "challenger_bond_gwei": lambda n: f"{coins(n)} a dispute",
    "app_base_fee_gwei": lambda n: f"base fee from {n} gwei per gas on",
    "l1_base_fee_gwei": lambda n: f"L1's from {n}",
    "app_gas_per_byte": lambda n: f"{n} gas a byte",
    "l1_gas_per_byte": lambda n: f"L1's {n}",
}


def rests_on(section: Section, record: Record) -> str:
    """What a section's figures of one run rest on, in a line; empty if nothing is known of it."""
    given = record.get("assumptions") or {}
    said = [
        show(given[name]) for name, show in _ASSUMED.items() if name in section.rests_on and name in given
    ]
    return f"{record['model']}: {', '.join(said)}" if said else ""


def csv_rows(filled: Sequence[Filled]) -> list[list[Any]]:
    """Models as rows. Each column is followed by one that has the id of the run behind it; risks have a verdict."""
    heads: list[Any] = ["model"]
    for part in filled:
        for column in part.section.columns:
            heads += [column.key, f"{column.key}.run"]
        if part.section.tried:
            heads += [f"{part.section.key}.experiment", f"{part.section.key}.verdict"]
    models = [row.model for row in filled[0].rows]
    return [heads, *(_csv_row(filled, i, model) for i, model in enumerate(models))]


def _csv_row(filled: Sequence[Filled], i: int, model: str) -> list[Any]:
    fields: list[Any] = [model]
    for part in filled:
        row = part.rows[i]
        for cell in row.cells:
            fields += [cell.value, cell.run or None]
        if part.section.tried:
            fields += [row.source or None, row.verdict or None]
    return fields


def empty_cells(filled: Sequence[Filled]) -> list[str]:
    """Which rows have no figures, and why; one line each."""
    return [
        f"{part.section.title}, {row.model}: {row.missing}"
        for part in filled
        for row in part.rows
        if row.missing
    ]


def overview(filled: Sequence[Filled]) -> Filled:
    """All risks at a glance: what is recovered, and in brackets what is in the control."""
    risks = [part for part in filled if part.section.group == "risks"]
    columns = tuple(
        Column(part.section.key, part.section.title, "%", _nothing, str, part.section.about) for part in risks
    )
    models = [row.model for row in risks[0].rows] if risks else []
    rows = tuple(Row(model, tuple(_brief(part.rows[i]) for part in risks)) for i, model in enumerate(models))
    about = "of what is at risk, how much its owners have in the end (in the negative control)"
    return Filled(Section("risks", "risks", "recovered", about, columns), rows, ())


def with_overview(filled: Sequence[Filled]) -> list[Filled]:
    """All sections, and the risks at a glance before the first of those."""
    first = next((i for i, part in enumerate(filled) if part.section.group == "risks"), len(filled))
    return [*filled[:first], overview(filled), *filled[first:]]


def _nothing(_: Record) -> None:
    return None


def _brief(row: Row) -> Cell:
    held, control = row.cells[0], row.cells[1]
    if not held.text:
        return Cell(run=row.run)
    mark = "" if row.verdict == "confirmed" else " !"
    return Cell(held.value, f"{held.text} ({control.text}){mark}", row.run)
