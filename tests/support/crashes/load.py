"""Clients of a devnet whose services die: transfers, deposits, withdrawals, claims, and what each was promised.

Responsible for sending until it is certain, for keeping every signed receipt, and for the balances that follow from
what was done. Must not know who is killed, or when.

Every client signs for itself and sends one and the same transaction again until it stands in a block: its nonce lets
it in once.
"""

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any, Final

import httpx

from bridge.abi import DepositArgs
from chainkit.codec import encode, from_json
from chainkit.keys import KeyPair, dev_keypair
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from crashes.stack import USERS, Stack
from crashes.tap import Broken
from rollup.messenger import WithdrawArgs
from rollup.receipt import SequencerReceipt

MAX_FEE: Final = 1_000
TRANSFER_GAS: Final = 30_000
WITHDRAW_GAS: Final = 150_000
DEPOSIT_GAS: Final = 400_000
BURST: Final = 6
WAIT_MS: Final = 1500
RETRY: Final = 0.1
MSGPACK: Final = {"content-type": "application/msgpack"}
PAYERS: Final = ("alice", "bob")
"""Who claims for others, both at once: the bridge must pay once all the same."""


class Load:
    """All clients of a run, and what they know for certain."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self.stack = stack
        self.choice = random.Random(f"load {seed}")
        self.promises: dict[bytes, SequencerReceipt] = {}
        self.l2 = Counter({dev_keypair(name).address: stack.config.l2_fund for name in USERS})
        """gwei on L2 by address, as it follows from the receipts of what was done."""
        self.owed: Counter[bytes] = Counter()
        """gwei that withdrawals owe on L1, by recipient; nobody else pays these."""
        self.withdrawals: dict[bytes, tuple[bytes, int]] = {}
        """L2 transaction -> (recipient on L1, amount)."""
        self.claimed: set[bytes] = set()
        self.done: Counter[str] = Counter()
        self.stopping = False
        self._nonces: Counter[tuple[int, bytes]] = Counter()
        self._recipients = 0

    async def run(self) -> None:
        """Until `stop`; raises `Broken` for the first broken promise."""
        half = len(USERS) // 2
        async with asyncio.TaskGroup() as group:
            for name in USERS[:half]:
                group.create_task(self._transfers(dev_keypair(name)), name=f"transfers of {name}")
            for name in USERS[half : half + 2]:
                group.create_task(self._withdrawals(dev_keypair(name)), name=f"withdrawals of {name}")
            for name in USERS[half + 2 :]:
                group.create_task(self._deposits(dev_keypair(name)), name=f"deposits of {name}")
            group.create_task(self._claims(), name="claims")

    def stop(self) -> None:
        """Finish what is under way and end."""
        self.stopping = True

    # --- what they do ---

    async def _transfers(self, key: KeyPair) -> None:
        while not self.stopping:
            burst = [self._transfer(key) for _ in range(self.choice.randint(1, BURST))]
            for tx, view in zip(burst, await self._on_l2(burst), strict=True):
                action = tx.body.action
                assert isinstance(action, Transfer)
                self._move(tx, view, action.amount, action.to)
                self.done["transfers"] += 1
            await asyncio.sleep(self.choice.random() * 0.1)

    def _transfer(self, key: KeyPair) -> SignedTransaction:
        to = dev_keypair(self.choice.choice(USERS)).address
        action = Transfer(to, self.choice.randint(1, 1000))
        return self._sign(self.stack.config.l2_chain_id, key, TRANSFER_GAS, action)

    async def _withdrawals(self, key: KeyPair) -> None:
        while not self.stopping:
            self._recipients += 1
            recipient = dev_keypair(f"recipient-{self._recipients}").address
            amount = self.choice.randint(1000, 5000)
            action = Call("messenger", "withdraw", encode(WithdrawArgs(recipient)), amount)
            tx = self._sign(self.stack.config.l2_chain_id, key, WITHDRAW_GAS, action)
            (view,) = await self._on_l2([tx])
            self._move(tx, view, amount, None)
            self.withdrawals[tx.id] = recipient, amount
            self.owed[recipient] += amount
            self.done["withdrawals"] += 1
            await asyncio.sleep(self.choice.random() * 1.5)

    async def _deposits(self, key: KeyPair) -> None:
        while not self.stopping:
            to = dev_keypair(self.choice.choice(USERS)).address
            amount = self.choice.randint(1000, 5000)
            action = Call("bridge", "deposit", encode(DepositArgs(to)), amount)
            tx = self._sign(self.stack.config.l1_chain_id, key, DEPOSIT_GAS, action)
            await self._on_l1(tx)
            self.l2[to] += amount
            self.done["deposits"] += 1

    async def _claims(self) -> None:
        """Claim whatever can be claimed, for all, twice at once."""
        while not self.stopping or len(self.claimed) < len(self.withdrawals):
            for tx_id in [tx_id for tx_id in self.withdrawals if tx_id not in self.claimed]:
                with contextlib.suppress(httpx.HTTPError):
                    shown = await self.stack.get("bridge", f"/withdrawals/0x{tx_id.hex()}")
                    if shown["status"] == "claimed":
                        self.claimed.add(tx_id)
                        self.done["claims"] += 1
                    elif shown["status"] == "ready-to-claim":
                        await asyncio.gather(*(self._claim(tx_id, payer) for payer in PAYERS))
                    elif shown["status"] == "reverted":
                        raise Broken(f"withdrawal 0x{tx_id.hex()} was reverted: {shown['reason']}")
                    else:
                        break  # the others are younger
            await asyncio.sleep(0.3)

    async def _claim(self, tx_id: bytes, payer: str) -> None:
        with contextlib.suppress(httpx.HTTPError):
            url = f"{self.stack.url('bridge')}/withdrawals/0x{tx_id.hex()}/claim"
            await self.stack.http.post(url, json={"from": payer})

    # --- signing and sending ---

    def _sign(self, chain_id: int, key: KeyPair, gas: int, action: Transfer | Call) -> SignedTransaction:
        nonce = self._nonces[chain_id, key.address]
        self._nonces[chain_id, key.address] += 1
        return SignedTransaction.sign(Body(chain_id, key.address, nonce, gas, MAX_FEE, 1, action), key)

    async def _on_l2(self, burst: list[SignedTransaction]) -> list[dict[str, Any]]:
        """Send to the sequencer until each stands in a block; the views, in order."""
        url = f"{self.stack.url('sequencer')}/transactions?wait={WAIT_MS}"
        views: dict[bytes, dict[str, Any]] = {}
        while len(views) < len(burst):
            left = [tx for tx in burst if tx.id not in views]
            with contextlib.suppress(httpx.HTTPError):
                answer = await self.stack.http.post(
                    url, content=encode([tx.wire for tx in left]), headers=MSGPACK
                )
                if answer.status_code == 202:
                    self._keep_receipts(left, answer.json()["results"])
                for tx in left:
                    view = await self._look("sequencer", tx.id)
                    if view is not None and view["receipt"] is not None:
                        self._keep(tx, view["sequencer_receipt"])
                        views[tx.id] = view
            if len(views) < len(burst):
                await asyncio.sleep(RETRY)
        return [views[tx.id] for tx in burst]

    def _keep_receipts(self, sent: list[SignedTransaction], results: list[dict[str, Any]]) -> None:
        for tx, result in zip(sent, results, strict=True):
            if result.get("sequencer_receipt"):
                self._keep(tx, result["sequencer_receipt"])
            elif not result["accepted"] and result["code"] in (
                "stale_nonce",
                "bad_signature",
                "insufficient_balance",
            ):
                raise Broken(f"the sequencer refused 0x{tx.id.hex()}: {result['code']}: {result['message']}")

    def _keep(self, tx: SignedTransaction, shown: Any) -> None:
        """A receipt: it must be signed, for this transaction, and no other than one that was given before."""
        promise = from_json(SequencerReceipt, shown)
        if promise.tx_id != tx.id or not promise.valid():
            raise Broken(f"the sequencer gave a bad receipt for 0x{tx.id.hex()}")
        before = self.promises.setdefault(tx.id, promise)
        if (before.height, before.position) != (promise.height, promise.position):
            raise Broken(
                f"0x{tx.id.hex()} was promised place {before.height}/{before.position}, "
                f"then {promise.height}/{promise.position}"
            )

    async def _on_l1(self, tx: SignedTransaction) -> None:
        """Send to one validator after the other until it is in a final block; it must not have failed."""
        names = self.stack.config.validator_names
        while True:
            name = self.choice.choice(names)
            with contextlib.suppress(httpx.HTTPError):
                url = self.stack.url(name) + "/transactions"
                await self.stack.http.post(url, content=encode([tx.wire]), headers=MSGPACK)
                for _ in range(20):
                    view = await self._look(name, tx.id)
                    if view is not None and view["status"] == "finalized":
                        if not view["receipt"]["success"]:
                            raise Broken(f"0x{tx.id.hex()} failed on L1: {view['receipt']}")
                        return
                    await asyncio.sleep(RETRY)

    async def _look(self, name: str, tx_id: bytes) -> dict[str, Any] | None:
        answer = await self.stack.http.get(f"{self.stack.url(name)}/transactions/0x{tx_id.hex()}")
        view: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return view

    def _move(self, tx: SignedTransaction, view: dict[str, Any], amount: int, to: bytes | None) -> None:
        receipt = view["receipt"]
        if not receipt["success"]:
            raise Broken(f"0x{tx.id.hex()} failed on L2: {receipt}")
        self.l2[tx.body.sender] -= amount + receipt["fee"]
        if to is not None:
            self.l2[to] += amount
