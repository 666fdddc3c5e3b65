"""Money out of nothing, or from whom it is not: thresholds, deposits, debits, supply, double starts."""

from typing import Any

import pytest
from bridge_harness import (
    KEYS,
    SETTINGS,
    VAULT,
    World,
    address,
    l2_transfer,
)
from followed_world import Followed
from ledger import ALICE, BOB, COIN, STRANGER, VALIDATORS, assert_books, make_genesis, sign, transfer
from msgspec.structs import replace

from bridge import abi
from bridge.settings import SettingsError, check_settings
from chainkit.block import (
    Certificate,
    CertificateError,
    Validator,
    ValidatorSet,
    check_certificate,
)
from chainkit.chain import Chain, InvalidBlock
from chainkit.codec import encode
from chainkit.contract import NoArgs, Revert
from chainkit.execution import SupplyViolation, environment, system_context
from chainkit.genesis import GenesisError, genesis_state
from chainkit.state import Account, State, contract_address
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from l1node.staking import StakingParams
from rollup.stf import BeginBlock, Forced, Transact, apply_step, prove_step

ZERO = bytes(32)


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


@pytest.mark.parametrize(
    "forgotten",
    [
        "chainkit.contract.debit",
        "chainkit.contract._add",
        "chainkit.execution._add",
        "chainkit.execution.Account",
    ],
)
def test_selfdestruct_supply_violation_stops_the_node(
    monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """The check itself works: a debit, a credit or a fee that is forgotten does not get past it."""
    chain = Chain(make_genesis())
    if forgotten == "chainkit.execution.Account":  # the short way of a plain transfer has its own sum
        monkeypatch.setattr(forgotten, lambda balance, nonce: Account(balance + 1, nonce))
    else:
        monkeypatch.setattr("chainkit.execution._plain_transfer", lambda *_: None)
        monkeypatch.setattr(forgotten, lambda *_: None)
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
