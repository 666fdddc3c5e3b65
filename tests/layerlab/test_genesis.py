"""The devnet's genesis: who has what, backed one to one, and what makes none."""

import json
from dataclasses import replace

import pytest

from bridge.abi import BridgeParams
from chainkit.codec import MAX_AMOUNT, decode
from chainkit.genesis import Genesis, genesis_from_json, genesis_state, genesis_to_json
from chainkit.keys import DEV_ACCOUNTS, dev_keypair
from layerlab.config import COIN, PRESETS, DevnetConfig, DevnetError, default_settings, preset
from layerlab.genesis import L2_FEES, make_l1_genesis, make_l2_genesis

TIME = 1_800_000_000_000


def _balances(genesis: Genesis) -> dict[bytes, int]:
    return {account.address: account.balance for account in genesis.accounts}


@pytest.mark.parametrize("name", PRESETS)
def test_every_coin_on_l2_is_escrowed_on_l1_from_block_0(name: str) -> None:
    config = preset(name)
    l1, l2 = make_l1_genesis(config, TIME), make_l2_genesis(config, TIME)
    bridge = next(spec for spec in l1.contracts if spec.name == "bridge")
    assert bridge.balance == l2.total_supply == len(DEV_ACCOUNTS) * 100 * COIN
    assert decode(BridgeParams, bridge.params) == BridgeParams(l2, config.settings)


@pytest.mark.parametrize("name", PRESETS)
def test_both_chains_start_and_the_supply_is_exact_in_json(name: str) -> None:
    for genesis in (make_l1_genesis(preset(name), TIME), make_l2_genesis(preset(name), TIME)):
        assert genesis.total_supply < MAX_AMOUNT
        genesis_state(genesis)
        text = json.dumps(genesis_to_json(genesis))
        assert genesis_from_json(text).hash() == genesis.hash()


def test_who_has_what() -> None:
    config = DevnetConfig()
    l1, l2 = make_l1_genesis(config, TIME), make_l2_genesis(config, TIME)
    on_l1, on_l2 = _balances(l1), _balances(l2)
    for name in DEV_ACCOUNTS:
        address = dev_keypair(name).address
        rich = name in ("sequencer", "verifier")
        assert on_l1[address] == (100_000 if rich else 10_000) * COIN
        assert on_l2[address] == 100 * COIN
    assert {v.address: v.stake for v in l1.validators} == {
        dev_keypair(f"validator-{i}").address: 1_000 * COIN for i in range(4)
    }
    assert all(on_l1[v.address] == 100 * COIN for v in l1.validators)
    assert l2.vault == dev_keypair("vault").address
    assert not l2.validators
    assert (l1.chain_id, l2.chain_id) == (900, 901)
    assert l1.time == l2.time == TIME


def test_l2_transactions_are_small_enough_to_be_proven_on_l1() -> None:
    assert (L2_FEES.max_transaction_bytes, L2_FEES.max_transaction_gas) == (8 * 1024, 250_000)
    assert (L2_FEES.block_gas_limit, L2_FEES.gas_per_byte) == (30_000_000, 16)


def test_further_accounts_are_funded_as_alice_is() -> None:
    students = tuple(f"student-{i}" for i in range(30))
    config = DevnetConfig(accounts=students)
    for genesis in (make_l1_genesis(config, TIME), make_l2_genesis(config, TIME)):
        balances = _balances(genesis)
        assert {balances[dev_keypair(name).address] for name in students} == {
            balances[dev_keypair("alice").address]
        }


def test_the_largest_class_still_has_an_exact_supply() -> None:
    config = DevnetConfig(validators=32, accounts=tuple(f"student-{i}" for i in range(100)))
    assert make_l1_genesis(config, TIME).total_supply < MAX_AMOUNT


def test_a_genesis_is_a_function_of_configuration_and_time() -> None:
    config = DevnetConfig()
    assert make_l1_genesis(config, TIME).hash() == make_l1_genesis(config.with_free_ports(), TIME).hash()
    others = [
        make_l1_genesis(config, TIME + 1),
        make_l1_genesis(DevnetConfig(validators=5), TIME),
        make_l1_genesis(replace(config, accounts=("s-1",)), TIME),
        make_l1_genesis(replace(config, settings=default_settings(challenge_window=99)), TIME),
        make_l1_genesis(replace(config, block_ms=251), TIME),
    ]
    hashes = {genesis.hash() for genesis in (make_l1_genesis(config, TIME), *others)}
    assert len(hashes) == 6


@pytest.mark.parametrize("name", ["l1_fund", "l2_fund", "operator_fund", "stake"])
def test_more_than_a_json_number_holds_is_refused(name: str) -> None:
    with pytest.raises(DevnetError, match="makes no genesis"):
        make_l1_genesis(replace(DevnetConfig(), **{name: MAX_AMOUNT}), TIME)
