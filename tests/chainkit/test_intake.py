"""The way of submitted transactions: bodies of many, what is bad among them, and answers that wait."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx
import msgspec
import pytest
from fake_chain import MemoryBackend
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware

from chainkit import intake as intake_module
from chainkit.api import chain_router
from chainkit.backend import SubmitResult
from chainkit.codec import Bytes32, encode
from chainkit.http_limits import HttpLimits
from chainkit.intake import BulkRoute, Intake
from chainkit.keys import dev_keypair
from chainkit.problem_answers import install_problem_handlers
from chainkit.signature_pool import SignaturePool
from chainkit.transaction import Body, SignedTransaction, Transfer

pytestmark = pytest.mark.anyio

ALICE, BOB = dev_keypair("alice"), dev_keypair("bob")
MSGPACK = {"content-type": "application/msgpack"}


@pytest.fixture
def anyio_backend() -> str:
    """The services run on asyncio only."""
    return "asyncio"


def signed(nonce: int = 0, to: bytes = BOB.address, chain_id: int = 900) -> SignedTransaction:
    return SignedTransaction.sign(
        Body(chain_id, ALICE.address, nonce, 100_000, 20, 1, Transfer(to, 5)), ALICE
    )


def forged(tx: SignedTransaction) -> bytes:
    return tx.wire[:-1] + bytes([tx.wire[-1] ^ 1])


def small_order_sender(tx: SignedTransaction) -> bytes:
    """For every message there is a signature of this key, says another library."""
    b = tx.body
    body = Body(b.chain_id, b"\x01" + bytes(31), b.nonce, b.gas_limit, b.max_fee_per_gas, 1, b.action)
    return b"\x98" + encode(body)[1:] + encode(b"\x01" + bytes(63))


class Blocks:
    """Stands for a chain that lets clients wait: a transaction is included when `include` says so."""

    def __init__(self) -> None:
        self.included = asyncio.Event()
        self.asked = 0

    async def wait(self, tx_ids: Sequence[Bytes32], seconds: float) -> Mapping[Bytes32, Mapping[str, Any]]:
        self.asked += 1
        try:
            async with asyncio.timeout(seconds):
                await self.included.wait()
        except TimeoutError:
            return {}
        return {tx_id: {"height": 7, "root": b"\x01" * 32} for tx_id in tx_ids}


def make_app(backend: MemoryBackend, intake: Intake, *, short: bool = True, **limits: int) -> FastAPI:
    app = FastAPI()
    install_problem_handlers(app)
    app.add_middleware(HttpLimits, **limits)
    if short:
        app.user_middleware.append(Middleware(BulkRoute, intake))
    app.include_router(chain_router(backend, intake))
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://t"
    )


@pytest.fixture(params=["short way", "routed"])
async def http(backend: MemoryBackend, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(backend, Intake(backend), short=request.param == "short way")) as made:
        yield made


async def post(
    http: httpx.AsyncClient, wires: Sequence[bytes], path: str = "/transactions", **headers: str
) -> Any:
    response = await http.post(path, content=encode(list(wires)), headers={**MSGPACK, **headers})
    assert response.status_code == 202, response.text
    return response


async def test_a_bad_signature_in_a_body_does_not_keep_out_the_others(http: httpx.AsyncClient) -> None:
    txs = [signed(n) for n in range(20)]
    bad = {
        3: (forged(signed(3)), "bad_signature"),
        5: (small_order_sender(signed(4)), "invalid_address"),
        7: (signed(4, to=bytes(32)).wire, "invalid_address"),
        9: (signed(4, chain_id=1).wire, "wrong_chain"),
    }
    wires = [tx.wire for tx in txs]
    for place in sorted(bad):
        wires.insert(place, bad[place][0])
    results = (await post(http, wires)).json()["results"]
    codes = {n: result["code"] for n, result in enumerate(results) if not result["accepted"]}
    assert codes == {place: code for place, (_, code) in bad.items()}
    accepted = [r["hash"] for r in results if r["accepted"]]
    assert accepted == ["0x" + tx.id.hex() for tx in txs]


async def test_an_answer_in_messagepack_says_the_same(http: httpx.AsyncClient) -> None:
    wires = [signed(0).wire, forged(signed(1)), signed(0).wire]
    packed = await post(http, wires, accept="application/msgpack")
    assert packed.headers["content-type"] == "application/msgpack"
    shown = msgspec.msgpack.decode(packed.content)["results"]
    assert [(r["hash"], r["accepted"], r["code"]) for r in shown] == [
        (signed(0).id, True, ""),
        (signed(1).id, False, "bad_signature"),
        (signed(0).id, True, "already_known"),
    ]
    again = (await post(http, wires, accept="application/json")).json()["results"]
    assert [r["code"] for r in again] == ["already_known", "bad_signature", "already_known"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            SubmitResult,
            st.binary(min_size=32, max_size=32),
            st.booleans(),
            st.sampled_from(["", "", "already_known"]),
            st.sampled_from(["", "", 'a "quoted" é']),
            st.sampled_from([{}, {}, {"height": 5}]),
        )
        | st.builds(SubmitResult, st.binary(min_size=32, max_size=32), st.just(True)),
        max_size=4,
    )
)
def test_an_answer_that_takes_all_is_spelled_as_any_other(results: list[SubmitResult]) -> None:
    shown = [
        {"hash": "0x" + r.hash.hex(), "accepted": r.accepted, "code": r.code, "message": r.message, **r.extra}
        for r in results
    ]
    assert intake_module.results_json(results) == msgspec.json.encode({"results": shown})


async def test_what_stands_in_a_block_is_told_so(http: httpx.AsyncClient, backend: MemoryBackend) -> None:
    await post(http, [signed(0).wire])
    block = backend.seal()
    (result,) = (await post(http, [signed(0).wire])).json()["results"]
    assert (result["code"], result["height"]) == ("already_included", block.header.height)
    assert not result["accepted"]


async def test_what_is_on_its_way_to_the_disk_is_known_and_not_stale(
    http: httpx.AsyncClient, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose answer was lost sends again what is in a block that is not flushed yet."""
    tx = SignedTransaction.decode(signed(0).wire)
    await post(http, [tx.wire])
    backend.seal()
    monkeypatch.setattr(backend, "included_at", lambda _: -1)
    (result,) = (await post(http, [tx.wire])).json()["results"]
    assert (result["code"], result["accepted"]) == ("already_known", True)


@pytest.mark.parametrize(
    "body",
    [b"", b"\x90", b"\xc1", encode([b"x"]), encode([5]), b"\x91\xc5", encode([b""] * 1001), b"\xff" * 99],
)
async def test_a_body_that_is_none_is_a_problem(http: httpx.AsyncClient, body: bytes) -> None:
    response = await http.post("/transactions", content=body, headers=MSGPACK)
    assert (response.status_code, response.json()["code"]) == (400, "malformed_body")
    assert response.headers["content-type"].startswith("application/problem+json")


async def test_too_much_at_once_is_refused_with_a_problem(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "MAX_WAITING", 2)
    response = await http.post(
        "/transactions", content=encode([signed(n).wire for n in range(3)]), headers=MSGPACK
    )
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    await post(http, [signed(0).wire])


async def test_a_chain_that_lets_nobody_wait_says_so(http: httpx.AsyncClient) -> None:
    for path, headers in (("?wait=5", MSGPACK), ("?wait=5", {"content-type": "application/json"})):
        response = await http.post("/transactions" + path, content=b"\x90", headers=headers)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")


@pytest.mark.parametrize("value", ["", "-1", "1.0", "x", "10001", "٣", "9" * 500])
async def test_a_wait_that_is_none_is_refused(backend: MemoryBackend, value: str) -> None:
    async with client_of(make_app(backend, Intake(backend, None, Blocks().wait))) as http:
        response = await http.post(
            "/transactions", params={"wait": value}, content=encode([signed().wire]), headers=MSGPACK
        )
        assert (response.status_code, response.json()["parameter"]) == (422, "wait")


@pytest.mark.parametrize("kind", ["application/msgpack", "application/json"])
async def test_a_query_of_many_fields_is_refused_with_its_code(http: httpx.AsyncClient, kind: str) -> None:
    """P20: a query has more fields than the service will look at."""
    query = "&".join(["a=1"] * 65)
    response = await http.post(
        f"/transactions?{query}", content=encode([signed().wire]), headers={"content-type": kind}
    )
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")


async def test_an_answer_may_wait_for_the_block(backend: MemoryBackend) -> None:
    blocks = Blocks()
    async with client_of(make_app(backend, Intake(backend, None, blocks.wait))) as http:
        asking = asyncio.create_task(
            post(http, [signed(0).wire, forged(signed(1))], "/transactions?wait=9999")
        )
        while len(backend.pool) == 0:
            await asyncio.sleep(0.001)
        assert not asking.done()
        blocks.included.set()
        good, bad = (await asking).json()["results"]
        assert (good["height"], good["root"]) == (7, "0x" + "01" * 32)
        assert "height" not in bad
        body = {name: value for name, value in signed(1).to_json().items() if name != "hash"}
        single = await http.post("/transactions?wait=9999", json=body)
        assert (single.status_code, single.json()["height"]) == (202, 7)
        asked = {"from": "alice", "action": {"type": "transfer", "to": "bob", "amount": 1}}
        devnet = await http.post("/transactions?wait=9999", json=asked)
        assert (devnet.status_code, devnet.json()["height"]) == (202, 7)


async def test_bodies_that_wait_for_their_block_leave_room_for_others(backend: MemoryBackend) -> None:
    """P23: large bodies ask to wait for a block, so that what is counted of them keeps everyone else's out."""
    blocks, held = Blocks(), 5
    wires = [signed(nonce).wire for nonce in range(10)]
    app = make_app(backend, Intake(backend, None, blocks.wait), max_buffered=held * len(encode(wires)))
    async with client_of(app) as http:
        waiting = [asyncio.create_task(post(http, wires, "/transactions?wait=9999")) for _ in range(held)]
        while blocks.asked < held:
            await asyncio.sleep(0.001)
        await post(http, wires)
        assert not any(task.done() for task in waiting)
        blocks.included.set()
        for answer in await asyncio.gather(*waiting):
            assert [result["height"] for result in answer.json()["results"]] == [7] * len(wires)


async def test_one_that_is_in_no_block_in_time_is_accepted_all_the_same(backend: MemoryBackend) -> None:
    async with client_of(make_app(backend, Intake(backend, None, Blocks().wait))) as http:
        (result,) = (await post(http, [signed(0).wire], "/transactions?wait=1")).json()["results"]
        assert result == {"hash": "0x" + signed(0).id.hex(), "accepted": True, "code": "", "message": ""}


async def test_workers_give_the_same_answers(backend: MemoryBackend) -> None:
    pool = SignaturePool(2)
    await pool.start()
    try:
        async with client_of(make_app(backend, Intake(backend, pool))) as http:
            wires = [forged(signed(n // 2)) if n % 2 else signed(n // 2).wire for n in range(50)]
            results = (await post(http, wires)).json()["results"]
            assert [r["code"] for r in results] == ["bad_signature" if n % 2 else "" for n in range(50)]
    finally:
        await pool.close()


async def test_the_short_way_is_documented(http: httpx.AsyncClient) -> None:
    operation = json.loads((await http.get("/openapi.json")).text)["paths"]["/transactions"]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/json", "application/msgpack"}
    assert [parameter["name"] for parameter in operation["parameters"]] == ["wait"]
