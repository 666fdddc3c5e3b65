"""`layerlab up` until L1's first block is final, with 0.5 s slots: the time that a student waits.

The command itself, as a process, in a new directory on free ports: 4 validators, sequencer, verifier and bridge. The
clock runs from its start until a validator says that block 1 is final.
"""

import json
import subprocess
import sys
import time

import httpx

from benchmarks.lab import Figures, Lab, plain
from layerlab.config import DevnetError

SLOT_MS = 500
PATIENCE_SECONDS = 90.0


def run(lab: Lab) -> Figures:
    directory = lab.scratch / "devnet"
    command = [sys.executable, "-P", "-c", "from layerlab.cli import main; main()", "up", "--free-ports"]
    log = lab.scratch / "up.log"
    begin = time.perf_counter()
    with log.open("wb") as output:
        up = subprocess.Popen(
            [*command, "--slot-ms", str(SLOT_MS), "--dir", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            with httpx.Client(timeout=2.0, trust_env=False) as http:
                while not _final(http, directory / "devnet.json"):
                    if up.poll() is not None or time.perf_counter() - begin > PATIENCE_SECONDS:
                        raise DevnetError(f"layerlab up: {log.read_text(errors='replace')[-400:]}")
                    time.sleep(0.02)
            spent = time.perf_counter() - begin
        finally:
            up.terminate()
            try:
                up.wait(20)
            except subprocess.TimeoutExpired:
                up.kill()
                up.wait()
    return {"first_final": plain(spent, "s")}


def _final(http: httpx.Client, mark) -> bool:  # type: ignore[no-untyped-def]
    """Whether the first validator has a final block."""
    try:
        url = json.loads(mark.read_text())["urls"]["validator-0"]
        head = http.get(url + "/status").json()["heads"]["finalized"]
    except (OSError, ValueError, KeyError, httpx.HTTPError):
        return False
    return head is not None and head["height"] >= 1
