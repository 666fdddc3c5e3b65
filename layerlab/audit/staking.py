"""Who may sign L1's blocks: the validator sets, from genesis and from what staking said in final blocks.

Responsible for the two-eras rule of docs/ARCHITECTURE.md and for what stakes are active or on their way out. Shares no
code with l1node. Must not know what is signed.
"""

from collections.abc import Sequence

from layerlab.audit.plain import Plain, plain

SEATS = 64
PLACES = 80
SET_DELAY = 2
_MIN_STAKE, _SLASH_PERCENT = 0, 2


class Stakes:
    """The sets by era, as the chain has them after the blocks that were taken in."""

    def __init__(self, genesis: Plain) -> None:
        self.era_slots: int = genesis[4]
        self.active: dict[bytes, int] = dict(genesis[8])
        self.unbonding: dict[bytes, int] = {}
        params = next((plain(params) for name, _, params, _ in genesis[9] if name == "staking"), None)
        self.min_stake: int = params[_MIN_STAKE] if params else 1
        self.slash_percent: int = params[_SLASH_PERCENT] if params else 100
        self.elects = params is not None
        """Without a staking contract the genesis set validates for ever."""
        self.jailed: set[bytes] = set()
        self.candidates: dict[bytes, int] = dict(self.active)
        self.era, self.last = 0, SET_DELAY
        self.sets: dict[int, dict[bytes, int]] = {era: dict(self.active) for era in range(SET_DELAY + 1)}

    def set_of(self, slot: int) -> dict[bytes, int]:
        """The validators of a slot with their stakes, for a block that extends what was taken in."""
        return self.sets[min(slot // self.era_slots, self.last)]

    def begin(self, slot: int) -> None:
        """The next block is of ``slot``: on the first of an era the set two eras ahead is fixed."""
        era = slot // self.era_slots
        if era <= self.era or not self.elects:
            return
        old = self.sets[self.last]
        for missing in range(self.last + 1, era + 1):  # after a halt the last set validated up to this block
            self.sets[missing] = old
        ranked = sorted(self.candidates.items(), key=lambda entry: (-entry[1], entry[0]))[:SEATS]
        new = dict(sorted(ranked)) or old
        for ahead in range(max(self.last, era) + 1, era + SET_DELAY + 1):
            self.sets[ahead] = new
        self.era, self.last = era, era + SET_DELAY
        for gone in [known for known in self.sets if known < era - 1]:
            del self.sets[gone]

    def events(self, happened: Sequence[tuple[str, Plain]]) -> None:
        """What the staking contract said in one transaction."""
        for name, fields in happened:
            who = fields[0]
            if name == "ValidatorStaked":
                self.active[who] = fields[2]
            elif name == "ValidatorUnstaked":
                self.active[who] = fields[2]
                self.unbonding[who] = self.unbonding.get(who, 0) + fields[1]
            elif name == "StakeWithdrawn":
                self.unbonding[who] -= fields[1]
            elif name == "ValidatorSlashed":
                self._slashed(who, fields[3])
            elif name == "ValidatorJailed":
                self.jailed.add(who)
            elif name == "ValidatorUnjailed":
                self.jailed.discard(who)
            else:
                continue
            self._place(who)

    def _slashed(self, who: bytes, amount: int) -> None:
        taken = -(-self.active.get(who, 0) * self.slash_percent // 100)
        self.active[who] = self.active.get(who, 0) - taken
        self.unbonding[who] = self.unbonding.get(who, 0) - (amount - taken)

    def _place(self, who: bytes) -> None:
        stake = self.active.get(who, 0)
        self.candidates.pop(who, None)
        if who in self.jailed or stake < self.min_stake:
            return
        if len(self.candidates) >= PLACES:
            weakest = min(self.candidates.items(), key=lambda entry: (entry[1], entry[0]))
            if weakest[1] >= stake:
                return
            del self.candidates[weakest[0]]
        self.candidates[who] = stake
