"""The store in memory is the production store in all that its users see, with failing commits as well."""

import inspect
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation.disk import Disk, PowerLost
from simulation.memory import MemoryStore
from simulation.world import TMP

from chainkit.execution import Receipt
from chainkit.keys import dev_keypair
from chainkit.merkle import Tree
from chainkit.store import Store, StoreError
from chainkit.transaction import Body, SignedTransaction, Transfer

GENESIS = b"\x01" * 32
KEY = dev_keypair("alice")
TXS = [
    SignedTransaction.sign(Body(1, KEY.address, nonce, 20_000, 50, 1, Transfer(KEY.address, 1)), KEY)
    for nonce in range(3)
]


def receipt_of(tx: SignedTransaction, gas: int) -> Receipt:
    return Receipt(tx.id, gas > 0, "", "", gas, 0, [])


class Pair:
    """The same done to both stores; what they answer must be the same."""

    def __init__(self, path: Path) -> None:
        self.disks = [Disk(Random(1), lambda: None, sqlite=sqlite) for sqlite in (True, False)]
        self.paths = [path / "sqlite", path / "memory"]
        self.open()

    def open(self) -> None:
        self.stores: list[Any] = [
            disk.store_type()(path, genesis_hash=GENESIS, role="test")
            for disk, path in zip(self.disks, self.paths, strict=True)
        ]
        self.heard = [0, 0]
        for number, store in enumerate(self.stores):
            store.on_commit(lambda number=number: self.hear(number))

    def hear(self, number: int) -> None:
        self.heard[number] += 1

    def do(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method of both; what came of it."""
        outcomes = []
        for store in self.stores:
            try:
                outcomes.append(getattr(store, name)(*args, **options))
            except (StoreError, PowerLost) as error:
                outcomes.append(type(error))
        one, other = outcomes
        assert one == other, name
        return one

    def compare(self) -> None:
        """Everything that can be asked."""
        assert self.heard[0] == self.heard[1]
        for key in ("a", "b", "genesis", "role", "none"):
            self.do("get_meta", key)
        self.do("state_height")
        head = self.do("head_height")
        one, other = (store.load_state() for store in self.stores)
        assert one.root == other.root
        assert list(one.items()) == list(other.items())
        for height in range(head + 2):
            stored = self.do("block_by_height", height)
            self.do("transactions_of", height)
            self.do("transaction_ids", height)
            self.do("blocks_from", height, 2)
            if stored is not None:
                self.do("block_by_hash", stored.hash)
        for tx in TXS:
            self.do("transaction_by_id", tx.id)
            self.do("place_of", tx.id)
        last = self.do("last_seq")
        for seq in range(1, last + 2):
            self.do("events_from", seq, 2)


class WriterError(Exception):
    """Something fails within a group of writes."""


def some_writes(pair: Pair, rng: Random) -> None:
    """A few writes of any kind."""
    tree = pair.stores[0].load_state()
    for _ in range(rng.randrange(1, 5)):
        kind, height = rng.randrange(6), pair.do("head_height") + 1
        if kind == 0:
            pair.do("set_meta", rng.choice("ab"), rng.randbytes(3))
        elif kind == 1:
            changes = {rng.randbytes(1): rng.randbytes(2) for _ in range(3)}
            tree = tree.update(changes)
            pair.do("apply_state_changes", changes, height, rng.choice((None, tree)))
        elif kind == 2:
            tree = Tree().update({rng.randbytes(1): b"new"})
            pair.do("put_state", tree, height)
        elif kind == 3:
            txs = rng.choices(TXS, k=rng.randrange(4))  # one may stand in a block twice
            pairs = [(tx, receipt_of(tx, rng.randrange(2))) for tx in txs]
            at = rng.choice((height, height, height, max(1, height - 1)))
            block = b"block" + b"".join(tx.wire for tx in txs)
            pair.do("put_block", block, at, rng.randbytes(32), rng.choice((None, b"c")), pairs)
        elif kind == 4:
            pair.do("remove_blocks_above", rng.randrange(height))
        else:
            pair.do("append_event", "Happened", {"n": rng.randrange(9)}, height=height, source="test")


def one_group(pair: Pair, rng: Random) -> None:
    """A group on both stores at once, in which something may fail."""
    flush = rng.random() < 0.7
    try:
        with pair.stores[0].transaction(flush=flush), pair.stores[1].transaction(flush=flush):
            some_writes(pair, rng)
            if rng.random() < 0.2:
                raise WriterError
            some_writes(pair, rng)
    except WriterError:
        pass
    pair.compare()
    if not flush:
        pair.do("flush")
        pair.do("flushed")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_both_stores_answer_alike(seed: int) -> None:
    rng = Random(seed)
    with TemporaryDirectory(dir=TMP) as directory:
        pair = Pair(Path(directory))
        for _ in range(8):
            one_group(pair, rng)
            pair.compare()
            if rng.random() < 0.2:
                pair.do("close")
                pair.open()
                pair.compare()
        pair.do("close")


@pytest.mark.parametrize("mode", ["before", "after", "error"])
def test_both_stores_have_the_same_after_a_failing_commit(tmp_path: Path, mode: Any) -> None:
    pair = Pair(tmp_path)
    pair.do("set_meta", "a", b"kept")
    for disk in pair.disks:
        disk.arm(1, mode)
    pair.do("append_event", "Happened", {}, height=1, source="test")
    pair.do("set_meta", "a", b"perhaps")
    for disk in pair.disks:
        disk.lose_power()
    assert pair.do("get_meta", "a") is PowerLost
    assert pair.do("set_meta", "a", b"never") is PowerLost
    for disk in pair.disks:
        disk.mount_again()
    pair.open()
    pair.compare()
    assert pair.do("get_meta", "a") == (b"perhaps" if mode == "after" else b"kept")


def test_power_lost_within_a_group_leaves_nothing_of_it(tmp_path: Path) -> None:
    disk = Disk(Random(1), lambda: None, sqlite=False)
    store = disk.store_type()(tmp_path, genesis_hash=GENESIS, role="test")

    def write() -> None:
        with store.transaction():
            store.set_meta("a", b"1")
            disk.lose_power()

    with pytest.raises(PowerLost):
        write()
    disk.mount_again()
    again = disk.store_type()(tmp_path, genesis_hash=GENESIS, role="test")
    assert again.get_meta("a") is None


def test_a_torn_commit_in_memory_is_there_or_not(tmp_path: Path) -> None:
    found = set()
    for seed in range(60):
        disk = Disk(Random(seed), lambda: None, sqlite=False)
        store = disk.store_type()(tmp_path, genesis_hash=GENESIS, role="test")
        disk.arm(0, "torn")
        with pytest.raises(PowerLost):
            store.set_meta("a", b"1")
        disk.mount_again()
        again = disk.store_type()(tmp_path, genesis_hash=GENESIS, role="test")
        found.add((disk.failed[0], again.get_meta("a")))
    assert found == {("before", None), ("after", b"1")}


def test_another_chain_or_role_is_refused(tmp_path: Path) -> None:
    disk = Disk(Random(1), lambda: None, sqlite=False)
    disk.store_type()(tmp_path, genesis_hash=GENESIS, role="test")
    with pytest.raises(StoreError):
        disk.store_type()(tmp_path, genesis_hash=GENESIS, role="another")
    with pytest.raises(StoreError):
        disk.store_type()(tmp_path, genesis_hash=b"\x02" * 32, role="test")


def test_nothing_of_the_production_store_is_left_over() -> None:
    """What a user may call is either written anew, or known here to need no more than what is."""
    inherited = {
        name
        for name, _ in inspect.getmembers(Store, callable)
        if not name.startswith("_") and name not in vars(MemoryStore)
    }
    assert inherited == {"on_commit"}


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    disk = Disk(Random(1), lambda: None, sqlite=request.param == "sqlite")
    return disk.store_type()(tmp_path, genesis_hash=GENESIS, role="test")


def test_both_refuse_a_transaction_that_is_not_in_its_block(store: Store) -> None:
    with pytest.raises(ValueError, match="not found"):
        store.put_block(b"other", 1, bytes(32), None, [(TXS[0], receipt_of(TXS[0], 1))])


def test_both_have_no_event_0(store: Store) -> None:
    store.append_event("A", {}, height=1, source="s")
    assert [event.seq for event in store.events_from(0, 10)] == [1]


def test_a_small_value_flushes_what_came_before_in_both(store: Store) -> None:
    woken: list[int] = []
    store.on_commit(lambda: woken.append(1))
    with store.transaction(flush=False):
        store.append_event("A", {}, height=1, source="s")
    assert (store.last_seq(), woken) == (0, [])
    store.set_meta("key", b"value")
    assert (store.last_seq(), woken) == (1, [1])
