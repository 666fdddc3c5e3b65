"""The workload: AI agents that hire one another for small sums, through the inference market.

Responsible for what the agents do, drawn from a seed, and for what it cost and how long it took. Must not know which
model it runs on: it sees one chain API.

A fifth of the agents sell; all buy. Each buyer pays for a few calls; most answers are confirmed and rated, some are
disputed and ruled on.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from apps.market_records import (
    AnswerArgs,
    CallRef,
    OfferArgs,
    RateArgs,
    RequestArgs,
    RuleArgs,
)
from chainkit.client import ChainClient
from chainkit.codec import Record, encode
from chainkit.fees import call_gas, transfer_gas
from chainkit.hashing import tagged_hash
from chainkit.keys import KeyPair, dev_keypair
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from layerlab.lab.tracker import Tracker, percentile

MARKET: Final = "inference_market"
FUNDERS: Final = ("alice", "bob", "carol", "dave")
PURSE: Final = 500_000_000
"""What each agent starts with (gwei)."""
PRICES: Final = (200_000, 5_000_000)
"""Between these a provider draws its price (gwei)."""
MODELS: Final = ("small/chat", "small/code", "tiny/embed", "vision/caption", "voice/read")
SELLERS_IN_A_HUNDRED: Final = 20
DISPUTED_IN_A_HUNDRED: Final = 8
MOST_AGENTS: Final = 200
CALL_GAS: Final = 150_000
SOFT_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 30.0
"""A chain may admit what an account spends only when what it was given is final."""
AT_ONCE: Final = 16
BURST: Final = 10
"""Transfers of each agent in `Workload.burst`."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class WorkloadResult:
    """Latencies in seconds of the chain's time, fees in gwei. ``settled`` counts calls that ended paid or ruled on.

    All of it is of the calls alone; ``all_transactions`` and ``all_fees`` count what comes before as well: funding
    the agents and making the offers.
    """

    agents: int
    calls: int
    settled: int
    disputed: int
    transactions: int
    failed: int
    seconds: float
    transactions_per_second: float
    soft_p50: float | None
    soft_p95: float | None
    fees: int
    fee_per_call: int
    all_transactions: int
    all_fees: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Agent:
    """An account with its next nonce, and the offer that it sells through, if any."""

    key: KeyPair
    nonce: int = 0
    offer: int | None = None


@dataclass(frozen=True)
class Deal:
    """A call: who asked whom, and its number on the chain."""

    agent: Agent
    provider: Agent
    number: int


class Workload:
    """``count`` agents (2 to `MOST_AGENTS`) on a chain, ``rounds`` calls each; all drawn from ``seed``."""

    def __init__(self, tracker: Tracker, count: int, rounds: int, seed: int, say: Say) -> None:
        if not 2 <= count <= MOST_AGENTS:
            raise ValueError(f"give from 2 to {MOST_AGENTS} agents, not {count}")
        self.tracker, self.client, self.say = tracker, tracker.client, say
        self.rounds = rounds
        self.random = random.Random(seed)
        self.agents = [
            Agent(KeyPair(tagged_hash("lab-agent", seed.to_bytes(8, "big") + i.to_bytes(4, "big"))))
            for i in range(count)
        ]
        self.sellers = self.agents[: max(1, count * SELLERS_IN_A_HUNDRED // 100)]
        self.arbiter = Agent(dev_keypair("judy"))
        self.calls = self.settled = self.disputed = self.failed = self.sent = 0
        self.funders = [Agent(dev_keypair(name)) for name in FUNDERS]
        self.prices: dict[int, int] = {}
        self._rules: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._prepared = 0
        self._money_at_first = 0

    async def prepare(self) -> None:
        """Fund the agents and make the offers. Raises `ApiError`, `NotIncludedError`."""
        self._money_at_first = await self._money()
        await self._fund()
        await self._offer()
        self.tracker.forget()
        self._prepared, self.sent = self.sent, 0

    async def run(self) -> WorkloadResult:
        """Play the rounds; `prepare` comes first. Raises `ApiError`, `NotIncludedError`."""
        money_before = await self._money()
        begin = self.tracker.now()
        for number in range(self.rounds):
            self.say(f"round {number + 1} of {self.rounds}: {len(self.agents)} agents hire one another")
            await self._round()
        seconds = self.tracker.now() - begin
        money_after = await self._money()
        fees = money_before - money_after
        soft = self.tracker.latencies("soft")
        return WorkloadResult(
            agents=len(self.agents),
            calls=self.calls,
            settled=self.settled,
            disputed=self.disputed,
            transactions=self.sent,
            failed=self.failed,
            seconds=round(seconds, 3),
            transactions_per_second=round(self.sent / seconds, 1) if seconds else 0.0,
            soft_p50=_rounded(percentile(soft, 50)),
            soft_p95=_rounded(percentile(soft, 95)),
            fees=fees,
            fee_per_call=fees // self.calls if self.calls else 0,
            all_transactions=self._prepared + self.sent,
            all_fees=self._money_at_first - money_after,
        )

    async def burst(self) -> float:
        """Every agent pays its neighbour `BURST` times, all sent at once; transfers per second of the chain's time.

        From the first sent until the last is in a block. `prepare` comes first. Raises `ApiError`,
        `NotIncludedError`.
        """
        self.say(f"{BURST * len(self.agents)} transfers at once")
        transfers = [
            self._sign(agent, Transfer(self.agents[i - 1].key.address, 1_000))
            for _ in range(BURST)
            for i, agent in enumerate(self.agents)
        ]
        begin = self.tracker.now()
        await self._play(transfers)
        seconds = self.tracker.now() - begin
        done = sum(tx.id in self.tracker.soft for tx in transfers)
        return round(done / seconds, 1) if seconds > 0 else 0.0

    # --- acts ---

    async def _fund(self) -> None:
        self.say(f"funding {len(self.agents)} agents")
        status, genesis = await self.client.status(), await self.client.genesis()
        fees = status["fees"]
        self._rules = (
            status["chain_id"],
            genesis.fees.gas_per_byte,
            4 * fees["max_fee_per_gas"],
            fees["tip_per_gas"],
        )
        for funder in (*self.funders, self.arbiter):
            funder.nonce = (await self.client.account(funder.key.address)).pending_nonce
        pay = [
            self._sign(self.funders[i % len(self.funders)], Transfer(agent.key.address, PURSE))
            for i, agent in enumerate(self.agents)
        ]
        await self._play(pay)

    async def _offer(self) -> None:
        offers = [
            self._call(seller, "offer", OfferArgs(self.random.choice(MODELS), self.random.randint(*PRICES)))
            for seller in self.sellers
        ]
        await self._play(offers)
        for seller, tx in zip(self.sellers, offers, strict=True):
            if (made := await self._event(tx, "OfferMade")) is not None:
                seller.offer = made["offer"]
                self.prices[made["offer"]] = made["price"]

    async def _round(self) -> None:
        """Everybody asks once; answers, verdicts and ratings follow."""
        deals = await self._request()
        digest = tagged_hash("lab-answer", self.random.randbytes(8))
        answers = [self._call(deal.provider, "answer", AnswerArgs(deal.number, digest)) for deal in deals]
        await self._play(answers)
        unhappy = [deal for deal in deals if self.random.randrange(100) < DISPUTED_IN_A_HUNDRED]
        happy = [deal for deal in deals if deal not in unhappy]
        acts = [self._call(deal.agent, "confirm", CallRef(deal.number)) for deal in happy]
        acts += [self._call(deal.agent, "dispute", CallRef(deal.number)) for deal in unhappy]
        await self._play(acts)
        rulings = [
            self._call(self.arbiter, "rule", RuleArgs(deal.number, self.random.random() < 0.5))
            for deal in unhappy
        ]
        ratings = [
            self._call(deal.agent, "rate", RateArgs(deal.number, self.random.randint(1, 5))) for deal in happy
        ]
        await self._play(rulings + ratings)
        self.disputed += len(unhappy)
        self.settled += len(happy) + len(unhappy)

    async def _request(self) -> list[Deal]:
        sold = [seller for seller in self.sellers if seller.offer is not None]
        pairs = []
        for agent in self.agents:
            others = [seller for seller in sold if seller is not agent]
            if others:
                pairs.append((agent, self.random.choice(others)))
        requests = []
        for agent, provider in pairs:
            assert provider.offer is not None
            price = self.prices[provider.offer]
            digest = tagged_hash("lab-request", self.random.randbytes(8))
            requests.append(self._call(agent, "request", RequestArgs(provider.offer, price, digest), price))
        await self._play(requests)
        events = await self._gather([self._event(tx, "CallRequested") for tx in requests])
        deals = [
            Deal(agent, provider, event["call"])
            for (agent, provider), event in zip(pairs, events, strict=True)
            if event is not None
        ]
        self.calls += len(deals)
        return deals

    # --- transactions ---

    def _call(self, agent: Agent, method: str, args: Record, value: int = 0) -> SignedTransaction:
        return self._sign(agent, Call(MARKET, method, encode(args), value))

    def _sign(self, agent: Agent, action: Transfer | Call) -> SignedTransaction:
        chain_id, per_byte, max_fee, tip = self._rules
        if isinstance(action, Transfer):
            gas_limit = transfer_gas(per_byte)
        else:
            gas_limit = call_gas(per_byte, len(action.args), CALL_GAS)
        body = Body(chain_id, agent.key.address, agent.nonce, gas_limit, max_fee, tip, action)
        agent.nonce += 1
        return SignedTransaction.sign(body, agent.key)

    async def _play(self, transactions: Sequence[SignedTransaction]) -> None:
        """Send these and wait until all are in blocks."""
        await self.tracker.send(transactions, PATIENCE_SECONDS)
        await self.tracker.wait([tx.id for tx in transactions], "soft", SOFT_SECONDS)
        refused = sum(tx.id in self.tracker.refused for tx in transactions)
        self.failed += refused
        self.sent += len(transactions) - refused

    async def _event(self, tx: SignedTransaction, name: str) -> dict[str, Any] | None:
        """The data of the first event of that name in a transaction's receipt; None if it failed."""
        info = await self.client.transaction(tx.id)
        receipt = info.answer["receipt"] if info is not None else None
        for event in (receipt or {}).get("events", []):
            if event["name"] == name:
                return dict(event["data"])
        if tx.id not in self.tracker.refused:  # those are counted already
            self.failed += 1
        return None

    async def _gather(self, asked: Sequence[Any]) -> list[Any]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(each: Any) -> Any:
            async with gate:
                return await each

        return list(await asyncio.gather(*(one(each) for each in asked)))

    async def _money(self) -> int:
        """What all who take part and the market hold together; the difference of two such sums is fees."""
        people = [*self.agents, *self.funders, self.arbiter]
        infos = await self._gather([self.client.account(person.key.address) for person in people])
        market = await self.client.contract(MARKET)
        return int(market["balance"]) + sum(int(info.balance) for info in infos)


async def run_workload(
    client: ChainClient, now: Callable[[], float], *, agents: int, rounds: int, seed: int, say: Say
) -> WorkloadResult:
    """Play the workload on the chain behind ``client``."""
    async with Tracker(client, now) as tracker:
        workload = Workload(tracker, agents, rounds, seed, say)
        await workload.prepare()
        return await workload.run()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
