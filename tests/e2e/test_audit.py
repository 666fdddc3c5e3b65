"""``layerlab audit`` on a devnet of real processes: it holds, it is saved, and a node that lies is caught."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import msgspec
import pytest

from layerlab.devnet import Devnet

pytestmark = pytest.mark.xdist_group("e2e")


def audit(devnet: Devnet, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of ``layerlab audit --json``."""
    line = [
        str(Path(sys.executable).with_name("layerlab")),
        "audit",
        "--json",
        "--dir",
        str(devnet.directory),
    ]
    done = subprocess.run([*line, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    return done.returncode, found


def genesis_file(devnet: Devnet) -> list[str]:
    return ["--genesis", str(devnet.directory / "genesis" / "l1.json")]


def test_the_promises_hold_on_a_running_network(devnet: Devnet, tmp_path: Path) -> None:
    deposit = {"from": "grace", "to": "heidi", "amount": 12_345_000}
    assert httpx.post(devnet.config.url("bridge") + "/deposits", json=deposit, trust_env=False).is_success
    kept = tmp_path / "kept"
    code, found = audit(devnet, "--save", str(kept))
    assert (code, found["refused"]) == (0, []), found
    assert {name: promise["holds"] for name, promise in found["promises"].items()} == dict.fromkeys(
        ("P1", "P2", "P3", "P4", "P5"), True
    )
    p1, p2 = found["promises"]["P1"], found["promises"]["P2"]
    assert p1["escrow"] == p1["l2_balances"] + p1["deposits_not_taken_in"] + p1["withdrawals_not_claimed"]
    assert p2["stake"] > 0
    assert found["l1_height"] > 0
    again_code, again = audit(devnet, "--l1", str(kept))
    assert (again_code, again["promises"]) == (code, found["promises"])


def test_what_is_missing_is_said(devnet: Devnet, tmp_path: Path) -> None:
    code, found = audit(devnet, "--l1", devnet.config.url("validator-0"))
    assert code == 2
    assert "--genesis" in found["refused"][0]["why"], "a genesis is never asked of who is judged"
    code, found = audit(devnet, "--l1", "http://127.0.0.1:9", *genesis_file(devnet))
    assert code == 2
    assert "cannot be reached" in found["refused"][0]["why"]
    code, found = audit(devnet, "--l1", str(tmp_path / "nothing"))
    assert code == 2


@pytest.fixture
def liar(devnet: Devnet) -> Iterator[str]:
    """A node that shows an honest one's chain, but for a receipt that says another thing."""
    honest = devnet.config.url("validator-0")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = httpx.get(honest + self.path, trust_env=False, timeout=20)
            body = answer.content
            if self.path.startswith("/receipts"):
                blocks = msgspec.msgpack.decode(body)
                for receipts in blocks:
                    receipts[:] = [
                        receipt[:-1] + b"\x90" if i == 0 else receipt for i, receipt in enumerate(receipts)
                    ]
                body = msgspec.msgpack.encode([[*receipts, b"\x90"] for receipts in blocks])
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nothing is told."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_node_that_lies_is_named_and_another_is_asked(devnet: Devnet, liar: str) -> None:
    code, found = audit(devnet, "--l1", liar, *genesis_file(devnet))
    assert code == 2
    assert "lies" in found["refused"][0]["why"]
    assert "receipts" in found["refused"][0]["why"]
    both = f"{liar},{devnet.config.url('validator-1')}"
    code, found = audit(devnet, "--l1", both, *genesis_file(devnet))
    assert code == 0
    assert [refused["source"] for refused in found["refused"]] == [liar]
    assert found["source"] == devnet.config.url("validator-1")


def test_state_and_receipts_are_bounded_and_of_one_block(devnet: Devnet) -> None:
    url = devnet.config.url("validator-0")

    def get(path: str, **params: int) -> httpx.Response:
        return httpx.get(url + path, params=params, trust_env=False, timeout=20)

    height, block_hash, entries = msgspec.msgpack.decode(get("/state").content)
    parts = [
        msgspec.msgpack.decode(get("/state", height=height, bits=2, part=part).content) for part in range(4)
    ]
    assert {(part[0], part[1]) for part in parts} == {(height, block_hash)}
    assert sorted(entry for part in parts for entry in part[2]) == sorted(entries)
    for refused, status in (
        ({"bits": 2, "part": 4}, 422),
        ({"bits": 17}, 422),
        ({"height": 2**40}, 404),
        ({"height": 2**53}, 422),
    ):
        assert get("/state", **refused).status_code == status, refused
    assert len(msgspec.msgpack.decode(get("/receipts", **{"from": 1, "limit": 3}).content)) == 3
    assert msgspec.msgpack.decode(get("/receipts", **{"from": 2**50}).content) == []
    assert get("/receipts", limit=0).status_code == 422
