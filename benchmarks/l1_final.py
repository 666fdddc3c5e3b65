"""L1 transfers a second until final, four validators on the same cores.

Services: four validators, no rollup. 500 a request to one of them; the clock runs until the last one's block is
final. CPU is that of all four.
"""

from benchmarks import workload
from benchmarks.lab import Figures, Lab, microseconds, rate
from benchmarks.stack import rollup_config, running
from benchmarks.submitting import BULK, submit


def run(lab: Lab) -> Figures:
    config = rollup_config(validators=4)
    accounts, count = lab.size(10_000, 500), lab.size(20_000, 1_000)
    plan = workload.Plan(config.l1_chain_id, accounts, count, max_fee=20_000)
    wires = workload.transfers(plan)
    names = config.validator_names
    with running(config, names, lab.say, l1_accounts=accounts) as stack:
        before = sum(stack.usage(name).cpu_seconds for name in names)
        sent = submit(stack.url(names[0]), wires, per_request=BULK, connections=2, final=True)
        after = sum(stack.usage(name).cpu_seconds for name in names)
    lab.details |= {
        "blocks": sent.blocks,
        "sent_again": sent.again,
        "accepted_seconds": sent.accepted_seconds,
    }
    return {"rate": rate(sent.rate), "cpu": microseconds((after - before) / count)}
