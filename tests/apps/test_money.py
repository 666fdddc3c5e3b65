"""Any sequence of acts: the market holds exactly the open calls, the token's balances are its supply.

Each machine keeps books of its own, written from the rules and not from the contract, and compares all of it.
"""

from apps_world import (
    AGENT,
    ANSWER,
    ARBITER,
    MARKET,
    MARKET_PARAMS,
    MINTER,
    OTHER,
    PEOPLE,
    PROVIDER,
    QUESTION,
    AppsWorld,
    MarketWorld,
    TokenWorld,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ledger import sum_of_balances

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
from apps.token import ApproveArgs, MintArgs, TokenParams, TransferArgs, TransferFromArgs
from chainkit.codec import Record
from chainkit.execution import supply
from chainkit.keys import KeyPair
from chainkit.state import contract_address

CAP = 1_000
KEYS = st.sampled_from((AGENT, PROVIDER, OTHER))
CALL = st.integers(0, 5)
WHO = st.sampled_from(("right", "right", "right", "agent", "provider", "arbiter"))
SETTLING = ("confirm", "claim", "refund", "split")
OPEN = ("requested", "answered", "disputed")


def assert_supply(world: AppsWorld) -> None:
    """Promise P2: no gwei appears or vanishes."""
    books = supply(world.state)
    assert sum_of_balances(world.state) == books.genesis + books.minted - books.burned


class MarketMoney(RuleBasedStateMachine):
    """Three who offer and ask, and an arbiter; a plain model says what each act must do to whose money."""

    def __init__(self) -> None:
        super().__init__()
        self.world = MarketWorld()
        self.purses = {key.address: self.world.balance(key.address) for key in PEOPLE}
        self.offers: list[tuple[bytes, int, bool]] = [(PROVIDER.address, 1_000_000, True)]
        self.calls: list[dict[str, object]] = []

    def act(self, key: KeyPair, method: str, args: Record, value: int = 0) -> bool:
        receipt = self.world.call(key, MARKET, method, args, value=value)
        self.purses[key.address] -= receipt.fee
        return receipt.success

    def newest(self, number: int, *statuses: str) -> tuple[int, dict[str, object]]:
        """One of the calls, the newest first, if possible of one of these statuses."""
        found = [i for i, call in enumerate(self.calls) if call["status"] in statuses]
        found = found or list(range(len(self.calls)))
        index = found[-1 - number % len(found)]
        return index, self.calls[index]

    def key(self, call: dict[str, object], who: str, right: str) -> KeyPair:
        side = right if who == "right" else who
        return ARBITER if side == "arbiter" else next(key for key in PEOPLE if key.address == call[side])

    def late(self, call: dict[str, object]) -> bool:
        return self.world.height > call["late"]

    def pay(self, address: object, amount: int) -> None:
        self.purses[address] += amount

    @rule(key=KEYS, price=st.sampled_from((0, 1, 7, 10**6)))
    def offer(self, key: KeyPair, price: int) -> None:
        assert self.act(key, "offer", OfferArgs("m", price)) == (price > 0)
        if price:
            self.offers.append((key.address, price, True))

    @rule(key=KEYS, number=st.integers(0, 3), price=st.sampled_from((0, 3, 10**6 + 1)))
    def reprice(self, key: KeyPair, number: int, price: int) -> None:
        owner, _, alive = self.offers[number] if number < len(self.offers) else (b"", 0, False)
        fine = alive and owner == key.address and price > 0
        assert self.act(key, "update_offer", UpdateArgs(number, price)) == fine
        if fine:
            self.offers[number] = (owner, price, True)

    @rule(key=KEYS, number=st.integers(0, 3))
    def withdraw(self, key: KeyPair, number: int) -> None:
        owner, price, alive = self.offers[number] if number < len(self.offers) else (b"", 0, False)
        fine = alive and owner == key.address
        assert self.act(key, "withdraw_offer", OfferRef(number)) == fine
        if fine:
            self.offers[number] = (owner, price, False)

    @rule(
        key=KEYS,
        number=st.integers(0, 3),
        most=st.sampled_from((5, 10**6, 2 * 10**6, 2 * 10**6)),
        less=st.sampled_from((0, 0, 1, -1)),
    )
    def request(self, key: KeyPair, number: int, most: int, less: int) -> None:
        owner, price, alive = self.offers[number] if number < len(self.offers) else (b"", 0, False)
        value = most - less
        fine = alive and owner != key.address and price <= value <= most
        assert self.act(key, "request", RequestArgs(number, most, QUESTION), value) == fine
        if fine:
            self.purses[key.address] -= price
            self.calls.append(
                {
                    "status": "requested",
                    "agent": key.address,
                    "provider": owner,
                    "price": price,
                    "late": self.world.height + MARKET_PARAMS.answer_blocks,
                }
            )

    @precondition(lambda self: self.calls)
    @rule(who=WHO, number=CALL)
    def answer(self, who: str, number: int) -> None:
        number, call = self.newest(number, "requested")
        key = self.key(call, who, "provider")
        fine = call["status"] == "requested" and call["provider"] == key.address and not self.late(call)
        assert self.act(key, "answer", AnswerArgs(number, ANSWER)) == fine
        if fine:
            call |= {"status": "answered", "late": self.world.height + MARKET_PARAMS.dispute_blocks}

    @precondition(lambda self: self.calls)
    @rule(who=WHO, number=CALL)
    def dispute(self, who: str, number: int) -> None:
        number, call = self.newest(number, "answered")
        key = self.key(call, who, "agent")
        fine = call["status"] == "answered" and call["agent"] == key.address and not self.late(call)
        assert self.act(key, "dispute", CallRef(number)) == fine
        if fine:
            call |= {"status": "disputed", "late": self.world.height + MARKET_PARAMS.ruling_blocks}

    @rule(number=CALL)
    def ask_and_answer(self, number: int) -> None:
        """A short cut to where more can happen."""
        self.request(OTHER, 0, 2 * 10**6, 0)
        if self.calls:
            self.answer("right", 0)
            if number == 1:
                self.dispute("right", 0)
            if number > 2:
                self.settle("right", 0, "fitting")

    @precondition(lambda self: self.calls)
    @rule(who=WHO, number=CALL, method=st.sampled_from(("fitting", "fitting", *SETTLING)))
    def settle(self, who: str, number: int, method: str) -> None:
        number, call = self.newest(number, *(OPEN if method == "fitting" else ()))
        if method == "fitting":
            fitting = {"requested": "refund", "disputed": "split", "answered": SETTLING[self.late(call)]}
            method = fitting.get(call["status"], "confirm")
        status, sides, must_be_late, then = {
            "confirm": ("answered", ("agent",), False, "paid"),
            "claim": ("answered", ("provider",), True, "paid"),
            "refund": ("requested", ("agent",), True, "refunded"),
            "split": ("disputed", ("agent", "provider"), True, "split"),
        }[method]
        key = self.key(call, who, sides[0])
        mine = any(call[side] == key.address for side in sides)
        fine = call["status"] == status and mine and (self.late(call) or not must_be_late)
        assert self.act(key, method, CallRef(number)) == fine
        if fine:
            call["status"] = then
            share = {"paid": call["price"], "refunded": 0, "split": call["price"] // 2}[then]
            self.pay(call["provider"], share)
            self.pay(call["agent"], call["price"] - share)

    @precondition(lambda self: self.calls)
    @rule(who=WHO, number=CALL, for_provider=st.booleans())
    def rule_on(self, who: str, number: int, for_provider: bool) -> None:
        number, call = self.newest(number, "disputed")
        key = self.key(call, who, "arbiter")
        fine = call["status"] == "disputed" and key is ARBITER and not self.late(call)
        assert self.act(key, "rule", RuleArgs(number, for_provider)) == fine
        if fine:
            call["status"] = "paid" if for_provider else "refunded"
            self.pay(call["provider" if for_provider else "agent"], call["price"])

    @precondition(lambda self: any(call["status"] == "paid" for call in self.calls))
    @rule(who=WHO, number=CALL, stars=st.integers(0, 6))
    def rate(self, who: str, number: int, stars: int) -> None:
        number, call = self.newest(number, "paid")
        key = self.key(call, who, "agent")
        mine = call["status"] == "paid" and call["agent"] == key.address
        fine = mine and "stars" not in call and 1 <= stars <= 5
        assert self.act(key, "rate", RateArgs(number, stars)) == fine
        if fine:
            call["stars"] = stars

    @rule(blocks=st.sampled_from((1, 1, 1, 10, 11, 20, 30, 31)))
    def wait(self, blocks: int) -> None:
        self.world.at(self.world.height + blocks)

    @invariant()
    def the_market_holds_the_open_calls_and_everybody_has_what_is_due(self) -> None:
        held = sum(call["price"] for call in self.calls if call["status"] in OPEN)
        assert self.world.balance(contract_address(MARKET)) == held
        self.world.assert_books()
        assert {key.address: self.world.balance(key.address) for key in PEOPLE} == self.purses
        assert_supply(self.world)

    @invariant()
    def ratings_are_those_of_paid_calls(self) -> None:
        for key in (AGENT, PROVIDER, OTHER):
            mine = [call for call in self.calls if call["provider"] == key.address]
            stars = [call["stars"] for call in mine if "stars" in call]
            record = self.world.record(key)
            assert (record.ratings, record.stars) == (len(stars), sum(stars))
            assert record.paid == sum(call["status"] == "paid" for call in mine)

    def teardown(self) -> None:
        """However it went, all money comes out in the end, and its owners can do it without the arbiter."""
        keys = {key.address: key for key in PEOPLE}
        self.world.at(self.world.height + 10**6)
        for number, call in enumerate(self.calls):
            if call["status"] in OPEN:
                method, side = {
                    "requested": ("refund", "agent"),
                    "answered": ("claim", "provider"),
                    "disputed": ("split", "agent"),
                }[call["status"]]
                assert self.act(keys[call[side]], method, CallRef(number))
        assert self.world.balance(contract_address(MARKET)) == 0


class TokenMoney(RuleBasedStateMachine):
    """Units of a small cap among three; a dictionary is the model."""

    def __init__(self) -> None:
        super().__init__()
        self.world = TokenWorld(token=TokenParams(MINTER.address, "T", CAP))
        self.units = dict.fromkeys((AGENT.address, PROVIDER.address, OTHER.address), 0)
        self.allowed: dict[tuple[bytes, bytes], int] = {}

    def act(self, key: KeyPair, method: str, args: Record) -> bool:
        return self.world.call(key, "token", method, args).success

    @rule(key=st.sampled_from((MINTER, MINTER, AGENT)), to=KEYS, amount=st.sampled_from((0, 1, 300, CAP)))
    def mint(self, key: KeyPair, to: KeyPair, amount: int) -> None:
        fine = key is MINTER and amount > 0 and sum(self.units.values()) + amount <= CAP
        assert self.act(key, "mint", MintArgs(to.address, amount)) == fine
        if fine:
            self.units[to.address] += amount

    @rule(key=KEYS, to=KEYS, amount=st.sampled_from((0, 1, 100, 300, CAP)))
    def transfer(self, key: KeyPair, to: KeyPair, amount: int) -> None:
        fine = 0 < amount <= self.units[key.address]
        assert self.act(key, "transfer", TransferArgs(to.address, amount)) == fine
        if fine:
            self.units[key.address] -= amount
            self.units[to.address] += amount

    @rule(key=KEYS, spender=KEYS, amount=st.sampled_from((0, 1, 200)), right=st.booleans())
    def approve(self, key: KeyPair, spender: KeyPair, amount: int, right: bool) -> None:
        pair = (key.address, spender.address)
        expected = self.allowed.get(pair, 0) + (not right)
        fine = right or not amount
        assert self.act(key, "approve", ApproveArgs(spender.address, amount, expected)) == fine
        if fine:
            self.allowed[pair] = amount

    @rule(key=KEYS, owner=KEYS, to=KEYS, amount=st.sampled_from((0, 1, 100, 201)))
    def transfer_from(self, key: KeyPair, owner: KeyPair, to: KeyPair, amount: int) -> None:
        pair = (owner.address, key.address)
        fine = 0 < amount <= min(self.allowed.get(pair, 0), self.units[owner.address])
        assert self.act(key, "transfer_from", TransferFromArgs(owner.address, to.address, amount)) == fine
        if fine:
            self.allowed[pair] -= amount
            self.units[owner.address] -= amount
            self.units[to.address] += amount

    @invariant()
    def everybody_has_what_is_due(self) -> None:
        self.world.assert_books()
        assert {key.address: self.world.units(key) for key in (AGENT, PROVIDER, OTHER)} == self.units
        assert self.world.supply.total == sum(self.units.values()) <= CAP
        assert self.world.balance(contract_address("token")) == 0


TestMarketMoney = MarketMoney.TestCase
TestMarketMoney.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestTokenMoney = TokenMoney.TestCase
TestTokenMoney.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
