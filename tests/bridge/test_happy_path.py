"""Deposit, batch, finality, claim: the way in and out; and deposits that must not be credited."""

import pytest
from bridge_harness import FUNDS, SETTINGS, World, address, claim_args, l2_transfer, l2_withdraw

from bridge import abi
from chainkit.codec import to_json
from chainkit.contract import Storage
from chainkit.state import contract_address


def withdrawn() -> tuple[World, object]:
    world = World()
    world.deposit("alice", "bob", 5_000)
    posted = world.post((1, [l2_withdraw("bob", 0, "dave", 3_000)]))
    return world, posted


def test_deposit_to_claim() -> None:
    world, posted = withdrawn()
    message = world.refused("not_final", "carol", "claim", claim_args(posted, 0))
    assert message == "challenge window open for 12 more blocks"
    message = world.refused("too_early", "carol", "finalize", abi.BatchArgs(1))
    assert message == "challenge window open for 11 more blocks"
    world.wait_until(world.batch(1).challenge_until + 1)
    world.ok("carol", "finalize", abi.BatchArgs(1))
    before = world.balance("dave")
    world.ok("carol", "claim", claim_args(posted, 0))
    assert world.balance("dave") == before + 3_000
    world.refused("already_claimed", "dave", "claim", claim_args(posted, 0))
    assert world.totals.claimed == 3_000
    assert world.totals.bonds == 0


def test_finalize_at_the_last_block_of_the_window_is_too_early() -> None:
    world, posted = withdrawn()
    end = world.batch(1).challenge_until
    world.wait_until(end)
    assert world.refused("too_early", "bob", "finalize", abi.BatchArgs(1)).endswith("open for 1 more blocks")
    world.refused("not_final", "bob", "claim", claim_args(posted, 0))
    world.ok("bob", "finalize", abi.BatchArgs(1))
    world.refused("already_final", "bob", "finalize", abi.BatchArgs(1))
    world.refused("already_final", "bob", "finalize", abi.BatchArgs(0))


def test_batches_become_final_in_order() -> None:
    world = World()
    world.post((0, []))
    world.post((0, [l2_transfer("alice", 0, "bob", 1)]))
    world.wait(20)
    world.refused("parent_not_final", "bob", "finalize", abi.BatchArgs(2))
    world.ok("bob", "finalize", abi.BatchArgs(1))
    world.ok("bob", "finalize", abi.BatchArgs(2))
    assert world.batch(2).first_block == 2


def test_a_withdrawal_is_claimable_under_any_later_final_root_and_once() -> None:
    world, _ = withdrawn()
    second = world.post((0, []))
    world.wait(20)
    world.ok("bob", "finalize", abi.BatchArgs(1))
    world.ok("bob", "finalize", abi.BatchArgs(2))
    world.ok("dave", "claim", claim_args(second, 0))
    world.refused("already_claimed", "dave", "claim", claim_args(world.posted[1], 0))


@pytest.mark.parametrize("value", [0, 1, SETTINGS.min_deposit - 1])
def test_qubit_no_credit_without_funds(value: int) -> None:
    world = World()
    world.refused("deposit_too_small", "alice", "deposit", abi.DepositArgs(address("bob")), value)
    assert world.totals.inbox_length == 0


def test_qubit_unfunded_deposit() -> None:
    world = World()
    with pytest.raises(AssertionError, match="the account has"):
        world.call("alice", "deposit", abi.DepositArgs(address("bob")), FUNDS)
    assert world.totals.inbox_length == 0


def test_deposit_to_what_is_no_account() -> None:
    world = World()
    small_order = b"\x01" + bytes(31)
    for to in (bytes(32), small_order, contract_address("messenger"), b"\xff" * 32):
        world.refused("invalid_address", "alice", "deposit", abi.DepositArgs(to), 5_000)


def test_public_state_is_json() -> None:
    world, _ = withdrawn()
    bridge = world.chain.rules.contracts["bridge"]
    shown = bridge.public_state(Storage(world.state, "bridge"))
    assert to_json(shown) == shown
    assert shown["invariant"]["escrow"] == world.totals.escrow
    assert shown["frozen"] is False
    assert shown["head_batch"]["index"] == 1
    assert shown["final_batch"]["index"] == 0


def test_every_method_but_three_refuses_a_value() -> None:
    world = World()
    for name, declared in world.chain.rules.contracts["bridge"].methods.items():
        assert declared.payable == (name in {"deposit", "submit_batch", "challenge"})


def test_initialised_once_arbitrum_nitro_2022() -> None:
    world = World()
    for name in ("genesis", "init", "initialize", "begin_block", "close"):
        world.refused("unknown_method", "mallory", name)
