"""Decoders and handlers of messages against the corpus in the repository, and decoders against random bytes.

Fuzzing itself is ``make fuzz``; 100,000 byte strings per decoder are ``make random-bytes``. What either finds becomes a
line of the corpus, and so a test that runs everywhere, with atheris or without it.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from fuzzing import corpus
from fuzzing.random_bytes import bombard
from fuzzing.target import Target, canonical, refusing
from fuzzing.targets import ALL

from chainkit.codec import MAX_AMOUNT, Record, encode

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
        kept.append(bytes(32 * 1024) + data)  # more than earlier tests have left free in this process
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


PACKAGES = ("chainkit", "l1node", "rollup", "bridge", "apps")
SHAPES = 200
"""Arrays per kind of record: of the right length, of anything."""


def records() -> Iterator[type[Record]]:
    """Every kind of record that we have, in a fixed order."""
    for package in PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if module.name != "__main__":
                importlib.import_module(f"{package}.{module.name}")
    waiting, found = list(Record.__subclasses__()), set()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.partition(".")[0] in PACKAGES:
            found.add(kind)
    yield from sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


def anything(rng: Random, depth: int = 0) -> Any:
    """A value that MessagePack can say."""
    options: list[Any] = [
        0,
        1,
        7,
        MAX_AMOUNT,
        MAX_AMOUNT + 1,
        -1,
        2**63,
        None,
        True,
        1.0,
        float("nan"),
        "",
        "name",
    ]
    options += [b"", bytes(31), bytes(32), bytes(64), rng.randbytes(32), rng.randbytes(5), {}, {"a": 1}]
    if depth < 3 and rng.random() < 0.3:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(5))]
    return rng.choice(options)


def test_every_kind_of_record_takes_its_one_encoding_or_refuses() -> None:
    kinds, taken = list(records()), 0
    assert len(kinds) > 80
    for kind in kinds:
        run, rng = canonical(kind), Random(kind.__qualname__)
        tag = kind.__struct_config__.tag
        for _ in range(SHAPES):
            fields = [anything(rng) for _ in kind.__struct_fields__]
            if rng.random() < 0.1:
                fields.append(anything(rng))
            taken += run(encode(fields if tag is None else [tag, *fields]))
    assert taken > SHAPES
