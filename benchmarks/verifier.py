"""Transfers a second that a verifier derives from L1 and compares, alone on the machine.

The same transfers as in `l2_bulk`. Services: L1 with one validator (0.2 s slots) and the sequencer until every batch is
in a final L1 block; then the sequencer ends and a verifier starts with nothing on its disk. The clock runs from its
first answer over HTTP until its safe head is the sequencer's; what it had done before that answer does not count.
"""

import time

import httpx

from benchmarks import workload
from benchmarks.l2_bulk import SERVICES
from benchmarks.lab import Figures, Lab, microseconds, rate
from benchmarks.load import LoadError
from benchmarks.posted import PATIENCE_SECONDS, transfers_in, wait_posted
from benchmarks.stack import Stack, rollup_config, running
from benchmarks.submitting import BULK, submit


def run(lab: Lab) -> Figures:
    config = rollup_config(slot_ms=200)
    accounts, count = lab.size(10_000, 500), lab.size(100_000, 3_000)
    wires = workload.transfers(workload.Plan(config.l2_chain_id, accounts, count))
    with running(config, SERVICES, lab.say, l2_accounts=accounts, more=lab.sequencer_options()) as stack:
        submit(stack.url("sequencer"), wires, per_request=BULK, connections=2)
        height = wait_posted(stack)
        per_block = {h: transfers_in(stack, h, h) for h in range(1, height + 1)}
        stack.stop("sequencer")
        begun = time.perf_counter()
        stack.devnet.supervisor.start("verifier")
        first = _safe(stack, 0)
        since, cpu = time.perf_counter(), stack.usage("verifier").cpu_seconds
        _safe(stack, height)
        spent = time.perf_counter() - since
        cpu = stack.usage("verifier").cpu_seconds - cpu
    done = sum(number for h, number in per_block.items() if h > first)
    if not done:
        raise LoadError("the verifier was done before it answered; give it more to do")
    lab.details |= {"counted": done, "first_answer_after": since - begun}
    return {"rate": rate(done / spent), "cpu": microseconds(cpu / done)}


def _safe(stack: Stack, wanted: int) -> int:
    """The verifier's safe height once it answers and that is at least ``wanted``."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            height = stack.head("verifier", "safe")
        except httpx.HTTPError:
            height = -1
        if height >= wanted:
            return height
        time.sleep(0.01)
    raise LoadError(f"the verifier has not reached block {wanted} after {PATIENCE_SECONDS:g} s")
