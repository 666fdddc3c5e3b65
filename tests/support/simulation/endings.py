"""What must be true at the end of a run, once the network has settled: progress, and nothing lost.

Responsible for the promises that only an end can show: liveness (P9, P13, P16, P17, P23), receipts kept, logs
without gap or double. Must not know how a run went, but for the faults that excuse a side.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from simulation.clients import User
from simulation.faults import Plan
from simulation.reference_bridge import BLIND_BLOCKS
from simulation.watcher import PromiseBroken, Watcher
from simulation.world import USERS, World, key_of

SETTLED_SLOTS = 20
"""Slots after healing within which a block of the settled time is final, everywhere."""
POSTING_BLOCKS = 40
"""L1 blocks within which a sequencer that is well posts a batch: escape_timeout / 4 and what it takes to land."""
LEAVING_BLOCKS = 30


class Ending:
    """The last look at a world."""

    def __init__(
        self,
        world: World,
        watcher: Watcher,
        plan: Plan,
        users: Sequence[User],
        probe: tuple[bytes, float] | None,
    ) -> None:
        self.world, self.watcher, self.plan, self.users, self.probe = world, watcher, plan, users, probe
        self.bridge = watcher.reference.bridge
        self.kinds = {fault.kind for fault in plan.faults}

    def check(self) -> None:
        """Add to the watcher's failures what does not hold."""
        for check in (
            self.l1_goes_on,
            self.all_are_back,
            self.probe_is_final,
            self.only_culprits_are_slashed,
            self.lies_are_challenged,
            self.honest_sides_lose_nothing,
            self.users_got_out,
            self.sequencer_goes_on,
            self.receipts_are_kept,
            self.logs_are_whole,
        ):
            try:
                check()
            except PromiseBroken as broken:
                self.watcher.fail("at the end", str(broken))

    # --- L1 ---

    def l1_goes_on(self) -> None:
        last, slots = self.watcher.tip.header.slot, int(self.plan.end)
        if last < slots - SETTLED_SLOTS:
            raise PromiseBroken(f"P9 nothing became final after slot {last} of {slots}")

    def all_are_back(self) -> None:
        for name, process in self.world.processes.items():
            if name == "twin" or any(f.kind == "gone" and f.who == (name,) for f in self.plan.faults):
                continue
            if not process.up:
                raise PromiseBroken(f"P22 {name} did not come back: {process.failures[-1:]}")
            behind = self.watcher.height - self.watcher.reached(name)
            if behind > SETTLED_SLOTS:
                raise PromiseBroken(f"P9 {name} is {behind} blocks behind")

    def probe_is_final(self) -> None:
        if self.probe is None:
            raise PromiseBroken("P9 no validator took a valid transaction after healing")
        tx_id, sent = self.probe
        height = self.watcher.reference.final_at.get(tx_id)
        if height is None:
            raise PromiseBroken("P9 a valid transaction sent after healing never became final")
        slots = self.watcher.blocks[height - 1].block.header.slot - sent
        if slots > SETTLED_SLOTS:
            raise PromiseBroken(f"P9 a valid transaction waited {slots:.0f} slots")

    def only_culprits_are_slashed(self) -> None:
        index = self.world.setup.byzantine
        culprit = None if index is None else key_of(f"validator-{index}").address
        for address, kind in self.watcher.reference.slashed:
            if address != culprit:
                raise PromiseBroken(f"P7 an honest validator was slashed for {kind}")

    # --- disputes ---

    def lies_are_challenged(self) -> None:
        verifier, settings = key_of("verifier").address, self.world.setup.settings
        for batch in self.bridge.batches.values():
            parent = self.bridge.batches[batch.parent]
            if batch.status != "pending" or batch.line_true or not parent.line_true:
                continue
            mine = any(d.batch == batch.index and d.challenger == verifier for d in self.bridge.disputes)
            over = self.watcher.height > batch.height + settings.challenge_window
            if over and not mine and not self._blind(verifier, batch.height):
                raise PromiseBroken(f"P12 the false batch {batch.index} went unchallenged")

    def honest_sides_lose_nothing(self) -> None:
        verifier, sequencer = key_of("verifier").address, key_of("sequencer").address
        if "late" not in self.kinds:
            for dispute in self.bridge.disputes:
                lost = dispute.challenger == verifier and dispute.winner == "defender"
                if lost and not self._blind(verifier, self.bridge.batches[dispute.batch].height):
                    raise PromiseBroken(f"P13 the honest challenger lost dispute {dispute.index}")
        if not self.kinds & {"sulk", "gone", "lie"}:
            for index, proposer, blind in self.bridge.lost_by_timeout:
                if proposer == sequencer and blind < BLIND_BLOCKS:
                    raise PromiseBroken(f"P13 the true batch {index} was lost on time")

    def _blind(self, key: bytes, since: int) -> bool:
        return self.bridge.blindness(key, since) >= BLIND_BLOCKS

    # --- users ---

    def users_got_out(self) -> None:
        frozen, settings = self.bridge.frozen, self.world.setup.settings
        if not frozen:
            if self.watcher.height > self.bridge.last_batch + settings.escape_timeout + LEAVING_BLOCKS:
                raise PromiseBroken("P17 the bridge could be frozen, and nobody could")
            return
        if self.watcher.height < frozen + LEAVING_BLOCKS:
            return
        final = self.bridge.batches[self.bridge.final]
        for name in USERS:
            address = key_of(name).address
            if final.state.money.balance(address) and address not in self.bridge.paid["exit"]:
                raise PromiseBroken(f"P17 {name} could not leave the frozen bridge")
        users = {key_of(name).address for name in USERS}
        for step, _, sender in self.bridge.inbox[final.inbox_to :]:
            if step[0] == 1 and sender in users and step[1] not in self.bridge.paid["refund"]:
                raise PromiseBroken(f"P17 deposit {step[1]} was not refunded")

    def sequencer_goes_on(self) -> None:
        ill = any(f.until > self.plan.heal and f.who[:1] == ("sequencer",) for f in self.plan.faults)
        if ill or self.bridge.frozen or self.bridge.diverged or not self.world.setup.rollup:
            return
        silent = self.watcher.height - max(self.bridge.last_batch, int(self._healed_height()))
        if silent > POSTING_BLOCKS:
            raise PromiseBroken(f"P16 the sequencer has posted nothing for {silent} L1 blocks")

    def _healed_height(self) -> int:
        return sum(1 for b in self.watcher.blocks if b.block.header.slot <= self.plan.heal)

    def receipts_are_kept(self) -> None:
        """A receipt is a promise of a place in the order; it gives way to L1's verdicts and deadlines only."""
        core = self.world.processes["sequencer"].core if self.world.setup.rollup else None
        if core is not None:
            for event in self._reversals(core):
                self.watcher.seen[f"L2 chain reverted: {event.data['reason']}"] += 1
        if core is None or "lie" in self.kinds or any(self._reversals(core)):
            return
        places = dict(self._places())
        top = max((height for height, _ in places.values()), default=0)
        for user in self.users:
            for tx_id, promise in user.promises.items():
                place = (promise["height"], promise["position"])
                if place[0] <= top and places.get(tx_id) != place:
                    raise PromiseBroken(
                        f"P22 a receipt of {user.name} promised {place}, it is {places.get(tx_id)}"
                    )
                self.watcher.seen["sequencer's receipt checked"] += 1

    @staticmethod
    def _reversals(core: Any) -> Iterator[Any]:
        return (e for e in core.node.events.read(1, 100_000) if e.name == "ChainReverted")

    def _places(self) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Transaction id -> (L2 height, position), from the batches that stand."""
        batch = self.bridge.batches[self.bridge.head]
        while batch.index:
            height, position = batch.first_block - 1, 0
            for step in batch.steps:
                if step[0] == 0:
                    height, position = height + 1, 0
                elif step[0] in (2, 3):
                    yield self.watcher.l2_id(step[-1]), (height, position)
                    position += 1
            batch = self.bridge.batches[batch.parent]

    # --- logs ---

    def logs_are_whole(self) -> None:
        process = self.world.processes.get("bridge")
        if process is None or process.core is None:
            return
        tip = process.core.replica.tip.header.height
        expected = [(h, name) for h, name in self.watcher.reference.bridge_events if h <= tip]
        found = [(e.height, e.name) for e in process.core.events.read(1, 100_000) if e.source == "bridge"]
        if found != expected:
            raise PromiseBroken(
                f"P22 the bridge's log has {len(found)} events of the contract, not {len(expected)}"
            )
