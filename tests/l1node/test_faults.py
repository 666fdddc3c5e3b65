"""Faults: who may turn one on, what is refused, that the node says so; each real one is found and slashed."""

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from l1_devnet import l1_genesis
from l1_mesh import Mesh

from chainkit.fault_token import DEVNET_TOKEN, check_fault_token
from chainkit.keys import dev_keypair
from chainkit.startup import StartupError
from l1node.byzantine import FAULTS

TOKEN = {"authorization": "Bearer secret"}


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


async def with_liar(mesh: Mesh) -> None:
    await mesh.kill("v3")
    await mesh.start("v3", fault_token="secret")


def test_without_faults_enabled_there_is_no_such_route(tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(l1_genesis(), tmp_path).running("v0") as mesh, mesh.client("v0") as client:
            for method in ("GET", "POST", "DELETE"):
                answer = await client.request(method, "/faults", headers=TOKEN)
                assert answer.status_code == 404
            assert (await client.get("/status")).json()["dishonest_on_purpose"] == []

    run(test())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": ""}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Basic secret"}, 401),
        ({"authorization": "Bearer Secret"}, 403),
        ({"authorization": "Bearer secret2"}, 403),
        ({"authorization": "Bearer sécret".encode().decode("latin-1")}, 403),
    ],
)
def test_no_token_no_fault(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async def test() -> None:
        mesh = Mesh(l1_genesis(), tmp_path)
        async with mesh.running("v0"), mesh.client("v3") as client:
            await mesh.start("v3", fault_token="secret")
            raw = {name: value.encode("latin-1") for name, value in headers.items()}
            for method in ("GET", "POST", "DELETE"):
                answer = await client.request(method, "/faults", headers=raw, json={"name": "silent"})
                assert answer.status_code == status
                assert answer.headers["content-type"] == "application/problem+json"
            assert (await client.get("/faults", headers=TOKEN)).json()["active"] == []

    run(test())


def test_what_is_no_fault_is_refused_and_the_known_ones_are_listed(tmp_path: Path) -> None:
    bodies: list[tuple[bytes, int]] = [
        (b'{"name": "steal"}', 404),
        (b"", 400),
        (b"[]", 400),
        (b'{"name": 1}', 400),
        (b'{"name": "silent", "name": "silent"}', 400),
        (b'{"name": "silent", "until": 5}', 400),
        (b'{"name": "censor", "censored": ["0x12"]}', 400),
        (b'{"name": "censor", "censored": ["nobody-known"]}', 422),
        (b"[" * 900, 400),
        (b'{"name": "' + b"x" * 5000 + b'"}', 400),
    ]

    async def test() -> None:
        mesh = Mesh(l1_genesis(), tmp_path)
        async with mesh.running("v0"), mesh.client("v3") as client:
            await mesh.start("v3", fault_token="secret")
            for body, status in bodies:
                answer = await client.post("/faults", headers=TOKEN, content=body)
                assert answer.status_code == status, (body[:60], answer.text)
            unknown = await client.delete("/faults/steal", headers=TOKEN)
            assert unknown.status_code == 404
            assert unknown.json()["known"] == sorted(FAULTS)
            assert (await client.get("/faults", headers=TOKEN)).json()["active"] == []

    run(test())


def test_a_fault_is_shouted_and_can_be_turned_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        mesh = Mesh(l1_genesis(), tmp_path)
        async with mesh.running("v0"), mesh.client("v3") as client:
            await mesh.start("v3", fault_token="secret")
            with caplog.at_level(logging.WARNING):
                await client.post("/faults", headers=TOKEN, json={"name": "silent"})
            assert "DISHONEST ON PURPOSE" in caplog.text
            body = {"name": "censor", "censored": ["carol"]}
            shown = (await client.post("/faults", headers=TOKEN, json=body)).json()
            assert shown["active"] == ["censor", "silent"]
            assert shown["censored"] == ["0x" + dev_keypair("carol").address.hex()]
            assert (await client.get("/status")).json()["dishonest_on_purpose"] == ["censor", "silent"]
            await client.delete("/faults/censor", headers=TOKEN)
            assert (await client.get("/status")).json()["dishonest_on_purpose"] == ["silent"]
            assert (await client.delete("/faults", headers=TOKEN)).json()["active"] == []

    run(test())


@pytest.mark.parametrize("fault", ["double-vote", "double-propose", "vote-lower"])
def test_a_liar_is_slashed_by_the_evidence_of_others(tmp_path: Path, fault: str) -> None:
    async def test() -> None:
        genesis = l1_genesis()
        async with Mesh(genesis, tmp_path).running() as mesh, mesh.client("v3") as client:
            await with_liar(mesh)
            await mesh.slots(4)
            on = await client.post("/faults", headers=TOKEN, json={"name": fault})
            assert on.status_code == 201
            await mesh.slots(40)
            for name in ("v0", "v1", "v2", "v3"):
                kinds = {(s.validator, s.kind) for s in mesh.nodes[name].slashings}
                assert kinds == {(dev_keypair("validator-3").address, fault)}
            before = mesh.nodes["v0"].engine.final.header.height
            await mesh.slots(4 * genesis.era_slots)
            node = mesh.nodes["v0"]
            assert node.engine.final.header.height > before + 40
            members = node.chain.validators(node.engine.head.tree, node.slot).validators
            assert dev_keypair("validator-3").address not in {v.address for v in members}
            status = (await client.get("/status")).json()
            assert status["dishonest_on_purpose"] == [fault]  # played, and not taken back

    run(test())


def test_a_silent_validator_stops_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        async with Mesh(l1_genesis(), tmp_path).running() as mesh, mesh.client("v3") as client:
            await with_liar(mesh)
            await client.post("/faults", headers=TOKEN, json={"name": "silent"})
            said = mesh.nodes["v3"].counts.copy()
            await mesh.slots(30)
            assert mesh.nodes["v3"].counts["votes_out"] == said["votes_out"]
            assert mesh.nodes["v0"].engine.final.header.height > 5
            assert not mesh.nodes["v0"].slashings

    run(test())


@pytest.mark.parametrize(
    ("host", "token", "good"),
    [
        ("127.0.0.1", DEVNET_TOKEN, True),
        ("localhost", DEVNET_TOKEN, True),
        ("::1", DEVNET_TOKEN, True),
        ("0.0.0.0", DEVNET_TOKEN, False),
        ("::", DEVNET_TOKEN, False),
        ("example.org", DEVNET_TOKEN, False),
        ("0.0.0.0", "a secret of some length".replace(" ", "-"), True),
        ("0.0.0.0", "a-short-secret", False),
        ("127.0.0.1", "short", True),
        ("127.0.0.1", "", False),
    ],
)
def test_the_well_known_token_is_for_loopback_only(host: str, token: str, good: bool) -> None:
    if good:
        check_fault_token(host, token)
    else:
        with pytest.raises(StartupError):
            check_fault_token(host, token)
