"""The instants of soft and final inclusion: as blocks show them, whatever is refused, replaced, late or away."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_lab import MemoryLab

from chainkit.client import ApiError
from chainkit.keys import dev_keypair
from chainkit.transaction import Body, SignedTransaction, Transfer
from layerlab.lab.tracker import NotIncludedError, Tracker, percentile

SECONDS = 10.0
ALICE, BOB = dev_keypair("alice"), dev_keypair("bob")


def payment(nonce: int, amount: int = 1) -> SignedTransaction:
    body = Body(900, ALICE.address, nonce, 100_000, 100, 1, Transfer(BOB.address, amount))
    return SignedTransaction.sign(body, ALICE)


def in_lab(path: Path, act: Callable[[MemoryLab, Tracker], Awaitable[None]]) -> None:
    """Run a test with a tracker at work."""

    async def main() -> None:
        lab = MemoryLab(path)
        try:
            async with Tracker(lab.client, lab.now) as tracker:
                await act(lab, tracker)
            assert asyncio.all_tasks() == {asyncio.current_task()}  # nothing goes on reading
        finally:
            await lab.close()

    asyncio.run(main())


async def until(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not probe():
            await asyncio.sleep(0.005)


# --- instants ---


def test_soft_is_the_head_and_final_is_finality_on_the_clock_that_was_given(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        txs = [payment(0), payment(1)]
        lab.instant = 10.0
        await tracker.send(txs[:1])
        lab.instant = 11.0
        await tracker.send(txs[1:])
        lab.instant = 13.0
        lab.backend.seal()
        await tracker.wait([tx.id for tx in txs], "soft", SECONDS)
        assert tracker.latencies("soft") == [2.0, 3.0]
        assert tracker.latencies("final") == []
        lab.instant = 20.0
        lab.backend.seal(final=True)
        await tracker.wait([tx.id for tx in txs], "final", SECONDS)
        assert tracker.latencies("final") == [9.0, 10.0]
        assert tracker.latencies("soft") == [2.0, 3.0]

    in_lab(tmp_path, act)


def test_many_blocks_between_two_looks_are_all_read(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        txs = [payment(nonce) for nonce in range(3)]
        await tracker.send(txs[:1])
        lab.backend.seal()
        await tracker.send(txs[1:2])
        for _ in range(60):  # more than a page
            lab.backend.seal()
        await tracker.send(txs[2:])
        lab.backend.seal(final=True)
        await tracker.wait([tx.id for tx in txs], "final", SECONDS)
        assert len(tracker.soft) == len(tracker.final) == 3

    in_lab(tmp_path, act)


def test_blocks_of_before_and_other_peoples_transactions_are_nothing_to_it(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        await lab.client.submit(payment(0))
        await tracker.send([payment(1)])
        lab.backend.seal(final=True)
        await tracker.wait([payment(1).id], "final", SECONDS)
        assert set(tracker.soft) == set(tracker.final) == {payment(1).id}

    in_lab(tmp_path, act)


def test_what_a_fork_takes_back_is_final_only_where_it_came_in_again(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        tx = payment(0)
        await tracker.send([tx])
        lab.instant = 1.0
        lab.backend.seal()
        await tracker.wait([tx.id], "soft", SECONDS)
        lab.backend.blocks.pop()  # another block of that height wins, without it
        lab.instant = 2.0
        lab.backend.seal(slots=2, final=True)
        with pytest.raises(NotIncludedError, match=r"^1 transactions are not final after 0\.5 s$"):
            await tracker.wait([tx.id], "final", 0.5)
        lab.backend.pool.append(tx)
        lab.instant = 3.0
        lab.backend.seal(final=True)
        await tracker.wait([tx.id], "final", SECONDS)
        assert (tracker.soft[tx.id], tracker.final[tx.id]) == (1.0, 3.0)

    in_lab(tmp_path, act)


def test_what_a_fork_brings_into_a_height_that_was_read_is_not_missed(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        lab.backend.seal()
        await until(lambda: tracker._seen == 1)
        lab.backend.blocks.pop()
        tx = payment(0)
        await tracker.send([tx])
        lab.instant = 4.0
        lab.backend.seal(slots=2, final=True)
        await tracker.wait([tx.id], "final", SECONDS)
        await tracker.wait([tx.id], "soft", SECONDS)
        assert tracker.final[tx.id] == tracker.soft[tx.id] == 4.0

    in_lab(tmp_path, act)


def test_another_service_may_judge_what_is_final(tmp_path: Path) -> None:
    async def main() -> None:
        lab, verifier = MemoryLab(tmp_path / "a"), MemoryLab(tmp_path / "b")
        tx = payment(0)
        async with Tracker(lab.client, lab.now, verifier.client) as tracker:
            await tracker.send([tx])
            lab.backend.seal(final=True)  # says the operator
            await tracker.wait([tx.id], "soft", SECONDS)
            with pytest.raises(NotIncludedError):
                await tracker.wait([tx.id], "final", 0.3)
            verifier.backend.pool.append(tx)
            verifier.backend.seal(final=True)
            await tracker.wait([tx.id], "final", SECONDS)
        await lab.close()
        await verifier.close()

    asyncio.run(main())


# --- refusals ---


def test_what_is_refused_is_neither_counted_nor_waited_for(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        good, gap, poor = payment(0), payment(7), payment(1, 2**52)
        await tracker.send([good, gap, poor])
        assert set(tracker.sent) == {good.id}
        assert tracker.refused == {gap.id: "nonce_gap", poor.id: "insufficient_balance"}
        lab.backend.seal(final=True)
        await tracker.wait([good.id, gap.id, poor.id], "final", SECONDS)
        assert len(tracker.latencies("final")) == len(tracker.latencies("soft")) == 1

    in_lab(tmp_path, act)


def test_patience_counts_from_the_instant_of_being_accepted(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        rich, late = payment(0), None
        carol = dev_keypair("carol")
        body = Body(900, carol.address, 0, 100_000, 100, 1, Transfer(BOB.address, 1001 * 10**9))
        late = SignedTransaction.sign(body, carol)
        sending = asyncio.create_task(tracker.send([late], SECONDS))
        await until(lambda: late.id in tracker.refused)
        gift = Body(900, ALICE.address, 0, 100_000, 100, 1, Transfer(carol.address, 5 * 10**9))
        await lab.client.submit(SignedTransaction.sign(gift, ALICE))
        lab.instant = 5.0
        lab.backend.seal()
        await sending
        assert rich.id not in tracker.sent
        assert (tracker.sent, tracker.refused) == ({late.id: 5.0}, {})

    in_lab(tmp_path, act)


def test_patience_ends_and_is_for_poverty_alone(tmp_path: Path) -> None:
    async def act(_: MemoryLab, tracker: Tracker) -> None:
        poor, gap = payment(0, 2**52), payment(7)
        await tracker.send([gap], 3600.0)  # would wait for an hour
        await tracker.send([poor], 0.05)
        assert set(tracker.refused.values()) == {"nonce_gap", "insufficient_balance"}
        await tracker.wait([poor.id, gap.id], "soft", 0.0)

    in_lab(tmp_path, act)


def test_more_than_one_request_takes(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        txs = [payment(nonce) for nonce in range(205)]
        await tracker.send(txs)
        assert [tx.id for tx in lab.backend.pool] == [tx.id for tx in txs]
        lab.backend.seal(final=True)
        await tracker.wait([tx.id for tx in txs], "final", SECONDS)
        assert len(tracker.latencies("final")) == 205

    in_lab(tmp_path, act)


def test_what_was_forgotten_is_in_no_figure(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        await tracker.send([payment(0), payment(9)])
        tracker.forget()
        await tracker.send([payment(1)])
        lab.backend.seal(final=True)
        await tracker.wait([payment(1).id], "final", SECONDS)
        assert set(tracker.soft) == {payment(1).id}
        assert tracker.refused == {}

    in_lab(tmp_path, act)


# --- waiting in vain ---


@pytest.mark.parametrize(("stage", "word"), [("soft", "included"), ("final", "final")])
def test_waiting_in_vain_says_for_how_many(tmp_path: Path, stage: str, word: str) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        txs = [payment(0), payment(1), payment(2)]
        await tracker.send(txs[:1])
        lab.backend.seal(final=True)
        await tracker.send(txs[1:])
        with pytest.raises(NotIncludedError, match=rf"^2 transactions are not {word} after 0\.3 s$"):
            await tracker.wait([tx.id for tx in txs], stage, 0.3)  # type: ignore[arg-type]

    in_lab(tmp_path, act)


def test_nothing_to_wait_for_is_there_already(tmp_path: Path) -> None:
    async def act(_: MemoryLab, tracker: Tracker) -> None:
        await tracker.wait([], "final", 0.0)
        await tracker.wait([b"\x01" * 32], "final", 0.0)  # never sent

    in_lab(tmp_path, act)


# --- a node out of reach ---


@pytest.mark.parametrize("trouble", ["cut", "busy"])
def test_a_node_that_does_not_answer_for_a_while_is_asked_again(tmp_path: Path, trouble: str) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        tx = payment(0)
        await tracker.send([tx])
        setattr(lab.cable, trouble, True)
        await until(lambda: lab.cable.failures >= 3)
        lab.instant = 1.0
        lab.backend.seal(final=True)
        setattr(lab.cable, trouble, False)
        lab.instant = 2.0  # it is seen when it can be seen
        await tracker.wait([tx.id], "final", SECONDS)
        assert (tracker.soft[tx.id], tracker.final[tx.id]) == (2.0, 2.0)

    in_lab(tmp_path, act)


def test_a_node_that_stays_away_is_a_matter_of_time(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        await tracker.send([payment(0)])
        lab.cable.cut = True
        with pytest.raises(NotIncludedError):
            await tracker.wait([payment(0).id], "soft", 0.3)

    in_lab(tmp_path, act)


def test_a_node_that_cannot_be_reached_at_first_or_when_sending_is_an_api_error(tmp_path: Path) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        lab.cable.cut = True
        with pytest.raises(ApiError, match="unreachable"):
            await tracker.send([payment(0)])
        with pytest.raises(ApiError, match="unreachable"):
            async with Tracker(lab.client, lab.now):
                raise AssertionError("it must not come to this")

    in_lab(tmp_path, act)


def test_a_reader_that_breaks_is_told_to_whoever_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(lab: MemoryLab, tracker: Tracker) -> None:
        async def broken(*_: object) -> int:
            raise ApiError("not_json", 200, "the service answered something that is not JSON")

        await tracker.send([payment(0)])
        monkeypatch.setattr(lab.client, "height", broken)
        with pytest.raises(ApiError, match="not JSON"):
            await tracker.wait([payment(0).id], "soft", SECONDS)

    in_lab(tmp_path, act)


# --- percentiles ---


def test_percentiles_by_nearest_rank() -> None:
    values = [float(n) for n in range(1, 11)]
    assert [percentile(values, p) for p in (0, 1, 50, 90, 95, 100)] == [1.0, 1.0, 5.0, 9.0, 10.0, 10.0]
    assert percentile([], 50) is None
    assert percentile([3.0], 95) == 3.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers(1, 100))
def test_at_least_so_many_values_are_at_most_the_percentile(values: list[float], percent: int) -> None:
    values.sort()
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)
