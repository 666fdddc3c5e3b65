"""The bridge's operators collude: how many keys does it take, and what do the users have then?"""

from collections.abc import Mapping

from layerlab.amounts import Gwei, show_amount
from layerlab.config import COIN, DevnetConfig
from layerlab.lab.experiment import Outcome, Seen
from layerlab.lab.experiments.common import committee_pays, usual, within_blocks
from layerlab.models import OPERATOR_THRESHOLD, OPERATORS
from layerlab.world import World

THIEF, USER = "mallory", "bob"
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

        stolen = await within_blocks(world, "the thief is paid", gained)
        seconds = round(world.now() - begin, 1)
        paid = await committee_pays(world, USER, OWED) == OWED  # liars go on attesting what is true, too
        percent = 100 * (escrow - stolen) // escrow
        told = f"the thief has {show_amount(stolen)} of the escrow's {show_amount(escrow)}"
        told += f"; {USER}'s withdrawal after it is {'paid' if paid else 'never paid'}"
        online = "nobody could help" if stolen else "two honest operators"
        outcome = Outcome(percent, seconds if stolen else None, online)
        measured = {"escrow": Gwei(escrow), "stolen": Gwei(stolen), "keys": OPERATOR_THRESHOLD - control}
        return Seen(stolen == escrow and not paid, told, outcome, measured)
