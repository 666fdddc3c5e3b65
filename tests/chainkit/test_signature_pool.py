"""Signatures in worker processes: verdicts as in this process, also when workers die, hang or talk nonsense."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence

import psutil
import pytest
from ledger import ALICE, BOB, transfer

from chainkit import signature_pool, verify_worker
from chainkit.keys import KeyPair, verify
from chainkit.signature_pool import CHUNK, MOST, OWN_KEYS, OWN_SHARE, PLENTY, SMALL, SignaturePool
from chainkit.transaction import SignedTransaction, verify_signatures

SECONDS = 30.0


def forged(tx: SignedTransaction) -> SignedTransaction:
    """The same with one bit of the signature turned; not checked yet."""
    return SignedTransaction.decode(tx.wire[:-1] + bytes([tx.wire[-1] ^ 1]))


def some(count: int) -> tuple[list[SignedTransaction], list[bool]]:
    """Transactions of which every third is forged, and the true verdicts."""
    return some_of(ALICE, count)


def some_of(sender: KeyPair, count: int) -> tuple[list[SignedTransaction], list[bool]]:
    """`some` of a sender's."""
    good = [SignedTransaction.decode(transfer(sender, n, BOB.address, 5).wire) for n in range(count)]
    found = [forged(tx) if n % 3 == 1 else tx for n, tx in enumerate(good)]
    return found, [verify(tx.body.sender, tx.id, tx.signature) for tx in found]


def first_byte_below(bound: int) -> KeyPair:
    return next(key for n in range(256) if (key := KeyPair(bytes([n] * 32))).address[0] < bound)


def with_pool(workers: int, work: Callable[[SignaturePool], Awaitable[None]]) -> SignaturePool:
    async def run() -> SignaturePool:
        pool = SignaturePool(workers)
        await pool.start()
        async with asyncio.timeout(SECONDS):
            try:
                await work(pool)
            finally:
                await pool.close()
        return pool

    return asyncio.run(run())


async def check(pool: SignaturePool, count: int = 2 * CHUNK + 3) -> None:
    transactions, truth = some(count)
    await pool.verify(transactions)
    assert [tx._valid for tx in transactions] == truth
    assert any(truth)
    assert not all(truth)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_verdicts_are_those_of_this_process(workers: int) -> None:
    async def work(pool: SignaturePool) -> None:
        assert len(pool.processes) == workers
        await check(pool)
        await pool.verify([])
        singles, truth = some(20)
        await asyncio.gather(*(pool.verify([tx]) for tx in singles))
        assert [tx._valid for tx in singles] == truth
        assert pool.waiting == 0

    pool = with_pool(workers, work)
    assert pool.processes == []


@pytest.mark.parametrize(("workers", "requests"), [(1, [512, 90]), (2, [301, 301]), (3, [201, 201, 200])])
def test_a_body_is_shared_by_all_workers_in_few_requests(
    workers: int, requests: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = signature_pool._Worker.ask

    def note(
        worker: signature_pool._Worker, parts: Sequence[signature_pool._Part], size: int, now: float
    ) -> None:
        asked.append(size)
        ask(worker, parts, size, now)

    monkeypatch.setattr(signature_pool._Worker, "ask", note)

    async def work(pool: SignaturePool) -> None:
        await check(pool, 602)
        assert sorted(asked, reverse=True) == requests
        asked.clear()
        singles, _ = some(CHUNK + 2)
        await asyncio.gather(*(pool.verify([tx]) for tx in singles))
        assert asked == [CHUNK, 2]

    with_pool(workers, work)
    assert MOST * verify_worker.ITEM_BYTES <= verify_worker.MAX_REQUEST_BYTES


def test_behind_a_busy_worker_this_process_checks_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    here: list[int] = []

    def counted(transactions: Sequence[SignedTransaction]) -> None:
        here.append(len(transactions))
        verify_signatures(transactions)

    monkeypatch.setattr(signature_pool, "verify_signatures", counted)

    async def work(pool: SignaturePool) -> None:
        os.kill(pool.processes[0], signal.SIGSTOP)  # what it is given waits
        many, truth = some(PLENTY)
        first = asyncio.create_task(pool.verify(many))
        await until(lambda: pool._workers[0].waiting == PLENTY)
        assert here == []  # until now it had little to do
        more, more_truth = some_of(first_byte_below(OWN_KEYS), 100)
        others, others_truth = some_of(ALICE, 100)
        again = [asyncio.create_task(pool.verify(others)), asyncio.create_task(pool.verify(more))]
        await until(lambda: sum(here) == 100 // OWN_SHARE)  # of a sixth of the keys, and no more than a sixth
        await asyncio.sleep(0)
        assert sum(here) == 100 // OWN_SHARE
        assert max(here) <= SMALL
        os.kill(pool.processes[0], signal.SIGCONT)
        await asyncio.gather(first, *again)
        assert [tx._valid for tx in [*many, *more, *others]] == [*truth, *more_truth, *others_truth]

    with_pool(1, work)


def test_a_worker_that_is_killed_is_replaced_and_its_work_is_done() -> None:
    async def work(pool: SignaturePool) -> None:
        (first,) = pool.processes
        os.kill(first, signal.SIGSTOP)  # so that it surely owes when it dies
        asking = asyncio.create_task(check(pool, 5 * CHUNK))
        await until(lambda: pool.waiting > 0)
        os.kill(first, signal.SIGKILL)
        await asking
        await until(lambda: pool.processes not in ([], [first]))
        await check(pool)

    with_pool(1, work)


def test_a_worker_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_pool, "ANSWER_SECONDS", 0.2)

    async def work(pool: SignaturePool) -> None:
        (first,) = pool.processes
        os.kill(first, signal.SIGSTOP)
        await check(pool)
        await until(lambda: pool.processes not in ([], [first]))

    with_pool(1, work)


def test_without_workers_the_service_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts cannot serve: it ends at once, again and again."""
    monkeypatch.setattr(signature_pool, "MAX_DEATHS", 2)
    monkeypatch.setattr(sys, "executable", "/bin/false")

    async def work(pool: SignaturePool) -> None:
        await check(pool)
        await until(lambda: not pool.processes and not pool._tasks - {pool._watching})
        await check(pool)

    with_pool(1, work)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with_pool(2, check)


def test_answers_that_nobody_asked_for_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    liar = "import socket; s = socket.socket(fileno=0); s.recv(4); s.sendall(bytes([1]) * 100000); s.recv(1 << 20)"
    real = subprocess.Popen
    commands = [[sys.executable, "-c", liar]]

    def start(command: list[str], **options: object) -> object:
        return real(commands.pop() if commands else command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", start)

    async def work(pool: SignaturePool) -> None:
        (first,) = pool.processes
        transactions, _ = some(3)
        await pool.verify(transactions)
        await until(lambda: pool.processes not in ([], [first]))
        await check(pool)

    with_pool(1, work)


def test_a_client_that_goes_away_takes_nothing_with_it() -> None:
    async def work(pool: SignaturePool) -> None:
        transactions, _ = some(40)
        asking = asyncio.create_task(pool.verify(transactions))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await check(pool)

    with_pool(1, work)


def test_workers_end_with_a_parent_that_is_killed() -> None:
    program = (
        "import asyncio; from chainkit.signature_pool import SignaturePool\n"
        "async def main():\n"
        "    pool = SignaturePool(2); await pool.start(); print(*pool.processes, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        for worker in workers:
            worker.send_signal(signal.SIGINT)  # Ctrl-C reaches them too: they wait for the parent
        parent.kill()
        parent.wait()
    assert len(workers) == 2
    gone, alive = psutil.wait_procs(workers, timeout=SECONDS)
    assert (len(gone), alive) == (2, [])


@pytest.mark.parametrize("size", [1, 127, verify_worker.MAX_REQUEST_BYTES + 128])
def test_a_request_that_is_none_ends_the_worker(size: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(size.to_bytes(4, "big") + bytes(min(size, 200)))
        with pytest.raises(ValueError, match="request"):
            verify_worker.serve(theirs)


def test_a_request_that_is_cut_short_is_not_answered() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall((256).to_bytes(4, "big") + bytes(200))
        ours.shutdown(socket.SHUT_WR)
        verify_worker.serve(theirs)
        theirs.shutdown(socket.SHUT_WR)
        assert ours.recv(10) == b""
