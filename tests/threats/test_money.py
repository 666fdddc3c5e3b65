"""Money out of nothing, twice, or from whom it is not: forged claims, deposits, debits and double starts."""

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
from followed_world import Followed
from ledger import ALICE, BOB, COIN, STRANGER, VALIDATORS, assert_books, make_genesis, sign, transfer
from msgspec.structs import replace

from bridge import abi
from bridge.contract import Bridge
from bridge.settings import SettingsError, check_settings
from chainkit.block import (
    Certificate,
    CertificateError,
    CertificateVote,
    Validator,
    ValidatorSet,
    Vote,
    check_certificate,
)
from chainkit.chain import Chain, InvalidBlock
from chainkit.codec import CodecError, decode, encode
from chainkit.contract import NoArgs, Revert
from chainkit.execution import SupplyViolation, environment, system_context
from chainkit.genesis import GenesisContract, GenesisError, genesis_state
from chainkit.merkle import ProofError, Tree, key_hash, verify_proof
from chainkit.state import State, account_key, contract_address
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from l1node.staking import Staking, StakingParams
from rollup.stf import BeginBlock, Forced, Transact, apply_step, prove_step

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
    ways += [replace(good, proof=proof) for proof in list(mangled(good.proof))[: 223 - len(ways)]]
    assert len(ways) == 223
    for way in ways:
        if world.call("mallory", "claim", way).success:
            continue
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


# --- Ronin ------------------------------------------------------------------------------------------------------


def test_ronin_threshold_zero() -> None:
    """Ronin 2024: nothing out of nothing is no majority, and no start or upgrade makes a threshold zero."""
    header = Chain(make_genesis()).genesis_block.header
    nobody = Certificate(header.slot, header.height, header.hash(), [])
    for members in (
        ValidatorSet([]),
        ValidatorSet([Validator(VALIDATORS[0].address, 0)]),
        ValidatorSet([Validator(VALIDATORS[0].address, 1)]),
    ):
        assert not members.is_quorum(0)
        with pytest.raises(CertificateError):
            check_certificate(header, nobody, members)
    assert ValidatorSet([]).leader(ZERO, 1) is None
    assert ValidatorSet([Validator(VALIDATORS[0].address, 0)]).leader(ZERO, 1) is None
    staking = [("staking", "l1node.staking:Staking", StakingParams())]
    for stakes in ([], [(VALIDATORS[0], 0)]):
        with pytest.raises(GenesisError):
            genesis_state(make_genesis(stakes=stakes, contracts=staking))
    world = World()
    for name in abi.BridgeSettings.__struct_fields__:
        if name in ("admin", "sequencer"):
            continue
        with pytest.raises(SettingsError):
            check_settings(replace(SETTINGS, **{name: 0}))
        args = abi.UpgradeArgs(replace(SETTINGS, **{name: 0}))
        world.refused("bad_settings", "judy", "schedule_upgrade", args)


# --- Qubit ------------------------------------------------------------------------------------------------------


def test_qubit_deposit_without_funds() -> None:
    """Qubit, Meter 2022: a credit is the escrow's measured gain; nothing, unfunded or reverted is none."""
    world = Followed()
    to = abi.DepositArgs(address("dave"))
    for value in (0, 1, SETTINGS.min_deposit - 1):
        world.refused("deposit_too_small", "mallory", "deposit", to, value)
    good = world.tx("alice", "deposit", to, 5_000)
    for gas in (good.body.gas_limit // 10_000 + 6_000, 12_000, 20_000, 30_000):
        poor = SignedTransaction.sign(
            replace(good.body, nonce=world.state.account(address("alice")).nonce, gas_limit=gas),
            KEYS["alice"],
        )
        held = world.totals
        (receipt,) = world.mine(poor)
        assert receipt.code == "out_of_gas"
        assert world.totals == held
        assert not receipt.events
    rich = world.balance("mallory") + 1
    unfunded = SignedTransaction.sign(replace(world.tx("mallory", "deposit", to, rich).body), KEYS["mallory"])
    block, skipped = world.chain.build(world.tip, world.tip.header.slot + 1, ZERO, [unfunded])
    assert [refusal.code for _, refusal in skipped] == ["insufficient_balance"]
    assert not block.transactions
    transferred = replace(good.body, nonce=world.state.account(address("alice")).nonce)
    transferred = replace(transferred, action=Transfer(contract_address("bridge"), 5_000))
    assert world.mine(SignedTransaction.sign(transferred, KEYS["alice"]))[0].code == "invalid_recipient"
    assert world.derivation.inbox == []
    before = world.totals.escrow
    world.deposit("alice", "dave", 5_000)
    (message,) = world.derivation.inbox
    assert message.step.amount == world.totals.escrow - before == 5_000  # type: ignore[union-attr]


# --- Polygon MRC20 ----------------------------------------------------------------------------------------------


def unauthorised() -> dict[str, bytes]:
    """Transfers that no balance or no signature stands behind."""
    good = l2_transfer("alice", 0, "mallory", 5)
    body = SignedTransaction.decode(good).body
    poor = Body(901, address("carol"), 0, 100_000, 16, 0, Transfer(address("mallory"), 1))
    wires = {
        "insufficient_balance": SignedTransaction.sign(poor, KEYS["carol"]).wire,
        "one gwei too much": l2_transfer("alice", 0, "mallory", 10**12 - 100_000 * 16 + 1),
        "empty signature": good[:-64] + bytes(64),
        "another's signature": good[:-64] + KEYS["mallory"].sign(SignedTransaction.decode(good).id),
        "short signature": good[:-1],
    }
    for name, sender in (("zero sender", ZERO), ("identity", b"\x01" + bytes(31)), ("escrow", VAULT)):
        encoded = encode(replace(body, sender=sender))
        wires[name] = b"\x98" + encoded[1:] + encode(bytes(64))
        wires[name + ", signed"] = b"\x98" + encoded[1:] + encode(SignedTransaction.decode(good).signature)
    return wires


@pytest.mark.parametrize("name", sorted(unauthorised()))
@pytest.mark.parametrize("kind", [Transact, Forced])
def test_mrc20_debit_without_balance(name: str, kind: type[Any]) -> None:
    """Polygon MRC20 2021: no debit without a balance and a signature, ordered or forced; a failed check is an error."""
    wire = unauthorised()[name]
    world = World()
    start = State(world.ends[0])
    apply_step(world.l2.rules, start, BeginBlock(1, 1))
    before = start.commit()
    state = State(before)
    step = kind(wire) if kind is Transact else kind(0, wire)
    receipt = apply_step(world.l2.rules, state, step)
    assert (receipt.success, receipt.fee) == (False, 0)
    assert state.root() == before.root
    assert prove_step(world.l2.rules, before.root, step, before.prove(state.touched())) == before.root


# --- Optimism SELFDESTRUCT --------------------------------------------------------------------------------------


@pytest.mark.parametrize("vault", [None, ALICE.address, BOB.address, STRANGER.address])
@pytest.mark.parametrize("proposer", [ALICE.address, BOB.address, STRANGER.address])
@pytest.mark.parametrize("to", [ALICE.address, BOB.address])
def test_selfdestruct_supply(vault: bytes | None, proposer: bytes, to: bytes) -> None:
    """Optimism 2022: whichever of sender, recipient, proposer and vault are one account, no gwei comes or goes."""
    chain = Chain(make_genesis(vault=vault))
    tip = chain.genesis_block
    for nonce in range(3):
        whole = State(tip.tree).account(ALICE.address).balance
        amount = (0, 7, whole - 400_000 * 20)[nonce]
        tip, skipped = chain.build(tip, tip.header.slot + 1, proposer, [transfer(ALICE, nonce, to, amount)])
        assert not skipped
        assert tip.receipts[0].success
        assert_books(tip)


def test_selfdestruct_supply_violation_stops_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself works: a transfer that credits and forgets to debit does not get past it."""
    monkeypatch.setattr("chainkit.contract.debit", lambda *_: None)
    chain = Chain(make_genesis())
    with pytest.raises(SupplyViolation):
        chain.build(chain.genesis_block, 1, STRANGER.address, [transfer(ALICE, 0, BOB.address, 7)])


# --- Arbitrum Nitro ---------------------------------------------------------------------------------------------


def test_nitro_second_init() -> None:
    """Arbitrum Nitro 2022: initialised once, with creation; no call reaches it, before or after."""
    world = World()
    bridge = world.chain.rules.contracts["bridge"]
    env_state = State(world.tip.tree)
    ctx = system_context(world.chain.rules, env_state, bridge, environment(env_state))
    before = world.tip.tree.root
    with pytest.raises(ValueError, match="initialised already"):
        bridge.genesis(ctx, world.chain.genesis)
    assert env_state.root() == before
    for name in ("genesis", "begin_block", "public_state", "l2_rules", "run"):
        world.refused("unknown_method", "mallory", name)
    bare = State(type(world.tip.tree)())
    ctx = system_context(world.chain.rules, bare, bridge, environment(env_state))
    for name, declared in bridge.methods.items():
        args = NoArgs() if declared.args is NoArgs else None
        with pytest.raises(Revert) as refused:
            declared.run(bridge, ctx, args)
        assert refused.value.code == "no_genesis", name
    assert bare.root() == type(world.tip.tree)().root


def test_nitro_second_init_of_staking() -> None:
    stakes = [(key, 100 * COIN) for key in VALIDATORS]
    genesis = make_genesis(stakes=stakes, contracts=[("staking", "l1node.staking:Staking", StakingParams())])
    chain = Chain(genesis)
    for name in ("genesis", "begin_block"):
        tx = sign(ALICE, 0, Call("staking", name, encode(NoArgs()), 0))
        block, _ = chain.build(chain.genesis_block, 1, STRANGER.address, [tx])
        assert block.receipts[0].code == "unknown_method"
    with pytest.raises(InvalidBlock):
        chain.execute(chain.genesis_block, chain.genesis_block.block)


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
