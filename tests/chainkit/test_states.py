"""The state on disk: as the tree that saw the same changes, however often it is opened, and short."""

import random
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit import states
from chainkit.codec import decode, encode
from chainkit.merkle import Tree, key_hash
from chainkit.store import FILE_NAME, Store, StoreError

KEYS = st.integers(0, 60).map(lambda n: b"key/%d" % n)
BATCHES = st.lists(st.dictionaries(KEYS, st.binary(max_size=4), max_size=8), min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that their rewriting goes round many times."""
    monkeypatch.setattr(states, "PART_BITS", 3)
    monkeypatch.setattr(states, "PARTS", 8)


def open_store(path: Path) -> Store:
    return Store(path, genesis_hash=bytes(32), role="test")


def rows(store: Store, table: str) -> list[list[tuple[bytes, bytes]]]:
    found = store._run(f"SELECT items FROM {table}")
    return [decode(list[tuple[bytes, bytes]], items) for (items,) in found]


@given(BATCHES, st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_history_reads_as_the_tree_that_saw_it(
    tmp_path_factory: pytest.TempPathFactory, batches: list[dict[bytes, bytes]], whole_first: bool
) -> None:
    path, tree = tmp_path_factory.mktemp("store"), Tree()
    for height, changes in enumerate(batches, 1):
        store = open_store(path)
        tree = tree.update(changes)
        if whole_first and height == 1:
            store.put_state(tree, height)
        else:
            store.apply_state_changes(changes, height, tree)
        assert store.load_state().root == tree.root
        store.close()
    again = open_store(path)
    assert (again.load_state().root, again.state_height()) == (tree.root, len(batches))
    assert dict(again.load_state().items()) == dict(tree.items())
    again.close()


def test_a_long_history_stays_within_a_small_multiple_of_the_state(tmp_path: Path) -> None:
    rng, store, tree = random.Random(1), open_store(tmp_path), Tree()
    size = 200
    for height in range(1, 400):
        changes = {b"key/%d" % rng.randrange(size): rng.randbytes(3) for _ in range(9)}
        tree = tree.update(changes)
        store.apply_state_changes(changes, height, tree)
        assert sum(map(len, rows(store, "state_log"))) <= 2 * size
        assert sum(map(len, rows(store, "state_parts"))) <= size
        if height % 50 == 0:
            assert store.load_state().root == tree.root
    for part, items in enumerate(rows(store, "state_parts")):
        assert all(key_hash(key)[0] >> 5 == part for key, _ in items)
    store.close()


def _undone(store: Store, changes: dict[bytes, bytes], tree: Tree) -> None:
    with store.transaction():
        store.apply_state_changes(changes, 2, tree)
        raise KeyError


def test_a_write_that_is_undone_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    tree = Tree().update({b"key/%d" % n: b"1" for n in range(50)})
    store.put_state(tree, 1)
    for n in range(20):
        changes = {b"key/%d" % k: b"%d" % n for k in range(10)}

        with pytest.raises(KeyError):
            _undone(store, changes, tree.update(changes))
        assert (store.load_state().root, store.state_height()) == (tree.root, 1)
        if n % 3 == 0:
            tree = tree.update(changes)
            store.apply_state_changes(changes, 1, tree)
    store.put_state(Tree().update({b"other": b"1"}), 0)
    assert list(store.load_state().items()) == [(b"other", b"1")]
    store.close()


@pytest.mark.parametrize(
    "items",
    [
        b"",
        b"\x91",
        b"\x90\x90",
        encode([(b"k", b"v", b"w")]),
        encode([(b"k", b"v"), (b"k", b"v")]),
        encode(7),
    ],
    ids=["nothing", "cut short", "more", "other shape", "a key twice", "no list"],
)
@pytest.mark.parametrize("table", ["state_parts", "state_log"])
def test_damage_is_an_error_with_what_to_do(tmp_path: Path, table: str, items: bytes) -> None:
    store = open_store(tmp_path)
    tree = Tree().update({b"key/%d" % n: b"1" for n in range(50)})
    store.put_state(tree, 1)
    store.apply_state_changes({b"key/1": b"2"}, 2)
    store.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute(f"UPDATE {table} SET items = ?", (items,))
    db.close()
    again = open_store(tmp_path)
    if table == "state_log" and items == encode([(b"k", b"v"), (b"k", b"v")]):
        assert (
            again.load_state().root == tree.update({b"k": b"v"}).root
        )  # not what was, which its reader sees
    else:
        with pytest.raises(StoreError, match="delete the directory"):
            again.load_state()
    again.close()
