"""The command line: fuzz, random bytes, replay, write the corpus.

Responsible for what is said to people, and for exit codes: 0 nothing found, 1 a bug, 2 wrong arguments. Must not know
any target.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

PACKAGES = ("chainkit", "l1node", "rollup", "bridge", "layerlab")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__)
    verbs = made.add_subparsers(dest="verb", required=True)
    fuzz = verbs.add_parser("fuzz", help="coverage-guided, with atheris")
    fuzz.add_argument("--seconds", type=int, default=10, help="for each target")
    fuzz.add_argument("--target")
    fuzz.add_argument("--jobs", type=int, default=2)
    fuzz.add_argument("--keep", action="store_true", help="add what reached new code to the corpus")
    bytes_ = verbs.add_parser("random", help="random and mutated byte strings, memory measured")
    bytes_.add_argument("--count", type=int, default=100_000)
    bytes_.add_argument("--target")
    bytes_.add_argument("--seed", type=int, default=1)
    bytes_.add_argument("--jobs", type=int, default=2)
    replay = verbs.add_parser("replay", help="one input, without a fuzzer")
    replay.add_argument("target")
    replay.add_argument("file", type=Path)
    verbs.add_parser("seeds", help="write anew the seeds in the corpus, keeping what was found")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    if args.verb == "fuzz":
        from fuzzing import guided

        reason = guided.missing()
        if reason:
            print(f"SKIPPED: nothing was fuzzed: {reason}", flush=True)
            return 0
        return guided.fuzz(args.target, args.seconds, args.jobs, keep=args.keep)
    if args.verb == "random":
        return _random(args)
    from fuzzing import corpus, targets

    if args.verb == "replay":
        (target,) = targets.chosen(args.target)
        print("a value" if target.run(args.file.read_bytes()) else "refused, as promised")
        return 0
    for target in targets.ALL.values():
        seeds = target.seeds()
        found = [data for data in corpus.load(target) if data not in seeds]
        corpus.store(target, [*seeds, *corpus.smallest_cover(target, seeds, found)])
    return 0


def _random(args: argparse.Namespace) -> int:
    from fuzzing import targets

    names = [target.name for target in targets.chosen(args.target) if not target.handler]
    begin, bad = time.monotonic(), 0
    with get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:  # each its own memory
        work = [(name, args.count, args.seed) for name in names]
        for done, (name, line, good) in enumerate(pool.imap_unordered(_bombard, work), 1):
            print(f"[{done}/{len(names)}] {name:20} {line}", flush=True)
            bad += not good
    seconds = time.monotonic() - begin
    print(
        f"{len(names)} decoders, {args.count} byte strings each, seed {args.seed}: {bad} bad; {seconds:.0f} s"
    )
    return min(bad, 1)


def _bombard(work: tuple[str, int, int]) -> tuple[str, str, bool]:
    from fuzzing import random_bytes, targets

    name, count, seed = work
    (target,) = targets.chosen(name)
    try:
        found = random_bytes.bombard(target, count, seed)
    except Exception as error:  # noqa: BLE001 - any is a bug, and is told
        return name, f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}", False
    memory = f"{found.grown / 1024:+.0f} KiB, {found.blocks:+} blocks"
    told = f"{found.values} values, {count - found.values} refusals; memory {memory}"
    return name, told if found.flat else f"MEMORY GROWS: {told}", found.flat


if __name__ == "__main__":
    sys.exit(main())
