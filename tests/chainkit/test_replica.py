"""The followed chain on disk: a restart goes on where it was, damage is refused, nothing is left out."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from l1_script import Script

from chainkit.chain import ExecutedBlock
from chainkit.codec import encode
from chainkit.execution import Receipt
from chainkit.replica import Replica
from chainkit.store import FILE_NAME, Store, StoreError


@pytest.fixture
def script() -> Script:
    return Script()


def blocks_of(script: Script) -> list[ExecutedBlock]:
    blocks: list[ExecutedBlock] = []
    for slot in range(1, 6):
        parent = blocks[-1] if blocks else script.genesis
        txs = [script.transfer(slot, parent)] if slot % 2 else []
        blocks.append(script.block(parent, slot, txs))
    return blocks


class Disk:
    def __init__(self, path: Path, script: Script) -> None:
        self.path, self.script = path, script
        self.replica = self.open()

    def open(self) -> Replica:
        store = Store(self.path, genesis_hash=self.script.chain.genesis_hash, role="l1-replica")
        try:
            return Replica(store, self.script.chain)
        except BaseException:
            store.close()
            raise

    def again(self) -> Replica:
        self.replica.store.close()
        self.replica = self.open()
        return self.replica

    def sql(self, statement: str, *values: object) -> None:
        self.replica.store.close()
        with sqlite3.connect(self.path / FILE_NAME) as db:
            assert db.execute(statement, values).rowcount > 0
        db.close()


@pytest.fixture
def disk(tmp_path: Path, script: Script) -> Iterator[Disk]:
    made = Disk(tmp_path / "data", script)
    yield made
    made.replica.store.close()


def test_an_empty_one_stands_at_genesis(disk: Disk, script: Script) -> None:
    assert disk.replica.tip.hash == script.genesis.hash
    assert list(disk.replica.busy_blocks()) == []
    assert disk.again().tip.hash == script.genesis.hash


def test_a_restart_after_every_block_changes_nothing(disk: Disk, script: Script) -> None:
    for block in blocks_of(script):
        disk.replica.append(block, script.certify(block))
        tip = disk.again().tip
        assert (tip.hash, tip.header, tip.tree.root) == (block.hash, block.header, block.tree.root)
        assert dict(tip.tree.items()) == dict(block.tree.items())
    busy = list(disk.replica.busy_blocks())
    assert [header.height for header, _ in busy] == [1, 3, 5]
    expected = [(b.transactions[0], b.receipts[0]) for b in blocks_of(script) if b.transactions]
    assert [pairs[0] for _, pairs in busy] == expected


def test_a_gap_is_refused(disk: Disk, script: Script) -> None:
    blocks = blocks_of(script)
    for wrong in (blocks[1], blocks[4], script.block(blocks[0], 9)):
        with pytest.raises(ValueError, match="does not follow"):
            disk.replica.append(wrong, script.certify(wrong))
    disk.replica.append(blocks[0], script.certify(blocks[0]))
    with pytest.raises(ValueError, match="does not follow"):
        disk.replica.append(blocks[0], script.certify(blocks[0]))
    assert disk.again().tip.hash == blocks[0].hash


def fill(disk: Disk) -> None:
    for block in blocks_of(disk.script):
        disk.replica.append(block, disk.script.certify(block))


DAMAGE: dict[str, Callable[[Disk], None]] = {
    "a part of the state": lambda d: d.sql("UPDATE state_parts SET items = x'91'"),
    "a part of the state in another order": lambda d: d.sql(
        "UPDATE state_parts SET items = ?", encode([(b"b", b"1"), (b"a", b"1"), (b"c", b"1")])
    ),
    "the base of the state gone": lambda d: d.sql("DELETE FROM state_parts"),
    "the last changes of the state gone": lambda d: d.sql("DELETE FROM state_log WHERE seq > 3"),
    "the last block": lambda d: d.sql("UPDATE blocks SET block = x'90' WHERE height = 5"),
    "another block": lambda d: d.sql(
        "UPDATE blocks SET block = (SELECT block FROM blocks WHERE height = 4) WHERE height = 5"
    ),
    "the last block gone": lambda d: d.sql("DELETE FROM blocks WHERE height = 5"),
    "a block gone": lambda d: d.sql("DELETE FROM blocks WHERE height = 2"),
    "an old block": lambda d: d.sql("UPDATE blocks SET block = x'c1' WHERE height = 3"),
    "a transaction gone": lambda d: d.sql("DELETE FROM transactions WHERE height = 3"),
    "a transaction short": lambda d: d.sql(
        "UPDATE transactions SET entries = substr(entries, 1, length(entries) - 1) WHERE height = 3"
    ),
    "a transaction's place": lambda d: d.sql(
        "UPDATE transactions SET entries = zeroblob(49) WHERE height = 3"
    ),
    "a receipt": lambda d: d.sql(
        "UPDATE transactions SET receipts = ? WHERE height = 3",
        encode(Receipt(b"\x01" * 32, True, "", "", 1, 1, [])),
    ),
    "no receipt": lambda d: d.sql("UPDATE transactions SET receipts = x'' WHERE height = 3"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused_with_what_to_do(disk: Disk, what: str) -> None:
    fill(disk)
    DAMAGE[what](disk)
    with pytest.raises(StoreError, match="delete the directory"):
        list(disk.open().busy_blocks())
