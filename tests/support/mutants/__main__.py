"""``python -m mutants``: every mutant, alone, against the tests that are to kill it.

Responsible for the command: what is chosen, in how many processes, what is shown and how it ends. Exit code 0 if all
that was asked for was killed, 1 if not, 2 for a command or data that make no sense.
"""

import argparse
import json
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mutants.catalogue import (
    CatalogueError,
    Mutant,
    StaleMutantError,
    choose,
    load_mutants,
    load_promises,
    share_of,
)
from mutants.table import commit, machine, read_results, render, write_results
from mutants.trial import Outcome, baseline, try_mutant
from mutants.workspace import Workspace

ROOT = Path(__file__).resolve().parents[3]
BASELINE_SECONDS = 300
SHARES = 3
"""Into how many shares ``--pick`` cuts all mutants."""

Say = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    data: Path = options.data or options.root / "tests" / "mutants"
    try:
        everything = load_mutants(data)
        share = share_of(options.pick, SHARES) if options.pick else options.share
        chosen = choose(everything, only=options.only, share=share)
        if options.table:
            _write_page(options.root, data, everything)
            return 0
    except (CatalogueError, StaleMutantError, ValueError) as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    if options.list:
        for mutant in chosen:
            print(f"{mutant.id:34} {', '.join(mutant.promises):9} {mutant.breaks}")
        return 0

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    at = commit(options.root)  # before the run: what is edited meanwhile is not what was tested
    began = time.monotonic()
    if share[1] > 1:
        say(f"share {share[0]} of {share[1]}")
    with tempfile.TemporaryDirectory(prefix="layerlab-mutants-", ignore_cleanup_errors=True) as directory:
        crew = _Crew(options.root, Path(directory), min(options.jobs, max(1, len(chosen))), say)
        try:
            wrong = crew.baseline(chosen)
            outcomes = [] if wrong else crew.trials(chosen)
        finally:
            crew.end()
    took = time.monotonic() - began
    _report(options, outcomes, wrong, took, at, say)
    passed = bool(outcomes) and not wrong and all(outcome.passed for outcome in outcomes)
    if options.write and not passed:
        say("nothing is written: only what was killed is a result")
    elif options.write:
        write_results(data, everything, outcomes, at=at, on=machine())
        try:
            _write_page(options.root, data, everything)
        except StaleMutantError as error:
            print(f"mutants: docs/TRUST.md is not made, as another mutant is stale: {error}", file=sys.stderr)
            return 1
        say("written: results and docs/TRUST.md")
    return 0 if passed else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make mutants", description="Break our own code on purpose: the tests must notice each time."
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="ID", help="a mutant, or all of a promise (P7)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at once (2)")
    shares = parser.add_mutually_exclusive_group()
    shares.add_argument(
        "--share", type=_share, default=(1, 1), metavar="K/N", help="every N-th one, from the K-th on"
    )
    shares.add_argument("--pick", metavar="COMMIT", help=f"the share of {SHARES} that the commit draws")
    parser.add_argument(
        "--json", action="store_true", help="one JSON document at the end; progress to standard error"
    )
    parser.add_argument("--write", action="store_true", help="record the results and make docs/TRUST.md anew")
    parser.add_argument(
        "--table", action="store_true", help="only make docs/TRUST.md, from the recorded results"
    )
    parser.add_argument("--list", action="store_true", help="only show what there is")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not 1 <= options.jobs <= 64:
        parser.error("--jobs must be from 1 to 64")
    return options


def _share(text: str) -> tuple[int, int]:
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with 1 <= K <= N")
    return int(k), int(n)


class _Crew:
    """Some workspaces, each with a thread of its own while there is work."""

    def __init__(self, root: Path, directory: Path, jobs: int, say: Say) -> None:
        self._say = say
        self._spaces = [Workspace(root, directory / f"job-{number}") for number in range(jobs)]
        self._stopped = threading.Event()

    def end(self) -> None:
        """No more work; what runs is ended."""
        self._stopped.set()
        for space in self._spaces:
            space.end()

    def _each(self, work: Sequence[Any], do: Callable[[Workspace, Any], None]) -> None:
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for item in work:
            waiting.put(item)
        failures: list[BaseException] = []

        def serve(space: Workspace) -> None:
            while not self._stopped.is_set():
                try:
                    do(space, waiting.get_nowait())
                except queue.Empty:
                    return
                except BaseException as error:  # noqa: BLE001 - told by the thread that waits
                    failures.append(error)
                    self._stopped.set()

        threads = [threading.Thread(target=serve, args=(space,), daemon=True) for space in self._spaces]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def baseline(self, mutants: Sequence[Mutant]) -> list[str]:
        """Every test that is named must pass on the code as it is; returns what does not, a line each."""
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        shares = [share for n in range(len(self._spaces)) if (share := tests[n :: len(self._spaces)])]
        wrong: list[str] = []
        began = time.monotonic()

        def do(space: Workspace, share: list[str]) -> None:
            wrong.extend(baseline(space, share, BASELINE_SECONDS)[1])

        self._say(f"{len(tests)} tests on the code as it is ...")
        self._each(shares, do)
        for line in wrong:
            self._say(f"  fails without any mutant: {line}")
        if not wrong:
            self._say(f"  all pass, {time.monotonic() - began:.0f} s")
        return wrong

    def trials(self, mutants: Sequence[Mutant]) -> list[Outcome]:
        """Try each; outcomes in the order of the mutants."""
        done: dict[str, Outcome] = {}
        lock = threading.Lock()

        def do(space: Workspace, mutant: Mutant) -> None:
            outcome = try_mutant(space, mutant)
            with lock:
                done[mutant.id] = outcome
                self._say(f"[{len(done):2}/{len(mutants)}] {_line(outcome)}")

        self._each(mutants, do)
        return [done[mutant.id] for mutant in mutants if mutant.id in done]


def _line(outcome: Outcome) -> str:
    mutant = outcome.mutant
    head = f"{mutant.id:32} {'+'.join(mutant.promises):8} "
    if outcome.verdict == "killed":
        return f"{head}killed in {outcome.seconds:4.1f} s by {outcome.killer}"
    verdict = outcome.verdict.upper() if not outcome.passed else "timed out, as expected"
    return f"{head}{verdict} ({outcome.seconds:.1f} s): {outcome.detail}"


def _report(
    options: argparse.Namespace,
    outcomes: Sequence[Outcome],
    wrong: Sequence[str],
    took: float,
    at: str,
    say: Say,
) -> None:
    bad = [outcome for outcome in outcomes if not outcome.passed]
    for outcome in bad:
        say(f"\n{outcome.mutant.id}: {outcome.mutant.breaks}")
        say(f"  {outcome.mutant.file}: {outcome.mutant.old!r} -> {outcome.mutant.new!r}")
        say(f"  {outcome.verdict}: {outcome.detail}")
        say(f'  again: make mutants ARGS="--only {outcome.mutant.id}"')
    say(
        f"\n{len(outcomes)} mutants, {len(outcomes) - len(bad)} killed, {len(bad)} not; {took:.0f} s, commit {at}"
    )
    if options.json:
        entries = [
            {
                "mutant": outcome.mutant.id,
                "promises": outcome.mutant.promises,
                "verdict": outcome.verdict,
                "passed": outcome.passed,
                "killer": outcome.killer,
                "seconds": outcome.seconds,
                "cpu_seconds": outcome.cpu,
                "detail": outcome.detail,
            }
            for outcome in outcomes
        ]
        document = {"commit": at, "machine": machine(), "seconds": round(took, 1), "baseline": list(wrong)}
        print(json.dumps({**document, "mutants": entries}, indent=1))


def _write_page(root: Path, data: Path, mutants: Sequence[Mutant]) -> None:
    page = render(root, load_promises(data), mutants, read_results(data))
    (root / "docs" / "TRUST.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
