"""Forged claims and proofs: what no final root proves, in any form, by whoever says so, is not paid."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from bridge_harness import (
    KEYS,
    L1_CHAIN,
    SETTINGS,
    VAULT,
    Posted,
    World,
    address,
    claim_args,
    l1_genesis,
    l2_transfer,
    l2_withdraw,
)
from ledger import ALICE, BOB, COIN, STRANGER, VALIDATORS, make_genesis, transfer
from msgspec.structs import replace

from bridge import abi
from bridge.contract import Bridge
from chainkit.block import (
    Certificate,
    CertificateError,
    CertificateVote,
    Validator,
    ValidatorSet,
    Vote,
    check_certificate,
)
from chainkit.chain import Chain
from chainkit.codec import CodecError, decode, encode
from chainkit.genesis import GenesisContract
from chainkit.merkle import ProofError, Tree, key_hash, verify_proof
from chainkit.state import account_key
from chainkit.transaction import Body, Call, SignedTransaction
from l1node.staking import Staking, StakingParams

ZERO = bytes(32)


@pytest.fixture(scope="module")
def final() -> tuple[World, Posted]:
    """Four withdrawals under a final root, and two more final roots after it."""
    world = World()
    withdrawals = [l2_withdraw("bob", n, "dave", 2_000 + n) for n in range(3)]
    posted = world.post((0, [*withdrawals, l2_withdraw("alice", 0, "carol", 9_000)]))
    world.post((0, [l2_transfer("alice", 1, "bob", 5)]))
    world.post((0, []))
    for index in (1, 2, 3):
        world.finalize(index)
    return world, posted


def refused_in_fork(world: World, args: abi.ClaimArgs, *codes: str) -> None:
    """REJECT, in a fork of the world: typed, no byte of the bridge changed, no money moved but the fee."""
    other = world.fork()
    before, had, tip = other.bridge_state(), other.balance("mallory"), other.balance("dave")
    receipt = other.call("mallory", "claim", args)
    assert not receipt.success
    assert receipt.code in codes, (receipt.code, receipt.message)
    assert other.bridge_state() == before
    assert (other.balance("mallory"), other.balance("dave")) == (had - receipt.fee, tip)


# --- Nomad ------------------------------------------------------------------------------------------------------


def test_nomad_zero_root(final: tuple[World, Posted]) -> None:
    """Nomad 2022: the zero root is nobody's: not of a batch, a challenge, a proof or a claim."""
    world, posted = final
    good = claim_args(posted, 0)
    key = abi.withdrawal_state_key(0)
    for proof in (b"", b"\x04", b"\x02" + ZERO, good.proof, b"\x03" + ZERO + bytes(4)):
        with pytest.raises(ProofError):
            verify_proof(ZERO, key, proof)
        refused_in_fork(world, replace(good, batch=0, proof=proof), "no_withdrawals")
        for never in (4, 5, 2**53 - 1):
            refused_in_fork(world, replace(good, batch=never, proof=proof), "unknown_batch")
    empty = World()
    blocks = empty.blocks((0, [l2_withdraw("bob", 0, "dave", 2_000)]))
    forged = empty.batch_args(empty.prepare(blocks), blocks, state_root=ZERO)
    empty.refused("zero_root", "sequencer", "submit_batch", forged, SETTINGS.proposer_bond)
    short = empty.tx("sequencer", "submit_batch", forged, SETTINGS.proposer_bond)
    none = encode([forged.parent, forged.inbox_to, forged.data, b""])
    call = Call("bridge", "submit_batch", none, SETTINGS.proposer_bond)
    (receipt,) = empty.mine(SignedTransaction.sign(replace(short.body, action=call), KEYS["sequencer"]))
    assert receipt.code == "bad_arguments"
    pending = empty.post((0, [l2_withdraw("bob", 0, "dave", 2_000)]))
    empty.refused("not_final", "dave", "claim", claim_args(pending, 0))
    args = abi.ChallengeArgs(1, ZERO)
    empty.refused("zero_root", "mallory", "challenge", args, SETTINGS.challenger_bond)


# --- BNB, Polygon, Wormhole -------------------------------------------------------------------------------------


def tokens(proof: bytes) -> list[bytes]:
    """The parts of a proof: node headers, stubs, leaves."""
    sizes: dict[int, Callable[[int], int]] = {
        0: lambda _: 65,
        1: lambda _: 2,
        2: lambda _: 33,
        3: lambda at: 37 + int.from_bytes(proof[at + 33 : at + 37], "big"),
    }
    parts, at = [], 0
    while at < len(proof):
        size = sizes[proof[at]](at)
        parts.append(proof[at : at + size])
        at += size
    return parts


def mangled(proof: bytes) -> Iterator[bytes]:
    """Every level dropped, repeated or moved; something unhashed put in anywhere; every byte changed."""
    parts = tokens(proof)
    for i in range(len(parts)):
        yield b"".join(parts[:i] + parts[i + 1 :])
        yield b"".join(parts[: i + 1] + parts[i:])
        yield b"".join(parts[:i] + parts[i + 1 : i + 2] + parts[i : i + 1] + parts[i + 2 :])
        for extra in (b"\x00" * 65, b"\x01\xff", b"\x02" + b"\x07" * 32, b"\x04", b"\x00"):
            yield b"".join(parts[:i]) + extra + b"".join(parts[i:])
    for i in range(len(proof)):
        yield proof[:i] + bytes([proof[i] ^ 1 << i % 8]) + proof[i + 1 :]
    yield proof + b"\x00"
    yield proof + proof
    yield proof[:-1]


def test_bnb_extra_field(final: tuple[World, Posted]) -> None:
    """BNB bridge 2022: the contract takes one proof of a withdrawal and not one byte, level or field more or less."""
    world, posted = final
    good = claim_args(posted, 0)
    attempts = {proof for proof in mangled(good.proof) if proof != good.proof}
    assert len(attempts) > len(good.proof)
    for proof in attempts:
        refused_in_fork(world, replace(good, proof=proof), "bad_proof")
    world.fork().ok("mallory", "claim", good)


# --- Dragonberry, inner nodes -----------------------------------------------------------------------------------


def answers(root: bytes, key: bytes, proof: bytes) -> list[bytes | None]:
    try:
        return [verify_proof(root, key, proof)]
    except ProofError:
        return []


def test_dragonberry_forged_absence() -> None:
    """Dragonberry 2022: of every proof, cut, spliced or of a neighbour, none says that what is there is not."""
    content = {b"key/%d" % n: b"value/%d" % n for n in range(24)}
    tree = Tree().update(content)
    keys = [*content, *(b"absent/%d" % n for n in range(12))]
    single = {key: tree.prove([key]) for key in keys}
    pool = [*single.values(), b"\x04", b"\x02" + tree.root, tree.prove([]), tree.prove(content)]
    pool += [tree.prove(pair) for pair in pairwise(keys)]
    pool += [forged for key in keys[::4] for forged in mangled(single[key])]
    for key in keys:
        for proof in pool:
            said = answers(tree.root, key, proof)
            assert said in ([], [content.get(key)]), (key, proof)
        assert answers(tree.root, key, single[key]) == [content.get(key)]


def test_cve_2017_12842_inner_node_as_a_leaf() -> None:
    """A value made of what an inner node hashes, and a leaf made of two child hashes, prove nothing of the tree."""
    small = Tree().update({b"a": b"1", b"b": b"2"})
    header, left, right = tokens(small.prove([b"a", b"b"]))
    hashes = [Tree.from_proof(leaf, leaf_root(leaf)).root for leaf in (left, right)]
    inner = header[1:] + b"".join(hashes)
    for value in (inner, b"\x01" + inner, b"".join(hashes), *hashes):
        for key in (b"a", b"b", b"c"):
            assert Tree().update({key: value}).root != small.root
            leaf = b"\x03" + key_hash(key) + len(value).to_bytes(4, "big") + value
            assert answers(small.root, key, leaf) == []
    forged = b"\x00" + b"".join(hashes)  # a leaf whose place and value are the two children
    for key in (b"a", b"b", b"c"):
        assert answers(small.root, key, forged) == []


def leaf_root(leaf: bytes) -> bytes:
    """The hash of an encoded leaf, by the format's own words."""
    value_hash = sha256(b"\x03" + leaf[37:]).digest()
    return sha256(b"\x00" + leaf[1:33] + value_hash).digest()


def test_polygon_223_exits(final: tuple[World, Posted]) -> None:
    """Polygon 2021: one burn, 223 ways to show it: other roots, more keys, other bytes; exactly one payout."""
    world, posted = final[0].fork(), final[1]
    good = claim_args(posted, 0)
    before, escrow = world.balance("dave"), world.totals.escrow
    ways = [
        replace(good, batch=batch, proof=world.ends[batch].prove([abi.withdrawal_state_key(0)]))
        for batch in (1, 2, 3)
    ]
    assert len({way.proof for way in ways}) == 3, "three valid proofs of one withdrawal"
    for i in range(1, 4):
        keys = [abi.withdrawal_state_key(0), abi.withdrawal_state_key(i), account_key(address("bob"))]
        ways += [replace(good, proof=posted.end.prove(keys[:n])) for n in (2, 3)]
    forged = [proof for proof in dict.fromkeys(mangled(good.proof)) if proof != good.proof]
    ways += [replace(good, proof=proof) for proof in forged[: 223 - len(ways)]]
    assert len(ways) == 223
    for way in ways[3:]:  # first: afterwards the nullifier alone would refuse them
        world.refused("bad_proof", "mallory", "claim", way)
    paid = [way for way in ways if world.call("mallory", "claim", way).success]
    assert paid == ways[:1]
    for way in ways[:3]:
        world.refused("already_claimed", "judy", "claim", way)
    assert world.balance("dave") == before + 2_000
    assert (world.totals.escrow, world.totals.claimed) == (escrow - 2_000, 2_000)


def methods() -> list[tuple[str, str]]:
    return [("bridge", name) for name in sorted(Bridge.methods)] + [
        ("staking", name) for name in sorted(Staking.methods)
    ]


@pytest.mark.parametrize(("contract", "name"), methods())
def test_wormhole_claims_inside_the_message(contract: str, name: str) -> None:
    """Wormhole 2022: whatever a message says about itself (verified, signers, keys) is not even an argument."""
    plain = l1_genesis()
    spec = GenesisContract("staking", "l1node.staking:Staking", encode(StakingParams()))
    stakes = [Validator(VALIDATORS[0].address, 100 * COIN)]
    chain = Chain(replace(plain, contracts=[*plain.contracts, spec], validators=stakes))
    kind = chain.rules.contracts[contract].methods[name].args
    blank = [0] * len(kind.__struct_fields__)
    tip, nonce = chain.genesis_block, 0
    for extra in (True, b"verified", [address("mallory")], {"verified": True}, {"signers": [VAULT]}):
        for args in (
            encode([*blank, extra]),
            encode({"verified": True}),
            encode([extra]) if not blank else b"\xc0",
        ):
            body = Body(L1_CHAIN, address("mallory"), nonce, 20_000_000, 16, 0, Call(contract, name, args, 0))
            tip, skipped = chain.build(
                tip, tip.header.slot + 1, ZERO, [SignedTransaction.sign(body, KEYS["mallory"])]
            )
            assert not skipped
            nonce += 1
            assert tip.receipts[0].code == "bad_arguments", tip.receipts[0].message


def test_wormhole_a_transaction_cannot_say_that_it_was_verified() -> None:
    good = transfer(ALICE, 0, BOB.address, 5)
    fields = decode(list[Any], good.wire)
    for more in (True, b"verified", ALICE.address, [ALICE.address, good.signature]):
        with pytest.raises(CodecError):
            SignedTransaction.decode(encode([*fields, more]))
    forged = transfer(ALICE, 0, STRANGER.address, 5)
    unsigned = SignedTransaction(forged.body, good.signature, forged.wire[:-64] + good.signature, forged.id)
    again = SignedTransaction.decode(unsigned.wire)
    assert not again.signature_valid()


def test_wormhole_a_certificate_does_not_bring_its_own_voters() -> None:
    members = ValidatorSet([Validator(key.address, 10) for key in VALIDATORS])
    header = Chain(make_genesis()).genesis_block.header
    strangers = sorted((STRANGER, ALICE, BOB), key=lambda key: key.address)
    votes = [Vote.sign(k, header.chain_id, header.slot, header.height, header.hash()) for k in strangers]
    certificate = Certificate(
        header.slot, header.height, header.hash(), [CertificateVote(v.voter, v.signature) for v in votes]
    )
    with pytest.raises(CertificateError):
        check_certificate(header, certificate, members)
    with pytest.raises(CodecError):
        decode(Certificate, encode([*decode(list[Any], encode(certificate)), encode(members)]))


# --- Bedrock ----------------------------------------------------------------------------------------------------


def test_bedrock_burned_withdrawal(final: tuple[World, Posted]) -> None:
    """Bedrock 2023: front-run with every amount of gas and every wrong field, the withdrawal stays claimable."""
    world, posted = final[0].fork(), final[1]
    good = claim_args(posted, 0)
    needed = world.fork().ok("mallory", "claim", good).gas_used
    tx = world.tx("mallory", "claim", good)
    floor = 5_000 + 8 * len(tx.wire)
    before = world.balance("dave")
    for gas in [*range(floor, needed - 8 * 8, max(1, (needed - floor) // 60))]:
        nonce = world.state.account(address("mallory")).nonce
        poor = SignedTransaction.sign(replace(tx.body, gas_limit=gas, nonce=nonce), KEYS["mallory"])
        (receipt,) = world.mine(poor)
        assert receipt.code == "out_of_gas"
    for change in (
        {"recipient": address("mallory")},
        {"recipient": ZERO},
        {"amount": 1_999},
        {"amount": 2_001},
        {"amount": 0},
    ):
        world.refused("wrong_withdrawal", "mallory", "claim", replace(good, **change))
    world.refused("bad_proof", "mallory", "claim", replace(good, index=1))
    world.refused("not_payable", "mallory", "claim", good, 1)
    assert world.balance("dave") == before
    world.ok("mallory", "claim", good)
    assert world.balance("dave") == before + 2_000
