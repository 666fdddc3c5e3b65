"""The devnet's genesis files.

Responsible for who is funded with what on L1 and L2, and for which contracts there are. Must not know where
the files lie, nor what time it is.

L2's genesis balances are backed one to one by the bridge contract's own genesis balance, so that promise P1
holds from block 0.
"""

from collections.abc import Mapping

from bridge.abi import BridgeParams
from chainkit.block import Validator
from chainkit.codec import encode
from chainkit.contract import NoArgs
from chainkit.execution import FeeParameters
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract, GenesisError, genesis_state
from chainkit.keys import dev_keypair
from l1node.staking import StakingParams
from layerlab.config import COIN, DevnetConfig, DevnetError

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
        contracts=[GenesisContract("messenger", "rollup.messenger:Messenger", encode(NoArgs()))],
        vault=dev_keypair("vault").address,
    )


def make_l1_genesis(config: DevnetConfig, time_ms: int) -> Genesis:
    """L1's genesis with the bridge and staking; slot 0 begins at ``time_ms``.

    Raises `DevnetError` if the contracts or the supply do not allow it.
    """
    l2 = make_l2_genesis(config, time_ms)
    bridge = encode(BridgeParams(l2, config.settings))
    staking = encode(StakingParams(unbonding_eras=config.unbonding_eras))
    validators = [Validator(dev_keypair(name).address, config.stake) for name in config.validator_names]
    funds = dict.fromkeys(config.account_names, config.l1_fund)
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
        contracts=[
            GenesisContract("bridge", "bridge.contract:Bridge", bridge, l2.total_supply),
            GenesisContract("staking", "l1node.staking:Staking", staking),
        ],
    )
    try:
        genesis_state(genesis)
    except (GenesisError, ValueError) as error:  # ValueError: an amount over 2**53 while it is summed up
        raise DevnetError(f"this configuration makes no genesis: {error}") from None
    return genesis


def _accounts(funds: Mapping[str, int]) -> list[GenesisAccount]:
    accounts = [GenesisAccount(dev_keypair(name).address, fund, name) for name, fund in funds.items()]
    return sorted(accounts, key=lambda account: account.address)
