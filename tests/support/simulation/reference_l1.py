"""L1 as docs/PROTOCOL.md says it: the slow plain model that every final block is held against.

Responsible for links, quorums, fees, balances, the supply and the state root of each block, from its bytes. Shares
no code with chainkit, l1node, rollup or bridge. What contracts keep in storage is taken from the block's own
changes (and bound by the root, which is computed here); whatever is money is computed here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from simulation.reference_bridge import ReferenceBridge
from simulation.reference_merkle import list_root, state_root, tagged
from simulation.reference_money import Money, packed, plain, signed_by, transaction_id

STAKING = tagged("contract", b"staking")
_TOTALS = b"c\x06bridgetotals"
TOTALS = [
    *("escrow", "bonds", "inbox_length", "next_batch", "head_batch", "final_batch", "next_dispute"),
    *("last_batch_height", "frozen_height", "deposited", "claimed", "exited", "refunded", "pending"),
    "last_final_height",
]


class ReferenceL1:
    """The chain from its genesis; `apply` each final block."""

    def __init__(
        self,
        genesis: bytes,
        state: dict[bytes, bytes],
        l2_state: dict[bytes, bytes],
        seen: Counter[str],
    ) -> None:
        self.genesis = plain(genesis)
        self.hash = tagged("genesis", genesis)
        self.seen = seen
        self.height = self.slot = self.era = 0
        self.money = Money.of_state(state, self.genesis)
        self.other = {key: value for key, value in state.items() if key not in self.money.state()}
        assert state_root(state) == state_root({**self.other, **self.money.state()}), "the genesis state"
        params = next(plain(c[2]) for c in self.genesis[9] if c[0] == "bridge")
        self.bridge = ReferenceBridge(params, l2_state, self.money, seen)
        self.first_set = self._validators(0)
        self.jailed: set[bytes] = set()
        self.slashed: list[tuple[bytes, str]] = []
        self.bridge_events: list[tuple[int, str]] = []
        """(height, name) of what the bridge contract emitted."""
        self.final_at: dict[bytes, int] = {}
        """Height by transaction id."""

    def apply(
        self, block: bytes, certificate: bytes, receipts: Sequence[bytes], changes: Mapping[bytes, bytes]
    ) -> None:
        """The next final block. Raises `AssertionError` for anything that should not be."""
        header, wires = plain(block)
        _, height, slot, time, parent, proposer, root, tx_root, receipts_root, base_fee, gas_used = header
        assert (height, parent) == (self.height + 1, self.hash), f"P8 final block {height} does not follow"
        assert slot > self.slot, "slots grow"
        assert time == self.genesis[2] + slot * self.genesis[3], "P19 a block's time is its slot's"
        block_hash = tagged("header", packed(header))
        self._check_quorum(header, block_hash, plain(certificate), proposer)
        assert (list_root(wires), list_root(receipts)) == (tx_root, receipts_root), "P21 the header's lists"
        self.money.begin(height, slot, time, proposer)
        assert base_fee == self.money.block[4], f"base fee {base_fee}, not {self.money.block[4]}"
        for wire, receipt in zip(wires, map(plain, receipts), strict=True):
            self._transaction(wire, receipt, height, time, proposer)
        assert gas_used == self.money.block[5], f"gas {gas_used}, not {self.money.block[5]}"
        mine = self.money.state()
        self.other.update({k: v for k, v in changes.items() if k[:1] != b"a" and k not in mine})
        assert state_root({**self.other, **mine}) == root, f"P11 another state root in L1 block {height}"
        assert self.money.total + self.money.supply[2] == sum(self.money.supply[:2]), "P2 the supply"
        self.bridge.check()
        self._compare_totals()
        self.height, self.slot, self.hash = height, slot, block_hash
        if slot // self.genesis[4] > self.era:
            self.era = slot // self.genesis[4]
            self.seen["era change"] += 1
            if self._validators(slot) != self.first_set:
                self.seen["era with another validator set"] += 1

    # --- who may say so ---

    def _validators(self, slot: int) -> dict[bytes, int]:
        era, last = slot // self.genesis[4], plain(self.other[b"svalidators/last"])
        (members,) = plain(self.other[b"svalidators/" + str(min(era, last)).encode()])
        return dict(members)

    def _check_quorum(self, header: Any, block_hash: bytes, certificate: Any, proposer: bytes) -> None:
        height, slot = header[1], header[2]
        stakes = self._validators(slot)
        message = tagged("vote", packed([header[0], slot, height, block_hash]))
        assert certificate[:3] == [slot, height, block_hash], (
            f"P6 block {height} carries another's certificate"
        )
        voters = dict(certificate[3])
        assert len(voters) == len(certificate[3]), "P6 a vote counted twice"
        assert all(signed_by(voter, message, signature) for voter, signature in voters.items()), (
            "P6 a forged vote"
        )
        signed = sum(stakes.get(voter, 0) for voter in voters)
        assert signed > 0, "P24 a quorum of nobody"
        assert 3 * signed >= 2 * sum(stakes.values()), f"P6 block {height} is final without a quorum"
        assert proposer in stakes, f"P6 block {height} is by nobody of the set"
        assert proposer == self._leader(slot, stakes), f"P6 block {height} is not by its slot's leader"
        if proposer in self.jailed:
            self.seen["jailed leader"] += 1

    def _leader(self, slot: int, stakes: dict[bytes, int]) -> bytes:
        genesis_hash = tagged("genesis", packed(self.genesis))
        seed = tagged("era-seed", genesis_hash + (slot // self.genesis[4]).to_bytes(8, "big"))
        draw = (
            int.from_bytes(sha256(seed + slot.to_bytes(8, "big")).digest(), "big") * sum(stakes.values())
            >> 256
        )
        for address, stake in stakes.items():
            if draw < stake:
                return address
            draw -= stake
        raise AssertionError("no stake, no leader")

    # --- transactions ---

    def _transaction(self, wire: bytes, receipt: Any, height: int, time: int, proposer: bytes) -> None:
        money = self.money
        why = money.refusal(wire)
        assert not why, f"P24 a transaction that may not run stands in block {height}: {why}"
        tx = plain(wire)
        tx_id, success, _code, _message, gas_used, fee, events = receipt
        sender, limit, action, base = tx[1], tx[3], tx[6], money.block[4]
        assert tx_id == transaction_id(tx), "P21 the receipt is another transaction's"
        assert tx_id not in self.final_at, "P19 a transaction ran twice"
        self.final_at[tx_id] = height
        price = min(tx[4], base + tx[5])
        money.accounts[sender][1] += 1
        if action[0] == 0:
            used, good = money.transfer_gas(wire, action[1])
            good, used = good and used <= limit, min(used, limit)
            assert (good, used) == (success, gas_used), f"a transfer cost {gas_used} gas, not {used}"
            if good:
                money.move(sender, action[1], action[2])
        else:
            assert money.fees.intrinsic(len(wire)) <= gas_used <= limit, "gas beyond the limit"
            if success:
                self._call(action, sender, events, height, time)
        assert fee == gas_used * price, f"a fee of {fee}, not {gas_used * price}"
        assert success or not events, "what failed left events"
        money.burn(sender, gas_used * base)
        if price > base:
            money.move(sender, proposer, gas_used * (price - base))
        money.block[5] += gas_used

    def _call(self, action: Any, sender: bytes, events: Any, height: int, time: int) -> None:
        _, contract, method, args, value = action
        if value:
            self.money.move(sender, tagged("contract", contract.encode()), value)
        happened = [(name, plain(data)) for source, name, data in events if source == contract]
        self.bridge_events += [(height, name) for source, name, _ in events if source == "bridge"]
        if contract == "bridge":
            self.bridge.call(method, plain(args), sender, value, height, time)
            for name, fields in happened:
                if name == "DisputeResolved":
                    self.bridge.resolved(fields[0], fields[2])
                elif name == "BatchSubmitted":
                    self._compare_batch(fields[0])
        elif contract == "staking":
            self._staking(happened, sender)

    def _staking(self, happened: list[tuple[str, Any]], sender: bytes) -> None:
        for name, fields in happened:
            if name == "ValidatorSlashed":
                culprit, kind, _slot, amount, reporter, reward = fields
                assert reporter == sender, "P18 the reward is the reporter's"
                assert reward == amount * 5 // 100, "P10 the reporter's share"
                self.money.move(STAKING, reporter, reward)
                self.money.burn(STAKING, amount - reward)
                self.jailed.add(culprit)
                self.slashed.append((culprit, kind))
                self.seen["slash paid"] += 1
                self.seen[f"slashed for {kind}"] += 1
            elif name == "StakeWithdrawn":
                self.money.move(STAKING, fields[0], fields[1])
                self.seen["stake withdrawn"] += 1
            elif name == "ValidatorStaked":
                self.seen["stake added"] += 1
            elif name == "ValidatorUnjailed":
                self.jailed.discard(fields[0])

    # --- the contract's own books against ours ---

    def _compare_batch(self, record: Any) -> None:
        mine = self.bridge.batches[record[0]]
        theirs = (record[1], record[2], record[3], record[6], record[7], record[8], record[10])
        ours = (mine.parent, mine.first_block, mine.blocks, mine.inbox_to, len(mine.steps), mine.steps_root)
        assert theirs == (*ours, mine.claimed), f"P14 batch {mine.index} is recorded otherwise: {theirs}"

    def _compare_totals(self) -> None:
        theirs = dict(zip(TOTALS, plain(self.other[_TOTALS]), strict=True))
        b = self.bridge
        ours = {
            "escrow": b.escrow,
            "bonds": b.bonds,
            "inbox_length": len(b.inbox),
            "next_batch": len(b.batches),
            "head_batch": b.head,
            "final_batch": b.final,
            "next_dispute": len(b.disputes),
            "last_batch_height": b.last_batch,
            "frozen_height": b.frozen,
            "claimed": sum(b.paid["claim"].values()),
            "exited": sum(b.paid["exit"].values()),
            "refunded": sum(b.paid["refund"].values()),
            "pending": sum(batch.status == "pending" for batch in b.batches.values()),
        }
        wrong = {name: (theirs[name], value) for name, value in ours.items() if theirs[name] != value}
        assert not wrong, f"P15 the contract's books (theirs, ours): {wrong}"

    def compare_derivation(self, name: str, derivation: Any) -> None:
        """P11: what a node derived is what the model has, as far as the node is."""
        for index in range(max(0, len(self.bridge.batches) - 3), len(self.bridge.batches)):
            theirs, mine = derivation.batches.get(index), self.bridge.batches[index]
            if theirs is not None:
                assert theirs.computed_root == mine.root, (
                    f"P11 {name} computed another root for batch {index}"
                )
                assert theirs.matches == mine.line_true, f"P11 {name} judges batch {index} otherwise"
        assert derivation.diverged is None or self.bridge.diverged, (
            f"P12 {name} saw a false batch become final"
        )
        assert len(derivation.inbox) <= len(self.bridge.inbox), f"P4 {name} has messages that L1 never had"
