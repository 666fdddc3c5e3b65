"""The applications on any layer: the same everywhere, provable as one step, cheap whatever came before."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from apps_world import (
    AGENT,
    ANSWER,
    ARBITER,
    GAS,
    LAYERS,
    MARKET,
    MINTER,
    OTHER,
    PRICE,
    PROVIDER,
    QUESTION,
    AppsWorld,
    MarketWorld,
    apps_genesis,
)
from ledger import STRANGER

from apps.market_records import (
    AnswerArgs,
    CallRef,
    OfferArgs,
    OfferRef,
    RateArgs,
    RequestArgs,
    RuleArgs,
    UpdateArgs,
)
from apps.token import ApproveArgs, MintArgs, TransferArgs, TransferFromArgs
from chainkit.backend import Head
from chainkit.chain import Chain
from chainkit.codec import MAX_AMOUNT, Record
from chainkit.execution import Receipt
from chainkit.genesis import genesis_from_json, genesis_to_json
from chainkit.keys import KeyPair
from chainkit.state import account_key
from chainkit.views import contract_json
from layerlab.genesis import L2_FEES

MAX_GAS = 40_000
"""Of any method here under the rollup's rules, whose transactions may use 250,000."""
MAX_KEYS = 5
"""Storage entries and foreign accounts that a method touches."""


@dataclass(frozen=True)
class Act:
    """A call that succeeds after ``before``; the dearest way to call the method."""

    key: KeyPair
    method: str
    args: Record
    value: int = 0
    before: Callable[[MarketWorld], object] = lambda world: None
    late: bool = False
    contract: str = MARKET


def two_holders(world: AppsWorld) -> None:
    world.ok(MINTER, "token", "mint", MintArgs(AGENT.address, 2**52))
    world.ok(AGENT, "token", "approve", ApproveArgs(PROVIDER.address, 2**51, 0))


ACTS = (
    Act(MINTER, "mint", MintArgs(STRANGER.address, 2**52), contract="token"),
    Act(AGENT, "transfer", TransferArgs(STRANGER.address, 2**50), before=two_holders, contract="token"),
    Act(AGENT, "approve", ApproveArgs(PROVIDER.address, 1, 2**51), before=two_holders, contract="token"),
    Act(
        PROVIDER,
        "transfer_from",
        TransferFromArgs(AGENT.address, STRANGER.address, 2**50),
        before=two_holders,
        contract="token",
    ),
    Act(OTHER, "offer", OfferArgs("m" * 64, MAX_AMOUNT)),
    Act(PROVIDER, "update_offer", UpdateArgs(0, MAX_AMOUNT)),
    Act(PROVIDER, "withdraw_offer", OfferRef(0)),
    Act(AGENT, "request", RequestArgs(0, 2 * PRICE, QUESTION), 2 * PRICE),
    Act(PROVIDER, "answer", AnswerArgs(0, ANSWER), before=MarketWorld.requested),
    Act(AGENT, "refund", CallRef(0), before=MarketWorld.requested, late=True),
    Act(AGENT, "confirm", CallRef(0), before=MarketWorld.answered),
    Act(PROVIDER, "claim", CallRef(0), before=MarketWorld.answered, late=True),
    Act(AGENT, "dispute", CallRef(0), before=MarketWorld.answered),
    Act(ARBITER, "rule", RuleArgs(0, True), before=MarketWorld.disputed),
    Act(AGENT, "split", CallRef(0), before=MarketWorld.disputed, late=True),
    Act(AGENT, "rate", RateArgs(0, 5), before=MarketWorld.paid),
)
each_act = pytest.mark.parametrize("act", ACTS, ids=lambda act: f"{act.contract}.{act.method}")


def ready(act: Act, layer: str = "l2") -> MarketWorld:
    world = MarketWorld(layer)
    act.before(world)
    if act.late:
        world.at(1_000)
    return world


def perform(world: AppsWorld, act: Act, gas: int = GAS) -> Receipt:
    return world.call(act.key, act.contract, act.method, act.args, value=act.value, gas=gas)


def test_these_are_all_methods() -> None:
    world = AppsWorld()
    for name in (MARKET, "token"):
        methods = [act.method for act in ACTS if act.contract == name]
        assert sorted(methods) == sorted(world.contract(name).methods)


@each_act
def test_every_method_does_the_same_on_every_layer(act: Act) -> None:
    """The same storage, byte by byte, and the same events; on L2 each step also ran over its witness."""
    outcomes = []
    for layer in LAYERS:
        world = ready(act, layer)
        receipt = perform(world, act)
        assert receipt.success, (receipt.code, receipt.message)
        outcomes.append((world.app_state(MARKET), world.app_state("token"), receipt.events))
    assert outcomes[0] == outcomes[1]


@each_act
def test_out_of_gas_anywhere_changes_nothing_and_is_provable(act: Act) -> None:
    world = ready(act)
    back, before = world.here(), world.app_state(act.contract)
    used = perform(world, act, gas=60_000).gas_used  # a limit of as many bytes as those below
    for missing in (1, 500, 1_500, 3_000, 6_000, 9_000, 12_000):
        back()
        receipt = perform(world, act, gas=used - missing)
        if receipt.code == "gas_limit_too_low":
            break
        assert (receipt.code, receipt.events) == ("out_of_gas", [])
        assert world.app_state(act.contract) == before
    back()
    assert perform(world, act, gas=used).success


@each_act
def test_every_method_is_cheap_and_touches_few_keys(act: Act) -> None:
    world = ready(act)
    receipt = perform(world, act)
    assert receipt.success
    assert receipt.gas_used <= MAX_GAS < L2_FEES.max_transaction_gas // 5
    own = [key for key in world.state.touched() if key[:1] == b"c"]
    others = [key for key in world.state.touched() if key[:1] == b"a" and key != account_key(act.key.address)]
    assert len(own) <= MAX_KEYS
    assert len(others) <= 4  # the vault, the contract and two who are paid


@each_act
def test_the_price_of_a_method_does_not_grow_with_what_came_before(act: Act) -> None:
    """An attacker who fills the contracts makes nobody's calls dearer, but for some bytes of longer numbers."""
    world = ready(act)
    back = world.here()
    alone = perform(world, act)
    back()
    for index in range(40):
        world.ok(OTHER, MARKET, "offer", OfferArgs("spam", 1))
        world.ok(AGENT, MARKET, "request", RequestArgs(world.totals.offers - 1, 1, QUESTION), value=1)
        world.ok(MINTER, "token", "mint", MintArgs(KeyPair(bytes([2, index]) + bytes(30)).address, 1))
    crowded = perform(world, act)
    assert crowded.success
    assert abs(crowded.gas_used - alone.gas_used) <= 120


# --- by name, from a genesis ---


@pytest.mark.parametrize("layer", LAYERS)
def test_a_genesis_names_them_and_its_file_says_the_same(layer: str) -> None:
    genesis = apps_genesis(layer)
    shown = genesis_to_json(genesis)
    codes = {spec["name"]: spec["code"] for spec in shown["contracts"]}
    assert codes["token"] == "apps.token:Token"
    assert codes[MARKET] == "apps.inference_market:InferenceMarket"
    assert genesis_from_json(json.dumps(shown)) == genesis


@pytest.mark.parametrize("layer", LAYERS)
def test_the_api_shows_them_with_all_that_a_client_needs(layer: str) -> None:
    world = MarketWorld(layer)
    two_holders(world)
    world.rated()

    start = Chain(world.genesis).genesis_block
    head = Head(start.header, start.hash, world.state.commit())
    for name in (MARKET, "token"):
        contract = world.contract(name)
        shown = contract_json(contract, head)
        assert json.loads(json.dumps(shown)) == shown
        assert {method["name"] for method in shown["methods"]} == set(contract.methods)
        assert {event["name"] for event in shown["events"]} == {kind.__name__ for kind in contract.events}
        fields = [method["args"] for method in shown["methods"]] + [
            event["data"] for event in shown["events"]
        ]
        assert {word for field in fields for word in field.values()} <= {
            "u53",
            "bytes32",
            "str",
            "bool",
            "literal",
        }
