"""A rule changes: how long until it is in force, and can a user who objects leave first?"""

import asyncio
from collections.abc import Mapping, Sequence

from msgspec import structs

from bridge.committee import side_contract_spec
from bridge.committee_abi import GATEWAY, CommitteeParams
from chainkit.codec import decode
from chainkit.genesis import Genesis, GenesisContract, genesis_to_json
from chainkit.transaction import Transfer
from layerlab.amounts import Gwei, show_amount
from layerlab.config import COIN, DevnetConfig
from layerlab.lab.experiment import Outcome, Seen
from layerlab.lab.experiments.common import FEES, committee_pays, usual
from layerlab.lab.experiments.upgrading import announce, put_in_force, with_admin, withdraw_all
from layerlab.layout import write_json
from layerlab.world import World, require

USER = "dave"
FACTOR = 10
"""The new rule: what a byte costs, or the least deposit, is so many times as much."""
VALIDATORS, AGREED = 4, 3
NEW_CHAIN = 1_000
"""Added to the chain's id: a vote on the new chain is no offence on the old one."""
BLOCKS = 6


class RuleChange:
    """No theft, just a rule that somebody does not like."""

    name = "rule-change"
    question = "A rule changes. After how long is it in force, and can a user who objects leave first?"
    hypothesis: Mapping[str, str] = {
        "sovereign": f"a rule is what {AGREED} of {VALIDATORS} validators run: in force when they have restarted, and "
        "there is no way out of an own chain",
        "sidechain": f"the same, and the bridge is no way out: its operators know the old chain, which {AGREED} of "
        f"{VALIDATORS} validators have left",
        "optimistic": "the administrator alone can do it, exit_window blocks after saying so; a user leaves first",
    }
    control: Mapping[str, str] = {
        "sovereign": "one validator in four runs the new rule",
        "sidechain": "one validator in four runs the new rule",
        "optimistic": "no administrator",
    }

    def config(self, model: str, control: bool) -> DevnetConfig:
        if model == "optimistic":
            return usual(model, validators=1) if control else with_admin(model)
        return usual(model, validators=VALIDATORS if model == "sovereign" else 1)

    async def run(self, world: World, control: bool) -> Seen:
        if world.devnet.config.kind.rollup:
            return await _by_administrator(world)
        return await _by_validators(world, control)


async def _by_administrator(world: World) -> Seen:
    owed, begin = await world.balance(world.l2, USER), world.now()
    settings = world.settings
    announced = await announce(world, structs.replace(settings, min_deposit=FACTOR * settings.min_deposit))
    if not announced.success:
        told = f"nobody can change a rule: {announced.message}"
        return Seen(False, told, Outcome(100, None, "nobody"), {"code": announced.code})
    said_at = announced.height or 0
    amount, out_at = await withdraw_all(world, USER)
    in_force = await put_in_force(world)
    seconds = round(world.now() - begin, 1)
    percent = round(100 * amount / owed)
    measured = {
        "in_force_after_blocks": in_force - said_at,
        "out_after_blocks": out_at - said_at,
        "exit_window": settings.exit_window,
        "who": "the administrator alone",
    }
    held = in_force - said_at >= settings.exit_window and out_at < in_force and percent == 100
    told = f"in force {in_force - said_at} L1 blocks after it was announced; {USER} was out after {out_at - said_at}"
    return Seen(held, told, Outcome(percent, seconds, "the user, within the exit window"), measured)


# --- an own chain: the rule is what validators run ---


async def _by_validators(world: World, control: bool) -> Seen:
    before = await _cost(world)
    names = world.devnet.config.app_validators
    agreed, last = names[-1:] if control else names[:AGREED], names[-1]
    old = await world.height(world.validator(last))
    begin = world.now()
    await _restart_with(world, agreed, await _next_chain(world))
    changed = World(world.devnet, world.devnet.genesis(), world.seed, world.say) if not control else world
    try:
        goal = await world.height(world.app) + BLOCKS if control else 1

        async def goes_on() -> bool:
            return await changed.height(changed.app) >= goal

        await world.until("the chain goes on", goes_on)
        after = await _cost(changed)
        seconds = round(world.now() - begin, 1)
        kept = await changed.balance(changed.app, USER, "finalized")
        left = await _leave(changed, kept)
    finally:
        if changed is not world:
            await changed.close()
    further = await world.height(world.validator(last)) - (0 if control else old)
    in_force = after > before
    measured = {
        "gas_before": before,
        "gas_after": after,
        "validators_changed": f"{len(agreed)}/{VALIDATORS}",
        "balance_kept": Gwei(kept),
        "left_with": Gwei(left),
        "blocks_of_the_other_chain": further,
        "who": f"{AGREED} of {VALIDATORS} validators",
    }
    told = f"a transfer cost {before} gas and costs {after}; {last} on the other side made {further} blocks since"
    told += f"; {USER} is out with {show_amount(left)}"
    percent = 0 if in_force and not left else 100
    outcome = Outcome(percent, seconds if in_force else None, "nobody can be")
    return Seen(in_force and not left, told, outcome, measured)


async def _leave(world: World, owed: int) -> int:
    """What the user who does not like the rule takes to L1, if there is one beneath (gwei)."""
    hosted = {contract["name"] for contract in await world.app.contracts()}
    return await committee_pays(world, USER, owed - FEES) if GATEWAY in hosted else 0


async def _cost(world: World) -> int:
    """What a transfer costs on the chain, in gas."""
    info = await world.send(world.app, "alice", Transfer(world.key("bob").address, COIN))
    require(bool(info.success), f"the transfer failed: {info.message}")
    return int(info.answer["receipt"]["gas_used"])


async def _next_chain(world: World) -> Genesis:
    """The chain as it stands, begun again with the new rule: plain balances, without what applications hold."""
    old = world.devnet.l2_genesis() or world.genesis
    balances = [(await world.app.account(account.address, "finalized")).balance for account in old.accounts]
    accounts = [structs.replace(a, balance=b) for a, b in zip(old.accounts, balances, strict=True)]
    changed = structs.replace(
        old,
        chain_id=old.chain_id + NEW_CHAIN,
        time=int(world.now() * 1000),
        accounts=accounts,
        fees=structs.replace(old.fees, gas_per_byte=FACTOR * old.fees.gas_per_byte),
    )
    contracts = [_begun_again(contract, changed) for contract in changed.contracts]
    return structs.replace(changed, contracts=contracts)


def _begun_again(contract: GenesisContract, genesis: Genesis) -> GenesisContract:
    """The gateway must know its chain, and how many coins are outside of its reserve there."""
    if contract.name != GATEWAY:
        return contract
    params = decode(CommitteeParams, contract.params)
    outside = genesis.total_supply - params.reserve
    return side_contract_spec(structs.replace(params, side_chain_id=genesis.chain_id, backing=outside))


async def _restart_with(world: World, names: Sequence[str], genesis: Genesis) -> None:
    """These validators stop, agree, and begin with that genesis; nobody asks the others."""
    world.say(f"{', '.join(names)} restart with another rule")
    devnet = world.devnet
    for name in names:
        await asyncio.to_thread(devnet.kill, name)
        await asyncio.to_thread(devnet.delete_data, name)
    layout = devnet.layout
    file = layout.l2_genesis_file if devnet.config.kind.bridged else layout.genesis_file
    write_json(file, genesis_to_json(genesis))
    for name in names:
        await asyncio.to_thread(devnet.supervisor.start, name)
    devnet.save()
    await asyncio.to_thread(devnet.supervisor.wait_live, names, world.say)
