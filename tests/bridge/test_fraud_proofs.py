"""Fraud at every step index is provable, honest batches survive a challenge at every index (P12, P14)."""

import pytest
from bridge_harness import (
    L2_FUNDS,
    SETTINGS,
    Posted,
    World,
    address,
    l2_transfer,
    l2_tx,
    l2_withdraw,
    prove_args,
    steal_at,
)
from msgspec.structs import replace

from bridge import abi
from bridge.settings import moves_of_a_side
from chainkit.codec import encode
from chainkit.state import Account, State
from chainkit.transaction import MAX_TRANSACTION_BYTES, Call, Transfer
from rollup.stf import MAX_STEP_BYTES, Transact, apply_step
from rollup.trace import Lie, Trace


def every_kind(world: World, form: str) -> list[tuple[int, list[bytes]]]:
    """Blocks that hold every kind of step, valid and not. Undecodable ones make the batch a plain one."""
    odd = [b"\xff", b""]
    if form == "packed":
        odd = [
            l2_transfer("mallory", 2**53 - 1, "bob", 1),
            l2_tx("mallory", 0, Transfer(b"\x01" + bytes(31), 7)),
        ]
    world.deposit("carol", "dave", 50_000)
    world.force("alice", l2_transfer("alice", 0, "bob", 11))
    world.force("alice", l2_transfer("alice", 9, "bob", 11))  # a nonce that never comes
    world.force("alice", l2_transfer("alice", 1, "bob", L2_FUNDS))  # unaffordable
    good = l2_transfer("alice", 1, "carol", 12)
    first = [
        good,
        good,  # repeated: stale
        *odd,
        good[:-1] + bytes([good[-1] ^ 1]),  # bad signature
        l2_tx("bob", 0, Call("nothing", "here", b"", 0)),  # reverts, pays its fee
        l2_withdraw("bob", 1, "dave", 1_000),
        l2_withdraw("bob", 2, "dave", 0),  # reverts
    ]
    return [(2, first), (0, []), (2, [l2_transfer("alice", 2, "alice", 5)])]


STEPS = 16


@pytest.fixture(scope="module", params=["plain", "packed"])
def base(request: pytest.FixtureRequest) -> tuple[World, list[tuple[int, list[bytes]]]]:
    world = World()
    return world, every_kind(world, request.param)


def lied(base: tuple[World, list[tuple[int, list[bytes]]]], lie: Lie | None) -> tuple[World, Posted]:
    world = base[0].fork()
    posted = world.post(*base[1], lie=lie)
    assert len(posted.steps) == STEPS
    return world, posted


@pytest.mark.parametrize("index", range(STEPS))
def test_kroma_fraud_at_every_step_is_provable(
    base: tuple[World, list[tuple[int, list[bytes]]]], index: int
) -> None:
    world, posted = lied(base, steal_at(index))
    dispute = world.challenge(posted)
    record = world.play(dispute, posted.told, posted.true)
    assert (record.winner, record.reason) == (abi.CHALLENGER, "step-proved")
    assert record.low == index
    assert record.moves <= 2 * moves_of_a_side(SETTINGS)
    assert world.batch(posted.index).status == abi.REVERTED
    assert world.totals.head_batch == 0
    assert world.totals.bonds == 0
    assert world.bonds_burned == SETTINGS.proposer_bond - SETTINGS.proposer_bond // 2


@pytest.mark.parametrize("index", range(STEPS))
def test_an_honest_batch_survives_a_challenge_at_every_step(
    base: tuple[World, list[tuple[int, list[bytes]]]], index: int
) -> None:
    world, posted = lied(base, None)
    mad = Trace(world.l2.rules, world.ends[0], posted.steps, steal_at(index))
    dispute = world.challenge(posted, "mallory", mad.root(len(posted.steps)))
    record = world.play(dispute, posted.true, mad, until=abi.PROVE)
    assert record.low == index
    world.ok("sequencer", "prove", prove_args(dispute, record.low, posted.true))
    record = world.dispute(dispute)
    assert (record.winner, record.reason) == (abi.DEFENDER, "step-proved")
    assert world.batch(1).open_disputes == 0
    world.finalize(1)
    assert world.totals.bonds == 0


def test_the_challengers_own_proof_of_a_true_step_convicts_it() -> None:
    world = World()
    posted = world.post((0, []))
    dispute = world.challenge(posted, "mallory", b"\x01" * 32)
    world.ok("mallory", "prove", prove_args(dispute, 0, posted.true))
    assert world.dispute(dispute).winner == abi.DEFENDER


@pytest.mark.parametrize("times", [0, 2])
def test_a_deposit_skipped_or_credited_twice_is_provable(times: int) -> None:
    def skip(i: int, state: State) -> None:
        if i == 1:
            state.set_account(address("dave"), Account(times * 50_000, 0))

    world = World()
    world.deposit("carol", "dave", 50_000)
    posted = world.post((1, []), lie=skip)
    record = world.play(world.challenge(posted), posted.told, posted.true)
    assert record.winner == abi.CHALLENGER


def at_proof() -> tuple[World, Posted, int, abi.ProveArgs]:
    world = World()
    posted = world.post(
        (0, [l2_transfer("alice", 0, "bob", 1), l2_transfer("bob", 0, "alice", 1)]), lie=steal_at(1)
    )
    dispute = world.challenge(posted)
    record = world.play(dispute, posted.told, posted.true, until=abi.PROVE)
    return world, posted, dispute, prove_args(dispute, record.low, posted.true)


def test_bad_proofs_change_nothing_and_the_good_one_still_counts() -> None:
    world, posted, dispute, good = at_proof()
    low = world.dispute(dispute).low
    neighbour = posted.hashes.opening(low + 1, posted.steps[low + 1])
    other, known = neighbour.step, [abi.KnownAddress(*shown) for shown in neighbour.addresses]
    for bad in (
        abi.ProveArgs(dispute, other, good.step_proof, good.witness, good.addresses),
        abi.ProveArgs(dispute, other, neighbour.proof, good.witness, known),  # a neighbour's proof
        abi.ProveArgs(dispute, encode(Transact(b"")), good.step_proof, good.witness, good.addresses),
        abi.ProveArgs(dispute, b"", good.step_proof, good.witness, good.addresses),
        abi.ProveArgs(dispute, good.step + b"\0", good.step_proof, good.witness, good.addresses),
        abi.ProveArgs(dispute, good.step, good.step_proof[:-1], good.witness, good.addresses),
        abi.ProveArgs(dispute, good.step, [*good.step_proof, bytes(32)], good.witness, good.addresses),
        abi.ProveArgs(dispute, good.step, [], good.witness, good.addresses),
        abi.ProveArgs(dispute, good.step, good.step_proof, b"", good.addresses),
        abi.ProveArgs(dispute, good.step, good.step_proof, good.witness[:-1], good.addresses),
        abi.ProveArgs(dispute, good.step, good.step_proof, good.witness + b"\0", good.addresses),
        abi.ProveArgs(dispute, good.step, good.step_proof, posted.end.prove([]), good.addresses),
        abi.ProveArgs(
            dispute, good.step, good.step_proof, posted.true.tree(low).prove([b"nothing"]), good.addresses
        ),
        abi.ProveArgs(
            dispute, good.step, good.step_proof, posted.true.tree(low + 1).prove([]), good.addresses
        ),
    ):
        _refused_without_waiting(world, "bad_proof", bad)
    world.ok("judy", "prove", good)  # anyone may bring it; the challenger is paid
    assert world.dispute(dispute).winner == abi.CHALLENGER


def test_a_packed_step_is_opened_with_the_addresses_of_its_numbers_and_no_others() -> None:
    """Whoever could show another address behind a number would have signatures fail, or money go elsewhere."""
    world = World()
    world.post((0, [l2_transfer("carol", 0, "dave", 1)]))
    posted = world.post(
        (0, [l2_transfer("alice", 0, "bob", 1), l2_transfer("bob", 0, "bob", 1)]), lie=steal_at(1)
    )
    dispute = world.challenge(posted)
    record = world.play(dispute, posted.told, posted.true, until=abi.PROVE)
    assert record.low == 1
    good = prove_args(dispute, 1, posted.true)
    alice, bob = good.addresses
    assert [alice.address, bob.address] == [address("alice"), address("bob")]
    directory = world.directory
    count = len(directory)
    others = [abi.KnownAddress(directory[i], directory.proof(i, count)) for i in range(count)]
    for shown in (
        [],
        [alice],
        [bob],
        [bob, alice],
        [alice, alice],
        [others[0], bob],
        [alice, others[1]],
        [replace(alice, address=address("mallory")), bob],
        [replace(alice, proof=alice.proof[:-1]), bob],
        [replace(alice, proof=[*alice.proof, bytes(32)]), bob],
        [replace(alice, proof=[]), bob],
        [alice, replace(bob, proof=alice.proof)],
    ):
        _refused_without_waiting(world, "bad_proof", replace(good, addresses=shown))
    plain = encode(Transact(l2_transfer("alice", 0, "bob", 1)))
    for step in (plain, posted.contents.committed[1], good.step[:-1] + b"\0"):
        _refused_without_waiting(world, "bad_proof", replace(good, step=step))
        _refused_without_waiting(world, "bad_proof", replace(good, step=step, addresses=[]))
    world.ok("judy", "prove", good)
    assert world.dispute(dispute).winner == abi.CHALLENGER


def test_a_reverted_batch_leaves_its_addresses_and_the_next_is_still_provable() -> None:
    world = World()
    bad = world.post((0, [l2_transfer("alice", 0, "bob", 1)]), lie=steal_at(1))
    assert world.play(world.challenge(bad), bad.told, bad.true).winner == abi.CHALLENGER
    assert (world.batch(bad.index).addresses, len(world.directory)) == (2, 2)
    again = world.post((0, [l2_transfer("carol", 0, "alice", 1)]), lie=steal_at(1))
    assert world.batch(again.index).addresses == 3
    assert world.play(world.challenge(again), again.told, again.true).winner == abi.CHALLENGER


def _refused_without_waiting(world: World, code: str, args: abi.ProveArgs) -> None:
    tip = world.tip
    world.refused(code, "mallory", "prove", args)
    world.tip = tip


def test_colluding_sides_that_agree_on_no_state_at_all_cannot_crash_l1() -> None:
    """Both may agree on any root: here one whose block environment is garbage."""

    world = World()
    wires = [l2_transfer("alice", 0, "bob", 1), l2_transfer("alice", 1, "bob", 1)]
    start, made = world.ends[0], world.blocks((0, wires))
    posted = world.prepare(made)
    state = State(start)
    before = State(start)
    apply_step(world.l2.rules, before, posted.steps[0])
    apply_step(world.l2.rules, before, posted.steps[1])
    for key in before.touched():
        state.set(key, b"\xc1garbage")
    garbage = state.commit()
    posted = world.post((0, wires), lie=lambda i, s: s.set(b"x", b"y") if i == 2 else None)
    dispute = world.challenge(posted)
    world.ok("sequencer", "bisect", abi.BisectArgs(dispute, [garbage.root, b"\x07" * 32]))
    world.ok("verifier", "choose", abi.ChooseArgs(dispute, 1))
    good = prove_args(dispute, 1, posted.true)
    witness = garbage.prove(before.touched())
    args = abi.ProveArgs(dispute, good.step, good.step_proof, witness)
    world.refused("bad_proof", "mallory", "prove", args)


def test_the_proof_of_the_largest_legal_step_fits_one_l1_transaction() -> None:
    """OP's large preimages: a step of the most bytes that a batch takes."""
    world = World()
    large = b"\x5a" * (MAX_STEP_BYTES - 16)
    posted = world.post((0, [large]), lie=steal_at(1))
    dispute = world.challenge(posted)
    record = world.play(dispute, posted.told, posted.true, until=abi.PROVE)
    args = prove_args(dispute, record.low, posted.true)
    assert len(args.step) > MAX_STEP_BYTES - 16
    tx = world.tx("verifier", "prove", args)
    assert len(tx.wire) < world.chain.rules.fees.max_transaction_bytes < MAX_TRANSACTION_BYTES
    assert world.mine(tx)[0].success
    assert world.dispute(dispute).winner == abi.CHALLENGER


def test_witness_over_the_limit() -> None:
    world, _, dispute, good = at_proof()
    big = abi.ProveArgs(dispute, good.step, good.step_proof, bytes(abi.MAX_WITNESS_BYTES + 1))
    world.refused("bad_proof", "mallory", "prove", big)
