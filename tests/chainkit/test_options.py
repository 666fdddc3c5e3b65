"""Settings of services: the command line before the environment, and one line that names what is wrong."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger import make_genesis

import bridge.service
import l1node.service
import rollup.service
from chainkit.clock import SystemClock
from chainkit.fault_token import DEVNET_TOKEN
from chainkit.genesis import Genesis, GenesisError, check_genesis, genesis_to_json
from chainkit.keys import KeyPair, dev_keypair
from chainkit.keystore import save_key
from chainkit.options import (
    MAX_SECRET_BYTES,
    MAX_URLS,
    ServiceParser,
    add_fault_options,
    data_directory,
    make_clock,
    parse_urls,
    read_fault_token,
    read_genesis,
    read_key,
    read_secret_file,
    read_yes_or_no,
    service_parser,
)
from chainkit.startup import StartupError, one_line

PARSERS: dict[str, Callable[[dict[str, str]], ServiceParser]] = {
    "l1node": lambda environ: l1node.service.parser(environ),
    "sequencer": lambda environ: rollup.service.parser("sequencer", environ),
    "verifier": lambda environ: rollup.service.parser("verifier", environ),
    "bridge": lambda environ: bridge.service.parser(environ),
}
WRONG = {
    "LAYERLAB_PORT": ["x", "-1", "65536", "٣", "1.0", " 1", "9" * 5000],
    "LAYERLAB_LOG_LEVEL": ["loud", "INFO", "info\nerror"],
    "LAYERLAB_ENABLE_FAULTS": ["perhaps", "2", "y e s"],
    "LAYERLAB_WORKERS": ["-1", "65", "two"],
    "LAYERLAB_BLOCK_MS": ["0", "-250", "1e3", "3600001", "9" * 5000],
}


def lone_line(parser: ServiceParser, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a parser says that refuses."""
    with pytest.raises(SystemExit) as refused:
        parser.parse_args(words)
    told = capsys.readouterr()
    assert (refused.value.code, told.out) == (2, "")
    assert told.err.endswith("\n")
    assert told.err.count("\n") == 1
    assert len(told.err) < 600
    return told.err


@pytest.mark.parametrize("service", PARSERS)
@pytest.mark.parametrize(("variable", "value"), [(name, text) for name in WRONG for text in WRONG[name]])
def test_a_wrong_variable_is_named_in_one_line(
    service: str, variable: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = PARSERS[service]({variable: value})
    if variable not in parser.settings:
        parser.parse_args([])  # nobody reads it here
        return
    said = lone_line(parser, [], capsys)
    assert f": {variable}: " in said
    assert not said.endswith("...'\n")  # however long the value: what is wrong with it is said


@pytest.mark.parametrize("service", PARSERS)
def test_an_empty_variable_is_none(service: str) -> None:
    without = vars(PARSERS[service]({}).parse_args([]))
    empty = vars(PARSERS[service](dict.fromkeys(PARSERS[service]({}).settings, "")).parse_args([]))
    assert empty == without


@pytest.mark.parametrize("service", PARSERS)
def test_every_setting_shows_its_variable_in_the_help(service: str) -> None:
    parser = PARSERS[service]({})
    words = " ".join(parser.format_help().split())
    assert all(f"[{name}]" in words for name in parser.settings)
    assert {"LAYERLAB_DATA", "LAYERLAB_HOST", "LAYERLAB_PORT", "LAYERLAB_LOG_LEVEL"} <= set(parser.settings)


def test_the_command_line_wins_even_over_a_wrong_variable() -> None:
    environ = {"LAYERLAB_PORT": "x", "LAYERLAB_ENABLE_FAULTS": "perhaps"}
    args = l1node.service.parser(environ).parse_args(["--port", "7", "--enable-faults"])
    assert (args.port, args.enable_faults) == (7, True)
    assert args.on_command_line == {"port", "enable_faults"}


def test_a_wrong_option_is_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = l1node.service.parser({"LAYERLAB_PORT": "1"})
    assert lone_line(parser, ["--port", "x\ny"], capsys).startswith("l1node: --port: ")
    assert "--prot" in lone_line(parser, ["--prot", "1"], capsys)


def test_the_value_is_shown_but_not_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    def said(value: str) -> str:
        return lone_line(l1node.service.parser({"LAYERLAB_PORT": value}), [], capsys)

    assert said("abc") == "l1node: LAYERLAB_PORT: 'abc' is not a port (0 to 65535)\n"
    for long in ("9" * 100_000, "\U000e0001" * 80, "\n" * 5000, "'\"" * 200):
        line = said(long)
        assert line.endswith(" is not a port (0 to 65535)\n")
        assert len(line) < 160


def test_what_argparse_quotes_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    line = lone_line(l1node.service.parser({}), ["--x\x1b[2J\u2028\r\n" + "y" * 9000], capsys)
    assert line[:-1].isprintable()
    assert line.endswith("; see --help\n")


@given(st.text(max_size=2000), st.integers(20, 100))
def test_any_text_becomes_one_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()


def test_every_variable_is_in_the_table() -> None:
    common = {"GENESIS", "DATA", "HOST", "PORT", "CLOCK", "NO_DEVNET", "LOG_LEVEL"}
    key = {"KEY_FILE", "DEV_KEY", "PASSPHRASE", "PASSPHRASE_FILE"}
    faults = {"ENABLE_FAULTS", "FAULT_TOKEN", "FAULT_TOKEN_FILE"}
    layer2 = common | key | faults | {"L1_GENESIS", "L1", "BLOCK_MS", "WORKERS"}
    expected = {
        "l1node": common | key | faults | {"PEERS", "CHECKPOINT"},
        "sequencer": layer2,
        "verifier": layer2,
        "bridge": common | {"L1_GENESIS", "L1", "L2", "SIDE_GENESIS"},
    }
    for service, names in expected.items():
        table = PARSERS[service]({}).variables()
        assert set(table) == {f"LAYERLAB_{name}" for name in names}
        for name, (option, help_, _) in table.items():
            assert help_
            assert option == "" or name == "LAYERLAB_" + option[2:].upper().replace("-", "_")
    assert PARSERS["bridge"]({}).variables()["LAYERLAB_PORT"][::2] == ("--port", 10545)


def test_of_two_names_for_one_genesis_the_command_line_wins() -> None:
    def chosen(words: list[str], **environ: str) -> str:
        return bridge.service.genesis_option(bridge.service.parser(environ).parse_args(words))

    both = {"LAYERLAB_GENESIS": "a", "LAYERLAB_L1_GENESIS": "b"}
    assert chosen([], **both) == "--l1-genesis"
    assert chosen([]) == "--l1-genesis"
    assert chosen([], LAYERLAB_GENESIS="a") == "--genesis"
    assert chosen(["--genesis", "c"], **both) == "--genesis"
    assert chosen(["--l1-genesis", "c"], LAYERLAB_GENESIS="a") == "--l1-genesis"


class RefusedError(Exception):
    """What a parser would have said before ending the process."""


class Told(ServiceParser):
    """A parser that raises instead of ending the process."""

    def exit(self, status: int = 0, message: str | None = None) -> Any:
        raise RefusedError(f"{status} {message}")


@given(st.text(max_size=300), st.sampled_from(["--port", "--log-level", "--enable-faults"]))
def test_no_text_does_worse_than_one_line(text: str, option: str) -> None:
    variable = "LAYERLAB_" + option[2:].upper().replace("-", "_")
    parser = service_parser("x", "x", port=1, environ={variable: text})
    add_fault_options(parser)
    parser.__class__ = Told
    try:
        parser.parse_args([])
    except RefusedError as refused:
        said = str(refused)
        named = said.startswith(f"2 x: {variable}: ")
        assert named
        assert "\n" not in said[:-1]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("yes", True), ("ON", True), ("True", True), ("0", False), ("no", False), ("Off", False)],
)
def test_words_for_yes_and_no(text: str, value: bool) -> None:
    assert read_yes_or_no(text) is value


@given(st.text())
def test_no_other_word_means_yes(text: str) -> None:
    try:
        said = read_yes_or_no(text)
    except argparse.ArgumentTypeError:
        return
    assert said is (text.lower() in ("1", "true", "yes", "on"))


# --- secrets ---


def token_of(words: list[str], **environ: str) -> str | None:
    parser = service_parser(
        "x", "x", port=1, environ={f"LAYERLAB_{k.upper()}": v for k, v in environ.items()}
    )
    add_fault_options(parser)
    return read_fault_token(parser.parse_args(words))


def test_faults_are_off_unless_asked_for(tmp_path: Path) -> None:
    assert token_of([]) is None
    assert token_of([], fault_token="secret") is None
    assert token_of([], fault_token_file=str(tmp_path / "missing"), enable_faults="no") is None


def test_the_token_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a secret of some length\n")
    given = token_of(["--enable-faults"], fault_token_file=str(file), host="0.0.0.0")
    assert given == "a secret of some length"
    assert token_of(["--enable-faults"]) == DEVNET_TOKEN


def test_one_of_two_tokens_must_be_meant(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from the file")
    with pytest.raises(StartupError, match=r"LAYERLAB_FAULT_TOKEN.*LAYERLAB_FAULT_TOKEN_FILE"):
        token_of([], enable_faults="yes", fault_token="given", fault_token_file=str(file))
    one = token_of(["--fault-token", "given"], enable_faults="yes", fault_token_file=str(file))
    other = token_of(["--fault-token-file", str(file)], enable_faults="yes", fault_token="given")
    assert (one, other) == ("given", "from the file")


def test_an_empty_token_on_the_command_line_is_not_replaced_by_another(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from the file")
    with pytest.raises(StartupError, match=r"LAYERLAB_FAULT_TOKEN\) is empty"):
        token_of(["--fault-token", ""], enable_faults="1", fault_token_file=str(file))
    with pytest.raises(StartupError, match="LAYERLAB_FAULT_TOKEN_FILE"):
        token_of(["--fault-token-file", ""], enable_faults="1", fault_token="given")
    with pytest.raises(StartupError, match="two fault tokens"):
        token_of(["--fault-token", "", "--fault-token-file", str(file)], enable_faults="1")


def test_a_host_that_breaks_lines_does_not() -> None:
    with pytest.raises(StartupError) as refused:
        token_of(["--enable-faults", "--host", "a\nb" * 100])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_the_well_known_token_is_refused_where_strangers_can_reach_us() -> None:
    with pytest.raises(StartupError, match="LAYERLAB_FAULT_TOKEN_FILE"):
        token_of(["--enable-faults", "--host", "0.0.0.0"])


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two\nlines", b"\xff\xfe", b"bell\x07", b"x" * (MAX_SECRET_BYTES + 1)]
)
def test_a_file_without_one_line_is_no_secret_and_is_not_shown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(StartupError, match="THE_VARIABLE") as refused:
        read_secret_file(file, "THE_VARIABLE")
    assert "two" not in str(refused.value)


def test_a_missing_secret_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"THE_VARIABLE.*No such file"):
        read_secret_file(tmp_path / "missing", "THE_VARIABLE")


def test_only_the_final_line_end_is_not_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for content, secret in ((b" a b ", " a b "), (b"a\n", "a"), (b"a\r\n", "a")):
        file.write_bytes(content)
        assert read_secret_file(file, "X") == secret
    for content in (b"a\n\n", b"\na", b"a\tb"):
        file.write_bytes(content)
        with pytest.raises(StartupError, match="one line"):
            read_secret_file(file, "X")


def test_what_is_no_file_is_no_secret_and_nobody_waits_for_it(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/zero"), Path("a\0b"), Path("\ud800"), Path("x" * 5000)):
        with pytest.raises(StartupError, match=r"^X: ") as refused:
            read_secret_file(path, "X")
        assert len(str(refused.value)) < 400
    with pytest.raises(StartupError, match="/the-name"):
        read_secret_file(Path("/long" * 100) / "the-name", "X")


# --- keys ---


@pytest.fixture
def genesis() -> Genesis:
    return make_genesis()


def key_of(genesis: Genesis, words: list[str], **environ: str) -> object:
    environ = {f"LAYERLAB_{name.upper()}": value for name, value in environ.items()}
    args = service_parser("x", "x", port=1, environ=environ).parse_args(words)
    return read_key(args, genesis, environ=environ)


def test_the_passphrase_comes_from_the_variable_or_from_a_file(genesis: Genesis, tmp_path: Path) -> None:
    key, secret = tmp_path / "key.pem", tmp_path / "passphrase"
    save_key(key, dev_keypair("alice"), "correct horse")
    secret.write_text("correct horse\n")
    given: dict[str, str] = {"key_file": str(key)}
    for good in ({"passphrase": "correct horse"}, {"passphrase_file": str(secret), "passphrase": ""}):
        assert key_of(genesis, [], **given, **good) == dev_keypair("alice")
    wrong: list[tuple[dict[str, str], str]] = [
        (
            {"passphrase": "x", "passphrase_file": str(secret)},
            "LAYERLAB_PASSPHRASE or LAYERLAB_PASSPHRASE_FILE",
        ),
        ({"passphrase": "staple"}, r"\(LAYERLAB_KEY_FILE\) with LAYERLAB_PASSPHRASE: .*wrong passphrase"),
        ({"passphrase_file": str(tmp_path)}, "^LAYERLAB_PASSPHRASE_FILE: "),
        ({"passphrase_file": str(key)}, "^LAYERLAB_PASSPHRASE_FILE: "),
        ({}, r"no passphrase .*LAYERLAB_PASSPHRASE,.*LAYERLAB_PASSPHRASE_FILE"),
        ({"passphrase": "x", "dev_key": "alice"}, "LAYERLAB_KEY_FILE.*LAYERLAB_DEV_KEY"),
    ]
    for environ, words in wrong:
        with pytest.raises(StartupError, match=words) as refused:
            key_of(genesis, [], **given, **environ)
        assert "staple" not in str(refused.value)
        assert "horse" not in str(refused.value)


def test_a_key_that_cannot_be_is_named(genesis: Genesis) -> None:
    with pytest.raises(StartupError, match=r"--dev-key \(LAYERLAB_DEV_KEY\): "):
        key_of(genesis, [], dev_key="No Body")
    with pytest.raises(StartupError, match=r"LAYERLAB_DEV_KEY.*no devnet"):
        key_of(make_genesis(devnet=False), [], dev_key="alice")
    with pytest.raises(StartupError, match=r"\(LAYERLAB_KEY_FILE\).*does not exist"):
        key_of(genesis, [], key_file="/none", passphrase="x")
    assert key_of(genesis, []) is None


# --- files ---


def test_files_that_cannot_be_used_are_named_with_their_variables(genesis: Genesis, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(genesis_to_json(genesis)))
    bad.write_text("{")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def parsed(**environ: str) -> argparse.Namespace:
        given = {f"LAYERLAB_{name.upper()}": value for name, value in environ.items()}
        return service_parser("x", "x", port=1, environ=given).parse_args([])

    assert read_genesis(parsed(genesis=str(good))) == genesis
    assert isinstance(make_clock(parsed()), SystemClock)
    for path in ("", str(bad), str(fifo), str(tmp_path), "/none", "x" * 5000):
        with pytest.raises(StartupError, match=r"--genesis \(LAYERLAB_GENESIS\)") as refused:
            read_genesis(parsed(genesis=path))
        assert len(str(refused.value)) < 500
    for path in (str(bad), "/none"):
        with pytest.raises(StartupError, match=r"--clock \(LAYERLAB_CLOCK\): "):
            make_clock(parsed(clock=path))
    with pytest.raises(StartupError, match="LAYERLAB_DATA"):
        data_directory(parsed())


MAINS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "l1node": (l1node.service.main, []),
    "sequencer": (rollup.service.main, ["sequencer"]),
    "verifier": (rollup.service.main, ["verifier"]),
    "bridge": (bridge.service.main, []),
}


@pytest.mark.parametrize("service", MAINS)
def test_a_service_refuses_to_start_and_names_the_variable(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main, words = MAINS[service]
    for name in PARSERS[service]({}).variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LAYERLAB_PORT", "0")
    wrong = {
        "LAYERLAB_HOST": "no such\nhost",
        "LAYERLAB_GENESIS" if service == "l1node" else "LAYERLAB_L1_GENESIS": str(tmp_path / "none\nsuch"),
    }
    if service != "bridge":
        wrong["LAYERLAB_FAULT_TOKEN_FILE"] = str(tmp_path / "none")
        monkeypatch.setenv("LAYERLAB_ENABLE_FAULTS", "yes")
    for variable, value in wrong.items():
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            if variable != "LAYERLAB_FAULT_TOKEN_FILE" and service != "bridge":
                patch.setenv("LAYERLAB_FAULT_TOKEN", "secret")
            assert main(words) == 2
        said = capsys.readouterr().err
        assert variable in said
        assert said.count("\n") == 1


# --- addresses ---


def test_addresses_are_read_once_each() -> None:
    assert parse_urls("--l1", " http://a:1/ ,,http://b:2,http://a:1") == ["http://a:1", "http://b:2"]
    assert parse_urls("--l1", "") == []


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a:1",
            "ftp://a:1",
            "http://",
            "http://a:0",
            "http://a:x",
            "http://a:1?q",
            "http://[",
            "http://a:1#f",
        ),
        *(
            "http://a\nb:1",
            "http://a b:1",
            "http://a:1/b\tc",
            "http://a\x1b:1",
            "http://\u202e:1",
            "http://300.1.1.1",
        ),
        *(
            "http://..:1",
            "http://" + "a" * 64 + ":1",
            "http://" + "a." * 200 + "b",
            "http://[x]",
            "http://a:65536",
        ),
    ],
)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(StartupError, match=r"--l1 \(LAYERLAB_L1\)") as refused:
        parse_urls("--l1", f"http://a:1,{text}")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


@given(st.text(max_size=100))
def test_any_text_is_addresses_or_refused(text: str) -> None:
    for whole in (text, f"http://{text}:1"):
        try:
            found = parse_urls("--l1", whole)
        except StartupError as error:
            said, found = str(error), []
        else:
            said = ""
        assert said == one_line(said)
        assert all(url.lower().startswith(("http://", "https://")) for url in found)


def test_addresses_are_bounded() -> None:
    with pytest.raises(StartupError, match="at most"):
        parse_urls("--l1", ",".join(f"http://h{i}:1" for i in range(MAX_URLS + 1)))


# --- a devnet, or not ---

MINE = KeyPair(b"\x21" * 32)
"""A key that no devnet has."""


def real_genesis(tmp_path: Path) -> Path:
    genesis = make_genesis(users=(MINE,), devnet=False)
    file = tmp_path / "real.json"
    file.write_text(json.dumps(genesis_to_json(genesis)))
    return file


def genesis_of(words: list[str]) -> Genesis:
    parser = service_parser("x", "x", port=1, environ={})
    add_fault_options(parser)
    return read_genesis(parser.parse_args(words))


def test_what_is_a_devnets_is_refused_on_a_real_chain(tmp_path: Path) -> None:
    real = str(real_genesis(tmp_path))
    assert not genesis_of(["--genesis", real, "--no-devnet"]).devnet
    for words, named in ((["--clock", "c.json"], "--clock"), (["--enable-faults"], "--enable-faults")):
        with pytest.raises(StartupError, match=f"{named}.*no devnet"):
            genesis_of(["--genesis", real, *words])


def test_a_devnets_genesis_is_refused_where_none_is_wanted(genesis: Genesis, tmp_path: Path) -> None:
    file = tmp_path / "devnet.json"
    file.write_text(json.dumps(genesis_to_json(genesis)))
    assert genesis_of(["--genesis", str(file)]).devnet
    with pytest.raises(StartupError, match=r"LAYERLAB_NO_DEVNET.*everybody knows its keys"):
        genesis_of(["--genesis", str(file), "--no-devnet"])


@pytest.mark.parametrize(
    "name", ["alice", "validator-31", "side-0", "operator-2", "student-07", "student-300", "vault"]
)
def test_a_well_known_key_in_a_file_is_still_well_known(tmp_path: Path, name: str) -> None:
    file = tmp_path / "key.pem"
    save_key(file, dev_keypair(name), "correct horse")
    real = make_genesis(users=(MINE,), devnet=False)
    with pytest.raises(StartupError, match=rf"LAYERLAB_KEY_FILE.*'{name}'.*no devnet"):
        key_of(real, [], key_file=str(file), passphrase="correct horse")
    with pytest.raises(GenesisError, match=name):
        check_genesis(make_genesis(users=(dev_keypair(name),), devnet=False))
    with pytest.raises(GenesisError, match=name):
        check_genesis(make_genesis(users=(MINE,), devnet=False, vault=dev_keypair(name).address))


def test_a_key_of_ones_own_is_taken_on_a_real_chain(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    save_key(file, MINE, "correct horse")
    real = make_genesis(users=(MINE,), devnet=False)
    assert key_of(real, [], key_file=str(file), passphrase="correct horse") == MINE
