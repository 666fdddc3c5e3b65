"""Every model there is: its services, ports, commands and genesis hang together, and the same people and applications
are on the chain that carries them."""

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chainkit.genesis import GenesisContract, genesis_from_json, genesis_to_json
from chainkit.keys import DEV_ACCOUNTS, dev_keypair
from layerlab.config import DevnetConfig, DevnetError
from layerlab.genesis import make_l1_genesis, make_second_genesis
from layerlab.layout import Layout
from layerlab.models import BRIDGE, MODELS, SEQUENCER, USUAL, VALIDATOR, VERIFIER, Model
from layerlab.processes import service_command

TIME = 1_700_000_000_000
APPS = {"inference_market", "token"}
each = pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))


def config(model: Model, **changes: object) -> DevnetConfig:
    return DevnetConfig(model=model.name, **changes)  # type: ignore[arg-type]


# --- services ---


def test_the_issues_models_are_there_each_under_its_name() -> None:
    assert {"sovereign", "sidechain", "optimistic"} <= set(MODELS)
    assert all(model.name == name for name, model in MODELS.items())
    assert USUAL in MODELS
    assert DevnetConfig().model == USUAL
    assert len({model.about for model in MODELS.values()}) == len(MODELS)


@each
@pytest.mark.parametrize("validators", [1, 4])
def test_services_begin_with_the_validators_and_are_named_once(model: Model, validators: int) -> None:
    services = model.services(validators)
    assert services[:validators] == [f"{VALIDATOR}{i}" for i in range(validators)]
    assert services[validators:] == list(model.others)
    assert len(set(services)) == len(services)
    assert services == config(model, validators=validators).services


@each
def test_the_application_is_served_by_services_of_the_model(model: Model) -> None:
    services = model.services(1)
    assert model.app in services
    assert set(model.replicas) <= set(services)
    if model.bridged:
        assert model.app in model.replicas
        assert not model.app.startswith(VALIDATOR)  # on the second chain
    else:
        assert (model.app, model.others) == (f"{VALIDATOR}0", ())
        assert not model.rollup
    assert model.bridged == (BRIDGE in services)
    assert model.rollup == (SEQUENCER in services) == (VERIFIER in services)


# --- configuration ---


@each
def test_usual_ports_are_everyones_own(model: Model) -> None:
    made = config(model)
    assert set(made.ports) == set(made.services)
    assert len(set(made.ports.values())) == len(made.services)
    assert made.ports[f"{VALIDATOR}0"] == 8545
    moved = made.with_port_base(20_000)
    assert {moved.ports[name] - made.ports[name] for name in made.services} == {20_000 - 8545}


@each
def test_free_ports_are_everyones_own(model: Model) -> None:
    made = config(model).with_free_ports()
    assert set(made.ports) == set(made.services)
    assert len(set(made.ports.values())) == len(made.services)


def test_all_models_at_once_use_a_port_for_one_kind_of_service() -> None:
    """Whoever knows a service's port by heart finds it there, or nothing, on another model."""
    ports: dict[int, str] = {}
    for model in MODELS.values():
        for name, port in config(model).ports.items():
            assert ports.setdefault(port, name) == name


@each
def test_addresses_are_of_services_and_of_nothing_else(model: Model) -> None:
    made = config(model)
    urls = [made.url(name) for name in made.services]
    assert set(made.l1_urls) == set(urls[: made.validators])
    assert set(made.app_urls) <= set(urls)
    assert made.url(model.app) in made.app_urls
    for name in ("nobody", "", *(set(_all_services()) - set(made.services))):
        with pytest.raises(DevnetError, match="no service"):
            made.url(name)


def _all_services() -> list[str]:
    return [name for model in MODELS.values() for name in model.services(4)]


@each
def test_a_configuration_is_read_as_it_was_written(model: Model) -> None:
    made = config(model, validators=2)
    assert DevnetConfig.from_json(json.loads(json.dumps(made.to_json()))) == made
    for other in MODELS.values():
        differs = config(other, validators=2).difference(made)
        assert differs == ("" if other is model else f"its model is {model.name}, not {other.name}")


@pytest.mark.parametrize("name", ["", "Sovereign", "zk", None, 7, "x" * 10_000])
def test_another_model_is_refused_in_one_line(name: object) -> None:
    with pytest.raises(DevnetError) as caught:
        DevnetConfig(model=name)  # type: ignore[arg-type]
    line = str(caught.value)
    assert all(known in line for known in MODELS)
    assert "\n" not in line
    assert len(line) < 200


@each
def test_nobody_may_be_called_like_a_service_with_a_key(model: Model) -> None:
    for name in model.services(1):
        if name != BRIDGE:  # has none
            with pytest.raises(DevnetError):
                config(model, accounts=(name,))


# --- commands ---


@each
@pytest.mark.parametrize("validators", [1, 4])
def test_every_service_is_started_with_its_own_place_and_addresses_that_there_are(
    model: Model, validators: int, tmp_path: Path
) -> None:
    made, layout = config(model, validators=validators), Layout(tmp_path)
    known = {made.url(name) for name in made.services}
    for name in made.services:
        words = service_command(made, layout, name)
        assert words[words.index("--port") + 1] == str(made.ports[name])
        assert words[words.index("--data") + 1] == str(layout.data(name))
        named = {url for word in words for url in word.split(",") if urlsplit(url).scheme == "http"}
        assert named <= known
        if name.startswith(VALIDATOR):
            assert named == set(made.l1_urls) - {made.url(name)}  # its peers, and nobody of the second chain
        if "--dev-key" in words:
            assert words[words.index("--dev-key") + 1] == name
        else:
            assert name == BRIDGE


# --- genesis ---


@each
def test_the_second_chain_is_there_exactly_where_there_is_a_bridge(model: Model) -> None:
    made = config(model)
    first, second = make_l1_genesis(made, TIME), make_second_genesis(made, TIME)
    assert (second is not None) == model.bridged == ("bridge" in _names(first.contracts))
    assert (first.chain_id, len(first.validators)) == (made.l1_chain_id, made.validators)
    if second is not None:
        assert second.chain_id == made.l2_chain_id
        assert bool(second.validators) != model.rollup  # a rollup has none


@each
def test_the_same_applications_are_on_one_chain_alone(model: Model) -> None:
    made = config(model)
    first, second = make_l1_genesis(made, TIME), make_second_genesis(made, TIME)
    carrier, other = (first, None) if second is None else (second, first)
    assert _names(carrier.contracts) >= APPS
    assert other is None or not _names(other.contracts) & APPS
    usual = make_second_genesis(DevnetConfig(), TIME)
    assert usual is not None
    assert _apps(carrier.contracts) == _apps(
        usual.contracts
    )  # with the same parameters: the comparison is fair


def _names(contracts: list[GenesisContract]) -> set[str]:
    return {contract.name for contract in contracts}


def _apps(contracts: list[GenesisContract]) -> list[GenesisContract]:
    return sorted((c for c in contracts if c.name in APPS), key=lambda c: c.name)


@each
def test_every_user_has_the_same_money_on_each_chain(model: Model) -> None:
    made = config(model, accounts=("student-01",))
    users = {*DEV_ACCOUNTS, "student-01"} - {SEQUENCER, VERIFIER}  # who have to pay for the rollup on L1
    first, second = make_l1_genesis(made, TIME), make_second_genesis(made, TIME)
    for genesis, fund in ((first, made.l1_fund), (second, made.l2_fund)):
        if genesis is not None:
            funds = {account.address: account.balance for account in genesis.accounts}
            assert {funds[dev_keypair(name).address] for name in users} == {fund}


@each
def test_what_is_on_the_second_chain_is_backed_on_l1_from_the_first_block(model: Model) -> None:
    made = config(model)
    first, second = make_l1_genesis(made, TIME), make_second_genesis(made, TIME)
    if second is None:
        return
    (bridge,) = (contract for contract in first.contracts if contract.name == "bridge")
    reserve = sum(contract.balance for contract in second.contracts)  # not in anybody's hands yet
    assert bridge.balance == second.total_supply - reserve > 0


@each
def test_genesis_is_the_same_for_the_same_configuration_and_comes_back_from_json(model: Model) -> None:
    made = config(model)
    makers = (make_l1_genesis, make_second_genesis)
    for make in makers:
        genesis = make(made, TIME)
        again = make(replace(made, ports={}).with_port_base(30_000), TIME)
        if genesis is None or again is None:
            assert genesis is again is None
            continue
        assert genesis.hash() == again.hash()  # ports are no part of it
        assert genesis_from_json(json.dumps(genesis_to_json(genesis)).encode()).hash() == genesis.hash()


def test_each_model_is_another_chain() -> None:
    hashes = {make_l1_genesis(config(model), TIME).hash() for model in MODELS.values()}
    assert len(hashes) == len(MODELS)
