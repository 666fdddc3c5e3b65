"""The bridge service and money: each status of a deposit, a withdrawal and a forced transaction, over HTTP."""

import asyncio
from pathlib import Path
from random import Random

import pytest
from bridge_world import (
    COIN,
    L1_SPARE,
    L1_URL,
    L2_URL,
    SETTINGS,
    World,
    balance_of,
    run_story,
)

from bridge import abi
from chainkit.codec import encode, parse_hex
from chainkit.keys import KeyPair, dev_keypair
from chainkit.merkle import verify_proof
from chainkit.state import State
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from rollup.batch import BatchBlock, encode_batch
from rollup.messenger import WithdrawArgs


def address(name: str) -> str:
    return "0x" + dev_keypair(name).address.hex()


def test_a_deposit_goes_through_every_status(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        sent = await world.post("/deposits", {"from": "alice", "to": "bob", "amount": 5 * COIN})
        path = f"/deposits/{sent['id']}"
        assert sent["status"] == "pending"
        shown = await world.get(path)
        assert (shown["status"], shown["amount"], shown["to"]) == ("pending", 5 * COIN, address("bob"))
        world.seal()
        shown = await world.get(path)
        assert (shown["status"], shown["index"]) == ("on-l1", None)
        world.seal(2)
        shown = await world.get(path)
        assert (shown["status"], shown["index"], shown["credited_by"]) == ("final", 0, None)
        assert shown["deadline"] == shown["l1"]["height"] + SETTINGS.inclusion_delay
        assert shown["blocks_left"] == shown["deadline"] - world.height > 0
        block = world.l2_block()
        shown = await world.get("/deposits/0")
        assert (shown["status"], shown["credited_by"], shown["l2"]) == ("credited", "unsafe", None)
        index = world.post_batch()
        shown = await world.get(path)
        assert (shown["status"], shown["credited_by"], shown["l2"]["batch"]) == ("credited", "safe", index)
        assert shown["l2_step"] == "0x" + block.receipts[0].tx_id.hex()
        world.finalize(index)
        assert (await world.get(path))["credited_by"] == "finalized"
        for who in ("alice", address("bob")):
            assert [d["index"] for d in (await world.get("/deposits", address=who))["deposits"]] == [0]
        assert (await world.get("/deposits", address="carol"))["deposits"] == []

    run_story(tmp_path, story)


def test_without_the_sequencer_a_deposit_is_credited_by_its_batch_alone(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        sent = await world.post("/deposits", {"from": "alice", "amount": COIN})
        world.seal_final()
        world.l2_block()
        world.down.add(L2_URL)
        assert (await world.get(f"/deposits/{sent['id']}"))["status"] == "final"
        world.post_batch()
        assert (await world.get(f"/deposits/{sent['id']}"))["credited_by"] == "safe"

    run_story(tmp_path, story)


def test_a_deposit_that_fails_on_l1_says_why(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        tx = world.send("alice", "deposit", abi.DepositArgs(dev_keypair("alice").address), 1)
        path = "/deposits/0x" + tx.id.hex()
        world.seal()
        assert (await world.get(path))["status"] == "failed"
        world.seal(2)
        shown = await world.get(path)
        assert (shown["status"], shown["code"]) == ("failed", "deposit_too_small")
        assert (await world.get("/bridge"))["totals"]["inbox_length"] == 0
        world.down |= {L1_URL, L1_SPARE}
        assert (await world.get(path))["status"] == "failed"

    run_story(tmp_path, story)


async def withdraw(world: World, who: str, amount: int, **more: str) -> str:
    sent = await world.post("/withdrawals", {"from": who, "amount": amount, **more})
    assert sent["status"] == "waiting-for-batch"
    return str(sent["id"])


def test_a_withdrawal_goes_through_every_status_and_is_paid_once(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        tx_id = await withdraw(world, "bob", 30 * COIN, to="carol")
        path = f"/withdrawals/{tx_id}"
        shown = await world.get(path)
        assert (shown["status"], shown["amount"], shown["recipient"]) == (
            "waiting-for-batch",
            30 * COIN,
            address("carol"),
        )
        assert (await world.post(path + "/claim", {"from": "bob"}, 409))["code"] == "waiting_for_batch"
        world.l2_block()
        assert (await world.get(path))["waits_for"] == "the sequencer to post the batch that holds it"
        for who in ("bob", "carol"):
            (listed,) = (await world.get("/withdrawals", address=who))["withdrawals"]
            assert (listed["id"], listed["status"]) == (tx_id, "waiting-for-batch")

        batch = world.post_batch()
        opened = world.height
        while world.height < opened + SETTINGS.challenge_window:
            shown = await world.get(path)
            left = opened + SETTINGS.challenge_window - world.height
            assert (shown["status"], shown["batch"], shown["index"]) == ("in-challenge-window", batch, 0)
            assert (shown["blocks_left"], shown["seconds_left"], shown["proof"]) == (left, left, None)
            problem = await world.post(path + "/claim", {"from": "bob"}, 409)
            assert (problem["code"], problem["blocks_left"]) == ("challenge_window_open", left)
            assert f": {left} more L1 block" in problem["detail"]
            world.seal()
        shown = await world.get(path)
        assert (shown["status"], shown["blocks_left"]) == ("in-challenge-window", 0)
        assert "finalized" in shown["waits_for"]
        assert "anyone" in shown["may_act"]
        assert (await world.post(path + "/claim", {"from": "bob"}, 409))["code"] == "not_final"

        await world.post(f"/batches/{batch}/finalize", {"from": "dave"})
        world.seal_final()
        shown = await world.get(path)
        assert shown["status"] == "ready-to-claim"
        proof = shown["proof"]
        root, key, nodes = (parse_hex(proof[name]) for name in ("state_root", "key", "proof"))
        assert verify_proof(root, key, nodes) == encode(
            abi.Withdrawal(0, dev_keypair("bob").address, dev_keypair("carol").address, 30 * COIN)
        )
        assert shown["claim_arguments"]["recipient"] == address("carol")

        before = balance_of(world, "carol")
        claim = await world.post(path + "/claim", {"from": "dave"})
        world.seal_final()
        assert balance_of(world, "carol") == before + 30 * COIN
        shown = await world.get("/withdrawals/0")
        assert (shown["status"], shown["claim"]["tx"], shown["proof"]) == ("claimed", claim["hash"], None)
        assert (await world.post(path + "/claim", {"from": "bob"}, 409))["code"] == "already_claimed"
        world.send("bob", "claim", abi.ClaimArgs(batch, 0, dev_keypair("carol").address, 30 * COIN, nodes))
        world.seal_final()
        assert balance_of(world, "carol") == before + 30 * COIN

    run_story(tmp_path, story)


def test_a_signed_claim_must_be_the_claim_of_this_withdrawal(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for amount in (COIN, 2 * COIN):
            await withdraw(world, "bob", amount)
        world.l2_block()
        world.finalize(world.post_batch())
        shown = await world.get("/withdrawals/1")
        arguments = shown["claim_arguments"]
        args = abi.ClaimArgs(
            arguments["batch"],
            1,
            parse_hex(arguments["recipient"]),
            arguments["amount"],
            parse_hex(arguments["proof"]),
        )
        tx = world.call("judy", "claim", args)
        assert (await world.post("/withdrawals/0/claim", tx.to_json(), 422))["code"] == "wrong_call"
        await world.post("/withdrawals/1/claim", tx.to_json())
        world.seal_final()
        assert (await world.get("/withdrawals/1"))["status"] == "claimed"
        assert (await world.get("/withdrawals/0"))["status"] == "ready-to-claim"

    run_story(tmp_path, story)


def test_a_withdrawal_of_a_reverted_batch_is_reverted_until_a_later_batch_holds_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        tx_id = await withdraw(world, "bob", COIN)
        path = f"/withdrawals/{tx_id}"
        world.l2_block()
        lying = world.post_batch(root=b"\x66" * 32)
        shown = await world.get(path)
        assert (shown["status"], shown["reason"]) == ("in-challenge-window", "false-root")
        assert "false state root" in shown["waits_for"]
        await world.post("/disputes", {"from": "verifier", "batch": lying})
        world.seal_final()
        await play_dispute(world, 0)
        world.down.add(L2_URL)
        shown = await world.get(path)
        assert (shown["status"], shown["reverted_in"]) == (
            "reverted",
            [{"batch": lying, "reason": "step-proved"}],
        )
        assert (await world.post(path + "/claim", {"from": "bob"}, 409))["code"] == "withdrawal_reverted"
        world.down.clear()
        shown = await world.get(path)
        assert (shown["status"], shown["index"]) == ("waiting-for-batch", None)
        assert "step-proved" in shown["reason"]
        world.finalize(world.post_batch())
        shown = await world.get(path)
        assert (shown["status"], shown["index"], len(shown["reverted_in"])) == ("ready-to-claim", 0, 1)
        await world.restart()
        assert await world.get(path) == shown

    run_story(tmp_path, story)


async def play_dispute(world: World, index: int) -> None:
    """The verifier plays through the service; the liar answers with roots of its own."""
    for _ in range(20):
        dispute = world.bridge.state.dispute(index)
        assert dispute is not None
        if dispute.stage == abi.RESOLVED:
            return
        if dispute.stage == abi.BISECT:
            roots = ["0x" + bytes([i + 1] * 32).hex() for i in range(min(4, dispute.high - dispute.low) - 1)]
            await world.post(f"/disputes/{index}/bisect", {"from": "sequencer", "roots": roots})
        else:
            await world.post(f"/disputes/{index}/{dispute.stage}", {"from": "verifier"})
        world.seal_final()
    raise AssertionError("the dispute does not end")


def test_a_thiefs_withdrawal_is_never_anything_but_reverted(tmp_path: Path) -> None:
    """It fails in the state that follows from L1, whatever root the batch claims and the sequencer says."""

    async def story(world: World) -> None:
        thief = KeyPair(b"\x09" * 32)
        action = Call("messenger", "withdraw", encode(WithdrawArgs(thief.address)), 90 * COIN)
        tx = SignedTransaction.sign(Body(901, thief.address, 0, 100_000, 20, 1, action), thief)
        block = world.l2_block()
        args = world.sequencer.batch(root=b"\x66" * 32)
        data = encode_batch([BatchBlock(block.header.time, 0, [tx.wire])])
        lie = abi.SubmitBatchArgs(args.parent, args.inbox_to, data, args.state_root)
        world.send("sequencer", "submit_batch", lie, SETTINGS.proposer_bond)
        world.seal_final()
        path = "/withdrawals/0x" + tx.id.hex()
        shown = await world.get(path)
        assert (shown["status"], shown["index"], shown["proof"]) == ("reverted", None, None)
        assert "insufficient_balance" in shown["reason"]
        assert (await world.post(path + "/claim", {"from": "bob"}, 409))["code"] == "withdrawal_reverted"
        assert (await world.get("/bridge"))["invariant"]["holds"]

    run_story(tmp_path, story)


def test_a_withdrawal_refused_on_l2_says_why_and_nothing_is_sent(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        problem = await world.post("/withdrawals", {"from": "bob", "amount": 10**6 * COIN}, 422)
        assert problem["code"] == "insufficient_balance"
        world.down.add(L2_URL)
        problem = await world.post("/withdrawals", {"from": "bob", "amount": COIN}, 503)
        assert problem["code"] == "l2_unreachable"
        assert world.sequencer.pool == []

    run_story(tmp_path, story)


def test_a_forced_transaction_runs_though_the_sequencer_is_deaf(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.down.add(L2_URL)
        action = {"type": "transfer", "to": "bob", "amount": COIN}
        first = await world.post("/forced-transactions", {"from": "carol", "action": action})
        second = await world.post("/forced-transactions", {"from": "carol", "action": action})
        assert [sent["l2_transaction"]["nonce"] for sent in (first, second)] == [0, 1]
        world.seal_final()
        third = await world.post("/forced-transactions", {"from": "carol", "action": action})
        assert third["l2_transaction"]["nonce"] == 2
        world.seal_final()
        await world.restart()
        fourth = await world.post("/forced-transactions", {"from": "carol", "action": action})
        assert fourth["l2_transaction"]["nonce"] == 3
        world.seal_final()
        shown = await world.get("/forced-transactions/0")
        assert (shown["status"], shown["executed"], shown["l2_hash"]) == ("queued", False, first["l2_hash"])
        assert shown["deadline"] == shown["l1"]["height"] + SETTINGS.inclusion_delay
        for name in (first["hash"], first["l2_hash"]):
            assert (await world.get(f"/forced-transactions/{name}"))["index"] == 0
        world.l2_block()
        world.post_batch()
        for index in range(4):
            shown = await world.get(f"/forced-transactions/{index}")
            assert (shown["executed_by"], shown["l2"]["success"]) == ("safe", True)
        assert (await world.get("/forced-transactions", address="carol"))["total"] == 4
        assert (await world.get("/deposits"))["total"] == 0

    run_story(tmp_path, story)


@pytest.mark.parametrize("as_hex", [True, False])
def test_anyone_may_pay_for_forcing_a_signed_transaction(tmp_path: Path, as_hex: bool) -> None:
    async def story(world: World) -> None:
        carol = dev_keypair("carol")
        body = Body(901, carol.address, 0, 50_000, 20, 1, Transfer(dev_keypair("bob").address, 5))
        tx = SignedTransaction.sign(body, carol)
        given = "0x" + tx.wire.hex() if as_hex else tx.to_json()
        sent = await world.post("/forced-transactions", {"from": "judy", "transaction": given})
        assert sent["l2_hash"] == "0x" + tx.id.hex()
        world.seal_final()
        shown = await world.get(f"/forced-transactions/{sent['hash']}")
        assert (shown["sender"], shown["by"]) == (address("carol"), address("judy"))

    run_story(tmp_path, story)


def test_a_signed_deposit_goes_to_another_node_when_one_is_down(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        tx = world.call("alice", "deposit", abi.DepositArgs(dev_keypair("alice").address), COIN)
        for down in ({L1_URL}, {L1_SPARE}):
            world.down = set(down)
            await world.post("/deposits", tx.to_json())
        world.down = {L1_URL, L1_SPARE}
        assert (await world.post("/deposits", tx.to_json(), 503))["code"] == "l1_unreachable"
        world.down = set()
        world.seal_final()
        assert (await world.get("/deposits"))["total"] == 1

    run_story(tmp_path, story)


def test_a_frozen_bridge_lets_everybody_out_through_the_service(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.post("/deposits", {"from": "dave", "amount": 7 * COIN})
        world.seal_final()
        lost = await withdraw(world, "dave", COIN)
        world.l2_block(only_inbox=False)
        before = await world.get("/exits/dave")
        assert (before["amount"], before["possible_now"], before["frozen"]) == (100 * COIN, False, False)
        assert (await world.post("/exits", {"from": "dave"}, 409))["code"] == "not_frozen"
        assert (await world.post("/refunds/0", {"from": "dave"}, 409))["code"] == "not_frozen"
        assert (await world.post("/freeze", {"from": "dave"}, 422))["code"] == "too_early"
        world.seal_to(before["freeze_possible_at"])
        assert (await world.get("/deposits/0"))["credited_by"] == "unsafe"
        await world.post("/freeze", {"from": "dave"})
        world.seal_final()
        shown = await world.get("/deposits/0")
        assert (shown["status"], shown["credited_by"]) == ("final", None)
        assert "refund" in shown["waits_for"]
        assert (await world.get("/bridge"))["frozen"]
        had = balance_of(world, "dave")
        await world.post("/exits", {"from": "judy", "account": "dave"})
        await world.post("/refunds/0", {"from": "judy"})
        world.seal_final()
        assert balance_of(world, "dave") == had + 107 * COIN
        assert (await world.get("/deposits/0"))["status"] == "refunded"
        exited = await world.get("/exits/dave")
        assert (exited["amount"], exited["exited"]["amount"]) == (0, 100 * COIN)
        assert (await world.post("/exits", {"from": "dave"}, 409))["code"] == "already_exited"
        assert (await world.post("/refunds/0", {"from": "dave"}, 409))["code"] == "already_refunded"
        books = (await world.get("/bridge"))["invariant"]
        assert books["holds"]
        assert books["exited"] == 100 * COIN
        shown = await world.get(f"/withdrawals/{lost}")
        assert shown["status"] == "reverted"
        assert "frozen" in shown["reason"]

    run_story(tmp_path, story)


def test_a_false_root_that_became_final_is_said_everywhere(tmp_path: Path) -> None:
    """Nobody challenged: the escrow can be robbed (that is the design's limit), but nobody is told it is well."""

    async def story(world: World) -> None:
        tx_id = await withdraw(world, "bob", COIN)
        block = world.l2_block()
        state = State(block.tree)
        thief = dev_keypair("mallory").address
        loot = abi.Withdrawal(1, thief, thief, 500 * COIN)
        state.set(abi.withdrawal_state_key(1), encode(loot))
        tree = state.commit()
        batch = world.post_batch(root=tree.root)
        assert "WithdrawalInitiated" not in [e["name"] for e in (await world.get("/events"))["events"]]
        await world.get("/withdrawals/1", 404)
        world.finalize(batch)
        status = await world.get("/status")
        assert (status["diverged"], status["safe_batch"], status["final_batch"]) == (batch, 0, batch)
        shown = await world.get(f"/withdrawals/{tx_id}")
        assert (shown["status"], shown["proof"]) == ("reverted", None)
        assert "false state root" in shown["reason"]
        assert (await world.get("/exits/alice"))["proof"] is None
        world.check_books = False
        proof = tree.prove([abi.withdrawal_state_key(1)])
        world.send("mallory", "claim", abi.ClaimArgs(batch, 1, thief, 500 * COIN, proof))
        world.seal_final()
        books = (await world.get("/bridge"))["invariant"]
        assert (books["holds"], books["expected"] - books["escrow"]) == (False, 500 * COIN)
        assert not (await world.get("/status"))["invariant_holds"]
        assert (await world.get("/events", limit=1000))["events"][-1]["name"] == "InvariantBroken"
        later = await world.post(
            "/disputes", {"from": "verifier", "batch": batch, "state_root": "0x" + "11" * 32}, 422
        )
        assert later["code"] == "not_pending"

    run_story(tmp_path, story)


def test_requests_at_once_for_one_account_get_a_nonce_each(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        body = {"from": "alice", "amount": COIN}
        sent = await asyncio.gather(*(world.post("/deposits", body) for _ in range(8)))
        assert sorted(item["transaction"]["nonce"] for item in sent) == list(range(8))
        world.seal_final()
        assert (await world.get("/deposits", address="alice"))["total"] == 8
        page = await world.get("/deposits", **{"from": 2, "limit": 3})
        assert [item["index"] for item in page["deposits"]] == [2, 3, 4]

    run_story(tmp_path, story)


@pytest.mark.parametrize("seed", range(5))
def test_the_books_hold_at_every_block_of_a_random_story(tmp_path: Path, seed: int) -> None:
    """Deposits, withdrawals, claims, true and false batches in any order; `World.seal` checks each block."""
    random = Random(seed)

    async def story(world: World) -> None:
        people = ("alice", "bob", "carol")
        for _ in range(25):
            who, amount = random.choice(people), random.randrange(1_000, 3 * COIN)
            what = random.choice(("deposit", "withdraw", "force", "batch", "lie", "claim", "seal", "block"))
            if what == "deposit":
                await world.post("/deposits", {"from": who, "to": random.choice(people), "amount": amount})
            elif what == "withdraw":
                await withdraw(world, who, amount)
            elif what == "force":
                action = {"type": "transfer", "to": random.choice(people), "amount": amount}
                await world.post("/forced-transactions", {"from": who, "action": action})
            elif what == "seal":
                world.seal(random.randrange(1, 4))
            elif what == "block":
                world.l2_block()
            elif what == "claim":
                await claim_all(world)
            elif what == "batch":
                world.l2_block()
                world.finalize(world.post_batch())
            else:
                world.l2_block()
                lying = world.post_batch(root=random.randbytes(32))
                dispute = len(world.bridge.state.derivation.disputes)
                await world.post("/disputes", {"from": "verifier", "batch": lying})
                world.seal_final()
                await play_dispute(world, dispute)
        world.l2_block()
        world.finalize(world.post_batch())
        await claim_all(world)
        world.seal_final()
        listed = await world.get("/withdrawals", limit=100)
        assert {item["status"] for item in listed["withdrawals"]} <= {"claimed"}
        pages = ("/bridge", "/withdrawals", "/deposits", "/forced-transactions", "/batches", "/disputes")
        before = [await world.get(page, limit=100) for page in pages]
        assert before[0]["invariant"]["holds"]
        await world.restart()
        assert [await world.get(page, limit=100) for page in pages] == before

    run_story(tmp_path, story)


async def claim_all(world: World) -> None:
    """Claim what can be claimed; it is on L1 afterwards."""
    for item in (await world.get("/withdrawals", limit=100))["withdrawals"]:
        if item["status"] == "ready-to-claim":
            await world.post(f"/withdrawals/{item['id']}/claim", {"from": "judy"})
    world.seal_final()
