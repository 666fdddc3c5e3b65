"""The way out when every operator is gone: freeze, exit, refund, each once (P3, P17)."""

import pytest
from bridge_harness import (
    L2_FUNDS,
    SETTINGS,
    VAULT,
    World,
    address,
    balances,
    claim_args,
    l2_transfer,
    l2_withdraw,
    steal_at,
    withdrawals,
)

from bridge import abi
from chainkit.state import State, account_key, contract_address


def last_state() -> World:
    """A final batch with a withdrawal, and after it a deposit that L2 never takes in."""
    world = World()
    world.deposit("carol", "dave", 5_000)
    world.post((1, [l2_withdraw("bob", 0, "judy", 3_000), l2_transfer("alice", 0, "carol", 50)]))
    world.finalize(1)
    world.deposit("carol", "dave", 7_000)
    world.force("alice", l2_transfer("alice", 1, "bob", 1))
    return world


def frozen() -> World:
    world = last_state()
    world.wait_until(world.totals.last_batch_height + SETTINGS.escape_timeout + 1)
    world.ok("dave", "freeze")
    return world


def exit_args(world: World, account: bytes) -> abi.ExitArgs:
    return abi.ExitArgs(account, world.ends[world.totals.final_batch].prove([account_key(account)]))


@pytest.mark.parametrize("batches", [0, 1])
def test_freeze_not_before_the_timeout(batches: int) -> None:
    world = last_state() if batches else World()
    world.wait_until(world.totals.last_batch_height + SETTINGS.escape_timeout)
    message = world.refused("too_early", "dave", "freeze")
    assert message == "freezing is possible in 1 blocks, if no batch comes"
    world.ok("dave", "freeze")
    world.refused("frozen", "dave", "freeze")


def test_freeze_waits_for_pending_batches_and_says_what_to_do() -> None:
    world = World()
    posted = world.post((0, []))
    dispute = world.challenge(posted, "mallory", b"\x01" * 32)
    world.wait(SETTINGS.escape_timeout + 1)
    assert (
        world.refused("batches_pending", "dave", "freeze")
        == "batch 1 is not final; resolve its disputes first"
    )
    world.ok("dave", "timeout", abi.DisputeArgs(dispute))
    assert world.refused("batches_pending", "dave", "freeze") == "batch 1 is not final; finalize it first"
    world.ok("dave", "finalize", abi.BatchArgs(1))
    world.ok("dave", "freeze")


def test_everybody_leaves_and_nothing_is_left() -> None:
    world = frozen()
    end = world.ends[1]
    for who in ("alice", "bob", "mallory", "dave", "carol"):
        before, owed = world.balance(who), State(end).account(address(who)).balance
        world.ok("judy", "exit", exit_args(world, address(who)))
        assert world.balance(who) == before + owed
        world.refused("already_exited", "judy", "exit", exit_args(world, address(who)))
    world.ok("judy", "exit", exit_args(world, VAULT))
    world.ok("judy", "refund", abi.RefundArgs(1))
    world.ok("dave", "claim", claim_args(world.posted[1], 0))  # stays possible after the freeze
    totals = world.totals
    assert totals.escrow == 0
    assert totals.exited == balances(end)
    assert totals.claimed == sum(w.amount for w in withdrawals(end))
    assert totals.refunded == 7_000
    assert totals.exited + totals.claimed + totals.refunded == 3 * L2_FUNDS + totals.deposited


def test_claim_and_exit_pay_different_money() -> None:
    world = frozen()
    world.ok("bob", "claim", claim_args(world.posted[1], 0))
    world.ok("bob", "exit", exit_args(world, address("bob")))
    world.refused("already_claimed", "bob", "claim", claim_args(world.posted[1], 0))


def test_refunds_are_for_deposits_that_l2_never_took_in() -> None:
    world = frozen()
    world.refused("taken_in", "carol", "refund", abi.RefundArgs(0))
    world.refused("not_a_deposit", "alice", "refund", abi.RefundArgs(2))
    world.refused("unknown_message", "alice", "refund", abi.RefundArgs(3))
    before = world.balance("carol")
    world.ok("mallory", "refund", abi.RefundArgs(1))
    assert world.balance("carol") == before + 7_000  # the depositor's, whoever asks
    world.refused("already_refunded", "carol", "refund", abi.RefundArgs(1))


def test_exits_that_are_refused() -> None:
    world = frozen()
    nobody, messenger = b"\x58" + b"\x66" * 31, contract_address("messenger")
    world.refused("no_balance", "mallory", "exit", exit_args(world, nobody))
    world.refused("contract_account", "mallory", "exit", exit_args(world, messenger))
    bob = exit_args(world, address("bob"))
    world.refused("bad_proof", "mallory", "exit", abi.ExitArgs(address("mallory"), bob.proof))
    old = world.ends[0].prove([account_key(address("bob"))])  # the balance before the last final batch
    world.refused("bad_proof", "mallory", "exit", abi.ExitArgs(address("bob"), old))
    world.refused("bad_proof", "mallory", "exit", abi.ExitArgs(address("bob"), bob.proof + b"\0"))
    world.refused("bad_proof", "mallory", "exit", abi.ExitArgs(address("bob"), b""))


def test_a_running_bridge_neither_exits_nor_refunds() -> None:
    world = last_state()
    world.refused("not_frozen", "bob", "exit", exit_args(world, address("bob")))
    world.refused("not_frozen", "carol", "refund", abi.RefundArgs(1))


def test_a_frozen_bridge_takes_nothing_in() -> None:
    world = frozen()
    made = world.blocks((2, []))
    args = world.batch_args(world.prepare(made), made)
    world.refused("frozen", "sequencer", "submit_batch", args, SETTINGS.proposer_bond)
    world.refused("frozen", "alice", "deposit", abi.DepositArgs(address("bob")), 5_000)
    world.refused("frozen", "alice", "force", abi.ForceArgs(l2_transfer("alice", 1, "bob", 1)))
    world.refused("frozen", "judy", "schedule_upgrade", abi.UpgradeArgs(SETTINGS))
    world.refused("frozen", "judy", "apply_upgrade")
    world.refused("frozen", "judy", "cancel_upgrade")


def test_a_sequencer_that_only_ever_posts_what_is_never_final_cannot_hold_anyone() -> None:
    """It loses a bond for each false batch and posts the next at once; the freeze comes all the same."""
    world = World()
    stalled = abi.STALL_FACTOR * SETTINGS.escape_timeout
    while world.height < stalled:
        posted = world.post((0, []), lie=steal_at(0))
        world.play(world.challenge(posted), posted.told, posted.true)
        world.refused("too_early", "dave", "freeze")
        world.wait(SETTINGS.escape_timeout // 4)
    last = world.post((0, []), lie=steal_at(0))
    dispute = world.challenge(last)
    world.ok("dave", "freeze")
    assert world.batch(last.index).status == abi.REVERTED
    assert world.totals.head_batch == world.totals.final_batch == abi.GENESIS_BATCH
    world.ok("verifier", "settle", abi.DisputeArgs(dispute))
    assert world.totals.bonds == 0
    world.ok("judy", "exit", exit_args(world, address("alice")))


def test_a_bridge_whose_batches_become_final_is_never_stalled() -> None:
    world = World()
    for _ in range(2 * abi.STALL_FACTOR):
        world.finalize(world.post((0, [])).index)
        world.wait(SETTINGS.escape_timeout // 2)
        world.refused("too_early", "dave", "freeze")
