"""The table of a comparison: which figure of which run is which cell.

Responsible for the columns, their units, the experiment that fills each, and what stands beside them. Must not know how
a run came about, nor how the table is drawn: records in (as `runner` makes them), cells out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Record = Mapping[str, Any]
COIN: Final = 1_000_000_000
UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Column:
    """``key`` names it in files, its unit included; ``title`` heads it in a section; ``unit`` as people read it.

    ``find`` takes the value out of a record, None if it is not there. ``better``: which way is good, for charts.
    """

    key: str
    title: str
    unit: str
    find: Callable[[Record], Any]
    show: Callable[[Any], str]
    about: str = ""
    words: bool = False


@dataclass(frozen=True)
class Section:
    """Columns that belong together, filled by one run each model. ``sources``: the experiments that may fill it, the
    first that is for the model; none: the workload does."""

    key: str
    group: str
    title: str
    about: str
    columns: tuple[Column, ...]
    sources: tuple[str, ...] = ()
    by_model: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def tried(self) -> bool:
        """Whether experiments fill it, and so a verdict belongs to it."""
        return bool(self.sources or self.by_model)

    def candidates(self, model: str) -> tuple[str, ...]:
        """The experiments that may fill it for a model, in order."""
        return self.by_model.get(model, self.sources)


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


# --- finding and showing ---


def _at(*path: str) -> Callable[[Record], Any]:
    def find(record: Record) -> Any:
        value: Any = record
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    return find


def _trial(control: bool, *path: str) -> Callable[[Record], Any]:
    def find(record: Record) -> Any:
        for trial in record.get("trials") or ():
            if trial.get("control") is control:
                return _at(*path)(trial)
        return None

    return find


def _digits(places: int) -> Callable[[Any], str]:
    return lambda value: f"{value:,.{places}f}".replace(",", " ")


def _whole(value: Any) -> str:
    return f"{value:,}".replace(",", " ")


def _coins(value: Any) -> str:
    coins = value / COIN
    return f"{coins:,.0f}".replace(",", " ") if coins == int(coins) else f"{coins:,.4f}"


def _scaled(find: Callable[[Record], Any], factor: float, places: int) -> Callable[[Record], Any]:
    def scaled(record: Record) -> Any:
        value = find(record)
        return None if value is None else round(value * factor, places)

    return scaled


def _exit(record: Record) -> Any:
    users = _at("measured", "users")(record) or {}
    return users.get("exit_seconds") if users.get("exit_seconds") is not None else users.get("exit")


def _show_exit(value: Any) -> str:
    return value if isinstance(value, str) else _digits(1)(value)


_SECONDS: Final = _digits(2)
_ONE: Final = _digits(1)

_USERS: Final = (
    *(
        Column(key, title, unit, _at("measured", "users", name), show, about)
        for key, title, unit, name, show, about in (
            ("transactions_per_s", "transactions", "1/s", "transactions_per_second", _ONE, "this workload's"),
            (
                "soft_latency_p50_s",
                "soft p50",
                "s",
                "soft_p50",
                _SECONDS,
                "until it is in a block of the head",
            ),
            ("soft_latency_p95_s", "soft p95", "s", "soft_p95", _SECONDS, ""),
            ("final_latency_p50_s", "final p50", "s", "final_p50", _SECONDS, "until nobody can undo it"),
            ("final_latency_p95_s", "final p95", "s", "final_p95", _SECONDS, ""),
            ("fee_per_call_gwei", "fee per call", "gwei", "fee_per_call", _whole, "of all its transactions"),
        )
    ),
    Column("time_to_exit_s", "time to exit", "s", _exit, _show_exit, "until paid and final on L1"),
)
_ECONOMICS: Final = tuple(
    Column(key, title, unit, _at("measured", "economics", name), show, about)
    for key, title, unit, name, show, about in (
        (
            "fees_ending_at_l1_percent",
            "fees ending at L1",
            "%",
            "l1_share_percent",
            _digits(2),
            "operators' L1 fees",
        ),
        (
            "l1_bytes_per_transaction",
            "L1 bytes per transaction",
            "bytes",
            "l1_bytes_per_transaction",
            _ONE,
            "",
        ),
        ("operators_margin_percent", "operators' margin", "%", "margin_percent", _ONE, "of the users' fees"),
        ("operators_margin_gwei", "operators' margin", "gwei", "margin", _whole, "income less L1's fees"),
        ("burned_gwei", "burned", "gwei", "burned", _whole, "base fees that nobody gets"),
    )
)
_BURDEN: Final = (
    Column("processes_own", "processes", "own", _at("measured", "burden", "processes_own"), _whole),
    Column("processes_l1", "processes", "L1", _at("measured", "burden", "processes_l1"), _whole),
    Column(
        "locked_own_coins", "locked", "coins", _scaled(_at("measured", "burden", "locked_own"), 1e-9, 4), _ONE
    ),
    Column(
        "locked_l1_coins", "by L1", "coins", _scaled(_at("measured", "burden", "locked_l1"), 1e-9, 4), _ONE
    ),
    Column(
        "cpu_s_per_1000_transactions",
        "CPU per 1000",
        "s",
        _at("measured", "burden", "cpu_seconds_per_1000"),
        _SECONDS,
        "over all machines, less what they use when idle",
    ),
    Column(
        "stored_mb_per_1000_transactions",
        "stored per 1000",
        "MB",
        _scaled(_at("measured", "burden", "bytes_per_1000"), 1e-6, 3),
        _SECONDS,
        "over all data directories, less what grows when idle",
    ),
    Column(
        "idle_cpu_percent_of_a_core",
        "idle CPU",
        "% of a core",
        _at("measured", "burden", "idle_cpu_percent"),
        _ONE,
        "all processes together",
    ),
)


def _outcome(prefix: str) -> tuple[Column, ...]:
    return (
        Column(
            f"{prefix}_recovered_percent",
            "recovered",
            "%",
            _trial(False, "outcome", "recovered_percent"),
            _whole,
        ),
        Column(
            f"{prefix}_control_recovered_percent",
            "unprotected",
            "%",
            _trial(True, "outcome", "recovered_percent"),
            _whole,
            "the same in the negative control",
        ),
        Column(
            f"{prefix}_time_s", "time", "s", _trial(False, "outcome", "seconds"), _ONE, "of the chain's clock"
        ),
        Column(
            f"{prefix}_attacker_paid_coins",
            "attacker paid",
            "coins",
            _scaled(_trial(False, "outcome", "attacker_paid"), 1e-9, 6),
            _ONE,
        ),
        Column(
            f"{prefix}_online",
            "who had to be online",
            "",
            _trial(False, "outcome", "online"),
            str,
            words=True,
        ),
    )


def _risk(key: str, title: str, about: str, *sources: str, **by_model: tuple[str, ...]) -> Section:
    return Section(key, "risks", title, about, _outcome(key), sources, by_model)


SECTIONS: Final = (
    Section("users", "users", "users", "what those who use it get", _USERS),
    Section("economics", "economics", "economics", "where the users' fees end", _ECONOMICS),
    Section("burden", "burden", "burden", "what it takes to run it", _BURDEN),
    _risk(
        "sequencer_failure",
        "sequencer failure",
        "who orders transactions leaves one user out",
        "operator-censors",
        "operator-disappears",
    ),
    _risk(
        "state_validation",
        "state validation",
        "who runs the chain states what is not true",
        "operator-steals",
        "committee-colludes",
        "double-spend",
        sidechain=("committee-colludes", "operator-steals", "double-spend"),
        sovereign=("double-spend", "operator-steals"),
    ),
    _risk("data_availability", "data availability", "everything above L1 is deleted", "burn-down"),
    _risk(
        "exit_window", "exit window", "the rules change against the users", "malicious-upgrade", "rule-change"
    ),
    _risk(
        "proposer_failure",
        "proposer failure",
        "who posts or proposes is gone for good",
        "operator-disappears",
    ),
    _risk("stake_failure", "L1 liveness", "a third of the stake goes silent", "third-of-stake-stops"),
    Section(
        "sovereignty",
        "sovereignty",
        "sovereignty",
        "which rules the operator can change alone, and how fast",
        (
            Column(
                "rule_change_in_force_s", "in force after", "s", _trial(False, "outcome", "seconds"), _ONE
            ),
            Column(
                "rule_change_left_in_time_percent",
                "could leave first",
                "%",
                _trial(False, "outcome", "recovered_percent"),
                _whole,
            ),
            Column("rule_change_seen", "what was seen", "", _trial(False, "told"), str, words=True),
        ),
        ("rule-change",),
    ),
)


# --- the table ---


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
    return Filled(section, tuple(rows), tuple(dict.fromkeys(filter(None, map(rests_on, used)))))


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
    "l1_validators": lambda n: f"{n} L1 validators",
    "l1_slot_ms": lambda n: f"L1 slots of {n} ms",
    "l2_block_ms": lambda n: f"L2 blocks of {n} ms",
    "side_validators": lambda n: f"{n} side validators",
    "side_slot_ms": lambda n: f"side slots of {n} ms",
    "operators": lambda n: f"{n} bridge operators",
    "challenge_window_l1_blocks": lambda n: f"a challenge window of {n} L1 blocks",
    "stake_per_validator_gwei": lambda n: f"a stake of {_coins(n)} coins each",
    "proposer_bond_gwei": lambda n: f"a proposer's bond of {_coins(n)} a batch",
    "challenger_bond_gwei": lambda n: f"a challenger's of {_coins(n)}",
}


def rests_on(record: Record) -> str:
    """A run's assumptions in a line; empty if it has none."""
    given = record.get("assumptions") or {}
    said = [show(given[name]) for name, show in _ASSUMED.items() if name in given]
    settings = given.get("bridge_settings") or {}
    names = ("challenge_window", "inclusion_delay", "escape_timeout", "exit_window")
    said += [f"{name} {settings[name]} L1 blocks" for name in names if name in settings]
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
