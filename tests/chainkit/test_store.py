"""The store: all or nothing, also under SIGKILL; whose directory it is; damage is said, not hidden."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from fake_chain import MemoryBackend, certify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainkit import database
from chainkit.codec import encode
from chainkit.keys import dev_keypair
from chainkit.merkle import Tree
from chainkit.store import Store, StoreError
from chainkit.transaction import Body, SignedTransaction, Transfer

GENESIS = b"\x01" * 32


def open_store(path: Path, genesis: bytes = GENESIS, role: str = "test") -> Store:
    return Store(path, genesis_hash=genesis, role=role)


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with store.transaction():
        store.apply_state_changes({b"a": b"1", b"b": b""}, 3)
        seq = store.append_event("Happened", {"n": 1}, height=3, source="test")
        store.set_meta("vote", b"\x07")
    store.close()
    again = open_store(tmp_path)
    assert again.load_state().root == Tree().update({b"a": b"1", b"b": b""}).root
    assert again.state_height() == 3
    assert again.get_meta("vote") == b"\x07"
    assert [event.seq for event in again.events_from(1, 10)] == [seq]
    again.close()


def test_an_exception_inside_undoes_the_whole_group(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.set_meta("kept", b"1")

    def fail_late() -> None:
        with store.transaction():
            store.set_meta("kept", b"2")
            store.append_event("Happened", {}, height=0, source="test")
            with store.transaction():
                store.apply_state_changes({b"a": b"1"}, 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail_late()
    assert store.get_meta("kept") == b"1"
    assert store.last_seq() == 0
    assert store.state_height() is None
    store.close()


def test_an_inner_failure_that_is_caught_outside_still_dooms_the_group(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with store.transaction():
        store.set_meta("a", b"1")
        try:
            with store.transaction():
                store.set_meta("b", b"1")
                raise KeyError
        except KeyError:
            pass
    assert store.get_meta("a") is None
    store.close()


def test_event_numbers_never_go_back_even_after_a_rollback(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    first = store.append_event("A", {}, height=0, source="test")
    with suppress(KeyError), store.transaction():
        store.append_event("B", {}, height=0, source="test")
        raise KeyError
    second = store.append_event("C", {}, height=0, source="test")
    assert first < second
    assert [event.name for event in store.events_from(1, 10)] == ["A", "C"]
    store.close()


def test_events_refuse_what_json_cannot_carry(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        store.append_event("A", {"x": float("nan")}, height=0, source="test")
    assert store.last_seq() == 0
    store.close()


def test_blocks_with_receipts_and_their_removal(backend: MemoryBackend, tmp_path: Path) -> None:
    alice, bob = dev_keypair("alice"), dev_keypair("bob")
    tx = SignedTransaction.sign(Body(900, alice.address, 0, 100_000, 10, 1, Transfer(bob.address, 5)), alice)
    backend.pool.append(tx)
    block = backend.seal()
    store = open_store(tmp_path / "other")
    pairs = list(zip(block.transactions, block.receipts, strict=True))
    store.put_block(encode(block.block), 1, block.hash, encode(certify(block)), pairs)
    found = store.transaction_by_id(tx.id)
    assert found is not None
    assert (found.height, found.position, found.wire) == (1, 0, tx.wire)
    assert found.receipt == block.receipts[0]
    assert store.block_by_hash(block.hash) == store.block_by_height(1)
    with pytest.raises(StoreError):
        store.put_block(encode(block.block), 1, block.hash, None, [])
    assert store.transaction_ids(1) == [tx.id]
    assert store.transaction_ids(2) == []
    store.remove_blocks_above(0)
    assert store.block_by_height(1) is None
    assert store.transaction_by_id(tx.id) is None
    assert store.head_height() == 0
    store.close()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(st.binary(max_size=4), st.binary(max_size=4), max_size=6),
        min_size=1,
        max_size=5,
    )
)
def test_stored_state_equals_the_tree_that_saw_the_same_changes(
    tmp_path_factory: pytest.TempPathFactory, batches: list[dict[bytes, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("store")
    store, tree = open_store(path), Tree()
    for height, changes in enumerate(batches, 1):
        store.apply_state_changes(changes, height)
        tree = tree.update(changes)
    store.close()
    again = open_store(path)
    assert again.load_state().root == tree.root
    again.close()


# --- whose directory it is ---


@pytest.mark.parametrize(
    ("genesis", "role", "word"),
    [(b"\x02" * 32, "test", "another chain"), (GENESIS, "other", "belongs to a test")],
)
def test_another_owner_is_refused_in_one_line(tmp_path: Path, genesis: bytes, role: str, word: str) -> None:
    open_store(tmp_path).close()
    with pytest.raises(StoreError, match=word) as refusal:
        open_store(tmp_path, genesis, role)
    assert "\n" not in str(refusal.value)
    open_store(tmp_path).close()  # the refusal left nothing locked


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    with pytest.raises(StoreError, match="use"):
        open_store(tmp_path)
    first.close()
    open_store(tmp_path).close()


@pytest.mark.parametrize("damage", [b"", b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path, damage: bytes) -> None:
    store = open_store(tmp_path)
    for i in range(200):
        store.append_event("Happened", {"n": i, "text": "x" * 200}, height=i, source="test")
    store.close()
    if not damage:  # cut in the middle of a page
        with store.file.open("r+b") as file:
            file.truncate(store.file.stat().st_size // 2 + 100)
    else:
        store.file.write_bytes(damage)
    with pytest.raises(StoreError) as refusal:
        open_store(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store._db.execute("PRAGMA user_version=99")
    store.close()
    with pytest.raises(StoreError, match="another version"):
        open_store(tmp_path)


# --- SIGKILL ---

WRITER = """
import sys
from pathlib import Path
from chainkit.store import Store

store = Store(Path(sys.argv[1]), genesis_hash=b"\\x01" * 32, role="test")
for n in range(1, 1_000_000):
    with store.transaction():
        store.apply_state_changes({b"left": str(n).encode()}, n)
        store.append_event("Counted", {"n": n}, height=n, source="test")
        store.apply_state_changes({b"right": str(n).encode()}, n)
    print(n, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_sigkill_leaves_whole_groups_only_and_loses_none_that_was_acknowledged(
    tmp_path: Path, after: int
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = 0
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= after:
            break
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    acknowledged = int(rest[-1]) if rest else acknowledged
    store = open_store(tmp_path)
    tree, count = store.load_state(), store.state_height()
    assert count is not None
    assert count >= acknowledged
    assert tree.get(b"left") == tree.get(b"right") == str(count).encode()
    assert [event.data["n"] for event in store.events_from(1, 10_000)] == list(range(1, count + 1))
    store.close()


def test_what_is_not_flushed_is_there_but_its_events_are_not_shown(tmp_path: Path) -> None:
    """A power failure could take them back, and their numbers would be given again."""
    store = open_store(tmp_path / "data")
    woken: list[int] = []
    store.append_event("First", {}, height=1, source="test")
    store.on_commit(lambda: woken.append(store.last_seq()))
    with store.transaction(flush=False):
        store.set_meta("key", b"value")
        store.append_event("Second", {}, height=1, source="test")
    assert store.get_meta("key") == b"value"
    assert ([event.name for event in store.events_from(1, 9)], store.last_seq(), woken) == (["First"], 1, [])
    store.flush()
    store.flushed()
    assert ([event.name for event in store.events_from(1, 9)], woken) == (["First", "Second"], [2])

    with store.transaction(flush=False):
        store.append_event("Third", {}, height=1, source="test")
    store.append_event("Fourth", {}, height=1, source="test")  # is flushed, and all that came before it too
    assert (store.last_seq(), woken) == (4, [2, 4])
    assert [event.seq for event in store.events_from(1, 9)] == [1, 2, 3, 4]
    store.close()
    again = open_store(tmp_path / "data")
    assert again.last_seq() == 4
    again.close()


def test_a_flush_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "data")
    with store.transaction(flush=False):
        store.set_meta("key", b"value")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="cannot be used"):
        store.flush()
    store.close()


def _heights_in_the_file_alone(store: Store, copy: Path) -> list[int]:
    """The blocks that are there without the write-ahead log."""
    shutil.copy(store.file, copy)
    with closing(sqlite3.connect(f"{copy.as_uri()}?immutable=1", uri=True)) as db:
        return [height for (height,) in db.execute("SELECT height FROM blocks ORDER BY height")]


def _put(store: Store, height: int, size: int) -> None:
    with store.transaction(flush=False):
        store.put_block(bytes(size), height, height.to_bytes(32, "big"), None, [])


def test_what_the_log_has_is_moved_on_by_who_flushes_not_by_a_commit(tmp_path: Path) -> None:
    """It takes tens of milliseconds, in which the event loop should go on."""
    open_store(tmp_path / "data").close()  # the tables are in the file
    store = open_store(tmp_path / "data")
    for height in range(1, 5):
        _put(store, height, database._LOG_BYTES // 2)
        assert _heights_in_the_file_alone(store, tmp_path / "copy") == []
    for height in (5, 6):
        _put(store, height, 1)
        store.flush()
        assert _heights_in_the_file_alone(store, tmp_path / "copy") == [1, 2, 3, 4, 5], "and 6 is too little"
    store.close()


def test_a_log_that_nobody_flushes_is_moved_on_by_the_commit(tmp_path: Path) -> None:
    open_store(tmp_path / "data").close()
    store = open_store(tmp_path / "data")
    for height in range(1, 4):
        _put(store, height, 4096 * database._LOG_PAGES // 2)
    assert _heights_in_the_file_alone(store, tmp_path / "copy") != []
    store.close()


def test_blocks_are_written_while_the_log_is_moved_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two connections, two threads: nothing that was committed is lost, nor does either fail."""
    monkeypatch.setattr(database, "_LOG_BYTES", 0)
    store = open_store(tmp_path / "data")
    with ThreadPoolExecutor(1) as thread:
        flushes = []
        for height in range(1, 200):
            _put(store, height, 200 * height)
            flushes.append(thread.submit(store.flush))
        for flush in flushes:
            flush.result()
    assert _heights_in_the_file_alone(store, tmp_path / "copy") != [], "control: it was moved on"
    store.close()
    again = open_store(tmp_path / "data")
    assert [len(stored.block) for stored in again.blocks_from(1, 1000)] == [200 * n for n in range(1, 200)]
    again.close()


def test_a_log_that_cannot_be_moved_on_is_flushed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when SQLite tries it after a commit: the log has everything, and the next write that fails says so."""
    store = open_store(tmp_path / "data")
    _put(store, 1, 2 * database._LOG_BYTES)

    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", fail)
        store.flush()
    assert store.head_height() == 1
    store.close()
