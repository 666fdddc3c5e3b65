"""docs/PERFORMANCE.md says what the checked-in results say, and what is missed; what a figure is beside its limit."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import runner, table
from benchmarks.lab import microseconds, milliseconds, plain, rate
from benchmarks.machine import Limits
from benchmarks.targets import ROWS, SIZES, at_most_over, no_faster_than_log, times

LIMITS = Limits(18_000, 30_000, 20_000, 1_900_000, 50e-6)


def figure(median: float, unit: str = "transfers/s", ratio: float | None = None) -> dict[str, Any]:
    return {"median": median, "values": [median], "unit": unit, "kind": "rate", "ratio": ratio}


def line(benchmark: str, figures: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "outcome": "measured",
        "reason": "",
        "quick": False,
        "repeat": 3,
        "load_average": [0.5],
        "limits": LIMITS.to_json(),
        "figures": figures,
        "notes": [],
        "machine": {"cpu": "a processor", "cores": 2, "memory_bytes": 2**33, "system": "Linux"},
        "commit": "abc",
        "python": "3.11.7",
        "packages": {"pynacl": "1.6.2"},
        **changes,
    }


def verdict_of(made: str, what: str) -> str:
    (row,) = [text for text in made.splitlines() if text.startswith(f"| {what}")]
    return row.rsplit("|", 2)[1].strip()


# --- the page ---


def test_the_page_is_what_the_checked_in_results_give() -> None:
    _, made, _ = table.parts_of_page(table.PAGE.read_text())
    assert made == table.table(table.read(table.REFERENCE)), "run: python -m benchmarks table"


def test_the_checked_in_results_are_of_whole_runs() -> None:
    lines = table.read(table.REFERENCE)
    assert {line["benchmark"] for line in lines} <= set(runner.NAMES)
    assert not any(line["quick"] for line in lines)


def test_every_figure_of_the_table_is_one_that_a_benchmark_gives() -> None:
    source = Path(table.__file__).parent
    for row in ROWS:
        for name in row.figures:
            benchmark, _, key = name.partition(".")
            assert benchmark in runner.NAMES
            text = (source / f"{benchmark}.py").read_text()
            assert f'"{key}"' in text or 'f"n{size}"' in text or "figures[name]" in text, name


# --- verdicts ---


def test_a_missed_target_is_said_plainly() -> None:
    made = table.table([line("l1_final", {"rate": figure(1999.0, ratio=0.1)})])
    assert verdict_of(made, "L1 transfers final") == "**missed**"
    assert "What is missed" in made
    assert "- L1 transfers final, 4 validators on the same cores: 1,999 transfers/s, wanted >= 2,000." in made


def test_a_met_target_is_met() -> None:
    made = table.table([line("l1_final", {"rate": figure(2000.0, ratio=0.1)})])
    assert verdict_of(made, "L1 transfers final") == "met"
    assert "What is missed" not in made


def test_half_a_target_is_not_met() -> None:
    """The rate is half of the limit; without anvil nobody knows about the other half of the target."""
    made = table.table([line("l2_bulk", {"rate": figure(16_000.0, ratio=0.53)})])
    assert verdict_of(made, "L2 transfers end to end, bulk") == "not measured"


def test_one_missed_half_is_enough() -> None:
    made = table.table([line("l2_bulk", {"rate": figure(9_000.0, ratio=0.3)})])
    assert verdict_of(made, "L2 transfers end to end, bulk") == "**missed**"


def test_nothing_measured_is_said() -> None:
    assert "Nothing was measured." in table.table([])


def test_what_was_skipped_or_made_in_miniature_is_said() -> None:
    made = table.table(
        [
            line("anvil", {}, outcome="skipped", reason="there is no npm", limits=None),
            line("latency", {}, quick=True),
        ]
    )
    assert "skipped: there is no npm" in made
    assert "these figures mean nothing" in made


def test_the_last_line_of_a_benchmark_counts(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line("l1_final", {"rate": figure(n)})) + "\n" for n in (1.0, 2.0)))
    (found,) = table.read(path)
    assert found["figures"]["rate"]["median"] == 2.0


@pytest.mark.parametrize("text", ["{", "[1]", '{"benchmark": 3'])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(text)
    with pytest.raises(table.TableError, match="no file of"):
        table.read(path)


def test_a_page_without_its_marks_is_refused_and_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# nothing here\n")
    with pytest.raises(table.TableError):
        table.write_page("made\n", page)
    assert page.read_text() == "# nothing here\n"


def test_writing_twice_changes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    assert table.write_page("made\n", page)
    assert not table.write_page("made\n", page)
    assert page.read_text() == f"before\n{table.BEGIN}\nmade\n{table.END}\nafter\n"


# --- figures ---


def test_a_figure_beside_the_limit() -> None:
    assert rate(10_000).ratio(LIMITS) == pytest.approx(0.5)
    assert microseconds(100e-6).ratio(LIMITS) == pytest.approx(2)
    assert milliseconds(1e-3).value == pytest.approx(1)
    assert milliseconds(1e-3).ratio(LIMITS) == pytest.approx(20)
    assert plain(5, "bytes").ratio(LIMITS) is None


def test_medians_are_of_values_and_of_ratios_apart() -> None:
    slow = Limits(9_000, 15_000, 10_000, 1_000_000, 100e-6)
    found = runner._medians(
        [({"rate": rate(5_000)}, slow), ({"rate": rate(6_000)}, LIMITS), ({"rate": rate(9_000)}, LIMITS)]
    )
    assert found["rate"]["median"] == 6_000
    assert found["rate"]["ratio"] == pytest.approx(0.45)


def test_conditions() -> None:
    assert times("a", 3, "b", "c")({"a": 9, "b": 3, "c": 2}) is True
    assert times("a", 3, "b", "c")({"a": 9, "b": 3, "c": 4}) is False
    assert times("a", 3, "b", "c")({"a": 9}) is None
    assert at_most_over("a", "b", 2)({"a": 4, "b": 2}) is True
    log = no_faster_than_log("n", SIZES)
    assert log({"n1000": 1, "n10000": 5, "n100000": 8, "n1000000": 11}) is True
    assert log({"n1000": 1, "n10000": 5, "n100000": 8, "n1000000": 20}) is False
    assert log({"n1000": 1, "n10000": 5, "n100000": 8}) is None
