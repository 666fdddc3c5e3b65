"""The staking contract: who may validate, with what at stake, and what a proven offence costs.

Responsible for stakes, their unbonding, slashing and jailing, and for writing each era's validator set.
Must not know how evidence is found, who leads a slot, or how blocks become final.

The two-eras rule: the set of era *e* + 2 is fixed by the first block of era *e*, before its transactions. So
a stake that comes, goes or is slashed changes the set three eras later at the latest; a jailed validator
leaves the set when these rules say, not at once, lest one branch's transactions change who judges it.

A *turn* is an era in which the chain made a block. Unbonding and the age of evidence are counted in turns:
while no block is made nobody can report, and after a halt the last set validates once more, so a halt must
not let a stake mature (tests/threats/README.md, "Cosmos 2019"; promise P10). Without a halt, turns and eras are
the same.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from chainkit import gas
from chainkit.block import MAX_VALIDATORS, Validator, ValidatorSet, era_of
from chainkit.codec import U53, Address, Record, to_json
from chainkit.contract import Context, Contract, NoArgs, Revert, Storage, method
from l1node.evidence import Evidence, EvidenceError, check_evidence
from l1node.stakes import (
    CANDIDATES_KEY,
    ERAS_KEY,
    KNOWN_KEY,
    MAX_KNOWN,
    Candidates,
    Eras,
    Known,
    Slash,
    Stake,
    Unbonding,
    admit,
    elect,
    load_eras,
    load_stake,
    nullifier_key,
    queue,
    slash,
    stake_key,
)

if TYPE_CHECKING:
    from chainkit.genesis import Genesis

MAX_UNBONDING_ERAS = 64
MAX_JAIL_ERAS = 1_000_000
SET_DELAY = 2
"""Eras between the block that fixes a set and the era that it validates."""


class StakingParams(Record, frozen=True):
    """Parameters, fixed at genesis. ``min_stake`` in gwei, the rest in eras or per cent.

    ``unbonding_eras`` is how long a stake stays slashable after it left the set, and so how old evidence may
    be. ``reporter_percent`` is the reporter's share of what is slashed; the rest is burned.
    """

    min_stake: U53 = 1_000_000_000
    unbonding_eras: U53 = 4
    slash_percent: U53 = 100
    reporter_percent: U53 = 5
    jail_eras: U53 = 8


# --- arguments --------------------------------------------------------------------------------------------


class UnstakeArgs(Record, frozen=True):
    """How much to take out of the active stake, in gwei."""

    amount: U53


class ReportArgs(Record, frozen=True):
    """Two signed messages that contradict each other."""

    evidence: Evidence


# --- events -----------------------------------------------------------------------------------------------


class ValidatorStaked(Record, frozen=True):
    """``amount`` gwei were added; ``stake`` is what is now active."""

    validator: Address
    amount: U53
    stake: U53


class ValidatorUnstaked(Record, frozen=True):
    """``amount`` gwei began to unbond; payable from ``release_era`` on, later if the chain halts."""

    validator: Address
    amount: U53
    stake: U53
    release_era: U53


class StakeWithdrawn(Record, frozen=True):
    """Unbonded gwei were paid out."""

    validator: Address
    amount: U53


class ValidatorSlashed(Record, frozen=True):
    """``amount`` gwei were taken for an offence in ``slot``; ``reward`` of it went to the reporter."""

    validator: Address
    kind: str
    slot: U53
    amount: U53
    reporter: Address
    reward: U53


class ValidatorJailed(Record, frozen=True):
    """The validator may not come back before ``until_era``."""

    validator: Address
    until_era: U53


class ValidatorUnjailed(Record, frozen=True):
    """The validator may validate again."""

    validator: Address


class ValidatorSetChanged(Record, frozen=True):
    """The set of ``era`` was fixed and differs from the one before."""

    era: U53
    validators: list[Validator]


class ValidatorSetKept(Record, frozen=True):
    """Nobody is eligible for ``era``; an empty set would halt the chain, so the last one stays."""

    era: U53


def check_params(params: StakingParams, validators: Sequence[Validator]) -> None:
    """Raises `ValueError` naming the parameter or the genesis value that cannot be."""
    ranges = {
        "min_stake": (1, None),
        "unbonding_eras": (SET_DELAY + 1, MAX_UNBONDING_ERAS),
        "slash_percent": (1, 100),
        "reporter_percent": (0, 50),  # more, and an offender that reports itself loses too little
        "jail_eras": (1, MAX_JAIL_ERAS),
    }
    for name, (low, high) in ranges.items():
        value = getattr(params, name)
        if value < low or (high is not None and value > high):
            bound = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ValueError(f"params.{name} must be {bound}, not {value}")
    if not 1 <= len(validators) <= MAX_VALIDATORS:
        raise ValueError(f"validators must be 1 to {MAX_VALIDATORS}, not {len(validators)}")
    for validator in validators:
        if validator.stake < params.min_stake:
            address = validator.address.hex()
            raise ValueError(f"validators: the stake of 0x{address} is under params.min_stake")


class Staking(Contract):
    """Stakes and validator sets. Its balance is the sum of all that it holds for its validators."""

    params_type = StakingParams
    events = (
        ValidatorStaked,
        ValidatorUnstaked,
        StakeWithdrawn,
        ValidatorSlashed,
        ValidatorJailed,
        ValidatorUnjailed,
        ValidatorSetChanged,
        ValidatorSetKept,
    )

    @property
    def settings(self) -> StakingParams:
        """The parameters, typed."""
        return cast(StakingParams, self.params)

    # --- the chain's own calls ---

    def genesis(self, ctx: Context, genesis: "Genesis") -> None:
        """Take in the genesis stakes and write the first sets. Raises `ValueError` naming what is wrong."""
        check_params(self.settings, genesis.validators)
        ctx.credit_from_genesis(sum(v.stake for v in genesis.validators))
        for validator in genesis.validators:
            ctx.storage.store(stake_key(validator.address), Stake(validator.stake))
        ctx.storage.store(CANDIDATES_KEY, Candidates(tuple(genesis.validators)))
        ctx.storage.store(KNOWN_KEY, Known(tuple(v.address for v in genesis.validators)))
        ctx.storage.store(ERAS_KEY, Eras(genesis.era_slots, 0, 0, (0,)))
        for era in range(SET_DELAY + 1):
            ctx.write_system(f"validators/{era}", ValidatorSet(genesis.validators))
        ctx.write_system("validators/last", SET_DELAY)

    def begin_block(self, ctx: Context) -> None:
        """On the first block of an era: fix the set two eras ahead, and forget those of long ago."""
        eras = load_eras(ctx.storage)
        era = era_of(ctx.slot, eras.era_slots)
        if era <= eras.era:
            return
        keep = self.settings.unbonding_eras
        last = eras.era + SET_DELAY
        old = ctx.read_system(f"validators/{last}", ValidatorSet) or ValidatorSet([])
        for forgotten in range(max(0, eras.era - keep), min(last + 1, era - keep)):
            ctx.delete_system(f"validators/{forgotten}")
        # After a halt the last set validated up to this very block (chainkit.chain.Chain.validators).
        for missing in range(max(last + 1, era - keep), era + 1):
            ctx.write_system(f"validators/{missing}", old)
        self._write_sets(ctx, max(last, era) + 1, era + SET_DELAY, old)
        ctx.write_system("validators/last", era + SET_DELAY)
        ctx.storage.store(
            ERAS_KEY, Eras(eras.era_slots, era, eras.turn + 1, (*eras.starts, era)[-(keep + 1) :])
        )

    def _write_sets(self, ctx: Context, first: int, last: int, old: ValidatorSet) -> None:
        candidates = ctx.storage.load(CANDIDATES_KEY, Candidates) or Candidates()
        new = ValidatorSet(elect(candidates.stakes))
        if not new.validators:
            ctx.emit(ValidatorSetKept(first))
            new = old
        elif new != old:
            ctx.emit(ValidatorSetChanged(first, new.validators))
        for era in range(first, last + 1):
            ctx.write_system(f"validators/{era}", new)

    # --- calls ---

    @method(payable=True)
    def stake(self, ctx: Context, args: NoArgs) -> None:
        """Add the value to the sender's stake. Refused: ``zero_amount``, ``jailed``, ``not_an_account``."""
        if not ctx.value:
            raise Revert("zero_amount", "stake takes a positive value")
        if ctx.sender != ctx.origin:
            raise Revert("not_an_account", "a contract cannot sign votes, so it cannot stake")
        old = load_stake(ctx.storage, ctx.sender)
        if old.jailed_until:
            raise Revert("jailed", f"jailed until era {old.jailed_until}; call unjail first")
        new = Stake(old.active + ctx.value, 0, old.unbonding)
        self._store(ctx, ctx.sender, new)
        ctx.emit(ValidatorStaked(ctx.sender, ctx.value, new.active))

    @method(UnstakeArgs)
    def unstake(self, ctx: Context, args: UnstakeArgs) -> None:
        """Begin to unbond. Refused: ``zero_amount``, ``insufficient_stake``."""
        old = load_stake(ctx.storage, ctx.sender)
        if not args.amount:
            raise Revert("zero_amount", "nothing to unstake")
        if args.amount > old.active:
            raise Revert("insufficient_stake", f"the active stake is {old.active} gwei")
        eras = load_eras(ctx.storage)
        # The last set that may hold this stake is SET_DELAY turns ahead; it stays slashable after that one.
        delay = SET_DELAY + self.settings.unbonding_eras + 1
        entries = queue(old.unbonding, eras.turn, Unbonding(eras.turn + delay, args.amount))
        new = Stake(old.active - args.amount, old.jailed_until, entries)
        self._store(ctx, ctx.sender, new)
        ctx.emit(ValidatorUnstaked(ctx.sender, args.amount, new.active, eras.era + delay))

    @method()
    def withdraw(self, ctx: Context, args: NoArgs) -> None:
        """Pay what has unbonded. Refused: ``nothing_to_withdraw``."""
        old = load_stake(ctx.storage, ctx.sender)
        turn = load_eras(ctx.storage).turn
        amount = sum(entry.amount for entry in old.unbonding if entry.release <= turn)
        if not amount:
            raise Revert("nothing_to_withdraw", "no stake of yours has unbonded")
        held = tuple(entry for entry in old.unbonding if entry.release > turn)
        ctx.storage.store(stake_key(ctx.sender), Stake(old.active, old.jailed_until, held))
        ctx.transfer(ctx.sender, amount)
        ctx.emit(StakeWithdrawn(ctx.sender, amount))

    @method()
    def unjail(self, ctx: Context, args: NoArgs) -> None:
        """Come back after the jail term. Refused: ``not_jailed``, ``still_jailed``."""
        old = load_stake(ctx.storage, ctx.sender)
        if not old.jailed_until:
            raise Revert("not_jailed", "you are not jailed")
        if load_eras(ctx.storage).era < old.jailed_until:
            raise Revert("still_jailed", f"jailed until era {old.jailed_until}")
        self._store(ctx, ctx.sender, Stake(old.active, 0, old.unbonding))
        ctx.emit(ValidatorUnjailed(ctx.sender))

    @method(ReportArgs)
    def report(self, ctx: Context, args: ReportArgs) -> None:
        """Prove an offence: slash, jail, pay the reporter, burn the rest.

        Refused: ``bad_evidence``, ``evidence_too_old``, ``already_punished``, ``nothing_at_stake``.
        """
        ctx.charge(2 * gas.SIGNATURE)
        try:
            culprit, kind, slot = check_evidence(args.evidence, ctx.chain_id)
        except EvidenceError as error:
            raise Revert("bad_evidence", str(error)) from None
        eras = load_eras(ctx.storage)
        if era_of(slot, eras.era_slots) < eras.starts[0]:
            raise Revert("evidence_too_old", f"offences before era {eras.starts[0]} are no longer punished")
        nullifier = nullifier_key(culprit, kind, slot)
        if ctx.storage.get(nullifier):
            raise Revert("already_punished", "this offence was reported before")
        punished = slash(load_stake(ctx.storage, culprit), self.settings.slash_percent)
        if not punished.amount:
            raise Revert("nothing_at_stake", "the culprit has no stake here")
        ctx.storage.set(nullifier, b"\x01")
        self._punish(ctx, culprit, punished, eras.era, kind, slot)

    def _punish(
        self, ctx: Context, culprit: Address, punished: Slash, era: int, kind: str, slot: int
    ) -> None:
        until = max(era + self.settings.jail_eras, punished.remaining.jailed_until)
        remaining = Stake(punished.remaining.active, until, punished.remaining.unbonding)
        self._store(ctx, culprit, remaining)
        reward = punished.amount * self.settings.reporter_percent // 100
        if reward:
            ctx.transfer(ctx.sender, reward)
        ctx.burn(punished.amount - reward)
        ctx.emit(ValidatorSlashed(culprit, kind, slot, punished.amount, ctx.sender, reward))
        ctx.emit(ValidatorJailed(culprit, until))

    # --- bookkeeping ---

    def _store(self, ctx: Context, address: Address, stake: Stake) -> None:
        """Write a stake and let it take, keep or lose its place among the candidates."""
        ctx.storage.store(stake_key(address), stake)
        old = (ctx.storage.load(CANDIDATES_KEY, Candidates) or Candidates()).stakes
        others = tuple(v for v in old if v.address != address)
        eligible = stake.active >= self.settings.min_stake and not stake.jailed_until
        new = admit(others, Validator(address, stake.active)) if eligible else others
        if new != old:
            ctx.storage.store(CANDIDATES_KEY, Candidates(new))
        if len(old) == len(others) and any(v.address == address for v in new):
            self._remember(ctx, address, {v.address for v in new})

    def _remember(self, ctx: Context, address: Address, candidates: set[Address]) -> None:
        known = (ctx.storage.load(KNOWN_KEY, Known) or Known()).addresses
        if address in known:
            return
        if len(known) >= MAX_KNOWN:
            forgotten = next(a for a in known if a not in candidates)
            known = tuple(a for a in known if a != forgotten)
        ctx.storage.store(KNOWN_KEY, Known((*known, address)))

    def public_state(self, storage: Storage) -> dict[str, Any]:
        """Parameters, the current era and every remembered validator; amounts in gwei."""
        eras = load_eras(storage)
        return {
            "parameters": to_json(self.settings),
            "era": eras.era,
            "evidence_from_era": eras.starts[0],
            "validators": validator_view(storage),
        }


def validator_view(storage: Storage) -> list[dict[str, Any]]:
    """Every remembered validator for people and programs, in the order in which they first came.

    ``status``: "active" (elected when the next set is fixed), "waiting" (too little stake for a seat),
    "jailed", "unbonding" (stake on its way out only) or "left".
    """
    eras = load_eras(storage)
    candidates = storage.load(CANDIDATES_KEY, Candidates) or Candidates()
    seats = {v.address for v in elect(candidates.stakes)}
    view = []
    for address in (storage.load(KNOWN_KEY, Known) or Known()).addresses:
        stake = load_stake(storage, address)
        view.append(
            {
                "address": to_json(address),
                "stake": stake.active,
                "status": _status(stake, address in seats),
                "jailed_until": stake.jailed_until or None,
                "unbonding": [
                    {"amount": e.amount, "release_era": eras.era + max(0, e.release - eras.turn)}
                    for e in stake.unbonding
                ],
            }
        )
    return view


def _status(stake: Stake, seated: bool) -> str:
    if stake.jailed_until:
        return "jailed"
    if seated:
        return "active"
    if stake.active:
        return "waiting"
    return "unbonding" if stake.unbonding else "left"
