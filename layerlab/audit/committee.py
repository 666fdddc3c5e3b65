"""The bridge where m of n operators move the escrow: what L1 alone can say of it.

Responsible for its escrow and for P3, and for saying why P1, P4 and P5 cannot be judged: what the side chain owes
stands in no L1 data. Must not know how a block became final.
"""

from collections.abc import Sequence

from layerlab.audit.bridge import Payment
from layerlab.audit.plain import Plain
from layerlab.audit.verdict import Verdict

_SIDE = "the side chain's {} are its own validators' word: none of it is on L1, so no L1 data can show it"


class CommitteeBooks:
    """Deposits in, attested withdrawals out."""

    bonds = 0

    def __init__(self, backing: int, verdict: Verdict) -> None:
        self.escrow = backing
        self.paid: dict[int, int] = {}
        self._deposits = 0
        self._verdict = verdict
        verdict.missing |= {
            "P1": _SIDE.format("balances"),
            "P4": _SIDE.format("credits"),
            "P5": _SIDE.format("states"),
        }

    def call(
        self, height: int, sender: bytes, args: Plain, value: int, events: Sequence[tuple[str, Plain]]
    ) -> list[Payment]:
        """A call that succeeded; returns what left the bridge's account."""
        payments = []
        for name, fields in events:
            if name == "DepositInitiated":
                index, _, to, amount = fields
                if (index, amount) != (self._deposits, value):
                    text = f"deposit {index} of {amount} gwei is recorded, {value} came as number {self._deposits}"
                    self._verdict.broken("P2", height, text, to)
                self._deposits += 1
                self.escrow += value
            elif name == "WithdrawalPaid":
                index, to, amount = fields
                if index in self.paid:
                    text = f"withdrawal {index} of {amount} gwei: it was paid before"
                    self._verdict.broken("P3", height, text, to)
                self.paid[index] = self.paid.get(index, 0) + amount
                self.escrow -= amount
                payments.append(Payment(to, amount))
        return payments

    def check(self, height: int) -> None:
        """The figures after L1 block ``height``."""
        figures = {"claims": len(self.paid), "exits": 0, "refunds": 0, "paid": sum(self.paid.values())}
        self._verdict.figures["P3"] = figures
