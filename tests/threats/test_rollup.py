"""What a sequencer may put in a batch, and where it runs: skipped deposits, rubbish anywhere, other machines."""

import os
import subprocess
import sys
import tracemalloc
import zlib
from itertools import permutations
from pathlib import Path

import pytest
from bridge_harness import (
    KEYS,
    SETTINGS,
    World,
    address,
    l2_transfer,
    l2_tx,
    l2_withdraw,
    prove_args,
)
from followed_world import Followed
from msgspec.structs import replace

from bridge import abi
from chainkit.codec import CodecError, decode, encode, parse_json
from chainkit.merkle import MAX_PROOF, ProofError, Tree
from chainkit.state import State
from chainkit.transaction import Call, SignedTransaction, Transfer
from rollup.batch import BatchBlock, BatchError, decode_batch, encode_batch, steps_root
from rollup.block import BlockBuilder, block_steps, execute_block, genesis_block
from rollup.derivation import DerivationError
from rollup.stf import BeginBlock, Deposit, Step, Transact, apply_step, prove_step
from rollup.trace import Lie, Trace

REPOSITORY = Path(__file__).parents[2]
BOND = SETTINGS.proposer_bond


# --- deposits ---------------------------------------------------------------------------------------------------


def three_deposits(world: World) -> None:
    for who, amount in (("carol", 5_000), ("dave", 6_000), ("carol", 7_000)):
        world.deposit("alice", who, amount)


def told_as(start: Tree, world: World, steps: list[Step]) -> Lie:
    """The lie whose root is that of other steps than the batch commits to."""
    other = Trace(world.l2.rules, start, steps)
    end = dict(other.tree(len(steps)).items())

    def lie(i: int, state: State) -> None:
        if i == 3:
            for key, value in end.items():
                state.set(key, value)

    return lie


FALSE_ORDERS: dict[str, list[tuple[int, int]]] = {
    "omit": [(0, 1), (2, 1)],
    "omit all": [],
    "repeat": [(0, 1), (1, 1), (1, 1), (2, 1)],
    "invent": [(0, 1), (1, 1), (2, 1), (0, 50)],
    "inflate": [(0, 1), (1, 2), (2, 1)],
}


@pytest.mark.parametrize("how", sorted(FALSE_ORDERS))
def test_deposit_skipping_in_the_root_is_provably_wrong(how: str) -> None:
    """The contract itself lists the deposits of a batch, so a root that comes of others loses the dispute."""
    world = World()
    three_deposits(world)
    said: list[Step] = [BeginBlock(1, world.tip.header.time)]
    for index, times in FALSE_ORDERS[how]:
        message = world.messages[index]
        assert isinstance(message, Deposit)
        said.append(replace(message, amount=message.amount * times))
    posted = world.post((3, []), lie=told_as(world.ends[0], world, said))
    assert posted.told.root(4) != posted.true.root(4)
    verdict = world.play(world.challenge(posted), posted.told, posted.true)
    assert (verdict.winner, verdict.reason) == (abi.CHALLENGER, "step-proved")
    honest = world.post((3, []))
    balances = [State(honest.end).account(address(who)).balance for who in ("carol", "dave")]
    assert balances == [12_000, 6_000]


def test_deposit_skipping_reordered_steps_are_another_commitment() -> None:
    """No batch data can name deposits, so none can reorder them; and a proof of a step is of its place."""
    world = Followed()
    three_deposits(world)
    posted = world.post((3, []))
    hashes = posted.hashes
    assert steps_root(hashes) == world.batch(1).steps_root
    for order in permutations(range(1, 4)):
        if order != (1, 2, 3):
            assert steps_root([hashes[0], *(hashes[i] for i in order)]) != world.batch(1).steps_root
    dispute = world.challenge(posted, "mallory", b"\x05" * 32)
    world.play(dispute, posted.true, posted.true, until=abi.CHOOSE)
    world.ok("mallory", "choose", abi.ChooseArgs(dispute, 1))
    good = prove_args(dispute, 1, posted.true)
    for wrong in (2, 3):
        moved = prove_args(dispute, wrong, posted.true)
        for args in (moved, replace(good, step=moved.step), replace(good, step_proof=moved.step_proof)):
            world.refused("bad_proof", "mallory", "prove", args)


def test_deposit_skipping_in_the_batch_is_refused() -> None:
    """Omit past the deadline, claim more or fewer than there are, take one in twice: the contract says no."""
    world = World()
    three_deposits(world)
    world.wait(SETTINGS.inclusion_delay)

    def refuse(code: str, blocks: list[BatchBlock], **changes: int) -> None:
        args = replace(world.batch_args(world.prepare(blocks), blocks), **changes)
        world.refused(code, "sequencer", "submit_batch", args, BOND)

    for taken in (0, 1, 2):  # even the last one is overdue by now
        refuse("inbox_overdue", [BatchBlock(0, taken, [])])
    refuse("inbox_beyond_end", [BatchBlock(0, 4, [])])
    for inbox_to in (0, 2, 4, 2**53 - 1):
        refuse("wrong_inbox", [BatchBlock(0, 3, [])], inbox_to=inbox_to)
    world.post((1, []), (2, []))
    assert world.totals.inbox_length == world.batch(1).inbox_to == 3
    refuse("inbox_beyond_end", [BatchBlock(world.tip.header.time, 3, [])])


def test_deposit_skipping_an_l1_that_says_so_is_not_believed() -> None:
    """Were a contract to queue a message twice, early or late, derivation would stop, not guess."""
    world = Followed()
    world.deposit("alice", "carol", 5_000)
    block = world.l1[-1]
    receipt = block.receipts[0]
    event = receipt.events[0]
    deposit = decode(abi.DepositInitiated, event.data)
    header = replace(block.header, height=world.height + 1)
    for index in (0, 2, 3):
        forged = replace(event, data=encode(replace(deposit, index=index)))
        pair = (block.transactions[0], replace(receipt, events=[forged]))
        with pytest.raises(DerivationError):
            world.derivation.apply_l1_block(header, [pair], None)


# --- invalid transactions ---------------------------------------------------------------------------------------

TO = address("bob")


def invalid() -> dict[str, bytes]:
    """Every way not to be a transaction that may run after alice's nonce 1."""
    good = l2_transfer("alice", 1, "bob", 5)
    body = SignedTransaction.decode(good).body
    fields = decode(list[object], good)
    return {
        "empty": b"",
        "bytes": b"\xff" * 40,
        "cut": good[:-1],
        "longer": good + b"\x00",
        "signature": good[:-1] + bytes([good[-1] ^ 1]),
        "stale": l2_transfer("alice", 0, "bob", 5),
        "gap": l2_transfer("alice", 9, "bob", 5),
        "chain": l2_tx("alice", 1, Transfer(TO, 5), chain=900),
        "gas low": l2_tx("alice", 1, Transfer(TO, 5), gas=1),
        "gas high": l2_tx("alice", 1, Transfer(TO, 5), gas=250_001),
        "poor": l2_transfer("alice", 1, "bob", 10**12),
        "unfunded": l2_transfer("carol", 0, "bob", 1),
        "fee": SignedTransaction.sign(replace(body, max_fee_per_gas=0), KEYS["alice"]).wire,
        "tip": SignedTransaction.sign(replace(body, tip_per_gas=17), KEYS["alice"]).wire,
        "negative": encode([*fields[:6], [0, TO, -1], fields[7]]),
        "overflow": encode([*fields[:6], [0, TO, 2**53], fields[7]]),
        "bool": encode([*fields[:6], [0, TO, True], fields[7]]),
        "float": encode([*fields[:6], [0, TO, 1.0], fields[7]]),
        "no sender": encode([901, bytes(32), *fields[2:]]),
    }


def reverting() -> dict[str, bytes]:
    """Valid, but refused by what they call: they pay their fee and change nothing else."""
    return {
        "no contract": l2_tx("alice", 1, Call("nothing", "here", b"", 0)),
        "no method": l2_tx("alice", 1, Call("messenger", "mint", b"", 0)),
        "bad arguments": l2_tx("alice", 1, Call("messenger", "withdraw", b"\x01", 5)),
        "not payable": l2_withdraw("alice", 1, "bob", 0),
        "to a contract": l2_tx("alice", 1, Transfer(sorted(World().l2.rules.reserved)[0], 5)),
        "small-order key": l2_tx("alice", 1, Transfer(b"\x01" + bytes(31), 5)),
    }


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("kind", sorted(invalid()))
def test_invalid_transaction_at_every_position(kind: str, position: int) -> None:
    """In order: builder, derivation, contract and one-step proofs have one root, and it is that without the rubbish."""
    good = [
        l2_transfer("alice", 0, "bob", 1),
        l2_withdraw("bob", 0, "dave", 7),
        l2_transfer("bob", 1, "alice", 2),
    ]
    wires = [*good[:position], invalid()[kind], *good[position:]]
    if kind in ("stale", "gap", "signature") and position == 0:
        wires[0] = l2_transfer("bob", 5, "alice", 5)  # nothing is stale yet
    agree(wires, ["" if wire in good else "any" for wire in wires])
    world = World()
    rules, parent = world.l2.rules, genesis_block(world.l2)
    clean = execute_block(rules, parent, 1, block_steps([], good))
    dirty = execute_block(rules, parent, 1, block_steps([], wires))
    assert dirty.tree.root == clean.tree.root


@pytest.mark.parametrize("kind", sorted(reverting()))
def test_a_transaction_that_reverts_has_one_root_everywhere(kind: str) -> None:
    wires = [l2_transfer("alice", 0, "bob", 1), reverting()[kind], l2_transfer("alice", 2, "bob", 1)]
    agree(wires, ["", "any", ""])


def agree(wires: list[bytes], codes: list[str]) -> None:
    """One root for: a node's block, the derivation, all steps in one state, each step over its witness."""
    world = Followed()
    posted = world.post((0, wires))
    batch = world.derived(1)
    assert batch.matches
    (block,) = batch.l2_blocks
    assert [bool(receipt.code) for receipt in block.receipts] == [code == "any" for code in codes]
    state, proven = State(world.ends[0]), world.ends[0].root
    for index, step in enumerate(posted.steps):
        apply_step(world.l2.rules, state, step)
        proven = prove_step(world.l2.rules, proven, step, posted.true.witness(index))
    builder = BlockBuilder(world.l2.rules, genesis_block(world.l2), block.header.time)
    for wire in wires:
        builder.add([Transact(wire)])
    assert {state.root(), proven, builder.seal().tree.root} == {world.batch(1).state_root}


# --- another machine --------------------------------------------------------------------------------------------

PROOFS = """
import sys, time, locale, random, datetime
sys.path[:0] = [".", "tests/support"]
moment, seed, place = float(sys.argv[1]), sys.argv[2], sys.argv[3]
time.time = time.monotonic = lambda: moment
time.time_ns = lambda: int(moment * 1e9)
random.seed(seed)
for name in (place, "C"):
    try:
        locale.setlocale(locale.LC_ALL, name)
        break
    except locale.Error:
        pass
sys.setrecursionlimit(400 + 100 * len(seed))
from rollup_world import *
from rollup.stf import BeginBlock, Deposit, Forced, Transact
chain = l2_chain()
steps = [BeginBlock(1, L2_TIME + 1), Deposit(0, ALICE.address, MALLORY.address, 5), Forced(1, withdraw(BOB, 0, 3).wire)]
steps += [Transact(transfer(ALICE, n, (BOB, CAROL)[n % 2], n).wire) for n in range(4)]
steps += [Transact(scratch(CAROL, n, m, 1).wire) for n, m in enumerate(("put", "refuse", "delete", "put"))]
steps += [Transact(b"?"), BeginBlock(2, L2_TIME + 2)]
trace = Trace(chain.rules, chain.genesis_tree, steps)
root = trace.root(0)
for i, step in enumerate(steps):
    witness = trace.witness(i)
    root = prove_step(chain.rules, root, step, witness)
    print(i, root.hex(), len(witness), hash(witness) and "")
print(run(chain, steps).hex())
"""

MACHINES = [
    {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "PYTHONOPTIMIZE": "2"},
    {"PYTHONHASHSEED": "4242", "TZ": "America/St_Johns", "LC_ALL": "de_DE", "PYTHONUTF8": "0"},
]


def test_ovm1_other_clock_hash_seed_locale() -> None:
    """OVM 1: each step's proof, replayed on other machines, years apart: the same roots from the same bytes."""
    said = set()
    for i, machine in enumerate(MACHINES):
        command = [sys.executable, "-c", PROOFS, str(10**9 * (i + 1)), "x" * i, machine["LC_ALL"]]
        done = subprocess.run(
            command, cwd=REPOSITORY, env={**os.environ, **machine}, capture_output=True, check=True
        )
        said.add(done.stdout)
    (lines,) = said
    assert len(lines.splitlines()) == 14


# --- bombs ------------------------------------------------------------------------------------------------------


def deflated(unit: bytes, count: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"\x00" + b"".join(packer.compress(unit) for _ in range(count)) + packer.flush()


HONEST = encode_batch([BatchBlock(0, 0, [bytes(100)])])
MEGABYTE = bytes(2**20)
BOMBS: dict[str, bytes] = {
    "100 MB of zeros": deflated(MEGABYTE, 100),
    "nested compression": b"\x00" + zlib.compress(deflated(MEGABYTE, 100)),
    "twice nested": b"\x00" + zlib.compress(zlib.compress(deflated(MEGABYTE, 100)[1:])),
    "deep lists": deflated(b"\x91" * 2**16, 60),
    "a list of 2**32 - 1": deflated(b"\xdd" + b"\xff" * 4, 1),
    "bytes of 2**32 - 1": deflated(b"\x91\x93\x00\x00\x91\xc6" + b"\xff" * 4, 1),
    "a million empty blocks": deflated(b"\xdd\x00\x0f\x42\x40" + b"\x93\x00\x00\x90" * 10**6, 1),
    "a million empty transactions": deflated(
        b"\x91\x93\x00\x00\xdd\x00\x1e\x84\x80" + b"\xc4\x00" * 2_000_000, 1
    ),
    "trailing garbage": HONEST + bytes(100_000),
    "a second stream": HONEST + HONEST[1:],
    "cut": HONEST[:-3],
    "nothing": b"\x00",
}


def peak_of(refusing: type[Exception], run: object, *args: object) -> int:
    assert callable(run)
    tracemalloc.start()
    try:
        with pytest.raises(refusing):
            run(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BOMBS)
def test_decompression_bombs(name: str) -> None:
    """100 KB -> 100 MB: refused, in memory that the limits bound and not the sender, wherever it comes in."""
    data = BOMBS[name]
    assert len(data) < 120_000
    assert peak_of(BatchError, decode_batch, data) < 14 * 2**20
    world = World()
    blocks = [BatchBlock(0, 0, [])]
    args = replace(world.batch_args(world.prepare(blocks), blocks), data=data)
    world.refused("bad_batch", "sequencer", "submit_batch", args, BOND)


@pytest.mark.parametrize(
    ("refusing", "run", "data"),
    [
        (CodecError, SignedTransaction.decode, b"\x98" + b"\x91" * 400_000),
        (CodecError, SignedTransaction.decode, b"\xdd\xff\xff\xff\xff"),
        (CodecError, SignedTransaction.decode, b"\x98\xc6\xff\xff\xff\xff"),
        (CodecError, SignedTransaction.decode, bytes(2**20)),
        (CodecError, parse_json, b"[" * 200_000),
        (CodecError, parse_json, b'{"a":' * 200_000),
        (CodecError, parse_json, b"9" * 4_000_000),
        (CodecError, parse_json, bytes(2**23)),
        (ProofError, lambda proof: Tree.from_proof(proof, bytes(32)), b"\x01\x00" * (MAX_PROOF // 2)),
        (ProofError, lambda proof: Tree.from_proof(proof, bytes(32)), b"\x03" + bytes(32) + b"\xff" * 4),
        (ProofError, lambda proof: Tree.from_proof(proof, bytes(32)), bytes(MAX_PROOF + 1)),
    ],
)
def test_decompression_bombs_without_compression(refusing: type[Exception], run: object, data: bytes) -> None:
    """Deep nesting and lengths that lie, at the other decoders: memory in proportion to what was sent."""
    assert peak_of(refusing, run, data) < 4 * len(data) + 2**20


def test_a_forced_step_of_the_inbox_is_bounded() -> None:
    world = World()
    for data in (bytes(64 * 1024), b"\x98" + b"\x91" * 60_000, b"\xdd\xff\xff\xff\xff"):
        receipt = world.call("mallory", "force", abi.ForceArgs(data))
        assert receipt.code in ("undecodable", "transaction_too_large")
    assert world.totals.inbox_length == 0
