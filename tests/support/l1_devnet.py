"""A small L1 for tests: a genesis with staking, four equal validators with funds, and well-known accounts."""

from chainkit.block import Validator
from chainkit.codec import encode
from chainkit.execution import FeeParameters
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract
from chainkit.keys import DEV_ACCOUNTS, dev_keypair
from l1node.staking import StakingParams

COIN = 10**9


def l1_genesis(
    *, validators: int = 4, slot_ms: int = 1000, time: int = 1_700_000_000_000, era_slots: int = 16
) -> Genesis:
    """``time`` in ms since 1970: when slot 0 begins."""
    keys = [dev_keypair(f"validator-{index}") for index in range(validators)]
    people = [(dev_keypair(name), name) for name in DEV_ACCOUNTS]
    people += [(key, f"validator-{index}") for index, key in enumerate(keys)]
    accounts = [GenesisAccount(key.address, 1000 * COIN, name) for key, name in people]
    return Genesis(
        chain_id=900,
        name="test-l1",
        time=time,
        slot_ms=slot_ms,
        era_slots=era_slots,
        devnet=True,
        fees=FeeParameters(),
        accounts=sorted(accounts, key=lambda account: account.address),
        validators=sorted((Validator(k.address, 100 * COIN) for k in keys), key=lambda v: v.address),
        contracts=[GenesisContract("staking", "l1node.staking:Staking", encode(StakingParams()))],
    )
