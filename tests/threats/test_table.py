"""The table of README.md beside this file cannot rot: what it names exists, and what is here is named."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOT_BUILT = {"Data withholding"}


def rows() -> dict[str, list[str]]:
    """The test ids by row."""
    lines = (HERE / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    return {row[0].strip(): re.findall(r"`([^`]+)`", row[2]) for row in cells[1:]}


def defined(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_test_that_the_table_names_exists() -> None:
    table = rows()
    assert len(table) == 35
    assert {row for row, ids in table.items() if not ids} == NOT_BUILT
    for row, ids in table.items():
        for name in ids:
            file, _, function = name.partition("::")
            assert (ROOT / file).is_file(), (row, name)
            assert function in defined(ROOT / file), (row, name)


def test_every_test_of_this_directory_is_in_the_table() -> None:
    named = {name for ids in rows().values() for name in ids}
    here = {
        f"tests/threats/{file.name}::{function}"
        for file in HERE.glob("test_*.py")
        if file.name != "test_table.py"
        for function in defined(file)
    }
    assert here <= named, sorted(here - named)
