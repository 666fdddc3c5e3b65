"""The sender against nodes that are behind, gone, unwilling or lying."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from ledger import ALICE, BOB

from chainkit.client import ApiError, ChainClient
from chainkit.codec import decode
from chainkit.sender import MAX_FEE, MAX_TIP, TransactionSender
from chainkit.transaction import SignedTransaction, Transfer


@dataclass
class FakeNode:
    """Answers what a sender asks; ``verdict`` is a code per transaction ("" accepts)."""

    verdict: Callable[[SignedTransaction], str] = lambda _: ""
    nonce: int = 0
    fees: dict[str, Any] = field(
        default_factory=lambda: {"base_fee": 4, "max_fee_per_gas": 9, "tip_per_gas": 1}
    )
    gone: bool = False
    nonsense: Any = None
    taken: list[SignedTransaction] = field(default_factory=list)
    asked: int = 0

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.gone:
            raise httpx.ConnectError("refused")
        if self.nonsense is not None:
            return httpx.Response(200, json=self.nonsense)
        if request.url.path == "/status":
            return httpx.Response(200, json={"fees": self.fees})
        if request.url.path.startswith("/accounts/"):
            shown = {"address": "0x" + ALICE.address.hex(), "name": None, "exists": True, "height": 1}
            return httpx.Response(200, json={**shown, "balance": 5, "nonce": 0, "pending_nonce": self.nonce})
        (wire,) = decode(list[bytes], request.content)
        tx = SignedTransaction.decode(wire)
        code = self.verdict(tx)
        if not code:
            self.taken.append(tx)
            self.nonce += 1
        result = {"hash": "0x" + tx.id.hex(), "accepted": not code, "code": code, "message": code}
        return httpx.Response(200, content=json.dumps({"results": [result]}))


def send(
    nodes: Sequence[FakeNode], times: int = 1, between: Callable[[TransactionSender], None] = lambda _: None
) -> list[bytes]:
    async def main() -> list[bytes]:
        clients = [ChainClient("http://n", retries=0, transport=httpx.MockTransport(n.handle)) for n in nodes]
        sender = TransactionSender(clients, ALICE, 900)
        ids = []
        for amount in range(1, times + 1):
            ids.append(await sender.send(Transfer(BOB.address, amount), 100_000))
            between(sender)
        for client in clients:
            await client.aclose()
        return ids

    async def no_sleep(_: float) -> None:
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", no_sleep)
        return asyncio.run(main())


def test_nonces_follow_the_pool() -> None:
    node = FakeNode()
    ids = send([node], 3)
    assert [tx.body.nonce for tx in node.taken] == [0, 1, 2]
    assert ids == [tx.id for tx in node.taken]
    assert all(tx.body.sender == ALICE.address for tx in node.taken)


def test_concurrent_sends_do_not_share_a_nonce() -> None:
    node = FakeNode()

    async def main() -> None:
        client = ChainClient("http://n", transport=httpx.MockTransport(node.handle))
        sender = TransactionSender([client], ALICE, 900)
        await asyncio.gather(*(sender.send(Transfer(BOB.address, n), 100_000) for n in range(5)))
        await client.aclose()

    asyncio.run(main())
    assert sorted(tx.body.nonce for tx in node.taken) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "code", ["stale_nonce", "nonce_gap", "already_known", "replacement_underpriced", "fee_too_low"]
)
def test_what_another_nonce_or_fee_may_cure_is_tried_again(code: str) -> None:
    tries = iter([code, code, ""])
    node = FakeNode(verdict=lambda _: next(tries))
    send([node])
    assert len(node.taken) == 1


def test_a_node_that_is_gone_is_left_for_the_next() -> None:
    gone, there = FakeNode(gone=True), FakeNode()
    send([gone, there], 3)
    assert (gone.asked, len(there.taken)) == (1, 3)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: FakeNode(verdict=lambda _: "i_do_not_like_you"),
        lambda: FakeNode(nonsense=[]),
        lambda: FakeNode(nonsense={"fees": {}}),
        lambda: FakeNode(nonsense="no"),
        lambda: FakeNode(fees={"base_fee": "x", "max_fee_per_gas": None, "tip_per_gas": -1}),
        lambda: FakeNode(nonce=-1),
        lambda: FakeNode(nonce=2**70),
    ],
)
def test_one_nodes_refusal_or_nonsense_is_not_believed(bad: Callable[[], FakeNode]) -> None:
    liar, honest = bad(), FakeNode()
    send([liar, honest], 2)
    assert len(honest.taken) == 2
    assert not liar.taken


def test_what_all_refuse_is_raised() -> None:
    nodes = [FakeNode(verdict=lambda _: "insufficient_funds") for _ in range(3)]
    with pytest.raises(ApiError) as caught:
        send(nodes)
    assert caught.value.code == "insufficient_funds"
    assert all(node.asked for node in nodes)
    with pytest.raises(ApiError) as caught:
        send([FakeNode(gone=True)] * 2)
    assert caught.value.code == "unreachable"


def test_no_word_on_fees_can_empty_the_account() -> None:
    """A node that is a validator too would get the tip."""
    node = FakeNode(fees={"base_fee": 4, "max_fee_per_gas": 2**52, "tip_per_gas": 2**52})
    send([node])
    assert node.taken[0].body.max_fee_per_gas == MAX_FEE
    assert node.taken[0].body.tip_per_gas == MAX_TIP


def test_a_node_that_forgets_what_it_took_is_left_when_the_caller_says_so() -> None:
    deaf, honest = FakeNode(), FakeNode()
    send([deaf, honest], 2, TransactionSender.next_node)
    assert (len(deaf.taken), len(honest.taken)) == (1, 1)
