"""What each address of a committee bridge's service answers and refuses, and what it says it has not."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from committee_services import BRIDGE, L1_URLS, SIDE_URLS, THREE, World, run_story
from committee_world import COIN, OPERATORS, address, l1_genesis, side_genesis

from bridge.abi import DepositArgs
from bridge.committee_abi import AttestArgs
from chainkit.codec import to_json
from chainkit.genesis import genesis_to_json

NO_OPERATORS = (BRIDGE,)


def test_every_page_of_the_service_answers(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        status = await world.get("/status")
        assert (status["role"], status["kind"], status["chain_id"], status["l2_chain_id"]) == (
            "bridge",
            "committee",
            900,
            902,
        )
        assert status["heads"]["finalized"]["height"] == status["l2_height"] == world.side.final
        bridge = await world.get("/bridge")
        assert bridge["kind"] == "committee"
        assert bridge["settings"] == to_json(world.params)
        assert sorted(who["name"] for who in bridge["operators"]) == list(THREE)
        assert (bridge["threshold"], bridge["invariant"]["holds"], bridge["frozen"]) == (2, True, False)
        assert await world.get("/genesis") == genesis_to_json(l1_genesis(world.params))
        assert await world.get("/genesis/l2") == genesis_to_json(side_genesis(world.params))
        assert (await world.get("/health/ready"))["ready"]
        assert "layerlab_invariant_holds 1.0" in (await world.services[BRIDGE].http.get("/metrics")).text
        paths = (await world.get("/openapi.json"))["paths"]
        assert {"/deposits", "/withdrawals/{id}", "/events/stream", "/batches"} <= set(paths)

    run_story(tmp_path, story, NO_OPERATORS)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/batches", "no_batches"),
        ("/batches/0", "no_batches"),
        ("/batches/0/finalize", "no_batches"),
        ("/disputes", "no_disputes"),
        ("/disputes/0/bisect", "no_disputes"),
        ("/forced-transactions", "no_forced_transactions"),
        ("/forced-transactions/0", "no_forced_transactions"),
        ("/freeze", "no_escape"),
        ("/exits", "no_escape"),
        ("/exits/alice", "no_escape"),
        ("/refunds/0", "no_escape"),
    ],
)
def test_what_a_committee_bridge_has_not_is_said_and_why(tmp_path: Path, path: str, code: str) -> None:
    async def story(world: World) -> None:
        for status, problem in (
            (404, await world.get(path, 404)),
            (409, await world.post(path, {"from": "alice"}, 409)),
        ):
            assert (problem["code"], problem["status"], problem["kind"]) == (code, status, "committee")
            assert len(problem["detail"]) > 30

    run_story(tmp_path, story, NO_OPERATORS)


def test_lists_are_paged_and_unknown_things_say_what_there_is(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for amount in range(5):
            world.l1.send("alice", "deposit", DepositArgs(address("bob")), COIN + amount)
        await world.step(3)
        wanted: dict[str, Any] = {"from": 1, "limit": 2}
        page = await world.get("/deposits", **wanted)
        assert ([d["index"] for d in page["deposits"]], page["total"]) == ([1, 2], 5)
        assert [d["index"] for d in (await world.get("/deposits", limit=2))["deposits"]] == [3, 4]
        problem = await world.get("/deposits/5", 404)
        assert (problem["code"], problem["known"]) == ("unknown_deposit", "deposits 0..4")
        assert (await world.get("/withdrawals/0", 404))["code"] == "unknown_withdrawal"
        for path in ("/deposits/0x" + "11" * 32, "/withdrawals/0x" + "11" * 32):
            assert (await world.get(path, 404))["code"].startswith("unknown_")
        for text in ("x", "-1", "1.0", "0x12", "0x" + "zz" * 32, str(2**53), "²"):
            for path in ("/deposits/", "/withdrawals/"):
                assert (await world.get(path + text, 422))["code"] == "invalid_id"

    run_story(tmp_path, story, NO_OPERATORS)


BAD = [
    (b"", 400),
    (b"[]", 400),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b'{"from": "alice", "from": "bob"}', 400),
    (b'{"from": "alice", "amount": 1.5}', 400),
    (b'{"from": "alice", "amount": 0}', 400),
    (b'{"from": "alice", "amount": -1}', 400),
    (b'{"from": "alice", "amount": 9007199254740992}', 400),
    (b'{"from": "alice", "amount": true}', 400),
    (b'{"from": "alice", "amount": "1"}', 400),
    (b'{"from": "alice"}', 400),
    (b'{"from": "alice", "amount": 5000, "surprise": 1}', 400),
    (b'{"from": "alice", "amount": 5000, "to": 7}', 400),
    (b'{"from": "alice", "amount": 5000, "to": "0x00"}', 400),
    (b'{"from": "nobody", "amount": 5000}', 422),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
    (b"a" * 10_000_000, 413),
]


def test_no_write_takes_what_makes_no_sense(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for path, (body, status) in product(("/deposits", "/withdrawals"), BAD):
            problem = await world.post(path, body, status)
            assert problem["code"] != "internal_error", (path, body[:60])
        small_order = json.dumps({"from": "alice", "amount": 5000, "to": "0x01" + "00" * 31}).encode()
        for path in ("/deposits", "/withdrawals"):
            answer = await world.services[BRIDGE].http.post(path, content=small_order)
            assert 400 <= answer.status_code < 500, answer.text
        assert world.l1.backend.pool == world.side.backend.pool == []

    run_story(tmp_path, story, NO_OPERATORS)


def test_without_nodes_writes_say_so_and_reads_go_on(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.l1.send("alice", "deposit", DepositArgs(address("bob")), COIN)
        await world.step(3)
        for who in OPERATORS[:2]:
            world.side.send(who, "credit", AttestArgs(0, address("bob"), COIN))
        await world.step(3)
        world.down = {*L1_URLS, *SIDE_URLS}
        for path, code in (("/deposits", "l1_unreachable"), ("/withdrawals", "l2_unreachable")):
            problem = await world.post(path, {"from": "bob", "amount": 5_000}, 503)
            assert problem["code"] == code
        assert (await world.get("/deposits/0"))["status"] == "credited"
        assert (await world.get("/bridge"))["invariant"]["holds"]

    run_story(tmp_path, story, NO_OPERATORS)
