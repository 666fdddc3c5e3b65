"""A service that does nothing but what layerlab looks at, to be run as a process in place of a real one.

``python stub_service.py MODE NAME --host H --port P --data D --clock F [--exit-with-parent]``. Modes: "good"; "die"
(says why and ends with code 2); "deaf" (never ready); "stubborn" (no SIGTERM ends it). Its "chain" makes a final
block every 100 ms of the devnet's time; what it knows is in ``D/state``, once more at its clean end.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from chainkit.clock import VirtualClock

SLOT_SECONDS = 0.1


def _option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def _watch_parent() -> None:
    parent = int(os.environ["LAYERLAB_PARENT_PID"])
    while os.getppid() == parent:
        time.sleep(0.02)
    os._exit(0)


def main() -> None:
    mode, name = sys.argv[1:3]
    data = Path(_option("--data"))
    print(f"{name} runs in mode {mode}", file=sys.stderr, flush=True)
    if mode == "die":
        print(f"{name}: the moon is in the wrong phase; wait", file=sys.stderr, flush=True)
        sys.exit(2)
    data.mkdir(parents=True, exist_ok=True)
    state = data / "state"
    clock = VirtualClock(Path(_option("--clock")))
    first = json.loads(state.read_text())["first"] if state.exists() else clock.now()

    def height() -> int:
        return int((clock.now() - first) / SLOT_SECONDS)

    def write(clean: bool) -> None:
        visible = {key: value for key, value in os.environ.items() if key.startswith("LAYERLAB_")}
        content = {
            "first": first,
            "name": name,
            "instant": clock.now(),
            "clean": clean,
            "environment": visible,
        }
        state.write_text(json.dumps(content))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = not (self.path == "/health/ready" and mode == "deaf")
            body = json.dumps({"heads": {"finalized": {"height": height()}}}).encode()
            self.send_response(200 if good else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    def end(*_: object) -> None:
        write(True)
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else end)
    if "--exit-with-parent" in sys.argv:
        threading.Thread(target=_watch_parent, daemon=True).start()
    write(False)
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer((_option("--host"), int(_option("--port"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
