"""Random calls by everybody: after each block P1, P2, P3, P5 and P15 hold (the harness checks them)."""

import random
from collections.abc import Callable

import pytest
from bridge_harness import (
    SETTINGS,
    World,
    address,
    claim_args,
    l2_transfer,
    l2_withdraw,
    steal_at,
    withdrawals,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge import abi
from bridge.books import Books
from chainkit.state import State, account_key

PEOPLE = ("alice", "bob", "carol", "mallory", "verifier", "sequencer")
SMALL = replace(
    SETTINGS, challenge_window=7, dispute_clock=8, max_move_delay=1, escape_timeout=24, exit_window=24
)


def deposit(world: World, a: int, b: int) -> None:
    if not world.totals.frozen_height:
        world.deposit(PEOPLE[a % 6], PEOPLE[b % 6], 1_000 + a)


def post(world: World, a: int, b: int) -> None:
    totals = world.totals
    if totals.frozen_height:
        return
    head = world.batch(totals.head_batch)
    taken = min(totals.inbox_length - head.inbox_to, 8)
    state = State(world.ends[head.index])
    who = ("alice", "bob")[a % 2]
    nonce = state.account(address(who)).nonce
    wires = [l2_withdraw(who, nonce, "carol", 100 + b), l2_transfer(who, nonce + 1, "bob", b), b"junk"]
    world.post((taken, wires[: 1 + b % 3]), lie=steal_at(b % 2) if a % 3 == 0 else None)


def live_disputes(world: World) -> list[abi.Dispute]:
    records = [world.dispute(i) for i in range(world.totals.next_dispute)]
    return [record for record in records if record.stage != abi.RESOLVED]


def finalize(world: World, a: int, b: int) -> None:
    index = world.totals.final_batch + 1
    while index < world.totals.next_batch and world.batch(index).status != abi.PENDING:
        index += 1
    if a % 3 == 0 and index in world.posted:
        world.wait(max(0, world.batch(index).challenge_until - world.height))
    world.call("bob", "finalize", abi.BatchArgs(index if a % 5 else b % (index + 1)))


def wait(world: World, a: int, b: int) -> None:
    world.wait(a % 4 + b % 3)


def challenge(world: World, a: int, b: int) -> None:
    if world.totals.pending == 0:
        post(world, a, b)
    head, who = world.totals.head_batch, PEOPLE[b % 6]
    batch = max(0, head - a % 3) if a % 5 else a % (world.totals.next_batch + 1)
    posted = world.posted.get(batch)
    true = posted.true.root(len(posted.steps)) if posted else b"\x01" * 32
    root = true if b % 4 else bytes([a % 250 + 1]) * 32
    world.call(who, "challenge", abi.ChallengeArgs(batch, root), SETTINGS.challenger_bond)
    if a % 2:
        world.call("judy", "challenge", abi.ChallengeArgs(batch, true), SETTINGS.challenger_bond)


def move(world: World, a: int, b: int) -> None:
    live = live_disputes(world)
    if not live:
        return
    index = live[a % len(live)].index
    posted = world.posted[world.dispute(index).batch]
    for _ in range(1 + b % 6):
        if world.dispute(index).stage == abi.RESOLVED:
            return
        who, method, args = world.move(index, posted.told, posted.true)
        world.call(who, method, args)


def timeout(world: World, a: int, b: int) -> None:
    live = live_disputes(world)
    index = live[a % len(live)].index if live else world.totals.next_dispute
    if a % 3:
        world.wait(a % 8)
    world.call("judy", ("timeout", "settle")[b % 2], abi.DisputeArgs(index))


def claim(world: World, a: int, b: int) -> None:
    batch = world.totals.final_batch if a % 3 else world.totals.head_batch
    posted = world.posted.get(batch)
    indices = [w.index for w in withdrawals(posted.end)] if posted else []
    if posted and indices:
        world.call("judy", "claim", claim_args(posted, indices[b % len(indices)]))


def freeze(world: World, a: int, b: int) -> None:
    if a % 8 == 0:
        world.wait(SMALL.escape_timeout)
        for _ in range(world.totals.pending):
            finalize(world, 1, b)
    world.call("judy", "freeze")


def leave(world: World, a: int, b: int) -> None:
    who = address(PEOPLE[a % 6])
    proof = world.ends[world.totals.final_batch].prove([account_key(who)])
    world.call("judy", "exit", abi.ExitArgs(who, proof))
    length = world.totals.inbox_length
    for index in {b % (length + 1), 0, max(0, length - 1)}:
        world.call("judy", "refund", abi.RefundArgs(index))


CALLS: list[Callable[[World, int, int], None]] = [
    deposit,
    post,
    post,
    finalize,
    wait,
    wait,
    challenge,
    challenge,
    challenge,
    move,
    move,
    move,
    timeout,
    timeout,
    claim,
    claim,
    freeze,
    leave,
]
CALL = st.tuples(st.integers(0, len(CALLS) - 1), st.integers(0, 40), st.integers(0, 40))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(calls=st.lists(CALL, min_size=5, max_size=30))
def test_the_books_hold_after_any_calls(calls: list[tuple[int, int, int]]) -> None:
    world = World(SMALL)
    for which, a, b in calls:
        CALLS[which](world, a, b)


RARE = {
    ("prove", ""),
    ("timeout", ""),
    ("settle", ""),
    ("choose", ""),
    ("bisect", "clock_expired"),
    ("bisect", "dispute_moot"),
    ("claim", ""),
    ("claim", "already_claimed"),
    ("claim", "not_final"),
    ("finalize", ""),
    ("finalize", "open_disputes"),
    ("freeze", ""),
    ("exit", ""),
    ("exit", "already_exited"),
    ("refund", ""),
    ("refund", "taken_in"),
}


def test_random_calls_reach_every_rare_branch() -> None:
    """What must sometimes happen: else the property above proves little."""
    seen: set[tuple[str, str]] = set()
    for seed in range(80):
        rng, world = random.Random(seed), World(SMALL)
        world.outcomes = seen
        for _ in range(40):
            rng.choice(CALLS)(world, rng.randint(0, 40), rng.randint(0, 40))
    assert not RARE - seen


def test_odd_bonds_are_split_to_the_gwei() -> None:
    world = World(replace(SETTINGS, proposer_bond=1, challenger_bond=1))
    made = world.blocks((0, []))
    posted = world.prepare(made, steal_at(0))
    world.ends[1] = posted.end
    world.ok("sequencer", "submit_batch", world.batch_args(posted, made), 1)
    world.ok("verifier", "challenge", abi.ChallengeArgs(1, posted.end.root), 1)
    world.play(0, posted.told, posted.true)
    assert (world.totals.bonds, world.bonds_burned) == (0, 1)


@pytest.mark.parametrize("off", [-1, 1])
def test_a_call_that_would_break_the_books_is_refused(monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    """A mutant that miscounts a deposit: the check after the call is what stands in its way."""
    real = Books.take_escrow
    monkeypatch.setattr(Books, "take_escrow", lambda self, amount: real(self, amount + off))
    world = World()
    world.refused("books", "alice", "deposit", abi.DepositArgs(address("bob")), 5_000)


def test_the_bridge_never_takes_in_more_than_counters_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.batches.MAX_AMOUNT", 3 * 10**12 + 10_000)
    world = World()
    world.deposit("alice", "bob", 10_000)
    world.refused("deposit_limit", "alice", "deposit", abi.DepositArgs(address("bob")), 1_000)
