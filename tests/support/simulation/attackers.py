"""Attackers: accounts with keys and money, but no stake and no scruples.

Responsible for colluding challengers, for calls that must be refused, and for floods. Must not know what is checked:
whatever gets through is the watcher's to find.
"""

import asyncio
from contextlib import suppress
from typing import Any

import msgspec

from bridge import abi
from chainkit.client import ApiError
from chainkit.codec import from_json
from chainkit.contract import NoArgs
from chainkit.sender import TransactionSender
from chainkit.transaction import Body, SignedTransaction, Transfer
from simulation.clients import Bank, bridge_call
from simulation.faults import Fault
from simulation.world import USERS, VALIDATORS, World, key_of


class Colluder:
    """Challenges whatever is posted, with a root of its own, and then plays to lose: silently, or at random."""

    def __init__(self, world: World, fault: Fault) -> None:
        self.world, self.manner = world, fault.value
        self.rng = world.rng("colluder")
        self.key = key_of("mallory")
        clients = [world.client("mallory", f"v{i}", retries=0, timeout=4.0) for i in range(VALIDATORS)]
        self.l1 = TransactionSender(clients, self.key, 900)
        self.bank = Bank(world)
        self.bridge = world.client("mallory", "bridge", retries=0, timeout=4.0)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.5, 3.0))
            totals = self.bank.totals
            if totals is not None:
                with suppress(ApiError):
                    await self._meddle(totals)
                    await self._divert()
                    if not totals.frozen_height:
                        await self._challenge(totals)
                        await self._play(totals)

    async def _meddle(self, totals: Any) -> None:
        """Ask for what nobody may have, or not yet: each of these must be refused."""
        rng, last = self.rng, max(0, totals.next_batch - 1)
        batch, dispute = rng.randint(max(0, last - 2), last), rng.randrange(totals.next_dispute + 1)
        anybody = key_of(rng.choice(USERS)).address
        junk = rng.randbytes(64)
        calls = [
            ("finalize", abi.BatchArgs(batch)),
            ("timeout", abi.DisputeArgs(dispute)),
            ("settle", abi.DisputeArgs(dispute)),
            ("freeze", NoArgs()),
            ("exit", abi.ExitArgs(anybody, junk)),
            ("refund", abi.RefundArgs(rng.randrange(totals.inbox_length + 1))),
            ("claim", abi.ClaimArgs(batch, rng.randrange(3), self.key.address, 1, junk)),
            ("bisect", abi.BisectArgs(dispute, [junk[:32]] * 3)),
            ("choose", abi.ChooseArgs(dispute, 0)),
            ("prove", abi.ProveArgs(dispute, junk, [junk[:32]], junk)),
            ("force", abi.ForceArgs(junk)),
            ("deposit", abi.DepositArgs(anybody)),
        ]
        calls += [("timeout", abi.DisputeArgs(index)) for index in self._almost_late(totals)] * 8
        calls += [("finalize", abi.BatchArgs(index)) for index in self.bank.first_pending()] * 4
        method, args = rng.choice(calls)
        await self.l1.send(bridge_call(method, args), 2_000_000)

    def _almost_late(self, totals: Any) -> list[int]:
        """Disputes in which the side to move has its last block, or the one before that."""
        found = []
        for index in range(totals.next_dispute):
            dispute = self.bank.load(abi.dispute_key(index), abi.Dispute)
            if dispute is not None and dispute.stage != abi.RESOLVED:
                clock = dispute.defender_clock if dispute.turn == abi.DEFENDER else dispute.challenger_clock
                if 0 <= clock - (self.world.watcher_height - dispute.last_move) <= 3:
                    found.append(index)
        return found

    async def _divert(self) -> None:
        """Claim somebody's withdrawal, with its proof, for oneself; or for a gwei more; or a second time."""
        victim = key_of(self.rng.choice(USERS)).address
        answer = await self.bridge.get("/withdrawals", {"address": "0x" + victim.hex()})
        ready = [shown["index"] for shown in answer["withdrawals"] if shown["status"] == "ready-to-claim"]
        if not ready:
            return
        full = await self.bridge.get(f"/withdrawals/{ready[0]}")
        if full["claim_arguments"] is None:
            return
        args = from_json(abi.ClaimArgs, full["claim_arguments"])
        changes: dict[str, Any] = self.rng.choice(
            ({"recipient": self.key.address}, {"amount": args.amount + 1}, {"index": args.index + 1}, {})
        )
        await self.l1.send(bridge_call("claim", msgspec.structs.replace(args, **changes)), 2_000_000)

    async def _challenge(self, totals: Any) -> None:
        if totals.head_batch == totals.final_batch or self.rng.random() < 0.6:
            return
        batch = self.bank.load(abi.batch_key(totals.head_batch), abi.Batch)
        root = self.rng.choice((batch.previous_root, self.rng.randbytes(32)))
        bond = self.world.setup.settings.challenger_bond
        await self.l1.send(bridge_call("challenge", abi.ChallengeArgs(batch.index, root), bond), 1_000_000)

    async def _play(self, totals: Any) -> None:
        if self.manner == "silent":
            return
        for index in range(totals.next_dispute):
            dispute = self.bank.load(abi.dispute_key(index), abi.Dispute)
            if dispute is None or dispute.challenger != self.key.address or dispute.stage != abi.CHOOSE:
                continue
            segment = self.rng.randrange(len(dispute.points) + 1)
            await self.l1.send(bridge_call("choose", abi.ChooseArgs(index, segment)), 1_000_000)


class Flooder:
    """Sends junk as fast as it can: bad signatures, gapped nonces, wrong chains, bytes that are nothing."""

    def __init__(self, world: World, fault: Fault) -> None:
        self.world, self.fault = world, fault
        self.rng = world.rng(f"flood/{fault.at}")
        self.key = key_of("mallory")
        self.client = world.client("mallory", fault.who[0], retries=0, timeout=4.0)

    async def run(self) -> None:
        """Until cancelled; ``value`` requests a second."""
        while True:
            await asyncio.sleep(1 / self.fault.value)
            with suppress(ApiError):
                await self._send()

    async def _send(self) -> None:
        rng, chain_id = self.rng, 901 if self.fault.who[0] == "sequencer" else 900
        kind = rng.randrange(5)
        if kind == 0:
            await self.client._send(
                "POST", "/transactions", content=rng.randbytes(rng.randrange(400)), kind="application/msgpack"
            )
            return
        if kind == 1 and self.fault.who[0] != "sequencer":
            await self.client._send(
                "POST",
                "/p2p/messages",
                content=rng.randbytes(rng.randrange(1, 400)),
                kind="application/msgpack",
            )
            return
        nonce = rng.randrange(1, 1000) if kind == 2 else 0
        body = Body(
            chain_id + (kind == 3),
            self.key.address,
            nonce,
            20_000,
            50,
            1,
            Transfer(key_of("alice").address, rng.randrange(9)),
        )
        tx = SignedTransaction.sign(body, self.key)
        if kind == 4:
            forged = tx.wire[:-1] + bytes([tx.wire[-1] ^ 1])
            tx = SignedTransaction.decode(forged)
        await self.client.submit_many([tx])
