"""Signatures in worker processes: verdicts as in this process, also when workers die, hang or talk nonsense."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psutil
import pytest
import uvloop
from ledger import ALICE, BOB, transfer

from chainkit import keys, signature_pool, verify_worker
from chainkit.keys import KeyPair, verify
from chainkit.signature_pool import CHUNK, MOST, SMALL, SignaturePool
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


class Noting:
    """Notes of each signature in a request what is said of its key."""

    def __init__(self, transport: Any, flags: set[tuple[bytes, bytes]], size: int) -> None:
        self._transport, self._flags, self._size = transport, flags, size

    def write(self, request: bytes) -> None:
        for at in range(verify_worker.LENGTH_BYTES, len(request), self._size):
            self._flags.add((request[at : at + 1], request[at + 1 : at + 33]))
        self._transport.write(request)


def with_pool(
    workers: int, work: Callable[[SignaturePool], Awaitable[None]], **options: Any
) -> SignaturePool:
    async def run() -> SignaturePool:
        pool = SignaturePool(workers, **options)
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


@pytest.mark.parametrize(("workers", "requests"), [(1, [512, 90]), (2, [320, 282]), (3, [256, 256, 90])])
def test_a_body_is_shared_by_all_workers_in_few_requests(
    workers: int, requests: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = signature_pool._Worker.ask

    def note(worker: signature_pool._Worker, parts: object, size: int, *rest: Any) -> None:
        asked.append(size)
        ask(worker, parts, size, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(signature_pool._Worker, "ask", note)

    async def work(pool: SignaturePool) -> None:
        await check(pool, 602)
        assert sorted(asked, reverse=True) == requests
        asked.clear()
        singles, _ = some(CHUNK + 2)
        await asyncio.gather(*(pool.verify([tx]) for tx in singles))
        assert asked == ([CHUNK + 2] if workers == 1 else [CHUNK, 2])

    with_pool(workers, work)
    assert MOST * verify_worker.ITEM_BYTES <= verify_worker.MAX_REQUEST_BYTES


def test_what_a_busy_worker_has_no_room_for_is_checked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    here: list[int] = []

    def counted(transactions: Sequence[SignedTransaction], **options: Callable[[bytes], bool]) -> None:
        here.append(sum(tx._valid is None for tx in transactions))
        verify_signatures(transactions, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(signature_pool, "verify_signatures", counted)

    async def work(pool: SignaturePool) -> None:
        os.kill(pool.processes[0], signal.SIGSTOP)  # what it is given waits
        many, truth = some(2 * CHUNK)
        first = asyncio.create_task(pool.verify(many))
        await until(lambda: pool._workers[0].waiting == 2 * CHUNK)
        assert here == []  # there was room for them
        more, more_truth = some(CHUNK + 3)
        await pool.verify(more)
        assert [tx._valid for tx in more] == more_truth
        assert (sum(here), max(here)) == (CHUNK + 3, SMALL)  # and it let go in between
        os.kill(pool.processes[0], signal.SIGCONT)
        await first
        assert [tx._valid for tx in many] == truth
        assert sum(here) == CHUNK + 3
        assert (pool._left, pool.waiting) == (0, 0)

    with_pool(1, work, ahead=2 * CHUNK)


def test_what_waits_for_room_is_handed_over_once_there_is_some() -> None:
    async def work(pool: SignaturePool) -> None:
        await asyncio.gather(*[check(pool, 3 * CHUNK) for _ in range(5)])
        assert (pool._left, len(pool._backlog), pool.waiting) == (0, 0, 0)

    with_pool(2, work, ahead=1)


def test_a_pool_that_is_closed_leaves_nobody_waiting() -> None:
    async def work(pool: SignaturePool) -> None:
        os.kill(pool.processes[0], signal.SIGSTOP)
        asking = [asyncio.create_task(check(pool, 3 * CHUNK)) for _ in range(3)]
        await until(lambda: pool._helping is not None)
        os.kill(pool.processes[0], signal.SIGCONT)
        await pool.close()
        await asyncio.gather(*asking)

    with_pool(1, work, ahead=1)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_key_of_an_account_is_not_checked_again(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was as the account came to be; a key that is nobody's yet is checked, wherever its signature is."""
    alice, truth = some(CHUNK + 1)
    bob, bobs_truth = some_of(BOB, CHUNK + 1)
    checked: list[bytes] = []
    monkeypatch.setattr(keys, "is_valid_address", lambda key: checked.append(key) or True)
    flags: set[tuple[bytes, bytes]] = set()
    read = verify_worker.ITEM_BYTES
    write = signature_pool._Worker.ask

    def note(worker: signature_pool._Worker, *arguments: Any) -> None:
        sent = worker._transport
        worker._transport = Noting(sent, flags, read)
        write(worker, *arguments)
        worker._transport = sent

    monkeypatch.setattr(signature_pool._Worker, "ask", note)

    async def work(pool: SignaturePool) -> None:
        await pool.verify([*alice, *bob])
        assert [tx._valid for tx in [*alice, *bob]] == [*truth, *bobs_truth]

    with_pool(workers, work, accounts=lambda: {ALICE.address}.__contains__)
    assert flags == ({(b"\1", ALICE.address), (b"\0", BOB.address)} if workers else set())
    assert set(checked) == (set() if workers else {BOB.address})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_state_is_asked_of_a_key_until_it_has_an_account_and_then_no_more(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an account once had is a key in good order, whatever becomes of the state."""
    asked: list[bytes] = []
    accounts: set[bytes] = set()

    def is_account(key: bytes) -> bool:
        asked.append(key)
        return key in accounts

    async def work(pool: SignaturePool) -> None:
        async def asks() -> list[bytes]:
            asked.clear()
            for key in (ALICE, BOB):
                transactions, truth = some_of(key, 3)
                await pool.verify(transactions)
                assert [tx._valid for tx in transactions] == truth
            return asked

        both = [ALICE.address, BOB.address]
        assert await asks() == both
        accounts.add(ALICE.address)
        assert await asks() == both
        assert await asks() == [BOB.address], "the one that had none"
        accounts.clear()
        assert await asks() == [BOB.address]
        monkeypatch.setattr(signature_pool, "MOST_KEYS", 0)
        assert await asks() == both, "all was forgotten: too many"
        assert len(pool._known_keys) == 0

    with_pool(workers, work, accounts=lambda: is_account)


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


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_worker_that_says_too_much_is_not_heard_again(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """It is given nothing more, and what it goes on to say is no answer to what it was asked last."""

    class Killed:
        def kill(self) -> None:
            pass  # the signal is on its way

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            loop, gone = asyncio.get_running_loop(), asyncio.Event()
            worker = signature_pool._Worker(Killed(), lambda: None, lambda _: gone.set())  # type: ignore[arg-type]
            await loop.create_unix_connection(lambda: worker, sock=ours)
            first, second = loop.create_future(), loop.create_future()
            worker.ask([(some(1)[0], first)], 1, lambda _: False, 0.0)
            theirs.send(b"\1\1")
            assert await first == b"\1"
            worker.ask([(some(1)[0], second)], 1, lambda _: False, 0.0)
            with contextlib.suppress(OSError):
                theirs.send(b"\1")
            async with asyncio.timeout(SECONDS):
                await gone.wait()
            assert not second.done()
            assert [future for _, future in worker.owed] == [second], "the pool checks it"

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


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


@pytest.mark.parametrize("size", [1, 128, verify_worker.MAX_REQUEST_BYTES + verify_worker.ITEM_BYTES])
def test_a_request_that_is_none_ends_the_worker(size: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(size.to_bytes(4, "big") + bytes(min(size, 200)))
        with pytest.raises(ValueError, match="request"):
            verify_worker.serve(theirs)


def test_a_request_that_is_cut_short_is_not_answered() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall((2 * verify_worker.ITEM_BYTES).to_bytes(4, "big") + bytes(200))
        ours.shutdown(socket.SHUT_WR)
        verify_worker.serve(theirs)
        theirs.shutdown(socket.SHUT_WR)
        assert ours.recv(10) == b""
