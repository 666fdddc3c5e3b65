"""A rule changes: how long until it is in force, and can a user who objects leave first?"""

import asyncio
from collections.abc import Mapping, Sequence

from msgspec import structs

from chainkit.genesis import Genesis, genesis_to_json
from chainkit.transaction import Transfer
from layerlab.config import COIN, DevnetConfig
from layerlab.lab.experiment import Outcome, Seen
from layerlab.lab.experiments.common import usual
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
        "optimistic": "the administrator alone can do it, exit_window blocks after saying so; a user leaves first",
    }
    control: Mapping[str, str] = {
        "sovereign": "one validator in four runs the new rule",
        "optimistic": "no administrator",
    }

    def config(self, model: str, control: bool) -> DevnetConfig:
        if model == "sovereign":
            return usual(model, validators=VALIDATORS)
        return usual(model, validators=1) if control else with_admin(model)

    async def run(self, world: World, control: bool) -> Seen:
        if world.devnet.config.model == "sovereign":
            return await _by_validators(world, control)
        return await _by_administrator(world)


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
    contracts = [contract["name"] for contract in await world.l1.contracts()]
    names = world.devnet.config.validator_names
    agreed = names[-1:] if control else names[:AGREED]
    old = await world.height(world.l1s[names[-1]])
    begin = world.now()
    await _restart_with(world, agreed, await _next_chain(world))
    changed = World(world.devnet, world.devnet.genesis(), world.seed, world.say) if not control else world
    try:
        goal = await world.height(world.l1) + BLOCKS if control else 1

        async def goes_on() -> bool:
            return await changed.height(changed.l1) >= goal

        await world.until("the chain goes on", goes_on)
        after = await _cost(changed)
        seconds = round(world.now() - begin, 1)
        kept = await changed.balance(changed.l1, USER, "finalized")
    finally:
        if changed is not world:
            await changed.close()
    last = names[-1]
    further = await world.height(world.l1s[last]) - (0 if control else old)
    in_force, exits = after > before, sum(name in ("bridge", "gateway") for name in contracts)
    measured = {
        "gas_before": before,
        "gas_after": after,
        "validators_changed": f"{len(agreed)}/{VALIDATORS}",
        "ways_out": exits,
        "balance_kept": kept,
        "blocks_of_the_other_chain": further,
        "who": f"{AGREED} of {VALIDATORS} validators",
    }
    told = f"a transfer cost {before} gas and costs {after}; {last} on the other side made {further} blocks since"
    outcome = Outcome(0 if in_force else 100, seconds if in_force else None, "nobody can be")
    return Seen(in_force and not exits, told, outcome, measured)


async def _cost(world: World) -> int:
    """What a transfer costs on the chain, in gas."""
    info = await world.send(world.l1, "alice", Transfer(world.key("bob").address, COIN))
    require(bool(info.success), f"the transfer failed: {info.message}")
    return int(info.answer["receipt"]["gas_used"])


async def _next_chain(world: World) -> Genesis:
    """The chain as it stands, begun again with the new rule: plain balances, without what applications hold."""
    old = world.genesis
    balances = [(await world.l1.account(account.address, "finalized")).balance for account in old.accounts]
    accounts = [structs.replace(a, balance=b) for a, b in zip(old.accounts, balances, strict=True)]
    return structs.replace(
        old,
        chain_id=old.chain_id + NEW_CHAIN,
        time=int(world.now() * 1000),
        accounts=accounts,
        fees=structs.replace(old.fees, gas_per_byte=FACTOR * old.fees.gas_per_byte),
    )


async def _restart_with(world: World, names: Sequence[str], genesis: Genesis) -> None:
    """These validators stop, agree, and begin with that genesis; nobody asks the others."""
    world.say(f"{', '.join(names)} restart with another rule")
    devnet = world.devnet
    for name in names:
        await asyncio.to_thread(devnet.kill, name)
        await asyncio.to_thread(devnet.delete_data, name)
    write_json(devnet.layout.genesis_file, genesis_to_json(genesis))
    for name in names:
        await asyncio.to_thread(devnet.supervisor.start, name)
    devnet.save()
    await asyncio.to_thread(devnet.supervisor.wait_live, names, world.say)
