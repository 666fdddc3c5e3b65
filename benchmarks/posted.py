"""What a sequencer has put on L1: waiting for it, and how many bytes it took.

Responsible for reading batches over HTTP. Must not know which figure it is for.
"""

from dataclasses import dataclass

from benchmarks.stack import Stack
from bridge.abi import SubmitBatchArgs
from chainkit.codec import encode, from_json
from chainkit.transaction import Call

ENVELOPE_BYTES = 32 + 64 + 40
"""Of the L1 transaction around the call: sender, signature, numbers and headers (at most)."""
PATIENCE_SECONDS = 180.0


@dataclass(frozen=True)
class Posted:
    """One batch on L1: its transfers, all bytes of its L1 transaction, addresses in the directory after it."""

    transfers: int
    bytes: int
    addresses: int


def wait_posted(stack: Stack) -> int:
    """Until every L2 block is in a batch in a final L1 block; returns the head's height."""
    height = stack.head("sequencer")
    stack.wait_until("batches on L1", lambda: stack.head("sequencer", "safe") >= height, PATIENCE_SECONDS)
    return height


def transfers_in(stack: Stack, first: int, last: int) -> int:
    """How many transactions stand in the L2 blocks from height ``first`` to ``last``."""
    count = 0
    for start in range(first, last + 1, 10):
        answer = stack.get("sequencer", f"/blocks?from={start}&limit={min(10, last + 1 - start)}")
        count += sum(len(block["transactions"]) for block in answer["blocks"])
    return count


def batches(stack: Stack) -> list[Posted]:
    """Those with transfers, oldest first."""
    found, index = [], 1
    last = stack.get("sequencer", "/batches")["last"]
    for index in range(1, last + 1):
        batch = stack.get("sequencer", f"/batches/{index}")
        transfers = batch["steps"] - batch["blocks"] - (batch["inbox_to"] - batch["inbox_from"])
        if not transfers:
            continue
        view = stack.get("validator-0", f"/transactions/{batch['l1_transaction']}")
        args = encode(from_json(SubmitBatchArgs, view["transaction"]["action"]["args"]))
        size = len(encode(Call("bridge", "submit_batch", args, batch["bond"]))) + ENVELOPE_BYTES
        found.append(Posted(transfers, size, batch["addresses"]))
    return found
