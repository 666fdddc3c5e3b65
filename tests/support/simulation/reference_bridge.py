"""The bridge's accounting told a second time: plain tables fed with the calls that L1 let pass.

Responsible for saying what every successful call may have done (money, batches, disputes, ways out), for the
true L2 state behind every batch, and for promises P1, P3 to P5, P12 and P15 to P18. Shares no code with bridge or
rollup. It is told only that a call succeeded; an `AssertionError` begins with the promise that broke.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from simulation.reference_data import read_batch
from simulation.reference_l2 import L2State
from simulation.reference_merkle import tagged
from simulation.reference_money import Money
from simulation.reference_records import Batch, Dispute

BRIDGE = tagged("contract", b"bridge")
SETTINGS = [
    *("sequencer", "admin", "proposer_bond", "challenger_bond", "challenge_window", "dispute_clock"),
    *("max_move_delay", "inclusion_delay", "sequencer_timeout", "escape_timeout", "exit_window", "bisection"),
    *("max_steps", "max_inbox_per_batch", "min_deposit"),
]
STALL_FACTOR = 2
BLIND_BLOCKS = 5
"""A side that was this many L1 blocks behind may miss a window that is counted in L1 blocks: P12 and P13 are
promised to those who see L1's final blocks in time (docs/SIMULATION.md)."""


class ReferenceBridge:
    """The contract's books, kept apart from it."""

    def __init__(self, params: Any, l2_state: dict[bytes, bytes], money: Money, seen: Counter[str]) -> None:
        l2_genesis, settings = params
        self.settings: dict[str, Any] = dict(zip(SETTINGS, settings, strict=True))
        self.money, self.seen = money, seen
        start = L2State.of_genesis(l2_genesis, l2_state)
        root = start.root()
        genesis = Batch(0, 0, 0, 1, 0, [], [], root, root, start, start, True, bytes(32), 0, 0, "final")
        self.batches: dict[int, Batch] = {0: genesis}
        self.inbox: list[tuple[Any, int, bytes]] = []
        """(step, L1 height, who queued it)."""
        self.directory: list[bytes] = []
        """The addresses behind the numbers of packed batches; it only grows."""
        self.disputes: list[Dispute] = []
        self.head = self.final = 0
        self.escrow = start.money.total
        self.bonds = 0
        self.paid: dict[str, dict[Any, int]] = {"claim": {}, "exit": {}, "refund": {}}
        self.frozen = self.last_batch = self.last_final = 0
        self.height = 0
        self.false_reverted = 0
        self.lost_by_timeout: list[tuple[int, bytes, int]] = []
        """True batches that were voided since their proposer did not answer, and how blind it was."""
        self.blind: list[dict[bytes, int]] = []
        """For each L1 height from 1 on: how many blocks L1 was ahead of what a rollup node knew to be final."""
        self.honest: bytes = b""
        """The key of the one honest challenger."""
        self.diverged = False
        """Whether a false batch became final while the honest challenger was blind: all bets are off."""
        self._reverted_blocks: set[int] = set()

    # --- the books ---

    def safe(self) -> Batch:
        """The last batch of the line that is true, with all below it."""
        batch = self.batches[self.head]
        while not batch.line_true:
            batch = self.batches[batch.parent]
        return batch

    def owed(self, batch: Batch) -> int:
        """What escrow owes in a state of L2: balances and withdrawals not claimed."""
        left = sum(entry[3] for entry in batch.state.withdrawals if entry[0] not in self.paid["claim"])
        gone = sum(batch.state.money.balance(account) for account in self.paid["exit"])
        held: int = batch.state.money.total - gone + left
        return held

    def check(self) -> None:
        """P1, P5 and P15, after a block."""
        if self.diverged:
            return
        safe = self.safe()
        waiting = sum(
            step[4]
            for step, _, _ in self.inbox[safe.inbox_to :]
            if step[0] == 1 and step[1] not in self.paid["refund"]
        )
        assert self.escrow == self.owed(safe) + waiting, (
            f"P1 escrow is {self.escrow}, owed are {self.owed(safe)} + {waiting}"
        )
        assert self.escrow >= self.owed(self.batches[self.final]), (
            "P5 escrow does not cover the last final state"
        )
        pending = sum(b.bond for b in self.batches.values() if b.status == "pending")
        held = pending + sum(d.bond for d in self.disputes if d.open)
        assert self.bonds == held, f"P15 bonds are {self.bonds}, held for somebody are {held}"
        assert self.money.balance(BRIDGE) == self.escrow + self.bonds, (
            "P15 the balance is not escrow and bonds"
        )

    # --- calls ---

    def call(self, method: str, args: Any, sender: bytes, value: int, height: int, time: int) -> None:
        """A call succeeded (its value is in the bridge's account already)."""
        self.height, self.time = height, time
        act: Callable[..., None] = getattr(self, f"_{method}")
        act(sender, value, *args)

    def _pay(self, to: bytes, amount: int) -> None:
        self.money.move(BRIDGE, to, amount)

    def _deposit(self, sender: bytes, value: int, to: bytes) -> None:
        assert value >= self.settings["min_deposit"], "P24 a deposit of too little"
        assert not self.frozen, "a frozen bridge took a deposit"
        self.inbox.append(([1, len(self.inbox), sender, to, value], self.height, sender))
        self.escrow += value

    def _force(self, sender: bytes, value: int, wire: bytes) -> None:
        assert not value, "force takes no value"
        assert not self.frozen, "a frozen bridge took a message"
        self.inbox.append(([2, len(self.inbox), wire], self.height, sender))

    def _submit_batch(
        self, sender: bytes, value: int, parent: int, inbox_to: int, data: bytes, root: bytes
    ) -> None:
        base, s = self.batches[self.head], self.settings
        assert parent == self.head, "a batch that does not extend the head"
        assert value == s["proposer_bond"], "P15 a batch without its bond"
        assert not self.frozen, "a frozen bridge took a batch"
        free = self.height > self.last_batch + s["sequencer_timeout"]
        assert sender == s["sequencer"] or free, "somebody else's batch while the sequencer is alive"
        contents = read_batch(data, self.directory, base.state.money.chain_id)
        taken = sum(block[1] for block in contents.blocks)
        assert inbox_to == base.inbox_to + taken <= len(self.inbox), "P4 the inbox is not taken in order"
        if taken < s["max_inbox_per_batch"] and inbox_to < len(self.inbox):
            deadline = self.inbox[inbox_to][1] + s["inclusion_delay"]
            assert self.height < deadline, f"P16 message {inbox_to} was left out in L1 block {self.height}"
        first = base.first_block + base.blocks
        steps, leaves = contents.steps(first, [m[0] for m in self.inbox[base.inbox_to : inbox_to]])
        state = base.state.copy()
        for step in steps:
            outcome = state.run(step)
            if step[0] == 2:
                self.seen["forced transaction " + ("refused by L2" if outcome else "executed")] += 1
        true = state.root()
        batch = Batch(
            len(self.batches), parent, first, len(contents.blocks), inbox_to, steps, leaves, root, true,
            state, base.state, base.line_true and true == root, sender, value, self.height,
        )  # fmt: skip
        self.batches[batch.index] = batch
        self.directory += contents.fresh
        self.bonds += value
        self.head, self.last_batch = batch.index, self.height
        if not batch.line_true:
            self.seen["false batch posted"] += 1
        elif first in self._reverted_blocks:
            self.seen["reverted batch re-posted"] += 1

    def _finalize(self, _: bytes, __: int, index: int) -> None:
        batch = self.batches[index]
        assert batch.status == "pending", "final or void twice"
        assert batch.parent == self.final, "final before its parent"
        assert self.height > batch.height + self.settings["challenge_window"], "P13 final within its window"
        assert not any(d.open and d.batch == index for d in self.disputes), "final while disputed"
        if not batch.line_true:
            blind = self.blindness(self.honest, batch.height)
            assert blind >= BLIND_BLOCKS, (
                f"P12 the false batch {index} became final (blind for {blind} blocks)"
            )
            self.diverged = True
            self.seen["false batch final: its challenger was blind"] += 1
        batch.status, self.final, self.last_final = "final", index, self.height
        self.bonds -= batch.bond
        self._pay(batch.proposer, batch.bond)

    def blindness(self, key: bytes, since: int) -> int:
        """How far behind L1 a rollup node was at most, in blocks, from L1 height ``since`` on."""
        return max((blind.get(key, 0) for blind in self.blind[since - 1 :]), default=0)

    # --- the game ---

    def _challenge(self, sender: bytes, value: int, index: int, root: bytes) -> None:
        batch = self.batches[index]
        assert batch.status == "pending", "a challenge of what is settled"
        assert self.height <= batch.height + self.settings["challenge_window"], "a challenge after the window"
        assert value == self.settings["challenger_bond"], "P15 a challenge without its bond"
        clock = self.settings["dispute_clock"]
        previous = self.batches[batch.parent].claimed
        dispute = Dispute(
            len(self.disputes), index, sender, root, value, 0, len(batch.steps), previous, batch.claimed,
            [clock, clock], self.height,
        )  # fmt: skip
        dispute.narrowed()
        self.disputes.append(dispute)
        self.bonds += value
        if sum(d.open and d.batch == index for d in self.disputes) > 1:
            self.seen["several disputes on one batch"] += 1
        if batch.line_true:
            self.seen["true batch challenged"] += 1

    def _live(self, index: int) -> tuple[Dispute, Batch]:
        dispute = self.disputes[index]
        batch = self.batches[dispute.batch]
        assert dispute.open, "P15 a move after the verdict"
        assert batch.status == "pending", "P15 a move about a batch that is settled"
        return dispute, batch

    def _bisect(self, sender: bytes, _: int, index: int, roots: list[bytes]) -> None:
        dispute, batch = self._live(index)
        assert (dispute.turn, sender) == (0, batch.proposer), "P18 not the defender's move"
        dispute.spend(self.height)
        assert len(roots) == len(dispute.cuts(self.settings["bisection"])) - 2, "roots for other cuts"
        dispute.points, dispute.turn = roots, 1

    def _choose(self, sender: bytes, _: int, index: int, segment: int) -> None:
        dispute, _batch = self._live(index)
        assert (dispute.turn, sender) == (1, dispute.challenger), "P18 not the challenger's move"
        dispute.spend(self.height)
        cuts = dispute.cuts(self.settings["bisection"])
        roots = [dispute.low_root, *dispute.points, dispute.high_root]
        dispute.low, dispute.high = cuts[segment], cuts[segment + 1]
        dispute.low_root, dispute.high_root = roots[segment], roots[segment + 1]
        dispute.narrowed()

    def _prove(self, _sender: bytes, _value: int, index: int, step: bytes, *_: Any) -> None:
        dispute, batch = self._live(index)
        assert dispute.high - dispute.low == 1, "a proof of more than one step"
        assert batch.leaves[dispute.low][1] == step, "P14 a proof of another step"
        dispute.spend(self.height)
        state = batch.start.copy()
        for each in batch.steps[: dispute.low]:
            state.run(each)
        if state.root() == dispute.low_root:
            state.run(batch.steps[dispute.low])
            defended = state.root() == dispute.high_root
            self._note_proof(dispute, batch, defended)
            self._verdict(dispute, batch, "defender" if defended else "challenger", "step-proved")
        else:  # both agreed on a state that L2 never had: only the contract can say what follows from it
            self.seen["proof over a state that never was"] += 1
            self._verdict(dispute, batch, "", "step-proved")

    def _note_proof(self, dispute: Dispute, batch: Batch, defended: bool) -> None:
        what = "one-step proof " + ("for the defender" if defended else "of a lie")
        self.seen[what] += 1
        if dispute.low == 0:
            self.seen[f"{what} at the first step"] += 1
        if dispute.high == len(batch.steps):
            self.seen[f"{what} at the last step"] += 1

    def _timeout(self, _: bytes, __: int, index: int) -> None:
        dispute = self.disputes[index]
        batch = self.batches[dispute.batch]
        assert dispute.open, "P15 a second verdict"
        if batch.status != "pending":
            self._moot(dispute)
            return
        late = self.height - dispute.last - dispute.clocks[dispute.turn]
        assert late > 0, "P13 lost on time that was left"
        self.seen["dispute lost on time by the " + ("defender", "challenger")[dispute.turn]] += 1
        self._verdict(dispute, batch, "challenger" if dispute.turn == 0 else "defender", "timeout")

    def _settle(self, _: bytes, __: int, index: int) -> None:
        dispute = self.disputes[index]
        assert dispute.open, "P15 settled twice"
        assert self.batches[dispute.batch].status != "pending", "settled while it is played"
        self._moot(dispute)

    def _moot(self, dispute: Dispute) -> None:
        self.seen["dispute settled by another's verdict"] += 1
        dispute.open = False
        self.bonds -= dispute.bond
        self._pay(dispute.challenger, dispute.bond)

    def _verdict(self, dispute: Dispute, batch: Batch, winner: str, reason: str) -> None:
        """``winner`` empty: whatever the contract says, which `resolved` tells."""
        dispute.open, dispute.winner = False, winner
        self._pending_verdict = (dispute, batch, reason)
        if winner:
            self._settle_verdict()

    def resolved(self, index: int, winner: str) -> None:
        """The contract's event: who won."""
        dispute = self.disputes[index]
        if not dispute.winner and winner:
            dispute.winner = winner
            self._settle_verdict()
        assert dispute.winner == winner, f"P12 dispute {index} was won by {winner!r}, not {dispute.winner!r}"

    def _settle_verdict(self) -> None:
        dispute, batch, reason = self._pending_verdict
        forfeited = dispute.bond if dispute.winner == "defender" else batch.bond
        to = batch.proposer if dispute.winner == "defender" else dispute.challenger
        self._pay(to, forfeited // 2)
        self.money.burn(BRIDGE, forfeited - forfeited // 2)
        self.bonds -= forfeited
        self.seen["bond forfeited"] += 1
        if dispute.winner == "challenger":
            self.bonds -= dispute.bond
            self._pay(dispute.challenger, dispute.bond)
            if batch.line_true:
                assert reason == "timeout", f"P12 the true batch {batch.index} was voided"
                blind = self.blindness(batch.proposer, batch.height)
                self.lost_by_timeout.append((batch.index, batch.proposer, blind))
            self._revert(batch.index, keep_first=True)

    def _revert(self, first: int, *, keep_first: bool) -> None:
        while self.head != self.batches[first].parent:
            batch = self.batches[self.head]
            batch.status = "void"
            self._reverted_blocks.add(batch.first_block)
            self.head = batch.parent
            if not (batch.index == first and keep_first):
                self.bonds -= batch.bond
                self._pay(batch.proposer, batch.bond)
        self.seen["batch reverted"] += 1

    # --- ways out ---

    def _claim(self, _: bytes, __: int, index: int, number: int, to: bytes, amount: int, ___: bytes) -> None:
        batch = self.batches[index]
        assert batch.status == "final", "P3 a claim under a root that is not final"
        assert number not in self.paid["claim"], f"P3 withdrawal {number} was paid twice"
        entry = batch.state.withdrawals[number]
        assert [entry[2], entry[3]] == [to, amount], "P18 a claim with another recipient or amount"
        self.paid["claim"][number] = amount
        self.escrow -= amount
        self._pay(to, amount)
        self.seen["withdrawal claimed"] += 1

    def _freeze(self, _: bytes, __: int) -> None:
        timeout = self.settings["escape_timeout"]
        stalled = self.height > self.last_final + STALL_FACTOR * timeout
        assert stalled or self.height > self.last_batch + timeout, "frozen too early"
        assert not self.frozen, "frozen twice"
        if self.head != self.final:
            assert stalled, "frozen over batches that may yet be final"
            first = self.head
            while self.batches[first].parent != self.final:
                first = self.batches[first].parent
            self._revert(first, keep_first=False)
        self.frozen = self.height
        self.seen["bridge frozen"] += 1

    def _exit(self, _: bytes, __: int, account: bytes, ___: bytes) -> None:
        amount = self.batches[self.final].state.money.balance(account)
        assert self.frozen, "P17 an exit from a bridge that runs"
        assert account not in self.paid["exit"], "P3 one account left twice"
        self.paid["exit"][account] = amount
        self.escrow -= amount
        self._pay(account, amount)
        self.seen["exit from the frozen bridge"] += 1

    def _refund(self, _: bytes, __: int, index: int) -> None:
        step, _height, sender = self.inbox[index]
        assert self.frozen, "P17 a refund from a bridge that runs"
        assert index >= self.batches[self.final].inbox_to, "P3 a refund of what L2 took in"
        assert step[0] == 1, "P3 a refund of what was no deposit"
        assert index not in self.paid["refund"], "P3 refunded twice"
        self.paid["refund"][index] = step[4]
        self.escrow -= step[4]
        self._pay(sender, step[4])
        self.seen["deposit refunded"] += 1
