"""A dispute over 10,000 steps, played to its end against the contract: how many moves each side makes.

In process, on an L1 in memory: both sides move as services do (`rollup.player`), the contract decides. The sequencer
lies at a step in the middle. Counted are all calls of a side, the challenge and the proof included.
"""

from collections import Counter

from benchmarks.arena import Arena
from benchmarks.lab import Figures, Lab, milliseconds, plain
from bridge import abi
from chainkit.codec import Record, decode
from chainkit.keys import dev_keypair
from chainkit.state import Account, State
from rollup.player import next_move

MOST_MOVES = 64
ARGUMENTS: dict[str, type[Record]] = {
    "bisect": abi.BisectArgs,
    "choose": abi.ChooseArgs,
    "prove": abi.ProveArgs,
}


def run(lab: Lab) -> Figures:
    count = lab.size(10_000, 500)
    arena = Arena(lab.size(10_000, 200))
    batch = arena.batch(count)
    steps = len(batch.steps)
    thief = dev_keypair("mallory").address

    def lie(index: int, state: State) -> None:
        if index == steps * 2 // 3:
            account = state.account(thief)
            state.set_account(thief, Account(account.balance + 7, account.nonce))

    traces = {"sequencer": batch.trace(lie), "verifier": batch.trace()}
    addresses = {name: dev_keypair(name).address for name in traces}
    arena.submit(batch, traces["sequencer"].root(steps))
    truth = abi.ChallengeArgs(1, traces["verifier"].root(steps))
    arena.call("verifier", "challenge", truth, arena.settings.challenger_bond)
    moves = Counter({"verifier": 1})
    slowest = 0.0
    for _ in range(MOST_MOVES):
        dispute = arena.load(abi.dispute_key(0), abi.Dispute)
        if dispute.stage == abi.RESOLVED:
            break
        for name, trace in traces.items():
            move = next_move(dispute, trace, addresses[name], arena.settings, arena.height, batch.committed)
            if move is not None:
                kind = ARGUMENTS[move.call.method]
                slowest = max(slowest, arena.call(name, move.call.method, decode(kind, move.call.args))[1])
                moves[name] += 1
                break
    if dispute.winner != abi.CHALLENGER:
        raise AssertionError(f"the thief was not caught: {dispute}")
    return {
        "defender": plain(moves["sequencer"], "moves"),
        "challenger": plain(moves["verifier"], "moves"),
        "steps": plain(steps, "steps"),
        "slowest_call": milliseconds(slowest),
    }
