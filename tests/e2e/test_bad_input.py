"""Bad input of every kind at every endpoint of every running service: a typed problem, in time, and no change.

The endpoints are read from each service's own OpenAPI, so that none can be forgotten.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from chainkit.codec import encode
from chainkit.keys import dev_keypair
from chainkit.transaction import Body, SignedTransaction, Transfer
from layerlab.devnet import Devnet

pytestmark = pytest.mark.xdist_group("e2e")

SERVICES = ("validator-0", "sequencer", "verifier", "bridge")
SECONDS = 5.0
QUIET = ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/events/stream")
ALICE, BOB = dev_keypair("alice"), dev_keypair("bob")
SMALL_ORDER = "0x01" + "00" * 31

BODIES: dict[str, bytes] = {
    "nothing": b"",
    "not json": b"{nonce",
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "empty object": b"{}",
    "unknown field": b'{"from": "alice", "surprise": 1}',
    "nobody": b'{"from": "nobody", "to": "bob", "amount": 1}',
    "from a number": b'{"from": 7, "amount": 1}',
    "negative": b'{"from": "alice", "to": "bob", "amount": -1}',
    "negative transfer": b'{"from": "alice", "action": {"type": "transfer", "to": "bob", "amount": -1}}',
    "zero": b'{"from": "alice", "to": "bob", "amount": 0}',
    "2^53": b'{"from": "alice", "to": "bob", "amount": 9007199254740992}',
    "2^64": b'{"from": "alice", "to": "bob", "amount": 18446744073709551616}',
    "a float": b'{"from": "alice", "to": "bob", "amount": 1.0}',
    "exponent": b'{"from": "alice", "to": "bob", "amount": 1e3}',
    "nan": b'{"from": "alice", "to": "bob", "amount": NaN}',
    "infinity": b'{"from": "alice", "amount": -Infinity}',
    "a string": b'{"from": "alice", "to": "bob", "amount": "1"}',
    "true": b'{"from": "alice", "to": "bob", "amount": true}',
    "duplicate keys": b'{"from": "alice", "from": "bob", "to": "bob", "amount": 1}',
    "a thousand digits": b'{"from": "alice", "to": "bob", "amount": ' + b"9" * 1000 + b"}",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "invalid utf-8": b'{"from": "\xff\xfe"}',
    "small-order key": b'{"from": "alice", "to": "' + SMALL_ORDER.encode() + b'", "amount": 5000000}',
    "short key": b'{"from": "alice", "to": "0x00", "amount": 5000000}',
    "arabic digits": '{"from": "alice", "to": "bob", "amount": \u0663}'.encode(),
}


def routes(devnet: Devnet, service: str) -> Iterator[tuple[str, str]]:
    """(method, path) of every route of a service."""
    paths = httpx.get(devnet.config.url(service) + "/openapi.json", trust_env=False).json()["paths"]
    for path, methods in sorted(paths.items()):
        for method in sorted(methods):
            yield method.upper(), path


def fill(path: str, value: str) -> str:
    """The path with every parameter replaced."""
    while "{" in path:
        start, end = path.index("{"), path.index("}")
        path = path[:start] + value + path[end + 1 :]
    return path


class Service:
    """One service, asked badly; each answer is checked to be a problem, and to be quick."""

    def __init__(self, devnet: Devnet, name: str) -> None:
        self.name = name
        headers = {"authorization": f"Bearer {devnet.config.fault_token}"}
        self.http = httpx.Client(
            base_url=devnet.config.url(name), timeout=20, trust_env=False, headers=headers
        )

    def refused(self, method: str, path: str, **request: Any) -> str:
        """The problem's code."""
        begin = time.monotonic()
        response = self.http.request(method, path, **request)
        seconds = time.monotonic() - begin
        where = f"{self.name}: {method} {path[:80]}: {response.status_code} {response.text[:300]}"
        assert 400 <= response.status_code < 500, where
        assert response.headers["content-type"].startswith("application/problem+json"), where
        problem = response.json()
        assert problem["code"], where
        assert problem["status"] == response.status_code, where
        assert "Traceback" not in response.text, where
        assert seconds < SECONDS, where
        return str(problem["code"])


def standing(devnet: Devnet) -> dict[str, Any]:
    """What bad input must not move: balances and nonces of both chains, the inbox, disputes, faults, the books."""
    found: dict[str, Any] = {}
    with httpx.Client(timeout=10, trust_env=False) as http:
        for service in ("validator-0", "sequencer"):
            url = devnet.config.url(service)
            for name in ("alice", "bob", "mallory"):
                account = http.get(f"{url}/accounts/{name}").json()
                found[f"{service} {name}"] = (account["balance"], account["nonce"], account["pending_nonce"])
            found[f"{service} dishonest"] = http.get(url + "/status").json()["dishonest_on_purpose"]
        bridge = http.get(devnet.config.url("bridge") + "/bridge").json()
        found["invariant"] = bridge["invariant"]["holds"]
        found["disputes"] = len(http.get(devnet.config.url("bridge") + "/disputes").json()["disputes"])
        found["inbox"] = http.get(devnet.config.url("sequencer") + "/status").json()["inbox"]["length"]
    return found


@pytest.fixture(autouse=True)
def nothing_moves(devnet: Devnet) -> Iterator[None]:
    before = standing(devnet)
    yield
    assert standing(devnet) == before


@pytest.mark.parametrize("name", SERVICES)
def test_every_post_refuses_every_bad_body(devnet: Devnet, name: str) -> None:
    service = Service(devnet, name)
    posts = [path for method, path in routes(devnet, name) if method == "POST"]
    assert posts
    for path in posts:
        for kind, body in BODIES.items():
            target = fill(path, "999999")
            code = service.refused("POST", target, content=body, headers={"content-type": "application/json"})
            assert code, (path, kind)


@pytest.mark.parametrize("name", SERVICES)
def test_every_post_refuses_ten_megabytes(devnet: Devnet, name: str) -> None:
    service = Service(devnet, name)
    for method, path in routes(devnet, name):
        if method == "POST":
            for kind in ("application/json", "application/msgpack"):
                try:
                    code = service.refused(
                        "POST", fill(path, "1"), content=bytes(10_000_000), headers={"content-type": kind}
                    )
                    assert code
                except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                    continue  # the service hung up while we were still sending: nothing was taken


@pytest.mark.parametrize("name", SERVICES)
def test_every_path_parameter_is_strict(devnet: Devnet, name: str) -> None:
    service = Service(devnet, name)
    for method, path in routes(devnet, name):
        if "{" not in path or method != "GET":
            continue
        for value in (
            "-1",
            "1.0",
            "1e3",
            "\u0663",
            "0xZZ",
            "0x" + "ab" * 40,
            "9007199254740992",
            "%00",
            "x" * 3000,
            "999999999",
        ):
            service.refused(method, fill(path, value))


@pytest.mark.parametrize("name", SERVICES)
def test_every_query_parameter_is_strict(devnet: Devnet, name: str) -> None:
    service = Service(devnet, name)
    paths = service.http.get("/openapi.json").json()["paths"]
    tried = 0
    for path, methods in paths.items():
        for parameter in methods.get("get", {}).get("parameters", []):
            if (
                parameter["in"] == "query"
                and parameter["schema"].get("type") != "boolean"
                and "{" not in path
            ):
                for value in ("-1", "1.5", "\u0663", "9" * 30, "NaN", "x' OR 1=1"):
                    service.refused("GET", path, params={parameter["name"]: value})
                    tried += 1
    assert tried


@pytest.mark.parametrize("name", SERVICES)
def test_unknown_routes_and_methods(devnet: Devnet, name: str) -> None:
    service = Service(devnet, name)
    assert service.refused("GET", "/nowhere") == "unknown_route"
    assert service.refused("PATCH", "/status") == "method_not_allowed"


def signed(chain_id: int, nonce: int, **changes: Any) -> SignedTransaction:
    fields: dict[str, Any] = {"gas_limit": 60_000, "max_fee_per_gas": 20, "tip_per_gas": 1, **changes}
    action = fields.pop("action", Transfer(BOB.address, 5))
    return SignedTransaction.sign(
        Body(chain_id=chain_id, sender=ALICE.address, nonce=nonce, action=action, **fields), ALICE
    )


@pytest.mark.parametrize(("name", "chain_id"), [("validator-0", 900), ("sequencer", 901)])
def test_signed_transactions_that_may_not_run(devnet: Devnet, name: str, chain_id: int) -> None:
    service = Service(devnet, name)
    nonce = service.http.get("/accounts/alice").json()["pending_nonce"]
    good = signed(chain_id, nonce)
    cases = {
        "wrong_chain": signed(1 if chain_id == 901 else 901, nonce),
        "nonce_gap": signed(chain_id, nonce + 100_000),
        "gas_limit_too_low": signed(chain_id, nonce, gas_limit=1),
        "fee_too_low": signed(chain_id, nonce, max_fee_per_gas=0, tip_per_gas=0),
        "insufficient_balance": signed(chain_id, nonce, action=Transfer(BOB.address, 2**52)),
        "bad_signature": SignedTransaction.decode(good.wire[:-1] + bytes([good.wire[-1] ^ 1])),
    }
    if nonce:
        cases["stale_nonce"] = signed(chain_id, nonce - 1, action=Transfer(BOB.address, 6))
    for code, tx in cases.items():
        body = {key: value for key, value in tx.to_json().items() if key != "hash"}
        assert service.refused("POST", "/transactions", json=body) == code
        answer = service.http.post(
            "/transactions", content=encode([tx.wire]), headers={"content-type": "application/msgpack"}
        ).json()
        assert [(r["accepted"], r["code"]) for r in answer["results"]] == [(False, code)]


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    "body",
    [b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 50_000, b"\xc6\xff\xff\xff\xff", b"\x90", b"\x91\xc4\x00"],
)
def test_broken_messagepack(devnet: Devnet, name: str, body: bytes) -> None:
    service = Service(devnet, name)
    for path in [path for method, path in routes(devnet, name) if method == "POST"]:
        service.refused(
            "POST", fill(path, "1"), content=body, headers={"content-type": "application/msgpack"}
        )


def test_what_does_not_exist_is_404_and_says_what_does(devnet: Devnet) -> None:
    bridge = Service(devnet, "bridge")
    for path, word in (
        ("/batches/99999", "0"),
        ("/disputes/99999", ""),
        ("/withdrawals/99999", ""),
        ("/deposits/99999", ""),
    ):
        response = bridge.http.get(path)
        assert response.status_code == 404, path
        problem = response.json()
        assert word in json.dumps(problem), problem
        assert len(json.dumps(problem)) > 80, problem
    for service, fault in (("sequencer", "no-such"), ("verifier", "steal"), ("validator-0", "steal")):
        asked = Service(devnet, service).http.post("/faults", json={"name": fault})
        assert asked.status_code == 404
        assert asked.json()["known"], asked.text


@pytest.mark.parametrize("name", ["sequencer", "verifier", "validator-0"])
def test_faults_need_the_token(devnet: Devnet, name: str) -> None:
    url = devnet.config.url(name) + "/faults"
    for headers, status in (
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 403),
        ({"authorization": "Basic x"}, 401),
    ):
        for method in ("GET", "POST", "DELETE"):
            response = httpx.request(method, url, headers=headers, trust_env=False)
            assert response.status_code == status, response.text
            assert response.headers["content-type"].startswith("application/problem+json")
            if status == 403:
                assert response.json()["detail"].startswith("the fault token is wrong; it is the one")
