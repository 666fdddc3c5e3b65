"""Parts of a state: whoever asks gets no more than an answer may hold, and can always ask for less."""

import pytest

from chainkit.merkle import Tree
from chainkit.problems import Problem
from l1node import archive_api
from l1node.archive_api import MAX_ANSWER_BYTES, MAX_BITS, _entries

LARGE = Tree.EMPTY.update({b"key %d" % n: bytes(64 * 1024) for n in range(80)})
"""5 MiB in 80 entries."""


def test_a_part_of_few_but_large_entries_is_refused_and_smaller_ones_are_given() -> None:
    """P20: the answer to one GET is bounded by bytes, whatever contracts keep in their storage."""
    with pytest.raises(Problem, match="more bits"):
        _entries(LARGE, 0, 0)
    parts = [_entries(LARGE, part, 2) for part in range(4)]
    assert all(sum(len(value) for _, value in part) <= MAX_ANSWER_BYTES for part in parts)
    assert sorted(entry for part in parts for entry in part) == sorted(LARGE.items())


def test_the_smallest_parts_are_given_whatever_is_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_api, "MAX_ANSWER_BYTES", 10)
    parts = [_entries(LARGE, part, MAX_BITS) for part in range(1 << MAX_BITS)]
    assert sum(map(len, parts)) == 80
