"""Decoders and handlers of messages against the corpus in the repository, and decoders against random bytes.

Fuzzing itself is ``make fuzz``; 100,000 byte strings per decoder are ``make random-bytes``. What either finds becomes a
line of the corpus, and so a test that runs everywhere, with atheris or without it.
"""

import pytest
from fuzzing import corpus
from fuzzing.random_bytes import bombard
from fuzzing.target import Target, refusing
from fuzzing.targets import ALL

COUNT = 2_000
"""Random byte strings per decoder here."""

DECODERS = [target for target in ALL.values() if not target.handler]


def by_name(target: Target) -> str:
    return target.name


@pytest.mark.parametrize("target", ALL.values(), ids=by_name)
def test_every_input_of_the_corpus_is_a_value_or_refused_as_promised(target: Target) -> None:
    inputs = corpus.load(target)
    assert 0 < len(inputs) <= corpus.MOST + len(target.seeds())
    taken = [target.run(data) for data in inputs]
    assert any(taken), "nothing in the corpus is valid"


@pytest.mark.parametrize("target", ALL.values(), ids=by_name)
def test_the_seeds_in_the_corpus_are_what_real_objects_are_today(target: Target) -> None:
    if target.name == "key-file":
        pytest.skip("each key file is encrypted with a salt of its own")
    missing = [data for data in target.seeds() if data not in corpus.load(target)]
    assert not missing, "write them anew: make fuzz-seeds"


@pytest.mark.parametrize("target", DECODERS, ids=by_name)
def test_random_bytes_get_a_typed_error_and_take_no_memory(target: Target) -> None:
    found = bombard(target, COUNT, seed=COUNT)
    assert found.flat, found


def test_a_decoder_that_fails_or_keeps_what_it_read_is_found_out() -> None:
    kept: list[bytes] = []

    def keeps(data: bytes) -> bool:
        kept.append(data * 100)
        return True

    def fails(data: bytes) -> int:
        return {b"\xff"[0]: 1}.get(data[0], 0) if data else 0 // len(data)

    seeds = [b"abc"]
    assert not bombard(Target("keeps", "", keeps, lambda: seeds), 5_000, 1).flat
    with pytest.raises(ZeroDivisionError):
        bombard(Target("fails", "", refusing(fails, ValueError), lambda: seeds), 5_000, 1)


def test_of_many_inputs_those_stay_that_reach_new_code() -> None:
    target = ALL["list-proof"]
    known = target.seeds()[:1]
    assert corpus.smallest_cover(target, known, known) == []
    assert corpus.smallest_cover(target, known, [b"", *target.seeds()]) != []
