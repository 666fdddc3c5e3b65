"""The workload: the same seed is the same transactions, byte for byte; no money is lost; whatever fails is counted."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memory_lab import MemoryLab, apps_genesis

from chainkit.keys import dev_keypair
from chainkit.state import State, contract_address
from chainkit.transaction import Call, SignedTransaction
from layerlab.lab import agents
from layerlab.lab.agents import MARKET, MOST_AGENTS, Workload, WorkloadResult, run_workload
from layerlab.lab.tracker import Tracker

GENESIS = apps_genesis()


def nothing(_: str) -> None:
    return


def played(
    path: Path,
    *,
    count: int = 10,
    rounds: int = 2,
    seed: int = 7,
    before: Callable[[Workload], None] = lambda _: None,
) -> tuple[MemoryLab, WorkloadResult, int]:
    """Play it on a new chain; the chain, the result, and the height at which the rounds began.

    ``before`` may change the workload between its preparation and its rounds.
    """

    async def main() -> tuple[MemoryLab, WorkloadResult, int]:
        lab = MemoryLab(path, GENESIS)
        async with lab.sealing(), Tracker(lab.client, lab.now) as tracker:
            workload = Workload(tracker, count, rounds, seed, nothing)
            await workload.prepare()
            began = len(lab.backend.blocks)
            before(workload)
            result = await workload.run()
        await lab.close()
        return lab, result, began

    return asyncio.run(main())


def transactions(lab: MemoryLab, since: int = 0) -> list[SignedTransaction]:
    return [tx for block in lab.backend.blocks[since:] for tx in block.transactions]


def receipts(lab: MemoryLab, since: int = 0) -> list[Any]:
    return [receipt for block in lab.backend.blocks[since:] for receipt in block.receipts]


def methods(txs: list[SignedTransaction]) -> list[str]:
    return [tx.body.action.method for tx in txs if isinstance(tx.body.action, Call)]


# --- what is drawn ---


def test_the_same_seed_is_the_same_transactions_byte_for_byte(tmp_path: Path) -> None:
    one, first, _ = played(tmp_path / "1")
    two, second, _ = played(tmp_path / "2")
    assert [tx.wire for tx in transactions(one)] == [tx.wire for tx in transactions(two)]
    timeless = {"seconds": 0.0, "transactions_per_second": 0.0, "soft_p50": None, "soft_p95": None}
    assert replace(first, **timeless) == replace(second, **timeless)


def test_another_seed_is_other_agents_and_other_transactions(tmp_path: Path) -> None:
    one, _, _ = played(tmp_path / "1", seed=7)
    two, _, _ = played(tmp_path / "2", seed=8)
    assert not {tx.id for tx in transactions(one)} & {tx.id for tx in transactions(two)}
    funders = {dev_keypair(name).address for name in (*agents.FUNDERS, "judy")}
    strangers = [{tx.body.sender for tx in transactions(lab)} - funders for lab in (one, two)]
    assert strangers[0]
    assert not strangers[0] & strangers[1]


@pytest.mark.parametrize("seed", [0, 2**53 - 1])
def test_the_ends_of_the_seeds_work(tmp_path: Path, seed: int) -> None:
    _, result, _ = played(tmp_path, seed=seed, count=2, rounds=1)
    assert (result.calls, result.failed) == (1, 0)


# --- what is counted ---


def test_every_call_is_settled_and_every_transaction_counted(tmp_path: Path) -> None:
    lab, result, began = played(tmp_path, count=20, rounds=2)
    txs, all_receipts = transactions(lab, began), receipts(lab)
    assert all(receipt.success for receipt in all_receipts)
    assert (result.agents, result.calls, result.settled, result.failed) == (20, 40, 40, 0)
    assert result.transactions == len(txs)
    assert result.all_transactions == len(transactions(lab))
    done = methods(txs)
    assert done.count("request") == done.count("answer") == 40
    assert done.count("confirm") == done.count("rate") == 40 - result.disputed
    assert done.count("dispute") == done.count("rule") == result.disputed > 0
    assert result.soft_p50 is not None
    assert result.soft_p95 is not None
    assert result.soft_p50 <= result.soft_p95


def test_fees_are_what_receipts_say_and_no_money_is_lost(tmp_path: Path) -> None:
    lab, result, began = played(tmp_path, count=12, rounds=2)
    assert result.fees == sum(receipt.fee for receipt in receipts(lab, began))
    assert result.all_fees == sum(receipt.fee for receipt in receipts(lab))
    assert result.fee_per_call == result.fees // result.calls > 0
    state = State(lab.backend.blocks[-1].tree)
    assert state.account(contract_address(MARKET)).balance == 0  # all is settled: nothing is held in escrow
    people = {tx.body.sender for tx in transactions(lab)}
    funded = {account.address: account.balance for account in GENESIS.accounts}
    before = sum(funded.get(address, 0) for address in people)
    assert sum(state.account(address).balance for address in people) == before - result.all_fees


def test_no_agent_asks_itself_and_the_arbiter_sells_nothing(tmp_path: Path) -> None:
    lab, _, _ = played(tmp_path, count=6, rounds=2)
    assert {receipt.code for receipt in receipts(lab)} == {""}
    sellers = {tx.body.sender for tx in transactions(lab) if methods([tx]) == ["offer"]}
    assert len(sellers) == 1
    assert dev_keypair("judy").address not in sellers
    askers = [tx.body.sender for tx in transactions(lab) if methods([tx]) == ["request"]]
    assert not sellers & set(askers)
    assert len(askers) == 2 * 5


def test_no_rounds_are_no_calls(tmp_path: Path) -> None:
    _, result, _ = played(tmp_path, count=2, rounds=0)
    assert (result.calls, result.transactions, result.fees, result.fee_per_call) == (0, 0, 0, 0)
    assert (result.soft_p50, result.soft_p95) == (None, None)
    assert result.all_transactions == 3  # two agents funded, one offer


# --- what goes wrong ---


def test_calls_that_fail_on_the_chain_are_counted_and_no_call(tmp_path: Path) -> None:
    def underpay(workload: Workload) -> None:
        workload.prices = {offer: price - 1 for offer, price in workload.prices.items()}

    lab, result, began = played(tmp_path, count=10, rounds=1, before=underpay)
    assert (result.calls, result.settled, result.failed, result.fee_per_call) == (0, 0, 10, 0)
    assert {receipt.code for receipt in receipts(lab, began)} == {"price_above_max"}
    assert result.fees == sum(receipt.fee for receipt in receipts(lab, began)) > 0  # failing costs fees


def test_one_agent_that_fails_does_not_hold_up_the_others(tmp_path: Path) -> None:
    def overspend(workload: Workload) -> None:
        workload.agents[-1].nonce += 1  # the chain refuses a gap

    lab, result, began = played(tmp_path, count=10, rounds=1, before=overspend)
    assert (result.calls, result.settled) == (9, 9)
    assert result.failed == 1
    assert result.transactions == len(transactions(lab, began))


def test_without_offers_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "PRICES", (0, 0))
    _, result, _ = played(tmp_path, count=5, rounds=1)
    assert (result.calls, result.transactions) == (0, 0)


# --- what is refused ---


@pytest.mark.parametrize("count", [-1, 0, 1, MOST_AGENTS + 1, 10**9])
def test_a_wrong_number_of_agents_is_refused_before_anything_is_sent(tmp_path: Path, count: int) -> None:
    async def main() -> None:
        lab = MemoryLab(tmp_path, GENESIS)
        with pytest.raises(ValueError, match=rf"^give from 2 to {MOST_AGENTS} agents, not {count}$"):
            await run_workload(lab.client, lab.now, agents=count, rounds=1, seed=7, say=nothing)
        assert lab.backend.pool == []
        await lab.close()

    asyncio.run(main())


def test_progress_is_told_while_it_runs(tmp_path: Path) -> None:
    said: list[str] = []

    async def main() -> WorkloadResult:
        lab = MemoryLab(tmp_path, GENESIS)
        async with lab.sealing():
            result = await run_workload(lab.client, lab.now, agents=2, rounds=2, seed=7, say=said.append)
        await lab.close()
        return result

    shown = asyncio.run(main()).to_json()
    assert [line for line in said if line.startswith("round")] == [
        "round 1 of 2: 2 agents hire one another",
        "round 2 of 2: 2 agents hire one another",
    ]
    assert (shown["agents"], shown["calls"]) == (2, 2)
    assert set(shown) == set(WorkloadResult.__dataclass_fields__)
