"""``make abuse``: the running stack under load and abuse, with a table of what was sent and what became of it.

Exit codes: 0 all bounds held, 1 one did not (each is named), 2 the devnet did not come up.
"""

import argparse
import asyncio
import resource
import sys
import time
from contextlib import suppress
from typing import Any, Final

from abuse.cost import refusal_costs, signature_seconds
from abuse.honest import FLOOD, PEOPLE, Flood, Honest, Waited
from abuse.junk import ACCOUNTS, JUNK_ACCOUNTS, Junk, Tally
from abuse.watch import MIB, Watch
from benchmarks import workload
from benchmarks.stack import Stack, rollup_config, running
from chainkit.connections import MAX_CONNECTIONS
from layerlab.config import DevnetError

FUNDED: Final = ACCOUNTS + JUNK_ACCOUNTS
SLOT_MS: Final = 1000
VALIDATORS: Final = 4
MEMORY: Final = 300 * MIB
PATIENCE: Final = 60.0
"""Seconds after which an honest transfer is given up; what it is judged by is steps, whatever machine this is."""
MOST_STEPS: Final = {"L1": 15, "L2": 40}
"""Slots of L1, blocks of L2: a full pool is 17 full blocks of L2, and each has room for the oldest."""
CLOSING: Final = 16
"""Who gives way is closed in the loop's next turn: the system may still count so many."""
LAG_SLOTS: Final = 15
"""How far the last final block may be behind the slot that it is."""
FINAL_SHARE: Final = 4
"""At least one slot in so many must bring a final block."""
SERVICES: Final = (*(f"validator-{i}" for i in range(VALIDATORS)), "sequencer", "verifier", "bridge")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make abuse", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, default=2000, help="transfers offered a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the hundreds of connections")
    parser.add_argument("--no-junk", action="store_true", help="the load alone, to compare with")
    args = parser.parse_args()
    if args.seconds < 1 or args.rate < 1:
        parser.error("--seconds and --rate must be 1 or more")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    config = rollup_config(validators=VALIDATORS, slot_ms=SLOT_MS)
    say(f"signing {args.rate * args.seconds} transfers of {ACCOUNTS} accounts (kept for the next time)")
    wires = workload.transfers(workload.Plan(901, ACCOUNTS, args.rate * args.seconds))
    try:
        with running(config, SERVICES, say, l1_accounts=FUNDED, l2_accounts=FUNDED) as stack:
            return asyncio.run(abuse(stack, wires, args))
    except DevnetError as error:
        print(f"abuse: {error}", file=sys.stderr)
        return 2


def say(line: str) -> None:
    print(line, flush=True)


async def abuse(stack: Stack, wires: list[bytes], args: argparse.Namespace) -> int:
    tally = Tally()
    urls = {name: stack.url(name) for name in SERVICES}
    costs = await refusal_costs(stack, "validator-3")
    watch, waited = Watch(stack, list(SERVICES)), {"L1": Waited(), "L2": Waited()}
    flood = Flood(urls["sequencer"], wires, args.rate, tally)
    junk = Junk(urls, SERVICES[:VALIDATORS], tally, args.seed)
    people = [Honest(name, urls["sequencer"], 901, waited["L2"]) for name in PEOPLE]
    people += [
        Honest(name, urls[f"validator-{i}"], 900, waited["L1"]) for i, name in enumerate(PEOPLE[:3], 1)
    ]
    watching = asyncio.create_task(watch.run())
    if not args.no_junk:
        junk.start(args.share)
    begin = time.monotonic()
    telling = asyncio.create_task(_tell(tally, watch, waited, begin))
    await asyncio.gather(flood.run(args.seconds), *(person.run(args.seconds, PATIENCE) for person in people))
    seconds = time.monotonic() - begin
    telling.cancel()
    await junk.stop()
    for task in (watching, telling):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    _table(tally, watch, waited, flood, seconds, costs)
    failures = _failures(stack, watch, waited, flood, costs, args)
    for failure in failures:
        say(f"FAILED: {failure}")
    say("all bounds held" if not failures else f"again: make abuse SECONDS={args.seconds} SEED={args.seed}")
    return int(bool(failures))


async def _tell(tally: Tally, watch: Watch, waited: dict[str, Waited], begin: float) -> None:
    while True:
        await asyncio.sleep(5.0)
        peak = max(watch.seen.items(), key=lambda item: item[1].memory)
        done = tally.answers[FLOOD]["accepted"]
        say(
            f"{time.monotonic() - begin:5.0f} s  {tally.sent[FLOOD]} offered, {done} taken; honest in: "
            f"{waited['L2'].in_time} on L2, {waited['L1'].in_time} on L1; L1 lags by {watch.l1.worst_lag} slots at "
            f"most, {watch.l1.final_blocks} blocks final; {peak[0]} had {peak[1].memory // MIB} MiB"
        )


def _table(
    tally: Tally,
    watch: Watch,
    waited: dict[str, Waited],
    flood: Flood,
    seconds: float,
    costs: dict[str, tuple[float, float]],
) -> None:
    say(f"\n{'sent':<28} {'count':>8}   what became of it")
    for kind, count in sorted(tally.sent.items()):
        told = ", ".join(f"{n} {code}" for code, n in tally.answers[kind].most_common(6))
        say(f"{kind:<28} {count:>8}   {told}")
    say(f"\n{'service':<12} {'peak MiB':>8} {'connections':>11} {'CPU s':>7} {'status unanswered':>18}")
    for name, seen in watch.seen.items():
        say(
            f"{name:<12} {seen.memory / MIB:>8.0f} {seen.connections:>11} {seen.cpu:>7.1f} {seen.unanswered:>18}"
        )
    heads = f"{'in':>5} {'offers':>7} {'median s':>9} {'worst s':>8} {'median steps':>13} {'worst':>6} {'late':>5}"
    say(f"\n{'honest':<8} {heads}")
    for name, times in waited.items():
        took, steps = sorted(times.seconds) or [0.0], sorted(times.steps) or [0]
        say(
            f"{name:<8} {times.in_time:>5} {times.attempts:>7} {took[len(took) // 2]:>9.2f} {took[-1]:>8.2f} "
            f"{steps[len(steps) // 2]:>13} {steps[-1]:>6} {len(times.late):>5}"
        )
    say(
        f"\nL1: {watch.l1.final_blocks} blocks became final in {seconds:.0f} s, the last final one never more than "
        f"{watch.l1.worst_lag} slots behind; L2 safe at {max(watch.l2_final, default=0)} at the end; "
        f"{flood.accepted / seconds:.0f} transfers/s taken, {flood.behind} ticks of {0.1} s without a free connection"
    )
    check = signature_seconds()
    say(f"\none signature check: {check * 1e6:.0f} us. CPU of a validator for each message that it refuses:")
    for kind, (many, one) in costs.items():
        say(
            f"  {kind:<22} {many * 1e6:>7.1f} us ({many / check:.2f} checks) among 256 in a body; "
            f"{one * 1e6:>6.0f} us alone, HTTP included"
        )


def _failures(
    stack: Stack,
    watch: Watch,
    waited: dict[str, Waited],
    flood: Flood,
    costs: dict[str, tuple[float, float]],
    args: Any,
) -> list[str]:
    found = []
    for name, seen in watch.seen.items():
        if seen.memory > MEMORY:
            found.append(f"{name} had {seen.memory / MIB:.0f} MiB, {MEMORY // MIB} are allowed")
        if seen.connections > MAX_CONNECTIONS + CLOSING:
            found.append(f"{name} had {seen.connections} connections, {MAX_CONNECTIONS} are allowed")
        if not stack.devnet.supervisor.alive(name):
            found.append(f"{name} ended")
    for name, times in waited.items():
        found += [
            f"an honest {name} transfer was not in after {PATIENCE:g} s: {late}" for late in times.late[:3]
        ]
        if max(times.steps, default=0) > MOST_STEPS[name]:
            found.append(
                f"an honest {name} transfer took {max(times.steps)} steps, {MOST_STEPS[name]} are allowed"
            )
        if not times.in_time:
            found.append(f"no honest {name} transfer got in")
    if watch.l1.worst_lag > LAG_SLOTS:
        found.append(f"finality lagged by {watch.l1.worst_lag} slots, {LAG_SLOTS} are allowed")
    if watch.l1.final_blocks < args.seconds // FINAL_SHARE:
        found.append(f"only {watch.l1.final_blocks} blocks became final in {args.seconds} s")
    if not flood.accepted:
        found.append("none of the good transfers was taken")
    check = signature_seconds()
    for kind, (many, _) in costs.items():
        if many > check:
            found.append(f"refusing a peer's message ({kind}) costs {many / check:.1f} signature checks")
    return found


if __name__ == "__main__":
    sys.exit(main())
