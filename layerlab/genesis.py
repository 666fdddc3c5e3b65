"""The devnet's genesis files.

Responsible for who is funded with what on L1 and L2, and for which contracts there are. Must not know where
the files lie.

L2's genesis balances are backed one to one by the bridge contract's own genesis balance, so that promise P1
holds from block 0.
"""

from collections.abc import Sequence

from bridge.abi import BridgeParams
from chainkit.block import Validator
from chainkit.codec import encode
from chainkit.contract import NoArgs
from chainkit.execution import FeeParameters
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract
from chainkit.keys import DEV_ACCOUNTS, dev_keypair
from l1node.staking import StakingParams
from layerlab.config import COIN, L1_CHAIN_ID, L2_CHAIN_ID, DevnetConfig

L1_BALANCE = 10_000 * COIN
L2_BALANCE = 100 * COIN
STAKE = 1_000 * COIN

L2_FEES = FeeParameters(
    block_gas_limit=30_000_000,
    max_transaction_gas=250_000,
    max_transaction_bytes=8 * 1024,
    gas_per_byte=16,
)
"""A step's proof must fit one L1 transaction: that is what bounds a transaction's gas."""


def make_l2_genesis(config: DevnetConfig, time_ms: int) -> Genesis:
    """The rollup's genesis; it is part of L1's."""
    return Genesis(
        chain_id=L2_CHAIN_ID,
        name="layerlab-l2",
        time=time_ms,
        slot_ms=config.block_ms,
        era_slots=config.era_slots,
        devnet=True,
        fees=L2_FEES,
        accounts=_accounts(DEV_ACCOUNTS, L2_BALANCE),
        validators=[],
        contracts=[GenesisContract("messenger", "rollup.messenger:Messenger", encode(NoArgs()))],
        vault=dev_keypair("vault").address,
    )


def make_l1_genesis(config: DevnetConfig, time_ms: int) -> Genesis:
    """L1's genesis with the bridge and staking; slot 0 begins at ``time_ms``."""
    l2 = make_l2_genesis(config, time_ms)
    bridge = encode(BridgeParams(l2, config.settings))
    staking = encode(StakingParams(unbonding_eras=config.unbonding_eras))
    validators = [Validator(dev_keypair(name).address, STAKE) for name in config.validator_names]
    return Genesis(
        chain_id=L1_CHAIN_ID,
        name="layerlab-l1",
        time=time_ms,
        slot_ms=config.slot_ms,
        era_slots=config.era_slots,
        devnet=True,
        fees=FeeParameters(),
        accounts=_accounts([*DEV_ACCOUNTS, *config.validator_names], L1_BALANCE),
        validators=sorted(validators, key=lambda validator: validator.address),
        contracts=[
            GenesisContract("bridge", "bridge.contract:Bridge", bridge, l2.total_supply),
            GenesisContract("staking", "l1node.staking:Staking", staking),
        ],
    )


def _accounts(names: Sequence[str], balance: int) -> list[GenesisAccount]:
    accounts = [GenesisAccount(dev_keypair(name).address, balance, name) for name in names]
    return sorted(accounts, key=lambda account: account.address)
