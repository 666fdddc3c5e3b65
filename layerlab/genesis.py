"""The devnet's genesis files.

Responsible for who is funded with what on L1 and L2, and for which contracts there are. Must not know where
the files lie, nor what time it is.

The second chain's genesis balances are backed one to one by the bridge contract's own genesis balance, so that
promise P1 holds from block 0.
"""

from collections.abc import Iterable, Mapping

from msgspec import structs

from apps.inference_market import InferenceMarket
from apps.market_records import MarketParams
from apps.token import Token, TokenParams
from bridge.abi import BridgeParams
from bridge.committee import l1_contract_spec, side_contract_spec
from bridge.committee_abi import CommitteeParams
from bridge.contract import Bridge
from chainkit.block import Validator
from chainkit.codec import encode
from chainkit.contract import Contract, NoArgs
from chainkit.execution import FeeParameters
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract, GenesisError, genesis_state
from chainkit.keys import dev_keypair
from l1node.staking import Staking, StakingParams
from layerlab.config import COIN, DevnetConfig, DevnetError
from layerlab.models import OPERATOR_THRESHOLD, OPERATORS, SEQUENCER, SIDE_VALIDATORS, VERIFIER
from rollup.messenger import Messenger

L1_BALANCE = DevnetConfig.l1_fund
L2_BALANCE = DevnetConfig.l2_fund
"""What an account starts with unless the configuration says otherwise."""
VALIDATOR_BALANCE = 100 * COIN
"""What a validator has beside its stake, for the fees of its evidence."""
ROLLUP_ACTORS = (SEQUENCER, VERIFIER)

L2_FEES = FeeParameters(
    block_gas_limit=30_000_000,
    max_transaction_gas=250_000,
    max_transaction_bytes=8 * 1024,
    gas_per_byte=16,
)
"""A step's proof must fit one L1 transaction: that is what bounds a transaction's gas."""


def app_contracts() -> list[GenesisContract]:
    """The applications, the same on whatever chain carries them: alice mints tokens, judy rules on disputed calls."""
    market = encode(MarketParams(arbiter=dev_keypair("judy").address))
    token = encode(TokenParams(minter=dev_keypair("alice").address))
    return [_contract("inference_market", InferenceMarket, market), _contract("token", Token, token)]


def _contract(name: str, kind: type[Contract], params: bytes, balance: int = 0) -> GenesisContract:
    return GenesisContract(name, f"{kind.__module__}:{kind.__qualname__}", params, balance)


def make_l2_genesis(config: DevnetConfig, time_ms: int) -> Genesis:
    """The rollup's genesis; it is part of L1's. ``time_ms`` is that of block 0."""
    return Genesis(
        chain_id=config.l2_chain_id,
        name="layerlab-l2",
        time=time_ms,
        slot_ms=config.block_ms,
        era_slots=config.era_slots,
        devnet=True,
        fees=L2_FEES,
        accounts=_accounts(dict.fromkeys(config.account_names, config.l2_fund)),
        validators=[],
        contracts=_sorted(_contract("messenger", Messenger, encode(NoArgs())), *app_contracts()),
        vault=dev_keypair("vault").address,
    )


def make_side_genesis(config: DevnetConfig, time_ms: int) -> Genesis:
    """The side chain's genesis: its own validators, the same funds as on the rollup, and the gateway's reserve.

    Raises `DevnetError` as `make_l1_genesis` does.
    """
    side = _side_without_gateway(config, time_ms)
    gateway = side_contract_spec(_committee(config, side))
    return _checked(structs.replace(side, contracts=_sorted(*side.contracts, gateway)))


def _side_without_gateway(config: DevnetConfig, time_ms: int) -> Genesis:
    funds = dict.fromkeys(config.account_names, config.l2_fund)
    funds |= dict.fromkeys((*SIDE_VALIDATORS, *OPERATORS), VALIDATOR_BALANCE)
    staking = encode(StakingParams(unbonding_eras=config.unbonding_eras))
    return Genesis(
        chain_id=config.l2_chain_id,
        name="layerlab-side",
        time=time_ms,
        slot_ms=config.slot_ms,
        era_slots=config.era_slots,
        devnet=True,
        fees=FeeParameters(),
        accounts=_accounts(funds),
        validators=_validators(SIDE_VALIDATORS, config.stake),
        contracts=_sorted(_contract("staking", Staking, staking), *app_contracts()),
    )


def _committee(config: DevnetConfig, side: Genesis) -> CommitteeParams:
    """The same on both chains. The reserve is as much as there is on L1: whatever comes can be credited."""
    backing = side.total_supply
    on_l1 = sum(_l1_funds(config).values()) + config.validators * config.stake
    return CommitteeParams(
        operators=sorted(dev_keypair(name).address for name in OPERATORS),
        threshold=OPERATOR_THRESHOLD,
        side_chain_id=config.l2_chain_id,
        reserve=on_l1,
        backing=backing,
    )


def make_second_genesis(config: DevnetConfig, time_ms: int) -> Genesis | None:
    """That of the chain beside L1, if the model has one."""
    if not config.kind.bridged:
        return None
    return (make_l2_genesis if config.kind.rollup else make_side_genesis)(config, time_ms)


def _l1_funds(config: DevnetConfig) -> dict[str, int]:
    funds = dict.fromkeys(config.account_names, config.l1_fund)
    if config.kind.bridged:
        funds |= dict.fromkeys(ROLLUP_ACTORS if config.kind.rollup else OPERATORS, config.operator_fund)
    return funds | dict.fromkeys(config.validator_names, VALIDATOR_BALANCE)


def _validators(names: Iterable[str], stake: int) -> list[Validator]:
    found = [Validator(dev_keypair(name).address, stake) for name in names]
    return sorted(found, key=lambda validator: validator.address)


def make_l1_genesis(config: DevnetConfig, time_ms: int) -> Genesis:
    """L1's genesis with the bridge and staking; slot 0 begins at ``time_ms``.

    Raises `DevnetError` if the contracts or the supply do not allow it.
    """
    return _checked(
        Genesis(
            chain_id=config.l1_chain_id,
            name="layerlab-l1",
            time=time_ms,
            slot_ms=config.slot_ms,
            era_slots=config.era_slots,
            devnet=True,
            fees=FeeParameters(),
            accounts=_accounts(_l1_funds(config)),
            validators=_validators(config.validator_names, config.stake),
            contracts=_sorted(*_l1_contracts(config, time_ms)),
        )
    )


def _checked(genesis: Genesis) -> Genesis:
    """Raises `DevnetError` for one that no node would take."""
    try:
        genesis_state(genesis)
    except (GenesisError, ValueError) as error:  # ValueError: an amount over 2**53 while it is summed up
        raise DevnetError(f"this configuration makes no genesis: {error}") from None
    return genesis


def _l1_contracts(config: DevnetConfig, time_ms: int) -> list[GenesisContract]:
    """Staking, and the bridge or, where there is no second chain, the applications."""
    staking = encode(StakingParams(unbonding_eras=config.unbonding_eras))
    contracts = [_contract("staking", Staking, staking)]
    if not config.kind.bridged:
        return [*contracts, *app_contracts()]
    if not config.kind.rollup:
        return [*contracts, l1_contract_spec(_committee(config, _side_without_gateway(config, time_ms)))]
    l2 = make_l2_genesis(config, time_ms)
    params = encode(BridgeParams(l2, config.settings))
    return [*contracts, _contract("bridge", Bridge, params, l2.total_supply)]


def _sorted(*contracts: GenesisContract) -> list[GenesisContract]:
    return sorted(contracts, key=lambda contract: contract.name)


def _accounts(funds: Mapping[str, int]) -> list[GenesisAccount]:
    accounts = [GenesisAccount(dev_keypair(name).address, fund, name) for name, fund in funds.items()]
    return sorted(accounts, key=lambda account: account.address)
