"""The bridge service's surface: what each address refuses, disputes by hand, events, restarts, and liars."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from bridge_world import COIN, L1_SPARE, L1_URL, L2_URL, SETTINGS, World, bridge_world, l1_genesis, l2_genesis
from fake_chain import certified, certify, make_genesis
from fastapi import FastAPI, Request, Response
from msgspec.structs import replace

from bridge import abi
from bridge.backend import READY_LAG
from bridge.service import create, main, parse_urls
from chainkit.block import Validator
from chainkit.chain import Chain
from chainkit.codec import decode, encode, to_json
from chainkit.follower import FollowerCore
from chainkit.genesis import GenesisAccount, GenesisContract, genesis_to_json
from chainkit.keys import KeyPair, dev_keypair
from chainkit.merkle import Tree
from chainkit.service import StartupError, running
from chainkit.state import Account
from chainkit.store import StoreError
from chainkit.transaction import Body, SignedTransaction, Transfer

Story = Callable[[World], Awaitable[None]]

MAX = 2**53
WRITES = (
    "/deposits",
    "/withdrawals",
    "/forced-transactions",
    "/disputes",
    "/freeze",
    "/exits",
    "/refunds/0",
    "/withdrawals/0/claim",
    "/batches/0/finalize",
    "/disputes/0/bisect",
    "/disputes/0/choose",
    "/disputes/0/prove",
    "/disputes/0/timeout",
    "/disputes/0/settle",
)


def run(path: Path, story: Story) -> None:
    async def main_() -> None:
        async with bridge_world(path) as world:
            await story(world)

    asyncio.run(main_())


def is_problem(answer: Any) -> bool:
    return set(answer) >= {"type", "title", "status", "code", "detail"} and answer["code"] != "internal_error"


# --- bad input --------------------------------------------------------------------------------------------------


NOT_OBJECTS = [
    (b"", 400),
    (b"[]", 400),
    (b"7", 400),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b'{"from": "alice", "from": "bob"}', 400),
    (b'{"from": "alice", "amount": NaN}', 400),
    (b'{"from": "alice", "amount": 1.5}', 400),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
    (b"[" * 100_000, 400),
    (b'"' + b"a" * 2_000_000 + b'"', 413),
    (b"a" * 10_000_000, 413),
]


def test_no_write_takes_what_is_no_object(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for path, (body, status) in product(WRITES, NOT_OBJECTS):
            answer = await world.http.post(path, content=body)
            assert (answer.status_code, is_problem(answer.json())) == (status, True), (
                path,
                answer.text[:300],
            )
        assert world.l1.pool == world.sequencer.pool == []

    run(tmp_path, story)


def test_an_amount_is_an_integer_in_range(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        amounts: list[Any] = [-1, 0, MAX, 2**64, "1", True, None, [], 10**30]
        for path, amount in product(("/deposits", "/withdrawals"), amounts):
            problem = await world.post(path, {"from": "alice", "amount": amount}, 400)
            assert problem["code"] == "malformed_body"
            assert "amount" in problem["detail"] or "integer" in problem["detail"]
        assert world.l1.pool == world.sequencer.pool == []

    run(tmp_path, story)


BAD_REQUESTS: list[tuple[str, dict[str, Any], str]] = [
    ("/deposits", {"from": "nobody", "amount": 1}, "unknown_dev_account"),
    ("/deposits", {"from": 7, "amount": 1}, "unknown_dev_account"),
    ("/deposits", {"from": "alice", "amount": 1, "extra": 1}, "malformed_body"),
    ("/deposits", {"from": "alice", "amount": 1, "to": 9}, "malformed_body"),
    ("/deposits", {"from": "alice", "amount": 1, "to": "0x11"}, "malformed_body"),
    ("/deposits", {"from": "alice", "amount": COIN, "to": "0x" + "00" * 32}, "invalid_address"),
    ("/deposits", {"from": "alice", "amount": 999}, "deposit_too_small"),
    ("/deposits", {"from": "alice", "amount": COIN, "nonce": -1}, "malformed_body"),
    ("/deposits", {"from": "alice", "amount": COIN, "nonce": 99}, "nonce_gap"),
    ("/deposits", {"from": "alice", "amount": MAX - 1}, "insufficient_balance"),
    ("/deposits", {"from": "alice"}, "malformed_body"),
    ("/withdrawals", {"from": "bob", "amount": 1, "to": "0x" + "00" * 32}, "invalid_address"),
    ("/forced-transactions", {"from": "carol"}, "malformed_body"),
    ("/forced-transactions", {"from": "carol", "transaction": "0x"}, "malformed_body"),
    ("/forced-transactions", {"from": "carol", "transaction": "zz"}, "malformed_body"),
    ("/forced-transactions", {"from": "carol", "transaction": 7}, "malformed_body"),
    ("/forced-transactions", {"from": "carol", "transaction": {"from": "carol"}}, "malformed_body"),
    ("/forced-transactions", {"from": "carol", "action": {"type": "mint"}}, "malformed_body"),
    ("/forced-transactions", {"from": "carol", "action": 7}, "malformed_body"),
    (
        "/forced-transactions",
        {"from": "carol", "action": {"type": "transfer", "to": "bob", "amount": -1}},
        "malformed_body",
    ),
    (
        "/forced-transactions",
        {"from": "carol", "action": {"type": "transfer", "to": "bob", "amount": 1}, "l2_nonce": "0"},
        "malformed_body",
    ),
    (
        "/forced-transactions",
        {"from": "carol", "action": {"type": "call", "contract": "bridge", "method": "x"}},
        "unknown_contract",
    ),
    ("/disputes", {"from": "verifier"}, "malformed_body"),
    ("/disputes", {"from": "verifier", "batch": "0"}, "malformed_body"),
    ("/disputes", {"from": "verifier", "batch": 9}, "unknown_batch"),
    ("/disputes", {"from": "verifier", "batch": 0}, "batch_is_true"),
    ("/disputes", {"from": "verifier", "batch": 0, "state_root": "0x12"}, "malformed_body"),
    ("/disputes", {"from": "verifier", "batch": 0, "state_root": "0x" + "12" * 32}, "not_pending"),
    ("/batches/0/finalize", {"from": "alice"}, "already_final"),
    ("/batches/8/finalize", {"from": "alice"}, "unknown_batch"),
    ("/disputes/0/prove", {"from": "alice"}, "unknown_dispute"),
    ("/withdrawals/0/claim", {"from": "alice"}, "unknown_withdrawal"),
    ("/refunds/0", {"from": "alice"}, "unknown_deposit"),
    ("/exits", {"from": "alice", "account": 7}, "malformed_body"),
    ("/exits", {"from": "alice", "account": "0x" + "00" * 32}, "invalid_address"),
    ("/freeze", {"from": "alice", "value": 1}, "malformed_body"),
]


def test_a_bad_request_is_refused_with_its_code_and_sends_nothing(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for path, body, code in BAD_REQUESTS:
            answer = await world.http.post(path, content=json.dumps(body).encode())
            assert answer.status_code in (400, 404, 409, 422), (path, body, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            problem = answer.json()
            assert (problem["code"], is_problem(problem)) == (code, True), (path, body, problem)
        assert world.l1.pool == world.sequencer.pool == []

    run(tmp_path, story)


def test_a_signed_body_must_be_valid_here_and_make_the_call_of_the_address(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        alice = dev_keypair("alice")
        good = world.call("alice", "deposit", abi.DepositArgs(alice.address), COIN)
        shown = good.to_json()
        cases = {
            "bad_signature": {**shown, "signature": "0x" + "11" * 64},
            "wrong_chain": SignedTransaction.sign(
                Body(901, alice.address, 0, 10**6, 20, 1, good.body.action), alice
            ).to_json(),
            "invalid_address": {
                **{k: v for k, v in shown.items() if k != "hash"},
                "sender": "0x" + "00" * 32,
            },
            "wrong_call": world.call("alice", "freeze").to_json(),
            "malformed_body": {**shown, "nonce": MAX},
            "gas_limit_too_low": SignedTransaction.sign(
                Body(900, alice.address, 0, 1, 20, 1, good.body.action), alice
            ).to_json(),
        }
        for code, body in cases.items():
            status = 400 if code == "malformed_body" else 422
            assert (await world.post("/deposits", body, status))["code"] == code
        transfer = SignedTransaction.sign(
            Body(900, alice.address, 0, 10**5, 20, 1, Transfer(alice.address, 1)), alice
        )
        assert (await world.post("/deposits", transfer.to_json(), 422))["code"] == "wrong_call"
        assert world.l1.pool == []
        await world.post("/deposits", shown)
        world.seal_final()
        assert (await world.post("/deposits", shown, 409))["code"] in ("already_included", "stale_nonce")
        assert (await world.get("/deposits"))["total"] == 1

    run(tmp_path, story)


NOT_THERE = [
    ("/deposits/0", 404, "unknown_deposit"),
    ("/deposits/0x" + "11" * 32, 404, "unknown_deposit"),
    ("/deposits/-1", 422, "invalid_id"),
    ("/deposits/0x11", 422, "invalid_id"),
    ("/deposits/9007199254740992", 422, "invalid_id"),
    ("/deposits?address=nobody", 422, "unknown_dev_account"),
    ("/deposits?address=0x11", 422, "invalid_address"),
    ("/deposits?limit=0", 422, "invalid_parameter"),
    ("/deposits?limit=101", 422, "invalid_parameter"),
    ("/deposits?from=1.0", 422, "invalid_parameter"),
    ("/withdrawals/1", 404, "unknown_withdrawal"),
    ("/withdrawals/0x" + "22" * 32, 404, "unknown_withdrawal"),
    ("/withdrawals/x", 422, "invalid_id"),
    ("/withdrawals?address=0x" + "00" * 32, 422, "invalid_address"),
    ("/forced-transactions/3", 404, "unknown_forced_transaction"),
    ("/forced-transactions/0x" + "33" * 32, 404, "unknown_forced_transaction"),
    ("/batches/1", 404, "unknown_batch"),
    ("/batches/x", 422, "invalid_parameter"),
    ("/batches?from=-1", 422, "invalid_parameter"),
    ("/batches?from=%D9%A1", 422, "invalid_parameter"),
    ("/disputes/0", 404, "unknown_dispute"),
    ("/exits/nobody", 422, "unknown_dev_account"),
    ("/exits/0x" + "ff" * 32, 422, "invalid_address"),
    ("/nothing", 404, "unknown_route"),
]


def test_what_is_not_there_is_a_problem_that_says_what_is(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for path, status, code in NOT_THERE:
            answer = await world.http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert (await world.get("/batches/1", 404))["known"] == "batches 0..0"
        assert "no disputes yet" in (await world.get("/disputes/0", 404))["detail"]

    run(tmp_path, story)


# --- overview -----------------------------------------------------------------------------------------------------


def test_every_page_of_the_service_answers(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        status = await world.get("/status")
        assert (status["role"], status["chain_id"], status["l2_chain_id"]) == ("bridge", 900, 901)
        bridge = await world.get("/bridge")
        assert bridge["invariant"]["holds"]
        assert bridge["settings"] == to_json(SETTINGS)
        assert bridge["sequencer"]["name"] == "sequencer"
        assert await world.get("/genesis") == genesis_to_json(l1_genesis())
        assert await world.get("/genesis/l2") == genesis_to_json(l2_genesis())
        assert (await world.get("/health/live"))["live"]
        assert (await world.get("/batches"))["batches"][0]["status"] == "finalized"
        assert (await world.get("/disputes"))["disputes"] == []
        metrics = (await world.http.get("/metrics")).text
        assert "layerlab_invariant_holds 1.0" in metrics
        docs = await world.http.get("/docs")
        assert docs.status_code == 200
        paths = (await world.get("/openapi.json"))["paths"]
        assert {"/deposits", "/withdrawals/{id}/claim", "/disputes/{id}/prove"} <= set(paths)

    run(tmp_path, story)


def test_ready_means_in_step_with_what_l1_says_is_final(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        told: list[int | None] = [None]
        world.bridge.heard_final = lambda: told[0]
        assert (await world.get("/health/ready", 503))["code"] == "not_ready"
        told[0] = world.height + READY_LAG
        assert (await world.get("/health/ready"))["ready"]
        told[0] = world.height + READY_LAG + 1
        await world.get("/health/ready", 503)

    run(tmp_path, story)


def test_the_books_are_those_counted_account_by_account(tmp_path: Path) -> None:
    """The running sums equal a count of the whole derived state, with withdrawals read out of it."""

    def count(tree: Tree) -> tuple[int, int]:
        balances = sum(decode(Account, v).balance for k, v in tree.items() if k[:1] == b"a" and v)
        found = (tree.get(abi.withdrawal_state_key(i)) for i in range(10))
        return balances, sum(decode(abi.Withdrawal, value).amount for value in found if value)

    async def story(world: World) -> None:
        for turn in range(3):
            await world.post("/deposits", {"from": "alice", "to": "judy", "amount": 10_000 + turn})
            await world.post("/withdrawals", {"from": "bob", "amount": 50_000 + turn})
            world.seal_final()
            waiting = (await world.get("/bridge"))["invariant"]["deposits_not_taken_in"]
            assert waiting == 10_000 + turn
            world.l2_block()
            world.post_batch()
            books = (await world.get("/bridge"))["invariant"]
            tree = world.bridge.state.derivation.safe_batch.end.tree
            assert (books["l2_balances"], books["withdrawals_not_claimed"]) == count(tree)
            assert books["holds"]

    run(tmp_path, story)


def test_books_that_stop_adding_up_are_noticed_and_said(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        books = world.bridge.state.books[0]
        books.balances += 1
        block = world.l1.seal()
        ((final, certificate),) = world.core.add([certified(block)])
        world.bridge.on_l1_final(final, certificate)
        invariant = (await world.get("/bridge"))["invariant"]
        assert (invariant["holds"], invariant["expected"] - invariant["escrow"]) == (False, 1)
        assert not (await world.get("/status"))["invariant_holds"]
        names = [event["name"] for event in (await world.get("/events"))["events"]]
        assert names == ["InvariantBroken"]
        books.balances -= 1

    run(tmp_path, story)


# --- batches and disputes -------------------------------------------------------------------------------------------


async def lying_batch(world: World, transfers: int = 6) -> int:
    """A batch of some steps with a false root."""
    for nonce in range(transfers):
        body = {"from": "alice", "action": {"type": "transfer", "to": "bob", "amount": 5 + nonce}}
        await world.bridge.l2_gateway.submit_dev(dev_keypair("alice").address, body)
    world.l2_block()
    return world.post_batch(root=b"\x66" * 32)


def test_a_dispute_is_played_to_its_verdict_by_hand(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        batch = await lying_batch(world)
        shown = await world.get(f"/batches/{batch}")
        assert (shown["matches"], shown["status"], shown["blocks_left"]) == (False, "pending", 12)
        assert shown["state_root"] == "0x" + "66" * 32 != shown["computed_root"]
        await world.post("/disputes", {"from": "verifier", "batch": batch})
        world.seal_final()
        shown = await world.get("/disputes/0")
        assert (shown["turn"], shown["stage"], shown["open"]) == ("defender", "bisect", True)
        assert (shown["challenger"]["name"], shown["defender"]["name"]) == ("verifier", "sequencer")
        assert len(shown["cut_points"]) == 3
        clock = shown["clocks"]["defender"]
        world.seal()
        assert (await world.get("/disputes/0"))["clocks"]["defender"] == clock - 1
        assert (await world.post("/disputes/0/choose", {"from": "verifier"}, 409))["code"] == "wrong_stage"
        assert (await world.post("/disputes/0/bisect", {"from": "bob"}, 422))["code"] == "not_your_move"
        assert (await world.post("/disputes/0/timeout", {"from": "bob"}, 422))["code"] == "clock_running"
        early = await world.post(f"/batches/{batch}/finalize", {"from": "bob"}, 422)
        assert early["code"] == "too_early"

        while (shown := await world.get("/disputes/0"))["open"]:
            if shown["stage"] == "bisect":  # lies at every cut
                roots = ["0x" + bytes([i + 1] * 32).hex() for i in range(len(shown["cut_points"]))]
                await world.post("/disputes/0/bisect", {"from": "sequencer", "roots": roots})
            else:
                await world.post(f"/disputes/0/{shown['stage']}", {"from": "verifier"})
            world.seal_final()
        assert (shown["winner"], shown["reason"], shown["may_act"]) == ("challenger", "step-proved", "")
        names = [move["name"] for move in shown["history"]]
        assert names[0] == "BatchChallenged"
        assert names[-2:] == ["StepProved", "DisputeResolved"]
        assert {"DisputeBisected", "SegmentChosen"} <= set(names)
        shown = await world.get(f"/batches/{batch}")
        assert (shown["status"], shown["reverted_because"]) == ("reverted", "step-proved")
        assert (await world.post("/disputes/0/settle", {"from": "bob"}, 422))["code"] == "dispute_resolved"
        refused = await world.post(f"/batches/{batch}/finalize", {"from": "bob"}, 422)
        assert refused["code"] == "batch_reverted"

    run(tmp_path, story)


def test_a_silent_side_loses_by_a_call_of_time(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        batch = await lying_batch(world)
        for who in ("verifier", "judy"):
            await world.post("/disputes", {"from": who, "batch": batch})
        world.seal_final()
        opened = (await world.get("/disputes/0"))["opened"]
        world.seal_to(opened + SETTINGS.dispute_clock + 1)
        shown = await world.get("/disputes/0")
        assert (shown["clocks"]["defender"], shown["blocks_left"]) == (-1, 0)
        assert "timeout" in shown["may_act"]
        await world.post("/disputes/0/timeout", {"from": "bob"})
        world.seal_final()
        shown = await world.get("/disputes/1")
        assert (shown["open"], shown["moot"]) == (True, True)
        assert (await world.post("/disputes/1/bisect", {"from": "sequencer"}, 409))["code"] == "dispute_moot"
        await world.post("/disputes/1/settle", {"from": "bob"})
        world.seal_final()
        assert (await world.get("/disputes"))["open"] == []
        assert (await world.get("/disputes/1"))["reason"] == "batch-reverted"

    run(tmp_path, story)


def test_a_frivolous_challenge_is_possible_and_loses(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.l2_block()
        batch = world.post_batch()
        refused = await world.post("/disputes", {"from": "mallory", "batch": batch}, 422)
        assert refused["code"] == "batch_is_true"
        await world.post("/disputes", {"from": "mallory", "batch": batch, "state_root": "0x" + "12" * 32})
        world.seal_final()
        assert (await world.get("/disputes/0"))["stage"] == "prove"
        proved = await world.post("/disputes/0/prove", {"from": "bob"})
        assert proved["dispute"] == 0
        world.seal_final()
        assert (await world.get("/disputes/0"))["winner"] == "defender"
        assert (await world.get(f"/batches/{batch}"))["status"] == "pending"

    run(tmp_path, story)


def test_a_signed_move_must_be_of_the_dispute_in_the_address(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        batch = await lying_batch(world)
        for who in ("verifier", "judy"):
            await world.post("/disputes", {"from": who, "batch": batch})
        world.seal_final()
        tx = world.call("sequencer", "bisect", abi.BisectArgs(1, [b"\x01" * 32] * 3))
        assert (await world.post("/disputes/0/bisect", tx.to_json(), 422))["code"] == "wrong_call"
        assert (await world.post("/disputes/1/choose", tx.to_json(), 422))["code"] == "wrong_call"
        await world.post("/disputes/1/bisect", tx.to_json())

    run(tmp_path, story)


def test_a_challenge_is_of_the_first_false_batch_of_its_line(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await lying_batch(world)
        world.l2_block()
        second = world.post_batch()
        problem = await world.post("/disputes", {"from": "verifier", "batch": second}, 422)
        assert problem["code"] == "stands_on_false_batch"
        assert f"false batch {first}" in problem["detail"]
        await world.post("/disputes", {"from": "verifier", "batch": first})
        world.seal_final()
        await world.post(
            "/disputes/0/bisect", {"from": "sequencer"}
        )  # the true roots: the last one is the lie
        world.seal_final()
        await world.post("/disputes/0/choose", {"from": "verifier"})
        world.seal_final()
        shown = await world.get("/disputes/0")
        assert shown["high"] == (await world.get(f"/batches/{first}"))["steps"]

    run(tmp_path, story)


def test_with_nothing_false_there_is_nothing_to_choose(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for _ in range(4):
            world.l2_block()
        batch = world.post_batch()
        root = "0x" + "12" * 32
        await world.post("/disputes", {"from": "mallory", "batch": batch, "state_root": root})
        world.seal_final()
        await world.post("/disputes/0/bisect", {"from": "sequencer"})
        world.seal_final()
        problem = await world.post("/disputes/0/choose", {"from": "mallory"}, 409)
        assert problem["code"] == "nothing_to_choose"

    run(tmp_path, story)


# --- events ---------------------------------------------------------------------------------------------------------


async def read_stream(
    app: FastAPI, query: str, count: int, headers: dict[str, str] | None = None
) -> list[Any]:
    """The first ``count`` messages of the event stream, then the reader goes away."""
    found: list[Any] = []
    enough, asked = asyncio.Event(), False
    text = b""

    async def receive() -> Any:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal text
        text = (text + message.get("body", b"")).replace(b"\r\n", b"\n")
        *whole, text = text.split(b"\n\n")
        for part in whole:
            lines = dict(line.split(": ", 1) for line in part.decode().strip().split("\n") if ": " in line)
            if "data" in lines:
                found.append((int(lines["id"]), json.loads(lines["data"])))
        if len(found) >= count:
            enough.set()

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/events/stream",
        "raw_path": b"/events/stream",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("bridge", 80),
        "client": ("test", 1),
        "root_path": "",
        "asgi": {"version": "3.0"},
    }
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return found[:count]


def test_events_come_once_in_order_and_the_stream_resumes(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.post("/deposits", {"from": "alice", "amount": COIN})
        await world.post("/withdrawals", {"from": "bob", "amount": COIN})
        world.seal_final()
        world.l2_block()
        world.finalize(world.post_batch())
        await world.post("/withdrawals/0/claim", {"from": "bob"})
        world.seal_final()
        events = (await world.get("/events", limit=1000))["events"]
        names = [(event["source"], event["name"]) for event in events]
        assert names == [
            ("bridge", "DepositInitiated"),
            ("bridge", "BatchSubmitted"),
            ("derivation", "BatchDerived"),
            ("derivation", "DepositCredited"),
            ("messenger", "WithdrawalInitiated"),
            ("bridge", "BatchFinalized"),
            ("derivation", "WithdrawalReadied"),
            ("bridge", "WithdrawalClaimed"),
        ]
        assert [event["seq"] for event in events] == list(range(1, 9))
        app = world.service.app
        first = await read_stream(app, "", 3)
        rest = await read_stream(app, "from=1", 5, {"Last-Event-ID": str(first[-1][0])})
        assert [event for _, event in first + rest] == events
        await world.restart()
        assert [event for _, event in await read_stream(world.service.app, "from=1", 8)] == events
        waiting = asyncio.create_task(read_stream(world.service.app, "from=now", 1))
        await asyncio.sleep(0)
        await world.post("/deposits", {"from": "alice", "amount": COIN})
        while not waiting.done() and world.bridge.events.followers == 0:
            await asyncio.sleep(0.01)
        world.seal_final()
        ((seq, event),) = await waiting
        assert (seq, event["name"]) == (9, "DepositInitiated")

    run(tmp_path, story)


# --- restart, start, liars --------------------------------------------------------------------------------------------

PAGES = (
    "/bridge",
    "/batches",
    "/disputes",
    "/disputes/0",
    "/deposits",
    "/withdrawals",
    "/withdrawals/0",
    "/forced-transactions",
    "/events",
    "/exits/alice",
)


def test_a_restart_from_disk_gives_the_same_answers(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.post("/deposits", {"from": "alice", "amount": COIN})
        await world.post("/withdrawals", {"from": "bob", "amount": COIN})
        action = {"type": "transfer", "to": "bob", "amount": 7}
        await world.post("/forced-transactions", {"from": "carol", "action": action})
        world.seal_final()
        world.l2_block()
        world.finalize(world.post_batch())
        await world.post("/withdrawals/0/claim", {"from": "bob"})
        batch = await lying_batch(world)
        await world.post("/disputes", {"from": "verifier", "batch": batch})
        await world.post("/deposits", {"from": "alice", "amount": 2 * COIN})
        world.seal_final()
        before = {page: await world.get(page) for page in PAGES}
        await world.restart()
        assert {page: await world.get(page) for page in PAGES} == before
        await world.post("/disputes/0/bisect", {"from": "sequencer", "roots": ["0x" + "01" * 32] * 3})
        world.seal_final()
        assert len((await world.get("/disputes/0"))["history"]) == 2

    run(tmp_path, story)


def test_a_block_whose_events_cannot_be_kept_is_not_kept_either(tmp_path: Path) -> None:
    """A crash between a block and its events would lose them for good: both go to disk in one write."""

    async def story(world: World) -> None:
        await world.post("/deposits", {"from": "alice", "amount": COIN})
        height = world.height

        def fail(*_: Any, **__: Any) -> int:
            raise StoreError("the disk is full")

        keep, world.bridge.events.append = world.bridge.events.append, fail  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            world.seal_final()
        world.bridge.events.append = keep  # type: ignore[method-assign]
        failed_at = world.core.tip.header.height
        await world.restart()
        assert height <= world.height == failed_at - 1

        core = FollowerCore(world.chain, world.bridge.replica.tip)
        for final, certificate in core.add([certified(b) for b in world.l1.blocks[world.height + 1 :]]):
            world.bridge.on_l1_final(final, certificate)
        names = [event["name"] for event in (await world.get("/events"))["events"]]
        assert names == ["DepositInitiated"]

    run(tmp_path, story)


def test_it_follows_l1_over_http_and_gets_past_a_node_that_lies(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        liar = FastAPI()

        @liar.get("/certified-blocks")
        async def forged(request: Request) -> Response:
            block = world.l1.blocks[int(request.query_params["from"])]
            return Response(encode([[block.block, certify(block, [dev_keypair("validator-0")] * 1)]]))

        world.apps[L1_URL] = liar
        world.down.add(L2_URL)
        await world.stop()
        world.bridge.on_l1_final = lambda *_: None  # type: ignore[method-assign]
        tx = world.call("alice", "deposit", abi.DepositArgs(dev_keypair("alice").address), COIN)
        world.l1.pool.append(tx)
        for _ in range(4):
            world.l1.seal()
        await world.start()
        async with asyncio.timeout(20), running(world.service):
            while world.height < 5:
                await asyncio.sleep(0.01)
            assert (await world.get("/deposits"))["total"] == 1
            assert (await world.get("/health/ready"))["ready"]
        await world.http.aclose()
        await world.start()
        assert (await world.get("/deposits"))["total"] == 1

    run(tmp_path, story)


def test_nonsense_from_a_node_is_no_fact_and_no_failure(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        tx = world.call("alice", "deposit", abi.DepositArgs(dev_keypair("alice").address), COIN)
        other = world.call("bob", "deposit", abi.DepositArgs(dev_keypair("bob").address), 2 * COIN)
        answers: list[Any] = [7, [], {}, {"hash": "0x" + tx.id.hex()}, {"inbox": {"taken_in": 2**80}}]
        plain = {
            "status": "notarized",
            "height": 2**80,
            "receipt": None,
            "block_hash": None,
            "position": None,
        }
        odd: tuple[Any, ...] = (None, 7, [], {}, other.to_json(), {**tx.to_json(), "nonce": 2**80})
        answers += [{"hash": "0x" + tx.id.hex(), "transaction": shown, **plain} for shown in odd]
        answers.append({"hash": "0x" + other.id.hex(), "transaction": other.to_json(), **plain})
        node = FastAPI()
        state: dict[str, Any] = {}

        @node.api_route("/{path:path}", methods=["GET", "POST"])
        async def anything() -> Response:
            return Response(json.dumps(state["answer"]), media_type="application/json")

        world.apps = dict.fromkeys((L1_URL, L1_SPARE, L2_URL), node)
        for answer in answers:
            state["answer"] = answer
            for path in ("/deposits/0x", "/withdrawals/0x", "/forced-transactions/0x"):
                got = await world.http.get(path + tx.id.hex())
                assert got.status_code == 404, (answer, got.text)
            await world.get("/deposits")
            sent = await world.http.post(
                "/deposits", content=json.dumps({"from": "alice", "amount": COIN}).encode()
            )
            assert sent.status_code in (202, 502), (answer, sent.text)
        state["answer"] = {"hash": "0x" + tx.id.hex(), "transaction": tx.to_json(), **plain}
        shown = await world.get("/deposits/0x" + tx.id.hex())
        assert (shown["status"], shown["amount"]) == ("pending", COIN)

    run(tmp_path, story)


def test_it_starts_with_one_line_or_not_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    genesis = tmp_path / "l1.json"
    genesis.write_text(json.dumps(genesis_to_json(l1_genesis())))
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(genesis_to_json(make_genesis())))
    data = ["--port", "0", "--data", str(tmp_path / "data")]
    broken = tmp_path / "broken" / "l1"
    broken.mkdir(parents=True)
    (broken / "node.db").write_bytes(b"not a database" * 100)
    cases = [
        (data, "--l1-genesis"),
        (["--l1-genesis", str(tmp_path / "none.json"), *data], "No such file"),
        (["--l1-genesis", str(plain), *data], "no bridge contract"),
        (["--l1-genesis", str(genesis), "--port", "0"], "--data"),
        (["--l1-genesis", str(genesis), "--l1", ",", *data], "--l1"),
        (["--l1-genesis", str(genesis), "--l1", "ftp://x", *data], "no address"),
        (["--l1-genesis", str(genesis), "--l2", "http://a,http://b", *data], "--l2"),
        (["--l1-genesis", str(genesis), "--port", "0", "--data", str(broken.parent)], "cannot be used"),
    ]
    for arguments, words in cases:
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert words in error, error


def test_no_devnet_signs_for_nobody(tmp_path: Path) -> None:
    def strange(number: int) -> bytes:
        return KeyPair(bytes([number]) * 32).address

    l2 = l2_genesis(devnet=False)
    params = abi.BridgeParams(l2, replace(SETTINGS, sequencer=strange(1)))
    contracts = [
        GenesisContract("bridge", "bridge.contract:Bridge", encode(params), 0),
        l1_genesis().contracts[1],
    ]
    genesis = replace(
        l1_genesis(),
        devnet=False,
        accounts=[GenesisAccount(strange(2), COIN)],
        validators=[Validator(strange(3), 100 * COIN)],
        contracts=contracts,
    )

    async def story() -> None:
        service, _ = await create(Chain(genesis), [L1_URL], None, tmp_path)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://bridge")
        action = {"type": "transfer", "to": "0x" + strange(2).hex(), "amount": 1}
        bodies: dict[str, Any] = {
            "/deposits": {"amount": 1},
            "/withdrawals": {"amount": 1},
            "/forced-transactions": {"action": action},
            "/disputes": {"batch": 0},
            "/freeze": {},
            "/exits": {},
            "/batches/0/finalize": {},
        }
        for path, body in bodies.items():
            answer = await http.post(path, json={"from": "alice", **body})
            assert (answer.status_code, answer.json()["code"]) == (403, "not_a_devnet"), path
        assert (await http.get("/exits/alice")).json()["code"] == "invalid_address"
        await http.aclose()
        assert service.close is not None
        await service.close()

    asyncio.run(story())


def test_another_chains_data_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        service, _ = await create(Chain(l1_genesis()), [L1_URL], None, tmp_path)
        assert service.close is not None
        await service.close()
        other = l1_genesis()
        with pytest.raises(StoreError, match="another chain"):
            await create(Chain(replace(other, name="other")), [L1_URL], None, tmp_path)

    asyncio.run(story())


@pytest.mark.parametrize("text", ["x", "http://", "http://a:99999", "http://a?b=1", "//a", "http://[::1"])
def test_an_address_of_a_node_is_checked(text: str) -> None:
    with pytest.raises(StartupError):
        parse_urls("--l1", text)
