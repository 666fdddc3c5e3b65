"""The table of a comparison: which run fills which cell, what stays empty, and that a cell names its run."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from compare_records import PLANNED, all_records, experiment, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from layerlab.lab.compare import columns, plan, results, table
from layerlab.lab.experiments import EXPERIMENTS
from layerlab.models import MODELS


def part(filled: list[table.Filled], key: str) -> table.Filled:
    return next(found for found in filled if found.section.key == key)


def row(filled: list[table.Filled], key: str, model: str) -> table.Row:
    return next(found for found in part(filled, key).rows if found.model == model)


def cell(filled: list[table.Filled], key: str, model: str, column: str) -> table.Cell:
    found = part(filled, key)
    at = [c.key for c in found.section.columns].index(column)
    return row(filled, key, model).cells[at]


# --- cells ---


def test_a_figure_comes_with_the_run_that_it_comes_from() -> None:
    filled = table.build(all_records(), PLANNED)
    rate = cell(filled, "users", "optimistic", "calls_transactions_per_s")
    assert (rate.value, rate.text, rate.run) == (250.5, "250.5", "aa000001")
    percent = cell(filled, "data_availability", "optimistic", "data_availability_recovered_percent")
    assert percent.value == 100
    burned = next(r for r in all_records() if (r["model"], r["experiment"]) == ("optimistic", "burn-down"))
    assert percent.run == burned["run"]


def test_the_control_stands_beside_the_trial() -> None:
    filled = table.build(all_records(), PLANNED)
    shown = row(filled, "data_availability", "sovereign")
    assert [c.value for c in shown.cells[:2]] == [100, 0]
    assert shown.verdict == "confirmed"


def test_where_there_is_no_bridge_the_cell_says_so_and_names_the_run_that_saw_it() -> None:
    filled = table.build(all_records(), PLANNED)
    exits = cell(filled, "users", "sovereign", "time_to_exit_s")
    assert (exits.text, exits.run) == ("no exit", "aa000000")
    assert cell(filled, "users", "optimistic", "time_to_exit_s").text == "12.3"


def test_what_never_came_about_is_said_and_not_left_empty() -> None:
    record = experiment("sovereign", "burn-down", "bb000000")
    record["trials"][0]["outcome"]["seconds"] = None
    filled = table.build([record], {"sovereign": ("burn-down",)})
    assert cell(filled, "data_availability", "sovereign", "data_availability_time_s").text == "never"


def test_a_run_that_gave_no_answer_leaves_its_cells_empty_and_says_unknown() -> None:
    records = [experiment("optimistic", "burn-down", "bb000009", verdict="unknown")]
    filled = table.build(records, {"optimistic": ("burn-down",)})
    shown = row(filled, "data_availability", "optimistic")
    assert {c.text for c in shown.cells} == {""}
    assert (shown.verdict, shown.run, shown.missing) == ("unknown", "bb000009", "a service did not answer")


def test_a_workload_that_failed_leaves_its_cells_empty() -> None:
    record = workload("sovereign", "aa000000") | {"verdict": "unknown", "error": "the port is taken"}
    del record["measured"]
    filled = table.build([record], {"sovereign": ()})
    for key in ("users", "economics", "burden"):
        shown = row(filled, key, "sovereign")
        assert {c.text for c in shown.cells} == {""}
        assert shown.missing == "the port is taken"


def test_a_refuted_hypothesis_keeps_its_figures_and_is_marked_at_a_glance() -> None:
    record = experiment("optimistic", "burn-down", "bb000000", verdict="refuted")
    filled = table.build([record], {"optimistic": ("burn-down",)})
    assert row(filled, "data_availability", "optimistic").verdict == "refuted"
    glance = table.overview(filled)
    at = [c.key for c in glance.section.columns].index("data_availability")
    assert glance.rows[0].cells[at].text == "100 (0) !"


# --- which experiment fills a column ---


def test_the_first_experiment_that_the_model_has_fills_a_column() -> None:
    section = next(s for s in columns.SECTIONS if s.key == "sequencer_failure")
    assert (
        table.choose(section, "optimistic", ("operator-disappears", "operator-censors"))[0]
        == "operator-censors"
    )
    assert table.choose(section, "optimistic", ("operator-disappears",))[0] == "operator-disappears"


@pytest.mark.parametrize(
    ("model", "first"),
    [("optimistic", "operator-steals"), ("sidechain", "committee-colludes"), ("sovereign", "double-spend")],
)
def test_state_validation_is_tried_as_the_model_validates(model: str, first: str) -> None:
    section = next(s for s in columns.SECTIONS if s.key == "state_validation")
    there = ("double-spend", "committee-colludes", "operator-steals")
    assert table.choose(section, model, there)[0] == first


def test_a_column_that_no_experiment_fills_is_empty_and_listed() -> None:
    filled = table.build(all_records(), PLANNED)
    shown = row(filled, "exit_window", "sovereign")
    assert shown.run == ""
    assert "there is no malicious-upgrade or rule-change for sovereign" in shown.missing
    assert any(line.startswith("exit window, sovereign: ") for line in table.empty_cells(filled))


def test_an_experiment_that_is_still_to_come_is_not_stood_in_for() -> None:
    """Half way through, another experiment's figures must not look like this one's."""
    records = [experiment("sovereign", "operator-disappears", "bb000000")]
    there = {"sovereign": ("operator-disappears", "operator-censors")}
    shown = row(table.build(records, there), "sequencer_failure", "sovereign")
    assert (shown.run, shown.source, shown.missing) == ("", "operator-censors", "not run")


def test_every_experiment_that_there_is_fills_a_column_of_each_of_its_models_or_is_known_not_to() -> None:
    """A new experiment is not forgotten here."""
    named = {name for section in columns.SECTIONS for model in MODELS for name in section.candidates(model)}
    assert set(EXPERIMENTS) <= named


def test_the_plan_has_each_pair_once_and_workloads_first() -> None:
    planned = plan.jobs(list(MODELS), EXPERIMENTS)
    assert len(set(planned)) == len(planned)
    assert [job.kind for job in planned[: len(MODELS)]] == ["workload"] * len(MODELS)
    assert all(job.kind == "experiment" for job in planned[len(MODELS) :])
    for job in planned[len(MODELS) :]:
        assert job.model in EXPERIMENTS[job.experiment].hypothesis


# --- units and assumptions ---


def test_every_column_has_its_unit_in_its_name() -> None:
    units = ("_s", "_percent", "_gwei", "_coins", "_own", "_l1", "_transaction", "_transactions", "_core")
    for section in columns.SECTIONS:
        for column in section.columns:
            assert column.words or column.key.endswith(units), column.key


def test_column_names_are_unique() -> None:
    keys = [column.key for section in columns.SECTIONS for column in section.columns]
    assert len(keys) == len(set(keys))


def test_an_assumption_stands_beside_the_figures_that_rest_on_it() -> None:
    filled = table.build(all_records(), PLANNED)
    assert any("stake 1 000 coins" in line for line in part(filled, "burden").assumptions)
    assert not any("stake" in line for line in part(filled, "economics").assumptions)
    assert any(
        "challenge window 24 L1 blocks" in line for line in part(filled, "data_availability").assumptions
    )


# --- files ---


def test_the_table_comes_back_from_its_file() -> None:
    filled = table.build(all_records(), PLANNED)
    text = results.csv_text(table.csv_rows(filled))
    read = list(csv.DictReader(io.StringIO(text)))
    assert [line["model"] for line in read] == list(PLANNED)
    for line in read:
        for found in filled:
            for i, column in enumerate(found.section.columns):
                shown = row(filled, found.section.key, line["model"]).cells[i]
                assert line[column.key] == ("" if shown.value is None else str(shown.value))
                assert line[f"{column.key}.run"] == shown.run


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=4), max_size=4))
def test_runs_come_back_from_their_file(tmp_path_factory: pytest.TempPathFactory, records: list[Any]) -> None:
    kept = results.Results.create(tmp_path_factory.mktemp("out"))
    for record in records:
        kept.append(record)
    assert results.read_runs(kept.directory / results.RUNS) == records


def test_what_was_cut_off_costs_the_last_run_only(tmp_path: Path) -> None:
    kept = results.Results.create(tmp_path)
    for record in all_records():
        kept.append(record)
    file = kept.directory / results.RUNS
    file.write_bytes(file.read_bytes()[:-20])
    assert results.read_runs(file) == all_records()[:-1]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text('{"run": \n{}\n')
    with pytest.raises(results.ResultsError, match="damaged"):
        results.read_runs(file)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    kept = results.Results.create(tmp_path)
    kept.write("table.csv", "old")
    kept.write("table.csv", "new")
    assert (kept.directory / "table.csv").read_text() == "new"
    assert sorted(path.name for path in kept.directory.iterdir()) == ["runs.jsonl", "table.csv"]


def test_results_that_cannot_be_kept_are_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(results.ResultsError, match="no results can be kept in"):
        results.Results.create(tmp_path / "file")


def test_no_figure_that_json_cannot_hold(tmp_path: Path) -> None:
    kept = results.Results.create(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        kept.append({"run": "x", "value": float("nan")})
    assert json.loads("[]") == results.read_runs(kept.directory / results.RUNS)


def test_a_whole_comparison_leaves_no_cell_empty_where_there_is_a_run() -> None:
    """The names that columns look for are those that records have."""
    for found in table.build(all_records(), PLANNED):
        for shown in found.rows:
            assert not shown.run or shown.missing or all(c.text for c in shown.cells), (
                found.section.key,
                shown,
            )
