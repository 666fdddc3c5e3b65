"""L1 with the bridge, and rollup nodes that follow it: whole stories in one process, block by block, no sockets.

Real `RollupNode`, `duties` and `Outbox` over real stores; only the network is missing: what an outbox sends stands
in the next L1 block. After every L1 block the promises P1, P2 and P5 are added up from state alone.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge_harness import (
    KEYS,
    L1_CHAIN,
    SETTINGS,
    address,
    balances,
    l1_genesis,
    l2_genesis,
    l2_transfer,
    name_of,
    withdrawals,
)
from msgspec.structs import replace

from bridge import abi
from chainkit.block import Certificate, CertificateVote, Validator, Vote
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Record, decode, encode
from chainkit.contract import NoArgs
from chainkit.events import EventLog
from chainkit.execution import Receipt, supply
from chainkit.genesis import Genesis, GenesisContract
from chainkit.keys import dev_keypair
from chainkit.known import open_chain
from chainkit.replica import Replica
from chainkit.state import State, contract_address, storage_key
from chainkit.store import Store
from chainkit.transaction import Body, Call, SignedTransaction
from l1node.staking import StakingParams
from rollup.batch import BatchBlock, encode_batch
from rollup.block import execute_block
from rollup.derivation import Derivation
from rollup.derived import DerivedBatch
from rollup.duties import Duty, duties
from rollup.fault_switch import FaultSwitch
from rollup.faults import FaultSet
from rollup.final_state import FinalState
from rollup.node import Role, RollupNode
from rollup.outbox import Outbox
from rollup.receipt import BlockPromise, BlockReceipts
from rollup.service import HEARTBEAT_SHARE

GAS = 20_000_000


class Member:
    """A rollup node on disk, with its outbox."""

    def __init__(self, stack: "Stack", role: Role, path: Path) -> None:
        self.stack, self.role, self.path = stack, role, path
        self.refusals: list[tuple[tuple[str | int, ...], str]] = []
        self.lost = 0
        self.faults = FaultSet(role)
        self.open()

    def open(self) -> None:
        l2 = open_chain(self.stack.l2_genesis, self.path / "l2")
        store = Store(self.path / "l2", genesis_hash=l2.genesis_hash, role=self.role)
        resume = FinalState(store).load(l2)
        derivation = Derivation(self.stack.l2_genesis, l2_chain=l2, resume=resume)
        l1_store = Store(self.path / "l1", genesis_hash=self.stack.chain.genesis_hash, role="l1-replica")
        self.node = RollupNode(
            self.role,
            Replica(l1_store, self.stack.chain),
            store,
            EventLog(store),
            derivation,
            KEYS[self.role],
            FaultSwitch(self.faults),
        )
        self.outbox = Outbox(self._send, KEYS[self.role].address, self._refused, self._was_lost)
        self.node.start()

    async def _send(self, call: Call, gas: int) -> None:
        if self.stack.lose(self.role, call):
            return
        self.stack.waiting.append((self.role, call, gas))

    def _refused(self, duty: Duty, code: str, _: str) -> None:
        self.refusals.append((duty.key, code))

    def _was_lost(self) -> None:
        self.lost += 1

    def close(self) -> None:
        self.node.store.close()
        self.node.replica.store.close()

    def restart(self, *, clean: bool = True) -> None:
        """A new process over the same directory; what an unclean end loses is lost."""
        if clean:
            self.node.save_pool()
        self.close()
        self.open()

    def catch_up(self) -> None:
        for block in self.stack.l1[self.node.l1_height :]:
            self.node.on_l1_final(block, DUMMY)

    @property
    def heads(self) -> dict[str, tuple[int, bytes, bytes]]:
        derivation = self.node.derivation
        blocks = {
            "head": self.node.local.head,
            "safe": derivation.safe_batch.end,
            "finalized": derivation.finalized_batch.end,
        }
        return {name: (b.header.height, b.hash, b.tree.root) for name, b in blocks.items()}

    @property
    def stored(self) -> list[tuple[int, bytes, bytes | None, list[bytes]]]:
        """Every L2 block on disk with what the sequencer signed for it, and its transactions' receipts."""
        store = self.node.store
        return [
            (b.height, b.hash, b.certificate, [encode(t.receipt) for t in store.transactions_of(b.height)])
            for b in store.blocks_from(1, 10_000)
        ]

    def promises(self) -> dict[bytes, tuple[int, int]]:
        """Transaction -> (height, position) of every signed receipt on disk; each must be valid."""
        found = {}
        for height, _, signed, receipts in self.stored:
            ids = self.node.store.transaction_ids(height)
            assert len(ids) == len(receipts)
            assert (signed is not None) == bool(ids)
            for position in range(len(ids)):
                assert signed is not None
                promise = BlockReceipts(decode(BlockPromise, signed), ids).receipt(position)
                assert promise.valid()
                assert promise.sequencer == KEYS["sequencer"].address
                assert (promise.height, promise.position) == (height, position)
                found[promise.tx_id] = (height, position)
        return found

    def events(self, name: str) -> list[Mapping[str, Any]]:
        return [e.data for e in self.node.events.read(1, 100_000) if e.name == name]


VALIDATORS = sorted((dev_keypair(f"validator-{i}") for i in range(4)), key=lambda key: key.address)


def with_validators(genesis: Genesis) -> Genesis:
    staking = GenesisContract("staking", "l1node.staking:Staking", encode(StakingParams()))
    return replace(
        genesis,
        validators=[Validator(key.address, 100 * 10**9) for key in VALIDATORS],
        contracts=[*genesis.contracts, staking],
    )


def certify(block: ExecutedBlock, voters: int = 3) -> Certificate:
    """The votes of some of the validators."""
    h = block.header
    votes = [Vote.sign(key, h.chain_id, h.slot, h.height, block.hash) for key in VALIDATORS[:voters]]
    return Certificate(h.slot, h.height, block.hash, [CertificateVote(v.voter, v.signature) for v in votes])


DUMMY = Certificate(0, 0, bytes(32), [])
"""A node takes in blocks that a follower has verified; it keeps the certificate and does not look at it."""


class Stack:
    """L1, a sequencer and a verifier. ``step()`` makes an L1 block and lets both react."""

    def __init__(
        self,
        path: Path,
        settings: abi.BridgeSettings = SETTINGS,
        *,
        validators: bool = False,
        after: Callable[["Stack"], None] = lambda _: None,
        l2: Genesis | None = None,
    ) -> None:
        """``validators``: L1 has four, with stake. ``after`` is called after every step (restarts, checks). ``l2``:
        another genesis of the rollup."""
        self.l2_genesis = l2 or l2_genesis()
        genesis = l1_genesis(settings, self.l2_genesis)
        self.chain = Chain(with_validators(genesis) if validators else genesis)
        self.tip: ExecutedBlock = self.chain.genesis_block
        self.l1: list[ExecutedBlock] = []
        self.path, self.after = path, after
        self.waiting: list[tuple[str, Call, int]] = []
        self.signed: list[SignedTransaction] = []
        """Transactions that somebody signed for L1's next block, if they may run there."""
        self.receipts: list[tuple[str, str, str]] = []
        """(sender, method, code) of every call on L1."""
        self.lose: Callable[[str, Call], bool] = lambda _who, _call: False
        self.paid: set[int] = set()
        self.nonces: dict[str, int] = {}
        self.diverged = False
        self.heartbeats = False
        """Whether an idle sequencer makes empty blocks, as its service does. Off, a story comes to rest."""
        self.runner = asyncio.Runner()
        self.sequencer = Member(self, "sequencer", path / "sequencer")
        self.verifier = Member(self, "verifier", path / "verifier")

    @property
    def members(self) -> list[Member]:
        return [self.sequencer, self.verifier]

    def close(self) -> None:
        for member in self.members:
            member.close()
        self.runner.close()

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

    def balance(self, name: str) -> int:
        return self.state.account(address(name)).balance

    def now(self) -> int:
        return self.tip.header.time

    def call(self, who: str, method: str, args: Record | None = None, value: int = 0) -> None:
        """Have a call in the next L1 block."""
        self.waiting.append((who, Call("bridge", method, encode(args or NoArgs()), value), GAS))

    def step(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.mine()
            self.runner.run(self._react())
            self.check()
            self.after(self)

    def step_until(self, done: Callable[[], bool], limit: int = 150) -> None:
        for _ in range(limit):
            if done():
                return
            self.step()
        raise AssertionError(f"not so after {limit} L1 blocks")

    def mine(self) -> None:
        """An L1 block that no node hears of yet."""
        nonces: dict[str, int] = {}
        txs = []
        for who, action, gas in self.waiting:
            nonce = nonces.get(who, self.state.account(address(who)).nonce)
            nonces[who] = nonce + 1
            txs.append(
                SignedTransaction.sign(Body(L1_CHAIN, address(who), nonce, gas, 16, 0, action), KEYS[who])
            )
        self.waiting = []
        slot = self.tip.header.slot + 1
        proposer = self.chain.leader(self.tip.tree, slot) or bytes(32)
        block, skipped = self.chain.build(self.tip, slot, proposer, [*txs, *self.signed])
        assert all(tx in self.signed for tx, _ in skipped), skipped
        self.signed = []
        self.tip = block
        self.l1.append(block)
        for tx, receipt in zip(block.transactions, block.receipts, strict=True):
            assert isinstance(tx.body.action, Call)
            self.receipts.append((name_of(tx.body.sender), tx.body.action.method, receipt.code))
            self._watch(receipt)

    def _watch(self, receipt: Receipt) -> None:
        for event in receipt.events:
            if event.name == "WithdrawalClaimed":
                index = decode(abi.WithdrawalClaimed, event.data).index
                assert index not in self.paid, "P3"
                self.paid.add(index)

    async def _react(self) -> None:
        for member in self.members:
            if member.node.l1_height + 1 != self.height:
                continue  # it is down; see `Member.catch_up`
            member.node.on_l1_final(self.tip, DUMMY)
            member.outbox.on_l1_final(self.tip)
            member.node.produce(self.now(), heartbeat=self._heartbeat_due(member.node))
            member.outbox.dispatch(duties(member.node, self.now(), member.outbox.under_way), self.height)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _heartbeat_due(self, node: RollupNode) -> bool:
        derivation, settings = node.derivation, node.derivation.settings
        assert settings is not None
        if (
            not self.heartbeats
            or not derivation.head_batch.matches
            or (node.local.head.header.height > derivation.head_batch.end.header.height)
        ):
            return False
        return self.height >= self.totals.last_batch_height + settings.escape_timeout // HEARTBEAT_SHARE

    # --- promises ---

    def check(self) -> None:
        for member in (
            self.sequencer,
            self.verifier,
        ):  # what is at hand of the head's state is what its tree says
            local = member.node.local
            assert all(local.head.tree.get(key) == value for key, value in local.at_hand().items())
        totals, derivation = self.totals, self.verifier.node.derivation
        if self.verifier.node.l1_height != self.height:
            derivation = self.sequencer.node.derivation
        held = self.state.account(contract_address("bridge")).balance
        assert held == totals.escrow + totals.bonds
        issued = supply(self.state)
        assert balances(self.tip.tree) == issued.genesis + issued.minted - issued.burned, "P2"
        self.diverged = self.diverged or derivation.diverged is not None
        if self.diverged or derivation.l1_height != self.height:
            return
        for label, batch in (("P1", derivation.head_batch), ("P5", derivation.finalized_batch)):
            tree = batch.end.tree
            owed = balances(tree) + sum(w.amount for w in withdrawals(tree) if w.index not in self.paid)
            assert totals.escrow + totals.exited >= owed, label
            if label == "P1":
                owed += sum(
                    0 if entry.refunded else entry.amount
                    for index in range(batch.record.inbox_to, totals.inbox_length)
                    for entry in [self.load(abi.inbox_key(index), abi.InboxEntry)]
                )
                assert totals.escrow + totals.exited == owed, "P1"

    # --- L2 ---

    def submit(self, wire: bytes) -> SignedTransaction:
        """Give the sequencer a signed L2 transaction."""
        tx = SignedTransaction.decode(wire)
        self.sequencer.node.mempool.add(tx, self.sequencer.node.account)
        return tx

    def transfer(self, who: str = "alice", to: str = "bob", amount: int = 1_000) -> SignedTransaction:
        nonce = self.nonces.get(who, 0)
        self.nonces[who] = nonce + 1
        return self.submit(l2_transfer(who, nonce, to, amount))

    def deposit(self, who: str = "alice", to: str = "carol", amount: int = 5_000) -> None:
        self.call(who, "deposit", abi.DepositArgs(address(to)), amount)

    def strangers_batch(self, parent: DerivedBatch, time: int, messages: int = 0) -> abi.SubmitBatchArgs:
        """A true batch of one block, with so many inbox messages and no transaction, as anyone may post it once the
        sequencer is silent."""
        derivation, start = self.verifier.node.derivation, parent.record.inbox_to
        steps = [message.step for message in derivation.inbox[start : start + messages]]
        block = execute_block(derivation.rules, parent.end, time, steps)
        data = encode_batch([BatchBlock(time, messages, [])])
        return abi.SubmitBatchArgs(parent.index, start + messages, data, block.tree.root)

    def l2_balance(self, name: str, member: Member | None = None) -> int:
        return (member or self.verifier).node.account(address(name)).balance

    def codes(self, method: str, who: str | None = None) -> list[str]:
        return [c for sender, m, c in self.receipts if m == method and who in (None, sender)]


@contextmanager
def stack_at(path: Path, *args: Any, **options: Any) -> Iterator[Stack]:
    """A stack that is closed in the end."""
    stack = Stack(path, *args, **options)
    try:
        yield stack
    finally:
        stack.close()
