"""What somebody meets who does not know layerlab yet: settings that are never ignored, lines that fit 80 columns,
things that are not there, and the name of what to do next."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_stack import FakeStack, run_cli
from stub_devnet import StubDevnet, processes_in
from typer.testing import CliRunner

from layerlab import processes
from layerlab.amounts import show_amount
from layerlab.cli import app, bridge, errors, settings, snapshots, stack
from layerlab.cli.errors import CommandError
from layerlab.cli.output import Output
from layerlab.config import COIN, DevnetConfig, DevnetError
from layerlab.devnet import Devnet
from layerlab.escape import ALIVE

HASH = "0x" + "11" * 32


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeStack]:
    found = FakeStack(tmp_path / "devnet")
    yield found
    found.close()


def model(fake: FakeStack, name: str) -> None:
    mark = fake.directory / "devnet.json"
    content = json.loads(mark.read_text())
    content["config"]["model"] = name
    mark.write_text(json.dumps(content))


# --- variables that `up` takes ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAYERLAB_ENABLE_FAULTS", "no"),
        ("LAYERLAB_ENABLE_FAULTS", "maybe"),
        ("LAYERLAB_FAULT_TOKEN", "\N{SNOWMAN}"),
        ("LAYERLAB_LOG_LEVEL", "shouting"),
        ("LAYERLAB_WORKERS", "-1"),
        ("LAYERLAB_PORT_BRIDGE", "none"),
        ("LAYERLAB_PORT_VALIDATOR_9", "8600"),
    ],
)
def test_up_refuses_in_one_line_what_it_cannot_do_and_throws_nothing_away(
    devnet: StubDevnet, name: str, value: str
) -> None:
    result = run_cli(devnet.directory, "up", "--fresh", "--free-ports", "--detach", **{name: value})
    assert result.exit_code != 0
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert name in result.stderr
    assert StubDevnet.open(devnet.directory).genesis_hash == devnet.genesis_hash


def test_a_token_cannot_change_once_there_is_a_chain(devnet: StubDevnet) -> None:
    result = run_cli(devnet.directory, "up", LAYERLAB_FAULT_TOKEN="another-secret")
    assert "LAYERLAB_FAULT_TOKEN cannot change" in result.stderr
    assert "another-secret" not in result.stderr
    same = settings.with_variables(
        devnet.config, {settings.FAULT_TOKEN: devnet.config.fault_token}, new=False
    )
    assert same == devnet.config


def test_up_takes_the_token_and_the_ports_and_hands_on_the_rest(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "Devnet", StubDevnet)
    port = str(DevnetConfig().with_free_ports().ports["bridge"])
    given = {
        "LAYERLAB_LOG_LEVEL": "warning",
        "LAYERLAB_WORKERS": "0",
        "LAYERLAB_ENABLE_FAULTS": "yes",
        "LAYERLAB_FAULT_TOKEN": "of-my-own",
        "LAYERLAB_PORT_BRIDGE": port,
        "LAYERLAB_IMAGE": "another",
    }
    result = run_cli(place, "up", "--detach", "--free-ports", "--json", **given)
    assert result.exit_code == 0, result.stderr
    found = StubDevnet.open(place)
    assert (found.config.fault_token, found.config.ports["bridge"]) == ("of-my-own", int(port))
    seen = found.state("sequencer")["environment"]
    assert {name for name in given if name in seen} == {"LAYERLAB_LOG_LEVEL", "LAYERLAB_WORKERS"}
    found.down()
    assert not processes_in(place)


def test_services_that_a_snapshot_starts_again_get_what_up_would_hand_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (stack, snapshots):
        monkeypatch.setattr(module, "Devnet", StubDevnet)
    given = {"LAYERLAB_LOG_LEVEL": "warning", "LAYERLAB_WORKERS": "0"}
    assert run_cli(place, "up", "--detach", "--free-ports", **given).exit_code == 0
    found = StubDevnet.open(place)
    for verb in ("save", "restore"):
        for variables in (given, {}):
            result = run_cli(place, "snapshot", verb, f"with-{len(variables)}", **variables)
            assert result.exit_code == 0, result.stderr
            seen = found.state("sequencer")["environment"]
            assert {name: seen[name] for name in given if name in seen} == variables
    result = run_cli(place, "snapshot", "save", "another", LAYERLAB_WORKERS="many")
    found = StubDevnet.open(place)
    assert (result.exit_code, found.supervisor.alive("sequencer")) == (2, True), (
        "refused before anything is stopped"
    )
    found.down()
    assert not processes_in(place)


def test_empty_variables_are_none() -> None:
    names = ("LAYERLAB_ENABLE_FAULTS", "LAYERLAB_LOG_LEVEL", "LAYERLAB_FAULT_TOKEN", "LAYERLAB_PORT_BRIDGE")
    nothing = dict.fromkeys(names, "")
    assert settings.for_services(nothing) == {}
    assert settings.with_variables(DevnetConfig(), nothing, new=True) == DevnetConfig()


# --- what is not there ---


def test_a_withdrawal_that_nobody_knows_is_not_waited_for(fake: FakeStack) -> None:
    words = ("withdraw", "--from", "bob", "--resume")
    by_index = run_cli(fake.directory, *words, "77")
    assert (by_index.exit_code, by_index.stdout) == (1, "")
    fake.l2.on("GET /transactions/*", {"code": "unknown_transaction", "detail": "not known"}, 404)
    by_hash = run_cli(fake.directory, *words, HASH)
    assert by_hash.exit_code == 1
    assert f"no withdrawal {HASH}" in by_hash.stderr
    assert fake.l2.asked.count(f"GET /transactions/{HASH}") == 1


def test_a_transfer_is_no_withdrawal(fake: FakeStack) -> None:
    shown = fake.l2.answer(f"GET /transactions/{HASH}", b"")[1]
    fake.l2.on("GET /transactions/*", {**shown, "transaction": {"action": {"type": "transfer"}}})
    result = run_cli(fake.directory, "withdraw", "--from", "bob", "--resume", HASH)
    assert "is a transfer and no withdrawal" in result.stderr


@pytest.mark.parametrize("forced", [True, False])
def test_a_withdrawal_on_its_way_is_waited_for(fake: FakeStack, forced: bool) -> None:
    """Known to the sequencer, or queued on L1: the bridge service will hear of it."""
    if forced:
        fake.l2.on("GET /transactions/*", {"code": "unknown_transaction", "detail": "not known"}, 404)
        fake.bridge.on("GET /forced-transactions/*", {"status": "queued"})
    unknown = (404, {"code": "unknown_withdrawal", "detail": "not known"})
    paid = {"status": "claimed", "amount": COIN, "recipient": HASH, "claim": {"tx": HASH, "height": 9}}
    answers = iter([unknown, unknown, (200, paid)])
    fake.bridge.routes["GET /withdrawals/*"] = lambda *_: next(answers)
    result = run_cli(fake.directory, "withdraw", "--from", "bob", "--resume", HASH)
    assert result.exit_code == 0, result.stderr
    assert "1 coin paid on L1 in block 9" in result.stdout


def test_faults_without_a_devnet_name_the_devnet_first(tmp_path: Path) -> None:
    for words in (("list",), ("set", "steal")):
        result = run_cli(tmp_path / "none", "fault", *words)
        assert "no devnet in" in result.stderr
        assert "layerlab up" in result.stderr


def test_an_audit_without_a_devnet_names_the_devnet_first(tmp_path: Path) -> None:
    result = run_cli(tmp_path / "none", "audit")
    assert result.exit_code == 2
    assert "no devnet in" in result.stdout


def test_an_audit_of_a_devnet_that_is_down_names_each_node_once(devnet: StubDevnet) -> None:
    result = run_cli(devnet.directory, "audit")
    assert result.exit_code == 2
    for url in devnet.config.l1_urls:
        assert (result.stdout + result.stderr).count(f"{url} ") == 1


def test_an_address_without_a_scheme_is_told_its_form(fake: FakeStack) -> None:
    result = run_cli(fake.directory, "balance", "alice", "--url", "foo")
    assert "'foo' is no address; give it as http://HOST:PORT" in result.stderr


def test_a_block_that_is_not_there_yet_names_the_head(fake: FakeStack) -> None:
    fake.l1.on("GET /blocks/*", {"code": "unknown_block", "detail": "999 is not known", "head": 7}, 404)
    assert "the head is block 7" in run_cli(fake.directory, "block", "999").stderr


def test_events_come_from_the_bridge_or_else_from_l1(fake: FakeStack) -> None:
    none = {"events": [], "last": 0}
    fake.bridge.on("GET /events", none)
    fake.l1.on("GET /events", none)
    assert run_cli(fake.directory, "events").exit_code == 0
    assert (bool(fake.bridge.asked), fake.l1.asked) == (True, [])
    model(fake, "sovereign")
    result = run_cli(fake.directory, "events")
    assert (result.exit_code, bool(fake.l1.asked)) == (0, True), result.stderr


def test_who_can_play_a_fault_are_the_models_own_services(fake: FakeStack) -> None:
    mark = fake.directory / "devnet.json"
    content = json.loads(mark.read_text())
    content["urls"] = dict.fromkeys(("validator-0", "side-0", "operator-0", "bridge"), fake.l1.url)
    mark.write_text(json.dumps(content))
    result = run_cli(fake.directory, "fault", "set", "forge")
    assert result.exit_code == 2
    assert "validator-0, side-0, operator-0;" in result.stderr


def test_a_lie_is_told_once_and_other_faults_until_they_are_turned_off(fake: FakeStack) -> None:
    fake.l2.on("POST /faults", {"active": [], "known": {}}, 201)
    steal = run_cli(fake.directory, "fault", "set", "steal").stdout
    assert "its next batch lies, once" in steal
    assert "turn it off" not in steal
    assert "turn it off with layerlab fault clear --on verifier" in (
        run_cli(fake.directory, "fault", "set", "asleep").stdout
    )


# --- directories ---


def test_the_demo_does_not_recommend_what_it_does_not_have(devnet: StubDevnet) -> None:
    result = CliRunner().invoke(app, ["demo", "--dir", str(devnet.directory)])
    assert result.exit_code == 1
    assert "--fresh" not in result.stderr
    assert "give another directory with --dir" in result.stderr


@pytest.mark.parametrize("words", [("up",), ("up", "--fresh")])
def test_nothing_is_left_in_a_directory_of_others(place: Path, words: tuple[str, ...]) -> None:
    place.mkdir()
    (place / "thesis.txt").write_text("mine")
    result = run_cli(place, *words, "--free-ports")
    assert "was not made by layerlab" in result.stderr
    assert [path.name for path in place.iterdir()] == ["thesis.txt"]


def test_a_devnet_of_another_version_says_so_and_how_to_start_anew(devnet: StubDevnet) -> None:
    content = json.loads(devnet.layout.mark.read_text())
    content["config"]["colour"] = "blue"
    devnet.layout.mark.write_text(json.dumps(content))
    with pytest.raises(DevnetError) as caught:
        Devnet.open(devnet.directory)
    assert "made by another version of layerlab" in str(caught.value)
    assert str(caught.value).endswith(f"layerlab up --fresh --dir {devnet.directory}")


def test_data_of_another_version_says_how_to_start_anew(
    devnet: StubDevnet, modes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes["verifier"] = "die"
    monkeypatch.setattr(processes, "ANOTHER_VERSION", "the moon is in the wrong phase")
    with pytest.raises(DevnetError) as caught:
        devnet.up()
    assert f"start anew with layerlab up --fresh --dir {devnet.directory}" in str(caught.value)


# --- eighty columns ---


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, out: io.StringIO) -> Output:
    monkeypatch.setenv("TERM", "dumb")  # has 80 columns and no colours
    monkeypatch.setattr(sys, "stdout", out)
    return Output(as_json=False)


WORDS = "the challenge window of the batch: a hundred more blocks of L1, as the settings say; unless it is disputed"


def test_the_widest_column_of_a_table_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    printed(monkeypatch, out).table(["batch", "status", ""], [(1, "pending", WORDS)])
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(out.getvalue().split()) == f"batch status 1 pending {WORDS}"
    assert "…" not in out.getvalue()


def test_lines_break_between_words_on_a_terminal_and_nowhere_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for out in (terminal, pipe):
        shown = printed(monkeypatch, out)
        shown.say(WORDS)
        shown.fields({"waits for": WORDS, "at": "one\ntwo"})
        shown.say(WORDS, whole=True)
    assert pipe.getvalue() == f"{WORDS}\nwaits for  {WORDS}\nat         one\n           two\n{WORDS}\n"
    *lines, whole = terminal.getvalue().splitlines()
    assert whole == WORDS
    assert max(map(len, lines)) <= 80
    assert set(" ".join(lines).split()) == {*WORDS.split(), "waits", "for", "at", "one", "two"}


# --- amounts and warp ---


def test_one_coin_is_one_coin() -> None:
    assert [show_amount(n) for n in (COIN, 2 * COIN, COIN // 2)] == ["1 coin", "2 coins", "0.5 coins"]


def test_a_warp_to_a_withdrawal_does_not_tell_every_block_in_a_pipe(
    devnet: StubDevnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(20, -1, -1))

    def get(*_: object) -> httpx.Response:
        n = next(left)
        shown: dict[str, Any] = {"status": "in-challenge-window" if n else "ready-to-claim", "blocks_left": n}
        return httpx.Response(200, json={**shown, "waits_for": f"the window of batch 1: {n} more L1 blocks"})

    monkeypatch.setattr(stack._Withdrawal, "ask", get)
    devnet.up()
    result = run_cli(devnet.directory, "warp", "--until-withdrawal", "0")
    devnet.down()
    assert result.exit_code == 0, result.stderr
    told = [line for line in result.stdout.splitlines() if "until the withdrawal is ready" in line]
    assert 1 <= len(told) <= 4  # a line for each pace of time, none for each block


def test_a_bridge_that_lives_is_said_to_live_before_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    shown = printed(monkeypatch, out)
    with shown.waiting() as waiting:
        bridge._show_progress(waiting, f"{ALIVE} 3 L1 blocks ago")
    assert out.getvalue() == f"! {ALIVE} 3 L1 blocks ago\n"


def test_a_refusal_breaks_between_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for out in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", out)
        errors.report(CommandError(WORDS), as_json=False)
        assert out.getvalue().split() == ["layerlab:", *WORDS.split()]
        assert (max(map(len, out.getvalue().splitlines())) <= 40) == out.isatty()
