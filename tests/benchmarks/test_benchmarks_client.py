"""The load generator against a server that misbehaves; the workload; anvil's signatures against another library."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from benchmarks import ethereum, load, workload
from benchmarks.submitting import _Answers
from chainkit.transaction import SignedTransaction, Transfer

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_server(handle: Handler, story: Callable[[str], Awaitable[None]]) -> None:
    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            await story(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    asyncio.run(main())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), 0
    )
    return await reader.readexactly(length)


def answer(body: bytes, status: int = 202) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


# --- the generator ---


def test_every_request_is_sent_once_however_the_answers_are_cut() -> None:
    seen: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                body = await read_request(reader)
            except asyncio.IncompleteReadError:
                break
            seen.append(body)
            for piece in (answer(body)[i : i + 7] for i in range(0, len(answer(body)), 7)):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def story(url: str) -> None:
        bodies = [b"%d" % i for i in range(40)]
        got: list[bytes] = []
        requests = [load.post(url, "/x", load.MSGPACK, body) for body in bodies]
        await load.send_all(url, requests, 3, lambda status, body, _: got.append(body))
        assert sorted(got) == sorted(bodies) == sorted(seen)

    with_server(echo, story)


def test_what_is_left_is_sent_again() -> None:
    refused: set[bytes] = set()

    async def reluctant(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                body = await read_request(reader)
            except asyncio.IncompleteReadError:
                break
            first = body not in refused
            refused.add(body)
            writer.write(answer(body, 503 if first else 202))
        writer.close()

    async def story(url: str) -> None:
        done: list[bytes] = []

        def answered(status: int, body: bytes, request: bytes) -> bytes | None:
            if status == 503:
                return request
            done.append(body)
            return None

        requests = [load.post(url, "/x", load.MSGPACK, b"%d" % i) for i in range(10)]
        await load.send_all(url, requests, 2, answered, pause=0.001)
        assert sorted(done) == sorted(b"%d" % i for i in range(10))

    with_server(reluctant, story)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 202 X\r\nContent-Length: 50\r\n\r\nshort"]
)
def test_a_server_that_breaks_off_is_an_error_and_no_hang(said: bytes) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(said)
        await writer.drain()
        writer.close()

    async def story(url: str) -> None:
        with pytest.raises(load.LoadError):
            async with asyncio.timeout(10):
                await load.send_all(url, [load.post(url, "/x", load.JSON, b"{}")], 1, lambda *_: None)

    with_server(rude, story)


def test_an_idle_connection_that_was_closed_is_opened_again() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"1", 200))
        await writer.drain()
        writer.close()

    async def story(url: str) -> None:
        reader = await load.Reader.open(url)
        assert [await reader.get("/status") for _ in range(3)] == [1, 1, 1]
        reader.close()

    with_server(once, story)


# --- what answers mean ---


def submission(wires: list[bytes]) -> bytes:
    return load.post("http://x", "/transactions", load.MSGPACK, load.batch_body(wires))


def results(*codes: str) -> bytes:
    return msgspec.json.encode({"results": [{"accepted": not code, "code": code} for code in codes]})


def test_only_what_was_refused_for_now_is_sent_again() -> None:
    answers = _Answers("http://x")
    assert answers(202, results("", ""), submission([b"a", b"b"])) is None
    again = answers(202, results("", "mempool_full"), submission([b"a", b"b"]))
    assert again == submission([b"b"])
    assert answers.again == 1


@pytest.mark.parametrize(("status", "body"), [(202, results("bad_signature")), (422, b"{}"), (500, b"")])
def test_a_refusal_for_good_fails_the_run(status: int, body: bytes) -> None:
    with pytest.raises(load.LoadError):
        _Answers("http://x")(status, body, submission([b"a"]))


# --- the workload ---


def test_transfers_are_what_the_plan_says_and_the_same_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERLAB_BENCH_CACHE", str(tmp_path))
    plan = workload.Plan(901, 3, 8, first_nonce=2)
    wires = workload.transfers(plan)
    people = workload.addresses(1, 3)
    for i, wire in enumerate(wires):
        tx = SignedTransaction.decode(wire)
        assert tx.signature_valid()
        assert (tx.body.chain_id, tx.body.sender, tx.body.nonce) == (901, people[i % 3], 2 + i // 3)
        assert isinstance(tx.body.action, Transfer)
        assert tx.body.action.to in people
    assert workload.transfers(plan) == wires
    assert workload.transfers(workload.Plan(902, 3, 8, first_nonce=2)) != wires


# --- Ethereum ---


def test_keccak_and_addresses_as_published() -> None:
    empty = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert ethereum.keccak256(b"").hex() == empty
    assert (
        ethereum.keccak256(b"abc").hex() == "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"
    )
    assert next(iter(ethereum.accounts(1, 1)))[1].hex() == "7e5f4552091a69125d5dfcb7b8c2659029395bdf"


@pytest.mark.parametrize(
    ("item", "encoded"),
    [
        (b"dog", "83646f67"),
        ([b"cat", b"dog"], "c88363617483646f67"),
        (0, "80"),
        (1024, "820400"),
        (b"\x0f", "0f"),
        ([], "c0"),
    ],
)
def test_rlp_as_published(item: bytes | int | list[object], encoded: str) -> None:
    assert ethereum.rlp(item).hex() == encoded


def test_signatures_hold_for_another_library() -> None:
    signer = ethereum.Signer(31337, 12345)
    for secret in (1, 77, 10**20):
        raw = signer.transfer(secret, 0, b"\x11" * 20, 5, 10**9)
        # The end of the transaction is r and s, each with one byte of length in front.
        r, s = int.from_bytes(raw[-65:-33], "big"), int.from_bytes(raw[-32:], "big")
        unsigned = [31337, 0, 1, 10**9, 21_000, b"\x11" * 20, 5, b"", []]
        digest = ethereum.keccak256(b"\x02" + ethereum.rlp(unsigned))
        key = ec.derive_private_key(secret, ec.SECP256K1()).public_key()
        key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256())))
