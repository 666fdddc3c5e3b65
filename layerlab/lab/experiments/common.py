"""What several experiments do: the usual devnet, moments of quiet, and using the market.

Responsible for small acts and measures. Must not know what they prove.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from msgspec import structs

from apps.market_records import OfferArgs, RequestArgs
from bridge.committee_abi import GATEWAY
from chainkit.client import ReceiptInfo
from chainkit.codec import encode
from chainkit.contract import NoArgs
from chainkit.hashing import tagged_hash
from chainkit.transaction import Call, Transfer
from layerlab.config import COIN, DevnetConfig, demo_config
from layerlab.escape import escape
from layerlab.world import World, require
from rollup.messenger import WithdrawArgs

NEVER: Final = 1_000_000
"""So many L1 blocks are longer than any experiment."""
MARGIN: Final = 10
"""So many L1 blocks after it should be possible, what is refused is not just early."""
FEES: Final = COIN // 10
"""More than the fees of a few transactions (gwei)."""
PATIENCE: Final = 15
"""L1 blocks: twice as long as an honest committee takes to pay, and more."""
FAST: Final = 8.0
"""How fast time runs while nothing is tried, where one validator is all of L1's consensus."""
FAST_FOR_MANY: Final = 3.0
"""The same where several validators must keep up."""


def usual(model: str, *, validators: int = 4, **settings: Any) -> DevnetConfig:
    """The demo's fast slots and short windows, with these settings of the bridge changed."""
    config = demo_config()
    return replace(
        config,
        model=model,
        validators=validators,
        ports={},
        settings=structs.replace(config.settings, **settings),
    )


async def pay(world: World, sender: str, to: str, amount: int, at: str = "head") -> int:
    """A transfer on the chain that carries the application; its height."""
    info = await world.send(world.app, sender, Transfer(world.key(to).address, amount), at=at)
    require(bool(info.success) and info.height is not None, f"the transfer failed: {info.message}")
    return info.height or 0


async def lock_in_market(world: World, agent: str, provider: str, price: int) -> None:
    """``agent`` pays ``provider`` for a call that nobody answers: the price stays in the market's escrow."""
    offer = Call("inference_market", "offer", encode(OfferArgs("small/chat", price)), 0)
    made = await world.send(world.app, provider, offer, at="head")
    require(bool(made.success), f"the offer failed: {made.message}")
    number = made.answer["receipt"]["events"][0]["data"]["offer"]
    args = RequestArgs(number, price, tagged_hash("lab-request", b"never answered"))
    asked = await world.send(
        world.app, agent, Call("inference_market", "request", encode(args), price), at="head"
    )
    require(bool(asked.success), f"the request failed: {asked.message}")


async def until_final(world: World, height: int) -> None:
    """The L2 block is in a batch that L1 holds for final."""

    async def final() -> bool:
        return await world.height(world.verifier, "finalized") >= height

    await world.fast_until(f"L2 block {height} becomes final on L1", final, rate=pace(world))


async def l1_blocks(world: World, count: int) -> None:
    """So many more L1 blocks become final, time running fast."""
    goal = await world.height(world.l1) + count

    async def reached() -> bool:
        return await world.height(world.l1) >= goal

    await world.fast_until(f"{count} L1 blocks go by", reached, rate=pace(world))


def pace(world: World) -> float:
    """How fast time may run: L1's final blocks must come as regularly as ever."""
    return FAST if world.devnet.config.validators == 1 else FAST_FOR_MANY


async def leave(world: World, name: str) -> int:
    """``name`` takes the last final balance out through L1 alone, time running fast; gwei."""
    world.set_rate(pace(world))
    try:
        done = await escape(world.devnet.config.l1_urls, world.genesis, world.key(name), world.say)
    finally:
        world.set_rate(1.0)
    return done.amount


async def books(world: World) -> Mapping[str, Any]:
    """The rollup's bridge at L1's final head: ``settings``, ``totals``, ``scheduled_upgrade`` and more."""
    state: Mapping[str, Any] = (await world.l1.contract("bridge", "finalized"))["state"]
    return state


async def ask_to_freeze(world: World, name: str) -> ReceiptInfo:
    """What becomes of a call to freeze the bridge now."""
    return await world.send(world.l1, name, Call("bridge", "freeze", encode(NoArgs()), 0))


async def within_blocks(world: World, what: str, probe: Callable[[], Awaitable[int]]) -> int:
    """What ``probe`` finds as soon as it is more than zero; zero after `PATIENCE` L1 blocks."""
    end = await world.height(world.l1) + PATIENCE

    async def over() -> bool:
        return await probe() > 0 or await world.height(world.l1) >= end

    await world.until(f"{what}, or {PATIENCE} L1 blocks go by", over)
    return await probe()


async def committee_pays(world: World, name: str, amount: int) -> int:
    """``name`` withdraws from the side chain; what the operators have paid on L1 in good time (gwei)."""
    before = await world.balance(world.l1, name, "finalized")
    call = Call(GATEWAY, "withdraw", encode(WithdrawArgs(world.key(name).address)), amount)
    burned = await world.send(world.app, name, call)
    require(bool(burned.success), f"the withdrawal failed on the side chain: {burned.message}")

    async def gained() -> int:
        return await world.balance(world.l1, name, "finalized") - before

    return await within_blocks(world, f"the operators pay {name}", gained)
