"""Parameters under which an honest side could not win are refused, at genesis and as an upgrade."""

import json
from typing import Any

import pytest
from bridge_harness import KEYS, SETTINGS, World, address, l1_genesis, l2_genesis, steal_at
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge import abi
from bridge.settings import SettingsError, bisection_rounds, check_settings, moves_of_a_side
from chainkit.block import Validator
from chainkit.codec import encode
from chainkit.execution import FeeParameters
from chainkit.genesis import GenesisError, genesis_from_json, genesis_state, genesis_to_json

MOVES = moves_of_a_side(SETTINGS)
BAD: list[tuple[str, dict[str, Any]]] = [
    *[
        (name, {name: 0})
        for name in abi.BridgeSettings.__struct_fields__
        if name not in {"sequencer", "admin", "bisection"}
    ],
    ("bisection", {"bisection": 0}),
    ("bisection", {"bisection": 1}),
    ("bisection", {"bisection": 65}),
    ("max_steps", {"max_steps": 2**53 - 1, "bisection": 64}),
    ("max_inbox_per_batch", {"max_inbox_per_batch": 64}),
    ("max_inbox_per_batch", {"max_inbox_per_batch": 5_000, "max_steps": 10_000}),
    ("challenge_window", {"challenge_window": MOVES * SETTINGS.max_move_delay}),
    ("dispute_clock", {"dispute_clock": MOVES * SETTINGS.max_move_delay}),
    ("challenge_window", {"max_move_delay": 3}),
    ("dispute_clock", {"dispute_clock": (MOVES - 1) * (SETTINGS.max_move_delay + 1) - 1}),
    ("escape_timeout", {"escape_timeout": 12 + 24 + 1}),
    ("exit_window", {"exit_window": 12 + 24}),
    ("sequencer", {"sequencer": bytes(32)}),
    ("sequencer", {"sequencer": b"\x01" + bytes(31)}),
    ("admin", {"admin": bytes(32)}),
]


@pytest.mark.parametrize(("name", "change"), BAD)
def test_bad_settings_are_named_at_genesis_and_as_an_upgrade(name: str, change: dict[str, Any]) -> None:
    bad = replace(SETTINGS, **change)
    with pytest.raises(SettingsError, match=f"settings.{name}"):
        check_settings(bad)
    with pytest.raises(GenesisError, match=f"settings.{name}"):
        genesis_state(l1_genesis(bad))
    if name == "challenge_window" or len(change) == 2:
        world = World()
        assert f"settings.{name}" in world.refused(
            "bad_settings", "judy", "schedule_upgrade", abi.UpgradeArgs(bad)
        )


def test_the_bounds_themselves_are_accepted() -> None:
    check_settings(
        replace(SETTINGS, challenge_window=11, escape_timeout=11 + 24 + 2, exit_window=11 + 24 + 1)
    )
    check_settings(replace(SETTINGS, admin=None, exit_window=1))
    check_settings(abi.BridgeSettings(sequencer=address("sequencer")))


def test_moves_of_a_side_count_the_opening_and_the_proof() -> None:
    assert moves_of_a_side(replace(SETTINGS, max_steps=64, bisection=4)) == 3 + 2
    assert moves_of_a_side(replace(SETTINGS, max_steps=65, bisection=4)) == 4 + 2
    assert moves_of_a_side(abi.BridgeSettings(sequencer=address("sequencer"))) == 3 + 2


@given(n=st.integers(1, 10**6), k=st.integers(2, 64))
@settings(max_examples=200, deadline=None)
def test_rounds_are_the_ceiling_of_the_logarithm(n: int, k: int) -> None:
    rounds = bisection_rounds(n, k)
    assert k**rounds >= n
    assert rounds == 0 or k ** (rounds - 1) < n


@pytest.mark.parametrize("balance", [0, 3 * 10**12 - 1, 3 * 10**12 + 1])
def test_the_escrow_is_exactly_l2s_supply(balance: int) -> None:
    with pytest.raises(GenesisError, match="balance must be"):
        genesis_state(l1_genesis(balance=balance))


def test_l2_geneses_that_cannot_be_a_rollup() -> None:
    l2 = l2_genesis()
    key = KEYS["carol"].address
    for match, bad in (
        ("chain_id", replace(l2, chain_id=900)),
        ("validators", replace(l2, validators=[Validator(key, 5)])),
        ("vault", replace(l2, vault=None)),
        ("vault", replace(l2, vault=bytes(32))),
        ("time", replace(l2, time=1)),
        ("messenger", replace(l2, contracts=[])),
        ("max_transaction_gas", replace(l2, fees=FeeParameters())),
        ("slot_ms", replace(l2, slot_ms=0)),
    ):
        with pytest.raises(GenesisError, match=match):
            genesis_state(l1_genesis(l2=bad))


def test_an_l1_that_could_not_carry_the_largest_proof_is_refused() -> None:
    for fees in (FeeParameters(max_transaction_bytes=100_000), FeeParameters(max_transaction_gas=5_000_000)):
        with pytest.raises(GenesisError, match=r"fees\.max_transaction"):
            genesis_state(replace(l1_genesis(), fees=fees))


def test_an_l1_that_could_not_carry_a_block_and_a_full_inbox_is_refused() -> None:
    """P13: at least what one block with 4,096 overdue messages takes, by the gas that the sequencer offers for it."""
    least = 3_000_000 + 256 * 1024 * (8 + 16 + 1) + 400 * (2_048 + 4_096) + 3_000 * 4_096
    genesis_state(replace(l1_genesis(), fees=FeeParameters(max_transaction_gas=least)))
    for fees in (FeeParameters(max_transaction_gas=least - 1), FeeParameters(gas_per_byte=40)):
        with pytest.raises(GenesisError, match="a batch of one block"):
            genesis_state(replace(l1_genesis(), fees=fees))


def test_genesis_survives_its_json() -> None:
    genesis = l1_genesis()
    again = genesis_from_json(json.dumps(genesis_to_json(genesis)))
    assert encode(again) == encode(genesis)


# --- upgrades ---

NEW = replace(
    SETTINGS,
    min_deposit=5,
    bisection=2,
    challenge_window=17,
    dispute_clock=21,
    escape_timeout=62,
    exit_window=60,
)


def test_an_upgrade_waits_for_the_exit_window() -> None:
    world = World()
    world.ok("judy", "schedule_upgrade", abi.UpgradeArgs(NEW))
    at = world.height + SETTINGS.exit_window
    world.wait_until(at - 1)
    assert world.refused("too_early", "judy", "apply_upgrade").endswith("in 1 blocks")
    assert world.load(abi.SETTINGS_KEY, abi.BridgeSettings) == SETTINGS
    world.ok("mallory", "apply_upgrade")
    assert world.load(abi.SETTINGS_KEY, abi.BridgeSettings) == NEW
    world.refused("no_upgrade", "judy", "apply_upgrade")


def test_only_the_admin_schedules_and_cancels() -> None:
    world = World()
    for who in ("mallory", "sequencer", "alice"):
        world.refused("not_admin", who, "schedule_upgrade", abi.UpgradeArgs(NEW))
    world.refused("no_upgrade", "judy", "cancel_upgrade")
    world.ok("judy", "schedule_upgrade", abi.UpgradeArgs(NEW))
    world.refused("not_admin", "mallory", "cancel_upgrade")
    world.ok("judy", "cancel_upgrade")
    world.wait(SETTINGS.exit_window)
    world.refused("no_upgrade", "judy", "apply_upgrade")


def test_rescheduling_starts_the_window_anew() -> None:
    world = World()
    world.ok("judy", "schedule_upgrade", abi.UpgradeArgs(NEW))
    world.wait(SETTINGS.exit_window - 3)
    world.ok("judy", "schedule_upgrade", abi.UpgradeArgs(replace(NEW, min_deposit=6)))
    world.wait(10)
    world.refused("too_early", "judy", "apply_upgrade")


def test_no_admin_no_upgrade() -> None:
    world = World(replace(SETTINGS, admin=None))
    world.refused("no_admin", "judy", "schedule_upgrade", abi.UpgradeArgs(NEW))
    world.refused("no_admin", "judy", "cancel_upgrade")


def test_an_upgrade_in_flight_changes_no_batch_and_no_dispute() -> None:
    world = World()
    world.ok("judy", "schedule_upgrade", abi.UpgradeArgs(NEW))
    world.wait(SETTINGS.exit_window - 3)
    posted = world.post((0, [b"x"] * 30), lie=steal_at(20))
    dispute = world.challenge(posted)
    until = world.batch(1).challenge_until
    world.ok("mallory", "apply_upgrade")
    assert world.batch(1).challenge_until == until
    record = world.play(dispute, posted.told, posted.true)
    assert (record.winner, record.bisection) == (abi.CHALLENGER, SETTINGS.bisection)
