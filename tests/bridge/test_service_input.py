"""What each address of the bridge service refuses, with which code, and that nothing is sent then."""

import asyncio
import json
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from bridge_world import (
    COIN,
    L1_URL,
    SETTINGS,
    World,
    l1_genesis,
    l2_genesis,
    run_story,
)
from msgspec.structs import replace

from bridge import abi
from bridge.service import create
from bridge.settings import SettingsError, check_l2_genesis, check_strangers
from chainkit.block import Validator
from chainkit.chain import Chain
from chainkit.codec import encode
from chainkit.genesis import GenesisAccount, GenesisContract
from chainkit.keys import KeyPair, dev_keypair
from chainkit.transaction import Body, SignedTransaction, Transfer

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


def is_problem(answer: Any) -> bool:
    return set(answer) >= {"type", "title", "status", "code", "detail"} and answer["code"] != "internal_error"


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
    (b"[" * 20_000, 400),
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

    run_story(tmp_path, story)


def test_an_amount_is_an_integer_in_range(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        amounts: list[Any] = [-1, 0, MAX, 2**64, "1", True, None, [], 10**30]
        for path, amount in product(("/deposits", "/withdrawals"), amounts):
            problem = await world.post(path, {"from": "alice", "amount": amount}, 400)
            assert problem["code"] == "malformed_body"
            assert "amount" in problem["detail"] or "integer" in problem["detail"]
        assert world.l1.pool == world.sequencer.pool == []

    run_story(tmp_path, story)


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

    run_story(tmp_path, story)


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

    run_story(tmp_path, story)


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

    run_story(tmp_path, story)


def test_a_real_l1_hosts_no_rollup_whose_keys_everybody_knows() -> None:
    """Its coins would be real: an L1 that is no devnet refuses a devnet's rollup, and rule by a well-known key."""
    strange = KeyPair(bytes([1]) * 32).address
    real = replace(l1_genesis(), devnet=False)
    with pytest.raises(SettingsError, match=r"l2_genesis\.devnet"):
        check_l2_genesis(real, l2_genesis())
    check_l2_genesis(l1_genesis(), l2_genesis())
    for role in ("sequencer", "admin"):
        settings = replace(
            SETTINGS, **{"sequencer": strange, "admin": None, role: dev_keypair("mallory").address}
        )
        with pytest.raises(SettingsError, match=rf"settings\.{role} is the well-known key of 'mallory'"):
            check_strangers(real, settings)
        check_strangers(l1_genesis(), settings)


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
