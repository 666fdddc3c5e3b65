"""L2 blocks: one header whoever makes the block, and the chain kit's own shape."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from rollup_world import (
    ALICE,
    BOB,
    COIN,
    L2_TIME,
    MALLORY,
    VAULT,
    l2_chain,
    scratch,
    signed,
    transfer,
    withdraw,
)

from chainkit.block import check_block_shape
from chainkit.execution import FeeParameters, receipts_root
from chainkit.merkle_list import list_root
from chainkit.state import Account, State
from chainkit.transaction import Transfer
from rollup.block import (
    BlockBuilder,
    block_steps,
    decode_transactions,
    execute_block,
    genesis_block,
)
from rollup.stf import BeginBlock, Deposit, Forced, Transact, apply_step, decode_step

CHAIN = l2_chain()
GENESIS = genesis_block(CHAIN)
BAD = transfer(ALICE, 9, BOB, 1)
DEPOSIT = Deposit(0, ALICE.address, MALLORY.address, 5)
FORCED = Forced(1, withdraw(BOB, 0, 3).wire)
STEPS = [DEPOSIT, FORCED, Transact(transfer(ALICE, 0, BOB, COIN).wire), Transact(BAD.wire), Transact(b"?")]
TIME = L2_TIME + 5


def test_genesis_is_block_0_and_the_parent_of_block_1():
    assert GENESIS.hash == CHAIN.genesis_hash
    block = execute_block(CHAIN.rules, GENESIS, TIME, [])
    assert (block.header.height, block.header.parent) == (1, CHAIN.genesis_hash)


def test_the_header_states_what_execution_gives():
    block = execute_block(CHAIN.rules, GENESIS, TIME, STEPS)
    header, state = block.header, State(CHAIN.genesis_tree)
    receipts = [apply_step(CHAIN.rules, state, step) for step in block.all_steps]
    assert block.all_steps == [BeginBlock(1, TIME), *STEPS]
    assert list(block.receipts) == receipts[1:]
    assert header.state_root == block.tree.root == state.root()
    assert header.receipts_root == receipts_root(receipts[1:])
    assert header.gas_used == sum(receipt.gas_used for receipt in receipts) > 0
    assert (header.slot, header.time, header.proposer, header.chain_id) == (1, TIME, VAULT, 901)
    assert [receipt.success for receipt in block.receipts] == [True, True, True, False, False]
    assert [tx is not None for tx in block.transactions] == [False, True, True, True, False]


def test_the_block_has_the_shape_of_any_chain_and_its_steps_can_be_read_back():
    block = execute_block(CHAIN.rules, GENESIS, TIME, STEPS)
    check_block_shape(block.block, 901)
    assert block.header.tx_root == list_root(block.block.transactions)
    assert [decode_step(data) for data in block.block.transactions] == STEPS


def test_sequencer_and_derivation_get_the_same_block():
    builder = BlockBuilder(CHAIN.rules, GENESIS, TIME)
    builder.add([DEPOSIT, FORCED])
    refused = builder.add_transactions([BAD, transfer(ALICE, 0, BOB, COIN)], room=9)
    assert [tx for tx, _ in refused] == [BAD]
    assert len(builder) == 4
    built = builder.seal()
    with ThreadPoolExecutor(2) as executor:
        decoded = decode_transactions(CHAIN.rules, built.steps, executor)
        assert all(tx is None or tx._valid is not None for tx in decoded)
        derived = execute_block(CHAIN.rules, GENESIS, TIME, built.steps, decoded)
    assert (derived.hash, derived.receipts, derived.changes) == (built.hash, built.receipts, built.changes)
    assert derived.tree.root == built.tree.root


def test_a_refused_candidate_leaves_no_trace():
    plain = BlockBuilder(CHAIN.rules, GENESIS, TIME)
    tried = BlockBuilder(CHAIN.rules, GENESIS, TIME)
    offered = [BAD, transfer(MALLORY, 0, BOB, 1), signed(ALICE, 0, Transfer(BOB.address, 1), chain_id=5)]
    assert [tx for tx, _ in tried.add_transactions(offered, room=3)] == offered
    assert tried.seal().hash == plain.seal().hash


def test_blocks_in_a_row_and_the_changes_that_a_store_writes():
    parent, stored = GENESIS, dict(CHAIN.genesis_tree.items())
    names = ("put", "delete", "put", "delete")
    for nonce, name in enumerate(names):
        steps = [Transact(scratch(ALICE, nonce, name, 1).wire)]
        block = execute_block(CHAIN.rules, parent, TIME + nonce, steps)
        assert block.header.parent == parent.hash
        stored |= block.changes
        parent = block
    assert stored == dict(parent.tree.items())


def test_a_value_written_and_deleted_in_one_block_is_among_its_changes():
    """A node that loads its state from disk must find the empty leaf that the root commits to."""
    steps = [Transact(scratch(ALICE, 0, "put", 1).wire), Transact(scratch(ALICE, 1, "delete", 1).wire)]
    block = execute_block(CHAIN.rules, GENESIS, TIME, steps)
    stored = dict(CHAIN.genesis_tree.items()) | block.changes
    assert CHAIN.genesis_tree.EMPTY.update(stored).root == block.header.state_root


def test_the_base_fee_moves_with_use():
    chain = l2_chain(
        fees=FeeParameters(block_gas_limit=12_000, max_transaction_gas=12_000, initial_base_fee=80)
    )
    busy = execute_block(
        chain.rules, genesis_block(chain), TIME, [Transact(transfer(ALICE, 0, BOB, 1, gas=12_000).wire)]
    )
    after_busy = execute_block(chain.rules, busy, TIME, [])
    after_idle = execute_block(chain.rules, after_busy, TIME, [])
    assert busy.header.gas_used > 6_000
    assert after_busy.header.base_fee > busy.header.base_fee
    assert after_idle.header.base_fee < after_busy.header.base_fee


def test_a_block_begins_once():
    builder = BlockBuilder(CHAIN.rules, GENESIS, TIME)
    with pytest.raises(TypeError):
        builder.add([DEPOSIT, BeginBlock(2, TIME)])


def test_a_falsified_block_states_the_lie():
    builder = BlockBuilder(CHAIN.rules, GENESIS, TIME)
    builder.falsify(lambda state: state.set_account(MALLORY.address, Account(7, 0)))
    block = builder.seal()
    assert State(block.tree).account(MALLORY.address).balance == 7
    assert block.hash != execute_block(CHAIN.rules, GENESIS, TIME, []).hash


def test_a_block_takes_as_many_transactions_as_there_is_room_for():
    """Plain transfers and others, with refused ones between them, which take no room."""
    mixed = [
        transfer(ALICE, 0, BOB, 1),
        BAD,
        scratch(ALICE, 1, "put", 1),
        transfer(MALLORY, 0, BOB, 1),
        transfer(ALICE, 2, BOB, 1),
        transfer(ALICE, 3, BOB, 1),
    ]
    good = [tx for tx in mixed if tx not in (mixed[1], mixed[3])]
    for room in range(5):
        builder = BlockBuilder(CHAIN.rules, GENESIS, TIME)
        builder.add_transactions(mixed, room)
        built = builder.seal()
        assert list(built.transactions) == good[:room]
        derived = execute_block(CHAIN.rules, GENESIS, TIME, built.steps)
        assert (derived.hash, derived.receipts, derived.changes) == (
            built.hash,
            built.receipts,
            built.changes,
        )


def test_inbox_messages_come_before_transactions():
    assert block_steps([DEPOSIT], [b"x"]) == [DEPOSIT, Transact(b"x")]


def test_a_sequencer_that_lets_a_value_come_and_go_gets_the_derived_block():
    builder = BlockBuilder(CHAIN.rules, GENESIS, TIME)
    builder.add_transactions([scratch(ALICE, 0, "put", 1), scratch(ALICE, 1, "delete", 1)], room=2)
    built = builder.seal()
    assert execute_block(CHAIN.rules, GENESIS, TIME, built.steps).hash == built.hash
