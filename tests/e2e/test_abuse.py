"""Connections that are held for nothing, at running services: everyone else is served all the same."""

import asyncio

import httpx
import psutil
import pytest
from abuse.wire import Deaf, deaf

from chainkit.connections import MAX_FROM_ONE
from chainkit.events import MAX_FOLLOWERS
from layerlab.devnet import Devnet

pytestmark = pytest.mark.xdist_group("e2e")

HEAD = b"GET /status HTTP/1.1\r\nHost: x\r\nX: "
STREAM = b"GET /events/stream?from=1 HTTP/1.1\r\nHost: x\r\n\r\n"


def established(devnet: Devnet, name: str) -> int:
    process = psutil.Process(devnet.supervisor.running[name].pid)
    port = devnet.config.ports[name]
    found = [c for c in process.net_connections("tcp") if c.laddr.port == port]
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in found)


@pytest.mark.parametrize("name", ["validator-1", "sequencer", "verifier", "bridge"])
def test_hundreds_of_slow_heads_and_deaf_streams_keep_nobody_out(devnet: Devnet, name: str) -> None:
    url = devnet.config.url(name)

    async def test() -> None:
        held: list[Deaf] = []
        try:
            for number in range(MAX_FROM_ONE + 60):
                held.append(await deaf(url))
                held[-1].transport.write(STREAM if number < MAX_FOLLOWERS + 10 else HEAD)
            async with asyncio.timeout(20):  # and who else is connected: other services
                while established(devnet, name) > MAX_FROM_ONE + 16:
                    await asyncio.sleep(0.05)
            async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as http:
                for _ in range(5):
                    assert (await http.get("/health/ready")).status_code == 200
                async with http.stream(
                    "GET", "/events/stream"
                ) as answer:  # a place, or the word that there is none
                    if answer.status_code != 200:
                        await answer.aread()
                        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_streams")
            assert established(devnet, name) > MAX_FOLLOWERS
        finally:
            for each in held:
                each.transport.abort()

    asyncio.run(test())
