"""The delay attack: k challengers, or a proposer and k sybils, against the real contract, nodes and duties.

Responsible for attackers that use every block the rules give them, for an L1 whose blocks are full when they are and
final two blocks late, and for measuring when a batch is settled and what the honest side has then. One L1 block is a
tick; nothing here reads a clock or draws from anything but the seed. `delay_report` runs all and writes docs/delay/.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from bridge_harness import KEYS, L1_CHAIN, SETTINGS, address
from msgspec.structs import replace
from rollup_stack import DUMMY, Stack

from bridge import abi
from bridge.dispute import clock_left, segments
from bridge.settings import check_settings, finality_bound
from chainkit.chain import ExecutedBlock
from chainkit.codec import Record, decode, encode
from chainkit.execution import supply
from chainkit.keys import KeyPair, dev_keypair
from chainkit.state import contract_address, storage_key
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from rollup.duties import Duty, duties
from rollup.faults import Fault

CROWDS: Final = (1, 4, 16, 64)
FINAL_LAG: Final = 2
"""L1 blocks until a block is final: what a node knows is always as old."""
PER_SENDER: Final = 64
"""What a mempool keeps of one sender."""
TRANSFERS: Final = 40
"""In the batch: three cuts in four lead to one step."""
RESERVE: Final = 4
"""Blocks that an attacker who waits keeps for the moves that are left."""
COIN: Final = 10**9
SETTLED: Final = replace(
    SETTINGS,
    challenge_window=24,
    dispute_clock=20,
    escape_timeout=80,
    exit_window=90,
    proposer_bond=10 * COIN,
    challenger_bond=5 * COIN,
)
"""Bonds as shipped, and time enough for three cuts."""
HONEST = ("sequencer", "verifier")
STYLES: Final = ("at once", "spread", "last second")
ATTACKS: Final = {
    "challengers": "an honest proposer, k dishonest challengers",
    "liar": "a proposer whose first batch is false, and k sybils that crowd in on the honest challenge",
    "collusion": "a proposer that drags out the disputes of its k sybils over a true batch",
    "abandoned": "a proposer and k sybils that open disputes and let them lie",
}


@dataclass(frozen=True)
class Run:
    """One attack. ``settled`` and ``bound`` in L1 blocks after the posting; money in gwei, ``honest`` without fees.

    ``final`` counts from the posting of the batch that became final: the same one, or the one after a false one.
    """

    attack: str
    style: str
    k: int
    outcome: str
    settled: int
    final: int
    bound: int
    disputes: int
    honest: int
    honest_fees: int
    attackers: int
    attackers_fees: int
    honest_calls: int
    fullest_block: int
    """Gas of the fullest L1 block, in per cent of the limit."""
    gas: dict[str, int]
    """Of the dearest call of each method."""


class Crowd(Stack):
    """A stack with k more accounts, a block gas limit that binds, and finality that lags."""

    def __init__(self, path: Path, k: int, settings: abi.BridgeSettings = SETTLED) -> None:
        check_settings(settings)
        self.fees: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.fullest = 0
        self.gas: dict[str, int] = {}
        """The most that a call of each method took."""
        self.hold: Callable[[Duty], bool] = lambda _: False
        """Which of the proposer's moves are held back."""
        self.lag = dict.fromkeys(HONEST, FINAL_LAG)
        """How far behind L1's head a node acts: an attacker need not wait for finality."""
        self.sybils = {f"sybil-{i}": dev_keypair(f"sybil-{i}") for i in range(k)}
        super().__init__(path, settings)
        self.settings = settings
        self._fund()
        self.start = {name: self.state.account(self.key(name).address).balance for name in self.people}

    @property
    def people(self) -> list[str]:
        return [*HONEST, *self.sybils]

    def key(self, who: str) -> KeyPair:
        return self.sybils.get(who) or KEYS[who]

    def _fund(self) -> None:
        for nonce, key in enumerate(self.sybils.values()):
            body = Body(L1_CHAIN, address("alice"), nonce, 60_000, 16, 0, Transfer(key.address, 40 * COIN))
            self.signed.append(SignedTransaction.sign(body, KEYS["alice"]))
        self.mine()
        for _ in range(FINAL_LAG):
            self.mine()

    # --- L1 ---

    def mine(self) -> None:
        """A block of what waits, first come first served; what does not fit waits on."""
        base = self.tip.header.base_fee
        nonces: dict[str, int] = {}
        sent: dict[bytes, tuple[str, Call, int]] = {}
        later: list[tuple[str, Call, int]] = []
        own: Counter[str] = Counter()
        txs = list(self.signed)
        self.signed = []
        for who, action, gas in self.waiting:
            own[who] += 1
            if own[who] > PER_SENDER:
                later.append((who, action, gas))
                continue
            sender = self.key(who)
            nonce = nonces.get(who, self.state.account(sender.address).nonce)
            nonces[who] = nonce + 1
            body = Body(L1_CHAIN, sender.address, nonce, gas, 2 * base + 16, 0, action)
            tx = SignedTransaction.sign(body, sender)
            sent[tx.id] = (who, action, gas)
            txs.append(tx)
        slot = self.tip.header.slot + 1
        block, skipped = self.chain.build(self.tip, slot, bytes(32), txs)
        self.waiting = [sent[tx.id] for tx, _ in skipped] + later
        self.tip = block
        self.l1.append(block)
        self._count(block, sent)

    def _count(self, block: ExecutedBlock, sent: dict[bytes, tuple[str, Call, int]]) -> None:
        limit = self.chain.rules.fees.block_gas_limit
        self.fullest = max(self.fullest, 100 * block.header.gas_used // limit)
        for tx, receipt in zip(block.transactions, block.receipts, strict=True):
            who = sent.get(tx.id, ("", None, 0))[0]
            self.fees[who] += receipt.fee
            self.calls[who] += 1
            if isinstance(tx.body.action, Call):
                method = tx.body.action.method
                self.gas[method] = max(self.gas.get(method, 0), receipt.gas_used)
                self.receipts.append((who, method, receipt.code))
            self._watch(receipt)

    async def _react(self) -> None:
        """The honest nodes see the block that is final now, `FINAL_LAG` behind the last."""
        for member in self.members:
            node = member.node
            while node.l1_height < self.height - self.lag[member.role]:
                node.on_l1_final(self.l1[node.l1_height], DUMMY)
                member.outbox.on_l1_final(self.l1[node.l1_height - 1])
            node.produce(self.now())
            todo = duties(node, self.now(), member.outbox.under_way)
            if member.role == "sequencer":
                todo = (duty for duty in todo if not self.hold(duty))
            member.outbox.dispatch(todo, self.height)
        await _turns()

    def check(self) -> None:
        """P2, and that the contract holds what it owes; the rest is derived too late here, see `Stack.check`."""
        totals, issued = self.totals, supply(self.state)
        assert self.state.account(contract_address("bridge")).balance == totals.escrow + totals.bonds
        accounts = (key for key, _ in self.tip.tree.items() if key[:1] == b"a")
        held = sum(self.state.account(key[1:]).balance for key in accounts)
        assert held == issued.genesis + issued.minted - issued.burned, "P2"

    # --- what there is ---

    def batch(self, index: int) -> abi.Batch:
        return self.load(abi.batch_key(index), abi.Batch)  # type: ignore[no-any-return]

    def disputes(self) -> list[abi.Dispute]:
        found = (
            self.tip.tree.get(storage_key("bridge", abi.dispute_key(i)))
            for i in range(self.totals.next_dispute)
        )
        return [decode(abi.Dispute, value) for value in found]

    def gained(self, names: list[str]) -> int:
        """What they have more than at the start, fees apart, bonds that are still held for them counted in."""
        held = sum(
            batch.bond
            for i in range(1, self.totals.next_batch)
            if (batch := self.batch(i)).status == abi.PENDING
            and batch.proposer in {self.key(name).address for name in names}
        )
        balances = {name: self.state.account(self.key(name).address).balance for name in names}
        return sum(balances[n] - self.start[n] + self.fees[n] for n in names) + held


async def _turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


class Attack:
    """What the sybils do: each opens one dispute on each batch, and answers when its clock has almost run out."""

    def __init__(self, crowd: Crowd, style: str, seed: int) -> None:
        self.crowd, self.style, self.random = crowd, style, Random(seed)
        self.answers, self.retired = True, False
        self._opened: set[tuple[int, str]] = set()
        self._moved: set[tuple[int, int]] = set()

    def act(self) -> None:
        """Say what is said for the next L1 block. Attackers see L1's head, not only what is final."""
        crowd = self.crowd
        for index in range(max(1, crowd.totals.final_batch + 1), crowd.totals.next_batch):
            batch = crowd.batch(index)
            if batch.status == abi.PENDING and not self.retired:
                for place, who in enumerate(crowd.sybils):
                    if self._opens(batch, place) and (index, who) not in self._opened:
                        self._opened.add((index, who))
                        root = place.to_bytes(2, "big") * 16 if place else b"\xff" * 32
                        self._call(
                            who, "challenge", abi.ChallengeArgs(index, root), crowd.settings.challenger_bond
                        )
        for dispute in crowd.disputes():
            if dispute.stage == abi.CHOOSE and (dispute.index, dispute.moves) not in self._moved:
                self._choose(dispute)
            elif dispute.stage != abi.RESOLVED and crowd.batch(dispute.batch).status == abi.REVERTED:
                self._settle(dispute)

    def _opens(self, batch: abi.Batch, place: int) -> bool:
        window, at = batch.challenge_until - batch.height, self.crowd.height + 1
        if self.style == "at once":
            return True
        if self.style == "last second":
            return at == batch.challenge_until
        return at == batch.height + 1 + place * (window - 1) // len(self.crowd.sybils)

    def _choose(self, dispute: abi.Dispute) -> None:
        who = self._name(dispute)
        if who is None or not self.answers or clock_left(dispute, self.crowd.height + 1) > RESERVE:
            return
        self._moved.add((dispute.index, dispute.moves))
        segment = self.random.randrange(segments(dispute))
        self._call(who, "choose", abi.ChooseArgs(dispute.index, segment))

    def _settle(self, dispute: abi.Dispute) -> None:
        who, key = self._name(dispute), (dispute.index, -1)
        if who is not None and key not in self._moved:
            self._moved.add(key)
            self._call(who, "settle", abi.DisputeArgs(dispute.index))

    def _name(self, dispute: abi.Dispute) -> str | None:
        return next((n for n, k in self.crowd.sybils.items() if k.address == dispute.challenger), None)

    def _call(self, who: str, method: str, args: Record, value: int = 0) -> None:
        self.crowd.waiting.append((who, Call("bridge", method, encode(args), value), 1_000_000))


def dawdle(crowd: Crowd) -> Callable[[Duty], bool]:
    """A proposer that answers its accomplices when its own clock has almost run out."""

    def hold(duty: Duty) -> bool:
        if duty.key[0] != "move":
            return False
        dispute = crowd.disputes()[int(duty.key[1])]
        return dispute.turn == abi.DEFENDER and clock_left(dispute, crowd.height + 1) > RESERVE

    return hold


def run(path: Path, attack: str, style: str, k: int, seed: int = 1) -> Run:
    """One attack of `ATTACKS`."""
    crowd = Crowd(path, k)
    try:
        return _run(crowd, attack, style, k, seed)
    finally:
        crowd.close()


def _run(crowd: Crowd, attack: str, style: str, k: int, seed: int) -> Run:
    sybils, bound = Attack(crowd, style, seed), finality_bound(crowd.settings)
    if attack == "liar":
        crowd.sequencer.faults.set(Fault("mint", at_step=7))
    if attack != "challengers":
        crowd.lag["sequencer"] = 0
    if attack == "abandoned":
        crowd.sequencer.faults.set(Fault("silent-in-dispute"))
        sybils.answers = False
    if attack == "collusion":
        crowd.hold = dawdle(crowd)
    for amount in range(TRANSFERS):
        crowd.transfer("alice", "bob", 1 + amount)
    until(crowd, sybils, lambda: crowd.totals.next_batch > 1, 20)
    first = crowd.batch(1)
    until(crowd, sybils, lambda: crowd.batch(1).status != abi.PENDING, 2 * bound)
    settled = crowd.batch(1).resolved_height - first.height
    crowd.sequencer.faults.clear()
    sybils.retired = attack == "abandoned"  # what it costs to go on is half of a bond each time
    until(crowd, sybils, lambda: crowd.totals.final_batch > 0, 3 * bound)
    last = crowd.batch(crowd.totals.final_batch)
    until(crowd, sybils, lambda: all(d.stage == abi.RESOLVED for d in crowd.disputes()), 2 * bound)
    honest = ["verifier"] if attack != "challengers" else list(HONEST)
    others = [name for name in crowd.people if name not in honest]
    return Run(
        attack=attack,
        style=style,
        k=k,
        outcome=crowd.batch(1).status,
        settled=settled,
        final=last.resolved_height - last.height,
        bound=bound,
        disputes=len(crowd.disputes()),
        honest=crowd.gained(honest),
        honest_fees=sum(crowd.fees[name] for name in honest),
        attackers=crowd.gained(others),
        attackers_fees=sum(crowd.fees[name] for name in others),
        honest_calls=sum(crowd.calls[name] for name in honest),
        fullest_block=crowd.fullest,
        gas=dict(sorted(crowd.gas.items())),
    )


def until(crowd: Crowd, sybils: Attack, done: Callable[[], bool], limit: int) -> None:
    """Make L1 blocks until it is so; an `AssertionError` after ``limit``."""
    for _ in range(limit):
        if done():
            return
        sybils.act()
        crowd.step()
    raise AssertionError(f"not so after {limit} L1 blocks")
