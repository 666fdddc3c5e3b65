"""A committee bridge's service: each status of a deposit and a withdrawal, its books, lies, and starting."""

from pathlib import Path

import pytest
from committee_services import BRIDGE, L1_URLS, SIDE_URLS, THREE, World, fund, run_story
from committee_world import (
    COIN,
    FUNDS,
    OPERATORS,
    address,
    key,
    l1_genesis,
    make_params,
    side_backing,
    side_genesis,
)

from bridge import operator_service, service
from bridge.abi import DepositArgs
from bridge.committee_abi import AttestArgs, WithdrawArgs
from bridge.committee_service import create
from chainkit.chain import Chain
from chainkit.codec import to_json
from chainkit.genesis import genesis_to_json
from chainkit.startup import StartupError
from chainkit.store import StoreError
from chainkit.views import json_bytes

NO_OPERATORS = (BRIDGE,)


def hex_(name: str) -> str:
    return "0x" + address(name).hex()


def speak(world: World, who: str, method: str, index: int, to: str, amount: int) -> None:
    """An operator's attestation, sent by hand."""
    node = world.side if method == "credit" else world.l1
    node.send(who, method, AttestArgs(index, address(to), amount))


async def by_hand(world: World, coins: int = 50) -> None:
    """Bob has coins on the side chain; two of three operators attested it by hand."""
    world.l1.send("alice", "deposit", DepositArgs(address("bob")), coins * COIN)
    await world.step(3)
    index = len(world.bridge.state.deposits.passages) - 1
    for who in OPERATORS[:2]:
        speak(world, who, "credit", index, "bob", coins * COIN)
    await world.step(3)


# --- there and back ---


def test_a_deposit_goes_through_every_status(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        sent = await world.post("/deposits", {"from": "alice", "to": "bob", "amount": 5 * COIN})
        path = f"/deposits/{sent['id']}"
        assert sent["status"] == "pending"
        shown = await world.get(path)
        assert (shown["status"], shown["amount"], shown["to"]) == ("pending", 5 * COIN, hex_("bob"))
        await world.step()
        shown = await world.get(path)
        assert (shown["status"], shown["index"], shown["attestations"]) == ("on-l1", None, 0)
        await world.step(2)
        shown = await world.get(path)
        assert (shown["status"], shown["index"], shown["credited_by"]) == ("final", 0, None)
        assert shown["waits_for"] == "2 more attestations (0 of 2 are there) on the side chain"
        assert shown["may_act"] == "the bridge's operators"
        assert (await world.get("/bridge"))["invariant"]["deposits_not_credited"] == 5 * COIN
        speak(world, "operator-2", "credit", 0, "bob", 5 * COIN)
        await world.step(3)
        shown = await world.get("/deposits/0")
        assert (shown["status"], shown["attestations"]) == ("final", 1)
        assert [who["name"] for who in shown["attested_by"]] == ["operator-2"]
        speak(world, "operator-0", "credit", 0, "bob", 5 * COIN)
        await world.step(3)
        shown = await world.get(path)
        assert (shown["status"], shown["credited_by"], shown["attestations"]) == ("credited", "finalized", 2)
        assert (shown["waits_for"], shown["may_act"], shown["refund"]) == ("", "", None)
        block = world.side.backend.blocks[shown["l2"]["height"]]
        assert [to_json(tx.id) for tx in block.transactions] == [shown["l2"]["tx"]]
        for who in ("alice", hex_("bob")):
            assert [d["index"] for d in (await world.get("/deposits", address=who))["deposits"]] == [0]
        assert (await world.get("/deposits", address="carol")) == {"deposits": [], "total": 0}
        world.check()

    run_story(tmp_path, story, NO_OPERATORS)


def test_a_withdrawal_goes_through_every_status_and_is_paid_once(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await by_hand(world)
        sent = await world.post("/withdrawals", {"from": "bob", "to": "carol", "amount": 30 * COIN})
        path = f"/withdrawals/{sent['id']}"
        assert sent["status"] == "waiting-for-attestations"
        shown = await world.get(path)
        assert (shown["waits_for"], shown["recipient"], shown["index"]) == (
            "a side chain block",
            hex_("carol"),
            None,
        )
        for who in ("bob", "carol"):
            (listed,) = (await world.get("/withdrawals", address=who))["withdrawals"]
            assert (listed["id"], listed["status"]) == (sent["id"], "waiting-for-attestations")
        await world.step()
        shown = await world.get(path)
        assert (shown["status"], shown["waits_for"]) == (
            "waiting-for-attestations",
            "its side chain block to become final",
        )
        await world.step(2)
        shown = await world.get(path)
        assert (shown["index"], shown["attestations"], shown["threshold"]) == (0, 0, 2)
        assert shown["waits_for"] == "2 more attestations (0 of 2 are there) on L1"
        refused = await world.post(path + "/claim", {"from": "bob"}, 409)
        assert (refused["code"], refused["waits_for"]) == ("no_claims", shown["waits_for"])
        speak(world, "operator-1", "release", 0, "carol", 30 * COIN)
        speak(world, "operator-2", "release", 0, "mallory", 30 * COIN)  # another thing
        await world.step(3)
        shown = await world.get(path)
        assert (shown["attestations"], [w["name"] for w in shown["attested_otherwise"]]) == (
            1,
            ["operator-2"],
        )
        assert shown["waits_for"] == "1 more attestation (1 of 2 are there) on L1"
        assert (await world.get("/bridge"))["invariant"]["withdrawals_not_paid"] == 30 * COIN
        speak(world, "operator-0", "release", 0, "carol", 30 * COIN)
        await world.step(3)
        shown = await world.get("/withdrawals/0")
        assert (shown["status"], shown["claim"]["amount"]) == ("claimed", 30 * COIN)
        assert (shown["claim"]["recipient"], shown["waits_for"]) == (hex_("carol"), "")
        assert world.l1.balance("carol") == FUNDS + 30 * COIN
        assert (await world.post(path + "/claim", {}, 409))["code"] == "already_claimed"
        bridge = await world.get("/bridge")
        assert bridge["totals"]["escrow"] == side_backing() + 20 * COIN == bridge["totals"]["outstanding"]
        world.check()

    run_story(tmp_path, story, NO_OPERATORS)


def test_what_fails_says_why_before_and_after_it_is_final(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await by_hand(world)
        small = world.l1.send("alice", "deposit", DepositArgs(address("alice")), 1)
        zero = world.side.send("bob", "withdraw", WithdrawArgs(address("bob")), 0)
        for blocks in (1, 2, 2):
            await world.step(blocks)
            shown = await world.get("/deposits/" + to_json(small.id))
            assert (shown["status"], shown["code"]) == ("failed", "deposit_too_small")
            shown = await world.get("/withdrawals/" + to_json(zero.id))
            assert (shown["status"], shown["index"]) == ("reverted", None)
            assert "zero_amount" in shown["reason"]
        assert (await world.get("/withdrawals"))["total"] == 0
        world.check()

    run_story(tmp_path, story, NO_OPERATORS)


def test_signed_calls_are_taken_and_other_calls_refused(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await by_hand(world)
        deposit = world.l1.call("alice", "deposit", DepositArgs(address("bob")), COIN)
        withdraw = world.side.call("bob", "withdraw", WithdrawArgs(address("bob")), COIN)
        assert (await world.post("/deposits", deposit.to_json()))["id"] == to_json(deposit.id)
        assert (await world.post("/withdrawals", withdraw.to_json()))["id"] == to_json(withdraw.id)
        other = world.l1.call("operator-0", "release", AttestArgs(0, address("bob"), 1))
        assert (await world.post("/deposits", other.to_json(), 422))["code"] == "wrong_call"
        for path, tx in (("/deposits", withdraw), ("/withdrawals", deposit)):
            problem = await world.post(path, tx.to_json(), 422)
            assert problem["code"] in ("unknown_contract", "wrong_chain", "wrong_call")
        pools = (world.l1.backend.pool, world.side.backend.pool)
        assert pools == ([deposit], [withdraw])

    run_story(tmp_path, story, NO_OPERATORS)


# --- lies ---


def test_a_payment_to_another_than_the_withdrawal_says_is_called_what_it_is(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await by_hand(world)
        world.side.send("bob", "withdraw", WithdrawArgs(address("bob")), 10 * COIN)
        await world.step(3)
        for who in OPERATORS[:2]:
            speak(world, who, "release", 0, "mallory", 10 * COIN)
        await world.step(3)
        shown = await world.get("/withdrawals/0")
        assert (shown["status"], shown["attestations"], shown["claim"]) == ("reverted", 0, None)
        assert "paid otherwise" in shown["reason"]
        invariant = (await world.get("/bridge"))["invariant"]
        assert not invariant["holds"]
        assert invariant["expected"] - invariant["escrow"] == 10 * COIN
        (lie,) = invariant["baseless_payments"]
        assert (lie["index"], lie["paid_on"], lie["recipient"]) == (0, "l1", hex_("mallory"))
        assert not (await world.get("/status"))["invariant_holds"]

    run_story(tmp_path, story, NO_OPERATORS)


def test_coins_credited_for_no_deposit_are_noticed_and_stay_noticed(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for who in OPERATORS[:2]:
            speak(world, who, "credit", 7, "mallory", 10 * COIN)
        await world.step(4)
        invariant = (await world.get("/bridge"))["invariant"]
        assert (invariant["holds"], invariant["expected"] - invariant["escrow"]) == (False, 10 * COIN)
        assert [lie["paid_on"] for lie in invariant["baseless_payments"]] == ["l2"]
        await world.stop(BRIDGE)
        await world.start(BRIDGE)
        await world.step(2)
        assert not (await world.get("/status"))["invariant_holds"]
        names = [event["name"] for event in (await world.get("/events"))["events"]]
        assert names.count("InvariantBroken") == 1
        assert "layerlab_baseless_payments 1.0" in (await world.services[BRIDGE].http.get("/metrics")).text

    run_story(tmp_path, story, NO_OPERATORS)


def test_a_chain_that_is_followed_later_is_no_lie(tmp_path: Path) -> None:
    """The bridge service cannot reach one chain for a while: what the other pays has its reason there."""

    async def story(world: World) -> None:
        await fund(world)
        await world.step(3)
        for urls in (L1_URLS, SIDE_URLS):
            await world.stop(BRIDGE)
            world.l1.send("alice", "deposit", DepositArgs(address("bob")), COIN)
            world.side.send("bob", "withdraw", WithdrawArgs(address("bob")), 2 * COIN)
            await world.step(8)
            world.down = set(urls)
            operators = {
                name: world.services.pop(name) for name in THREE
            }  # they reach what they know already
            await world.start(BRIDGE)
            await world.settle()
            invariant = (await world.get("/bridge"))["invariant"]
            assert invariant["holds"], invariant
            assert invariant["settling"] > 0
            world.services |= operators
            world.down = set()
            await world.step(2)
            assert (await world.get("/bridge"))["invariant"]["settling"] == 0
            world.check()
        names = [event["name"] for event in (await world.get("/events"))["events"]]
        assert "InvariantBroken" not in names

    run_story(tmp_path, story)


def test_events_of_both_chains_are_in_one_log(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await fund(world)
        await world.post("/withdrawals", {"from": "bob", "amount": COIN})
        await world.steps_until(lambda: world.l1.balance("bob") > FUNDS)
        events = (await world.get("/events"))["events"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        names = [(event["source"], event["name"]) for event in events]
        for wanted in (
            ("bridge", "DepositInitiated"),
            ("gateway", "DepositAttested"),
            ("gateway", "DepositCredited"),
            ("gateway", "WithdrawalInitiated"),
            ("bridge", "WithdrawalAttested"),
            ("bridge", "WithdrawalPaid"),
        ):
            assert wanted in names

    run_story(tmp_path, story)


# --- starting ---


def test_the_service_is_chosen_by_the_bridge_of_l1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = make_params(2, THREE)
    files = tmp_path / "l1.json", tmp_path / "side.json", tmp_path / "other.json"
    others = l1_genesis(params), side_genesis(params), side_genesis(make_params(1, THREE))
    for file, genesis in zip(files, others, strict=True):
        file.write_bytes(json_bytes(genesis_to_json(genesis)))
    common = ["--l1-genesis", str(files[0]), "--port", "0", "--data", str(tmp_path / "data")]
    for arguments, message in (
        (common, "--side-genesis"),
        ([*common, "--side-genesis", str(files[2])], "no gateway of this L1's bridge"),
        ([*common, "--side-genesis", str(files[0])], "no gateway of this L1's bridge"),
        ([*common, "--side-genesis", str(tmp_path / "none")], "--side-genesis"),
        ([*common, "--side-genesis", str(files[1]), "--l2", ""], "--l2"),
        (["--l1-genesis", str(files[1]), "--port", "0", "--data", str(tmp_path / "data")], "no bridge"),
    ):
        assert service.main(arguments) == 2, arguments
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1, error
        assert message in error[0], error


def test_data_of_an_operator_is_not_the_bridges(tmp_path: Path) -> None:
    params = make_params(2, THREE)
    chains, urls = (Chain(l1_genesis(params)), Chain(side_genesis(params))), (L1_URLS, SIDE_URLS)
    _, operator = operator_service.create(*chains, urls, tmp_path, key("operator-0"), fault_token=None)
    with pytest.raises(StoreError, match=r"in use|another process"):
        create(*chains, urls, tmp_path)
    operator.pair.close_stores()
    with pytest.raises(StoreError, match="belongs to a operator"):
        create(*chains, urls, tmp_path)
    with pytest.raises(StartupError):
        create(chains[1], chains[1], urls, tmp_path)
