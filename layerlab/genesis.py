"""The devnet's genesis files.

Responsible for who is funded with what on L1 and L2, and for which contracts there are. Must not know where
the files lie, nor what time it is.

L2's genesis balances are backed one to one by the bridge contract's own genesis balance, so that promise P1
holds from block 0.
"""

from collections.abc import Mapping

from apps.inference_market import InferenceMarket
from apps.market_records import MarketParams
from apps.token import Token, TokenParams
from bridge.abi import BridgeParams
from bridge.contract import Bridge
from chainkit.block import Validator
from chainkit.codec import encode
from chainkit.contract import Contract, NoArgs
from chainkit.execution import FeeParameters
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract, GenesisError, genesis_state
from chainkit.keys import dev_keypair
from l1node.staking import Staking, StakingParams
from layerlab.config import COIN, DevnetConfig, DevnetError
from rollup.messenger import Messenger

L1_BALANCE = DevnetConfig.l1_fund
L2_BALANCE = DevnetConfig.l2_fund
"""What an account starts with unless the configuration says otherwise."""
VALIDATOR_BALANCE = 100 * COIN
"""What a validator has beside its stake, for the fees of its evidence."""
OPERATORS = ("sequencer", "verifier")

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


def make_l1_genesis(config: DevnetConfig, time_ms: int) -> Genesis:
    """L1's genesis with the bridge and staking; slot 0 begins at ``time_ms``.

    Raises `DevnetError` if the contracts or the supply do not allow it.
    """
    validators = [Validator(dev_keypair(name).address, config.stake) for name in config.validator_names]
    funds = dict.fromkeys(config.account_names, config.l1_fund)
    if config.kind.bridged:
        funds |= dict.fromkeys(OPERATORS, config.operator_fund)
    funds |= dict.fromkeys(config.validator_names, VALIDATOR_BALANCE)
    genesis = Genesis(
        chain_id=config.l1_chain_id,
        name="layerlab-l1",
        time=time_ms,
        slot_ms=config.slot_ms,
        era_slots=config.era_slots,
        devnet=True,
        fees=FeeParameters(),
        accounts=_accounts(funds),
        validators=sorted(validators, key=lambda validator: validator.address),
        contracts=_sorted(*_l1_contracts(config, time_ms)),
    )
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
    l2 = make_l2_genesis(config, time_ms)
    params = encode(BridgeParams(l2, config.settings))
    return [*contracts, _contract("bridge", Bridge, params, l2.total_supply)]


def _sorted(*contracts: GenesisContract) -> list[GenesisContract]:
    return sorted(contracts, key=lambda contract: contract.name)


def _accounts(funds: Mapping[str, int]) -> list[GenesisAccount]:
    accounts = [GenesisAccount(dev_keypair(name).address, fund, name) for name, fund in funds.items()]
    return sorted(accounts, key=lambda account: account.address)
