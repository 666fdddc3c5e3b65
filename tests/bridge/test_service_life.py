"""The bridge service's life: its pages, books and events, restarts, lost writes, and nodes that lie."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from bridge_world import (
    COIN,
    L1_SPARE,
    L1_URL,
    L2_URL,
    SETTINGS,
    World,
    l1_genesis,
    l2_genesis,
    lying_batch,
    run_story,
)
from fake_chain import certified, certify, make_genesis
from fastapi import FastAPI, Request, Response
from msgspec.structs import replace

from bridge import abi
from bridge.backend import READY_LAG
from bridge.service import create, main
from chainkit.chain import Chain
from chainkit.codec import decode, encode, to_json
from chainkit.follower import FollowerCore
from chainkit.genesis import genesis_to_json
from chainkit.keys import dev_keypair
from chainkit.merkle import Tree
from chainkit.options import parse_urls
from chainkit.service import running
from chainkit.startup import StartupError
from chainkit.state import Account
from chainkit.store import StoreError


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

    run_story(tmp_path, story)


def test_ready_means_in_step_with_what_l1_says_is_final(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        told: list[int | None] = [None]
        world.bridge.heard_final = lambda: told[0]
        assert (await world.get("/health/ready", 503))["code"] == "not_ready"
        told[0] = world.height + READY_LAG
        assert (await world.get("/health/ready"))["ready"]
        told[0] = world.height + READY_LAG + 1
        await world.get("/health/ready", 503)

    run_story(tmp_path, story)


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

    run_story(tmp_path, story)


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

    run_story(tmp_path, story)


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

    run_story(tmp_path, story)


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

    run_story(tmp_path, story)


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

    run_story(tmp_path, story)


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

    run_story(tmp_path, story)


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

    run_story(tmp_path, story)


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
