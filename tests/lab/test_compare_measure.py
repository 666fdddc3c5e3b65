"""The arithmetic behind the figures: percentiles, instants, and what is left when idle use is taken away."""

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainkit.codec import encode, to_json
from chainkit.contract import NoArgs
from chainkit.genesis import load_contract
from chainkit.keys import dev_keypair
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from chainkit.views import signed_json
from layerlab.config import COIN, DevnetConfig
from layerlab.genesis import make_l1_genesis
from layerlab.lab.compare import meter, table
from layerlab.lab.compare.ledger import Ledger, Spending, wire_bytes
from layerlab.lab.compare.measure import Size, measure
from layerlab.lab.tracker import NotIncludedError, Tracker, percentile

# --- percentiles ---


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([3.0], 50, 3.0),
        ([3.0], 95, 3.0),
        ([1.0, 2.0], 50, 1.0),
        ([1.0, 2.0, 3.0], 50, 2.0),
        ([float(i) for i in range(1, 101)], 50, 50.0),
        ([float(i) for i in range(1, 101)], 95, 95.0),
        ([float(i) for i in range(1, 21)], 95, 19.0),
        ([1.0, 2.0, 3.0, 4.0], 100, 4.0),
        ([1.0, 2.0, 3.0, 4.0], 0, 1.0),
    ],
)
def test_the_nearest_rank(values: Sequence[float], percent: int, expected: float | None) -> None:
    assert percentile(values, percent) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers(1, 100))
def test_at_least_so_many_of_the_values_are_not_above_a_percentile(values: list[float], percent: int) -> None:
    found = percentile(sorted(values), percent)
    assert found in values
    assert 100 * sum(value <= found for value in values) >= percent * len(values)


# --- instants ---


class FakeChain:
    """A chain whose blocks a test makes, with a clock that it turns. ``refusals``: so often it has no money."""

    def __init__(self, refusals: int = 0) -> None:
        self.made: list[list[str]] = [[]]
        self.final_height = 0
        self.refusals = refusals
        self.time = 100.0

    def now(self) -> float:
        return self.time

    async def height(self, ref: str = "head") -> int:
        return len(self.made) - 1 if ref == "head" else self.final_height

    async def blocks(self, from_: int, limit: int) -> list[dict[str, Any]]:
        found = list(enumerate(self.made))[from_ : from_ + limit]
        return [{"height": height, "transactions": list(names)} for height, names in found]

    async def submit_many(self, chunk: Sequence[SignedTransaction]) -> list[Any]:
        broke, self.refusals = self.refusals > 0, self.refusals - 1
        code = "insufficient_balance" if broke else ""
        return [type("Answer", (), {"accepted": not broke, "code": code})() for _ in chunk]

    def block(self, *transactions: SignedTransaction) -> None:
        self.made.append(["0x" + tx.id.hex() for tx in transactions])


def payment(nonce: int) -> SignedTransaction:
    key = dev_keypair("alice")
    body = Body(901, key.address, nonce, 50_000, 9, 1, Transfer(dev_keypair("bob").address, 5))
    return SignedTransaction.sign(body, key)


def tracker_of(chain: FakeChain) -> Tracker:
    return Tracker(chain, chain.now)  # type: ignore[arg-type]


async def _latencies() -> None:
    chain, one, two = FakeChain(), payment(0), payment(1)
    async with tracker_of(chain) as tracker:
        await tracker.send([one])
        chain.time = 101.0
        await tracker.send([two])
        chain.time = 103.0
        chain.block(one, two)
        await tracker.wait([one.id, two.id], "soft", 5)
        assert tracker.latencies("soft") == [2.0, 3.0]
        assert tracker.latencies("final") == []
        chain.time = 110.0
        chain.final_height = 1
        await tracker.wait([one.id, two.id], "final", 5)
        assert tracker.latencies("final") == [9.0, 10.0]
        assert tracker.latencies("soft") == [2.0, 3.0]


def test_latency_is_from_sending_to_the_block_and_to_its_finality() -> None:
    asyncio.run(_latencies())


async def _moved() -> None:
    """A block of the head that was replaced: what counts is where the transaction became final."""
    chain, one, two = FakeChain(), payment(0), payment(1)
    async with tracker_of(chain) as tracker:
        await tracker.send([one, two])
        chain.block(one)
        await tracker.wait([one.id], "soft", 5)
        chain.made[1] = ["0x" + two.id.hex()]
        chain.block(one)
        chain.time, chain.final_height = 104.0, 1
        await tracker.wait([two.id], "final", 5)
        assert one.id not in tracker.final
        assert tracker.soft[two.id] == 104.0
        chain.time, chain.final_height = 105.0, 2
        await tracker.wait([one.id], "final", 5)
        assert tracker.final[one.id] == 105.0


def test_a_transaction_that_moved_to_another_block_is_final_there() -> None:
    asyncio.run(_moved())


async def _poor() -> None:
    chain, one = FakeChain(refusals=2), payment(0)
    async with tracker_of(chain) as tracker:
        await tracker.send([one], patience=5)
        assert tracker.refused == {}
        assert one.id in tracker.sent


def test_who_is_patient_sends_again_until_the_money_counts() -> None:
    asyncio.run(_poor())


async def _refused() -> None:
    chain, one = FakeChain(refusals=1000), payment(0)
    async with tracker_of(chain) as tracker:
        await tracker.send([one])
        assert tracker.refused == {one.id: "insufficient_balance"}
        assert tracker.sent == {}
        await tracker.wait([one.id], "soft", 5)


def test_what_is_refused_is_waited_for_by_nobody() -> None:
    asyncio.run(_refused())


async def _never() -> None:
    chain, one = FakeChain(), payment(0)
    async with tracker_of(chain) as tracker:
        await tracker.send([one])
        with pytest.raises(NotIncludedError, match="1 transactions are not included"):
            await tracker.wait([one.id], "soft", 0.1)
        tracker.forget()
        assert tracker.latencies("soft") == []


def test_what_never_comes_is_an_error_and_can_be_forgotten() -> None:
    asyncio.run(_never())


# --- use ---


def test_idle_use_is_taken_away_in_proportion_and_never_below_zero() -> None:
    idle = meter.Use(10.0, {"a": 1.0, "b": 2.0}, {"a": 1000, "b": 0})
    use = meter.Use(20.0, {"a": 5.0, "b": 3.0}, {"a": 1500, "b": 7})
    net = meter.without_idle(use, idle)
    assert net.cpu == {"a": 3.0, "b": 0.0}
    assert net.stored == {"a": 0, "b": 7}


def test_between_two_readings() -> None:
    first = meter.Reading(1.0, {"a": 1}, {"a": 0.5}, {"a": 10})
    last = meter.Reading(4.0, {"a": 1}, {"a": 2.0}, {"a": 25})
    assert meter.between(first, last) == meter.Use(3.0, {"a": 1.5}, {"a": 15})


def test_a_database_counts_by_its_pages_in_use_and_its_log_does_not(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "node.db")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE t (x BLOB)")
    database.execute("INSERT INTO t VALUES (?)", (b"x" * 100_000,))
    database.commit()
    full = meter.stored_bytes(tmp_path)
    assert full >= 100_000  # it is still in the log alone
    assert full % 4096 == 0
    (tmp_path / "lock").write_bytes(b"12345")
    assert meter.stored_bytes(tmp_path) == full + 5
    database.execute("DELETE FROM t")
    database.commit()
    assert meter.stored_bytes(tmp_path) < full
    database.close()


def test_nothing_is_stored_where_nothing_is(tmp_path: Path) -> None:
    assert meter.stored_bytes(tmp_path / "missing") == 0


# --- bytes on L1 ---


def test_the_size_of_a_transaction_whose_arguments_are_shown_by_name() -> None:
    genesis = make_l1_genesis(DevnetConfig(), 0)
    contracts = {spec.name: load_contract(spec) for spec in genesis.contracts}
    key = dev_keypair("alice")
    for action in (
        Transfer(key.address, 5),
        Call("bridge", "freeze", encode(NoArgs()), 0),
        Call("bridge", "submit_batch", b"\xff", 3),  # no arguments of that method: shown as hex
    ):
        tx = SignedTransaction.sign(Body(900, key.address, 0, 50_000, 9, 1, action), key)
        assert wire_bytes(contracts, to_json(signed_json(contracts, tx))) == len(tx.wire)


def test_spending_is_added_up_over_the_senders_that_are_asked_for() -> None:
    ledger = Ledger({b"a": Spending(1, 10, 100), b"b": Spending(2, 20, 200), b"c": Spending(4, 40, 400)})
    assert ledger.of({b"a", b"c", b"nobody"}) == Spending(5, 50, 500)


# --- for real ---


def test_a_real_workload_fills_every_column_that_workloads_fill() -> None:
    """Few agents on real services: what is looked for in a record is what a run puts there."""
    found = asyncio.run(measure("sovereign", Size(agents=4, rounds=1, idle_seconds=0.5), 7, lambda _: None))
    record = {"run": "cafe0000", "kind": "workload", "model": "sovereign", "verdict": "measured", **found}
    for part in table.build([record], {"sovereign": ()}):
        if not part.section.tried:
            assert [
                c.key
                for c, cell in zip(part.section.columns, part.rows[0].cells, strict=True)
                if not cell.text
            ] == []
            assert part.assumptions
    users, economics, burden = (found["measured"][name] for name in ("users", "economics", "burden"))
    assert 0 < users["soft_p50_s"] <= users["soft_p95_s"] <= users["final_p95_s"]
    assert users["failed"] == 0
    assert users["all_transactions"] > users["transactions"] > 0
    assert economics["users_fees_gwei"] == economics["operators_income_gwei"] + economics["burned_gwei"]
    assert economics["operators_income_gwei"] > 0
    assert burden["processes_own"] == 4
    assert burden["locked_own_gwei"] == 4_000 * COIN
    assert all(used > 0 for used in burden["cpu_s_by_service"].values())
    assert json.loads(json.dumps(found)) == found
