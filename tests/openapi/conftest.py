"""Every service on a real socket: a small devnet of processes, and the services of a committee bridge.

The devnet is not shared with other tests: what is sent here includes valid deposits, faults and votes.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import uvicorn
from committee_services import BRIDGE, TOKEN, committee_services, fund
from committee_world import OPERATORS

from chainkit.service import bind
from layerlab.config import DevnetConfig
from layerlab.devnet import Devnet

OPERATOR = OPERATORS[0]


@pytest.fixture(scope="session")
def rollup_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], str]]:
    """URLs by service of a rollup's devnet that has a little history, and the fault token."""
    config = DevnetConfig(validators=1, slot_ms=800).with_free_ports()
    made = Devnet.create(tmp_path_factory.mktemp("openapi") / "devnet", config, with_parent=True)
    try:
        made.up()
        names = ("validator-0", "sequencer", "verifier", "bridge")
        urls = {name: config.url(name) for name in names}
        _live(urls["bridge"])
        yield urls, config.fault_token
    finally:
        made.supervisor.stop_all()


def _live(bridge: str) -> None:
    """A deposit, a withdrawal and a forced transaction: so that there is something to show."""
    transfer = {"type": "transfer", "to": "bob", "amount": 1000}
    for path, body in (
        ("/deposits", {"from": "alice", "amount": 50_000}),
        ("/withdrawals", {"from": "bob", "amount": 10_000}),
        ("/forced-transactions", {"from": "carol", "action": transfer}),
    ):
        answer = httpx.post(bridge + path, json=body, timeout=20, trust_env=False)
        assert answer.status_code == 202, answer.text


@pytest.fixture(scope="session")
def committee_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], str]]:
    """URLs of an operator and of the bridge service of a committee bridge, and the fault token.

    The services are the real ones, over two chains in memory; each listens on a socket of its own.
    """
    started, stop = threading.Event(), threading.Event()
    urls: dict[str, str] = {}
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(tmp_path_factory.mktemp("committee"), urls, started, stop))
    )
    thread.start()
    try:
        assert started.wait(60)
        yield urls, TOKEN
    finally:
        stop.set()
        thread.join(30)


async def _serve(path: Path, urls: dict[str, str], started: threading.Event, stop: threading.Event) -> None:
    async with committee_services(path, (BRIDGE, *OPERATORS[:3])) as world:
        await fund(world)
        await world.post("/withdrawals", {"from": "bob", "amount": 5_000_000})
        await world.step(6)
        with ExitStack() as sockets:
            servers = []
            for name, where in (("committee bridge", BRIDGE), ("operator", OPERATOR)):
                listener = sockets.enter_context(bind("127.0.0.1", 0))
                app = world.services[where].service.app
                config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", access_log=False)
                servers.append((uvicorn.Server(config), listener))
                urls[name] = f"http://127.0.0.1:{listener.getsockname()[1]}"
            serving = [asyncio.create_task(server.serve(sockets=[at])) for server, at in servers]
            while not all(server.started for server, _ in servers):
                await asyncio.sleep(0.01)
            started.set()
            while not stop.is_set():
                await asyncio.sleep(0.05)
            for server, _ in servers:
                server.should_exit = True
            await asyncio.gather(*serving)
