"""A devnet's configuration: presets keep the bridge's rules, bad values are named, JSON brings it back."""

import json
import socket
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.settings import check_settings, longest_dispute, moves_of_a_side
from layerlab.config import (
    COIN,
    PRESETS,
    DevnetConfig,
    DevnetError,
    default_settings,
    demo_config,
    preset,
    with_window,
)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_leave_an_honest_side_the_time_it_needs(name: str) -> None:
    bridge = preset(name).settings
    check_settings(bridge)
    needed = moves_of_a_side(bridge) * bridge.max_move_delay
    assert bridge.challenge_window > needed
    assert bridge.dispute_clock > needed
    assert bridge.escape_timeout >= longest_dispute(bridge) + bridge.max_move_delay
    assert bridge.exit_window > longest_dispute(bridge)


def test_the_presets_are_what_the_design_says() -> None:
    usual = preset("devnet")
    assert (usual.validators, usual.slot_ms, usual.settings.challenge_window) == (4, 1000, 100)
    assert [usual.ports[f"validator-{i}"] for i in range(4)] == [8545, 8546, 8547, 8548]
    assert [usual.ports[name] for name in ("sequencer", "verifier", "bridge")] == [9545, 9546, 10545]
    assert (usual.l1_chain_id, usual.l2_chain_id) == (900, 901)
    assert (demo_config().validators, demo_config().slot_ms) == (5, 400)


def test_an_unknown_preset_or_setting_is_named() -> None:
    with pytest.raises(DevnetError, match="no preset 'x'; there are: devnet, demo"):
        preset("x")
    with pytest.raises(DevnetError, match="no setting colour"):
        default_settings(colour=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validators": 0}, "validators must be an integer from 1 to"),
        ({"validators": 33}, "validators must be"),
        ({"validators": True}, "validators must be"),
        ({"validators": 4.0}, "validators must be"),
        ({"slot_ms": 49}, "slot_ms must be"),
        ({"slot_ms": "1000"}, "slot_ms must be"),
        ({"block_ms": 0}, "block_ms must be"),
        ({"era_slots": 1}, "era_slots must be"),
        ({"unbonding_eras": 2}, "unbonding_eras must be"),
        ({"l1_fund": -1}, "l1_fund must be"),
        ({"l1_fund": 2**53}, "l1_fund must be"),
        ({"stake": COIN - 1}, "stake must be"),
        ({"l1_chain_id": 901}, "both chains have the id 901"),
        ({"fault_token": ""}, "fault_token"),
        ({"fault_token": "a\nb"}, "fault_token"),
        ({"accounts": ("alice",)}, "'alice' exists already"),
        ({"accounts": ("validator-0",)}, "'validator-0' exists already"),
        ({"accounts": ("vault",)}, "'vault' exists already"),
        ({"accounts": ("s-1", "s-1")}, "'s-1' exists already"),
        ({"accounts": ("Student 1",)}, "no devnet key name"),
        ({"accounts": tuple(f"s-{i}" for i in range(1001))}, "1001 further accounts"),
        ({"ports": {"validator-0": 1}}, "no port for validator-1"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DevnetError, match=words):
        DevnetConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"challenge_window": 20}, "challenge_window must exceed 20"),
        ({"dispute_clock": 20}, "dispute_clock must exceed 20"),
        ({"escape_timeout": 223}, "escape_timeout must be at least 224"),
        ({"bisection": 1}, "bisection must be"),
        ({"sequencer_timeout": 0}, "sequencer_timeout must be positive"),
        ({"sequencer": bytes(32)}, "sequencer is not a valid public key"),
    ],
)
def test_settings_that_the_bridge_would_refuse_are_refused_before_anything_starts(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(DevnetError, match=words):
        DevnetConfig(settings=default_settings(**changes))


@pytest.mark.parametrize("port", [0, -1, 65536, True, "8545", None, 1.5])
def test_a_port_that_is_none_is_refused(port: Any) -> None:
    ports = {**DevnetConfig().ports, "bridge": port}
    with pytest.raises(DevnetError, match="the port of bridge must be"):
        DevnetConfig(ports=ports)


def test_two_services_cannot_have_one_port() -> None:
    ports = {**DevnetConfig().ports, "bridge": 8545}
    with pytest.raises(DevnetError, match="validator-0 and bridge have the same port 8545"):
        DevnetConfig(ports=ports)


def test_a_port_base_moves_all_ports_alike() -> None:
    moved, usual = DevnetConfig().with_port_base(20_000), DevnetConfig()
    assert {name: port - 20_000 for name, port in moved.ports.items()} == {
        name: port - 8545 for name, port in usual.ports.items()
    }
    with pytest.raises(DevnetError, match="the port of"):
        DevnetConfig().with_port_base(64_000)


def test_free_ports_are_free_distinct_and_not_handed_out_to_outgoing_connections() -> None:
    first, second = demo_config().with_free_ports(), demo_config().with_free_ports()
    assert set(first.ports) == set(first.services)
    assert max(first.ports.values()) < 32_768 <= 65_535
    for port in first.ports.values():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    assert first.ports != second.ports


def test_devnets_of_one_process_never_have_a_port_in_common() -> None:
    """A service that is down for a while finds its port free, although another devnet was made meanwhile."""
    configs = [demo_config().with_free_ports() for _ in range(40)]
    ports = [port for config in configs for port in config.ports.values()]
    assert len(ports) == len(set(ports))


def test_free_ports_are_never_those_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert taken.getsockname()[1] not in demo_config().with_free_ports().ports.values()


names = st.lists(st.from_regex(r"s-[a-z0-9]{1,8}", fullmatch=True), unique=True, max_size=5)


@settings(max_examples=40)
@given(
    st.integers(1, 32),
    st.integers(50, 10_000),
    st.integers(29, 1000),
    names,
    st.integers(0, 10**12),
)
def test_json_brings_a_configuration_back(
    validators: int, slot_ms: int, window: int, accounts: list[str], fund: int
) -> None:
    bridge = default_settings(challenge_window=window, escape_timeout=window + 2 * 60 + 4)
    config = DevnetConfig(
        validators=validators, slot_ms=slot_ms, settings=bridge, accounts=tuple(accounts), l1_fund=fund
    )
    assert DevnetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(json_values, st.sampled_from([*DevnetConfig().to_json(), None]))
def test_no_json_does_worse_than_a_typed_error(value: Any, name: str | None) -> None:
    document = value if name is None else {**DevnetConfig().to_json(), name: value}
    try:
        found: DevnetConfig | DevnetError = DevnetConfig.from_json(document)
    except DevnetError as error:
        found = error
    if isinstance(found, DevnetConfig):
        assert DevnetConfig.from_json(found.to_json()) == found
    else:
        assert "\n" not in str(found)


def test_a_difference_is_told_in_a_few_words_and_ports_are_none() -> None:
    usual = DevnetConfig()
    assert usual.difference(usual.with_free_ports()) == ""
    other = replace(usual, slot_ms=500, settings=default_settings(challenge_window=90))
    said = other.difference(usual)
    assert "its slot_ms is 1000, not 500" in said
    assert "its challenge_window is 100, not 90" in said


@settings(max_examples=60)
@given(st.sampled_from(sorted(PRESETS)), st.integers(8, 1_000_000))
def test_any_window_from_eight_blocks_on_makes_settings_that_the_bridge_accepts(
    name: str, window: int
) -> None:
    before = preset(name).settings
    changed = with_window(before, window)
    check_settings(changed)
    assert changed.challenge_window == window
    assert changed.escape_timeout >= before.escape_timeout
    assert changed.sequencer_timeout == before.sequencer_timeout


def test_the_usual_window_changes_nothing() -> None:
    assert with_window(default_settings(), 100) == default_settings()


@pytest.mark.parametrize("window", [0, 5, -1, True, 1_000_001, 2**53, "100", 99.5])
def test_a_window_in_which_a_side_cannot_make_its_moves_is_refused(window: Any) -> None:
    with pytest.raises(DevnetError, match="a challenge window is from 6 to"):
        with_window(default_settings(), window)
