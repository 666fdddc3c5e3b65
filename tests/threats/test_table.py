"""The table in README.md names only tests that exist, and leaves no row without one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    line.split("|")[1:3]
    for line in (Path(__file__).parent / "README.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| row")
]


@pytest.mark.parametrize(("row", "tests"), ROWS, ids=[row.strip() for row, _ in ROWS])
def test_every_row_has_tests_that_exist(row: str, tests: str) -> None:
    named = re.findall(r"`([^`]+)::(\w+)`", tests)
    assert named, row
    for path, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), (path, test)


def test_the_table_has_all_rows() -> None:
    assert len(ROWS) == 33
