"""README's curl lines, run exactly as they stand there but for the ports, and what they must bring about."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from layerlab.devnet import Devnet

pytestmark = pytest.mark.xdist_group("e2e")

README = Path(__file__).parents[2] / "README.md"
PORTS = {"8545": "validator-0", "9545": "sequencer", "9546": "verifier", "10545": "bridge"}
SECONDS = 60.0
COIN = 10**9


def curl_lines() -> dict[str, str]:
    """README's commands by the comment above them; two commands under one comment are numbered."""
    text = README.read_text()
    block = re.search(r"<!-- curl: begin -->\n```sh\n(.*?)```\n<!-- curl: end -->", text, re.DOTALL)
    assert block, "README has no curl block"
    found: dict[str, str] = {}
    comment = ""
    for line in block.group(1).splitlines():
        if line.startswith("#"):
            comment = line[1:].strip()
        elif line.strip():
            key = comment if comment not in found else comment + " (2)"
            found[key] = line
    return found


class Shell:
    """Runs README's lines with bash and curl against the devnet."""

    def __init__(self, devnet: Devnet) -> None:
        self.devnet = devnet
        self.lines = curl_lines()
        self.variables: dict[str, str] = {}

    def run(self, starts: str) -> dict[str, Any]:
        """The one line whose comment begins so; its JSON answer, which must be no problem."""
        (line,) = [line for comment, line in self.lines.items() if comment.startswith(starts)]
        return self.bash(line)

    def run_first(self, starts: str) -> dict[str, Any]:
        """The first of two lines under one comment."""
        (line,) = [v for k, v in self.lines.items() if k.startswith(starts) and not k.endswith("(2)")]
        return self.bash(line)

    def second(self, starts: str) -> dict[str, Any]:
        (line,) = [v for k, v in self.lines.items() if k.startswith(starts) and k.endswith("(2)")]
        return self.bash(line)

    def bash(self, line: str) -> dict[str, Any]:
        for port, service in PORTS.items():
            line = line.replace(
                f"localhost:{port}/", self.devnet.config.url(service).removeprefix("http://") + "/"
            )
        assert "localhost:" not in line, line
        done = subprocess.run(
            ["bash", "-c", line],
            capture_output=True,
            text=True,
            timeout=20,
            env={**self.variables, "PATH": "/usr/bin:/bin"},
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert "problem" not in str(answer.get("type", "")), answer
        return answer

    def get(self, service: str, path: str) -> Any:
        return httpx.get(self.devnet.config.url(service) + path, timeout=10, trust_env=False).json()

    def until(self, what: str, probe: Callable[[], Any]) -> Any:
        """Ask until the answer is true, with the devnet's time running fast."""
        self.devnet.set_rate(3)
        try:
            deadline = time.monotonic() + SECONDS
            while not (found := probe()):
                assert time.monotonic() < deadline, f"in vain: {what}"
                time.sleep(0.1)
            return found
        finally:
            self.devnet.set_rate(1)

    def balance(self, service: str, name: str) -> int:
        return int(self.get(service, f"/accounts/{name}")["balance"])


@pytest.fixture(scope="module")
def shell(devnet: Devnet) -> Shell:
    assert shutil.which("curl"), "curl is needed to run README's lines; install it"
    return Shell(devnet)


def test_readme_has_every_line_that_is_promised(shell: Shell) -> None:
    assert len(shell.lines) == 8


def test_deposit(shell: Shell) -> None:
    before = shell.balance("sequencer", "alice")
    shell.run("deposit 5 coins")
    shell.until("the credit on L2", lambda: shell.balance("sequencer", "alice") == before + 5 * COIN)


def test_transfer(shell: Shell) -> None:
    answer = shell.run("an L2 transfer")

    def success() -> Any:
        receipt = shell.get("sequencer", f"/transactions/{answer['hash']}").get("receipt")
        return receipt and receipt["success"]

    shell.until("the transfer", success)


def test_withdraw_and_claim(shell: Shell) -> None:
    answer = shell.run("withdraw 2 coins")
    shell.variables["HASH"] = answer["hash"]
    waits = "what it waits for"

    def ready() -> Any:
        found = shell.get("bridge", f"/withdrawals/{answer['hash']}")
        return found.get("status") == "ready-to-claim" and found

    shell.until("a withdrawal that is ready to claim", ready)
    assert shell.run_first(waits)["status"] == "ready-to-claim"
    before = shell.balance("validator-0", "bob")
    shell.second(waits)
    shell.until("the payout", lambda: shell.balance("validator-0", "bob") > before + COIN)


def test_force(shell: Shell) -> None:
    before = shell.balance("verifier", "dave")
    shell.run("force a transfer")
    shell.until("the forced transfer", lambda: shell.balance("verifier", "dave") == before + COIN)


def test_challenge_of_an_honest_batch_loses_the_bond(shell: Shell) -> None:
    newest = shell.get("bridge", "/batches")["batches"][-1]["index"]
    post = '{"from": "alice", "action": {"type": "transfer", "to": "bob", "amount": 1000}}'
    answer = httpx.post(
        shell.devnet.config.url("sequencer") + "/transactions",
        content=post,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 202

    def pending() -> Any:
        found = shell.get("bridge", "/batches")["batches"][-1]
        return found["index"] > newest and found["status"] == "pending" and found

    batch = shell.until("a new batch", pending)["index"]
    shell.variables["N"] = str(batch)
    shell.run("challenge batch N")

    def resolved() -> Any:
        found = shell.get("bridge", "/disputes")
        late = [d for d in found["disputes"] if d["batch"] == batch and d.get("winner")]
        return late and late[0]

    assert shell.until("the dispute's end", resolved)["winner"] == "defender"
    assert shell.get("bridge", f"/batches/{batch}")["status"] != "reverted"


def test_steal(shell: Shell) -> None:
    shell.run("make the sequencer steal")
    post = '{"from": "erin", "action": {"type": "transfer", "to": "bob", "amount": 1000}}'
    httpx.post(
        shell.devnet.config.url("sequencer") + "/transactions",
        content=post,
        headers={"content-type": "application/json"},
    )

    def reverted() -> Any:
        return [b for b in shell.get("bridge", "/batches")["batches"] if b["status"] == "reverted"]

    shell.until("the reverted batch", reverted)
