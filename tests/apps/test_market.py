"""The inference market's life: who is paid when, to the gwei and to the block, and what is told and shown."""

import pytest
from apps_world import (
    AGENT,
    ANSWER,
    ARBITER,
    LAYERS,
    MARKET,
    MARKET_PARAMS,
    OTHER,
    PRICE,
    PROVIDER,
    QUESTION,
    MarketWorld,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from apps.inference_market import LISTED
from apps.market_records import (
    AnswerArgs,
    CallAnswered,
    CallDisputed,
    CallRated,
    CallRef,
    CallRequested,
    CallSettled,
    OfferArgs,
    OfferMade,
    OfferRef,
    OfferRepriced,
    OfferWithdrawn,
    Provider,
    RateArgs,
    RequestArgs,
    RuleArgs,
    Totals,
    UpdateArgs,
)
from chainkit.state import contract_address

REQUESTED_AT = 5


@pytest.fixture(params=LAYERS)
def world(request: pytest.FixtureRequest) -> MarketWorld:
    made = MarketWorld(request.param)
    made.at(REQUESTED_AT)
    return made


def gained(world: MarketWorld, key, before: int, *receipts) -> int:
    """What an account got or gave since ``before``, its fees set aside."""
    return world.balance(key.address) + sum(receipt.fee for receipt in receipts) - before


def test_an_offer_is_made_repriced_and_withdrawn(world: MarketWorld) -> None:
    made = world.ok(OTHER, MARKET, "offer", OfferArgs("llama-4:70b", 7))
    repriced = world.ok(OTHER, MARKET, "update_offer", UpdateArgs(1, 9))
    withdrawn = world.ok(OTHER, MARKET, "withdraw_offer", OfferRef(1))
    assert world.events(made) == [OfferMade(1, OTHER.address, "llama-4:70b", 7)]
    assert world.events(repriced) == [OfferRepriced(1, 9)]
    assert world.events(withdrawn) == [OfferWithdrawn(1)]
    assert world.totals == Totals(offers=2)
    world.refused("offer_withdrawn", OTHER, MARKET, "update_offer", UpdateArgs(1, 1))
    world.refused("offer_withdrawn", OTHER, MARKET, "withdraw_offer", OfferRef(1))
    world.refused("offer_withdrawn", AGENT, MARKET, "request", RequestArgs(1, 9, QUESTION), value=9)


def test_a_confirmed_answer_pays_the_provider(world: MarketWorld) -> None:
    rich, poor = world.balance(AGENT.address), world.balance(PROVIDER.address)
    asked = world.ok(AGENT, MARKET, "request", RequestArgs(0, PRICE, QUESTION), value=PRICE)
    deadline = REQUESTED_AT + MARKET_PARAMS.answer_blocks
    assert world.events(asked) == [
        CallRequested(0, 0, AGENT.address, PROVIDER.address, PRICE, QUESTION, deadline)
    ]
    assert world.balance(contract_address(MARKET)) == PRICE
    answered = world.ok(PROVIDER, MARKET, "answer", AnswerArgs(0, ANSWER))
    assert world.events(answered) == [CallAnswered(0, ANSWER, REQUESTED_AT + MARKET_PARAMS.dispute_blocks)]
    confirmed = world.ok(AGENT, MARKET, "confirm", CallRef(0))
    assert world.events(confirmed) == [CallSettled(0, "paid", PRICE, 0)]
    assert gained(world, AGENT, rich, asked, confirmed) == -PRICE
    assert gained(world, PROVIDER, poor, answered) == PRICE
    assert world.record() == Provider(paid=1, earned=PRICE)
    assert world.totals == Totals(offers=1, calls=1)
    world.assert_books()


def test_a_confirmation_is_good_after_the_deadline_too(world: MarketWorld) -> None:
    number = world.answered()
    world.at(world.market_call(number).deadline + 100)
    world.ok(AGENT, MARKET, "confirm", CallRef(number))
    assert world.market_call(number).status == "paid"


@pytest.mark.parametrize("for_provider", [True, False])
def test_the_arbiter_gives_the_price_to_one_side(world: MarketWorld, for_provider: bool) -> None:
    number = world.disputed()
    sides = {True: PROVIDER, False: AGENT}
    before = {side: world.balance(key.address) for side, key in sides.items()}
    ruled = world.ok(ARBITER, MARKET, "rule", RuleArgs(number, for_provider))
    status, shares = ("paid", (PRICE, 0)) if for_provider else ("refunded", (0, PRICE))
    assert world.events(ruled) == [CallSettled(number, status, *shares)]
    for side, key in sides.items():
        assert gained(world, key, before[side]) == (PRICE if side == for_provider else 0)
    assert world.record() == (Provider(paid=1, earned=PRICE) if for_provider else Provider(refunded=1))
    world.assert_books()


def test_a_dispute_says_until_when_the_arbiter_may_rule(world: MarketWorld) -> None:
    number = world.answered()
    receipt = world.ok(AGENT, MARKET, "dispute", CallRef(number))
    assert world.events(receipt) == [CallDisputed(number, REQUESTED_AT + MARKET_PARAMS.ruling_blocks)]


@pytest.mark.parametrize(
    ("percent", "price", "to_provider"),
    [(0, 7, 0), (50, 7, 3), (50, 8, 4), (99, 1, 0), (100, 7, 7), (33, 100, 33)],
)
def test_a_silent_arbiter_means_the_split_that_genesis_states(
    percent: int, price: int, to_provider: int
) -> None:
    world = MarketWorld(market=replace(MARKET_PARAMS, silence_percent=percent))
    world.ok(PROVIDER, MARKET, "update_offer", UpdateArgs(0, price))
    number = world.requested(price)
    world.ok(PROVIDER, MARKET, "answer", AnswerArgs(number, ANSWER))
    world.ok(AGENT, MARKET, "dispute", CallRef(number))
    world.at(world.market_call(number).deadline + 1)
    rich, poor = world.balance(AGENT.address), world.balance(PROVIDER.address)
    receipt = world.ok(PROVIDER, MARKET, "split", CallRef(number))
    assert world.events(receipt) == [CallSettled(number, "split", to_provider, price - to_provider)]
    assert gained(world, AGENT, rich) == price - to_provider
    assert gained(world, PROVIDER, poor, receipt) == to_provider
    assert world.record() == Provider(split=1, earned=to_provider)
    world.assert_books()


# --- deadlines, to the block ---


IN_TIME = {
    "answer": ("requested", PROVIDER, lambda n: AnswerArgs(n, ANSWER), "answered"),
    "dispute": ("answered", AGENT, CallRef, "disputed"),
    "rule": ("disputed", ARBITER, lambda n: RuleArgs(n, True), "paid"),
}
LATE = {
    "refund": ("requested", AGENT, CallRef, "refunded"),
    "claim": ("answered", PROVIDER, CallRef, "paid"),
    "split": ("disputed", AGENT, CallRef, "split"),
}
AFTER = {"requested": "answer_blocks", "answered": "dispute_blocks", "disputed": "ruling_blocks"}


@pytest.mark.parametrize("method", IN_TIME)
def test_the_last_block_of_a_deadline_is_in_time_and_the_next_is_late(
    world: MarketWorld, method: str
) -> None:
    status, key, args, then = IN_TIME[method]
    first, second = getattr(world, status)(), getattr(world, status)()
    deadline = REQUESTED_AT + getattr(MARKET_PARAMS, AFTER[status])
    assert world.market_call(first).deadline == deadline
    world.at(deadline)
    world.ok(key, MARKET, method, args(first))
    assert world.market_call(first).status == then
    world.at(deadline + 1)
    world.refused("too_late", key, MARKET, method, args(second))
    world.assert_books()


@pytest.mark.parametrize("method", LATE)
def test_what_a_missed_deadline_permits_is_refused_in_its_last_block(world: MarketWorld, method: str) -> None:
    status, key, args, then = LATE[method]
    number = getattr(world, status)()
    deadline = REQUESTED_AT + getattr(MARKET_PARAMS, AFTER[status])
    world.refused("too_early", key, MARKET, method, args(number))
    world.at(deadline)
    world.refused("too_early", key, MARKET, method, args(number))
    world.at(deadline + 1)
    world.ok(key, MARKET, method, args(number))
    assert world.market_call(number).status == then
    world.assert_books()


@pytest.mark.parametrize("status", AFTER)
def test_money_is_never_stuck_even_if_everybody_else_is_gone(world: MarketWorld, status: str) -> None:
    """Whatever the state, one of the two owners alone gets the money out, ages later."""
    number = getattr(world, status)()
    world.at(10**9)
    method = {"requested": "refund", "answered": "claim", "disputed": "split"}[status]
    world.ok(LATE[method][1], MARKET, method, CallRef(number))
    assert world.balance(contract_address(MARKET)) == 0


def test_deadlines_start_anew_with_each_act(world: MarketWorld) -> None:
    number = world.requested()
    world.at(REQUESTED_AT + 10)
    world.ok(PROVIDER, MARKET, "answer", AnswerArgs(number, ANSWER))
    world.at(REQUESTED_AT + 30)
    world.ok(AGENT, MARKET, "dispute", CallRef(number))
    world.at(REQUESTED_AT + 60)
    world.ok(ARBITER, MARKET, "rule", RuleArgs(number, True))


# --- the price between reading and asking ---


@pytest.mark.parametrize("price", [1, PRICE - 1, PRICE])
def test_a_price_that_fell_is_what_is_paid_and_the_rest_comes_back(world: MarketWorld, price: int) -> None:
    world.ok(PROVIDER, MARKET, "update_offer", UpdateArgs(0, price))
    before = world.balance(AGENT.address)
    receipt = world.ok(AGENT, MARKET, "request", RequestArgs(0, PRICE, QUESTION), value=PRICE)
    assert gained(world, AGENT, before, receipt) == -price
    assert world.market_call(0).price == price
    world.assert_books()


def test_a_price_that_rose_refuses_the_request(world: MarketWorld) -> None:
    world.ok(PROVIDER, MARKET, "update_offer", UpdateArgs(0, PRICE + 1))
    for value in (PRICE, PRICE + 1):
        args = RequestArgs(0, PRICE, QUESTION)
        world.refused("price_above_max", AGENT, MARKET, "request", args, value=value)


def test_calls_under_way_keep_their_price_and_outlive_their_offer(world: MarketWorld) -> None:
    number = world.requested()
    world.ok(PROVIDER, MARKET, "update_offer", UpdateArgs(0, 10 * PRICE))
    world.ok(PROVIDER, MARKET, "withdraw_offer", OfferRef(0))
    world.ok(PROVIDER, MARKET, "answer", AnswerArgs(number, ANSWER))
    receipt = world.ok(AGENT, MARKET, "confirm", CallRef(number))
    assert world.events(receipt) == [CallSettled(number, "paid", PRICE, 0)]


# --- ratings ---


@pytest.mark.parametrize("stars", range(1, 6))
def test_a_paid_call_is_rated_once(world: MarketWorld, stars: int) -> None:
    number = world.paid()
    receipt = world.ok(AGENT, MARKET, "rate", RateArgs(number, stars))
    assert world.events(receipt) == [CallRated(number, PROVIDER.address, stars)]
    assert (world.record().ratings, world.record().stars) == (1, stars)
    for again in range(7):
        world.refused("already_rated", AGENT, MARKET, "rate", RateArgs(number, again))


@pytest.mark.parametrize("stars", [0, 6, 2**53 - 1])
def test_a_rating_is_one_to_five_stars(world: MarketWorld, stars: int) -> None:
    number = world.paid()
    world.refused("invalid_rating", AGENT, MARKET, "rate", RateArgs(number, stars))


def test_ratings_add_up_over_a_providers_offers() -> None:
    world = MarketWorld()
    world.ok(PROVIDER, MARKET, "offer", OfferArgs("second", 5))
    for offer, price, stars in ((0, PRICE, 5), (1, 5, 2), (1, 5, 1)):
        number = world.totals.calls
        world.ok(AGENT, MARKET, "request", RequestArgs(offer, price, QUESTION), value=price)
        world.ok(PROVIDER, MARKET, "answer", AnswerArgs(number, ANSWER))
        world.ok(AGENT, MARKET, "confirm", CallRef(number))
        world.ok(AGENT, MARKET, "rate", RateArgs(number, stars))
    assert world.record() == Provider(paid=3, earned=PRICE + 10, ratings=3, stars=8)


# --- what is shown ---


def test_the_public_state_is_bounded_and_newest_last() -> None:
    world = MarketWorld()
    for _ in range(LISTED + 3):
        world.ok(OTHER, MARKET, "offer", OfferArgs("m", 1))
    shown = world.public(MARKET)
    assert [offer["offer"] for offer in shown["offers"]] == list(range(4, LISTED + 4))
    assert shown["totals"] == {"offers": LISTED + 4, "calls": 0, "open_calls": 0, "escrowed": 0}
    assert shown["calls"] == []


def test_a_call_is_shown_with_all_that_is_known_of_it(world: MarketWorld) -> None:
    number = world.rated()
    (call,) = world.public(MARKET)["calls"]
    assert call == {
        "call": number,
        "offer": 0,
        "agent": "0x" + AGENT.address.hex(),
        "provider": "0x" + PROVIDER.address.hex(),
        "price": PRICE,
        "status": "paid",
        "deadline": REQUESTED_AT + MARKET_PARAMS.dispute_blocks,
        "request": "0x" + QUESTION.hex(),
        "answer": "0x" + ANSWER.hex(),
        "stars": 4,
    }
    (offer,) = world.public(MARKET)["offers"]
    assert offer["record"]["stars"] == 4


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_request_holds_the_price_or_nothing(price: int, most: int, value: int) -> None:
    world = MarketWorld()
    world.ok(PROVIDER, MARKET, "update_offer", UpdateArgs(0, price))
    receipt = world.call(AGENT, MARKET, "request", RequestArgs(0, most, QUESTION), value=value)
    assert receipt.success == (price <= value <= most)
    assert world.balance(contract_address(MARKET)) == (price if receipt.success else 0)
