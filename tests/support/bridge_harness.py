"""A whole L1 with a bridge and the L2 behind it, in memory, for tests of the contract.

Every call is a signed transaction in a real L1 block; after every block the promises P1, P2, P3 and P15 are
checked from state alone. The L2 is re-executed honestly beside whatever roots are posted.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from bridge import abi
from bridge.dispute import cut, cut_points, segments
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Record, decode, encode
from chainkit.contract import NoArgs, Supply
from chainkit.execution import FeeParameters, Receipt, supply
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract
from chainkit.keys import KeyPair, dev_keypair
from chainkit.merkle import Tree
from chainkit.state import Account, State, contract_address, storage_key
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from rollup.batch import BatchBlock
from rollup.contents import CommittedSteps, Contents, read_contents, step_hashes, write_contents
from rollup.directory import Directory
from rollup.messenger import WithdrawArgs
from rollup.stf import BeginBlock, Deposit, Forced, Step, Transact, step_hash
from rollup.trace import Lie, Trace

L1_CHAIN, L2_CHAIN = 900, 901
FUNDS, L2_FUNDS = 10**13, 10**12
NAMES = ("alice", "bob", "carol", "dave", "mallory", "sequencer", "verifier", "judy")
KEYS: dict[str, KeyPair] = {name: dev_keypair(name) for name in (*NAMES, "heidi")}
VAULT = KEYS["heidi"].address
BRIDGE_PREFIX = storage_key("bridge", b"")

SETTINGS = abi.BridgeSettings(
    sequencer=KEYS["sequencer"].address,
    admin=KEYS["judy"].address,
    proposer_bond=1_000_001,
    challenger_bond=500_001,
    challenge_window=12,
    dispute_clock=12,
    max_move_delay=2,
    inclusion_delay=5,
    sequencer_timeout=20,
    escape_timeout=40,
    exit_window=50,
    bisection=4,
    max_steps=64,
    max_inbox_per_batch=8,
    min_deposit=1_000,
)


def address(name: str) -> bytes:
    return KEYS[name].address


def accounts(names: Iterable[str], funds: int) -> list[GenesisAccount]:
    return [GenesisAccount(a, funds) for a in sorted(KEYS[name].address for name in names)]


def l2_genesis() -> Genesis:
    messenger = GenesisContract("messenger", "rollup.messenger:Messenger", encode(NoArgs()))
    people = accounts(("alice", "bob", "mallory"), L2_FUNDS)
    fees = FeeParameters(max_transaction_gas=250_000)
    return Genesis(L2_CHAIN, "l2", 0, 1000, 2, True, fees, people, [], [messenger], VAULT)


def l1_genesis(
    settings: abi.BridgeSettings = SETTINGS, l2: Genesis | None = None, balance: int | None = None
) -> Genesis:
    l2 = l2 or l2_genesis()
    params = encode(abi.BridgeParams(l2, settings))
    held = l2.total_supply if balance is None else balance
    bridge = GenesisContract("bridge", "bridge.contract:Bridge", params, held)
    return Genesis(
        L1_CHAIN, "l1", 0, 1000, 2, True, FeeParameters(), accounts(NAMES, FUNDS), [], [bridge], None
    )


class BatchSteps(list[Step]):
    """The steps of a batch, and how the contract committed to them."""

    def __init__(self, contents: Contents, committed: CommittedSteps) -> None:
        super().__init__()
        self.contents = contents
        self.committed = committed


@dataclass
class Posted:
    """A batch on L1: the poster's trace, and the true one."""

    index: int
    told: Trace
    true: Trace

    @property
    def steps(self) -> Sequence[Step]:
        return self.true.steps

    @property
    def contents(self) -> Contents:
        """What its data contains, in the format that the sequencer posts."""
        assert isinstance(self.steps, BatchSteps)
        return self.steps.contents

    @property
    def hashes(self) -> CommittedSteps:
        """What the contract commits to."""
        assert isinstance(self.steps, BatchSteps)
        return self.steps.committed

    @property
    def end(self) -> Tree:
        return self.true.tree(len(self.steps))


class World:
    """L1 and L2 together."""

    def __init__(self, settings: abi.BridgeSettings = SETTINGS) -> None:
        self.l2 = Chain(l2_genesis())
        self.chain = Chain(l1_genesis(settings))
        self.tip: ExecutedBlock = self.chain.genesis_block
        self.messages: list[Deposit | Forced] = []
        self.posted: dict[int, Posted] = {}
        self.ends: dict[int, Tree] = {0: self.l2.genesis_tree}
        self.directory = Directory()
        self.paid: set[int] = set()
        self.bonds_burned = 0
        self.outcomes: set[tuple[str, str]] = set()
        """(method, code) of every call so far."""

    def fork(self) -> "World":
        other = copy.copy(self)
        other.messages, other.posted = list(self.messages), dict(self.posted)
        other.ends, other.paid = dict(self.ends), set(self.paid)
        other.directory = grown(self.directory, ())
        return other

    # --- L1 ---

    @property
    def height(self) -> int:
        return self.tip.header.height

    @property
    def state(self) -> State:
        return State(self.tip.tree)

    def load(self, key: bytes, kind: type[Any]) -> Any:
        return decode(kind, self.tip.tree.get(storage_key("bridge", key)))

    @property
    def totals(self) -> abi.BridgeTotals:
        return self.load(abi.TOTALS_KEY, abi.BridgeTotals)  # type: ignore[no-any-return]

    def batch(self, index: int) -> abi.Batch:
        return self.load(abi.batch_key(index), abi.Batch)  # type: ignore[no-any-return]

    def dispute(self, index: int) -> abi.Dispute:
        return self.load(abi.dispute_key(index), abi.Dispute)  # type: ignore[no-any-return]

    def balance(self, name: str) -> int:
        return self.state.account(address(name)).balance

    def tx(self, who: str, method: str, args: Record | None = None, value: int = 0) -> SignedTransaction:
        nonce = self.state.account(address(who)).nonce
        action = Call("bridge", method, encode(args or NoArgs()), value)
        return SignedTransaction.sign(
            Body(L1_CHAIN, address(who), nonce, 20_000_000, 16, 0, action), KEYS[who]
        )

    def mine(self, *txs: SignedTransaction) -> list[Receipt]:
        """One L1 block; the promises are checked after it."""
        block, skipped = self.chain.build(self.tip, self.tip.header.slot + 1, bytes(32), txs)
        assert not skipped, skipped
        self.tip = block
        for tx, receipt in zip(txs, block.receipts, strict=True):
            if isinstance(tx.body.action, Call):
                self.outcomes.add((tx.body.action.method, receipt.code))
            self._watch(receipt)
        self.check()
        return list(block.receipts)

    def call(self, who: str, method: str, args: Record | None = None, value: int = 0) -> Receipt:
        return self.mine(self.tx(who, method, args, value))[0]

    def ok(self, who: str, method: str, args: Record | None = None, value: int = 0) -> Receipt:
        receipt = self.call(who, method, args, value)
        assert receipt.success, (receipt.code, receipt.message)
        return receipt

    def refused(self, code: str, who: str, method: str, args: Record | None = None, value: int = 0) -> str:
        """REJECT: typed, no money moved but the fee, no byte of the bridge changed. Returns the message."""
        before, had = self.bridge_state(), self.balance(who)
        receipt = self.call(who, method, args, value)
        assert (receipt.success, receipt.code) == (False, code), (receipt.code, receipt.message)
        assert self.bridge_state() == before
        assert self.balance(who) == had - receipt.fee
        return receipt.message

    def wait(self, blocks: int) -> None:
        for _ in range(blocks):
            self.mine()

    def wait_until(self, height: int) -> None:
        """So that the next block has exactly that height."""
        assert self.height < height
        self.wait(height - self.height - 1)

    def bridge_state(self) -> dict[bytes, bytes]:
        return {k: v for k, v in self.tip.tree.items() if k.startswith(BRIDGE_PREFIX)} | {
            b"balance": encode(self.state.account(contract_address("bridge")))
        }

    def _watch(self, receipt: Receipt) -> None:
        for event in receipt.events:
            if event.name == "WithdrawalClaimed":
                index = decode(abi.WithdrawalClaimed, event.data).index
                assert index not in self.paid, "P3: a withdrawal was paid twice"
                self.paid.add(index)
            if event.name == "DisputeResolved":
                self.bonds_burned += decode(abi.DisputeResolved, event.data).burned

    # --- promises ---

    def check(self) -> None:
        totals = self.totals
        held = self.state.account(contract_address("bridge")).balance
        assert held == totals.escrow + totals.bonds
        # P2
        issued: Supply = supply(self.state)
        assert balances(self.tip.tree) == issued.genesis + issued.minted - issued.burned
        # P1 (before and after a freeze)
        assert totals.head_batch in self.ends, "the contract took a batch that it had to refuse"
        head = self.ends[totals.head_batch]
        cursor = self.batch(totals.head_batch).inbox_to
        owed = balances(head) + sum(w.amount for w in withdrawals(head) if w.index not in self.paid)
        for index in range(cursor, totals.inbox_length):
            entry: abi.InboxEntry = self.load(abi.inbox_key(index), abi.InboxEntry)
            owed += 0 if entry.refunded else entry.amount
        assert totals.escrow + totals.exited == owed, "P1"
        # P5
        final = self.ends[totals.final_batch]
        void = balances(final) + sum(w.amount for w in withdrawals(final) if w.index not in self.paid)
        assert totals.escrow + totals.exited >= void, "P5"
        # P15
        bonds = sum(b.bond for i in range(1, totals.next_batch) if (b := self.batch(i)).status == abi.PENDING)
        for i in range(totals.next_dispute):
            dispute = self.dispute(i)
            bonds += dispute.bond if dispute.stage != abi.RESOLVED else 0
        assert totals.bonds == bonds, "P15"
        pending = [i for i in range(totals.next_batch) if self.batch(i).status == abi.PENDING]
        assert totals.pending == len(pending)

    # --- inbox ---

    def deposit(self, who: str, to: str, amount: int) -> Receipt:
        receipt = self.ok(who, "deposit", abi.DepositArgs(address(to)), amount)
        self.messages.append(Deposit(len(self.messages), address(who), address(to), amount))
        return receipt

    def force(self, who: str, wire: bytes) -> Receipt:
        receipt = self.ok(who, "force", abi.ForceArgs(wire))
        self.messages.append(Forced(len(self.messages), wire))
        return receipt

    # --- L2 ---

    def blocks(self, *blocks: tuple[int, Sequence[bytes]]) -> list[BatchBlock]:
        """Blocks of (inbox messages taken, transactions), at L1's present time."""
        return [BatchBlock(self.tip.header.time, taken, list(wires)) for taken, wires in blocks]

    def prepare(self, blocks: Sequence[BatchBlock], lie: Lie | None = None, parent: int = -1) -> Posted:
        totals = self.totals
        record = self.batch(totals.head_batch if parent < 0 else parent)
        height, cursor = record.first_block + record.blocks, record.inbox_to
        contents = read_contents(write_contents(blocks, L2_CHAIN, self.directory), len(self.directory))
        sane = contents.steps <= 10_000  # some blocks claim 2**53 messages
        hashes = step_hashes(contents, height, cursor, self.inbox_hash) if sane else []
        steps = BatchSteps(
            contents, CommittedSteps(contents, hashes, grown(self.directory, contents.addresses))
        )
        for block in blocks:
            steps.append(BeginBlock(height, block.time))
            steps += self.messages[cursor : cursor + block.inbox_count]
            steps += [Transact(wire) for wire in block.transactions]
            height, cursor = height + 1, cursor + block.inbox_count
        start = self.ends[record.index]
        true = Trace(self.l2.rules, start, steps)
        told = Trace(self.l2.rules, start, steps, lie) if lie else true
        return Posted(totals.next_batch, told, true)

    def inbox_hash(self, index: int) -> bytes:
        """Zeros for a message that was never queued, which the contract refuses."""
        return step_hash(self.messages[index]) if index < len(self.messages) else bytes(32)

    def batch_args(self, posted: Posted, blocks: Sequence[BatchBlock], **changes: Any) -> abi.SubmitBatchArgs:
        parent = self.batch(self.totals.head_batch)
        args = abi.SubmitBatchArgs(
            parent=parent.index,
            inbox_to=parent.inbox_to + sum(b.inbox_count for b in blocks),
            data=write_contents(blocks, L2_CHAIN, self.directory),
            state_root=posted.told.root(len(posted.steps)),
        )
        return replace(args, **changes)

    def post(
        self, *blocks: tuple[int, Sequence[bytes]], lie: Lie | None = None, who: str = "sequencer"
    ) -> Posted:
        made = self.blocks(*blocks)
        posted = self.prepare(made, lie)
        tx = self.tx(who, "submit_batch", self.batch_args(posted, made), SETTINGS.proposer_bond)
        self.ends[posted.index] = posted.end
        self.posted[posted.index] = posted
        receipt = self.mine(tx)[0]
        assert receipt.success, (receipt.code, receipt.message)
        self.directory.append(posted.contents.addresses)
        return posted

    def finalize(self, index: int) -> None:
        self.wait_until(max(self.height + 1, self.batch(index).challenge_until + 1))
        self.ok("bob", "finalize", abi.BatchArgs(index))

    # --- disputes ---

    def challenge(self, posted: Posted, who: str = "verifier", root: bytes | None = None) -> int:
        claimed = root or posted.true.root(len(posted.steps))
        index = self.totals.next_dispute
        self.ok(who, "challenge", abi.ChallengeArgs(posted.index, claimed), SETTINGS.challenger_bond)
        return index

    def move(self, index: int, defender: Trace, challenger: Trace) -> tuple[str, str, Record]:
        """The next move of a dispute by whoever is to move, each out of its own trace."""
        d = self.dispute(index)
        if d.stage == abi.BISECT:
            roots = [defender.root(p) for p in cut_points(d)]
            return name_of(d.defender), "bisect", abi.BisectArgs(index, roots)
        if d.stage == abi.CHOOSE:
            said = [*d.points, d.high_root]
            ends = [cut(d, i + 1) for i in range(segments(d))]
            wrong = [i for i, p in enumerate(ends) if challenger.root(p) != said[i]]
            return name_of(d.challenger), "choose", abi.ChooseArgs(index, wrong[0] if wrong else 0)
        return name_of(d.challenger), "prove", prove_args(index, d.low, challenger)

    def play(self, index: int, defender: Trace, challenger: Trace, until: str = abi.RESOLVED) -> abi.Dispute:
        """Both sides play to the end; returns the record."""
        for _ in range(64):
            if self.dispute(index).stage == until:
                break
            who, method, args = self.move(index, defender, challenger)
            self.ok(who, method, args)
        return self.dispute(index)


def prove_args(dispute: int, low: int, trace: Trace) -> abi.ProveArgs:
    assert isinstance(trace.steps, BatchSteps)
    shown = trace.steps.committed.opening(low, trace.steps[low])
    addresses = [abi.KnownAddress(*known) for known in shown.addresses]
    return abi.ProveArgs(dispute, shown.step, shown.proof, trace.witness(low), addresses)


def grown(directory: Directory, addresses: Sequence[bytes]) -> Directory:
    """A copy with these addresses behind."""
    other = Directory()
    other.append([directory[i] for i in range(len(directory))])
    other.append(addresses)
    return other


def name_of(who: bytes) -> str:
    return next(name for name, key in KEYS.items() if key.address == who)


def balances(tree: Tree) -> int:
    return sum(decode(Account, v).balance for k, v in tree.items() if k[:1] == b"a" and v)


def withdrawals(tree: Tree) -> list[abi.Withdrawal]:
    prefix = storage_key("messenger", b"withdrawal/")
    return [decode(abi.Withdrawal, v) for k, v in tree.items() if k.startswith(prefix)]


def l2_tx(
    who: str, nonce: int, action: Transfer | Call, *, chain: int = L2_CHAIN, gas: int = 100_000
) -> bytes:
    body = Body(chain, address(who), nonce, gas, 16, 0, action)
    return SignedTransaction.sign(body, KEYS[who]).wire


def l2_transfer(who: str, nonce: int, to: str, amount: int) -> bytes:
    return l2_tx(who, nonce, Transfer(address(to), amount))


def l2_withdraw(who: str, nonce: int, to: str, amount: int) -> bytes:
    return l2_tx(who, nonce, Call("messenger", "withdraw", encode(WithdrawArgs(address(to))), amount))


def claim_args(posted: Posted, index: int, batch: int | None = None, **changes: Any) -> abi.ClaimArgs:
    value = posted.end.get(abi.withdrawal_state_key(index))
    record = decode(abi.Withdrawal, value)
    proof = posted.end.prove([abi.withdrawal_state_key(index)])
    args = abi.ClaimArgs(batch or posted.index, index, record.recipient, record.amount, proof)
    return replace(args, **changes)


def steal_at(step: int, amount: int = 7) -> Lie:
    """After that step, mallory has more than she has."""

    def lie(i: int, state: State) -> None:
        if i == step:
            account = state.account(address("mallory"))
            state.set_account(address("mallory"), Account(account.balance + amount, account.nonce))

    return lie
