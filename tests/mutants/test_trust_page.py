"""docs/TRUST.md is what the data say, every mutant applies to the code of today, and every promise has one."""

from pathlib import Path

import pytest
from mutants.catalogue import PROMISES, SEED, defines, load_mutants, load_promises
from mutants.table import read_results, render

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MUTANTS = load_mutants(HERE)
AGAIN = 'make mutants ARGS="--only {} --write"'


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_a_mutant_applies_and_has_been_killed_as_it_is(mutant) -> None:  # type: ignore[no-untyped-def]
    place = mutant.place(ROOT)  # raises unless the old text is there exactly once
    assert defines(ROOT, place)
    compile(mutant.applied((ROOT / mutant.file).read_text(encoding="utf-8")), mutant.file, "exec")
    assert mutant.file.partition("/")[0] in {"chainkit", "l1node", "rollup", "bridge", "layerlab", "apps"}
    for test in mutant.tests:
        assert SEED.fullmatch(test) or defines(ROOT, test), test
    result = read_results(HERE).get(mutant.id)
    assert result is not None, f"not measured: {AGAIN.format(mutant.id)}"
    assert result["digest"] == mutant.digest, f"changed since it was measured: {AGAIN.format(mutant.id)}"
    assert result["verdict"] == "killed" or (result["verdict"] == "timed out" and mutant.hangs)
    assert any(result["killer"] == test or result["killer"].startswith(f"{test}[") for test in mutant.tests)


def test_every_promise_has_a_mutant_and_places_and_tests_that_exist() -> None:
    promises = load_promises(HERE)
    assert {promise for mutant in MUTANTS for promise in mutant.promises} == set(PROMISES)
    for promise in promises.values():
        assert promise.tests, promise.id
        for place in (*promise.code, *promise.tests):
            assert defines(ROOT, place), (promise.id, place)


def test_no_result_is_of_a_mutant_that_is_gone() -> None:
    assert set(read_results(HERE)) == {mutant.id for mutant in MUTANTS}


def test_the_page_is_what_the_data_say() -> None:
    page = render(ROOT, load_promises(HERE), MUTANTS, read_results(HERE))
    assert (ROOT / "docs" / "TRUST.md").read_text(encoding="utf-8") == page, "make mutants ARGS=--table"
