"""Operators as real processes: two of three, killed without warning in the middle of passages, and started again."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from layerlab.config import DevnetConfig, default_settings
from layerlab.devnet import Devnet

pytestmark = pytest.mark.xdist_group("committee-processes")

COIN = 10**9
SECONDS = 60.0


class Net:
    """A side chain and its bridge as processes, over HTTP."""

    def __init__(self, devnet: Devnet) -> None:
        self.devnet = devnet
        self.http = httpx.Client(timeout=20)

    def url(self, service: str) -> str:
        return self.devnet.config.url(service)

    def get(self, path: str, service: str = "bridge") -> Any:
        answer = self.http.get(self.url(service) + path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any) -> Any:
        answer = self.http.post(self.url("bridge") + path, json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def fault(self, operator: str, body: Any) -> Any:
        headers = {"authorization": f"Bearer {self.devnet.config.fault_token}"}
        answer = self.http.post(self.url(operator) + "/faults", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def balance(self, service: str, who: str) -> int:
        return int(self.get(f"/accounts/{who}?at=finalized", service)["balance"])

    def until(self, done: Callable[[], bool]) -> None:
        """Wait until it is so; fails after `SECONDS`."""
        end = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < end, self.get("/bridge")
            time.sleep(0.05)

    def has_attested(self, operator: str, deposits: int, withdrawals: int) -> bool:
        found = self.get("/status", operator)["attested"]
        return bool(found == {"deposits": deposits, "withdrawals": withdrawals})

    def refused(self, service: str) -> list[str]:
        """Codes of this operator's attestations that a contract refused."""
        events = self.get("/events?limit=1000", service)["events"]
        return [event["data"]["code"] for event in events if event["name"] == "AttestationRefused"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    settings = default_settings(challenge_window=24, dispute_clock=24, max_move_delay=2, escape_timeout=80)
    config = DevnetConfig(validators=1, slot_ms=300, era_slots=12, model="sidechain", settings=settings)
    directory: Path = tmp_path_factory.mktemp("committee") / "devnet"
    made = Devnet.create(directory, config.with_free_ports(), with_parent=True)
    try:
        made.up()
        yield Net(made)
    finally:
        made.supervisor.stop_all()


def test_operators_killed_in_the_middle_leave_nothing_out_and_say_nothing_twice(net: Net) -> None:
    """One of three is gone for good, so both others are needed: one of them is killed after every step."""
    devnet = net.devnet
    devnet.kill("operator-2")
    had = net.balance("side-0", "bob")
    deposits = []
    for turn in range(2):
        deposits.append(net.post("/deposits", {"from": "alice", "to": "bob", "amount": COIN + turn})["id"])
        if turn:  # at another point of its way each time
            net.until(
                lambda: net.get(f"/deposits/{deposits[-1]}")["status"] in ("on-l1", "final", "credited")
            )
        devnet.kill("operator-0")
        devnet.restart("operator-0")
    net.until(lambda: all(net.get(f"/deposits/{each}")["status"] == "credited" for each in deposits))
    assert net.balance("side-0", "bob") == had + 2 * COIN + 1
    had = net.balance("validator-0", "carol")
    withdrawals = []
    for turn in range(2):
        body = {"from": "bob", "to": "carol", "amount": 1_000 + turn}
        withdrawals.append(net.post("/withdrawals", body)["id"])
        if turn == 1:
            net.until(lambda: net.get(f"/withdrawals/{withdrawals[-1]}")["index"] is not None)
        devnet.kill("operator-1")
        devnet.restart("operator-1")
    net.until(lambda: all(net.get(f"/withdrawals/{each}")["status"] == "claimed" for each in withdrawals))
    assert net.balance("validator-0", "carol") == had + 2_001
    for operator in ("operator-0", "operator-1"):
        net.until(partial(net.has_attested, operator, 2, 2))
        assert net.refused(operator) == []
    bridge = net.get("/bridge")
    assert bridge["invariant"]["holds"]
    assert (bridge["totals"]["credited"], bridge["totals"]["released"]) == (2, 2)
    events = net.get("/events?limit=1000")["events"]
    for name, source in (("DepositAttested", "gateway"), ("WithdrawalAttested", "bridge")):
        voices = [
            (e["data"]["operator"], e["data"]["index"])
            for e in events
            if (e["name"], e["source"]) == (name, source)
        ]
        assert len(voices) == len(set(voices)) == 4

    devnet.restart("operator-2")  # it was gone all the time: nothing is left to be said
    net.until(lambda: net.get("/status", "operator-2")["l1_height"] >= bridge["l1_height"] + 3)
    assert net.get("/status", "operator-2")["attested"] == {"deposits": 0, "withdrawals": 0}
    assert net.refused("operator-2") == []


def test_one_key_steals_nothing_and_two_steal_everything(net: Net) -> None:
    escrow = net.get("/bridge")["totals"]["escrow"]
    had = net.balance("validator-0", "mallory")
    body = {"name": "collude", "to": "mallory", "amount": escrow}
    assert net.fault("operator-0", body)["active"][0]["name"] == "collude"
    net.until(lambda: net.get("/status", "operator-0")["attested"]["withdrawals"] == 3)
    assert net.balance("validator-0", "mallory") == had
    assert net.get("/bridge")["invariant"]["holds"]
    net.fault("operator-1", body)
    net.until(lambda: not net.get("/bridge")["invariant"]["holds"])
    assert net.balance("validator-0", "mallory") == had + escrow
    assert net.get("/bridge")["totals"]["escrow"] == 0
    assert net.get("/status", "operator-1")["dishonest_on_purpose"][0]["amount"] == escrow
    assert "DISHONEST ON PURPOSE" in net.devnet.supervisor.log("operator-1").read_text()


def test_a_service_ends_well_when_it_is_told_to(net: Net) -> None:
    net.devnet.restart("operator-0", "bridge")
    assert (
        net.get("/status", "operator-0")["dishonest_on_purpose"] == []
    )  # a fault lasts as long as the process
    assert not net.get("/bridge")["invariant"]["holds"]
    for name in ("operator-0", "bridge"):
        log = net.devnet.supervisor.log(name).read_text()
        assert "Traceback" not in log
        assert "stopping" in log
