"""Acts around an upgrade of the rollup's bridge: announcing it, leaving before it, putting it into force.

Responsible for the calls and for when they happened, in L1 blocks. Must not know whether the upgrade is a good one.
"""

from collections.abc import Mapping
from typing import Any

from bridge.abi import BridgeSettings, UpgradeArgs
from bridge.settings import longest_dispute
from chainkit.client import ReceiptInfo
from chainkit.codec import encode, parse_hex
from chainkit.contract import NoArgs
from chainkit.transaction import Call
from layerlab.config import DevnetConfig
from layerlab.lab.experiments.common import FEES, books, l1_blocks, pace, usual
from layerlab.world import STEP_SECONDS, World, require
from rollup.messenger import WithdrawArgs

ADMIN = "mallory"


def with_admin(model: str) -> DevnetConfig:
    """A bridge with an administrator, and the shortest exit window that the contract accepts beside one."""
    shortest = longest_dispute(usual(model).settings) + 1
    return usual(model, validators=1, admin=World.key(ADMIN).address, exit_window=shortest)


async def announce(world: World, settings: BridgeSettings) -> ReceiptInfo:
    """The administrator schedules these settings; what became of the call."""
    return await world.call_bridge(ADMIN, "schedule_upgrade", UpgradeArgs(settings))


async def put_in_force(world: World) -> int:
    """Wait until the announced settings may be applied, and apply them; the L1 height."""
    scheduled = (await books(world))["scheduled_upgrade"]
    require(scheduled is not None, "no upgrade is scheduled")
    await l1_blocks(world, max(0, scheduled["height"] - await world.height(world.l1)))
    applied = await world.send(world.l1, ADMIN, Call("bridge", "apply_upgrade", encode(NoArgs()), 0))
    require(bool(applied.success), f"the upgrade cannot be applied: {applied.message}")
    return applied.height or 0


async def withdraw_all(world: World, name: str) -> tuple[int, int]:
    """``name`` leaves L2 with all but its fees, in the usual way; gwei, and the L1 height of the payout."""
    me = world.key(name).address
    amount = await world.balance(world.l2, name) - FEES
    call = Call("messenger", "withdraw", encode(WithdrawArgs(me)), amount)
    sent = await world.send(world.l2, name, call, at="head")
    require(bool(sent.success), f"the withdrawal failed on L2: {sent.message}")
    path = f"/withdrawals/0x{sent.hash.hex()}"

    async def ready() -> Mapping[str, Any] | None:
        shown: Mapping[str, Any] | None = await world.bridge_get(path)
        return shown if shown is not None and shown["status"] == "ready-to-claim" else None

    # Not as fast as nothing at all: each move in between must not take many blocks only because they rush by.
    await world.fast_until(f"{name}'s withdrawal waits for its challenge window", ready, rate=pace(world) / 2)
    answer = await world.bridge.post(path + "/claim", {"from": name})
    claim = await world.l1.wait_for_receipt(parse_hex(answer["hash"]), "finalized", STEP_SECONDS)
    require(bool(claim.success), f"the claim failed: {claim.message}")
    return amount, claim.height or 0
