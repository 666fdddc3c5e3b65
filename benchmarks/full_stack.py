"""The bulk figure with everything on the same cores: four validators, sequencer, verifier and bridge.

The same submission as in `l2_bulk`, fewer transfers. ``caught_up`` is how long after the last receipt the verifier
and the bridge have every block from final L1 data: it must end, else something falls behind.
"""

from benchmarks import workload
from benchmarks.lab import Figures, Lab, microseconds, milliseconds, plain, rate
from benchmarks.posted import PATIENCE_SECONDS
from benchmarks.stack import rollup_config, running
from benchmarks.submitting import BULK, submit


def run(lab: Lab) -> Figures:
    config = rollup_config(validators=4)
    accounts, count = lab.size(10_000, 500), lab.size(30_000, 2_000)
    wires = workload.transfers(workload.Plan(config.l2_chain_id, accounts, count))
    with running(
        config, config.services, lab.say, l2_accounts=accounts, more=lab.sequencer_options()
    ) as stack:
        before = {name: stack.usage(name).cpu_seconds for name in config.services}
        sent = submit(stack.url("sequencer"), wires, per_request=BULK, connections=2)
        height = stack.head("sequencer")
        behind = height - stack.head("verifier", "safe")
        caught_up = stack.wait_until(
            "the verifier", lambda: stack.head("verifier", "safe") >= height, PATIENCE_SECONDS, every=0.1
        )
        final = stack.status("verifier")["l1_height"]
        caught_up += stack.wait_until(
            "the bridge",
            lambda: int(stack.status("bridge")["l1_height"]) >= final,
            PATIENCE_SECONDS,
            every=0.1,
        )
        cpu = {name: stack.usage(name).cpu_seconds - before[name] for name in config.services}
        diverged = stack.status("verifier")["diverged"]
    lab.details |= {"cpu_seconds": cpu, "blocks": sent.blocks, "diverged": diverged}
    return {
        "rate": rate(sent.rate),
        "caught_up": plain(caught_up, "s"),
        "behind": plain(behind, "blocks"),
        "cpu": microseconds(sum(cpu.values()) / count),
        "verifier_cpu": microseconds(cpu["verifier"] / count),
        "l1_cpu": microseconds(sum(cpu[name] for name in config.validator_names) / count),
        "all_final": milliseconds(sent.seconds + caught_up),
    }
