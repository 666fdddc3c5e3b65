"""The inference market attacked: every caller in every state, wrong values, numbers at their ends, contracts."""

from collections.abc import Iterator

import pytest
from apps_world import (
    AGENT,
    ANSWER,
    ARBITER,
    MARKET,
    MARKET_PARAMS,
    MINTER,
    OTHER,
    PEOPLE,
    PRICE,
    PROVIDER,
    PROXY,
    QUESTION,
    AppsWorld,
    MarketWorld,
)
from msgspec.structs import replace

from apps.inference_market import InferenceMarket
from apps.market_records import (
    AnswerArgs,
    CallRef,
    MarketParams,
    OfferArgs,
    OfferRef,
    Provider,
    RateArgs,
    RequestArgs,
    RuleArgs,
    UpdateArgs,
)
from chainkit.codec import MAX_AMOUNT, encode
from chainkit.genesis import GenesisError, genesis_state
from chainkit.keys import KeyPair
from chainkit.state import contract_address
from chainkit.transaction import Body, SignedTransaction, Transfer
from rollup.stf import Transact

STATES = ("requested", "answered", "disputed", "paid", "refunded", "split", "rated")
CALLS = {
    "answer": lambda n: AnswerArgs(n, ANSWER),
    "refund": CallRef,
    "confirm": CallRef,
    "claim": CallRef,
    "dispute": CallRef,
    "rule": lambda n: RuleArgs(n, False),
    "split": CallRef,
    "rate": lambda n: RateArgs(n, 3),
}
BOTH = frozenset({False, True})
MAY = {
    # (state, method): who may, and whether before (False) or after (True) the deadline
    ("requested", "answer"): ({PROVIDER}, {False}),
    ("requested", "refund"): ({AGENT}, {True}),
    ("answered", "confirm"): ({AGENT}, BOTH),
    ("answered", "dispute"): ({AGENT}, {False}),
    ("answered", "claim"): ({PROVIDER}, {True}),
    ("disputed", "rule"): ({ARBITER}, {False}),
    ("disputed", "split"): ({AGENT, PROVIDER}, {True}),
    ("paid", "rate"): ({AGENT}, BOTH),
}


def tries(state: str, late: bool) -> Iterator[tuple[str, KeyPair, bool]]:
    for method in CALLS:
        who, when = MAY.get((state, method), (set(), set()))
        for key in PEOPLE:
            yield method, key, key in who and late in when


@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
@pytest.mark.parametrize("state", STATES)
def test_every_method_by_everybody_in_every_state(state: str, late: bool) -> None:
    """Exactly what the table says may be done; nothing else changes anything but the caller's fee."""
    world = MarketWorld()
    other = world.disputed()
    number = getattr(world, state)()
    if late:
        world.at(world.market_call(number).deadline + 1)
    back, before = world.here(), world.app_state(MARKET)
    untouched, call = world.market_call(other), world.market_call(number)
    for method, key, may in tries(state, late):
        balances = {who.address: world.balance(who.address) for who in PEOPLE}
        receipt = world.call(key, MARKET, method, CALLS[method](number))
        assert receipt.success == may, (method, key, receipt.code)
        if may:
            assert world.market_call(number) != call
            assert world.market_call(other) == untouched
        else:
            assert world.app_state(MARKET) == before
            balances[key.address] -= receipt.fee
            assert {who.address: world.balance(who.address) for who in PEOPLE} == balances
        world.assert_books()
        back()


@pytest.mark.parametrize("state", ["paid", "refunded", "split", "rated"])
def test_a_settled_call_pays_nobody_again(state: str) -> None:
    world = MarketWorld()
    settled, money = getattr(world, state)(), world.requested()
    world.at(10**6)
    for method, key in (
        ("confirm", AGENT),
        ("refund", AGENT),
        ("dispute", AGENT),
        ("claim", PROVIDER),
        ("split", PROVIDER),
        ("rule", ARBITER),
    ):
        world.refused("wrong_status", key, MARKET, method, CALLS[method](settled))
    assert world.market_call(money).status == "requested"
    assert world.balance(contract_address(MARKET)) == PRICE


def test_the_wrong_caller_is_told_so() -> None:
    world = MarketWorld()
    number = world.answered()
    for code, method, key in (
        ("not_provider", "answer", AGENT),
        ("not_provider", "claim", OTHER),
        ("not_agent", "confirm", PROVIDER),
        ("not_agent", "dispute", PROVIDER),
        ("not_agent", "refund", OTHER),
        ("not_agent", "rate", PROVIDER),
        ("not_arbiter", "rule", AGENT),
        ("not_arbiter", "rule", MINTER),
        ("not_party", "split", ARBITER),
    ):
        world.refused(code, key, MARKET, method, CALLS[method](number))
    world.refused("not_provider", OTHER, MARKET, "update_offer", UpdateArgs(0, 1))
    world.refused("not_provider", OTHER, MARKET, "withdraw_offer", OfferRef(0))


@pytest.mark.parametrize("number", [1, 2**32, MAX_AMOUNT])
def test_unknown_numbers(number: int) -> None:
    world = MarketWorld()
    world.requested()
    for method, args in CALLS.items():
        world.refused("unknown_call", ARBITER, MARKET, method, args(number))
    world.refused("unknown_offer", OTHER, MARKET, "update_offer", UpdateArgs(number, 1))
    world.refused("unknown_offer", OTHER, MARKET, "withdraw_offer", OfferRef(number))
    args = RequestArgs(number, PRICE, QUESTION)
    world.refused("unknown_offer", AGENT, MARKET, "request", args, value=PRICE)


# --- values ---


@pytest.mark.parametrize(
    ("most", "value", "code"),
    [
        (PRICE, 0, "underpaid"),
        (PRICE, PRICE - 1, "underpaid"),
        (PRICE, PRICE + 1, "overpaid"),
        (PRICE, 2 * PRICE, "overpaid"),
        (MAX_AMOUNT, 0, "underpaid"),
        (PRICE - 1, PRICE, "price_above_max"),
        (0, PRICE, "price_above_max"),
        (0, 0, "price_above_max"),
    ],
)
def test_a_wrong_value_is_refused_and_stays_with_the_agent(most: int, value: int, code: str) -> None:
    world = MarketWorld()
    before = world.balance(AGENT.address)
    receipt = world.call(AGENT, MARKET, "request", RequestArgs(0, most, QUESTION), value=value)
    assert receipt.code == code
    assert world.balance(AGENT.address) == before - receipt.fee
    assert world.totals.calls == 0


@pytest.mark.parametrize("method", sorted(set(InferenceMarket.methods) - {"request"}))
def test_no_other_method_takes_money(method: str) -> None:
    world = MarketWorld()
    world.refused("not_payable", AGENT, MARKET, method, b"\x90", value=1)


def test_a_plain_transfer_cannot_reach_the_contract() -> None:
    world = MarketWorld()
    action = Transfer(contract_address(MARKET), 5)
    body = Body(world.genesis.chain_id, OTHER.address, 0, 100_000, 100, 1, action)
    receipt = world._step(Transact(SignedTransaction.sign(body, OTHER).wire))
    assert receipt.code == "invalid_recipient"
    world.assert_books()


def test_nothing_is_free_and_nothing_is_empty() -> None:
    world = MarketWorld()
    world.refused("zero_price", OTHER, MARKET, "offer", OfferArgs("m", 0))
    world.refused("zero_price", PROVIDER, MARKET, "update_offer", UpdateArgs(0, 0))
    nothing = RequestArgs(0, PRICE, bytes(32))
    world.refused("empty_hash", AGENT, MARKET, "request", nothing, value=PRICE)
    number = world.requested()
    world.refused("empty_hash", PROVIDER, MARKET, "answer", AnswerArgs(number, bytes(32)))


@pytest.mark.parametrize(
    "args",
    [
        b"",
        b"\x90",
        encode(["", 5]),
        encode(["M", 5]),
        encode(["a b", 5]),
        encode(["a\n", 5]),
        encode(["a" * 65, 5]),
        encode(["ä", 5]),
        encode(["m", -1]),
        encode(["m", 2**53]),
        encode(["m", 1.0]),
        encode(["m", 5, 6]),
    ],
)
def test_an_offer_of_another_shape_is_refused(args: bytes) -> None:
    MarketWorld().refused("bad_arguments", OTHER, MARKET, "offer", args)


@pytest.mark.parametrize("ruling", [b"\x92\x00\x01", b"\x92\x00\xc0", b"\x91\x00", b"\x92\x00\xa4true"])
def test_a_ruling_is_yes_or_no(ruling: bytes) -> None:
    world = MarketWorld()
    world.disputed()
    world.refused("bad_arguments", ARBITER, MARKET, "rule", ruling)


# --- who may deal with whom ---


def test_self_dealing_and_the_arbiters_own_dealing_are_refused() -> None:
    world = MarketWorld()
    own = RequestArgs(0, PRICE, QUESTION)
    world.refused("self_dealing", PROVIDER, MARKET, "request", own, value=PRICE)
    world.refused("arbiter_conflict", ARBITER, MARKET, "request", own, value=PRICE)
    world.refused("arbiter_conflict", ARBITER, MARKET, "offer", OfferArgs("m", 1))


@pytest.mark.parametrize("for_provider", [True, False])
def test_a_compromised_arbiter_reaches_the_disputed_call_and_nothing_else(for_provider: bool) -> None:
    """It can be wrong about who gets the price of a call in dispute; it gets nothing, and touches no other."""
    world = MarketWorld()
    calls = {state: getattr(world, state)() for state in STATES if state != "split"}
    before = {number: world.market_call(number) for number in calls.values()}
    purse = world.balance(ARBITER.address)
    fees = 0
    for number in [*before, len(before), MAX_AMOUNT]:
        receipt = world.call(ARBITER, MARKET, "rule", RuleArgs(number, for_provider))
        fees += receipt.fee
        assert receipt.success == (number == calls["disputed"])
    assert world.balance(ARBITER.address) == purse - fees
    assert {n for n, call in before.items() if world.market_call(n) != call} == {calls["disputed"]}
    world.assert_books()


@pytest.mark.parametrize("state", ["requested", "answered", "disputed", "refunded", "split"])
def test_who_did_not_pay_does_not_rate(state: str) -> None:
    world = MarketWorld()
    number = getattr(world, state)()
    world.refused("wrong_status", AGENT, MARKET, "rate", RateArgs(number, 1))
    world.refused("not_agent", PROVIDER, MARKET, "rate", RateArgs(number, 5))
    assert world.record().ratings == 0


# --- numbers at their ends ---


def test_money_that_goes_in_circles_never_stops_the_market() -> None:
    """A whale pays itself through two keys until the sum of its earnings would pass 2**53."""
    world = MarketWorld(balance=MAX_AMOUNT // len(PEOPLE))
    whole = world.balance(AGENT.address) - 10**9
    world.ok(PROVIDER, MARKET, "update_offer", UpdateArgs(0, whole))
    for round_ in range(7):
        number = world.requested(whole)
        world.ok(PROVIDER, MARKET, "answer", AnswerArgs(number, ANSWER))
        world.ok(AGENT, MARKET, "confirm", CallRef(number))
        assert world.record().earned == min((round_ + 1) * whole, MAX_AMOUNT)
        body = Body(
            world.genesis.chain_id,
            PROVIDER.address,
            world.nonces[PROVIDER.address],
            100_000,
            100,
            1,
            Transfer(AGENT.address, whole),
        )
        world.nonces[PROVIDER.address] += 1
        assert world._step(Transact(SignedTransaction.sign(body, PROVIDER).wire)).success
    assert world.record() == Provider(paid=7, earned=MAX_AMOUNT)
    world.assert_books()


def test_the_largest_price_can_be_offered_and_paid_by_nobody() -> None:
    world = MarketWorld()
    world.ok(PROVIDER, MARKET, "update_offer", UpdateArgs(0, MAX_AMOUNT))
    world.refused("underpaid", AGENT, MARKET, "request", RequestArgs(0, MAX_AMOUNT, QUESTION), value=10**9)


def test_the_last_heights_of_all_give_deadlines_that_can_still_be_read() -> None:
    world = MarketWorld()
    world.at(MAX_AMOUNT - 1)
    number = world.disputed()
    assert world.market_call(number).deadline == MAX_AMOUNT
    world.ok(ARBITER, MARKET, "rule", RuleArgs(number, True))


# --- contracts as callers ---


def test_a_contract_can_be_an_agent_and_is_paid_back_without_its_code_running() -> None:
    world = MarketWorld(extra=(PROXY,))
    world.ok(OTHER, "proxy", "request", RequestArgs(0, PRICE + 3, QUESTION), value=PRICE + 3)
    assert world.market_call(0).agent == contract_address("proxy")
    assert world.balance(contract_address("proxy")) == 3
    world.at(world.market_call(0).deadline + 1)
    world.refused("not_agent", OTHER, MARKET, "refund", CallRef(0))
    world.ok(OTHER, "proxy", "refund", CallRef(0))
    assert world.balance(contract_address("proxy")) == PRICE + 3
    world.assert_books()


def test_two_confirmations_in_one_transaction_pay_nothing_at_all() -> None:
    world = MarketWorld(extra=(PROXY,))
    world.ok(OTHER, "proxy", "request", RequestArgs(0, PRICE, QUESTION), value=PRICE)
    world.ok(PROVIDER, MARKET, "answer", AnswerArgs(0, ANSWER))
    before = world.balance(PROVIDER.address)
    assert world.call(OTHER, "proxy", "confirm_twice", CallRef(0)).code == "wrong_status"
    assert (world.market_call(0).status, world.balance(PROVIDER.address)) == ("answered", before)
    world.ok(OTHER, "proxy", "confirm", CallRef(0))
    assert world.balance(PROVIDER.address) == before + PRICE
    world.assert_books()


# --- genesis ---


@pytest.mark.parametrize(
    "change",
    [
        {"arbiter": bytes(32)},
        {"arbiter": b"\x01" + bytes(31)},
        {"answer_blocks": 0},
        {"dispute_blocks": 0},
        {"ruling_blocks": 0},
        {"ruling_blocks": 10_000_001},
        {"silence_percent": 101},
        {"silence_percent": -1},
    ],
)
def test_parameters_that_could_lock_money_make_no_genesis(change: dict[str, object]) -> None:
    params: MarketParams = replace(MARKET_PARAMS, **change)
    with pytest.raises(GenesisError, match=MARKET):
        AppsWorld(market=params)


def test_money_of_no_call_makes_no_genesis() -> None:
    genesis = AppsWorld().genesis
    contracts = [replace(spec, balance=5) if spec.name == MARKET else spec for spec in genesis.contracts]
    with pytest.raises(GenesisError, match="starts without a balance"):
        genesis_state(replace(genesis, contracts=contracts))
