"""Users: accounts that act through the services' public faces.

Responsible for what honest users do: transfers, deposits, withdrawals, claims, forced transactions, stakes, and the
way out of a frozen bridge. Must not know what is checked. Everything goes
through `ChainClient` and the routes of the bridge; proofs come from the services as well.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any

from bridge import abi
from chainkit.client import ApiError
from chainkit.codec import decode, encode, from_json
from chainkit.contract import NoArgs
from chainkit.sender import TransactionSender
from chainkit.state import account_key, storage_key
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from l1node.staking import UnstakeArgs
from rollup.messenger import WithdrawArgs
from simulation.world import COIN, USERS, VALIDATORS, World, key_of

L1_GAS = 400_000
L2_GAS = 120_000
PACE = 2.5
"""Seconds between two acts of a user, on average."""


def bridge_call(method: str, args: Any = None, value: int = 0) -> Call:
    """A call of the bridge contract."""
    return Call("bridge", method, encode(args or NoArgs()), value)


class Bank:
    """What clients read from L1: the state after the last final block of whichever validator is ahead."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def tree(self) -> Any:
        heads = [
            node.head("finalized") for node in map(self._world.node, range(VALIDATORS)) if node is not None
        ]
        best = max((h for h in heads if h is not None), key=lambda h: h.header.height, default=None)
        return None if best is None else best.tree

    def load(self, key: bytes, kind: Any) -> Any:
        tree = self.tree
        value = b"" if tree is None else tree.get(storage_key("bridge", key))
        return decode(kind, value) if value else None

    @property
    def totals(self) -> Any:
        return self.load(abi.TOTALS_KEY, abi.BridgeTotals)

    def first_pending(self) -> list[int]:
        """The batch that may be final next, if there is one."""
        totals = self.totals
        if totals is None or totals.head_batch == totals.final_batch:
            return []
        batch = self.load(abi.batch_key(totals.head_batch), abi.Batch)
        while batch.parent != totals.final_batch:
            batch = self.load(abi.batch_key(batch.parent), abi.Batch)
        return [batch.index]


class User:
    """One account with a temper of its own."""

    def __init__(self, world: World, name: str, quiet_after: float) -> None:
        self.world, self.name, self.key = world, name, key_of(name)
        self.rng: Random = world.rng(f"user/{name}")
        self.quiet_after = quiet_after
        order = [f"v{i}" for i in range(VALIDATORS)]
        self.rng.shuffle(order)
        clients = [world.client(name, host, retries=0, timeout=4.0) for host in order]
        self.l1 = TransactionSender(clients, self.key, 900)
        self.sequencer = world.client(name, "sequencer", retries=0, timeout=4.0)
        self.l2 = TransactionSender([self.sequencer], self.key, 901)
        self.bridge = world.client(name, "bridge", retries=1, timeout=4.0)
        self.bank = Bank(world)
        self.promises: dict[bytes, Any] = {}
        """Receipts that the sequencer signed for this user's L2 transactions."""
        self._asked: list[bytes] = []
        self._forced = 0

    async def run(self) -> None:
        """Act until the end; after ``quiet_after`` seconds only to get one's own out."""
        await asyncio.sleep(2.5 + self.rng.random() * PACE)
        while True:
            with suppress(ApiError):
                await self._act()
            await asyncio.sleep(self.rng.expovariate(1 / PACE))

    async def _act(self) -> None:
        totals = self.bank.totals
        if totals is not None and totals.frozen_height:
            await self._leave(totals)
            return
        if await self._freeze(totals):
            return
        quiet = self.world.loop.time() > self.quiet_after
        acts: list[tuple[Callable[[], Awaitable[None]], int]] = [(self._claim, 3)]
        if not quiet:
            acts += [
                (self._pay_on_l1, 2),
                (self._deposit, 2),
                (self._pay_on_l2, 6),
                (self._withdraw, 2),
                (self._force, 1),
            ]
        act = self.rng.choices([a for a, _ in acts], [w for _, w in acts])[0]
        await act()
        self.world.counts[f"act:{act.__name__}"] += 1

    def _someone(self) -> bytes:
        return key_of(self.rng.choice([name for name in USERS if name != self.name])).address

    async def _pay_on_l1(self) -> None:
        await self.l1.send(Transfer(self._someone(), self.rng.randrange(1, COIN)), 20_000)

    async def _deposit(self) -> None:
        action = bridge_call("deposit", abi.DepositArgs(self._someone()), self.rng.randrange(1_000, COIN))
        await self.l1.send(action, L1_GAS)

    async def _pay_on_l2(self) -> None:
        await self._on_l2(Transfer(self._someone(), self.rng.randrange(1, COIN // 10)))

    async def _withdraw(self) -> None:
        args = encode(WithdrawArgs(self.key.address))
        await self._on_l2(Call("messenger", "withdraw", args, self.rng.randrange(1, COIN)))

    async def _on_l2(self, action: Transfer | Call) -> None:
        self._asked.append(await self.l2.send(action, L2_GAS))
        for tx_id in self._asked[-3:]:
            found = await self.sequencer.transaction(tx_id)
            promise = None if found is None else found.answer.get("sequencer_receipt")
            if promise is not None:
                self.promises[tx_id] = promise

    async def _force(self) -> None:
        """Through L1, past the sequencer: the nonce is a guess, as the way may be long."""
        account = await self.sequencer.account(self.key.address)
        action: Transfer | Call = Transfer(self._someone(), self.rng.randrange(1, 1000))
        if self.rng.random() < 0.5:
            action = Call("messenger", "withdraw", encode(WithdrawArgs(self.key.address)), 5_000)
        body = Body(901, self.key.address, account.pending_nonce + self._forced % 2, L2_GAS, 50, 1, action)
        tx = SignedTransaction.sign(body, self.key)
        await self.l1.send(bridge_call("force", abi.ForceArgs(tx.wire)), L1_GAS)
        self._forced += 1

    async def _claim(self) -> None:
        """Claim what is ready, as the bridge service says; it brings the proof."""
        answer = await self.bridge.get("/withdrawals", {"address": "0x" + self.key.address.hex()})
        for shown in answer["withdrawals"]:
            if shown["status"] == "ready-to-claim":
                full = await self.bridge.get(f"/withdrawals/{shown['index']}")
                if full["claim_arguments"] is None:
                    continue
                args = from_json(abi.ClaimArgs, full["claim_arguments"])
                await self.l1.send(bridge_call("claim", args), 2_000_000)
                return

    # --- the way out ---

    async def _freeze(self, totals: Any) -> bool:
        """Freeze the bridge once it may be; whether it was tried."""
        settings = self.world.setup.settings
        final = self.world.watcher_height
        if totals is None or final <= totals.last_batch_height + settings.escape_timeout:
            return False
        for index in self.bank.first_pending():
            await self.l1.send(bridge_call("finalize", abi.BatchArgs(index)), 1_500_000)
        await self.l1.send(bridge_call("freeze"), 4_000_000)
        return True

    async def _leave(self, totals: Any) -> None:
        """Exit with the last final balance, take back deposits that L2 never took in, claim the rest."""
        await self._claim()
        if not self.bank.tree.get(storage_key("bridge", abi.exited_key(self.key.address))):
            proof = self._exit_proof()
            if proof is not None:
                await self.l1.send(bridge_call("exit", abi.ExitArgs(self.key.address, proof)), 2_000_000)
        final = self.bank.load(abi.batch_key(totals.final_batch), abi.Batch)
        for index in range(final.inbox_to, totals.inbox_length):
            entry = self.bank.load(abi.inbox_key(index), abi.InboxEntry)
            if entry.amount and not entry.refunded and entry.depositor == self.key.address:
                await self.l1.send(bridge_call("refund", abi.RefundArgs(index)), L1_GAS)
                return

    def _exit_proof(self) -> bytes | None:
        """From whoever derived L2 from L1: the verifier, or the bridge."""
        for name in ("verifier", "bridge"):
            core = self.world.processes[name].core if name in self.world.processes else None
            if core is not None:
                derivation = core.node.derivation if name == "verifier" else core.state.derivation
                tree = derivation.finalized_batch.end.tree
                return bytes(tree.prove([account_key(self.key.address)]))
        return None


async def send_probe(world: World, at: float) -> tuple[bytes, float]:
    """A plain transfer, sent to one validator after the other until one takes it; its id and when that was."""
    await asyncio.sleep(at)
    clients = [world.client("probe", f"v{i}", retries=0, timeout=4.0) for i in range(VALIDATORS)]
    sender = TransactionSender(clients, key_of("probe"), 900)
    while True:
        with suppress(ApiError):
            tx_id = await sender.send(Transfer(key_of("alice").address, 1), 20_000)
            return tx_id, world.loop.time()
        await asyncio.sleep(1.0)


class Staker:
    """Comes with a small stake, leaves again, and takes it back once it has unbonded."""

    def __init__(self, world: World) -> None:
        self.rng = world.rng("staker")
        self.key = key_of("heidi")
        clients = [world.client("heidi", f"v{i}", retries=0, timeout=4.0) for i in range(VALIDATORS)]
        self.l1 = TransactionSender(clients, self.key, 900)

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.sleep(self.rng.uniform(2.0, 10.0))
        await self._send("stake", NoArgs(), COIN + self.rng.randrange(COIN))
        await asyncio.sleep(self.rng.uniform(4.0, 15.0))
        await self._send("unstake", UnstakeArgs(COIN))
        while True:
            await asyncio.sleep(8.0)
            await self._send("withdraw", NoArgs())

    async def _send(self, method: str, args: Any, value: int = 0) -> None:
        with suppress(ApiError):
            await self.l1.send(Call("staking", method, encode(args), value), L1_GAS)
