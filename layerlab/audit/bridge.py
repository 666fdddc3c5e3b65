"""The bridge's books, kept from the calls and events of final L1 blocks: escrow, bonds, inbox, batches, payments.

Responsible for what each call of the optimistic bridge may have moved, for running every posted batch, and for P1, P3,
P4 and P5. Shares no code with bridge or rollup. Must not know how a block became final, nor where it came from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from layerlab.audit.machine import Machine
from layerlab.audit.plain import MALFORMED, Plain, plain, tagged
from layerlab.audit.posted import read_posted
from layerlab.audit.verdict import Verdict

BRIDGE = tagged("contract", b"bridge")
_WITHDRAWAL = b"c\x09messengerwithdrawal/"


@dataclass
class Batch:
    """A batch and the truth about it: ``after`` is what L2 really is then, ``root`` its root. ``sound``: it and all
    below it claim their true roots."""

    index: int
    parent: int
    last_block: int
    inbox_to: int
    claimed: bytes
    root: bytes
    after: Machine
    sound: bool
    proposer: bytes
    bond: int
    status: str = "pending"


@dataclass
class Payment:
    """Money that a call of the bridge moved out of its account: to ``to``, or burned if that is None."""

    to: bytes | None
    amount: int


class Books:
    """The optimistic bridge. `call` takes each successful call in order, `check` looks after each block."""

    def __init__(self, genesis: Machine, verdict: Verdict) -> None:
        root = genesis.root()
        self.batches = {0: Batch(0, 0, 0, 0, root, root, genesis, True, bytes(32), 0, "final")}
        self.inbox: list[Plain] = []
        """Steps: ``[1, index, from, to, amount]`` or ``[2, index, wire]``."""
        self.directory: list[bytes] = []
        self.disputes: dict[int, tuple[int, bytes, int]] = {}
        """Open ones: (batch, challenger, bond)."""
        self.head = self.final = 0
        self.escrow = sum(genesis.balances().values())
        self.bonds = 0
        self.paid: dict[str, dict[object, int]] = {"claim": {}, "exit": {}, "refund": {}}
        self.lost_at = 0
        """The L1 block in which a false batch became final: from there on nobody can say what L2 is."""
        self._verdict, self._height = verdict, 0

    # --- the promises ---

    @property
    def sound_head(self) -> Batch:
        """The last batch of the line that is true with all below it: the derived head."""
        batch = self.batches[self.head]
        while not batch.sound and batch.index != batch.parent:
            batch = self.batches[batch.parent]
        return batch

    def owed(self, batch: Batch) -> tuple[int, int]:
        """What users have after ``batch``: (balances of those who have not left, withdrawals not claimed)."""
        balances = batch.after.balances()
        held = sum(amount for account, amount in balances.items() if account not in self.paid["exit"])
        entries = withdrawals(batch.after)
        return held, sum(entry[3] for index, entry in entries.items() if index not in self.paid["claim"])

    def waiting(self, batch: Batch) -> int:
        """Deposits that L2 has not taken in after ``batch`` and that were not given back."""
        later = [step for step in self.inbox[batch.inbox_to :] if step[0] == 1]
        return sum(step[4] for step in later if step[1] not in self.paid["refund"])

    def check(self, height: int) -> None:
        """P1 and P5 after L1 block ``height``."""
        head, last = self.sound_head, self.batches[self.final]
        figures = self._verdict.figures
        held, unclaimed = self.owed(head)
        waiting = self.waiting(head)
        figures["P1"] = {
            "escrow": self.escrow,
            "l2_balances": held,
            "deposits_not_taken_in": waiting,
            "withdrawals_not_claimed": unclaimed,
            "batch": head.index,
            "l2_block": head.last_block,
        }
        if self.escrow != held + unclaimed + waiting and not self.lost_at:
            text = f"escrow is {self.escrow} gwei, owed are {held} + {waiting} + {unclaimed}"
            self._verdict.broken("P1", height, text)
        owed = sum(self.owed(last))
        figures["P5"] = {"escrow": self.escrow, "owed": owed, "batch": last.index}
        if self.escrow < owed and not self.lost_at:
            self._verdict.broken(
                "P5", height, f"escrow is {self.escrow} gwei, the last final state holds {owed}"
            )
        taken = [step for step in self.inbox[: head.inbox_to] if step[0] == 1]
        figures["P4"] = {
            "deposits": sum(step[0] == 1 for step in self.inbox),
            "credits": len(taken),
            "credited": sum(step[4] for step in taken),
            "batches": self._line(self.head),
            "final_batches": self._line(self.final),
        }
        figures["P3"] = {
            "claims": len(self.paid["claim"]),
            "exits": len(self.paid["exit"]),
            "refunds": len(self.paid["refund"]),
            "paid": sum(sum(paid.values()) for paid in self.paid.values()),
        }

    def _line(self, index: int) -> int:
        length = 0
        while index:
            index, length = self.batches[index].parent, length + 1
        return length

    def _broken(self, promise: str, text: str, account: bytes | None = None) -> None:
        self._verdict.broken(promise, self._height, text, account)

    # --- calls ---

    def call(
        self,
        height: int,
        sender: bytes,
        args: Plain,
        value: int,
        events: Sequence[tuple[str, Plain]],
    ) -> list[Payment]:
        """A call that succeeded, its value in the bridge's account already; returns what left that account."""
        self._height = height
        payments: list[Payment] = []
        forfeited: set[int] = set()
        for name, fields in events:
            if name == "DepositInitiated":
                self._deposit(sender, args, value, fields)
            elif name == "TransactionForced":
                if fields[0] != len(self.inbox) or fields[2] != args[0]:
                    self._broken("P4", f"inbox message {fields[0]} is not the one that was forced")
                self.inbox.append([2, len(self.inbox), args[0]])
            elif name == "BatchSubmitted":
                self._submitted(sender, args, value)
            elif name == "BatchFinalized":
                payments.append(self._finalized(fields[0]))
            elif name == "BatchChallenged":
                self.disputes[fields[0]] = (fields[1], sender, value)
                self.bonds += value
            elif name == "DisputeResolved":
                payments += self._resolved(fields[0], fields[2], forfeited)
            elif name == "BatchReverted":
                payments += self._reverted(fields[0], forfeited)
            elif name == "WithdrawalClaimed":
                payments.append(self._claimed(*fields))
            elif name == "AccountExited":
                payments.append(self._exited(*fields))
            elif name == "DepositRefunded":
                payments.append(self._refunded(*fields))
        return payments

    def _deposit(self, sender: bytes, args: Plain, value: int, fields: Plain) -> None:
        index, _, to, amount = fields
        if (index, to, amount) != (len(self.inbox), args[0], value):
            text = f"deposit {index} of {amount} gwei is queued, {value} came as message {len(self.inbox)}"
            self._broken("P4", text, to)
        # What L2 will credit is what the event says: its step is what the batch commits to.
        self.inbox.append([1, len(self.inbox), sender, to, amount])
        self.escrow += value

    def _submitted(self, sender: bytes, args: Plain, value: int) -> None:
        parent, inbox_to, data, claimed = args
        base = self.batches[parent]
        self.bonds += value
        index = len(self.batches)
        if parent != self.head:
            self._broken("P4", f"batch {index} stands on batch {parent}, not on the head {self.head}")
        after, taken, last = base.after.copy(), base.inbox_to, base.last_block
        try:
            posted = read_posted(data, self.directory, after.chain_id)
            taken += posted.messages
            for step in posted.steps(last + 1, self.inbox[base.inbox_to : taken]):
                after.run(step)
            self.directory += posted.fresh
            last += len(posted.blocks)
            if inbox_to != taken or taken > len(self.inbox):
                text = f"batch {index} takes in messages up to {taken}, says {inbox_to}; there are {len(self.inbox)}"
                self._broken("P4", text)
        except (*MALFORMED, StopIteration) as error:
            self._broken("P4", f"batch {index} is not readable, and L1 took it: {error!r}")
        root = after.root()
        sound = base.sound and root == claimed
        self.batches[index] = Batch(index, parent, last, taken, claimed, root, after, sound, sender, value)
        self.head = index

    def _finalized(self, index: int) -> Payment:
        batch = self.batches[index]
        if batch.parent != self.final or batch.status != "pending":
            self._broken(
                "P5", f"batch {index} became final on batch {batch.parent}; {self.final} was the last final"
            )
        if not batch.sound and not self.lost_at:
            self.lost_at = self._height
            claimed, true = batch.claimed.hex()[:16], batch.root.hex()[:16]
            why = f"batch {index} became final with the root 0x{claimed}..., its own data give 0x{true}..."
            self._broken(
                "P4", why + ": L2 has what no deposit brought, or lacks what one did", batch.proposer
            )
            self._broken("P5", why + ": nobody can say what that state holds", batch.proposer)
        batch.status, self.final = "final", index
        self._forget(index)
        self.bonds -= batch.bond
        return Payment(batch.proposer, batch.bond)

    def _forget(self, index: int) -> None:
        """States below the last final batch are not asked for again, but by claims, whose records never change."""
        for batch in self.batches.values():
            if batch.index < index and batch.status != "pending":
                batch.after = self.batches[index].after

    def _resolved(self, dispute: int, winner: str, forfeited: set[int]) -> list[Payment]:
        index, challenger, bond = self.disputes.pop(dispute)
        batch = self.batches[index]
        self.bonds -= bond
        if winner == "":
            return [Payment(challenger, bond)]
        if winner == "defender":
            return [Payment(batch.proposer, bond // 2), Payment(None, bond - bond // 2)]
        self.bonds -= batch.bond
        forfeited.add(index)
        half = batch.bond // 2
        return [Payment(challenger, half), Payment(None, batch.bond - half), Payment(challenger, bond)]

    def _reverted(self, index: int, forfeited: set[int]) -> list[Payment]:
        batch = self.batches[index]
        batch.status, self.head = "void", batch.parent
        if index in forfeited:
            return []
        self.bonds -= batch.bond
        return [Payment(batch.proposer, batch.bond)]

    # --- payments ---

    def _pay(self, kind: str, what: object, to: bytes, amount: int, why: str) -> Payment:
        """Enter a payment out of escrow; ``why`` says what is wrong with it, if anything is."""
        if what in self.paid[kind]:
            why = why or "it was paid before"
        if why:
            self._broken("P3", f"{kind} of {amount} gwei: {why}", to)
        self.paid[kind][what] = self.paid[kind].get(what, 0) + amount
        self.escrow -= amount
        return Payment(to, amount)

    def _claimed(self, index: int, batch: int, to: bytes, amount: int) -> Payment:
        found = self.batches.get(batch)
        entry = None if found is None else withdrawals(found.after).get(index)
        why = ""
        if found is None or found.status != "final":
            why = f"batch {batch} is not final"
        elif entry is None:
            why = f"L2 has no withdrawal {index}"
        elif entry[2:4] != [to, amount]:
            why = f"withdrawal {index} is of {entry[3]} gwei to 0x{entry[2].hex()}"
        return self._pay("claim", index, to, amount, why)

    def _exited(self, account: bytes, amount: int) -> Payment:
        held = self.batches[self.final].after.account(account)[0]
        why = "" if held == amount else f"the last final state has {held} gwei for it"
        return self._pay("exit", account, account, amount, why)

    def _refunded(self, index: int, to: bytes, amount: int) -> Payment:
        step = self.inbox[index] if index < len(self.inbox) else [0]
        why = ""
        if index < self.batches[self.final].inbox_to:
            why = f"L2 took in message {index}"
        elif step[0] != 1 or (step[2], step[4]) != (to, amount):
            why = f"message {index} is no deposit of that"
        return self._pay("refund", index, to, amount, why)


def withdrawals(machine: Machine) -> dict[int, Plain]:
    """``[index, sender, recipient, amount]`` by index."""
    start = len(_WITHDRAWAL)
    return {
        int.from_bytes(key[start:], "big"): plain(value)
        for key, value in machine.state.items()
        if key.startswith(_WITHDRAWAL)
    }
