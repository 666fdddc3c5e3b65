"""From sending a transfer to having its signed receipt, at 500 transfers a second offered.

Services: L1 with one validator, the sequencer. Open loop: transfer i is due at i / 500 s, whatever became of the
others, and its time counts from when it was due (so a service that stalls is not spared the queue). The receipt of
every tenth is asked for every 2 ms from the answer to its submission on: that is the resolution, and it is paid for
by the service (the polls are counted).
"""

import asyncio
import time
from collections.abc import Sequence
from statistics import quantiles

from benchmarks import load, workload
from benchmarks.l2_bulk import SERVICES
from benchmarks.lab import Figures, Lab, milliseconds
from benchmarks.load import MSGPACK, Connection, LoadError
from benchmarks.stack import rollup_config, running
from chainkit.transaction import SignedTransaction

PER_SECOND = 500
CONNECTIONS = 16
SAMPLED = 10
POLL_SECONDS = 0.002
WARM_SECONDS = 1
PATIENCE_SECONDS = 10.0


def run(lab: Lab) -> Figures:
    config = rollup_config()
    accounts, seconds = lab.size(10_000, 500), lab.size(10, 2)
    wires = workload.transfers(
        workload.Plan(config.l2_chain_id, accounts, PER_SECOND * (seconds + WARM_SECONDS))
    )
    with running(config, SERVICES, lab.say, l2_accounts=accounts, more=lab.sequencer_options()) as stack:
        found, polls = load.run(_offer(stack.url("sequencer"), wires))
    waits = found[WARM_SECONDS * PER_SECOND // SAMPLED :]
    cuts = quantiles(waits, n=100)
    lab.details |= {
        "samples": len(waits),
        "polls_per_second": polls / (seconds + WARM_SECONDS),
        "worst_ms": max(waits) * 1e3,
    }
    return {"p50": milliseconds(cuts[49]), "p99": milliseconds(cuts[98])}


async def _offer(url: str, wires: Sequence[bytes]) -> tuple[list[float], int]:
    """Seconds of each sampled transfer, in the order in which they were due; and how many polls it took."""
    requests = [load.post(url, "/transactions", MSGPACK, load.batch_body([wire])) for wire in wires]
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await load.connect(url))
    readers = [await load.Reader.open(url) for _ in range(4)]
    begin = time.perf_counter() + 0.1
    waits: dict[int, float] = {}
    polls = 0

    async def one(i: int) -> None:
        nonlocal polls
        connection = await free.get()
        try:
            status, body = await connection.ask(requests[i])
        finally:
            free.put_nowait(connection)
        if status != 202 or b'"accepted":true' not in body:
            raise LoadError(f"a transfer was answered with {status}: {body[:200]!r}")
        if i % SAMPLED:
            return
        path = f"/transactions/0x{SignedTransaction.decode(wires[i]).id.hex()}"
        due, locked = begin + i / PER_SECOND, locks[i // SAMPLED % len(readers)]
        while True:
            async with locked:
                view = await readers[i // SAMPLED % len(readers)].get(path, missing=True)
            polls += 1
            waited = time.perf_counter() - due
            if view is not None and view["receipt"] is not None:
                waits[i] = waited
                return
            if waited > PATIENCE_SECONDS:
                raise LoadError(f"no receipt after {waited:.0f} s")
            await asyncio.sleep(POLL_SECONDS)

    locks = [asyncio.Lock() for _ in readers]
    async with asyncio.TaskGroup() as tasks:
        for i in range(len(wires)):
            ahead = begin + i / PER_SECOND - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            tasks.create_task(one(i))
    for reader in readers:
        reader.close()
    while not free.empty():
        free.get_nowait().close()
    return [waits[i] for i in sorted(waits)], polls
