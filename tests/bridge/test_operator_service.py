"""Operators as services over two chains: there and back, silence, collusion, nodes that are down, restarts."""

from pathlib import Path

import pytest
from committee_services import BRIDGE, L1_URLS, SIDE_URLS, THREE, World, fund, run_story
from committee_world import COIN, FUNDS, address, key, l1_genesis, make_params, side_genesis
from msgspec.structs import replace

from bridge.abi import DepositArgs
from bridge.committee_abi import AttestArgs, WithdrawArgs
from bridge.operator_service import create, main, parser
from chainkit.chain import Chain
from chainkit.codec import to_json
from chainkit.genesis import genesis_to_json
from chainkit.keys import KeyPair
from chainkit.startup import StartupError
from chainkit.views import json_bytes


def successes(world: World, method: str) -> list[str]:
    node = world.side if method == "credit" else world.l1
    return [who for who, code in node.codes(method) if code == ""]


def test_a_deposit_is_credited_once_and_a_withdrawal_paid_once(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await fund(world)
        await world.step(6)
        assert world.side.balance("bob") == 50 * COIN
        assert len(successes(world, "credit")) == 2
        assert {code for _, code in world.side.codes("credit")} <= {"", "already_paid"}
        await world.post("/withdrawals", {"from": "bob", "to": "carol", "amount": 20 * COIN})
        await world.steps_until(lambda: world.l1.balance("carol") > FUNDS)
        await world.step(6)
        assert world.l1.balance("carol") == FUNDS + 20 * COIN
        assert len(successes(world, "release")) == 2
        assert sum(world.operator(who).attested()["deposits"] for who in THREE) == 2
        status = await world.get("/status", at="operator-1")
        assert (status["role"], status["name"], status["threshold"]) == ("operator", "operator-1", 2)
        assert status["under_way"] == {"deposits": 0, "withdrawals": 0}
        assert status["heads"]["l1"]["height"] == status["l1_height"] == world.l1.final
        assert status["dishonest_on_purpose"] == []
        world.check()

    run_story(tmp_path, story)


def test_with_one_operator_silent_it_works_and_with_two_nothing_moves(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.fault("operator-0", {"name": "silent"})
        await fund(world)
        assert successes(world, "credit") == ["operator-1", "operator-2"]
        await world.fault("operator-1", {"name": "silent"})
        await world.post("/withdrawals", {"from": "bob", "to": "carol", "amount": 20 * COIN})
        await world.post("/deposits", {"from": "alice", "to": "carol", "amount": COIN})
        await world.step(20)
        assert world.l1.balance("carol") == FUNDS
        assert world.side.balance("carol") == 0
        assert successes(world, "release") == ["operator-2"]
        shown = await world.get("/withdrawals/0")
        assert (shown["status"], shown["attestations"]) == ("waiting-for-attestations", 1)
        world.check()
        headers = {"authorization": "Bearer a token of the tests"}
        for who in ("operator-0", "operator-1"):
            assert (await world.services[who].http.delete("/faults", headers=headers)).json()["active"] == []
        await world.steps_until(lambda: world.l1.balance("carol") > FUNDS and world.side.balance("carol") > 0)
        world.check()

    run_story(tmp_path, story)


@pytest.mark.parametrize("liars", [1, 2, 3])
def test_a_theft_is_paid_with_two_of_three_keys_and_not_with_one(tmp_path: Path, liars: int) -> None:
    async def story(world: World) -> None:
        await fund(world)
        escrow = (await world.get("/bridge"))["totals"]["escrow"]
        body = {"name": "collude", "to": "mallory", "amount": escrow}
        answers = [await world.fault(who, body) for who in THREE[:liars]]
        assert len({answer["active"][0]["index"] for answer in answers}) == 1
        await world.step(10)
        bridge = await world.get("/bridge")
        paid = liars >= 2
        assert world.l1.balance("mallory") == FUNDS + (escrow if paid else 0)
        assert bridge["totals"]["escrow"] == (0 if paid else escrow)
        assert bridge["invariant"]["holds"] is not paid
        lies = bridge["invariant"]["baseless_payments"]
        assert [(lie["recipient"], lie["amount"]) for lie in lies] == (
            [(to_json(address("mallory")), escrow)] if paid else []
        )
        assert successes(world, "release") == sorted(
            THREE[: min(liars, 2)], key=successes(world, "release").index
        )
        status = await world.get("/status", at="operator-0")
        assert status["dishonest_on_purpose"][0]["name"] == "collude"
        names = [event["name"] for event in (await world.get("/events"))["events"]]
        assert names.count("InvariantBroken") == int(paid)

    run_story(tmp_path, story)


def test_after_the_theft_withdrawals_wait_for_money(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await fund(world)
        escrow = (await world.get("/bridge"))["totals"]["escrow"]
        for who in THREE[:2]:
            await world.fault(who, {"name": "collude", "to": "mallory", "amount": escrow})
        await world.step(8)
        await world.post("/withdrawals", {"from": "bob", "amount": 10 * COIN})
        await world.step(12)
        shown = await world.get("/withdrawals/0")
        assert shown["status"] == "waiting-for-attestations"
        before = len(world.l1.codes("release"))
        await world.step(10)
        assert len(world.l1.codes("release")) == before  # nobody pays fees for what is refused
        world.l1.send("carol", "deposit", DepositArgs(address("carol")), 11 * COIN)
        await world.steps_until(lambda: world.l1.balance("bob") > FUNDS)

    run_story(tmp_path, story)


def test_nodes_that_are_down_are_done_without_and_made_up_for(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.down |= {L1_URLS[0], SIDE_URLS[1]}
        await fund(world)
        world.down = set(SIDE_URLS)
        world.l1.send("alice", "deposit", DepositArgs(address("carol")), 3 * COIN)
        await world.step(5)
        assert (await world.get("/health/live"))["live"]
        assert (await world.get("/health/live", at="operator-0"))["live"]
        world.down = set(L1_URLS)
        world.side.send("bob", "withdraw", WithdrawArgs(address("bob")), COIN)
        await world.step(5)
        world.down = set()
        await world.steps_until(lambda: world.side.balance("carol") == 3 * COIN)
        await world.steps_until(lambda: world.l1.balance("bob") == FUNDS + COIN)
        assert (len(successes(world, "credit")), len(successes(world, "release"))) == (4, 2)
        world.check()

    run_story(tmp_path, story)


def test_an_operator_that_starts_while_a_chain_is_down_waits_for_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.down = set(SIDE_URLS)
        await world.start("operator-0")
        world.l1.send("alice", "deposit", DepositArgs(address("bob")), COIN)
        await world.step(5)
        problem = await world.get("/health/ready", 503, at="operator-0")
        assert (problem["code"], problem["waits_for"]) == ("not_ready", "L2")
        assert world.operator("operator-0").under_way() == {"deposits": 0, "withdrawals": 0}
        world.down = set()
        await world.steps_until(lambda: world.side.balance("bob") == COIN)
        assert (await world.get("/health/ready", at="operator-0"))["ready"]

    run_story(tmp_path, story, (), make_params(1, ("operator-0",)))


def test_faults_need_a_token_and_only_what_exists_is_played(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.services["operator-0"].http
        assert (await http.get("/faults")).status_code == 401
        answer = await http.post("/faults", json={"name": "silent"}, headers={"authorization": "Bearer no"})
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_token")
        assert (await world.fault("operator-0", {"name": "steal"}, 404))["known"] == ["collude", "silent"]
        for body in (
            {"name": "collude"},
            {"name": "collude", "to": "mallory", "amount": 0},
            {"name": "collude", "to": "mallory", "amount": 2**53},
            {"name": "collude", "to": "0x00", "amount": 1},
            {"name": "silent", "really": True},
            ["silent"],
        ):
            assert (await world.fault("operator-0", body, 400))["code"] == "malformed_body"
        unknown = await world.fault("operator-0", {"name": "collude", "to": "nobody", "amount": 1}, 422)
        assert unknown["code"] == "unknown_dev_account"
        status = await world.get("/status", at="operator-0")
        assert status["dishonest_on_purpose"] == []

    run_story(tmp_path, story, ("operator-0",))


def test_without_enabled_faults_there_is_no_such_address(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        service, operator = create(
            *world.chains,
            (L1_URLS, SIDE_URLS),
            tmp_path / "honest",
            KeyPair(bytes([1]) * 32),
            fault_token=None,
        )
        assert "/faults" not in {getattr(route, "path", "") for route in service.app.routes}
        await operator.close()

    stranger = KeyPair(bytes([1]) * 32).address
    params = replace(make_params(1, ("operator-0",)), operators=sorted([address("operator-0"), stranger]))
    run_story(tmp_path, story, (), params)


def test_pages_and_metrics_of_an_operator(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await fund(world)
        metrics = (await world.services["operator-0"].http.get("/metrics")).text
        assert "layerlab_ready 1.0" in metrics
        assert f"layerlab_l1_height {float(world.l1.final)}" in metrics
        paths = (await world.get("/openapi.json", at="operator-0"))["paths"]
        assert {"/status", "/faults", "/events", "/health/ready", "/metrics"} <= set(paths)
        events = (await world.get("/events", at="operator-0"))["events"]
        assert {"DepositInitiated", "DepositAttested", "DepositCredited"} <= {e["name"] for e in events}

    run_story(tmp_path, story)


# --- starting ---


def test_who_is_no_operator_cannot_start(tmp_path: Path) -> None:
    params = make_params(2, THREE)
    chains = Chain(l1_genesis(params)), Chain(side_genesis(params))
    with pytest.raises(StartupError, match=r"no operator of this bridge.*--dev-key"):
        create(*chains, (L1_URLS, SIDE_URLS), tmp_path / "a", key("operator-4"), fault_token=None)
    other = Chain(side_genesis(make_params(1, THREE)))
    with pytest.raises(StartupError, match="no gateway of this L1's bridge"):
        create(chains[0], other, (L1_URLS, SIDE_URLS), tmp_path / "a", key("operator-0"), fault_token=None)
    with pytest.raises(StartupError, match="no bridge with a committee"):
        create(other, chains[1], (L1_URLS, SIDE_URLS), tmp_path / "a", key("operator-0"), fault_token=None)
    service, operator = create(
        *chains, (L1_URLS, SIDE_URLS), tmp_path / "a", key("operator-0"), fault_token=None
    )
    assert operator.attested() == {"deposits": 0, "withdrawals": 0}
    assert service.app is not None
    operator.pair.close_stores()


def test_a_wrong_command_line_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = make_params(2, THREE)
    files = tmp_path / "l1.json", tmp_path / "side.json"
    for file, genesis in zip(files, (l1_genesis(params), side_genesis(params)), strict=True):
        file.write_bytes(json_bytes(genesis_to_json(genesis)))
    both = ["--l1-genesis", str(files[0]), "--side-genesis", str(files[1]), "--port", "0"]
    data = ["--data", str(tmp_path / "data")]
    for arguments, message in (
        (["--port", "0", "--dev-key", "operator-0", *data], "--l1-genesis"),
        ([*both[:2], "--port", "0", "--dev-key", "operator-0", *data], "--side-genesis"),
        ([*both, *data], "no key"),
        ([*both, "--dev-key", "operator-0"], "no data directory"),
        ([*both, "--dev-key", "alice", *data], "no operator of this bridge"),
        ([*both, "--dev-key", "operator-0", "--l1", "", *data], "no L1 node"),
        ([*both, "--dev-key", "operator-0", "--side", "", *data], "no side chain node"),
        ([*both, "--dev-key", "operator-0", "--side", "nowhere", *data], "--side (LAYERLAB_SIDE)"),
        ([*both, "--dev-key", "operator-0", "--clock", str(tmp_path / "none"), *data], "--clock"),
        ([*both, "--dev-key", "operator-0", "--enable-faults", "--fault-token", "", *data], "--fault-token"),
    ):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1, error
        assert message in error[0], error


def test_each_option_has_a_variable() -> None:
    names = parser({}).variables()
    assert {
        "LAYERLAB_L1_GENESIS",
        "LAYERLAB_SIDE_GENESIS",
        "LAYERLAB_L1",
        "LAYERLAB_SIDE",
        "LAYERLAB_DEV_KEY",
    } <= set(names)


def test_a_signed_attestation_of_a_stranger_changes_nothing(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.l1.send("mallory", "release", AttestArgs(0, address("mallory"), COIN))
        await world.step(5)
        assert world.l1.codes("release") == [("mallory", "not_operator")]
        world.check()

    run_story(tmp_path, story, (BRIDGE, "operator-0"))
