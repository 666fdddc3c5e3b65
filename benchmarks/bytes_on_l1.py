"""Bytes on L1 for each L2 transfer: the whole L1 transactions that carry the batches, signatures included.

Services: L1 with one validator (0.2 s slots, so that batches land soon), the sequencer. Transfers among 10,000
accounts; batches that name no new address are counted apart from those that do (an address costs 32 bytes once).
"""

from itertools import pairwise

from benchmarks import workload
from benchmarks.l2_bulk import SERVICES
from benchmarks.lab import Figures, Lab, plain
from benchmarks.load import LoadError
from benchmarks.posted import batches, wait_posted
from benchmarks.stack import rollup_config, running
from benchmarks.submitting import BULK, submit


def run(lab: Lab) -> Figures:
    config = rollup_config(slot_ms=200)
    accounts, count = lab.size(10_000, 200), lab.size(40_000, 6_000)
    wires = workload.transfers(workload.Plan(config.l2_chain_id, accounts, count))
    with running(config, SERVICES, lab.say, l2_accounts=accounts, more=lab.sequencer_options()) as stack:
        url = stack.url("sequencer")
        # In two parts, so that there is a batch in which everyone is known.
        for part in (wires[: count * 2 // 3], wires[count * 2 // 3 :]):
            submit(url, part, per_request=BULK, connections=2)
            wait_posted(stack)
        posted = batches(stack)
    known = [batch for before, batch in pairwise(posted) if batch.addresses == before.addresses]
    first = [batch for batch in posted if batch not in known]
    if not known or sum(batch.transfers for batch in posted) != count:
        raise LoadError(f"{count} transfers were sent; on L1 are {posted}")
    lab.details["batches"] = len(posted)
    return {
        "known": plain(sum(b.bytes for b in known) / sum(b.transfers for b in known), "bytes"),
        "first": plain(sum(b.bytes for b in first) / sum(b.transfers for b in first), "bytes"),
        "all": plain(sum(b.bytes for b in posted) / count, "bytes"),
    }
