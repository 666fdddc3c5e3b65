"""Stake grinding: who leads does not depend on what a leader, or a staker, can vary for nothing."""

from ledger import ALICE, BOB, COIN, VALIDATORS, call, make_genesis, transfer

from chainkit.block import Validator, ValidatorSet, era_seed
from chainkit.chain import Chain
from chainkit.keys import dev_keypair
from l1node.staking import StakingParams

STAKE = 100 * COIN
SLOTS = range(1, 33)
VARIANTS = 1_000


def chain() -> Chain:
    stakes = [(key, STAKE) for key in VALIDATORS]
    return Chain(
        make_genesis(stakes=stakes, contracts=[("staking", "l1node.staking:Staking", StakingParams())])
    )


def test_stake_grinding() -> None:
    """A leader tries 1,000 variants of its block: the draw of every slot whose set is fixed stays what it was."""
    net = chain()
    parent, adversary = net.genesis_block, VALIDATORS[0].address
    fixed = range(1, 2 * net.genesis.era_slots)
    leaders = [net.leader(parent.tree, slot) for slot in fixed]
    roots = set()
    for variant in range(VARIANTS):
        txs = [transfer(ALICE, 0, BOB.address, 1 + variant)]
        if variant % 3 == 0:
            txs.append(call(BOB, 0, "staking", "stake", value=COIN + variant))
        block, _ = net.build(
            parent, 1 + variant % 2, adversary, txs[variant % 2 :] if variant % 5 else txs[::-1]
        )
        roots.add(block.hash)
        assert [net.leader(block.tree, slot) for slot in fixed] == leaders
    assert len(roots) > VARIANTS // 3


def test_a_gwei_more_or_less_draws_nothing_anew() -> None:
    """The seeds of all eras are known: whoever adds a little to its stake must not draw the whole era again."""
    seed = era_seed(bytes(32), 7)
    keys = sorted(dev_keypair(f"validator-{i}").address for i in range(4))

    def led(extra: int) -> list[bytes | None]:
        members = [Validator(key, STAKE + (extra if key == keys[0] else 0)) for key in keys]
        return [ValidatorSet(members).leader(seed, slot) for slot in SLOTS]

    honest = led(0).count(keys[0])
    best = max(led(extra).count(keys[0]) for extra in range(VARIANTS))
    assert best == honest


def test_the_draw_is_by_stake_and_reaches_everybody() -> None:
    """Control: the same draw still gives each its share (25 % and 75 % of 4,000 slots, within 3 sigma)."""
    members = [Validator(VALIDATORS[0].address, STAKE), Validator(VALIDATORS[1].address, 3 * STAKE)]
    seed = era_seed(b"\x01" * 32, 0)
    led = [ValidatorSet(members).leader(seed, slot) for slot in range(4_000)]
    assert abs(led.count(VALIDATORS[0].address) - 1_000) < 3 * 28
    one = ValidatorSet([Validator(VALIDATORS[0].address, 1)])
    assert {one.leader(seed, slot) for slot in range(50)} == {VALIDATORS[0].address}
