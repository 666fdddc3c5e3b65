"""Forged claims (tests/threats/README.md): only what a final root proves is paid, to whom it says, once (P3, P18)."""

import pytest
from bridge_harness import Posted, World, address, claim_args, l2_transfer, l2_withdraw
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge import abi
from chainkit.codec import encode
from chainkit.merkle import ProofError, verify_proof
from chainkit.state import account_key, contract_address, storage_key


@pytest.fixture(scope="module")
def final() -> tuple[World, Posted]:
    world = World()
    withdrawals = [l2_withdraw("bob", n, "dave", 2_000 + n) for n in range(3)]
    posted = world.post((0, [*withdrawals, l2_withdraw("alice", 0, "carol", 9_000)]))
    world.finalize(1)
    return world, posted


def reject(final: tuple[World, Posted], args: abi.ClaimArgs, *codes: str) -> None:
    world = final[0].fork()
    escrow = world.totals.escrow
    receipt = world.call("mallory", "claim", args)
    assert not receipt.success
    assert receipt.code in codes, receipt.code
    assert world.totals.escrow == escrow


def test_nomad_claims_against_no_root(final: tuple[World, Posted]) -> None:
    good = claim_args(final[1], 0)
    reject(final, replace(good, batch=0), "no_withdrawals")
    reject(final, replace(good, batch=2), "unknown_batch")
    reject(final, replace(good, batch=2**53 - 1), "unknown_batch")


def test_nomad_claims_against_a_root_that_is_not_confirmed() -> None:
    world = World()
    posted = world.post((0, [l2_withdraw("bob", 0, "dave", 2_000)]))
    world.refused("not_final", "dave", "claim", claim_args(posted, 0))
    world.wait(20)
    message = world.refused("not_final", "dave", "claim", claim_args(posted, 0))
    assert message == "challenge window is over; finalize batch 1 first"


def test_claims_against_a_reverted_batch() -> None:
    from bridge_harness import steal_at

    world = World()
    posted = world.post((0, [l2_withdraw("bob", 0, "dave", 2_000)]), lie=steal_at(0))
    world.play(world.challenge(posted), posted.told, posted.true)
    world.refused("batch_reverted", "dave", "claim", claim_args(posted, 0))


def test_bnb_every_bit_of_a_proof_is_bound(final: tuple[World, Posted]) -> None:
    world, posted = final
    good = claim_args(posted, 0).proof
    root, key = posted.end.root, abi.withdrawal_state_key(0)
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProofError):
            verify_proof(root, key, bytes(flipped))
    assert world.batch(1).state_root == root


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_bnb_mangled_proofs_are_refused_by_the_contract(
    final: tuple[World, Posted], data: st.DataObject
) -> None:
    good = claim_args(final[1], 0)
    at = data.draw(st.integers(0, len(good.proof) - 1))
    width = data.draw(st.integers(0, 80))
    extra = data.draw(st.binary(max_size=40))
    proof = good.proof[:at] + extra + good.proof[at + width :]
    if proof != good.proof:
        reject(final, replace(good, proof=proof), "bad_proof")


def test_polygon_one_burn_one_exit_whatever_the_encoding(final: tuple[World, Posted]) -> None:
    """Polygon 2021: 223 exits. Every other proof form for the same leaf is refused, before and after paying."""
    world, posted = final[0].fork(), final[1]
    key = abi.withdrawal_state_key(0)
    others = [posted.end.prove([key, abi.withdrawal_state_key(i)]) for i in (1, 2, 3)]
    others += [posted.end.prove([key, account_key(address("bob"))])]
    good = claim_args(posted, 0)
    for proof in others:
        world.refused("bad_proof", "mallory", "claim", replace(good, proof=proof))
    world.ok("mallory", "claim", good)
    for proof in [good.proof, *others]:
        world.refused("already_claimed", "mallory", "claim", replace(good, proof=proof))


def test_dragonberry_absence_is_not_presence(final: tuple[World, Posted]) -> None:
    posted = final[1]
    absent = posted.end.prove([abi.withdrawal_state_key(4)])
    good = claim_args(posted, 0)
    reject(final, replace(good, index=4, proof=absent), "not_proven")
    reject(final, replace(good, index=4, proof=good.proof), "bad_proof")
    reject(final, replace(good, proof=absent), "bad_proof")
    reject(final, replace(good, index=1), "bad_proof")
    reject(final, replace(good, proof=b"\x04"), "bad_proof")
    reject(final, replace(good, proof=b""), "bad_proof")


def test_another_key_cannot_stand_for_a_withdrawal(final: tuple[World, Posted]) -> None:
    posted = final[1]
    good = claim_args(posted, 0)
    for key in (account_key(address("bob")), storage_key("messenger", b"count"), b"snothing"):
        reject(final, replace(good, proof=posted.end.prove([key])), "bad_proof")


def test_wormhole_nothing_in_the_message_vouches_for_it(final: tuple[World, Posted]) -> None:
    world, good = final[0].fork(), claim_args(final[1], 0)
    for extra in (True, b"verified", [address("mallory")], {"verified": True}):
        fields = [good.batch, good.index, good.recipient, good.amount, good.proof, extra]
        tx = world.tx("mallory", "claim", good)
        from bridge_harness import KEYS

        from chainkit.transaction import Call, SignedTransaction

        action = Call("bridge", "claim", encode(fields), 0)
        tx = SignedTransaction.sign(replace(tx.body, action=action), KEYS["mallory"])
        receipt = world.mine(tx)[0]
        assert (receipt.success, receipt.code) == (False, "bad_arguments")


@pytest.mark.parametrize("change", [{"recipient": address("mallory")}, {"amount": 2_001}, {"amount": 0}])
def test_bedrock_a_front_run_claim_cannot_divert_or_burn_it(
    final: tuple[World, Posted], change: dict[str, object]
) -> None:
    world, posted = final[0].fork(), final[1]
    good = claim_args(posted, 0)
    world.refused("wrong_withdrawal", "mallory", "claim", replace(good, **change))
    tx = world.tx("mallory", "claim", good)
    from bridge_harness import KEYS

    from chainkit.transaction import SignedTransaction

    poor = SignedTransaction.sign(replace(tx.body, gas_limit=16_000), KEYS["mallory"])
    assert world.mine(poor)[0].code == "out_of_gas"
    before = world.balance("dave")
    world.ok("mallory", "claim", good)  # whoever sends it, dave is paid
    assert world.balance("dave") == before + 2_000


def test_all_withdrawals_are_paid_once_in_any_order(final: tuple[World, Posted]) -> None:
    world, posted = final[0].fork(), final[1]
    for index in (3, 1, 0, 2):
        world.ok("judy", "claim", claim_args(posted, index))
        world.refused("already_claimed", "judy", "claim", claim_args(posted, index))
    assert world.totals.claimed == 2_000 + 2_001 + 2_002 + 9_000


def test_a_plain_transfer_to_the_bridge_is_refused(final: tuple[World, Posted]) -> None:
    world = final[0].fork()
    from bridge_harness import KEYS

    from chainkit.transaction import SignedTransaction, Transfer

    body = replace(world.tx("alice", "freeze").body, action=Transfer(contract_address("bridge"), 5))
    receipt = world.mine(SignedTransaction.sign(body, KEYS["alice"]))[0]
    assert receipt.code == "invalid_recipient"
    assert l2_transfer("alice", 0, "bob", 1)
