"""A one-step proof with 10^6 accounts: its bytes, and the contract's time to check it.

In process: the state has 10^6 accounts, the directory of addresses as well, the batch 10,000 steps. Bytes are those
of the whole argument of ``prove``. Time is that of decoding it, opening the packed step, checking its place in the
batch and running it over the witness (`bridge.arbitration.run_disputed_step`): CPU time, the median of several steps.
"""

import time
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

from benchmarks import state_root, workload
from benchmarks.lab import Figures, Lab, milliseconds, plain
from benchmarks.workload import Plan
from bridge import abi
from bridge.arbitration import run_disputed_step
from chainkit.codec import decode, encode
from chainkit.genesis import genesis_state
from chainkit.merkle_list import list_root
from chainkit.state import Account, account_key
from layerlab.config import DevnetConfig
from layerlab.genesis import make_l2_genesis
from rollup.batch import BatchBlock, steps_root
from rollup.contents import CommittedSteps, read_contents, step_hashes, write_contents
from rollup.directory import Directory
from rollup.stf import BeginBlock, Step, Transact
from rollup.trace import Trace

TIME = 1_700_000_000_000
SENDERS = 1_000
PROOFS = 9


def forget() -> None:
    """Free the memory."""
    state_root.forget()


def run(lab: Lab) -> Figures:
    size, transfers = lab.size(1_000_000, 2_000), lab.size(10_000, 300)
    senders = min(SENDERS, transfers)
    rules, genesis_tree = genesis_state(make_l2_genesis(DevnetConfig(), TIME))
    people = workload.addresses(1, senders)
    funded = {account_key(a): encode(Account(10**12, 0)) for a in people}
    start = state_root.tree_of(size).update(dict(genesis_tree.items()) | funded)
    wires = workload.transfers(Plan(rules.chain_id, senders, transfers))
    directory = Directory()
    directory.append([*(state_root.address(i) for i in range(size)), *people])
    data = write_contents([BatchBlock(TIME, 0, wires)], rules.chain_id, directory)
    contents = read_contents(data, len(directory))
    steps: list[Step] = [BeginBlock(1, TIME), *(Transact(wire) for wire in wires)]
    hashes = step_hashes(contents, 1, 0, lambda _: bytes(32))
    committed = CommittedSteps(contents, hashes, directory)
    trace = Trace(rules, start, steps)
    batch = cast(
        abi.Batch,
        SimpleNamespace(
            index=1,
            steps=len(steps),
            steps_root=steps_root(hashes),
            addresses=len(directory),
            addresses_root=_root(directory),
        ),
    )
    books = cast(Any, SimpleNamespace(ctx=SimpleNamespace(charge=lambda _: None)))
    sizes, times = [], []
    for index in range(7, 7 + PROOFS):
        shown = committed.opening(index, steps[index])
        known = [abi.KnownAddress(*each) for each in shown.addresses]
        proof = encode(abi.ProveArgs(0, shown.step, shown.proof, trace.witness(index), known))
        dispute = cast(abi.Dispute, SimpleNamespace(low=index, low_root=trace.root(index)))
        begin = time.process_time()
        root = run_disputed_step(books, rules, dispute, batch, decode(abi.ProveArgs, proof))
        times.append(time.process_time() - begin)
        if root != trace.root(index + 1):
            raise AssertionError("the contract finds another root")
        sizes.append(len(proof))
    return {"bytes": plain(max(sizes), "bytes"), "time": milliseconds(median(times))}


def _root(directory: Directory) -> bytes:
    return list_root([directory[i] for i in range(len(directory))])
