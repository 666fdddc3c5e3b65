"""The node around the engine: durable before spoken, restart at any action, evidence by itself, limits."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from l1_devnet import l1_genesis
from l1_mesh import Mesh
from msgspec import structs

from chainkit.block import Block, Proposal, Vote
from chainkit.codec import encode
from chainkit.execution import intrinsic_gas
from chainkit.fees import suggest_fees, transfer_gas
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair, dev_keypair
from chainkit.startup import StartupError
from chainkit.state import State
from chainkit.store import StoreError
from chainkit.transaction import Body, SignedTransaction, Transfer
from l1node.checkpoint import Checkpoint, parse_checkpoint
from l1node.messages import decode_body, encode_message, join
from l1node.node import BrokenNodeError, L1Node
from l1node.watch import contradiction

ALICE, BOB = dev_keypair("alice"), dev_keypair("bob")
BAD = dev_keypair("validator-3")


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def transfer(node: L1Node, nonce: int, amount: int = 5, key: KeyPair = ALICE) -> SignedTransaction:
    fees = suggest_fees(node.rules, node.engine.head.tree)
    gas = transfer_gas(node.rules.fees.gas_per_byte)
    body = Body(900, key.address, nonce, gas, fees.max_fee_per_gas, 1, Transfer(BOB.address, amount))
    return SignedTransaction.sign(body, key)


@pytest.fixture
def genesis() -> Genesis:
    return l1_genesis()


# --- agreeing ---------------------------------------------------------------------------------------------


def test_four_nodes_finalize_one_chain_and_keep_it_on_disk(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running() as mesh:
            await mesh.slots(8)
            finals = [node.engine.final for node in mesh.nodes.values()]
            assert {block.hash for block in finals} == {finals[0].hash}
            assert finals[0].header.height >= 5
            for name in list(mesh.nodes):
                node = await mesh.kill(name)
                again = await mesh.start(name)
                assert again.engine.final.hash == node.engine.final.hash
                assert again.engine.final.tree.root == node.engine.final.header.state_root
                assert again.engine.head.hash == node.engine.head.hash  # the notarized tail came back too
                assert again.engine.voted == node.engine.voted

    run(test())


def test_a_submitted_transaction_reaches_every_pool_and_becomes_final(
    genesis: Genesis, tmp_path: Path
) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running() as mesh:
            await mesh.slots(1)
            tx = transfer(mesh.nodes["v0"], 0)
            async with mesh.client("v0") as client:
                answer = await client.post(
                    "/transactions",
                    content=encode([tx.wire]),
                    headers={"content-type": "application/msgpack"},
                )
            assert answer.status_code == 202, answer.text
            await mesh.settle()
            assert all(tx.id in node.pending.pool for node in mesh.nodes.values())
            await mesh.slots(4)
            for node in mesh.nodes.values():
                view = node.transaction(tx.id)
                assert view is not None
                assert view.status == "finalized"
                assert tx.id not in node.pending.pool
            assert mesh.nodes["v1"].pending_nonce(ALICE.address) == 1

    run(test())


def test_a_pool_survives_a_clean_end(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        mesh = Mesh(genesis, tmp_path)
        async with mesh.running("v0"):
            tx = transfer(mesh.nodes["v0"], 0)
            await mesh.nodes["v0"].submit([tx])
            mesh.nodes["v0"].disk.set_pool(list(mesh.nodes["v0"].pending.pool))  # what `close` does
            await mesh.kill("v0")
            assert tx.id in (await mesh.start("v0")).pending.pool

    run(test())


def test_a_late_node_catches_up_and_votes(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        mesh = Mesh(genesis, tmp_path)
        async with mesh.running("v0", "v1", "v2"):
            await mesh.slots(40)
            late = await mesh.start("v3")
            while late.engine.head.header.height < mesh.nodes["v0"].engine.head.header.height:
                await mesh.slots(1)
                await asyncio.sleep(0.01)  # peers that found it down pause in real time
            assert late.engine.final.header.height > 10
            await mesh.slots(2)
            assert late.counts["votes_out"] > 0

    run(test())


def test_events_are_logged_from_final_blocks_once_and_in_order(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running() as mesh:
            _double_vote(mesh, "v0")
            await mesh.slots(genesis.era_slots * 4)
            logs = []
            for name in list(mesh.nodes):
                before = [e.to_json() for e in mesh.nodes[name].log.read(1, 100)]
                await mesh.kill(name)
                after = [e.to_json() for e in (await mesh.start(name)).log.read(1, 100)]
                assert before == after
                logs.append(after)
            assert all(log == logs[0] for log in logs)
            names = [event["name"] for event in logs[0]]
            assert names.count("ValidatorSlashed") == 1
            assert "ValidatorSetChanged" in names  # from a block's beginning: it is in no receipt
            heights = [event["height"] for event in logs[0]]
            assert heights == sorted(heights)

    run(test())


# --- crashing ---------------------------------------------------------------------------------------------


class CrashError(Exception):
    """The power went."""


def _crash_at(node: L1Node, step: int, *, inside: bool) -> None:
    """Let the ``step``-th action fail, half of them before it was done, half after.

    ``inside``: one of the statements that an action writes, instead of the action.
    """
    left = [step]

    def failing(do: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: Any) -> None:
            for when in ("before", "after"):
                if when == "after":
                    do(*args)
                if left[0] == 0:
                    raise CrashError
                left[0] -= 1

        return wrapped

    if inside:
        store = node.disk.store
        store._write = failing(store._write)  # type: ignore[method-assign]
        return
    node._write = failing(node._write)  # type: ignore[method-assign]
    node.gossip.broadcast = failing(node.gossip.broadcast)  # type: ignore[method-assign]


def _record(node: L1Node, said: list[Vote | Proposal]) -> None:
    broadcast = node.gossip.broadcast

    def recording(message: bytes) -> None:
        (decoded,) = decode_body(join([message]))
        said.append(decoded.vote if hasattr(decoded, "vote") else decoded.proposal)  # type: ignore[union-attr]
        broadcast(message)

    node.gossip.broadcast = recording  # type: ignore[method-assign]


@pytest.mark.parametrize("step", range(0, 48, 3))
@pytest.mark.parametrize("inside", [False, True])
def test_a_crash_at_any_action_loses_no_promise(
    genesis: Genesis, tmp_path: Path, inside: bool, step: int
) -> None:
    async def test() -> None:
        said: list[Vote | Proposal] = []
        async with Mesh(genesis, tmp_path).running() as mesh:
            await mesh.slots(3)
            victim = mesh.nodes["v3"]
            _record(victim, said)
            _crash_at(victim, step, inside=inside)
            final = 0
            while victim.broken is None:
                final = victim.engine.final.header.height
                try:
                    await mesh.slots(1)
                except CrashError:
                    await mesh.settle()
            with pytest.raises(BrokenNodeError):
                victim.tick()
            with pytest.raises(BrokenNodeError):
                await victim.watch()  # which ends the process
            await mesh.kill("v3")
            again = await mesh.start("v3")
            _record(again, said)
            assert again.engine.final.header.height >= final - 1
            for _ in range(3):  # the same slot again: what it might have signed, it must not sign twice
                again.tick()
                await mesh.settle()
            await mesh.slots(8)
            assert again.engine.final.hash == mesh.nodes["v0"].engine.final.hash
            assert again.engine.final.header.height > final
            assert not again.reporter.cases
        votes = [message for message in said if isinstance(message, Vote)]
        assert len(votes) >= 4
        assert not any(contradiction(a, b) for a, b in combinations(votes, 2))
        proposals = [m.block.header for m in said if isinstance(m, Proposal)]
        assert len({h.slot for h in proposals}) == len({h.hash() for h in proposals})

    run(test())


def test_the_vote_is_on_disk_before_it_leaves(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running() as mesh:
            node = mesh.nodes["v0"]
            broadcast = node.gossip.broadcast
            checked = []

            def checking(message: bytes) -> None:
                (said,) = decode_body(join([message]))
                if hasattr(said, "vote"):
                    on_disk = node.disk.voted()
                    assert (on_disk.slot, on_disk.height) == (said.vote.slot, said.vote.height)
                    assert node.disk.store._depth == 0, "still inside a transaction"
                    checked.append(said)
                broadcast(message)

            node.gossip.broadcast = checking  # type: ignore[method-assign]
            await mesh.slots(4)
            assert len(checked) == 4

    run(test())


def test_a_state_that_does_not_match_its_block_is_refused(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        mesh = Mesh(genesis, tmp_path)
        async with mesh.running():
            await mesh.slots(5)
            store = mesh.nodes["v0"].disk.store
            store.apply_state_changes({b"a" + ALICE.address: b"\x92\x01\x01"}, store.head_height())
            await mesh.kill("v0")
            with pytest.raises(StoreError, match="root"):
                await mesh.start("v0")

    run(test())


# --- evidence ---------------------------------------------------------------------------------------------


def _double_vote(mesh: Mesh, target: str) -> None:
    for mark in (1, 2):
        vote = Vote.sign(BAD, 900, 1, 1, bytes([mark]) * 32)
        mesh.nodes[target].on_message(vote)


def test_evidence_reaches_the_chain_by_itself(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running() as mesh:
            mesh.clock.to_slot(1)
            _double_vote(mesh, "v0")
            await mesh.slots(10)
            async with mesh.client("v1") as client:
                shown = (await client.get("/evidence")).json()
                standings = (await client.get("/validators")).json()["validators"]
            (slashed,) = shown["slashed"]
            assert slashed["name"] == "validator-3"
            assert slashed["kind"] == "double-vote"
            assert slashed["reporter"] == "0x" + dev_keypair("validator-0").address.hex()
            jailed = {entry["name"]: entry["status"] for entry in standings}
            assert jailed["validator-3"] == "jailed"
            assert mesh.nodes["v0"].reporter.cases[0].outcome == "slashed"

    run(test())


def test_evidence_found_before_a_crash_is_reported_after_it(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running() as mesh:
            mesh.clock.to_slot(1)
            _double_vote(mesh, "v0")
            await mesh.kill("v0")
            await mesh.start("v0")
            await mesh.slots(30)
            assert mesh.nodes["v1"].slashings

    run(test())


def test_one_offence_is_reported_once_and_nobody_reports_itself(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running() as mesh:
            mesh.clock.to_slot(1)
            for name in mesh.nodes:
                _double_vote(mesh, name)
                _double_vote(mesh, name)
            await mesh.slots(40)
            assert len(mesh.nodes["v1"].slashings) == 1
            tree = mesh.nodes["v0"].engine.final.tree
            for index in range(4):
                nonce = State(tree).account(dev_keypair(f"validator-{index}").address).nonce
                assert nonce == (1 if index < 3 else 0)

    run(test())


# --- long-range attack ------------------------------------------------------------------------------------


def test_a_checkpoint_refuses_another_history(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        mesh = Mesh(genesis, tmp_path)
        async with mesh.running("v0", "v1", "v2"):
            await mesh.slots(30)
            view = mesh.nodes["v0"].block(5)
            assert view is not None
            good, forged = Checkpoint(5, view.hash), Checkpoint(5, bytes(32))
            fooled = await mesh.start("v3", checkpoint=forged)
            for _ in range(5):
                await mesh.slots(1)
            assert fooled.engine.head.header.height == 4
            assert not fooled.ready()[0]
            await mesh.kill("v3")
            with pytest.raises(StartupError, match="another block at height"):
                await mesh.start("v0x", key=BOB, checkpoint=Checkpoint(0, bytes(32)))
            right = await mesh.start("v3", checkpoint=good)
            for _ in range(5):
                await mesh.slots(1)
            assert right.engine.head.header.height > 5
            await mesh.kill("v3")
            with pytest.raises(StartupError, match="another history"):
                await mesh.start("v3", checkpoint=forged)

    run(test())


@pytest.mark.parametrize(
    "text", ["", "5", "5:", ":0x" + "00" * 32, "-1:0x" + "00" * 32, "٣:0x" + "00" * 32, "5:00"]
)
def test_a_checkpoint_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(StartupError, match="--checkpoint"):
        parse_checkpoint(text)


# --- strangers --------------------------------------------------------------------------------------------


def test_bad_bodies_get_problems_and_change_nothing(genesis: Genesis, tmp_path: Path) -> None:
    stranger = Vote.sign(ALICE, 900, 1, 1, bytes(32))
    unsigned = Vote(900, 1, 1, bytes(32), BAD.address, bytes(64))
    other_chain = Vote.sign(BAD, 901, 1, 1, bytes(32))
    bodies = {
        b"": 400,
        b"\x90": 400,
        b"\xc1" * 100: 400,
        b"\x91" * 5000: 400,
        join([encode_message(stranger)]) + b"\x00": 400,
        join([encode_message(stranger)]): 422,
        join([encode_message(unsigned)]): 422,
        join([encode_message(other_chain)]): 422,
        b"\x00" * (5 * 1024 * 1024): 413,
    }

    async def test() -> None:
        async with Mesh(genesis, tmp_path).running("v0") as mesh:
            mesh.clock.to_slot(1)
            node = mesh.nodes["v0"]
            async with mesh.client("v0") as client:
                for body, status in bodies.items():
                    answer = await client.post("/p2p/messages", content=body)
                    assert answer.status_code == status, (body[:40], answer.text)
                    assert answer.json()["code"]
                late = Vote.sign(BAD, 900, 1, 1, bytes(32))
                for _ in range(2):  # the second time it is a duplicate, which honest peers may send
                    assert (
                        await client.post("/p2p/messages", content=join([encode_message(late)]))
                    ).status_code == 204
            assert node.engine.head.header.height == 0
            assert not node.reporter.cases

    run(test())


def test_certified_blocks_are_bounded_and_can_be_waited_for(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running() as mesh:
            await mesh.slots(6)
            async with mesh.client("v0") as client:
                everything = await client.get("/certified-blocks?from=0")
                assert everything.content[0] == 0x90 + 6
                assert (await client.get("/certified-blocks?from=2&limit=3")).content[0] == 0x93
                for query in ("from=-1", "limit=0", "limit=9999", "from=1.0", "wait=1000", "from=x"):
                    assert (await client.get(f"/certified-blocks?{query}")).status_code == 422
                head = mesh.nodes["v0"].engine.head.header.height
                waiting = asyncio.create_task(client.get(f"/certified-blocks?from={head + 1}&wait=20"))
                await asyncio.sleep(0)
                await mesh.slots(1)
                assert (await waiting).content[0] == 0x91

    run(test())


def test_a_flood_of_transactions_is_bounded_and_bad_ones_are_dropped(
    genesis: Genesis, tmp_path: Path
) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running("v0") as mesh:
            node = mesh.nodes["v0"]
            good = [transfer(node, nonce) for nonce in range(3)]
            poor = transfer(node, 0, key=KeyPair(bytes(32)))
            assert await node.receive([b"junk", poor.wire, *[tx.wire for tx in good], good[0].wire])
            assert len(node.pending.pool) == 3
            assert node.counts["unpaid_in"] == 1  # and no signature was checked for it
            later = [transfer(node, nonce).wire for nonce in range(3, 9)]
            assert not await node.receive([later[0], bad_of(later[1]), *later[2:]])
            assert len(node.pending.pool) == 4  # what follows a bad signature is not looked at

    def bad_of(wire: bytes) -> bytes:
        return wire[:-1] + bytes([wire[-1] ^ 1])

    run(test())


def test_blocks_grow_slowly_and_shrink_while_finality_lags(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running() as mesh:
            await mesh.slots(6)
            node = mesh.nodes["v0"]
            final, head = node.engine.final.header.slot, node.engine.head
            await node.submit([transfer(node, nonce) for nonce in range(8)])
            room = 8 * intrinsic_gas(node.rules, transfer(node, 0))
            node.chain.rules = replace(
                node.rules, fees=structs.replace(node.rules.fees, block_gas_limit=room)
            )
            sizes = [len(list(node._select(head, final + lag))) for lag in (2, 3, 4, 5, 6, 7, 8, 9, 50)]
            assert sizes == [2, 2, 4, 4, 2, 2, 1, 1, 1]
            for used, most in ((0, 2), (room // 4, 4), (3 * room // 8, 6), (room, 8)):
                parent = replace(head, block=Block(structs.replace(head.header, gas_used=used), []))
                assert len(list(node._select(parent, final + 2))) == most

    run(test())


def test_every_route_is_documented_and_answers(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running() as mesh, mesh.client("v0") as client:
            await mesh.slots(3)
            paths = (await client.get("/openapi.json")).json()["paths"]
            assert {"/p2p/messages", "/p2p/status", "/certified-blocks", "/validators", "/evidence"} <= set(
                paths
            )
            for path in (
                *("/docs", "/status", "/validators", "/evidence", "/p2p/status", "/metrics", "/genesis"),
                *(
                    "/health/live",
                    "/health/ready",
                    "/blocks",
                    "/blocks/0",
                    "/blocks/head",
                    "/blocks/finalized",
                ),
                *("/accounts/alice", "/accounts/alice/proof", "/contracts", "/contracts/staking", "/events"),
            ):
                answer = await client.get(path)
                assert answer.status_code == 200, (path, answer.text)
            shown = (await client.get("/validators")).json()
            assert [entry["leads"] for entry in shown["set"]].count(True) == 1
            assert shown["leader_name"].startswith("validator-")
            assert shown["total_stake"] == sum(entry["stake"] for entry in shown["set"])

    run(test())


def test_a_node_without_key_follows_and_never_votes(genesis: Genesis, tmp_path: Path) -> None:
    async def test() -> None:
        mesh = Mesh(genesis, tmp_path)
        async with mesh.running():
            await mesh.slots(5)
            watcher = await mesh.start("w", peers=["v0", "v1"])
            for _ in range(8):
                await mesh.slots(1)
            assert watcher.engine.final.header.height >= 5
            assert not watcher.counts["votes_out"]
            assert watcher.status()["role"] == "follower"
            tx = transfer(watcher, 0)
            await watcher.submit([tx])
            await mesh.settle()
            assert tx.id in mesh.nodes["v1"].pending.pool

    run(test())


@pytest.mark.parametrize("patience", [0, 3, 9, 20, 60])
def test_after_a_power_cut_of_all_the_chain_goes_on(genesis: Genesis, tmp_path: Path, patience: int) -> None:
    """``patience``: how much of the slot's talk gets through before the cut."""

    async def test() -> None:
        said: dict[str, list[Vote | Proposal]] = {f"v{i}": [] for i in range(4)}
        async with Mesh(genesis, tmp_path).running() as mesh:
            for _ in range(4):
                for name, node in mesh.nodes.items():
                    _record(node, said[name])
                await mesh.slots(3)
                mesh.slot += 1
                mesh.clock.to_slot(mesh.slot)
                for node in mesh.nodes.values():
                    node.tick()
                for _ in range(patience):
                    await asyncio.sleep(0)
                final = max(node.engine.final.header.height for node in mesh.nodes.values())
                for name in list(mesh.nodes):
                    await mesh.kill(name)
                for name in said:
                    await mesh.start(name)
                mesh.slot += 5
                await mesh.slots(8)
                for node in mesh.nodes.values():
                    assert node.engine.final.header.height > final
                    assert not node.reporter.cases
        for messages in said.values():
            votes = [message for message in messages if isinstance(message, Vote)]
            assert len(votes) >= 12
            assert not any(contradiction(a, b) for a, b in combinations(votes, 2))

    run(test())


def test_whoever_waits_for_a_change_is_woken_by_it_or_in_time_and_leaves_nothing(
    genesis: Genesis, tmp_path: Path
) -> None:
    async def test() -> None:
        async with Mesh(genesis, tmp_path).running("v0") as mesh:
            node = mesh.nodes["v0"]
            gone = asyncio.create_task(node.changed(30))
            waits = asyncio.create_task(node.changed(30))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.wait([gone])
            assert len(node._waiting) == 1  # who hangs up is not kept until the next change
            await node.changed(0.01)
            assert not waits.done()
            node.stop()
            await waits
            assert not node._waiting

    run(test())
