"""The bridge's operators collude: how many keys does it take, and what do the users have then?"""

from collections.abc import Awaitable, Callable, Mapping

from bridge.committee_abi import GATEWAY
from chainkit.codec import encode
from chainkit.transaction import Call
from layerlab.config import COIN, DevnetConfig
from layerlab.lab.experiment import Outcome, Seen
from layerlab.lab.experiments.common import usual
from layerlab.models import OPERATOR_THRESHOLD, OPERATORS
from layerlab.world import World, require
from rollup.messenger import WithdrawArgs

THIEF, USER = "mallory", "bob"
WAIT_BLOCKS = 12
"""Twice as long as an honest withdrawal takes, and more."""
OWED = 30 * COIN


class Collusion:
    """Operators attest a withdrawal of the whole escrow that nobody made. L1 counts keys; it knows nothing else."""

    name = "committee-colludes"
    question = "The keys that move the bridge's money agree to take it. Who can stop them?"
    hypothesis: Mapping[str, str] = {
        "sidechain": f"{OPERATOR_THRESHOLD} of {len(OPERATORS)} keys take the whole escrow, and L1 cannot tell",
    }
    control: Mapping[str, str] = {
        "sidechain": f"{OPERATOR_THRESHOLD - 1} of {len(OPERATORS)} keys: one less than it takes",
    }

    def config(self, model: str, control: bool) -> DevnetConfig:
        return usual(model, validators=1)

    async def run(self, world: World, control: bool) -> Seen:
        escrow = (await world.bridge.get("/bridge"))["totals"]["escrow"]
        before = await world.balance(world.l1, THIEF, "finalized")
        begin = world.now()
        to = "0x" + world.key(THIEF).address.hex()
        for name in OPERATORS[: OPERATOR_THRESHOLD - control]:
            await world.fault(name, name="collude", to=to, amount=escrow)

        async def gained() -> int:
            return await world.balance(world.l1, THIEF, "finalized") - before

        stolen = await _within_blocks(world, "the thief is paid", gained)
        seconds = round(world.now() - begin, 1)
        paid = await _withdraws(world)
        percent = 100 * (escrow - stolen) // escrow
        told = f"the thief has {stolen} of the escrow's {escrow} gwei"
        told += f"; {USER}'s withdrawal after it is {'paid' if paid else 'never paid'}"
        online = "nobody could help" if stolen else "two honest operators"
        outcome = Outcome(percent, seconds if stolen else None, online)
        measured = {"escrow": escrow, "stolen": stolen, "keys": OPERATOR_THRESHOLD - control}
        return Seen(stolen == escrow and not paid, told, outcome, measured)


async def _within_blocks(world: World, what: str, probe: Callable[[], Awaitable[int]]) -> int:
    """What ``probe`` finds as soon as it is more than zero; zero after `WAIT_BLOCKS`."""
    end = await world.height(world.l1) + WAIT_BLOCKS

    async def over() -> bool:
        return await probe() > 0 or await world.height(world.l1) >= end

    await world.until(f"{what}, or {WAIT_BLOCKS} L1 blocks go by", over)
    return await probe()


async def _withdraws(world: World) -> bool:
    """Whether a user is paid: liars go on attesting what is true, too."""
    before = await world.balance(world.l1, USER, "finalized")
    call = Call(GATEWAY, "withdraw", encode(WithdrawArgs(world.key(USER).address)), OWED)
    burned = await world.send(world.app, USER, call)
    require(bool(burned.success), f"the withdrawal failed on the side chain: {burned.message}")

    async def gained() -> int:
        return await world.balance(world.l1, USER, "finalized") - before

    return await _within_blocks(world, f"{USER} is paid", gained) == OWED
