"""A stack that is not there: HTTP services that answer what a test tells them, on free ports.

Each `FakeService` keeps what it was asked; `FakeStack` is an L1 node, a sequencer and a bridge in a devnet
directory, whose chains take every signed transaction and put it into block 7 at once.
"""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from chainkit.codec import decode
from chainkit.genesis import Genesis, genesis_to_json
from chainkit.transaction import SignedTransaction
from layerlab.cli import app
from layerlab.config import COIN, DevnetConfig
from layerlab.genesis import make_l1_genesis, make_l2_genesis

Answer = Any
Route = Callable[[str, bytes], tuple[int, Answer]]


class FakeService:
    """Answers ``routes`` ("GET /status"; a path that ends in "*" takes all that begin so)."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.asked: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                path = self.path.partition("?")[0]
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                service.asked.append(f"{self.command} {self.path}")
                status, value = service.answer(f"{self.command} {path}", body)
                data = json.dumps(value).encode()
                self.send_response(status)
                kind = "application/json" if status < 400 else "application/problem+json"
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's own names

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def on(self, route: str, value: Answer, status: int = 200) -> None:
        """Answer ``value`` there, or what it returns if it can be called."""
        self.routes[route] = lambda path, _: (status, value(path) if callable(value) else value)

    def answer(self, route: str, body: bytes) -> tuple[int, Answer]:
        found = self.routes.get(route)
        if found is None:
            prefixes = [r for r in self.routes if r.endswith("*") and route.startswith(r[:-1])]
            if not prefixes:
                return 404, {"code": "unknown_thing", "detail": f"{route} is not known", "status": 404}
            found = self.routes[max(prefixes, key=len)]
        return found(route, body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class FakeChain(FakeService):
    """A chain that takes every transaction; ``taken`` are those, ``result`` what becomes of them."""

    def __init__(self, genesis: Genesis) -> None:
        super().__init__()
        self.taken: list[SignedTransaction] = []
        self.balance = 1_000 * COIN
        self.result: dict[str, Any] = {"success": True, "code": "", "message": ""}
        self.devnet = True
        self.genesis = genesis
        self.on("GET /genesis", genesis_to_json(genesis))
        self.on("GET /status", self._status)
        self.on("GET /accounts/*", self._account)
        self.on("GET /transactions/*", self._transaction)
        self.routes["POST /transactions"] = self._submit

    def _status(self, _: str) -> Answer:
        head = {"height": 7, "hash": "0x" + "11" * 32}
        return {
            "chain_id": self.genesis.chain_id,
            "devnet": self.devnet,
            "heads": {"head": head, "safe": head, "finalized": head},
            "fees": {"base_fee": 4, "max_fee_per_gas": 9, "tip_per_gas": 1},
            "events": 0,
        }

    def _account(self, path: str) -> Answer:
        address = path.rpartition("/")[2]
        return {
            "address": address,
            "name": None,
            "balance": self.balance,
            "nonce": 3,
            "pending_nonce": 5,
            "exists": True,
            "height": 7,
        }

    def _submit(self, _: str, body: bytes) -> tuple[int, Answer]:
        results = []
        for wire in decode(list[bytes], body):
            tx = SignedTransaction.decode(wire)
            self.taken.append(tx)
            results.append({"hash": "0x" + tx.id.hex(), "accepted": True, "code": "", "message": ""})
        return 202, {"results": results}

    def _transaction(self, path: str) -> Answer:
        receipt = {**self.result, "gas_used": 100, "fee": 500, "events": []}
        return {"hash": path.rpartition("/")[2], "status": "finalized", "height": 7, "receipt": receipt}


class FakeStack:
    """The services and the directory by which the command line finds them."""

    def __init__(self, directory: Path) -> None:
        config = DevnetConfig()
        self.directory = directory
        self.l1 = FakeChain(make_l1_genesis(config, 0))
        self.l2 = FakeChain(make_l2_genesis(config, 0))
        self.bridge = FakeService()
        urls = {"validator-0": self.l1.url, "sequencer": self.l2.url, "verifier": self.l2.url}
        urls["bridge"] = self.bridge.url
        directory.mkdir(parents=True)
        content = {"config": {"fault_token": "secret"}, "running": {}, "urls": urls}
        (directory / "devnet.json").write_text(json.dumps(content))

    def close(self) -> None:
        for service in (self.l1, self.l2, self.bridge):
            service.close()


def run_cli(directory: Path, *words: str, **env: str) -> Any:
    """``layerlab WORDS`` in this process on the devnet of a directory; what it said and its exit code."""
    base = {"LAYERLAB_DIR": str(directory), "LAYERLAB_JSON": "", "LAYERLAB_PASSPHRASE": ""}
    return CliRunner().invoke(app, list(words), env={**base, **env})
