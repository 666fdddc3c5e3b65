"""What the audit says: for each promise whether it holds, the figures, and where it broke.

Responsible for collecting. Must not know how anything is found out.
"""

from dataclasses import dataclass, field
from typing import Any

COIN = 10**9
PROMISES = {
    "P1": "escrow = L2 balances + deposits not taken in + withdrawals not claimed",
    "P2": "L1 balances + stake + unbonding + bonds + escrow + burned = genesis + issuance",
    "P3": "a withdrawal is paid at most once, over claims, exits and refunds",
    "P4": "each L2 credit is one final L1 deposit, in order",
    "P5": "escrow covers the last final L2 state if every other batch were void",
}
HOLDS, BROKEN, UNKNOWN, IDLE = "holds", "BROKEN", "not judged", "nothing to hold"
MAX_FINDINGS = 20
"""Of one promise: what comes after the first follows from it, mostly."""


@dataclass(frozen=True)
class Finding:
    """A promise broken in L1 block ``height``; ``account`` is whose money, "" if it is nobody's in particular."""

    promise: str
    height: int
    text: str
    account: str = ""

    def told(self) -> str:
        whose = f", account {self.account}" if self.account else ""
        return f"L1 block {self.height}{whose}: {self.text}"


@dataclass
class Verdict:
    """The five promises at L1 block ``height``. ``figures`` are gwei and counts by name."""

    height: int = 0
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in PROMISES})
    missing: dict[str, str] = field(default_factory=dict)
    """What it lacked to judge a promise."""
    idle: dict[str, str] = field(default_factory=dict)
    """Why a promise has nothing to hold here."""

    def broken(self, promise: str, height: int, text: str, account: bytes | None = None) -> None:
        """Note a finding."""
        if sum(found.promise == promise for found in self.findings) < MAX_FINDINGS:
            whose = "" if account is None else "0x" + account.hex()
            self.findings.append(Finding(promise, height, text, whose))

    def of(self, promise: str) -> list[Finding]:
        return [found for found in self.findings if found.promise == promise]

    def status(self, promise: str) -> str:
        if self.of(promise):
            return BROKEN
        if promise in self.missing:
            return UNKNOWN
        return IDLE if promise in self.idle else HOLDS

    @property
    def exit_code(self) -> int:
        """0 all hold, 1 one is broken, 2 one could not be judged."""
        kinds = {self.status(promise) for promise in PROMISES}
        return 1 if BROKEN in kinds else 2 if UNKNOWN in kinds else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "l1_height": self.height,
            "exit_code": self.exit_code,
            "promises": {
                name: {
                    "says": says,
                    "status": self.status(name),
                    "holds": self.status(name) in (HOLDS, IDLE) if self.status(name) != UNKNOWN else None,
                    **self.figures[name],
                    "findings": [
                        {"l1_block": f.height, "account": f.account or None, "text": f.text}
                        for f in self.of(name)
                    ],
                    "why": self.missing.get(name) or self.idle.get(name),
                }
                for name, says in PROMISES.items()
            },
        }

    def lines(self) -> list[str]:
        """One line a promise, and one for each finding."""
        told = []
        for name, says in PROMISES.items():
            status = self.status(name)
            why = self.missing.get(name) if status == UNKNOWN else self.idle.get(name)
            told.append(f"{name}  {status:<15}  {why or self._sentence(name) or says}")
            told += [f"      {found.told()}" for found in self.of(name)]
        return told

    def _sentence(self, name: str) -> str:
        """The promise with its figures in it."""
        f = self.figures[name]
        if not f:
            return ""
        if name == "P1":
            return (
                f"escrow {_coins(f['escrow'])} = L2 balances {_coins(f['l2_balances'])} + deposits not taken in "
                f"{_coins(f['deposits_not_taken_in'])} + withdrawals not claimed {_coins(f['withdrawals_not_claimed'])}"
                f" (after batch {f['batch']}, L2 block {f['l2_block']})"
            )
        if name == "P2":
            return (
                f"balances {_coins(f['balances'])} + stake {_coins(f['stake'])} + unbonding {_coins(f['unbonding'])} + "
                f"bonds {_coins(f['bonds'])} + escrow {_coins(f['escrow'])} + burned {_coins(f['burned'])} = "
                f"genesis {_coins(f['genesis'])} + issuance {_coins(f['issuance'])}"
            )
        if name == "P3":
            times = f"{f['claims']} claims, {f['exits']} exits, {f['refunds']} refunds"
            return f"{times}, each once: {_coins(f['paid'])} in all"
        if name == "P4":
            return (
                f"{f['credits']} credits of {f['deposits']} deposits, in order: {_coins(f['credited'])} "
                f"in {f['batches']} batches that stand ({f['final_batches']} final)"
            )
        return f"escrow {_coins(f['escrow'])} >= {_coins(f['owed'])} owed after batch {f['batch']}, the last final one"


def _coins(gwei: int) -> str:
    whole, rest = divmod(abs(gwei), COIN)
    sign = "-" if gwei < 0 else ""
    return f"{sign}{whole:,}" + (f".{rest:09d}".rstrip("0") if rest else "")
