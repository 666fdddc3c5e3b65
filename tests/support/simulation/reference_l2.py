"""The rollup's state as docs/PROTOCOL.md says it: every step of every batch, run on dicts.

Responsible for the L2 state root after each step and for the books of withdrawals. Shares no code with rollup or
chainkit. Knows one contract, the messenger.
"""

from dataclasses import dataclass, field
from typing import Any

from simulation.reference_merkle import state_root, tagged
from simulation.reference_money import BYTE, CALL, EVENT, READ, WRITE, Money, packed, plain

MESSENGER = tagged("contract", b"messenger")
_STORAGE = b"c\x09messenger"


@dataclass
class L2State:
    """Money, and the messenger's storage: withdrawals as ``[index, sender, recipient, amount]``."""

    money: Money
    vault: bytes
    withdrawals: list[list[Any]] = field(default_factory=list)
    other: dict[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def of_genesis(cls, genesis: Any, state: dict[bytes, bytes]) -> "L2State":
        money = Money.of_state(state, genesis)
        known = money.state()
        return cls(money, genesis[10], [], {k: v for k, v in state.items() if k not in known})

    def copy(self) -> "L2State":
        return L2State(self.money.copy(), self.vault, list(self.withdrawals), self.other)

    def root(self) -> bytes:
        state = {**self.other, **self.money.state()}
        if self.withdrawals:
            state[_STORAGE + b"count"] = packed(len(self.withdrawals))
        for entry in self.withdrawals:
            state[_STORAGE + b"withdrawal/" + entry[0].to_bytes(8, "big")] = packed(entry)
        return state_root(state)

    # --- steps ---

    def run(self, step: Any) -> str:
        """Run ``[0, height, time]``, ``[1, index, from, to, amount]``, ``[2, index, wire]`` or ``[3, wire]``;
        returns why it did nothing, or the code of a failed call, or ""."""
        if step[0] == 0:
            self.money.begin(step[1], step[1], step[2], self.vault)
            return ""
        if step[0] == 1:
            self.money.accounts.setdefault(step[3], [0, 0])[0] += step[4]
            self.money.supply[1] += step[4]
            return ""
        return self._transaction(step[-1], forced=step[0] == 2)

    def _transaction(self, wire: bytes, *, forced: bool) -> str:
        money = self.money
        why = money.refusal(wire, forced=forced)
        if why:
            return why
        tx = plain(wire)
        sender, limit, action = tx[1], tx[3], tx[6]
        price = min(tx[4], money.block[4] + tx[5])
        money.accounts[sender][1] += 1
        if action[0] == 0:
            used, good = money.transfer_gas(wire, action[1])
        else:
            used, good = self._withdraw_gas(wire, action, sender)
        good, used = good and used <= limit, min(used, limit)
        if good and action[0] == 0:
            money.move(sender, action[1], action[2])
        elif good:
            money.move(sender, MESSENGER, action[4])
            money.burn(MESSENGER, action[4])
            self.withdrawals.append(self._record(action, sender))
        money.move(sender, self.vault, used * price)
        money.block[5] += used
        return "" if good else "failed"

    def _record(self, action: Any, sender: bytes) -> list[Any]:
        return [len(self.withdrawals), sender, plain(action[3])[0], action[4]]

    def _withdraw_gas(self, wire: bytes, action: Any, sender: bytes) -> tuple[int, bool]:
        assert action[1:3] == ["messenger", "withdraw"], f"the reference knows no {action[1:3]}"
        used = self.money.fees.intrinsic(len(wire)) + CALL
        if not action[4]:
            return used, False
        count = len(self.withdrawals)
        old = len(packed(count)) if count else 0
        record = len(packed(self._record(action, sender)))
        used += WRITE  # the value
        used += READ + BYTE * old
        used += WRITE + BYTE * (len(packed(count + 1)) + old)
        used += WRITE  # the burn
        used += WRITE + BYTE * record
        used += EVENT + BYTE * record
        return used, True
