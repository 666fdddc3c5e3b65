"""A call whose fee was right when it was sent, and is too low by now."""

import asyncio
from types import SimpleNamespace

import pytest
from bridge_harness import FUNDS, KEYS, L1_CHAIN, accounts, address

from chainkit.chain import Chain
from chainkit.codec import Address
from chainkit.execution import FeeParameters, environment
from chainkit.fees import SuggestedFees, suggest_fees
from chainkit.genesis import Genesis
from chainkit.mempool import Mempool
from chainkit.sender import TransactionSender
from chainkit.state import Account, State
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from rollup.duties import Duty
from rollup.outbox import LOST_AFTER, Outbox
from rollup.player import Move

FEES = FeeParameters(initial_base_fee=1, block_gas_limit=600_000, max_transaction_gas=300_000)
FULL, ABOVE_TARGET, BELOW_TARGET = 68, 37, 36
"""Transfers of mallory's in a block, as to its gas: nearly all, just more than half, just less. Half is always free for
the challenge."""
SPIKE = 8
WINDOW = 100


class SmallL1:
    """An L1 with a mempool, as much of a client as a sender asks for."""

    url = "here"

    def __init__(self) -> None:
        people = accounts(("verifier", "mallory"), FUNDS)
        self.chain = Chain(Genesis(L1_CHAIN, "l1", 0, 1000, 2, True, FEES, people, [], [], None))
        self.tip = self.chain.genesis_block
        self.pool = Mempool(self.chain.rules, max_per_sender=1000)

    def account_of(self, who: Address) -> Account:
        return State(self.tip.tree).account(who)

    async def account(self, who: Address) -> SimpleNamespace:
        account = self.account_of(who)
        return SimpleNamespace(nonce=account.nonce, pending_nonce=self.pool.next_nonce(who, account))

    async def fees(self) -> SuggestedFees:
        return suggest_fees(self.chain.rules, self.tip.tree)

    async def submit(self, tx: SignedTransaction) -> None:
        self.pool.add(tx, self.account_of)

    def mine(self, transfers: int) -> None:
        """A block with so many of mallory's transfers, and what else is paid for."""
        mallory = address("mallory")
        nonce = self.pool.next_nonce(mallory, self.account_of(mallory))
        for n in range(nonce, nonce + transfers):
            body = Body(L1_CHAIN, mallory, n, 9_000, 1000, 2, Transfer(address("verifier"), 1))
            self.pool.add(SignedTransaction.sign(body, KEYS["mallory"]), self.account_of)
        base_fee = environment(State(self.tip.tree)).base_fee
        chosen = list(self.pool.select(self.account_of, base_fee, FEES.block_gas_limit, 2**21))
        self.tip, _ = self.chain.build(self.tip, self.tip.header.slot + 1, bytes(32), chosen)
        self.pool.remove_included(self.tip.transactions, self.account_of)


async def blocks_until_challenged(l1: SmallL1, *, watched: bool) -> int:
    """How many L1 blocks a challenge takes that was sent right before mallory's spike. ``watched``: as a rollup service
    does, the sender is told of every block and raises its fees; else it only sees that what it sent got lost."""
    me = KEYS["verifier"]
    sender = TransactionSender([l1, l1], me, L1_CHAIN)  # type: ignore[list-item]
    outbox = Outbox(sender.send, me.address, lambda *_: None, sender.next_node)
    duty = Duty(("challenge", 1), Move(Call("bridge", "challenge", b"", 0), 200_000, "challenge batch 1"))
    for height in range(WINDOW):
        outbox.dispatch([duty], l1.tip.header.height)
        for _ in range(30):
            await asyncio.sleep(0)
        calm = ABOVE_TARGET if l1.tip.header.base_fee < 11 else BELOW_TARGET
        l1.mine(FULL if height < SPIKE else calm)
        outbox.on_l1_final(l1.tip)
        if watched and sender.on_l1_final(l1.tip):
            await sender.raise_fees()
        if any(tx.body.sender == me.address for tx in l1.tip.transactions):
            return height
    raise AssertionError(f"not in {WINDOW} blocks, each with half of its gas free")


@pytest.mark.parametrize(("watched", "most"), [(True, SPIKE + 2), (False, 2 * LOST_AFTER)])
def test_a_challenge_lands_though_the_base_fee_rose_above_what_it_offered_at_first(
    watched: bool, most: int
) -> None:
    """P12: a few full blocks must not silence a challenger: what it sends again would wait behind what it sent first,
    which its fee keeps out for as long as the base fee stays above it."""
    assert asyncio.run(blocks_until_challenged(SmallL1(), watched=watched)) <= most
