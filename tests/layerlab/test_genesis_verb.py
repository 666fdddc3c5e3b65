"""`layerlab genesis`: what services in containers find, asked for once or twice, with good and with bad settings."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bridge.abi import BridgeParams
from chainkit.codec import decode
from chainkit.fault_token import DEVNET_TOKEN
from chainkit.genesis import Genesis, check_genesis, genesis_from_json
from chainkit.keys import dev_keypair
from layerlab.cli import app
from layerlab.config import COIN, DevnetConfig, DevnetError, student_names
from layerlab.containers import ContainerSupervisor
from layerlab.devnet import Devnet

Result = Any  # click's, whichever click typer brings along

BAD_SETTINGS = [
    ("LAYERLAB_SLOT_MS", "fast"),
    ("LAYERLAB_SLOT_MS", "0"),
    ("LAYERLAB_SLOT_MS", "1e3"),
    ("LAYERLAB_BLOCK_MS", "-250"),
    ("LAYERLAB_WINDOW", "5"),
    ("LAYERLAB_WINDOW", "99999999999999999999"),
    ("LAYERLAB_PROPOSER_BOND", "0"),
    ("LAYERLAB_PROPOSER_BOND", "100001"),
    ("LAYERLAB_CHALLENGER_BOND", "5 coins"),
    ("LAYERLAB_STUDENTS", "301"),
    ("LAYERLAB_STUDENTS", "thirty"),
    ("LAYERLAB_LOG_LEVEL", "loud"),
    ("LAYERLAB_ENABLE_FAULTS", "perhaps"),
    ("LAYERLAB_FAULT_TOKEN", DEVNET_TOKEN),
    ("LAYERLAB_FAULT_TOKEN", "fifteen-letters"),
    ("LAYERLAB_FAULT_TOKEN", " padded "),
    ("LAYERLAB_FAULT_TOKEN", "a\tb"),
    ("LAYERLAB_FAULT_TOKEN", "ключ"),
]


def run(directory: Path, *words: str, **env: str) -> Result:
    clean = {name: "" for name, _ in BAD_SETTINGS} | {"LAYERLAB_FAULT_TOKEN": ""}
    base = {**clean, "LAYERLAB_DIR": str(directory), "LAYERLAB_JSON": "", **env}
    return CliRunner().invoke(app, ["genesis", *words], env=base)


def made(directory: Path) -> Genesis:
    return genesis_from_json((directory / "genesis" / "l1.json").read_bytes())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "devnet"


def test_it_makes_what_services_need_and_starts_nothing(directory: Path) -> None:
    answer = run(directory, "--containers", "--json")
    assert answer.exit_code == 0, answer.stderr
    devnet = Devnet.open(directory)
    assert json.loads(answer.stdout)["genesis"] == "0x" + made(directory).hash().hex()
    check_genesis(made(directory))
    assert devnet.config.url("validator-2") == "http://validator-2:8547"
    assert devnet.config.url("bridge") == "http://bridge:10545"
    assert devnet.time.schedule()[-1].rate == 1.0  # nobody else will let time run


def test_the_token_of_containers_is_drawn_and_only_the_owner_reads_it(
    directory: Path, tmp_path: Path
) -> None:
    tokens = set()
    for place in (directory, tmp_path / "other"):
        run(place, "--containers")
        token = (place / "fault-token").read_text().strip()
        assert token == Devnet.open(place).config.fault_token
        assert stat.S_IMODE((place / "fault-token").stat().st_mode) == 0o600
        assert len(token) >= 32
        tokens.add(token)
    assert len(tokens) == 2
    assert DEVNET_TOKEN not in tokens


def test_a_second_time_it_keeps_everything(directory: Path) -> None:
    run(directory, "--containers", LAYERLAB_STUDENTS="2", LAYERLAB_FAULT_TOKEN="given-and-long-enough")
    names = ("devnet.json", "genesis/l1.json", "genesis/l2.json", "clock.json", "fault-token")
    before = [(directory / name).read_bytes() for name in names]
    again = run(
        directory, "--containers", LAYERLAB_STUDENTS="2", LAYERLAB_FAULT_TOKEN="given-and-long-enough"
    )
    assert again.exit_code == 0, again.stderr
    assert [(directory / name).read_bytes() for name in names] == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LAYERLAB_SLOT_MS", "999"),
        ("LAYERLAB_BLOCK_MS", "251"),
        ("LAYERLAB_WINDOW", "99"),
        ("LAYERLAB_PROPOSER_BOND", "11"),
        ("LAYERLAB_CHALLENGER_BOND", "6"),
        ("LAYERLAB_STUDENTS", "1"),
        ("LAYERLAB_FAULT_TOKEN", "another"),
    ],
)
def test_what_the_genesis_says_cannot_change_after(directory: Path, variable: str, value: str) -> None:
    run(directory, "--containers")
    before = made(directory).hash()
    refused = run(directory, "--containers", **{variable: value})
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"layerlab: {variable} cannot change")
    assert refused.stderr.count("\n") == 1
    assert made(directory).hash() == before


@pytest.mark.parametrize(("variable", "value"), BAD_SETTINGS)
def test_a_wrong_setting_is_one_line_that_names_the_variable(
    directory: Path, variable: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    refused = run(directory, "--containers", **{variable: value})
    line = refused.stderr + capfd.readouterr().err
    assert refused.exit_code in (1, 2)
    assert variable in line
    assert line.count("\n") == 1
    assert not directory.exists()


def test_settings_reach_the_genesis(directory: Path) -> None:
    run(
        directory,
        LAYERLAB_SLOT_MS="2000",
        LAYERLAB_BLOCK_MS="500",
        LAYERLAB_WINDOW="150",
        LAYERLAB_PROPOSER_BOND="20",
        LAYERLAB_CHALLENGER_BOND="2.5",
        LAYERLAB_STUDENTS="30",
    )
    genesis = made(directory)
    params = decode(BridgeParams, next(c.params for c in genesis.contracts if c.name == "bridge"))
    assert (genesis.slot_ms, params.l2_genesis.slot_ms) == (2000, 500)
    assert params.settings.challenge_window == 150
    assert (params.settings.proposer_bond, params.settings.challenger_bond) == (20 * COIN, 5 * COIN // 2)
    for chain in (genesis, params.l2_genesis):
        funds = {account.name: account.balance for account in chain.accounts}
        assert all(funds[name] == funds["alice"] > 0 for name in student_names(30))


def test_it_prints_a_genesis_and_writes_nothing(directory: Path) -> None:
    answer = run(directory, "--print", "--slot-ms", "3000", "--students", "1")
    assert answer.exit_code == 0, answer.stderr
    genesis = genesis_from_json(answer.stdout.encode())
    check_genesis(genesis)
    assert genesis.slot_ms == 3000
    assert dev_keypair("student-01").address in {account.address for account in genesis.accounts}
    assert not directory.exists()


def test_names_of_students_are_of_one_width() -> None:
    assert student_names(0) == ()
    assert student_names(2) == ("student-01", "student-02")
    assert student_names(100)[0] == "student-001"
    assert len(set(student_names(300))) == 300


def _snapshot(devnet: Devnet) -> None:
    with devnet.exclusive():
        raise AssertionError("nobody may copy what runs")


VERBS: dict[str, Callable[[Devnet], object]] = {
    "up": lambda devnet: devnet.up(),
    "down": lambda devnet: devnet.down(),
    "fresh": lambda devnet: Devnet.remove(devnet.directory),
    "snapshot": _snapshot,
    "restart": lambda devnet: devnet.restart("sequencer"),
    "kill": lambda devnet: devnet.kill("sequencer"),
    "delete": lambda devnet: devnet.delete_data("sequencer"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_nobody_here_starts_stops_or_deletes_what_runs_in_containers(directory: Path, verb: str) -> None:
    run(directory, "--containers")
    before = made(directory).hash()
    with pytest.raises(DevnetError, match="docker compose"):
        VERBS[verb](Devnet.open(directory))
    assert made(directory).hash() == before


def test_a_supervisor_of_containers_ends_none(directory: Path) -> None:
    supervisor = ContainerSupervisor(
        DevnetConfig(containers=True), Devnet(directory, DevnetConfig()).layout, with_parent=True
    )
    for act in (supervisor.start, supervisor.kill):
        with pytest.raises(DevnetError, match="docker compose"):
            act("bridge")
    with pytest.raises(DevnetError, match="docker compose"):
        supervisor.stop(["bridge"])
    assert not supervisor.alive("bridge")  # there is no host of that name here
    assert supervisor.resident_bytes() == {}
