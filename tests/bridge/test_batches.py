"""What a batch must be to stand on L1: poster, parent, times, inbox, bounds; and the inbox itself."""

import zlib
from typing import Any

import pytest
from bridge_harness import (
    KEYS,
    L1_CHAIN,
    L2_CHAIN,
    SETTINGS,
    World,
    l2_transfer,
    l2_tx,
    steal_at,
)
from msgspec.structs import replace

from bridge import abi
from chainkit.codec import encode
from chainkit.transaction import SignedTransaction, Transfer
from rollup.batch import MAX_BATCH_BYTES, BatchBlock, encode_batch
from rollup.stf import MAX_STEP_BYTES

BOND = SETTINGS.proposer_bond


def refuse(world: World, code: str, blocks: list[BatchBlock], who: str = "sequencer", **changes: Any) -> str:
    value = changes.pop("value", BOND)
    args = world.batch_args(world.prepare(blocks), blocks, **changes)
    return world.refused(code, who, "submit_batch", args, value)


def block(time: int = 0, taken: int = 0, *wires: bytes) -> BatchBlock:
    return BatchBlock(time, taken, list(wires))


def test_nomad_zero_root_and_unknown_parents() -> None:
    world = World()
    refuse(world, "zero_root", [block()], state_root=bytes(32))
    refuse(world, "wrong_parent", [block()], parent=1)
    refuse(world, "wrong_parent", [block()], parent=2**53 - 1)


@pytest.mark.parametrize("value", [0, 1, BOND - 1, BOND + 1])
def test_the_bond_is_exact(value: int) -> None:
    refuse(World(), "wrong_bond", [block()], value=value)


def test_only_the_sequencer_until_it_is_silent() -> None:
    world = World()
    world.wait_until(SETTINGS.sequencer_timeout)
    assert refuse(world, "not_sequencer", [block()], "mallory").endswith("before L1 block 21")
    world.post((0, []), who="mallory")
    refuse(world, "not_sequencer", [block()], "mallory")
    world.post((0, []))


def test_a_batch_replayed_is_refused() -> None:
    world = World()
    made = world.blocks((0, [l2_transfer("alice", 0, "bob", 1)]))
    args = world.batch_args(world.prepare(made), made)
    world.post((0, [l2_transfer("alice", 0, "bob", 1)]))
    world.refused("wrong_parent", "sequencer", "submit_batch", args, BOND)


def test_times_never_go_back_nor_ahead_of_l1() -> None:
    world = World()
    world.wait(3)
    world.post((0, []))
    last = world.batch(1).last_time
    refuse(world, "time_goes_back", [block(last - 1)])
    refuse(world, "time_goes_back", [block(last + 1), block(last)])
    refuse(world, "time_in_future", [block(world.tip.header.time + 1001)])
    refuse(world, "time_in_future", [block(2**53 - 1)])


@pytest.mark.parametrize("delta", [-1, 1, 5])
def test_the_inbox_range_is_what_the_blocks_take(delta: int) -> None:
    world = World()
    world.deposit("alice", "bob", 5_000)
    world.deposit("alice", "bob", 5_000)
    refuse(world, "wrong_inbox", [block(0, 1)], inbox_to=1 + delta)


def test_invented_messages() -> None:
    world = World()
    world.deposit("alice", "bob", 5_000)
    refuse(world, "inbox_beyond_end", [block(0, 2)])
    refuse(world, "too_many_steps", [block(0, 2**53 - 1)])
    refuse(world, "too_many_steps", [block(0, 2**52), block(0, 2**52 - 1)])


def test_censorship_an_overdue_message_cannot_be_left_out() -> None:
    world = World()
    world.deposit("alice", "bob", 5_000)
    due = world.height + SETTINGS.inclusion_delay
    early = world.fork()
    early.wait_until(due - 1)
    early.post((0, []))
    world.wait_until(due)
    assert "message 0 " in refuse(world, "inbox_overdue", [block()])
    world.post((1, []))
    assert world.batch(1).inbox_to == 1


def test_overdue_messages_beyond_what_a_batch_takes_wait_for_the_next() -> None:
    world = World()
    for _ in range(10):
        world.deposit("alice", "bob", 5_000)
    world.wait(10)
    refuse(world, "inbox_overdue", [block(0, 7)])
    refuse(world, "too_many_messages", [block(0, 9)])
    world.post((8, []))
    refuse(world, "inbox_overdue", world.blocks((1, [])))
    world.post((2, []))


def test_after_a_revert_overdue_messages_are_due_again() -> None:
    world = World()
    world.deposit("alice", "bob", 5_000)
    bad = world.post((1, []), lie=steal_at(0))
    assert world.play(world.challenge(bad), bad.told, bad.true).winner == abi.CHALLENGER
    refuse(world, "inbox_overdue", [block()])
    world.post((1, []))


def test_too_many_steps() -> None:
    """Its blocks and transactions are counted before they are decoded: too many are no batch at all."""
    world = World()
    assert "more than 64 steps" in refuse(world, "bad_batch", [block(0, 0, *[b"x"] * SETTINGS.max_steps)])
    refuse(world, "bad_batch", [block()] * (SETTINGS.max_steps + 1))
    refuse(world, "too_many_steps", [block(0, 1, *[b"x"] * (SETTINGS.max_steps - 1))])
    world.post((0, [b"x"] * (SETTINGS.max_steps - 1)))


BOMB = b"\x00" + zlib.compress(bytes(100_000_000), 9)
GOOD = encode_batch([BatchBlock(0, 0, [])])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x01" + GOOD[1:],
        GOOD[:-1],
        GOOD + b"\x00",
        GOOD[:5] + bytes([GOOD[5] ^ 1]) + GOOD[6:],
        b"\x00" + zlib.compress(encode([])),
        b"\x00" + zlib.compress(encode([[0, 0]])),
        b"\x00" + zlib.compress(encode([[-1, 0, []]])),
        b"\x00" + zlib.compress(encode([[2**53, 0, []]])),
        b"\x00" + zlib.compress(b"\x91" * 5_000),
        b"\x00" + zlib.compress(b"\x91\x93\xcc\x00\x00\x90"),  # an integer in a longer form
        b"\x00" + zlib.compress(zlib.compress(encode([[0, 0, []]]))),
        b"\x00" + zlib.compress(bytes(MAX_BATCH_BYTES + 1)),
        b"\x00" + zlib.compress(encode([[0, 0, [bytes(MAX_STEP_BYTES)]]])),
        BOMB,
    ],
)
def test_decompression_bombs_and_malformed_data(data: bytes) -> None:
    assert len(data) < 200_000
    refuse(World(), "bad_batch", [block()], data=data)


def test_too_many_pending_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.batches.MAX_PENDING_BATCHES", 2)
    world = World()
    world.post((0, []))
    world.post((0, []))
    refuse(world, "too_many_pending", [block(2_000)])
    world.finalize(1)
    world.post((0, []))


def test_reverting_the_most_pending_batches_fits_one_transaction() -> None:
    world = World(replace(SETTINGS, challenge_window=600, escape_timeout=1_000, exit_window=1_000))
    first = world.post((0, [l2_transfer("alice", 0, "bob", 1)]), lie=steal_at(0))
    dispute = world.challenge(first)
    check, world.check = world.check, lambda: None  # type: ignore[method-assign]
    world.play(dispute, first.told, first.true, until=abi.PROVE)
    args = world.move(dispute, first.told, first.true)
    for _ in range(9):
        world.post((0, []))
    receipt = world.ok(*args)
    world.check = check  # type: ignore[method-assign]
    world.check()
    per_batch = receipt.gas_used // 10
    assert per_batch * abi.MAX_PENDING_BATCHES < world.chain.rules.fees.max_transaction_gas
    assert world.totals.pending == 0


# --- forced transactions ---


@pytest.mark.parametrize(
    ("code", "wire"),
    [
        ("undecodable", b""),
        ("undecodable", b"\xff" * 100),
        ("undecodable", l2_transfer("alice", 0, "bob", 1) + b"\x00"),
        ("wrong_chain", l2_tx("alice", 0, Transfer(KEYS["bob"].address, 1), chain=L1_CHAIN)),
        ("bad_signature", l2_transfer("alice", 0, "bob", 1)[:-1] + b"\x00"),
        ("gas_limit_too_low", l2_tx("alice", 0, Transfer(KEYS["bob"].address, 1), gas=1)),
        ("transaction_too_large", bytes(MAX_STEP_BYTES - 15)),
    ],
)
def test_the_inbox_takes_no_rubbish(code: str, wire: bytes) -> None:
    World().refused(code, "mallory", "force", abi.ForceArgs(wire))


def test_forced_transaction_executes_and_inbox_spam_costs() -> None:
    world = World()
    wire = l2_transfer("alice", 0, "carol", 777)
    assert SignedTransaction.decode(wire).body.chain_id == L2_CHAIN
    receipt = world.force("mallory", wire)
    assert receipt.gas_used > 20_000 + len(wire)
    posted = world.post((1, []))
    from chainkit.state import State

    assert State(posted.end).account(KEYS["carol"].address).balance == 777
