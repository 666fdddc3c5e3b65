"""Many seeds: progress, the sum of what was seen, and for a failure the shortest way to see it again.

Responsible for drawing plans, for shrinking a failing one's list of faults, and for what is printed. Must not
know how a run works.
"""

import argparse
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from simulation.faults import STORIES, Plan, draw_plan
from simulation.idle import measure
from simulation.run import Result, run_plan

MUST_SEE = (
    "L2 chain reverted: a batch was reverted on L1",
    "batch reverted",
    "bond forfeited",
    "bridge frozen",
    "catch-up from far behind",
    "deposit refunded",
    "disk failed: after",
    "disk failed: before",
    "disk failed: error",
    "disk failed: torn",
    "dispute lost on time by the challenger",
    "dispute lost on time by the defender",
    "dispute settled by another's verdict",
    "era change",
    "era with another validator set",
    "exit from the frozen bridge",
    "false batch posted",
    "forced transaction executed",
    "forced transaction refused by L2",
    "jailed leader",
    "one-step proof for the defender at the first step",
    "one-step proof for the defender at the last step",
    "one-step proof of a lie at the first step",
    "one-step proof of a lie at the last step",
    "reverted batch re-posted",
    "sequencer's receipt checked",
    "several disputes on one batch",
    "slash paid",
    "slashed for double-propose",
    "slashed for double-vote",
    "slashed for vote-lower",
    "stake withdrawn",
    "true batch challenged",
    "two branches at one height",
    "withdrawal claimed",
)
"""Rare branches; over `ENOUGH_SEEDS` seeds each must be seen, or the seeds are not as good as they look."""
ENOUGH_SEEDS = 300


def keep_faults(plan: Plan, kept: Sequence[int]) -> Plan:
    """The plan with only these of its faults."""
    return replace(plan, faults=tuple(plan.faults[i] for i in kept))


def shrink(plan: Plan, *, budget: int = 40) -> tuple[list[int], Result]:
    """Leave out faults while the run still fails; at most ``budget`` runs."""
    kept = list(range(len(plan.faults)))
    result = run_plan(plan)
    size = max(1, len(kept) // 2)
    while kept and budget > 0:
        start, smaller = 0, False
        while start < len(kept) and budget > 0:
            attempt = kept[:start] + kept[start + size :]
            budget -= 1
            again = run_plan(keep_faults(plan, attempt))
            if again.failures:
                kept, result, smaller = attempt, again, True
            else:
                start += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return kept, result


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if every seed passed and every rare branch was seen."""
    args = _parser().parse_args(arguments)
    if args.idle:
        measure(args.idle)
        return 0
    seeds = [args.seed] if args.seed is not None else list(range(args.first, args.first + args.seeds))
    plans = [draw_plan(seed, args.story) for seed in seeds]
    if args.faults is not None:
        plans = [keep_faults(plan, [int(i) for i in args.faults.split(",") if i]) for plan in plans]
    total, failed, done = Result(draw_plan(0)), False, 0
    began = time.time()
    for done, result in enumerate(_run_all(plans, args.jobs), 1):
        total.seen += result.seen
        total.counts += result.counts
        total.simulated += result.simulated
        total.cpu += result.cpu
        _progress(result, done, len(plans))
        if args.verbose or args.seed is not None:
            _tell(result)
        if result.failures:
            failed = True
            if args.faults is None:
                _report(result.plan)
            break
    _summary(total, done, time.time() - began)
    unseen = [name for name in MUST_SEE if not total.seen[name]]
    if unseen and args.seed is None:
        print(f"never seen: {', '.join(unseen)}")
    return 1 if failed or (unseen and len(plans) >= ENOUGH_SEEDS) else 0


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="make sim")
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--seed", type=int, help="this seed alone, with its story")
    options.add_argument("--first", type=int, default=1)
    options.add_argument("--jobs", type=int, default=1, help="processes; each seed is one process's")
    options.add_argument("--faults", help="only these of the seed's faults, by number (a replay)")
    options.add_argument("--story", choices=STORIES, help="tell this story whatever the seed says")
    options.add_argument("--idle", type=float, help="measure the speed over so many seconds, and end")
    options.add_argument("--verbose", action="store_true")
    return options


def _run_all(plans: Sequence[Plan], jobs: int) -> Iterator[Result]:
    """The results in the order of the plans."""
    if jobs == 1:
        yield from map(run_plan, plans)
        return
    with ProcessPoolExecutor(jobs) as executor:
        try:
            yield from executor.map(run_plan, plans)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _progress(result: Result, done: int, count: int) -> None:
    plan = result.plan
    print(
        f"{done:4}/{count} seed {plan.seed:<6} {plan.story:9} {len(plan.faults):2} faults "
        f"{result.simulated:5.0f} s in {result.cpu:5.1f} s CPU, height {result.height:3} "
        f"{'FAILED: ' + result.failures[0] if result.failures else 'ok'}",
        flush=True,
    )


def _tell(result: Result) -> None:
    for line in result.story:
        print("   ", line)
    print("    trace", result.trace, dict(result.seen), dict(result.counts))


def _report(plan: Plan) -> None:
    print("shrinking ...", flush=True)
    kept, result = shrink(plan)
    print(f"seed {plan.seed} fails with {len(kept)} of its {len(plan.faults)} faults: {result.failures[0]}")
    for line in result.story:
        print("   ", line)
    told = draw_plan(plan.seed).story
    story = "" if plan.story == told else f' ARGS="--story {plan.story}"'
    print(f"replay: make sim SEED={plan.seed} FAULTS={','.join(map(str, kept)) or ','}{story}")


def _summary(total: Result, seeds: int, seconds: float) -> None:
    faults = Counter({k[7:]: n for k, n in total.counts.items() if k.startswith("fault: ")})
    acts = Counter({k[5:]: n for k, n in total.counts.items() if k.startswith("act:")})
    packets = {k: total.counts[k] for k in ("packets", "drop", "cut", "duplicate", "delay")}
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    print(f"commit {commit.stdout.strip() or 'unknown'}")
    print(
        f"{seeds} seeds, {total.simulated / 3600:.2f} simulated hours in {total.cpu:.0f} s CPU ({seconds:.0f} s)"
    )
    print(f"faults: {dict(sorted(faults.items()))}")
    print(f"network: {packets}")
    print(f"acts: {dict(sorted(acts.items()))}")
    print(f"rare branches: {dict(sorted(total.seen.items()))}")
