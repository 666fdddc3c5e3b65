"""A deposit: from sending it to L1 until it can be spent on L2, in slots; and until it is final on L1.

Services: L1 with four validators (finality needs votes), the sequencer. Each deposit is sent at another phase of the
slot. Usable means that the sequencer shows the balance. The medians stand beside one another: what the rollup adds to
L1's finality is the difference.
"""

import time
from statistics import median

from benchmarks import load
from benchmarks.lab import Figures, Lab, plain
from benchmarks.load import LoadError, Reader
from benchmarks.stack import rollup_config, running

SLOT_MS = 500
AMOUNT = 1_000_000_000
POLL_SECONDS = 0.01
PATIENCE_SECONDS = 60.0


def run(lab: Lab) -> Figures:
    config = rollup_config(validators=4, slot_ms=SLOT_MS)
    services = [*config.validator_names, "sequencer"]
    with running(config, services, lab.say, more=lab.sequencer_options()) as stack:
        l1, l2 = stack.url("validator-0"), stack.url("sequencer")
        stack.wait_until("the first final block", lambda: stack.head("validator-0", "finalized") > 0, 60)
        times = load.run(_deposits(l1, l2, lab.size(5, 2)))
    slot = SLOT_MS / 1000
    return {
        "usable": plain(median(usable for usable, _ in times) / slot, "slots"),
        "final": plain(median(final for _, final in times) / slot, "slots"),
    }


async def _deposits(l1_url: str, l2_url: str, count: int) -> list[tuple[float, float]]:
    """Seconds until usable and until final, for each deposit."""
    l1, l2 = await Reader.open(l1_url), await Reader.open(l2_url)
    found = []
    for i in range(count):
        time.sleep(i * SLOT_MS / count / 1000)
        before = (await l2.get("/accounts/bob"))["balance"]
        args = {"to": (await l2.get("/accounts/bob"))["address"]}
        call = {"type": "call", "contract": "bridge", "method": "deposit", "args": args, "value": AMOUNT}
        begin = time.perf_counter()
        sent = await l1.post("/transactions", {"from": "alice", "action": call})
        usable = final = 0.0
        while not (usable and final):
            spent = time.perf_counter() - begin
            if spent > PATIENCE_SECONDS:
                raise LoadError(f"a deposit has not arrived after {spent:.0f} s")
            if not usable and (await l2.get("/accounts/bob"))["balance"] == before + AMOUNT:
                usable = time.perf_counter() - begin
            if not final and (await l1.get(f"/transactions/{sent['hash']}"))["status"] == "finalized":
                final = time.perf_counter() - begin
            time.sleep(POLL_SECONDS)
        found.append((usable, final))
    l1.close()
    l2.close()
    return found
