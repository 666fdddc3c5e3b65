"""The columns of a comparison: their names and units, where each figure is in a record, and which experiment fills it.

Responsible for that mapping, `SECTIONS`. Must not know how a run came about, nor how a table is made of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Record = Mapping[str, Any]
COIN: Final = 1_000_000_000


@dataclass(frozen=True)
class Column:
    """``key`` names it in files, its unit included; ``title`` heads it in a section; ``unit`` as people read it.

    ``find`` takes the value out of a record, None if it is not there; ``show`` makes it text. ``words``: it is text.
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
    first that is for the model; none: the workload does. ``rests_on``: the assumptions that stand beside it."""

    key: str
    group: str
    title: str
    about: str
    columns: tuple[Column, ...]
    rests_on: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    by_model: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def tried(self) -> bool:
        """Whether experiments fill it, and so a verdict belongs to it."""
        return bool(self.sources or self.by_model)

    def candidates(self, model: str) -> tuple[str, ...]:
        """The experiments that may fill it for a model, in order."""
        return self.by_model.get(model, self.sources)


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


def coins(value: int) -> str:
    """Gwei as coins."""
    whole, rest = divmod(value, COIN)
    return f"{whole:,}".replace(",", " ") + (f".{rest:09}".rstrip("0") if rest else "")


def _scaled(find: Callable[[Record], Any], factor: float, places: int) -> Callable[[Record], Any]:
    def scaled(record: Record) -> Any:
        value = find(record)
        return None if value is None else round(value * factor, places)

    return scaled


def _exit(record: Record) -> Any:
    users = _at("measured", "users")(record) or {}
    return users.get("exit_s") if users.get("exit_s") is not None else users.get("exit")


def _seconds(record: Record) -> Any:
    """A trial that has an outcome without an instant says that it never came about."""
    outcome = _trial(False, "outcome")(record)
    if not isinstance(outcome, Mapping):
        return None
    return "never" if outcome.get("seconds") is None else outcome["seconds"]


def _show_seconds(value: Any) -> str:
    return value if isinstance(value, str) else _digits(1)(value)


_SECONDS: Final = _digits(2)
_ONE: Final = _digits(1)

_USERS: Final = (
    *(
        Column(key, title, unit, _at("measured", "users", name), show, about)
        for key, title, unit, name, show, about in (
            ("transfers_per_s", "transfers", "1/s", "transfers_per_second", _ONE, "sent at once"),
            (
                "calls_transactions_per_s",
                "of calls",
                "1/s",
                "transactions_per_second",
                _ONE,
                "each waits its turn",
            ),
            (
                "soft_latency_p50_s",
                "soft p50",
                "s",
                "soft_p50_s",
                _SECONDS,
                "until it is in a block of the head",
            ),
            ("soft_latency_p95_s", "soft p95", "s", "soft_p95_s", _SECONDS, ""),
            ("final_latency_p50_s", "final p50", "s", "final_p50_s", _SECONDS, "until nobody can undo it"),
            ("final_latency_p95_s", "final p95", "s", "final_p95_s", _SECONDS, ""),
            (
                "fee_per_call_gwei",
                "fee per call",
                "gwei",
                "fee_per_call_gwei",
                _whole,
                "of all its transactions",
            ),
        )
    ),
    Column("time_to_exit_s", "time to exit", "s", _exit, _show_seconds, "until paid and final on L1"),
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
        (
            "operators_margin_gwei",
            "operators' margin",
            "gwei",
            "margin_gwei",
            _whole,
            "income less L1's fees",
        ),
        ("burned_gwei", "burned", "gwei", "burned_gwei", _whole, "base fees that nobody gets"),
    )
)
_BURDEN: Final = (
    Column("processes_own", "processes", "own", _at("measured", "burden", "processes_own"), _whole),
    Column("processes_l1", "processes", "L1", _at("measured", "burden", "processes_l1"), _whole),
    Column(
        "locked_own_coins",
        "locked",
        "coins",
        _scaled(_at("measured", "burden", "locked_own_gwei"), 1e-9, 4),
        _ONE,
    ),
    Column(
        "locked_l1_coins",
        "by L1",
        "coins",
        _scaled(_at("measured", "burden", "locked_l1_gwei"), 1e-9, 4),
        _ONE,
    ),
    Column(
        "cpu_s_per_1000_transactions",
        "CPU per 1000",
        "s",
        _at("measured", "burden", "cpu_s_per_1000_transactions"),
        _SECONDS,
        "over all machines, less what they use when idle",
    ),
    Column(
        "stored_mb_per_1000_transactions",
        "stored per 1000",
        "MB",
        _scaled(_at("measured", "burden", "stored_bytes_per_1000_transactions"), 1e-6, 3),
        _SECONDS,
        "over all data directories, less what grows when idle",
    ),
    Column(
        "idle_cpu_percent_of_a_core",
        "idle CPU",
        "% of a core",
        _at("measured", "burden", "idle_cpu_percent_of_a_core"),
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
            "in the control",
            "%",
            _trial(True, "outcome", "recovered_percent"),
            _whole,
            "the same in the negative control",
        ),
        Column(f"{prefix}_time_s", "time", "s", _seconds, _show_seconds, "of the chain's clock"),
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


_PACE: Final = ("l1_slot_ms", "l2_block_ms", "side_slot_ms")
_LOAD: Final = ("agents", "rounds")
_WINDOWS: Final = (
    "l1_validators",
    "side_validators",
    "l1_slot_ms",
    "challenge_window_l1_blocks",
    "inclusion_delay_l1_blocks",
    "escape_timeout_l1_blocks",
    "exit_window_l1_blocks",
    "operators",
    "threshold",
)


def _risk(key: str, title: str, about: str, *sources: str, **by_model: tuple[str, ...]) -> Section:
    return Section(key, "risks", title, about, _outcome(key), _WINDOWS, sources, by_model)


SECTIONS: Final = (
    Section(
        "users",
        "users",
        "users",
        "what those who use it get",
        _USERS,
        (*_LOAD, *_PACE, "challenge_window_l1_blocks"),
    ),
    Section(
        "economics",
        "economics",
        "economics",
        "where the users' fees end",
        _ECONOMICS,
        (*_LOAD, "app_base_fee_gwei", "l1_base_fee_gwei", "app_gas_per_byte", "l1_gas_per_byte"),
    ),
    Section(
        "burden",
        "burden",
        "burden",
        "what it takes to run it",
        _BURDEN,
        (
            "l1_validators",
            "side_validators",
            "operators",
            *_PACE,
            "stake_per_validator_gwei",
            "proposer_bond_gwei",
            "challenger_bond_gwei",
        ),
    ),
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
    Section(
        "data_availability",
        "risks",
        "data availability",
        "everything above L1 is deleted",
        (
            *_outcome("data_availability"),
            Column(
                "data_availability_in_app_percent",
                "in apps",
                "%",
                _trial(False, "measured", "in_app_percent"),
                _whole,
                "recovered of what applications hold; the first column counts plain balances",
            ),
        ),
        _WINDOWS,
        ("burn-down",),
    ),
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
    _risk("double_spend", "double spend", "who orders shows two payees two histories", "double-spend"),
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
            Column("rule_change_who", "who decides", "", _trial(False, "measured", "who"), str, words=True),
            Column("rule_change_seen", "what was seen", "", _trial(False, "told"), str, words=True),
        ),
        _WINDOWS,
        ("rule-change",),
    ),
)
