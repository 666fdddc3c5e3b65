"""The command line against services that are not there: exact amounts, local signatures, one JSON value on stdout,
problems on stderr, and the exit codes 0, 1 and 2."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_stack import FakeStack, run_cli
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bridge.abi import ClaimArgs, DepositArgs, ForceArgs
from chainkit.codec import MAX_AMOUNT, decode, to_json
from chainkit.keys import dev_keypair
from chainkit.keystore import save_key
from chainkit.transaction import Call, SignedTransaction, Transfer
from layerlab.cli import app
from layerlab.cli.amounts import AmountError, parse_amount, show_coins
from layerlab.cli.output import duration
from layerlab.config import COIN
from rollup.messenger import WithdrawArgs

Result = Any  # click's, whichever click typer brings along
ALICE, BOB = dev_keypair("alice").address, dev_keypair("bob").address


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[FakeStack]:
    fake = FakeStack(tmp_path / "devnet")
    yield fake
    fake.close()


def run(stack: FakeStack, *words: str, **env: str) -> Result:
    return run_cli(stack.directory, *words, **env)


def value(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def problem(result: Result, code: str, exit_code: int = 1) -> Any:
    """With --json a refusal is one object on stderr, and stdout is empty."""
    assert (result.exit_code, result.stdout) == (exit_code, "")
    found = json.loads(result.stderr)
    assert found["code"] == code
    return found


# --- amounts ---


@given(st.integers(0, MAX_AMOUNT))
def test_an_amount_shown_and_read_again_is_the_same(gwei: int) -> None:
    assert parse_amount(show_coins(gwei).replace(",", "")) == gwei
    assert parse_amount(f"{gwei}gwei") == gwei


@pytest.mark.parametrize(
    ("text", "gwei"),
    [("30", 30 * COIN), ("0.1", 10**8), ("0.000000001", 1), ("500gwei", 500), ("1_000", 1000 * COIN)],
)
def test_amounts_are_exact(text: str, gwei: int) -> None:
    assert parse_amount(text) == gwei


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "1e3",
        "nan",
        "inf",
        ".5",
        "1.",
        "1.0000000001",
        "٣",
        "0x10",
        "1.5gwei",
        "1 000",
        "9" * 17,
        "9007200",
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(AmountError):
        parse_amount(text)


def test_durations_are_in_words() -> None:
    assert [duration(n) for n in (5, 65, 3700)] == ["5 s", "1 min 5 s", "1 h 1 min"]


# --- sending ---


def test_send_signs_here_with_the_senders_key_and_the_pending_nonce(stack: FakeStack) -> None:
    shown = value(run(stack, "send", "--from", "alice", "--to", "bob", "--amount", "0.25", "--json"))
    (tx,) = stack.l1.taken
    assert tx.signature_valid()
    assert (tx.body.sender, tx.body.nonce, tx.body.chain_id) == (ALICE, 5, 900)
    assert tx.body.action == Transfer(BOB, COIN // 4)
    assert shown["hash"] == "0x" + tx.id.hex()


def test_l2_picks_the_rollup_and_url_any_chain(stack: FakeStack) -> None:
    words = ("send", "--from", "alice", "--to", "bob", "--amount", "1", "--json")
    value(run(stack, *words, "--l2"))
    value(run(stack, *words, "--url", stack.l2.url))
    value(run(stack, *words, LAYERLAB_URL=stack.l2.url))
    assert [tx.body.chain_id for tx in stack.l2.taken] == [901] * 3
    assert stack.l1.taken == []


def test_l2_on_the_command_line_goes_before_an_address_from_the_environment(stack: FakeStack) -> None:
    value(run(stack, "balance", "alice", "--l2", "--json", LAYERLAB_URL=stack.l1.url))
    assert stack.l1.asked == []


def test_l2_and_url_together_are_a_usage_error(stack: FakeStack) -> None:
    assert run(stack, "balance", "alice", "--l2", "--url", stack.l1.url).exit_code == 2


def test_flags_come_from_the_environment(stack: FakeStack) -> None:
    env = {"LAYERLAB_FROM": "alice", "LAYERLAB_TO": "bob", "LAYERLAB_AMOUNT": "2", "LAYERLAB_JSON": "1"}
    value(run(stack, "send", **env))
    assert stack.l1.taken[0].body.action == Transfer(BOB, 2 * COIN)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--from", "alice", "--to", "alise"), "unknown_account"),
        (("--from", "zoe", "--to", "bob"), "unknown_account"),
        (("--from", "0x" + BOB.hex(), "--to", "bob"), "no_key"),
        (("--from", "alice", "--to", "0x" + "00" * 32), "invalid_address"),
        (("--from", "alice", "--to", "0x12"), "invalid_address"),
        (("--from", "./missing.pem", "--to", "bob"), "no_passphrase"),
    ],
)
def test_a_send_that_names_nobody_sends_nothing(stack: FakeStack, words: tuple[str, ...], code: str) -> None:
    problem(run(stack, "send", *words, "--amount", "1", "--json"), code)
    assert stack.l1.taken == []


@pytest.mark.parametrize("amount", ["0", "1e3", "-1", "1.0000000001"])
def test_a_bad_amount_is_a_usage_error(stack: FakeStack, amount: str) -> None:
    words = ("send", "--from", "alice", "--to", "bob", f"--amount={amount}", "--json")
    problem(run(stack, *words), "usage", 2)


def test_names_mean_nothing_where_there_is_no_devnet(stack: FakeStack) -> None:
    stack.l1.devnet = False
    problem(run(stack, "send", "--from", "alice", "--to", "bob", "--amount", "1", "--json"), "not_a_devnet")
    to_bob = ("--to", "bob", "--amount", "1", "--json")
    problem(run(stack, "deposit", "--from", "alice", *to_bob), "not_a_devnet")


def test_a_well_known_key_in_a_file_signs_for_a_devnet_only(stack: FakeStack, tmp_path: Path) -> None:
    file = tmp_path / "alice.pem"
    save_key(file, dev_keypair("alice"), "correct horse")
    words = (
        "send",
        "--from",
        str(file),
        "--to",
        "0x" + dev_keypair("bob").address.hex(),
        "--amount",
        "1",
        "--json",
    )
    stack.l1.devnet = False
    problem(run(stack, *words, LAYERLAB_PASSPHRASE="correct horse"), "well_known_key")
    assert stack.l1.taken == []
    assert stack.l1.taken == []


def test_too_little_money_is_said_before_anything_is_sent(stack: FakeStack) -> None:
    stack.l1.balance = COIN
    found = problem(
        run(stack, "send", "--from", "alice", "--to", "bob", "--amount", "1", "--json"),
        "insufficient_balance",
    )
    assert found["balance"] == COIN < found["needed"]
    assert stack.l1.taken == []


def test_a_transaction_that_failed_in_its_block_is_a_failure(stack: FakeStack) -> None:
    stack.l1.result = {"success": False, "code": "below_minimum", "message": "too little"}
    result = run(stack, "deposit", "--from", "alice", "--amount", "1gwei", "--json")
    assert "too little" in problem(result, "below_minimum")["detail"]


# --- key files ---


def test_a_key_file_signs_and_shows_its_address_without_a_passphrase(
    stack: FakeStack, tmp_path: Path
) -> None:
    file = str(tmp_path / "me.pem")
    made = value(run(stack, "keys", "new", file, "--json", LAYERLAB_PASSPHRASE="correct horse"))
    assert value(run(stack, "keys", "show", file, "--json"))["address"] == made["address"]
    words = ("send", "--from", file, "--to", file, "--amount", "1", "--json")
    stack.l1.devnet = False  # key files are for real chains
    value(run(stack, *words, LAYERLAB_PASSPHRASE="correct horse"))
    assert "0x" + stack.l1.taken[0].body.sender.hex() == made["address"]
    problem(run(stack, *words, LAYERLAB_PASSPHRASE="wrong"), "key_file")


def test_a_key_file_is_never_replaced(stack: FakeStack, tmp_path: Path) -> None:
    file = tmp_path / "me.pem"
    value(run(stack, "keys", "new", str(file), "--json", LAYERLAB_PASSPHRASE="x"))
    before = file.read_bytes()
    problem(run(stack, "keys", "new", str(file), "--json", LAYERLAB_PASSPHRASE="x"), "key_file")
    assert file.read_bytes() == before


# --- the bridge ---


def test_deposit_calls_the_bridge_with_the_value(stack: FakeStack) -> None:
    value(run(stack, "deposit", "--from", "alice", "--to", "bob", "--amount", "10", "--json"))
    action = stack.l1.taken[0].body.action
    assert isinstance(action, Call)
    assert (action.contract, action.method, action.value) == ("bridge", "deposit", 10 * COIN)
    assert decode(DepositArgs, action.args) == DepositArgs(BOB)


def test_deposit_waits_for_the_credit(stack: FakeStack) -> None:
    answers = iter(
        [
            (404, {}),
            (200, {"status": "final", "waits_for": "x"}),
            (200, {"status": "credited", "credited_by": "safe"}),
        ]
    )
    stack.bridge.routes["GET /deposits/*"] = lambda *_: next(answers)
    shown = value(run(stack, "deposit", "--from", "alice", "--amount", "10", "--wait", "--json"))
    assert (shown["status"], shown["credited_by"]) == ("credited", "safe")


def withdrawal(status: str, **more: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "status": status,
        "amount": 30 * COIN,
        "recipient": "0x" + BOB.hex(),
        "index": 0,
        "batch": 1,
    }
    return {
        **shown,
        "waits_for": "the window",
        "may_act": "anyone",
        "blocks_left": 5,
        "seconds_left": 5,
        **more,
    }


ARGUMENTS = ClaimArgs(1, 0, BOB, 30 * COIN, b"\x01")


def test_withdraw_goes_the_whole_way_out_and_signs_the_claim_itself(stack: FakeStack) -> None:
    paid = {"tx": "0x" + "22" * 32, "height": 9}
    seen = iter(["waiting-for-batch", "in-challenge-window", "ready-to-claim", "claimed", "claimed"])

    def answer(*_: object) -> tuple[int, Any]:
        status = next(seen)
        more = {"claim_arguments": to_json(ARGUMENTS)} if status == "ready-to-claim" else {}
        return 200, withdrawal(status, claim=paid if status == "claimed" else None, **more)

    stack.bridge.routes["GET /withdrawals/*"] = answer
    shown = value(run(stack, "withdraw", "--from", "bob", "--amount", "30", "--wait", "--json"))
    assert (shown["status"], shown["paid_at"], shown["amount"]) == ("claimed", 9, 30 * COIN)
    (burn,), (claim,) = stack.l2.taken, stack.l1.taken
    assert isinstance(burn.body.action, Call)
    assert isinstance(claim.body.action, Call)
    assert decode(WithdrawArgs, burn.body.action.args) == WithdrawArgs(BOB)
    assert burn.body.action.value == 30 * COIN
    assert decode(ClaimArgs, claim.body.action.args) == ARGUMENTS
    assert claim.body.sender == BOB


def test_withdraw_tells_people_what_it_waits_for_and_who_may_act(stack: FakeStack) -> None:
    paid = {"tx": "0x" + "22" * 32, "height": 9}
    seen = iter([withdrawal("in-challenge-window"), withdrawal("claimed", claim=paid)])
    stack.bridge.routes["GET /withdrawals/*"] = lambda *_: (200, next(seen))
    result = run(stack, "withdraw", "--from", "bob", "--amount", "30", "--wait")
    assert result.exit_code == 0
    assert "waiting for the window  5 blocks left, about 5 s · may act: anyone" in result.stdout
    assert "30 coins paid on L1 in block 9" in result.stdout


def test_a_claim_too_early_says_how_many_blocks_are_left_and_sends_nothing(stack: FakeStack) -> None:
    stack.bridge.on("GET /withdrawals/*", withdrawal("in-challenge-window"))
    found = problem(run(stack, "claim", "0", "--from", "bob", "--json"), "in_challenge_window")
    assert found["blocks_left"] == 5
    assert stack.l1.taken == []


def test_a_claim_of_what_was_paid_is_refused(stack: FakeStack) -> None:
    stack.bridge.on("GET /withdrawals/*", withdrawal("claimed", claim={"tx": "0x" + "22" * 32, "height": 9}))
    problem(run(stack, "claim", "0", "--from", "bob", "--json"), "already_claimed")


def test_claim_arguments_that_make_no_sense_are_not_signed(stack: FakeStack) -> None:
    stack.bridge.on("GET /withdrawals/*", withdrawal("ready-to-claim", claim_arguments={"batch": "1"}))
    problem(run(stack, "claim", "0", "--from", "bob", "--json"), "bad_answer")
    assert stack.l1.taken == []


def test_force_carries_a_signed_l2_transaction_to_l1(stack: FakeStack) -> None:
    value(run(stack, "force", "--from", "alice", "--withdraw", "20", "--json"))
    action = stack.l1.taken[0].body.action
    assert isinstance(action, Call)
    inner = SignedTransaction.decode(decode(ForceArgs, action.args).transaction)
    assert inner.signature_valid()
    assert (inner.body.chain_id, inner.body.sender, inner.value) == (901, ALICE, 20 * COIN)


def test_force_wants_a_transfer_or_a_withdrawal(stack: FakeStack) -> None:
    for words in ((), ("--to", "bob"), ("--to", "bob", "--amount", "1", "--withdraw", "1")):
        assert run(stack, "force", "--from", "alice", *words).exit_code == 2
    assert stack.l1.taken == []


# --- faults ---


def test_a_fault_goes_to_who_can_play_it_with_the_devnets_token(stack: FakeStack) -> None:
    bodies: list[Any] = []

    def turn_on(_: str, body: bytes) -> tuple[int, Any]:
        bodies.append(json.loads(body))
        return 201, {"active": [], "known": {}}

    stack.l2.routes["POST /faults"] = stack.l1.routes["POST /faults"] = turn_on
    value(run(stack, "fault", "set", "steal", "--seed", "7", "--amount", "2", "--json"))
    value(run(stack, "fault", "set", "censor", "--on", "validator-0", "--address", "alice", "--json"))
    assert bodies == [
        {"name": "steal", "seed": 7, "amount": 2 * COIN},
        {"name": "censor", "censored": ["0x" + ALICE.hex()]},
    ]
    assert run(stack, "fault", "set", "censor").exit_code == 2


def test_an_unknown_fault_names_those_that_exist(stack: FakeStack) -> None:
    known = {"code": "unknown_fault", "detail": "no such fault", "known": ["steal", "halt"]}
    stack.l2.on("POST /faults", known, 404)
    result = run(stack, "fault", "set", "stael", "--on", "sequencer")
    assert result.exit_code == 1
    assert "there is steal, halt" in result.stderr


# --- refusals ---


def test_nothing_there_is_one_line_that_says_what_to_do(stack: FakeStack) -> None:
    result = run(stack, "balance", "0x" + ALICE.hex(), "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "start it with layerlab up" in result.stderr


def test_verbs_that_do_not_exist_and_options_that_are_missing_are_usage_errors(stack: FakeStack) -> None:
    assert run(stack, "blance", "alice").exit_code == 2
    problem(run(stack, "send", "--from", "alice", "--json"), "usage", 2)


def test_a_damaged_devnet_file_is_one_line(stack: FakeStack) -> None:
    (stack.directory / "devnet.json").write_text("{")
    assert problem(run(stack, "status", "--json"), "devnet")["detail"].endswith(
        f"--fresh --dir {stack.directory}"
    )
    (stack.directory / "devnet.json").write_text("[]")
    problem(run(stack, "status", "--json"), "devnet")


def test_every_verb_has_help_with_an_example() -> None:
    runner, seen = CliRunner(), 0
    groups = {
        "keys": ("new", "show"),
        "snapshot": ("save", "restore", "list"),
        "fault": ("list", "set", "clear"),
    }
    groups["dispute"] = ("open", "bisect", "choose", "prove", "timeout", "settle")
    words = [(group, name) for group, names in groups.items() for name in names]
    plain = "up down status warp accounts balance nonce block tx receipt send events deposit force"
    words += [(name, "") for name in f"{plain} exit batches disputes withdraw claim".split()]
    for group, name in words:
        result = runner.invoke(app, [w for w in (group, name) if w] + ["--help"])
        assert result.exit_code == 0
        assert f"layerlab {group} {name}".strip() in result.stdout.split("Examples:")[1]
        seen += 1
    assert seen == len(words)
