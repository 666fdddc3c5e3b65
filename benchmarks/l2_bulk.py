"""L2 transfers a second end to end, submitted 500 a request as MessagePack; and what they cost.

Services: L1 with one validator, the sequencer. Nobody else. 100,000 transfers, signed beforehand, among 10,000
accounts. The clock runs from the first byte sent until the last receipt is visible over HTTP, which is when its
block is on disk; afterwards every transfer is looked for in the blocks. CPU is that of all of the sequencer's
processes over the same time; put beside the CPU time of one verification, it also says which part of it is inside
libsodium.
"""

from benchmarks import workload
from benchmarks.lab import Figures, Lab, microseconds, plain, rate
from benchmarks.stack import rollup_config, running
from benchmarks.submitting import BULK, submit

SERVICES = ["validator-0", "sequencer"]
CONNECTIONS = 8


def run(lab: Lab) -> Figures:
    config = rollup_config()
    accounts, count = lab.size(10_000, 500), lab.size(100_000, 2_000)
    wires = workload.transfers(workload.Plan(config.l2_chain_id, accounts, count))
    with running(config, SERVICES, lab.say, l2_accounts=accounts, more=lab.sequencer_options()) as stack:
        usage = [stack.usage("sequencer")]
        sent = submit(
            stack.url("sequencer"),
            wires,
            per_request=BULK,
            connections=CONNECTIONS,
            at_end=lambda: usage.append(stack.usage("sequencer")),
        )
    before, after = usage
    cpu = (after.cpu_seconds - before.cpu_seconds) / count
    lab.details |= {
        "blocks": sent.blocks,
        "sent_again": sent.again,
        "accepted_seconds": sent.accepted_seconds,
    }
    return {
        "rate": rate(sent.rate),
        "cpu": microseconds(cpu),
        "client_cpu": microseconds(sent.client_cpu_seconds / count),
        "memory": plain(after.memory_bytes / 2**20, "MiB"),
    }
