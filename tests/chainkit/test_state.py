"""The state's quick ways against the plain ones: accounts from bytes, a step's writes, what a commit wrote."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit.codec import MAX_AMOUNT, CodecError, decode, encode
from chainkit.merkle import Tree
from chainkit.state import EMPTY_ACCOUNT, Account, State, decode_account

KEYS = st.sampled_from([b"aA", b"aB", b"aC", b"s"])
VALUES = st.sampled_from([b"1", b"2", b"3"])
WRITES = st.dictionaries(KEYS, VALUES)
quick = settings(max_examples=150, deadline=None)

amounts = st.integers(-1, 2**64 - 1) | st.sampled_from([0, 127, 128, MAX_AMOUNT, MAX_AMOUNT + 1])
encodings = (
    st.binary(max_size=24)
    | st.lists(amounts, max_size=3).map(encode)
    | st.tuples(amounts, amounts).map(
        lambda pair: b"\x92" + b"".join(b"\xcf" + (n % 2**64).to_bytes(8, "big") for n in pair)
    )
    | st.tuples(amounts, amounts).map(encode).map(lambda data: data + b"\0")
)


@quick
@given(encodings)
def test_an_account_is_read_as_any_other_record(value: bytes) -> None:
    def outcome(read: Callable[[bytes], Account]) -> Account | str:
        try:
            return read(value)
        except CodecError as error:
            return str(error)

    assert outcome(decode_account) == outcome(lambda data: decode(Account, data) if data else EMPTY_ACCOUNT)


@pytest.mark.parametrize("value", [b"\x91" * 2000, b"\xdd\xff\xff\xff\xff", b"\xa1\xff", b"\x92\xa1\xff\x00"])
def test_bytes_that_are_no_account_are_refused(value: bytes) -> None:
    with pytest.raises(CodecError):
        decode_account(value)


@quick
@given(WRITES, st.lists(WRITES, max_size=4), st.lists(KEYS))
def test_a_steps_writes_are_those_of_set_one_by_one(
    before: dict[bytes, bytes], steps: list[dict[bytes, bytes]], read: list[bytes]
) -> None:
    tree = Tree().update(before)
    fast, slow = State(tree), State(tree)
    for key in read:
        fast.get(key)
        slow.get(key)
    for step in steps:
        written = {key: value for key, value in step.items() if fast.get(key) != value}
        fast.write_step(written)
        for key, value in written.items():
            slow.set(key, value)
        slow.end_step()
        assert fast.changes() == slow.changes()
        assert fast.checkpoint() == slow.checkpoint() == 0
    assert fast.root() == slow.root()


@quick
@given(WRITES, st.lists(KEYS), WRITES, st.lists(KEYS))
def test_what_was_looked_up_is_what_was_not_at_hand(
    content: dict[bytes, bytes], at_hand: list[bytes], written: dict[bytes, bytes], read: list[bytes]
) -> None:
    tree = Tree().update(content)
    state = State(tree, {key: tree.get(key) for key in at_hand})
    for key, value in written.items():
        state.set(key, value)
    for key in read:
        assert state.get(key) == written.get(key, content.get(key, b""))
    asked = {*written, *read} - set(at_hand)
    assert state.looked_up() == {key: content.get(key, b"") for key in asked}


@quick
@given(WRITES, st.lists(WRITES, max_size=3))
def test_a_commit_says_what_it_wrote(before: dict[bytes, bytes], batches: list[dict[bytes, bytes]]) -> None:
    state = State(Tree().update(before))
    content = dict(before)
    for written in batches:
        for key, value in written.items():
            state.set(key, value)
        expected = {key: value for key, value in written.items() if content.get(key, b"") != value}
        tree, changes = state.commit_changes()
        content |= written
        assert changes == expected
        assert tree is state.commit()
        assert state.changes() == {}
        assert tree.root == Tree().update(content).root
