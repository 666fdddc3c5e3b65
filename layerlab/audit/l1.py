"""L1 as its certified blocks and receipts tell it: what is final, who has what, and what each contract was told.

Responsible for links, quorums, finality (docs/PROTOCOL.md section 6), for the accounts and the supply of L1, and for
P2. Shares no code with chainkit or l1node. Must not know where blocks come from, nor what a batch means.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Protocol

from layerlab.audit.applications import host_contracts
from layerlab.audit.bridge import BRIDGE, Books, Payment
from layerlab.audit.committee import CommitteeBooks
from layerlab.audit.machine import Machine
from layerlab.audit.plain import (
    MALFORMED,
    Plain,
    list_root,
    packed,
    plain,
    read_transaction,
    signed_by,
    state_root,
    tagged,
)
from layerlab.audit.staking import Stakes
from layerlab.audit.verdict import Verdict

STAKING = tagged("contract", b"staking")
OPTIMISTIC, COMMITTEE, STAKES = (
    "bridge.contract:Bridge",
    "bridge.committee:CommitteeBridge",
    "l1node.staking:Staking",
)
_TOTALS = b"c\x06bridgetotals"


class LieError(Exception):
    """Whoever showed this is lying, or broken: it is not what L1's validators signed."""


class _Bridge(Protocol):
    escrow: int
    bonds: int

    def call(
        self, height: int, sender: bytes, args: Plain, value: int, events: Sequence[tuple[str, Plain]]
    ) -> list[Payment]: ...

    def check(self, height: int) -> None: ...


class L1:
    """The chain from its genesis. `add` every certified block in order, then `judge_final` those with receipts."""

    def __init__(self, genesis: bytes, verdict: Verdict) -> None:
        """Raises `LieError` for a genesis that is none, `UnknownContractError` for one with a bridge or an L2 contract
        that the audit does not know."""
        try:
            self.genesis: Plain = plain(genesis)
            self._start(verdict)
        except MALFORMED as error:
            raise LieError(f"that is no L1 genesis: {error!r}") from None
        self.hash = tagged("genesis", genesis)
        self.height = self.slot = 0
        self._chain: list[tuple[int, Plain, Plain]] = []
        """(slot, header, transactions) of certified blocks that are not judged yet."""
        self._slots: deque[int] = deque(maxlen=3)
        """Those of the last blocks."""
        self.final = 0
        """Height of the last final block."""
        self.receipts: deque[Sequence[bytes]] = deque()
        """Those of the next blocks to be judged, as far as they were shown."""
        self.judged = 0
        self.root = b""
        """The state root that the last judged block states."""

    def _start(self, verdict: Verdict) -> None:
        chain_id, _, _, _, _, _, _, accounts, validators, contracts, _ = self.genesis
        self.chain_id: int = chain_id
        self.verdict = verdict
        self.stakes = Stakes(self.genesis)
        self.balances: dict[bytes, int] = {address: balance for address, balance, _ in accounts}
        self.contracts = {name: code for name, code, _, _ in contracts}
        for name, _, _, balance in contracts:
            self.balances[tagged("contract", name.encode())] = balance
        if STAKES in self.contracts.values():
            self.balances[STAKING] += sum(stake for _, stake in validators)
        self.issued = sum(self.balances.values())
        self.burned = 0
        self.unmodelled: set[str] = set()
        """Contracts that were called and whose payments only they know."""
        self.bridge = self._bridge(contracts)

    def _bridge(self, contracts: Plain) -> _Bridge | None:
        spec = next((c for c in contracts if c[0] == "bridge"), None)
        if spec is None:
            why = "this chain has no bridge: all that users have is on it"
            self.verdict.idle |= dict.fromkeys(("P1", "P3", "P4", "P5"), why)
            return None
        if spec[1] == COMMITTEE:
            return CommitteeBooks(plain(spec[2])[4], self.verdict)
        if spec[1] != OPTIMISTIC:
            raise ValueError(f"a bridge of a kind that the audit does not know: {spec[1]}")
        l2 = plain(spec[2])[0]
        books = Books(Machine.of_genesis(l2, host_contracts(l2[9])), self.verdict)
        books.check(0)
        return books

    # --- what is final ---

    def add(self, block: Plain, certificate: Plain) -> None:
        """The next certified block, ``[header, [wire, ...]]``. Raises `LieError`."""
        try:
            self._add(block, certificate)
        except MALFORMED as error:
            raise LieError(f"block {self.height + 1} is malformed: {error!r}") from None

    def _add(self, block: Plain, certificate: Plain) -> None:
        header, wires = block
        chain_id, height, slot, time, parent, _, _, tx_root, *_ = header
        if (chain_id, height, parent) != (self.chain_id, self.height + 1, self.hash):
            raise LieError(f"block {self.height + 1} does not follow the one before it")
        if slot <= self.slot or time != self.genesis[2] + slot * self.genesis[3]:
            raise LieError(f"block {height} is not of its slot")
        if list_root(wires) != tx_root:
            raise LieError(f"the transactions of block {height} are not those of its header")
        block_hash = tagged("header", packed(header))
        self._check_quorum(header, block_hash, certificate)
        self.hash, self.height, self.slot = block_hash, height, slot
        self._chain.append((slot, header, wires))
        self._slots.append(slot)
        if list(self._slots) == [slot - 2, slot - 1, slot]:
            self.final = height - 1

    def _check_quorum(self, header: Plain, block_hash: bytes, certificate: Plain) -> None:
        height, slot = header[1], header[2]
        if certificate[:3] != [slot, height, block_hash]:
            raise LieError(f"the certificate of block {height} is another block's")
        stakes, total, signed = self._set_of(slot), 0, 0
        message = tagged("vote", packed([self.chain_id, slot, height, block_hash]))
        votes = dict(certificate[3])
        for voter, stake in stakes.items():
            total += stake
            if voter in votes and signed_by(voter, message, votes[voter]):
                signed += stake
        if not signed or 3 * signed < 2 * total:
            raise LieError(
                f"block {height} has the votes of {signed} of {total} gwei at stake: no two thirds"
            )

    def _set_of(self, slot: int) -> dict[bytes, int]:
        if slot // self.stakes.era_slots <= self.stakes.last:
            return self.stakes.set_of(slot)
        ahead = deepcopy(self.stakes)  # after a halt: the blocks in between fix sets before they are final
        for earlier, _, _ in self._chain:
            ahead.begin(earlier)
        return ahead.set_of(slot)

    # --- final blocks ---

    def due(self) -> int:
        """How many final blocks wait for their receipts."""
        return self.final - self.judged

    def judge_final(self, receipts: Sequence[bytes]) -> None:
        """The receipts of the next final block. Raises `LieError`."""
        _, header, wires = self._chain[0]
        try:
            if list_root(receipts) != header[8]:
                raise LieError(f"the receipts of block {header[1]} are not those of its header")
            self._judge(header, wires, [plain(receipt) for receipt in receipts])
        except MALFORMED as error:
            raise LieError(f"the receipts of block {header[1]} are malformed: {error!r}") from None
        del self._chain[0]
        self.judged, self.root = header[1], header[6]
        self.verdict.height = self.judged

    def _judge(self, header: Plain, wires: Plain, receipts: Sequence[Plain]) -> None:
        height, slot, proposer, base = header[1], header[2], header[5], header[9]
        self.stakes.begin(slot)
        bridged = False
        for wire, receipt in zip(wires, receipts, strict=True):
            tx = read_transaction(wire)
            if tx is None:
                raise LieError(f"block {height} has a transaction that is none")
            bridged = bridged or (receipt[1] and tx[6][0] == 1 and tx[6][1] == "bridge")
            self._transaction(tx, receipt, height, proposer, base)
        if bridged and self.bridge is not None:
            self.bridge.check(height)

    def _transaction(self, tx: Plain, receipt: Plain, height: int, proposer: bytes, base: int) -> None:
        _, sender, _, _, most, tip, action, _ = tx
        _, success, _, _, gas, fee, events = receipt
        price = min(most, base + tip)
        if fee != gas * price:
            self.verdict.broken("P2", height, f"a fee of {fee} gwei for {gas} gas at {price}", sender)
        self._move(sender, None, gas * base, height)
        self._move(sender, proposer, gas * (price - base), height)
        if not success:
            return
        if action[0] == 0:
            self._move(sender, action[1], action[2], height)
            return
        _, contract, _, args, value = action
        self._move(sender, tagged("contract", contract.encode()), value, height)
        happened = [(name, plain(data)) for source, name, data in events if source == contract]
        if contract == "bridge" and self.bridge is not None:
            for payment in self.bridge.call(height, sender, plain(args), value, happened):
                self._move(BRIDGE, payment.to, payment.amount, height)
        elif self.contracts.get(contract) == STAKES:
            self._staking(happened, sender, height)
        else:
            self.unmodelled.add(contract)

    def _staking(self, happened: Sequence[tuple[str, Plain]], sender: bytes, height: int) -> None:
        for name, fields in happened:
            if name == "ValidatorSlashed":
                _, _, _, amount, reporter, reward = fields
                self._move(STAKING, reporter, reward, height)
                self._move(STAKING, None, amount - reward, height)
            elif name == "StakeWithdrawn":
                self._move(STAKING, fields[0], fields[1], height)
        self.stakes.events(happened)

    def _move(self, source: bytes, to: bytes | None, amount: int, height: int) -> None:
        """From one account to another; to None: burned."""
        held = self.balances.get(source, 0)
        if amount > held and not self.unmodelled:
            self.verdict.broken("P2", height, f"{amount} gwei leave an account that has {held}", source)
        if amount:
            self.balances[source] = held - amount
            if to is None:
                self.burned += amount
            else:
                self.balances[to] = self.balances.get(to, 0) + amount

    # --- the state that the validators signed ---

    def compare(self, state: Mapping[bytes, bytes] | None) -> None:
        """P2 against L1's own state after the last judged block; None: nobody shows it.

        Raises `LieError` if it is not that state.
        """
        if state is None:
            self.verdict.missing["P2"] = (
                "no L1 node shows the state of a final block (GET /state), nor does the archive"
            )
            return
        if state_root(state) != self.root:
            raise LieError(f"the state shown is not that of L1 block {self.judged}")
        try:
            self._compare(state)
        except MALFORMED as error:
            raise LieError(f"the state of L1 block {self.judged} is malformed: {error!r}") from None

    def _compare(self, state: Mapping[bytes, bytes]) -> None:
        shown = {key[1:]: plain(value)[0] for key, value in state.items() if key[:1] == b"a" and value}
        total, height = sum(shown.values()), self.judged
        escrow, bonds = (0, 0) if self.bridge is None else (self.bridge.escrow, self.bridge.bonds)
        unbonding = sum(self.stakes.unbonding.values())
        stake = shown.get(STAKING, 0) - unbonding
        self.verdict.figures["P2"] = {
            "balances": total - stake - unbonding - escrow - bonds,
            "stake": stake,
            "unbonding": unbonding,
            "bonds": bonds,
            "escrow": escrow,
            "burned": self.burned,
            "genesis": self.issued,
            "issuance": 0,
        }
        if total + self.burned != self.issued:
            more = total + self.burned - self.issued
            self.verdict.broken("P2", height, f"{abs(more)} gwei {'appeared' if more > 0 else 'are gone'}")
        counted = plain(state[b"ssupply"])
        if (counted[0], counted[1] - counted[2]) != (self.issued, -self.burned):
            text = f"L1 counts {counted} (genesis, minted, burned), its blocks give {self.issued}, 0, {self.burned}"
            self.verdict.broken("P2", height, text)
        self._compare_accounts(shown)
        self._compare_bridge(state, shown)

    def _compare_accounts(self, shown: Mapping[bytes, int]) -> None:
        """Each account against our own books; a contract that we have no books of may have paid anybody."""
        if self.unmodelled:
            return
        for address in sorted({*shown, *self.balances}):
            has, should = shown.get(address, 0), self.balances.get(address, 0)
            if has != should:
                text = f"L1's state has {has} gwei for it, the blocks up to here give {should}"
                self.verdict.broken("P2", self.judged, text, address)

    def _compare_bridge(self, state: Mapping[bytes, bytes], shown: Mapping[bytes, int]) -> None:
        if self.bridge is None:
            return
        books = plain(state[_TOTALS])
        if books[0] != self.bridge.escrow:
            text = f"the contract's books say escrow is {books[0]} gwei, its calls give {self.bridge.escrow}"
            self.verdict.broken("P1", self.judged, text, BRIDGE)
        held = shown.get(BRIDGE, 0)
        if held < self.bridge.escrow + self.bridge.bonds:
            text = (
                f"the bridge has {held} gwei, escrow and bonds are {self.bridge.escrow} + {self.bridge.bonds}"
            )
            self.verdict.broken("P1", self.judged, text, BRIDGE)
