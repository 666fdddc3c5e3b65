"""A sequencer with 10^6 accounts: how long it takes to start with them on disk, and how much memory it has.

Services: L1 with one validator, the sequencer. It starts once with nothing (not timed), takes 2,000 transfers, ends,
and starts again: from the start of its process until it is ready. Memory (shared pages once) is that of all its
processes after 2,000 more.
"""

import time

from benchmarks import workload
from benchmarks.l2_bulk import SERVICES
from benchmarks.lab import Figures, Lab, plain
from benchmarks.stack import rollup_config, running
from benchmarks.submitting import BULK, submit

FIRST_START_SECONDS = 600.0
TRANSFERS = 2_000


def run(lab: Lab) -> Figures:
    config = rollup_config()
    accounts = lab.size(1_000_000, 2_000)
    plan = workload.Plan(config.l2_chain_id, TRANSFERS, TRANSFERS)
    again = workload.Plan(config.l2_chain_id, TRANSFERS, TRANSFERS, first_nonce=1)
    if not lab.quick:
        lab.say("  a genesis of 10^6 accounts")
    began = time.perf_counter()
    with running(
        config,
        SERVICES,
        lab.say,
        l2_accounts=accounts,
        more=lab.sequencer_options(),
        seconds=FIRST_START_SECONDS,
    ) as stack:
        first = time.perf_counter() - began
        submit(stack.url("sequencer"), workload.transfers(plan), per_request=BULK, connections=2)
        stack.stop("sequencer")
        begin = time.perf_counter()
        stack.start(["sequencer"], FIRST_START_SECONDS)
        start = time.perf_counter() - begin
        submit(stack.url("sequencer"), workload.transfers(again), per_request=BULK, connections=2)
        memory = stack.usage("sequencer").memory_bytes
        validator = stack.usage("validator-0").memory_bytes
    return {
        "start": plain(start, "s"),
        "memory": plain(memory / 2**20, "MiB"),
        "validator_memory": plain(validator / 2**20, "MiB"),
        "first_start": plain(first, "s"),
    }
