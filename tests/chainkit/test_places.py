"""Where transactions stand: whatever is stored, taken back or removed, the index says what a plain search says."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit import places
from chainkit.block_rows import StoredTransaction
from chainkit.codec import encode
from chainkit.execution import Receipt
from chainkit.keys import dev_keypair
from chainkit.store import Store
from chainkit.transaction import Body, SignedTransaction, Transfer

ALICE = dev_keypair("alice")
TXS = [
    SignedTransaction.sign(Body(1, ALICE.address, nonce, 20_000, 50, 1, Transfer(ALICE.address, 1)), ALICE)
    for nonce in range(48)
]
Pairs = Sequence[tuple[SignedTransaction, Receipt]]


def receipt_of(tx: SignedTransaction, gas_used: int) -> Receipt:
    return Receipt(tx.id, gas_used > 0, "", "", gas_used, 0, [])


def open_store(path: Path) -> Store:
    store = Store(path, genesis_hash=bytes(32), role="test")
    store._run("PRAGMA synchronous=OFF")  # nothing crashes here
    return store


class Model:
    """The blocks in a list, searched from end to end."""

    def __init__(self) -> None:
        self.blocks: dict[int, Pairs] = {}

    def find(self, tx_id: bytes) -> StoredTransaction | None:
        """Where it ran, or else in the newest block that has it."""
        found = [
            (receipt.gas_used > 0, height, -position)
            for height, pairs in self.blocks.items()
            for position, (tx, receipt) in enumerate(pairs)
            if tx.id == tx_id
        ]
        if not found:
            return None
        _, height, position = max(found)
        tx, receipt = self.blocks[height][-position]
        return StoredTransaction(height, -position, tx.wire, receipt, bytes([height]) * 32, b"c%d" % height)


class Failure(Exception):  # noqa: N818
    """Of a test's own."""


def put(store: Store, height: int, pairs: Pairs, rng: Random) -> None:
    """A block in which the transactions stand with other bytes between them."""
    gaps = [rng.randbytes(rng.choice((0, 2, 2, 2, 5))) for _ in pairs]
    block = b"".join(gap + tx.wire for gap, (tx, _) in zip(gaps, pairs, strict=True)) + b"end"
    receipts = rng.choice((None, [encode(receipt) for _, receipt in pairs]))
    store.put_block(block, height, bytes([height]) * 32, b"c%d" % height, pairs, receipts)


def check(store: Store, model: Model) -> None:
    for tx in TXS:
        expected = model.find(tx.id)
        assert store.transaction_by_id(tx.id) == expected
        place = None if expected is None else (expected.height, expected.receipt.gas_used > 0)
        assert store.place_of(tx.id) == place
    for height, pairs in model.blocks.items():
        assert store.transaction_ids(height) == [tx.id for tx, _ in pairs]
        assert [(t.position, t.wire, t.receipt) for t in store.transactions_of(height)] == [
            (position, tx.wire, receipt) for position, (tx, receipt) in enumerate(pairs)
        ]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), portion=st.sampled_from([1, 4, 16]), few=st.booleans())
def test_it_says_what_a_search_through_all_blocks_says(seed: int, portion: int, few: bool) -> None:
    """Each transaction runs at most once and may be replayed anywhere, as on a rollup; chains go back, groups fail."""
    rng = Random(seed)
    model, waiting = Model(), list(TXS)
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "PORTION", portion)
        patch.setattr(places, "JOINED", rng.choice((2, 3)))
        if few:  # else a slice has hardly more than one id
            patch.setattr(places, "SLICES", 2)
            patch.setattr(places, "FINE", 2)
        store = open_store(Path(directory))
        for _ in range(25):
            kind = rng.randrange(10)
            head = max(model.blocks, default=0)
            if kind == 0:
                height = rng.randrange(head + 1)
                store.remove_blocks_above(height)
                model.blocks = {at: pairs for at, pairs in model.blocks.items() if at <= height}
                stand = {tx.id for pairs in model.blocks.values() for tx, r in pairs if r.gas_used}
                waiting = [tx for tx in TXS if tx.id not in stand]
            elif kind == 1:
                store.close()
                store = open_store(Path(directory))
            elif kind == 2:
                with suppress(Failure), store.transaction():
                    put(store, head + 1, [(tx, receipt_of(tx, 1)) for tx in waiting[:3]], rng)
                    store.remove_blocks_above(rng.randrange(head + 1))
                    raise Failure
            else:
                fresh = [(tx, receipt_of(tx, 1)) for tx in waiting[: rng.randrange(4)]]
                del waiting[: len(fresh)]
                replays = [(tx, receipt_of(tx, 0)) for tx in rng.choices(TXS, k=rng.randrange(3))]
                pairs = rng.sample([*fresh, *replays], len(fresh) + len(replays))
                model.blocks[head + 1] = pairs
                put(store, head + 1, pairs, rng)
            if rng.random() < 0.3:
                check(store, model)
        check(store, model)
        store.close()


def test_what_is_on_disk_of_it_is_in_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PORTION", 1)
    monkeypatch.setattr(places, "SLICES", 1)
    monkeypatch.setattr(places, "FINE", 1)
    store, rng = open_store(tmp_path), Random(1)
    for height, tx in enumerate(TXS, 1):
        put(store, height, [(tx, receipt_of(tx, 1))], rng)
    (rows,) = store._run("SELECT count(*) FROM places").fetchone()
    assert rows <= len(TXS) // places.JOINED + places.JOINED
    assert all(store.place_of(tx.id) == (height, True) for height, tx in enumerate(TXS, 1))
    store.remove_blocks_above(21)
    entries = b"".join(row[0] for row in store._run("SELECT entries FROM places"))
    assert len(entries) == 21 * (16 + 7), "what is gone is in no row"
    store.close()


def test_an_id_that_begins_like_another_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PORTION", 1)
    store = open_store(tmp_path)
    put(store, 1, [(TXS[0], receipt_of(TXS[0], 1))], Random(1))
    alike = TXS[0].id[:15] + bytes([TXS[0].id[15] ^ 1]) + TXS[0].id[16:]
    assert (store.place_of(alike), store.transaction_by_id(alike)) == (None, None)
    assert store.place_of(TXS[0].id) == (1, True)
    assert store.transaction_by_id(TXS[0].id[:16] + bytes(16)) is None, "nor if nearly all of it is"
    store.close()


def test_a_block_without_its_transactions_is_a_mistake(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    pairs = [(tx, receipt_of(tx, 1)) for tx in TXS[:2]]
    with pytest.raises(ValueError, match="not found"):
        store.put_block(TXS[1].wire + TXS[0].wire, 1, bytes(32), None, pairs)
    assert (store.head_height(), store.place_of(TXS[0].id)) == (0, None)
    store.close()


def test_ids_that_were_chosen_make_no_look_up_dearer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id is anybody's choice, at a few hashes for each bit: where it lies on disk must not follow from it."""
    monkeypatch.setattr(places, "PORTION", 512)
    read: list[int] = []
    for number, head in enumerate((b"", bytes(2))):
        store = open_store(tmp_path / str(number))
        rng = Random(number)
        for height in range(1, 40):
            with store.transaction():
                store._places.add(
                    height, [head + rng.randbytes(32 - len(head)) for _ in range(512)], b"\1" * 512
                )
        run, size = store._places._run, 0

        def counting(sql: str, values: tuple[object, ...] = (), run: Any = run) -> Any:
            nonlocal size
            rows = list(run(sql, values))
            size += sum(len(row[-1]) for row in rows if isinstance(row[-1], bytes))
            return iter(rows)

        monkeypatch.setattr(store._places, "_run", counting)
        for _ in range(20):
            assert store.place_of(bytes(2) + rng.randbytes(30)) is None
        read.append(size)
        store.close()
    honest, chosen = read
    assert 0 < chosen < 3 * honest
