"""README's first table says what the kept comparison measured, figure by figure."""

import csv
from pathlib import Path

ROOT = Path(__file__).parents[2]
COLUMNS = {
    "transfers/s": "{transfers_per_s:,.0f}",
    "soft p50": "{soft_latency_p50_s:.2f} s",
    "final p50": "{final_latency_p50_s:.1f} s",
    "exit": "{time_to_exit_s:.1f} s",
    "fees ending at L1": "{fees_ending_at_l1_percent:.1f} %",
    "processes": "{processes_own:.0f} + {processes_l1:.0f} of L1",
    "operator censors": "{sequencer_failure_recovered_percent:.0f}",
    "lies about state": "{state_validation_recovered_percent:.0f}",
    "all above L1 burns": "{data_availability_recovered_percent:.0f}",
    "rules turn": "{exit_window_recovered_percent:.0f}",
    "operator gone": "{proposer_failure_recovered_percent:.0f}",
}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _line(row: dict[str, str]) -> str:
    figures = {name: _number(text) for name, text in row.items()}
    cells = [
        row["time_to_exit_s"]
        if name == "exit" and row["time_to_exit_s"] == "no exit"
        else shape.format(**figures)
        for name, shape in COLUMNS.items()
    ]
    return f"| `{row['model']}` | " + " | ".join(cell.replace(",", " ") for cell in cells) + " |"


def test_the_table_is_that_of_the_kept_comparison() -> None:
    with (ROOT / "docs/comparison/table.csv").open(newline="") as file:
        lines = [_line(row) for row in csv.DictReader(file)]
    expected = "\n".join([f"| model | {' | '.join(COLUMNS)} |", "|---|" + "--:|" * len(COLUMNS), *lines])
    readme = (ROOT / "README.md").read_text()
    table = readme.partition("<!-- table: begin -->")[2].partition("<!-- table: end -->")[0]
    assert table.strip() == expected, f"README's table should be:\n{expected}"
