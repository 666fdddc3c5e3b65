"""Checking many signatures at once: in worker processes, or with none of them in this one.

Responsible for handing signatures to workers, for the order of their answers, and for going on when a worker
dies, hangs or talks nonsense: what it owed is checked again, by another or here, and another takes its place.
Must not know what is signed. What is valid, `chainkit.keys.verify` says, wherever it runs.

A worker is another process and not a thread because of Python's lock: with the checks outside, this process has
all of its one core for execution, and the next request is checked while this one runs.

What makes it fast: to send a request, to wake up for its answer and to go on costs as much as to read twenty
transactions. So a body is one request to each worker, single transactions of one turn of the loop are one together,
and verdicts stay bytes until all of a body are there. A worker is given as much as keeps it busy while this process
executes a block; the rest waits here, and this process checks of it what it can between its other work, and all it can
while it has none: so none of the two waits for the other.
"""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Final, cast

from chainkit.codec import Address
from chainkit.transaction import IsAccount, SignedTransaction, no_account, verify_signatures
from chainkit.verify_worker import ITEM_BYTES, KNOWN, LENGTH_BYTES, UNKNOWN, VALID

CHUNK: Final = 64
"""Signatures that stay together, about 4 ms of work: no fewer are shared out between workers."""
MOST: Final = 512
"""In one request: the largest body is then two, and who has owed an answer for long has not said a word."""
SMALL: Final = 16
"""So many are checked in this process before others have their turn: about a millisecond."""
AHEAD: Final = 1024
"""So many a worker is given to check: it goes on for as long as this process takes for a block."""
ANSWER_SECONDS: Final = 10.0
"""A worker that owes an answer for so long is given up."""
QUEUE_BYTES: Final = 1024 * 1024
"""Room for requests between the processes, as far as the system grants it: what is written there a worker has, however
long this process executes. The rest it gets at the next turn of the loop."""
END_SECONDS: Final = 1.0
MOST_KEYS: Final = 65_536
"""Senders that are remembered: about 8 MB."""
MAX_DEATHS: Final = 8
"""After so many the pool goes on without workers: something on this machine kills them."""
MAX_DEFAULT: Final = 4

_log = logging.getLogger("layerlab.signatures")


def default_workers() -> int:
    """One fewer than this process has cores, four at most: execution takes the core that is left."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores - 1, MAX_DEFAULT)


_Items = Sequence[SignedTransaction]
_Part = tuple[_Items, asyncio.Future[bytes]]


class _Worker(asyncio.Protocol):
    """One worker process, seen from here: what it owes, and its answers as they come."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        has_room: Callable[[], None],
        lost: Callable[["_Worker"], None],
    ) -> None:
        self.process = process
        self.owed: deque[_Part] = deque()
        self.waiting = 0  # signatures in `owed`
        self.progress = 0.0  # when it last answered, or was asked while it owed nothing
        self._has_room = has_room
        self._lost = lost
        self._answers = b""
        self._transport: asyncio.WriteTransport | None = None

    def ask(self, parts: Sequence[_Part], size: int, is_known: IsAccount, now: float) -> None:
        """One request for the ``size`` signatures of these parts."""
        assert self._transport is not None
        if not self.owed:
            self.progress = now
        pieces = [(ITEM_BYTES * size).to_bytes(LENGTH_BYTES, "big")]
        for transactions, _ in parts:
            for tx in transactions:
                sender = tx.body.sender
                pieces += (KNOWN if is_known(sender) else UNKNOWN, sender, tx.id, tx.signature)
        self.owed.extend(parts)
        self.waiting += size
        self._transport.write(b"".join(pieces))

    def close(self) -> None:
        """End it: it ends when it sees that nobody asks any more."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        answers = self._answers + data
        self.progress = asyncio.get_running_loop().time()
        while self.owed and len(self.owed[0][0]) <= len(answers):
            transactions, future = self.owed.popleft()
            count = len(transactions)
            self.waiting -= count
            if not future.done():
                future.set_result(answers[:count])
            answers = answers[count:]
        self._answers = answers
        if answers and not self.owed:
            # It says more than it was asked: nothing that it says is to be believed, nor heard until it is dead.
            assert self._transport is not None
            self.process.kill()
            self._transport.abort()
            return
        self._has_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self)


class SignaturePool:
    """Checks signatures for an event loop. ``workers`` processes are started by `start` and ended by `close`.

    With 0 workers, before `start` and after `close`, everything is done in this process.
    """

    def __init__(
        self,
        workers: int = 0,
        accounts: Callable[[], IsAccount] = lambda: no_account,
        ahead: int = AHEAD,
    ) -> None:
        """``accounts`` gives what `chainkit.transaction.verify_signatures` calls ``is_account``, as it is just then.
        ``ahead``: how many signatures a worker is given at once."""
        self._wanted = workers
        self._accounts = accounts
        self._ahead = ahead
        self._known_keys: set[Address] = set()
        self._workers: list[_Worker] = []
        self._deaths = 0
        self._closed = False
        self._backlog: deque[_Part] = deque()
        self._left = 0  # signatures in it
        self._helping: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self.waiting = 0
        """Signatures that are being checked, or wait for it."""

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    async def start(self) -> None:
        """Start the workers. One that cannot be started is done without, with a warning."""
        for _ in range(self._wanted):
            await self._start_one()
        if self._workers:
            self._watching = self._spawn(self._watch())

    async def verify(self, transactions: _Items) -> None:
        """Check the signatures: `SignedTransaction.signature_valid` answers at once afterwards."""
        count = len(transactions)
        self.waiting += count
        try:
            if self._workers:
                parts = [transactions[start : start + CHUNK] for start in range(0, count, CHUNK)]
                answers = [self._put(part) for part in parts]
                verdicts = b"".join([await answer for answer in answers])
                for tx, verdict in zip(transactions, verdicts, strict=True):
                    tx.note_signature(verdict == VALID)
            else:
                await self._verify_by_and_by(transactions)
        finally:
            self.waiting -= count

    async def close(self) -> None:
        """End the workers; what they owe is checked here."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        while self._backlog:
            _verify_here(*self._take())
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()
        for worker in workers:
            await _end(worker.process)

    async def _verify_by_and_by(self, transactions: _Items) -> None:
        """Here and not in a thread: beside a busy one that waits milliseconds for Python's lock, each time."""
        for start in range(0, len(transactions), SMALL):
            small = transactions[start : start + SMALL]
            verify_signatures(small, is_account=self._known(small))
            await asyncio.sleep(0)

    def _known(self, transactions: Iterable[SignedTransaction]) -> IsAccount:
        """Tells of their senders whether the key is known to be in good order. It stays so whatever becomes of a state:
        of a key that had an account once, no state is asked again."""
        known = self._known_keys
        if len(known) > MOST_KEYS:
            known.clear()
        strangers = {tx.body.sender for tx in transactions} - known
        if strangers:
            known.update(filter(self._accounts(), strangers))
        return known.__contains__

    # --- handing over ---

    def _put(self, part: _Items) -> asyncio.Future[bytes]:
        """The verdicts on these, at most `CHUNK`, once they are there."""
        loop = asyncio.get_running_loop()
        if not self._backlog:  # the first of this turn of the loop sends for all
            loop.call_soon(self._hand_over)
        answer: asyncio.Future[bytes] = loop.create_future()
        self._backlog.append((part, answer))
        self._left += len(part)
        return answer

    def _take(self) -> _Part:
        part = self._backlog.popleft()
        self._left -= len(part[0])
        return part

    def _hand_over(self) -> None:
        """Give the workers what they have room for, in few requests; what is left is begun here."""
        chunks = -(-self._left // (CHUNK * max(1, len(self._workers))))
        most = min(MOST, CHUNK * chunks)
        while self._backlog and self._workers:
            worker = min(self._workers, key=lambda worker: worker.waiting)
            if worker.waiting >= self._ahead:
                break
            request = [self._take()]
            size = len(request[0][0])
            while self._backlog and size + len(self._backlog[0][0]) <= most:
                request.append(self._take())
                size += len(request[-1][0])
            is_known = self._known([tx for part, _ in request for tx in part])
            worker.ask(request, size, is_known, asyncio.get_running_loop().time())
        if self._backlog and (self._helping is None or self._helping.done()):
            self._helping = self._spawn(self._help())

    async def _help(self) -> None:
        """Check what no worker has room for, the oldest first."""
        while self._backlog:
            part, answer = self._take()
            try:
                await self._verify_by_and_by(part)
            finally:  # also when the pool is closed meanwhile
                _verify_here(part, answer)

    # --- a worker's life ---

    async def _start_one(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
        command = [sys.executable, "-m", "chainkit.verify_worker"]
        try:
            with theirs:
                process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
        except OSError as error:
            ours.close()
            _log.warning("a signature worker cannot be started: %s", error)
            return
        worker = _Worker(process, self._hand_over, self._lose)
        await asyncio.get_running_loop().create_unix_connection(lambda: worker, sock=ours)
        self._workers.append(worker)

    def _lose(self, worker: _Worker) -> None:
        """The worker is gone: what it owes comes before all that waits, and another takes its place."""
        if worker in self._workers:
            self._workers.remove(worker)
        worker.process.kill()
        owed, worker.owed = worker.owed, deque()
        if self._closed:
            for part in owed:
                _verify_here(*part)
            return
        self._backlog.extendleft(reversed(owed))
        self._left += worker.waiting
        self._hand_over()
        self._deaths += 1
        _log.warning("signature worker %d is lost", worker.process.pid)
        if self._deaths <= MAX_DEATHS:
            self._spawn(self._replace(worker))
        elif not self._workers:
            _log.error("signature workers die again and again: going on without them")

    async def _replace(self, worker: _Worker) -> None:
        await _end(worker.process)
        await self._start_one()

    async def _watch(self) -> None:
        """Kill workers that hang: `_lose` does the rest."""
        while True:
            await asyncio.sleep(ANSWER_SECONDS / 4)
            latest = asyncio.get_running_loop().time() - ANSWER_SECONDS
            for worker in self._workers:
                if worker.owed and worker.progress < latest:
                    worker.process.kill()

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name="signature-workers")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _verify_here(transactions: _Items, future: asyncio.Future[bytes]) -> None:
    verify_signatures(transactions)
    if not future.done():
        future.set_result(bytes([VALID if tx.signature_valid() else 0 for tx in transactions]))


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that should end by itself; after `END_SECONDS` it is killed."""
    deadline = asyncio.get_running_loop().time() + END_SECONDS
    while process.poll() is None:
        if asyncio.get_running_loop().time() > deadline:
            process.kill()
        await asyncio.sleep(0.01)
