"""The fault routes: closed without the token, and every bad body answered with what exists."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from chainkit.fault_api import MAX_BODY_BYTES, fault_router
from chainkit.fault_token import DEVNET_TOKEN, check_fault_token
from chainkit.service import make_app
from chainkit.startup import StartupError
from rollup.fault_switch import FaultSwitch
from rollup.faults import FaultSet

GOOD = {"authorization": "Bearer secret"}


@pytest.fixture
def switch() -> FaultSwitch:
    return FaultSwitch(FaultSet("sequencer"))


@pytest.fixture
def client(switch: FaultSwitch) -> TestClient:
    app = make_app("test")
    app.include_router(fault_router(switch, "secret", {"name": "steal"}))
    return TestClient(app, raise_server_exceptions=False)


ROUTES = [("GET", "/faults"), ("POST", "/faults"), ("DELETE", "/faults"), ("DELETE", "/faults/steal")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        (None, 401, "token_required"),
        ("", 401, "token_required"),
        ("Bearer", 401, "token_required"),
        ("Bearer ", 401, "token_required"),
        ("Basic secret", 401, "token_required"),
        ("Bearer Secret", 403, "wrong_token"),
        ("Bearer secre", 403, "wrong_token"),
        ("Bearer secret2", 403, "wrong_token"),
        ("Bearer \xe9", 403, "wrong_token"),
        (f"Bearer {DEVNET_TOKEN}", 403, "wrong_token"),
    ],
)
def test_no_route_works_without_the_token(
    client: TestClient,
    switch: FaultSwitch,
    method: str,
    path: str,
    header: str | None,
    status: int,
    code: str,
) -> None:
    switch.set({"name": "steal"})
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    answer = client.request(method, path, json={"name": "halt"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert [fault.name for fault in switch.faults] == ["steal"]
    assert "steal" not in answer.text


def test_a_fault_is_turned_on_shown_and_off(client: TestClient, switch: FaultSwitch) -> None:
    answer = client.post("/faults", json={"name": "censor", "address": "alice"}, headers=GOOD)
    assert answer.status_code == 201
    assert client.post("/faults", json={"name": "halt"}, headers=GOOD).json()["active"][1] == {"name": "halt"}
    shown = client.get("/faults", headers=GOOD).json()
    assert [fault["name"] for fault in shown["active"]] == ["censor", "halt"]
    assert shown["active"][0]["address"].startswith("0x")
    assert "steal" in shown["known"]
    assert [f["name"] for f in client.delete("/faults/halt", headers=GOOD).json()["active"]] == ["censor"]
    assert client.delete("/faults", headers=GOOD).json()["active"] == []
    assert not switch.faults


def test_unknown_faults_are_404_with_what_exists(client: TestClient) -> None:
    for answer in (
        client.post("/faults", json={"name": "nope"}, headers=GOOD),
        client.post("/faults", json={"name": "asleep"}, headers=GOOD),
        client.delete("/faults/nope", headers=GOOD),
    ):
        assert answer.status_code == 404
        assert "steal" in answer.json()["known"]


BODIES: list[Any] = [
    b"",
    b"[]",
    b"7",
    b"null",
    b"{}",
    b"{",
    b'"steal"',
    b'{"name": 5}',
    b'{"name": null}',
    b'{"name": ["steal"]}',
    b'{"name": "steal", "name": "steal"}',
    b'{"name": "steal", "at_step": -1}',
    b'{"name": "steal", "at_step": 1.0}',
    b'{"name": "steal", "at_step": NaN}',
    b'{"name": "steal", "at_step": true}',
    b'{"name": "steal", "at_step": "1"}',
    b'{"name": "steal", "amount": 9007199254740992}',
    b'{"name": "steal", "amount": 0}',
    b'{"name": "steal", "nonsense": 1}',
    b'{"name": "steal", "address": "No Body!"}',
    b'{"name": "steal", "address": "0x00"}',
    b'{"name": "censor"}',
    b'{"name": "halt", "at_step": 1}',
    b"\xff\xfe",
    b"[" * 3000,
    b'{"name": "steal", "seed": ' + b"1" * 3000 + b"}",
    b'{"name": "' + b"x" * MAX_BODY_BYTES + b'"}',
]


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b[:40])
def test_bad_bodies_are_refused_and_change_nothing(
    client: TestClient, switch: FaultSwitch, body: bytes
) -> None:
    answer = client.post("/faults", content=body, headers=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")
    assert "steal" in answer.json()["known"]
    assert not switch.faults


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.org", "127.0.0.1.example.org"])
def test_the_well_known_token_is_for_loopback_only(host: str) -> None:
    with pytest.raises(StartupError, match="--fault-token"):
        check_fault_token(host, DEVNET_TOKEN)
    check_fault_token(host, "a-secret-of-16-c")
    with pytest.raises(StartupError, match="15 characters") as caught:
        check_fault_token(host, "a-secret-of-15-")
    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_on_loopback_it_is_taken_but_an_empty_one_never(host: str) -> None:
    check_fault_token(host, DEVNET_TOKEN)
    check_fault_token(host, "short")
    for odd in (" two words ", "schlüssel", "tab\there"):
        with pytest.raises(StartupError, match="ASCII"):
            check_fault_token(host, odd)
    with pytest.raises(StartupError, match="empty"):
        check_fault_token(host, "")
