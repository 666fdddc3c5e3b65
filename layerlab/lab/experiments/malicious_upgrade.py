"""An administrator pushes a malicious upgrade: who looks at the announcement leaves in time."""

from collections.abc import Mapping

from msgspec import structs

from chainkit.codec import MAX_AMOUNT
from layerlab.amounts import Gwei, show_amount
from layerlab.config import DevnetConfig
from layerlab.lab.experiment import Outcome, Seen
from layerlab.lab.experiments.theft import get_away, steal
from layerlab.lab.experiments.upgrading import ADMIN, announce, put_in_force, with_admin, withdraw_all
from layerlab.world import World, require

USER = "dave"


class MaliciousUpgrade:
    """The new settings ask a bond of a challenger that nobody has, so that no false root can be challenged."""

    name = "malicious-upgrade"
    question = (
        "The administrator makes fraud unprovable by an upgrade. Does a user's money get out before it?"
    )
    hypothesis: Mapping[str, str] = {
        "optimistic": "who sees the announcement withdraws within exit_window blocks, and loses nothing",
    }
    control: Mapping[str, str] = {
        # The contract takes no shorter window: without one for this user means that the user sleeps through it.
        "optimistic": "no exit window for the user: nobody looks at the announcement",
    }

    def config(self, model: str, control: bool) -> DevnetConfig:
        return with_admin(model)

    async def run(self, world: World, control: bool) -> Seen:
        owed = await world.balance(world.l2, USER)
        since = await world.last_event(world.bridge)
        settings, begin = world.settings, world.now()
        announced = await announce(world, structs.replace(settings, challenger_bond=MAX_AMOUNT))
        require(bool(announced.success), f"the upgrade is refused: {announced.message}")
        if control:
            return await _too_late(world, owed)
        seen = await world.event(world.bridge, "UpgradeScheduled", since, f"{USER} sees the announcement")
        amount, paid_at = await withdraw_all(world, USER)
        seconds = round(world.now() - begin, 1)
        in_force = await put_in_force(world)
        percent = round(100 * amount / owed)
        measured = {
            "owed": Gwei(owed),
            "recovered": Gwei(amount),
            "out_after_blocks": paid_at - (seen.height or 0),
            "in_force_after_blocks": in_force - (seen.height or 0),
            "exit_window": settings.exit_window,
        }
        told = f"{USER} is out {in_force - paid_at} L1 blocks before the upgrade is in force"
        outcome = Outcome(percent, seconds, "the user, within the exit window")
        return Seen(paid_at < in_force and percent == 100, told, outcome, measured)


async def _too_late(world: World, owed: int) -> Seen:
    """The upgrade is in force; the sequencer robs the user, and the verifier sees it and can do nothing."""
    await put_in_force(world)
    poor = await world.balance(world.l2, ADMIN)
    since = await world.last_event(world.verifier)
    batch, proof = await steal(world, poor, USER)
    flagged = await world.event(world.verifier, "BatchFlagged", since, "the verifier sees the fraud")
    challenged = await world.find_event(world.bridge, "BatchChallenged", 0)
    loot = proof.balance - poor
    stolen = await get_away(world, batch, proof, loot)
    left = max(0, owed - loot)
    measured = {"owed": Gwei(owed), "recovered": Gwei(left), "paid_to_thief": Gwei(stolen)}
    seen = "challenged" if challenged else "cannot be challenged"
    told = f"batch {flagged.data['batch']} is seen to be false and {seen}; "
    told += f"the thief left with {show_amount(stolen)} of {USER}'s {show_amount(owed)}"
    return Seen(stolen == 0, told, Outcome(100 * left // owed, None, "nobody looked"), measured)
