"""Bringing evidence to the chain: what the engine found becomes a `staking.report` transaction by itself.

Responsible for which offences are known, which still have to be reported, and for the transaction that does
it. Must not know how evidence is found, nor how a transaction gets into a block.

Every honest node reports what it found, for the culprit may lead or censor; the contract punishes an offence
once, whoever comes second has paid a fee.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chainkit.backend import Head
from chainkit.codec import Address, CodecError, encode
from chainkit.execution import Rules
from chainkit.fees import call_gas, least_to_replace, suggest_fees
from chainkit.keys import KeyPair
from chainkit.problems import Problem
from chainkit.state import State, storage_key
from chainkit.submission import simulate
from chainkit.transaction import Body, Call, SignedTransaction
from l1node.disk import MAX_CASES, Case
from l1node.evidence import Evidence, check_evidence
from l1node.stakes import nullifier_key
from l1node.staking import ReportArgs, Staking

RETRY_SLOTS = 16
"""Slots after which a report that is in no block is made anew."""

_HOPELESS = frozenset({"already_punished", "nothing_at_stake", "evidence_too_old"})


@dataclass
class _Open:
    """A case and what follows from it. ``outcome``: "found", "reported", "slashed" or a refusal's code."""

    case: Case
    culprit: Address
    kind: str
    slot: int
    nullifier: bytes  # state key
    outcome: str = "found"
    sent_slot: int = -RETRY_SLOTS
    closed: bool = False
    sent: Body | None = None


@dataclass(frozen=True)
class CaseView:
    """An offence as ``GET /evidence`` shows it."""

    evidence: Evidence
    culprit: Address
    kind: str
    slot: int
    outcome: str
    report: bytes


class Reporter:
    """The offences that a node knows. ``save`` makes them durable. ``key`` None: it only watches."""

    def __init__(
        self,
        rules: Rules,
        key: KeyPair | None,
        cases: Sequence[Case],
        save: Callable[[Sequence[Case]], None],
    ) -> None:
        self._rules = rules
        self._key = key
        self._save = save
        self._contract = next((n for n, c in sorted(rules.contracts.items()) if isinstance(c, Staking)), None)
        self._cases: list[_Open] = []
        for case in cases:
            self._open(case)

    def _open(self, case: Case) -> bool:
        culprit, kind, slot = check_evidence(case.evidence, self._rules.chain_id)
        if any((c.culprit, c.kind, c.slot) == (culprit, kind, slot) for c in self._cases):
            return False
        nullifier = storage_key(self._contract or "", nullifier_key(culprit, kind, slot))
        opened = _Open(case, culprit, kind, slot, nullifier, "reported" if case.report else "found")
        # Nobody reports itself; a chain without staking punishes nobody.
        opened.closed = self._key is None or culprit == self._key.address or self._contract is None
        self._cases = [*self._cases, opened][-MAX_CASES:]
        return True

    def add(self, evidence: Evidence) -> bool:
        """Take in what the engine found; whether it is news."""
        news = self._open(Case(evidence))
        if news:
            self._save([opened.case for opened in self._cases])
        return news

    @property
    def cases(self) -> list[CaseView]:
        """The offences known, oldest first."""
        return [
            CaseView(c.case.evidence, c.culprit, c.kind, c.slot, c.outcome, c.case.report)
            for c in self._cases
        ]

    @property
    def waiting(self) -> bool:
        """Whether an offence is known that may still have to be reported."""
        return any(not case.closed for case in self._cases)

    def due(self, head: Head, final: Head, slot: int, pending_nonce: int) -> SignedTransaction | None:
        """The report to submit now, if there is one; at most one at a time."""
        for opened in self._cases:
            if opened.closed:
                continue
            if final.tree.get(opened.nullifier):
                opened.outcome, opened.closed = "slashed", True
            elif not head.tree.get(opened.nullifier) and slot - opened.sent_slot >= RETRY_SLOTS:
                tx = self._report(opened, head, pending_nonce)
                if tx is not None:
                    opened.sent_slot, opened.sent = slot, tx.body
                    opened.case, opened.outcome = Case(opened.case.evidence, tx.id), "reported"
                    self._save([case.case for case in self._cases])
                    return tx
        return None

    def _report(self, opened: _Open, head: Head, pending_nonce: int) -> SignedTransaction | None:
        """A transaction that would punish, were it first in the next block; None if there is none now."""
        assert self._key is not None
        assert self._contract is not None
        nonce, last = State(head.tree).account(self._key.address).nonce, opened.sent
        if nonce != pending_nonce and (last is None or last.nonce != nonce):
            return None  # another transaction of ours is under way; what follows it cannot be tried yet
        tx = self._sign(opened.case.evidence, head, nonce, last if nonce != pending_nonce else None)
        try:
            receipt = simulate(self._rules, head, tx)
        except (Problem, CodecError) as refusal:
            opened.outcome = getattr(refusal, "code", "refused")  # no funds for the fee, say: try again later
            return None
        if not receipt.success:
            opened.outcome, opened.closed = receipt.code, receipt.code in _HOPELESS
            return None
        return tx

    def _sign(self, evidence: Evidence, head: Head, nonce: int, last: Body | None) -> SignedTransaction:
        """``last`` is what it replaces in the pools, for which it must offer a tenth more."""
        assert self._key is not None
        args = encode(ReportArgs(evidence))
        fees = suggest_fees(self._rules, head.tree)
        gas_limit = call_gas(self._rules.fees.gas_per_byte, len(args))
        action = Call(self._contract or "", "report", args, 0)
        address, max_fee, tip = self._key.address, fees.max_fee_per_gas, fees.tip_per_gas
        if last is not None:
            tip = max(tip, least_to_replace(last.tip_per_gas))
            max_fee = max(max_fee, tip, least_to_replace(last.max_fee_per_gas))
        body = Body(self._rules.chain_id, address, nonce, gas_limit, max_fee, tip, action)
        return SignedTransaction.sign(body, self._key)
