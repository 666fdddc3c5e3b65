"""The contract's check of a batch of 10,000 transfers when it is posted.

In process, on an L1 in memory: decoding the calldata, the directory of addresses, the hashes of all steps. It is what
every validator does when a batch arrives. CPU time. (By default an L1 transaction carries 256 KiB, some 3,500
transfers; the limit is lifted here so that the figure is of one batch.)
"""

from benchmarks.arena import Arena
from benchmarks.lab import Figures, Lab, milliseconds, plain


def run(lab: Lab) -> Figures:
    accounts, count = lab.size(10_000, 200), lab.size(10_000, 500)
    arena = Arena(accounts)
    batch = arena.batch(count)
    seconds = arena.submit(batch, b"\x11" * 32)
    return {"time": milliseconds(seconds), "bytes": plain(len(batch.data), "bytes")}
