"""The chain API over an in-memory chain: shapes, heads, signing for a devnet, streams, and strict input."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_chain import COIN, MemoryBackend, make_genesis

from chainkit.client import ApiError, ChainClient
from chainkit.codec import encode, to_json
from chainkit.http_limits import MAX_BODY
from chainkit.keys import dev_keypair
from chainkit.merkle import verify_proof
from chainkit.transaction import Body, Call, SignedTransaction, Transfer

pytestmark = pytest.mark.anyio

ALICE, BOB = dev_keypair("alice"), dev_keypair("bob")


@pytest.fixture
def anyio_backend() -> str:
    """The services run on asyncio only."""
    return "asyncio"


def signed(nonce: int = 0, *, chain_id: int = 900, amount: int = 5, **changes: Any) -> SignedTransaction:
    fields: dict[str, Any] = {"gas_limit": 100_000, "max_fee_per_gas": 20, "tip_per_gas": 1, **changes}
    body = Body(
        chain_id=chain_id, sender=ALICE.address, nonce=nonce, action=Transfer(BOB.address, amount), **fields
    )
    return SignedTransaction.sign(body, ALICE)


def wire_json(tx: SignedTransaction) -> dict[str, Any]:
    return {name: value for name, value in tx.to_json().items() if name != "hash"}


@pytest.fixture
async def http(backend: MemoryBackend) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(backend.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def client(backend: MemoryBackend) -> AsyncIterator[ChainClient]:
    transport = httpx.ASGITransport(backend.app(), raise_app_exceptions=False)
    async with ChainClient("http://test", transport=transport) as made:
        yield made


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem object of a refusal, checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    found: dict[str, Any] = response.json()
    assert found["code"] == code
    assert found["status"] == status
    assert "Traceback" not in response.text
    return found


# --- what it serves ---


async def test_the_way_of_a_transfer(backend: MemoryBackend, client: ChainClient) -> None:
    tx = signed()
    assert (await client.submit(tx)).accepted
    pending = await client.transaction(tx.id)
    assert pending is not None
    assert pending.status == "pending"
    assert (await client.account(ALICE.address)).pending_nonce == 1
    backend.seal()
    assert (await client.wait_for_receipt(tx.id, timeout=5)).success
    assert (await client.account(BOB.address)).balance == 1000 * COIN + 5
    block = await client.block("head", full=True)
    assert block["transactions"][0]["hash"] == to_json(tx.id)
    assert block["header"]["state_root"] == to_json(backend.blocks[-1].header.state_root)
    by_hash = await client.block(backend.blocks[-1].hash)
    assert by_hash["height"] == (await client.block(1))["height"] == 1


async def test_a_proof_proves_the_account_under_the_heads_root(
    backend: MemoryBackend, client: ChainClient
) -> None:
    backend.seal(final=True)
    stranger = dev_keypair("judge").address
    for address, exists in ((ALICE.address, True), (stranger, False)):
        proof = await client.account_proof(address)
        assert proof.state_root == backend.blocks[1].header.state_root
        value = verify_proof(proof.state_root, proof.key, proof.proof)
        assert (value is not None) is exists


async def test_an_unknown_account_has_nothing_and_is_no_error(client: ChainClient) -> None:
    account = await client.account(dev_keypair("judge").address)
    assert (account.balance, account.nonce, account.exists) == (0, 0, False)


async def test_a_devnet_signs_for_well_known_names(backend: MemoryBackend, http: httpx.AsyncClient) -> None:
    body = {"from": "alice", "action": {"type": "transfer", "to": "bob", "amount": 7}}
    for nonce in range(3):
        answer = (await http.post("/transactions", json=body)).json()
        assert answer["transaction"]["nonce"] == nonce
    assert all(receipt.success for receipt in backend.seal().receipts)


async def test_no_devnet_no_names(tmp_path: Path) -> None:
    backend = MemoryBackend(tmp_path, make_genesis(devnet=False))
    transport = httpx.ASGITransport(backend.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        body = {"from": "alice", "action": {"type": "transfer", "to": "bob", "amount": 7}}
        assert (await http.post("/transactions", json=body)).status_code in (403, 422)
    assert not backend.pool
    backend.store.close()


async def test_calls_take_arguments_by_name_and_show_them(
    backend: MemoryBackend, http: httpx.AsyncClient
) -> None:
    action = {
        "type": "call",
        "contract": "notes",
        "method": "put",
        "args": {"owner": "bob", "number": 4},
        "value": 9,
    }
    answer = (await http.post("/transactions", json={"from": "alice", "action": action})).json()
    backend.seal()
    shown = (await http.get(f"/transactions/{answer['hash']}")).json()
    assert shown["transaction"]["action"]["args"] == {"owner": to_json(BOB.address), "number": 4}
    assert shown["receipt"]["events"][0]["data"] == {"owner": to_json(BOB.address), "number": 4, "value": 9}
    assert (await http.get("/contracts/notes")).json()["state"] == {"count": 1}
    events = (await http.get("/events")).json()["events"]
    assert [event["name"] for event in events] == ["NotePut"]


async def test_many_at_once_get_one_answer_each(backend: MemoryBackend, client: ChainClient) -> None:
    bad = SignedTransaction.decode(signed(1).wire[:-1] + b"\x00")
    results = await client.submit_many([signed(0), bad, signed(1), signed(3)])
    assert [(r.accepted, r.code) for r in results] == [
        (True, ""),
        (False, "bad_signature"),
        (True, ""),
        (False, "nonce_gap"),
    ]
    assert len(backend.pool) == 2


async def test_what_is_in_a_block_is_not_taken_again(backend: MemoryBackend, client: ChainClient) -> None:
    tx = signed()
    await client.submit(tx)
    backend.seal()
    with pytest.raises(ApiError) as refusal:
        await client.submit(tx)
    assert refusal.value.code == "already_included"


async def test_health_says_what_it_waits_for(backend: MemoryBackend, http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/live")).status_code == 200
    waiting = await http.get("/health/ready")
    assert waiting.status_code == 503
    assert "first block" in waiting.text
    backend.seal()
    assert (await http.get("/health/ready")).status_code == 200
    assert "layerlab_" in (await http.get("/metrics")).text


# --- the event stream ---


async def test_a_follower_wakes_for_an_event_that_comes_later(backend: MemoryBackend) -> None:
    found: list[int] = []

    async def follow() -> None:
        async for event in backend.log.follow(1):
            found.append(event.seq)
            if len(found) == 2:
                return

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    backend.log.append("A", {}, height=0, source="test")
    await asyncio.sleep(0)
    backend.log.append("B", {}, height=0, source="test")
    await asyncio.wait_for(task, 5)
    assert found == [1, 2]


# --- strict input ---


def changed(**fields: Any) -> dict[str, Any]:
    return {**wire_json(signed()), **fields}


def with_amount(amount: Any) -> dict[str, Any]:
    value = wire_json(signed())
    return {**value, "action": {**value["action"], "amount": amount}}


BAD_BODIES: dict[str, Any] = {
    "empty": b"",
    "not json": b"{",
    "a list": b"[]",
    "nan": b'{"nonce": NaN}',
    "a float": json.dumps(with_amount(1.0)).encode(),
    "negative": json.dumps(with_amount(-1)).encode(),
    "2^53": json.dumps(with_amount(2**53)).encode(),
    "huge": b'{"nonce": ' + b"9" * 5000 + b"}",
    "a string": json.dumps(with_amount("1")).encode(),
    "true": json.dumps(with_amount(True)).encode(),
    "duplicate keys": b'{"nonce": 1, "nonce": 1}',
    "deep": b"[" * 100_000,
    "unknown field": json.dumps(changed(extra=1)).encode(),
    "missing field": json.dumps({k: v for k, v in changed().items() if k != "nonce"}).encode(),
    "capital hex": json.dumps(changed(sender=wire_json(signed())["sender"].upper())).encode(),
    "short key": json.dumps(changed(sender="0x00")).encode(),
    "invalid utf-8": b'{"nonce": "\xff"}',
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_bodies_are_refused_and_change_nothing(
    backend: MemoryBackend, http: httpx.AsyncClient, name: str
) -> None:
    response = await http.post(
        "/transactions", content=BAD_BODIES[name], headers={"content-type": "application/json"}
    )
    assert 400 <= response.status_code < 500
    problem(response, response.status_code, response.json()["code"])
    assert response.json()["code"]
    assert not backend.pool


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\xc1",
        b"\x90",
        encode([b""]),
        encode([b"junk"]),
        encode([signed().wire + b"\0"]),
        encode([signed().wire])[:-1],
    ],
)
async def test_bad_batches_are_refused_and_change_nothing(
    backend: MemoryBackend, http: httpx.AsyncClient, wire: bytes
) -> None:
    response = await http.post("/transactions", content=wire, headers={"content-type": "application/msgpack"})
    assert 400 <= response.status_code < 500
    assert response.json()["code"]
    assert not backend.pool


async def test_ten_megabytes_are_refused_unread(backend: MemoryBackend, http: httpx.AsyncClient) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(160):
            read += 65536
            yield bytes(65536)

    response = await http.post("/transactions", content=body(), headers={"content-type": "application/json"})
    assert problem(response, 413, response.json()["code"])
    assert read <= MAX_BODY + 65536
    assert not backend.pool


@pytest.mark.parametrize(
    ("tx", "code"),
    [
        (signed(chain_id=901), "wrong_chain"),
        (signed(gas_limit=1), "gas_limit_too_low"),
        (signed(gas_limit=2**50), "gas_limit_too_high"),
        (signed(tip_per_gas=21), "tip_above_max_fee"),
        (signed(max_fee_per_gas=0, tip_per_gas=0), "fee_too_low"),
        (signed(nonce=1), "nonce_gap"),
        (signed(amount=1001 * COIN), "insufficient_balance"),
    ],
)
async def test_what_cannot_run_is_refused_with_its_reason(
    backend: MemoryBackend, client: ChainClient, tx: SignedTransaction, code: str
) -> None:
    with pytest.raises(ApiError) as refusal:
        await client.submit(tx)
    assert refusal.value.code == code
    assert not backend.pool


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/blocks/99", 404),
        ("/blocks/0x" + "00" * 32, 404),
        ("/blocks/-1", 422),
        ("/blocks/1e3", 422),
        ("/blocks/\u0663", 422),
        ("/blocks?from=-1", 422),
        ("/blocks?limit=99999999", 422),
        ("/accounts/0x00", 422),
        ("/accounts/0x" + "01" + "00" * 31, 422),
        ("/accounts/nobody-at-all", 422),
        ("/accounts/alice?at=yesterday", 422),
        ("/transactions/0x" + "00" * 32, 404),
        ("/transactions/zz", 422),
        ("/contracts/none", 404),
        ("/events?from=x", 422),
        ("/nowhere", 404),
    ],
)
async def test_bad_paths_get_problems(http: httpx.AsyncClient, path: str, status: int) -> None:
    response = await http.get(path)
    assert response.json()["code"]
    problem(response, status, response.json()["code"])


async def test_the_wrong_method_is_a_problem_too(http: httpx.AsyncClient) -> None:
    response = await http.delete("/status")
    problem(response, 405, response.json()["code"])


async def test_an_action_for_a_contract_that_is_not_there_names_those_that_are(
    backend: MemoryBackend, http: httpx.AsyncClient
) -> None:
    body = {
        "from": "alice",
        "action": {"type": "call", "contract": "nope", "method": "put", "args": {}, "value": 0},
    }
    response = await http.post("/transactions", json=body)
    assert 400 <= response.status_code < 500
    assert "notes" in response.text
    assert not backend.pool


async def test_client_errors_are_typed() -> None:
    async with ChainClient("http://127.0.0.1:1", retries=0) as gone:
        with pytest.raises(ApiError) as refusal:
            await gone.status()
        assert refusal.value.code == "unreachable"
        assert not await gone.ready()


async def test_a_connection_that_its_loop_finds_closed_is_an_unreachable_service() -> None:
    """P9, P20: a peer hangs up as we write, and uvloop says so in its own way; who follows it must go on."""

    class Broken(httpx.AsyncBaseTransport):
        async def handle_async_request(self, _: httpx.Request) -> httpx.Response:
            raise RuntimeError(
                "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
            )

    async with ChainClient("http://x", retries=0, transport=Broken()) as client:
        with pytest.raises(ApiError) as refusal:
            await client.status()
        assert refusal.value.code == "unreachable"


def test_a_call_body_is_what_the_wire_says() -> None:
    body = Body(900, ALICE.address, 0, 1, 1, 1, Call("notes", "put", b"\x90", 0))
    tx = SignedTransaction.sign(body, ALICE)
    assert SignedTransaction.decode(tx.wire).body == body
