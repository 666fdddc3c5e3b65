"""Settings of services: the command line before the environment, and one line that names what is wrong."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bridge.service
import l1node.service
import rollup.service
from chainkit.fault_api import DEVNET_TOKEN
from chainkit.options import (
    MAX_SECRET_BYTES,
    MAX_URLS,
    ServiceParser,
    add_fault_options,
    parse_urls,
    read_fault_token,
    read_secret_file,
    read_yes_or_no,
    service_parser,
)
from chainkit.service import StartupError

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
    assert f": {variable}: " in lone_line(parser, [], capsys)


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
    file.write_text("a secret\n")
    assert token_of(["--enable-faults"], fault_token_file=str(file), host="0.0.0.0") == "a secret"
    assert token_of(["--enable-faults"]) == DEVNET_TOKEN


def test_one_of_two_tokens_must_be_meant(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from the file")
    with pytest.raises(StartupError, match=r"LAYERLAB_FAULT_TOKEN.*LAYERLAB_FAULT_TOKEN_FILE"):
        token_of([], enable_faults="yes", fault_token="given", fault_token_file=str(file))
    one = token_of(["--fault-token", "given"], enable_faults="yes", fault_token_file=str(file))
    other = token_of(["--fault-token-file", str(file)], enable_faults="yes", fault_token="given")
    assert (one, other) == ("given", "from the file")


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


# --- addresses ---


def test_addresses_are_read_once_each() -> None:
    assert parse_urls("--l1", " http://a:1/ ,,http://b:2,http://a:1") == ["http://a:1", "http://b:2"]
    assert parse_urls("--l1", "") == []


@pytest.mark.parametrize(
    "text",
    ["a:1", "ftp://a:1", "http://", "http://a:0", "http://a:x", "http://a:1?q", "http://[", "http://a:1#f"],
)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(StartupError, match=r"--l1 \(LAYERLAB_L1\)"):
        parse_urls("--l1", f"http://a:1,{text}")


def test_addresses_are_bounded() -> None:
    with pytest.raises(StartupError, match="at most"):
        parse_urls("--l1", ",".join(f"http://h{i}:1" for i in range(MAX_URLS + 1)))
