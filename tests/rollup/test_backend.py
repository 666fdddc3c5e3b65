"""A rollup node behind the chain API: statuses that only rise with L1, and typed refusals."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from bridge_harness import address, l2_transfer, l2_tx
from rollup_stack import Stack, stack_at

from chainkit.backend import SubmitResult
from chainkit.codec import from_json, to_json
from chainkit.intake import Intake
from chainkit.transaction import SignedTransaction, Transfer
from rollup import node as node_module
from rollup.backend import KEPT_RECEIPTS, READY_LAG, RollupBackend, batch_json
from rollup.block import execute_block
from rollup.faults import Fault
from rollup.receipt import SequencerReceipt


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with stack_at(tmp_path) as made:
        yield made


def backend(stack: Stack, role: str = "sequencer", l1_final: int | None = 0) -> RollupBackend:
    member = stack.sequencer if role == "sequencer" else stack.verifier
    return RollupBackend(member.node, lambda: l1_final, lambda: None)


def submit(api: RollupBackend, *wires: bytes) -> list[SubmitResult]:
    return list(asyncio.run(api.submit([SignedTransaction.decode(wire) for wire in wires])))


def test_a_transaction_rises_from_pending_to_finalized(stack: Stack) -> None:
    api = backend(stack)
    stack.step()
    (result,) = submit(api, l2_transfer("alice", 0, "bob", 5))
    assert result.accepted
    assert api.pending_nonce(address("alice")) == 1
    seen = []
    for _ in range(40):
        view = api.transaction(result.hash)
        assert view is not None
        seen.append(view.status)
        if view.height is not None:
            promise = from_json(SequencerReceipt, view.extra["sequencer_receipt"])
            assert promise.valid()
            assert (promise.height, promise.position) == (view.height, view.position)
        stack.step()
    order = ["pending", "unsafe", "safe", "finalized"]
    assert sorted(set(seen), key=order.index) == order
    assert [order.index(s) for s in seen] == sorted(order.index(s) for s in seen)
    shown = backend(stack, "verifier").transaction(result.hash)
    assert shown is not None
    assert shown.extra == {"sequencer_receipt": None}, "only the sequencer promises"


def test_refusals_are_typed(stack: Stack) -> None:
    stack.step()
    wire = l2_transfer("alice", 0, "bob", 5)
    api = backend(stack)
    first, again, gap, poor = submit(
        api, wire, wire, l2_transfer("alice", 999, "bob", 5), l2_transfer("dave", 0, "bob", 5)
    )
    assert first.accepted
    assert (again.accepted, again.code) == (True, "already_known")
    assert not gap.accepted
    assert not poor.accepted
    assert {gap.code, poor.code}.isdisjoint({""})
    (refused,) = submit(backend(stack, "verifier"), wire)
    assert (refused.accepted, refused.code) == (False, "not_sequencer")
    stack.sequencer.node.derivation.frozen = True
    (refused,) = submit(api, l2_tx("bob", 0, Transfer(address("alice"), 1)))
    assert refused.code == "bridge_frozen"


def test_blocks_and_heads(stack: Stack) -> None:
    api = backend(stack)
    genesis = api.block(0)
    assert genesis is not None
    assert api.block(genesis.hash) == genesis
    assert api.block(1) is None
    assert api.block(b"\x07" * 32) is None
    assert api.transaction(b"\x07" * 32) is None
    stack.deposit()
    stack.transfer()
    stack.step(3)
    for height in range(1, stack.sequencer.node.local.head.header.height + 1):
        view = api.block(height)
        assert view is not None
        assert api.block(view.hash) == view
    heads = [api.head(ref) for ref in ("finalized", "safe", "head")]
    levels = [head.header.height for head in heads if head is not None]
    assert levels == sorted(levels)
    assert len(levels) == 3
    messages = [m for h in range(1, levels[-1] + 1) if (v := api.block(h)) for m in v.extra["inbox"]]
    assert [m["type"] for m in messages] == ["deposit"]


def test_ready_means_in_step_with_l1(stack: Stack) -> None:
    assert not backend(stack, l1_final=None).ready()[0]
    assert not backend(stack, l1_final=5).ready()[0], "no L1 block yet"
    stack.step(3)
    assert backend(stack, l1_final=3 + READY_LAG).ready()[0]
    assert not backend(stack, l1_final=4 + READY_LAG).ready()[0]


def test_status_says_dishonest_loudly_and_metrics_are_numbers(stack: Stack) -> None:
    stack.sequencer.faults.set(Fault("steal"))
    assert backend(stack).status()["dishonest_on_purpose"] == [{"name": "steal"}]
    stack.transfer()
    stack.step(3)
    for role in ("sequencer", "verifier"):
        assert all(isinstance(value, int) for value in backend(stack, role).metrics().values())
    shown = batch_json(stack.verifier.node, 1)
    assert shown is not None
    assert shown["matches"] is False
    assert shown["computed_root"] != shown["state_root"]
    assert batch_json(stack.verifier.node, 99) is None


def test_a_receipt_is_given_when_the_disk_has_its_block(stack: Stack) -> None:
    api, node = backend(stack), stack.sequencer.node
    stack.step()
    results = submit(api, l2_transfer("alice", 0, "bob", 5), l2_transfer("bob", 0, "carol", 5))
    ids = [result.hash for result in results]

    async def wait() -> None:
        asking = asyncio.create_task(api.included(ids, 30))
        late = asyncio.create_task(api.included([b"\x07" * 32], 0.001))
        impatient = asyncio.create_task(api.included(ids, 60))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        block = node.produce(stack.now(), flush=False)
        assert block is not None
        for tx_id in ids:
            view = api.transaction(tx_id)
            assert view is not None
            assert (view.status, view.receipt, view.extra) == ("pending", None, {})
        assert not asking.done()
        node.store.flush()
        node.local.flushed()
        api.on_block(block)
        found = await asking
        for position, tx_id in enumerate(ids):
            view = api.transaction(tx_id)
            assert view is not None
            assert view.status == "unsafe"
            promise = found[tx_id]["sequencer_receipt"]
            assert promise.valid()
            assert view.extra == {"sequencer_receipt": to_json(promise)}
            assert (found[tx_id]["height"], found[tx_id]["position"]) == (block.header.height, position)
            assert found[tx_id]["receipt"] == view.receipt
        assert await late == {}
        assert not api._included, "nobody is waited for who has gone"

    asyncio.run(wait())


def test_who_waits_is_answered_though_the_block_was_run_again_meanwhile(stack: Stack) -> None:
    """P9: a message of L1 comes while the disk is flushed, so that another block has the transaction."""
    api, node = backend(stack), stack.sequencer.node
    stack.step()
    (result,) = submit(api, l2_transfer("alice", 0, "bob", 5))

    async def wait() -> None:
        asking = asyncio.create_task(api.included([result.hash], 30))
        await asyncio.sleep(0)
        first = node.produce(stack.now(), flush=False)
        assert first is not None
        base = node.local.base
        node.local.rewind(base, node.local.base_cursor, "inbox messages must come first")
        again = execute_block(node.derivation.rules, base, first.header.time + 1, first.steps)
        node.local.append(again)
        node.store.flush()
        node.local.flushed()
        api.on_block(first)
        assert not api._included, "nobody is left waiting"
        found = (await asking)[result.hash]
        view = api.transaction(result.hash)
        assert view is not None
        assert (found["height"], found["position"]) == (view.height, view.position)
        assert (found["receipt"], found["sequencer_receipt"]) == (
            view.receipt,
            view.extra["sequencer_receipt"],
        )
        assert view.block_hash == again.hash != first.hash

    asyncio.run(wait())


def test_what_is_sent_again_costs_one_look_at_the_disk(stack: Stack) -> None:
    """P20, P23: old transactions, of another block each time, are sent to make the sequencer read their blocks."""
    api, node = backend(stack), stack.sequencer.node
    stack.step()
    rounds: list[list[SignedTransaction]] = []
    for number in range(KEPT_RECEIPTS + 4):
        wires = [l2_transfer("alice", 4 * number + n, "bob", 1) for n in range(4)]
        assert all(result.accepted for result in submit(api, *wires))
        assert node.produce(stack.now() + 1 + number) is not None
        rounds.append([SignedTransaction.decode(wire) for wire in wires])
    again = [tx for turn in zip(*rounds, strict=True) for tx in turn]
    statements: list[str] = []
    node.store._db.set_trace_callback(statements.append)
    results = asyncio.run(Intake(api).submit(again))
    node.store._db.set_trace_callback(None)
    assert [result.code for result in results] == ["already_included"] * len(again)
    assert len(statements) <= len(again)


def test_what_l1_does_not_take_is_refused_in_the_end(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    api, node = backend(stack), stack.sequencer.node
    stack.sequencer.faults.set(Fault("withhold"))  # nothing is posted, as if L1 took nothing
    wires = [l2_transfer("alice", n, "bob", 5) for n in range(4)]
    monkeypatch.setattr(node_module, "MAX_UNPOSTED_BYTES", 2 * len(wires[0]))
    codes = []
    for wire in wires:
        (result,) = submit(api, wire)
        codes.append(result.code)
        stack.step()
    assert codes == ["", "", "", "l1_behind"]
    assert node.local.transaction_bytes == 3 * len(wires[0]) == api.metrics()["unposted_bytes"]
    stack.sequencer.faults.clear("withhold")
    for _ in range(40):
        stack.step()
    (result,) = submit(api, wires[3])
    assert (result.accepted, node.local.transaction_bytes) == (True, 0), "what L1 has taken makes room"
