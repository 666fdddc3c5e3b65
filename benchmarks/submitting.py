"""Offering a rollup (or L1) signed transfers and finding out when every one of them is done.

Responsible for the two ways of submitting and for proving, after the clock has stopped, that everything which was
accepted stands in a block with a receipt. Must not know which figure it is for.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from benchmarks import load
from benchmarks.load import MSGPACK, LoadError, Reader
from chainkit.transaction import SignedTransaction

BULK: Final = 500
_ALL_ACCEPTED: Final = b'"accepted":true'
_WAIT: Final = ("mempool_full", "nonce_gap")
"""Refusals that mean: not now."""
_POLL: Final = 0.01
_SETTLE_SECONDS: Final = 120.0
_SAMPLE: Final = 200
_LAST_AGAIN: Final = 32


@dataclass(frozen=True)
class Sent:
    """``seconds`` from the first byte sent to the last receipt seen; ``accepted_seconds`` to the last answer."""

    count: int
    seconds: float
    accepted_seconds: float
    blocks: int
    again: int
    client_cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds


class _Answers:
    """Reads answers to submissions, and says what must be sent again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.again = 0
        self.last_again: deque[bytes] = deque(maxlen=_LAST_AGAIN)
        """The last one of each of the last bodies that were sent again."""

    def __call__(self, status: int, body: bytes, request: bytes) -> bytes | None:
        wires = _wires(request)
        if status == 202 and body.count(_ALL_ACCEPTED) == len(wires):
            return None
        if status == 503:
            self._note_again(wires)
            return request
        if status != 202:
            raise LoadError(f"a submission was answered with {status}: {body[:300]!r}")
        refused = []
        for wire, result in zip(wires, msgspec.json.decode(body)["results"], strict=True):
            if not result["accepted"]:
                if result["code"] not in _WAIT:
                    raise LoadError(f"a transfer was refused: {result}")
                refused.append(wire)
        self._note_again(refused)
        return load.post(self.url, "/transactions", MSGPACK, load.batch_body(refused))

    def _note_again(self, wires: Sequence[bytes]) -> None:
        self.again += len(wires)
        self.last_again.append(wires[-1])


def _wires(request: bytes) -> list[bytes]:
    return msgspec.msgpack.decode(request[request.index(b"\r\n\r\n") + 4 :], type=list[bytes])


class _SingleAnswers(_Answers):
    """The same for requests of one transaction each, most of which need no look at."""

    def __call__(self, status: int, body: bytes, request: bytes) -> bytes | None:
        if status == 202 and _ALL_ACCEPTED in body:
            return None
        return super().__call__(status, body, request)


def submit(
    url: str,
    wires: Sequence[bytes],
    *,
    per_request: int,
    connections: int,
    final: bool = False,
    at_end: Callable[[], None] = lambda: None,
) -> Sent:
    """Send everything, wait until all of it is in blocks (``final``: in final blocks), and check that it is.

    The clock stops when the last transfers have receipts; asking for each would take as long as a fifth of the run.
    ``at_end`` is called then, before the check, which reads every block up to that instant's head. Raises `LoadError`.
    """
    groups = [wires[i : i + per_request] for i in range(0, len(wires), per_request)]
    requests = [load.post(url, "/transactions", MSGPACK, load.batch_body(group)) for group in groups]
    # The last of each of the last requests: bodies arrive in any order, what is in one stands in blocks in its order.
    tail = [group[-1] for group in groups[-2 * connections :]]
    return load.run(_submit(url, requests, tail, wires, connections, per_request, final, at_end))


async def _submit(
    url: str,
    requests: Sequence[bytes],
    tail: Sequence[bytes],
    wires: Sequence[bytes],
    connections: int,
    per_request: int,
    final: bool,
    at_end: Callable[[], None],
) -> Sent:
    reader = await Reader.open(url)
    try:
        first = await _height(reader, "head")
        answers = (_SingleAnswers if per_request == 1 else _Answers)(url)
        begin, cpu = time.perf_counter(), time.process_time()
        await load.send_all(url, requests, connections, answers)
        accepted = time.perf_counter() - begin
        cpu = time.process_time() - cpu
        await _settled(reader, [*tail, *answers.last_again], final)
        seconds = time.perf_counter() - begin
        at_end()
        last = await _height(reader, "head")
        await _check(reader, wires, first, last)
        return Sent(len(wires), seconds, accepted, last - first, answers.again, cpu)
    finally:
        reader.close()


async def _height(reader: Reader, ref: str) -> int:
    head = (await reader.get("/status"))["heads"][ref]
    return 0 if head is None else int(head["height"])


async def _settled(reader: Reader, tail: Sequence[bytes], final: bool) -> None:
    """Until every one of ``tail`` has a receipt (in a final block)."""
    waiting = ["0x" + SignedTransaction.decode(wire).id.hex() for wire in tail]
    deadline = time.monotonic() + _SETTLE_SECONDS
    while waiting:
        view = await reader.get(f"/transactions/{waiting[-1]}", missing=True)
        if view is not None and view["receipt"] is not None and (not final or view["status"] == "finalized"):
            waiting.pop()
            continue
        if time.monotonic() > deadline:
            raise LoadError(
                f"{len(waiting)} of the last transfers have no receipt after {_SETTLE_SECONDS:g} s"
            )
        await asyncio.sleep(_POLL)


async def _check(reader: Reader, wires: Sequence[bytes], first: int, last: int) -> None:
    """Every transaction stands in one of the blocks; of a sample the receipts are good and signed."""
    ids = ["0x" + SignedTransaction.decode(wire).id.hex() for wire in wires]
    found: list[str] = []
    for start in range(first + 1, last + 1, 10):
        answer = await reader.get(f"/blocks?from={start}&limit={min(10, last + 1 - start)}")
        for block in answer["blocks"]:
            found += block["transactions"]
    missing = set(ids) - set(found)
    if missing or len(found) != len(set(found)):
        raise LoadError(f"{len(missing)} of {len(ids)} transfers are in no block, {len(found)} are in blocks")
    for tx_id in ids[:: max(1, len(ids) // _SAMPLE)]:
        view: Any = await reader.get(f"/transactions/{tx_id}")
        if not view["receipt"]["success"]:
            raise LoadError(f"a transfer failed: {view['receipt']}")
        if "sequencer_receipt" in view and view["sequencer_receipt"] is None:
            raise LoadError(f"transfer {tx_id} has no signed receipt")
