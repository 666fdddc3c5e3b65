"""Every delay attack, run and plotted: `make delay-attack` writes docs/delay/ (runs.json, runs.csv, plot.svg).

Responsible for progress, the files and the exit code (1: a bound or an honest side's money did not hold). Must not know
how an attack goes.
"""

import argparse
import csv
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from delay_attack import ATTACKS, COIN, CROWDS, SETTLED, STYLES, Run, run

from layerlab.lab.compare.runner import commit

DOCS = Path(__file__).parents[2] / "docs" / "delay"
TONES = ("#2563a8", "#b4442f", "#2f7d4f", "#8a5ea8")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 330, 52, 64, 28


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(
        prog="make delay-attack", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    options.add_argument("--out", type=Path, default=DOCS, help="where the files go")
    options.add_argument("--k", type=int, nargs="+", default=list(CROWDS), help="how many attackers")
    args = options.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    cases = [(attack, style, k) for k in args.k for attack in ATTACKS for style in STYLES]
    runs: list[Run] = []
    started = time.monotonic()
    for n, (attack, style, k) in enumerate(cases, 1):
        with tempfile.TemporaryDirectory() as directory:
            runs.append(run(Path(directory), attack, style, k))
        print(f"[{n:2}/{len(cases)}] {told(runs[-1])}", flush=True)
    wrong = [found for found in runs if not good(found)]
    write(args.out, runs)
    worst = max(runs, key=lambda found: found.settled)
    print(
        f"\n{len(runs)} attacks in {time.monotonic() - started:.0f} s: the slowest settled after {worst.settled} "
        f"L1 blocks ({worst.attack}, k = {worst.k}), the bound is {worst.bound}; {len(wrong)} broke a promise. "
        f"{args.out}/"
    )
    return 1 if wrong else 0


def good(found: Run) -> bool:
    """P13: in time, and the honest side has lost nothing but fees."""
    return max(found.settled, found.final) <= found.bound and found.honest >= 0


def told(found: Run) -> str:
    money = f"honest {found.honest / COIN:+.1f} coins, attackers {found.attackers / COIN:+.1f}"
    mark = "ok   " if good(found) else "BROKEN"
    return (
        f"{mark} k={found.k:<3} {found.attack:<12} {found.style:<12} {found.outcome:<10} "
        f"after {found.settled:>3} of {found.bound} blocks  {money}"
    )


def write(directory: Path, runs: Sequence[Run]) -> None:
    """The figures for programs and for spreadsheets, and the plot."""
    directory.mkdir(parents=True, exist_ok=True)
    facts = {
        "commit": commit(),
        "challenge_window": SETTLED.challenge_window,
        "dispute_clock": SETTLED.dispute_clock,
        "max_move_delay": SETTLED.max_move_delay,
        "bound": runs[0].bound,
        "attacks": ATTACKS,
    }
    content = {**facts, "runs": [asdict(found) for found in runs]}
    (directory / "runs.json").write_text(json.dumps(content, indent=1) + "\n")
    rows = [{name: value for name, value in asdict(found).items() if name != "gas"} for found in runs]
    with (directory / "runs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    (directory / "plot.svg").write_text(plot(runs, str(facts["commit"])))


def plot(runs: Sequence[Run], made_at: str) -> str:
    """Blocks until the batch is settled by the number of attackers: the slowest style of each attack, and the bound."""
    ks = sorted({found.k for found in runs})
    bound = runs[0].bound
    step = (WIDTH - LEFT - 150) / max(1, len(ks) - 1)

    def x(k: int) -> float:
        return LEFT + 20 + ks.index(k) * step

    def y(blocks: int) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - blocks / (bound * 1.1))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="16" font-weight="600">L1 blocks from posting to final or void, slowest of each '
        "attack</text>",
    ]
    window = SETTLED.challenge_window
    for blocks, name, dashes in ((bound, f"bound {bound}", ""), (window, f"window {window}", "4 3")):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 120}" y1="{y(blocks):.1f}" y2="{y(blocks):.1f}" stroke="#555" '
            f'stroke-dasharray="{dashes}"/><text x="{WIDTH - 115}" y="{y(blocks) + 4:.1f}" fill="#555">{name}</text>'
        )
    parts += [
        f'<text x="{LEFT - 8}" y="{y(blocks) + 4:.1f}" text-anchor="end" fill="#555">{blocks}</text>'
        for blocks in range(0, bound + 1, 20)
    ]
    parts += [
        f'<text x="{x(k):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">k = {k}</text>' for k in ks
    ]
    for tone, attack in zip(TONES, ATTACKS, strict=True):
        worst = {k: max(f.settled for f in runs if (f.attack, f.k) == (attack, k)) for k in ks}
        points = " ".join(f"{x(k):.1f},{y(blocks):.1f}" for k, blocks in worst.items())
        parts.append(f'<polyline points="{points}" fill="none" stroke="{tone}" stroke-width="2"/>')
        for k, blocks in worst.items():
            title = f"{attack}, k = {k}: {blocks} blocks"
            parts.append(
                f'<circle cx="{x(k):.1f}" cy="{y(blocks):.1f}" r="4" fill="{tone}"><title>{title}</title></circle>'
            )
        parts.append(
            f'<text x="{WIDTH - 115}" y="{y(worst[ks[-1]]) + 4:.1f}" fill="{tone}">{attack} {worst[ks[-1]]}</text>'
        )
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 14}" fill="#555" font-size="11">make delay-attack, commit {made_at[:40]}'
        "</text></svg>\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
