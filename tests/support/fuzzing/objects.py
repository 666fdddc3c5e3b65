"""Real objects of every kind, small and always the same: what seeds are made of, and what handlers are fed.

Responsible for making them once. Must not know what is fuzzed with them.
"""

from functools import cache
from typing import Any

from bridge_harness import (
    SETTINGS,
    World,
    address,
    claim_args,
    l2_transfer,
    l2_withdraw,
    prove_args,
    steal_at,
)
from l1_script import KEYS, Script

from bridge import abi
from chainkit.block import CertifiedBlock, Proposal, Vote
from chainkit.chain import ExecutedBlock
from chainkit.codec import Record
from chainkit.transaction import SignedTransaction


@cache
def script() -> Script:
    return Script()


@cache
def l1_blocks() -> tuple[ExecutedBlock, ...]:
    """Six blocks of slots 1 to 6; the second one has a transaction."""
    made = script()
    first = made.block(made.genesis, 1)
    second = made.block(first, 2, [made.transfer(7, first)])
    return (first, second, *made.chain_of(range(3, 7), second))


@cache
def certified() -> tuple[CertifiedBlock, ...]:
    return tuple(script().certified(*l1_blocks()))


@cache
def proposals() -> tuple[Proposal, ...]:
    certified()
    return tuple(script().propose(block) for block in l1_blocks())


@cache
def votes() -> tuple[Vote, ...]:
    return tuple(script().vote(key, block) for block in l1_blocks()[:3] for key in KEYS[:4])


@cache
def transactions() -> tuple[SignedTransaction, ...]:
    """A transfer, and calls of the bridge."""
    made = world()
    return (
        script().transfer(5),
        made.tx("alice", "deposit", abi.DepositArgs(address("bob")), 5_000),
        made.tx("bob", "finalize", abi.BatchArgs(1)),
    )


@cache
def world() -> World:
    """A bridge with a final batch (a withdrawal in it), a true one that waits, and a false one under dispute."""
    made = World()
    made.deposit("alice", "alice", 50_000)
    made.force("carol", l2_transfer("carol", 0, "bob", 3))
    first = made.post((2, [l2_withdraw("alice", 0, "alice", 900), l2_transfer("bob", 0, "carol", 5)]))
    made.finalize(first.index)
    made.post((0, [l2_transfer("bob", 1, "alice", 6)]))
    lying = made.post(
        (0, [l2_transfer("bob", 2, "alice", 7), l2_transfer("alice", 1, "bob", 8)]), lie=steal_at(1)
    )
    made.challenge(lying)
    return made


@cache
def moves() -> tuple[tuple[str, str, Record], ...]:
    """(who, method, arguments) of a whole dispute, in order."""
    made, found = world().fork(), []
    lying = made.posted[made.totals.head_batch]
    while made.dispute(0).stage != abi.RESOLVED:
        move = made.move(0, lying.told, lying.true)
        found.append(move)
        made.ok(*move)
    return tuple(found)


@cache
def contract_args() -> tuple[tuple[str, Record], ...]:
    """(method, arguments) of calls of the bridge."""
    made = world()
    first = made.posted[1]
    blocks = made.blocks((0, [l2_transfer("bob", 3, "alice", 9)]))
    batch = made.batch_args(made.prepare(blocks), blocks)
    calls: list[tuple[str, Record]] = [
        ("deposit", abi.DepositArgs(address("bob"))),
        ("force", abi.ForceArgs(l2_transfer("carol", 1, "bob", 3))),
        ("submit_batch", batch),
        ("challenge", abi.ChallengeArgs(2, bytes(32))),
        ("finalize", abi.BatchArgs(2)),
        ("timeout", abi.DisputeArgs(0)),
        ("claim", claim_args(first, 0, 1)),
        ("exit", abi.ExitArgs(address("bob"), made.ends[1].prove([b"a" + address("bob")]))),
        ("refund", abi.RefundArgs(0)),
        ("schedule_upgrade", abi.UpgradeArgs(SETTINGS)),
    ]
    return (*calls, *((method, args) for _, method, args in moves()))


@cache
def step_proof() -> abi.ProveArgs:
    """What proves one step of the false batch."""
    lying = world().posted[3]
    return prove_args(0, 1, lying.true)


def of(*kinds: type[Any]) -> list[Any]:
    """The arguments of these kinds."""
    return [args for _, args in contract_args() if isinstance(args, kinds)]
