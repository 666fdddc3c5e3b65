"""L2 transfers a second end to end, one a request, over 16 connections.

Services: L1 with one validator, the sequencer. The body is a MessagePack array of one transaction. The client is
measured by itself as well: how many such requests it sends a second to a server that does nothing. Transfers, accounts
and connections are as many as in `benchmarks.anvil`: where each account sends but twice, a tenth of the CPU is for
meeting new keys.
"""

from benchmarks import load, workload
from benchmarks.anvil import ACCOUNTS, CONNECTIONS, COUNT
from benchmarks.l2_bulk import SERVICES
from benchmarks.lab import Figures, Lab, microseconds, rate
from benchmarks.stack import rollup_config, running
from benchmarks.submitting import submit

ANSWER_BYTES = 170


def run(lab: Lab) -> Figures:
    config = rollup_config()
    accounts, count = lab.size(ACCOUNTS, 50), lab.size(COUNT, 1_000)
    wires = workload.transfers(workload.Plan(config.l2_chain_id, accounts, count))
    alone = load.client_limit(load.batch_body(wires[:1]), ANSWER_BYTES, count, CONNECTIONS)
    with running(config, SERVICES, lab.say, l2_accounts=accounts, more=lab.sequencer_options()) as stack:
        usage = [stack.usage("sequencer")]
        sent = submit(
            stack.url("sequencer"),
            wires,
            per_request=1,
            connections=CONNECTIONS,
            at_end=lambda: usage.append(stack.usage("sequencer")),
        )
    before, after = usage
    return {
        "rate": rate(sent.rate),
        "cpu": microseconds((after.cpu_seconds - before.cpu_seconds) / count),
        "client_cpu": microseconds(sent.client_cpu_seconds / count),
        "client_limit": rate(alone, "requests/s"),
    }
