"""The way out with a key and L1 alone, over an L1 that is made block by block as the fugitive looks at it (P17)."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bridge_harness import KEYS, SETTINGS, address
from l1_devnet import l1_genesis
from rollup_stack import Member, Stack, certify, stack_at

from bridge import abi
from chainkit.block import CertifiedBlock
from chainkit.client import ApiError, ChainClient
from chainkit.codec import decode, encode
from chainkit.keys import KeyPair
from chainkit.transaction import SignedTransaction
from layerlab import escape as module
from layerlab.escape import EscapeError, ExitResult, L1Reader, escape
from rollup.faults import Fault


class FakeL1:
    """L1's HTTP face over a `Stack`: asked for a block that is not there yet, it makes one."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.down: set[str] = set()
        self.deaf: set[str] = set()
        """Hosts that are gone, and hosts that take transactions and forget them."""
        self.claims: dict[str, int] = {}
        """Final heights that hosts make up."""

    def client(self, url: str) -> ChainClient:
        return ChainClient(url, retries=0, transport=httpx.MockTransport(self.handle))

    async def handle(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)  # a network lets others run
        host, path = request.url.host, request.url.path
        if host in self.down:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=self.answer(host, path, request))

    def answer(self, host: str, path: str, request: httpx.Request) -> bytes:
        stack = self.stack
        if path == "/certified-blocks":
            start = int(request.url.params["from"])
            if start > stack.height:
                stack.mine()
            return encode([CertifiedBlock(b.block, certify(b)) for b in stack.l1[start - 1 : start + 63]])
        if path == "/status":
            fees = {"base_fee": 4, "max_fee_per_gas": 10**15, "tip_per_gas": 1}
            height = self.claims.get(host, max(0, stack.height - 1))
            return json.dumps({"fees": fees, "heads": {"finalized": {"height": height}}}).encode()
        if path.startswith("/accounts/"):
            account = stack.state.account(bytes.fromhex(path.rpartition("/")[2][2:]))
            shown = {"address": path.rpartition("/")[2], "name": None, "exists": True, "height": 0}
            numbers = {"balance": account.balance, "nonce": account.nonce, "pending_nonce": account.nonce}
            return json.dumps({**shown, **numbers}).encode()
        assert path == "/transactions"
        return self._take(host, decode(list[bytes], request.content))

    def _take(self, host: str, wires: list[bytes]) -> bytes:
        results: list[dict[str, Any]] = []
        for wire in wires:
            tx = SignedTransaction.decode(wire)
            if host not in self.deaf:
                self.stack.signed.append(tx)
            results.append({"hash": "0x" + tx.id.hex(), "accepted": True, "code": "", "message": ""})
        return json.dumps({"results": results}).encode()


@pytest.fixture
def l1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeL1]:
    with stack_at(tmp_path, validators=True) as stack:
        fake = FakeL1(stack)
        monkeypatch.setattr(module, "ChainClient", fake.client)
        yield fake


def live(stack: Stack) -> None:
    """Some batches become final, carol has a deposit on L2, and a later one is never taken in."""
    stack.deposit("alice", "carol", 50_000_000)
    stack.transfer("alice", "bob", 5)
    stack.step_until(lambda: stack.totals.final_batch >= 1)


def leave(l1: FakeL1, key: KeyPair = KEYS["alice"], hosts: tuple[str, ...] = ("a", "b", "c")) -> ExitResult:
    urls = [f"http://{host}" for host in hosts]
    return asyncio.run(asyncio.wait_for(escape(urls, l1.stack.chain.genesis, key), timeout=60))


def test_a_user_freezes_the_bridge_and_takes_the_balance_out(l1: FakeL1) -> None:
    live(l1.stack)
    owed, had = l1.stack.l2_balance("alice"), l1.stack.balance("alice")
    result = leave(l1)
    assert (result.account, result.amount, result.froze) == (address("alice"), owed, True)
    assert l1.stack.balance("alice") > had
    block = l1.stack.l1[result.height - 1]
    assert result.tx_id in [tx.id for tx in block.transactions], "the height is that of the payment"
    assert l1.stack.codes("freeze") == l1.stack.codes("exit") == [""]
    second = leave(l1, KEYS["bob"])
    assert not second.froze
    for who, why in ((KEYS["alice"], "already"), (KEYS["dave"], "no balance")):
        with pytest.raises(EscapeError, match=why):
            leave(l1, who)


def test_the_wait_is_told_in_about_ten_lines_not_a_line_a_block(l1: FakeL1) -> None:
    live(l1.stack)
    told: list[str] = []
    asyncio.run(
        asyncio.wait_for(escape(["http://a"], l1.stack.chain.genesis, KEYS["alice"], told.append), timeout=60)
    )
    assert [line for line in told if line.startswith(module.ALIVE)] == told[1:2], "said once, and first"
    assert "layerlab withdraw is the way out" in told[1]
    waiting = [int(line.split()[-3]) for line in told if line.endswith("blocks left")]
    assert 5 <= len(waiting) <= 2 * module.TELLING_SHARE < SETTINGS.escape_timeout
    assert waiting == sorted(waiting, reverse=True)


def test_what_the_operators_left_pending_is_settled_first(l1: FakeL1) -> None:
    stack = l1.stack
    live(stack)
    before = stack.l2_balance("alice")
    for amount in (1, 2, 3):
        stack.transfer("alice", "bob", amount)
        stack.step(2)
    assert stack.totals.pending >= 2
    result = leave(l1)
    assert stack.totals.pending == 0
    replayed = Member(stack, "verifier", stack.path / "later")
    replayed.catch_up()
    assert result.amount == stack.l2_balance("alice", replayed) < before
    replayed.close()


def test_it_comes_late_with_several_batches_whose_windows_are_over(l1: FakeL1) -> None:
    """The freeze is refused until each of them is settled: it must not be asked for again and again."""
    stack = l1.stack
    live(stack)
    for amount in (1, 2, 3):
        stack.transfer("alice", "bob", amount)
        stack.step(2)
    for _ in range(SETTINGS.escape_timeout + 5):
        stack.mine()
    leave(l1)
    assert stack.totals.pending == 0
    assert stack.codes("freeze") == [""]


def test_a_dispute_that_nobody_plays_is_called_off(l1: FakeL1) -> None:
    stack = l1.stack
    live(stack)
    stack.transfer("alice", "bob", 1)
    stack.step_until(lambda: stack.totals.pending == 1)
    stack.call(
        "dave",
        "challenge",
        abi.ChallengeArgs(stack.totals.head_batch, b"\x05" * 32),
        SETTINGS.challenger_bond,
    )
    stack.mine()
    leave(l1)
    assert "" in stack.codes("timeout", "alice")


def test_a_lie_that_nobody_challenged_is_not_made_final_by_who_flees(l1: FakeL1) -> None:
    stack = l1.stack
    live(stack)
    owed = stack.l2_balance("alice")
    stack.sequencer.faults.set(Fault("mint"))
    stack.verifier.faults.set(Fault("asleep"))
    stack.transfer("alice", "bob", 1)
    stack.step_until(lambda: stack.totals.pending == 1)
    result = leave(l1)
    assert result.amount == owed
    assert not stack.codes("finalize", "alice")


def test_what_l1_holds_for_true_and_is_not_cannot_be_proven(l1: FakeL1) -> None:
    stack = l1.stack
    stack.verifier.faults.set(Fault("asleep"))
    stack.sequencer.faults.set(Fault("mint"))
    stack.transfer("alice", "bob", 1)
    stack.step_until(lambda: stack.totals.final_batch == 1)
    with pytest.raises(EscapeError, match="false state"):
        leave(l1)


def test_dead_deaf_and_lying_nodes_do_not_hold_it_up(l1: FakeL1) -> None:
    live(l1.stack)
    l1.down = {"a"}
    l1.deaf = {"b"}
    l1.claims = {"b": 2**52}
    assert leave(l1, hosts=("a", "b", "c", "d")).froze


def test_with_no_node_it_says_so(l1: FakeL1) -> None:
    l1.down = {"a", "b"}
    with pytest.raises(ApiError, match="cannot be reached"):
        leave(l1, hosts=("a", "b"))


def test_a_reader_needs_a_bridge() -> None:
    with pytest.raises(EscapeError, match="no bridge"):
        L1Reader(["http://a"], l1_genesis())
