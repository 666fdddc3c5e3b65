"""Whatever users put into blocks, they fit a batch that L1 takes: nobody stops the sequencer by filling them."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from bridge_harness import L2_CHAIN, L2_FUNDS, SETTINGS, address, l2_genesis, l2_tx
from msgspec.structs import replace
from rollup_stack import Stack, stack_at

from bridge import abi
from chainkit.genesis import Genesis, GenesisAccount
from chainkit.keys import KeyPair
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from layerlab.genesis import L2_FEES
from rollup.backend import RollupBackend
from rollup.batch import MAX_BATCHED_BYTES
from rollup.duties import batch_duty
from rollup.faults import Fault
from rollup.node import MAX_BLOCK_TRANSACTIONS_BYTES

LARGE = replace(
    SETTINGS,
    max_steps=16_384,
    bisection=32,
    max_inbox_per_batch=1024,
    dispute_clock=60,
    challenge_window=100,
    sequencer_timeout=150,
    escape_timeout=300,
    exit_window=400,
    inclusion_delay=20,
)
"""As large as what ships, or larger."""
PEOPLE = 1600
"""Their transfers are more than a block takes."""


def person(number: int) -> KeyPair:
    return KeyPair(hashlib.sha256(b"person-%d" % number).digest())


def large_genesis() -> Genesis:
    """The L2 with ``PEOPLE`` more who have money, and the fees that ship."""
    small = l2_genesis()
    people = [GenesisAccount(person(n).address, 10**9) for n in range(PEOPLE)]
    accounts = sorted([*small.accounts, *people], key=lambda account: account.address)
    return replace(small, accounts=accounts, fees=L2_FEES)


@pytest.mark.parametrize("to_strangers", [False, True])
def test_a_full_block_of_people_that_no_batch_has_named_fits_one(tmp_path: Path, to_strangers: bool) -> None:
    """P13: who fills one block with transfers from new accounts to new accounts must not end all posting."""
    with stack_at(tmp_path, LARGE, l2=large_genesis()) as stack:
        stack.step()
        node = stack.sequencer.node
        for number in range(PEOPLE):
            key = person(number)
            to = person(PEOPLE + number).address if to_strangers else address("bob")
            body = Body(L2_CHAIN, key.address, 0, 20_000, 4, 0, Transfer(to, 1))
            node.mempool.add(SignedTransaction.sign(body, key), node.account)
        block = node.produce(stack.now())
        assert block is not None
        assert block.transaction_bytes > 0.98 * MAX_BLOCK_TRANSACTIONS_BYTES
        duty = batch_duty(node, stack.now())
        assert duty is not None
        assert len(duty.move.call.args) < stack.chain.rules.fees.max_transaction_bytes - 1024
        stack.step(4)
        assert stack.codes("submit_batch")[:1] == [""]


@pytest.mark.parametrize("messages", [1024, 4096])
def test_a_batch_full_of_messages_has_the_gas_to_read_them(tmp_path: Path, messages: int) -> None:
    """P16: as many deposits at once as one batch may take in must not be what no batch can take in."""
    with stack_at(tmp_path, replace(LARGE, max_inbox_per_batch=messages)) as stack:
        stack.sequencer.faults.set(Fault("withhold"))
        for start in range(0, messages, 512):
            for _ in range(start, min(start + 512, messages)):
                stack.deposit()
            stack.mine()
            for member in stack.members:
                member.catch_up()
        while stack.sequencer.node.produce(stack.now()):
            pass
        assert stack.sequencer.node.local.cursor == messages
        stack.sequencer.node.switch.clear()
        stack.step(3)
        assert stack.codes("submit_batch")[:1] == [""]
        assert stack.verifier.node.derivation.head_batch.record.inbox_to == messages


def test_a_block_of_large_forced_transactions_is_readable_after_a_restart(tmp_path: Path) -> None:
    """P22: 256 of 20 KB, forced all at once, make a block of 5 MB that must not keep the node from starting."""
    with stack_at(tmp_path, LARGE) as stack:
        stack.step()
        for nonce in range(256):
            wire = l2_tx("alice", nonce, Call("messenger", "withdraw", bytes(20_000), 0), gas=200_000)
            stack.call("bob", "force", abi.ForceArgs(wire))
            if nonce % 64 == 63:
                stack.mine()
        for member in stack.members:
            member.catch_up()
        assert set(stack.codes("force")) == {""}
        block = stack.sequencer.node.produce(stack.now())
        assert block is not None
        assert len(block.steps) == 256
        before = stack.sequencer.heads
        stack.sequencer.restart()
        assert stack.sequencer.heads == before


def test_a_transaction_that_no_batch_may_hold_is_refused(tmp_path: Path) -> None:
    """P16: with a receipt for it the sequencer could never post again. One byte less is taken, and posted."""
    small = l2_genesis()
    with stack_at(tmp_path, LARGE, l2=replace(small, fees=replace(small.fees, gas_per_byte=1))) as stack:
        stack.step()
        api = RollupBackend(stack.sequencer.node, lambda: 0, lambda: None)
        empty = len(l2_tx("alice", 0, Call("messenger", "withdraw", bytes(60_000), 0), gas=250_000)) - 60_000
        sent = [
            SignedTransaction.decode(
                l2_tx("alice", 0, Call("messenger", "withdraw", bytes(size - empty), 0), gas=250_000)
            )
            for size in (MAX_BATCHED_BYTES + 1, MAX_BATCHED_BYTES)
        ]
        assert [len(tx.wire) for tx in sent] == [MAX_BATCHED_BYTES + 1, MAX_BATCHED_BYTES]
        results = asyncio.run(api.submit(sent))
        assert [result.code for result in results] == ["transaction_too_large", ""]
        stack.step(6)
        assert stack.codes("submit_batch")[:1] == [""]
        derived = stack.verifier.node.derivation.safe_batch.end
        assert derived.header.height == stack.sequencer.node.local.head.header.height > 0


def upgrade(stack: Stack, **changes: Any) -> None:
    """judy announces other settings, and may apply them from now on."""
    args = abi.UpgradeArgs(replace(SETTINGS, **changes))
    stack.call("judy", "schedule_upgrade", args)
    stack.heartbeats = True
    stack.step(SETTINGS.exit_window + 1)
    stack.heartbeats = False


@pytest.mark.parametrize(
    "change", [{"max_inbox_per_batch": 2}, {"max_steps": 16}], ids=lambda c: next(iter(c))
)
def test_blocks_that_were_made_for_larger_batches_are_posted_after_an_upgrade(
    tmp_path: Path, change: dict[str, int]
) -> None:
    """P13: a block that is larger than a batch may be from now on must not be the last that anybody hears of."""
    with stack_at(tmp_path) as stack:
        upgrade(stack, **change)
        for _ in range(6):
            stack.deposit()
        for amount in range(30):
            stack.transfer("alice", "bob", amount + 1)
        stack.step()
        stack.call("judy", "apply_upgrade")
        stack.sequencer.faults.set(Fault("withhold"))  # L1 is full for a moment
        stack.step(2)
        stack.sequencer.node.switch.clear()
        assert stack.codes("apply_upgrade") == [""]
        posted = stack.totals.next_batch
        stack.step(30)
        assert stack.totals.next_batch > posted
        node = stack.sequencer.node
        assert node.derivation.safe_batch.end.hash == node.local.head.hash
        assert stack.l2_balance("carol") == 6 * 5_000
        assert stack.l2_balance("bob") == L2_FUNDS + sum(range(1, 31))
