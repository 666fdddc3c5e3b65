"""docs/PERFORMANCE.md's table, made from results.

Responsible for turning result lines into Markdown and for putting it into the page between two marks. Must not know
how anything was measured.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.targets import ROWS, Row

HERE: Final = Path(__file__).parent
REFERENCE: Final = HERE / "results" / "reference.jsonl"
PAGE: Final = HERE.parent / "docs" / "PERFORMANCE.md"
BEGIN: Final = "<!-- made by `python -m benchmarks table`: do not edit -->"
END: Final = "<!-- end of what is made -->"

Line = Mapping[str, Any]
Figures = dict[str, Mapping[str, Any]]


class TableError(Exception):
    """The page or the results cannot be used; one line says why."""


def read(path: Path) -> list[Line]:
    """The lines of a results file; the last of each benchmark counts. Raises `TableError`."""
    try:
        lines = [json.loads(text) for text in path.read_text().splitlines() if text.strip()]
        named = {line["benchmark"]: line for line in lines}
    except OSError as error:
        raise TableError(f"{str(path)!r}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise TableError(f"{str(path)!r} is no file of result lines: {error}") from None
    return list(named.values())


def table(lines: Iterable[Line]) -> str:
    """The part of the page between the marks."""
    lines = list(lines)
    figures: Figures = {
        f"{line['benchmark']}.{name}": found for line in lines for name, found in line["figures"].items()
    }
    values = {name: float(found["median"]) for name, found in figures.items()}
    values |= {
        f"{name}/limit": float(found["ratio"])
        for name, found in figures.items()
        if found["ratio"] is not None
    }
    out = [
        *_conditions(lines),
        "",
        "| figure | measured | beside the signature limit | target | |",
        "|---|---|---|---|---|",
    ]
    missed: list[str] = []
    for row in ROWS:
        verdict = _verdict(row, values)
        cells = [row.what, _measured(row, figures), _ratios(row, figures), row.wanted, verdict]
        out.append(f"| {' | '.join(cells)} |")
        if verdict == "**missed**":
            missed.append(f"{row.what}: {_measured(row, figures)}, wanted {row.wanted}.")
    out += [
        "",
        *_missed(missed, sum(1 for row in ROWS if _verdict(row, values) == "not measured")),
        *_notes(lines),
    ]
    return "\n".join(out) + "\n"


def _conditions(lines: list[Line]) -> list[str]:
    if not lines:
        return ["Nothing was measured."]
    last = lines[-1]
    machine, packages = last["machine"], last["packages"]
    loads = [load for line in lines for load in line["load_average"]]
    versions = ", ".join(f"{name} {packages[name]}" for name in packages)
    commits = sorted({line["commit"] for line in lines})
    repeats = sorted({line["repeat"] for line in lines})
    limits = {name: _span(line["limits"][name] for line in lines if line["limits"]) for name in _LIMITS}
    out = [
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']}; Python {last['python']}; {versions}.",
        f"Commit {', '.join(commits)}; medians of {' or '.join(map(str, repeats))}; load average while it ran "
        f"{min(loads):.1f} to {max(loads):.1f} (whatever is above {machine['cores']} waited).",
        "",
        "The limits that the machine set beside the runs, lowest to highest: "
        + "; ".join(f"{_LIMITS[name]} {span}" for name, span in limits.items())
        + ".",
        "A rate stands beside the two-process limit, a time beside the CPU time of one verification.",
    ]
    if any(line["quick"] for line in lines):
        out.append("**Made in miniature (`--quick`): these figures mean nothing.**")
    return out


_LIMITS: Final = {
    "verify_1_thread": "signatures/s verified on one thread",
    "verify_2_threads": "on two threads",
    "verify_2_processes": "by two processes",
    "sha256_64": "SHA-256 of 64 bytes/s",
}


def _span(values: Iterable[float]) -> str:
    known = list(values)
    return f"{_number(min(known))} to {_number(max(known))}" if known else "not measured"


def _measured(row: Row, figures: Figures) -> str:
    shown = [
        f"{_number(figures[name]['median'])} {figures[name]['unit']}" if name in figures else "not measured"
        for name in row.figures
    ]
    return " / ".join(shown)


def _ratios(row: Row, figures: Figures) -> str:
    shown = []
    for name in row.figures:
        found = figures.get(name)
        if found is None or found["ratio"] is None:
            continue
        words = "{} x limit" if found["kind"] == "rate" else "{} verifications"
        shown.append(words.format(_number(found["ratio"])))
    return " / ".join(shown)


def _verdict(row: Row, values: Mapping[str, float]) -> str:
    if not row.met:
        return ""
    answers = [met(values) for met in row.met]
    if False in answers:
        return "**missed**"
    return "not measured" if None in answers else "met"


def _missed(missed: list[str], unknown: int) -> list[str]:
    said = (
        ["**What is missed:**", "", *(f"- {line}" for line in missed)]
        if missed
        else ["No target that was measured is missed."]
    )
    return [*said, "", f"{unknown} targets were not measured, or not in full."] if unknown else said


def _notes(lines: list[Line]) -> list[str]:
    notes = [
        f"- `{line['benchmark']}`: {note}" for line in lines for note in (*line["notes"], *_trouble(line))
    ]
    return ["", "Notes of the runs:", "", *notes] if notes else []


def _trouble(line: Line) -> list[str]:
    return [f"{line['outcome']}: {line['reason']}"] if line["outcome"] != "measured" else []


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


# --- the page ---


def parts_of_page(text: str) -> tuple[str, str, str]:
    """What stands before, between and after the marks. Raises `TableError`."""
    before, begin, rest = text.partition(BEGIN + "\n")
    made, end, after = rest.partition(END)
    if not begin or not end:
        raise TableError(f"the page has no lines {BEGIN!r} and {END!r}")
    return before, made, after


def write_page(made: str, page: Path = PAGE) -> bool:
    """Put the table into the page; returns whether that changed it. Raises `TableError`."""
    try:
        text = page.read_text()
        before, _, after = parts_of_page(text)
        new = f"{before}{BEGIN}\n{made}{END}{after}"
        if new != text:
            page.write_text(new)
    except OSError as error:
        raise TableError(f"{str(page)!r}: {error.strerror}") from None
    return new != text
