"""The crash harness notices what it is there for: each check is shown the offence that it must see."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from crashes.checks import Watch, honoured
from crashes.rounds import KINDS, schedule
from crashes.streams import Stream
from crashes.tap import Broken, Tap

from chainkit.block import Vote
from chainkit.keys import dev_keypair
from l1node.messages import encode_message, join
from rollup.receipt import BlockPromise, BlockReceipts

VOTER = dev_keypair("validator-0")


def vote(slot: int, height: int, block: int) -> Vote:
    return Vote.sign(VOTER, 900, slot, height, bytes([block]) * 32)


@pytest.mark.parametrize(
    ("votes", "problem"),
    [
        ([vote(5, 3, 1), vote(5, 3, 1), vote(7, 3, 2), vote(9, 4, 3)], ""),
        ([vote(5, 3, 1), vote(5, 3, 2)], "twice in slot 5"),
        ([vote(5, 3, 1), vote(6, 2, 2)], "lower in a later slot"),
        ([vote(9, 3, 1), vote(6, 4, 2)], "lower in a later slot"),
    ],
)
def test_the_tap_hears_two_votes_and_lower_ones(votes: list[Vote], problem: str) -> None:
    tap = Tap()
    tap.hear(join([encode_message(each) for each in votes]))
    if not problem:
        tap.check()
        return
    with pytest.raises(Broken, match=problem):
        tap.check()


@pytest.mark.parametrize("ids", [[1, 3], [1, 1], [2], [1, 2, 1]])
def test_a_stream_that_skips_or_repeats_is_noticed(ids: list[int]) -> None:
    stream = Stream("x", "http://x")
    for number in ids:
        stream._take({"id": str(number), "data": f'{{"seq": {number}}}'})
    with pytest.raises(Broken):
        stream.check()


def answering(answers: dict[str, Any]) -> Any:
    async def get(name: str, _: str, **__: Any) -> Any:
        if name not in answers:
            raise httpx.ConnectError("dead")
        return answers[name]

    return SimpleNamespace(get=get, config=SimpleNamespace(validator_names=["validator-0", "validator-1"]))


def final(height: int, block: str) -> dict[str, Any]:
    return {"heads": {"finalized": {"height": height, "hash": block}}}


def test_finality_that_goes_back_or_forks_is_noticed() -> None:
    answers: dict[str, Any] = {"validator-0": final(5, "a")}
    watch = Watch(answering(answers))
    asyncio.run(watch.look("validator-0"))
    asyncio.run(watch.look("validator-1"))  # dead: nothing to see
    answers["validator-0"] = final(4, "z")
    with pytest.raises(Broken, match="went back from 5 to 4"):
        asyncio.run(watch.look("validator-0"))
    answers["validator-1"] = final(5, "b")
    with pytest.raises(Broken, match="two final blocks"):
        asyncio.run(watch.look("validator-1"))
    answers["bridge"] = {"invariant_holds": False}
    with pytest.raises(Broken, match="P1"):
        asyncio.run(watch.look("bridge"))


def test_a_receipt_that_is_not_honoured_is_noticed() -> None:
    ids = [bytes([i]) * 32 for i in range(3)]
    receipts = BlockReceipts(BlockPromise.sign(dev_keypair("sequencer"), 901, 7, ids), ids)
    promises = [receipts.receipt(position) for position in range(3)]
    order = ["0x" + tx_id.hex() for tx_id in ids]
    page = {"blocks": [{"height": 7, "transactions": order}]}
    assert asyncio.run(honoured(answering({"sequencer": page}), "sequencer", promises)) == 3
    for wrong in (order[:2], [order[1], order[0], order[2]], []):
        page["blocks"][0]["transactions"] = wrong
        with pytest.raises(Broken, match="a receipt is broken"):
            asyncio.run(honoured(answering({"sequencer": page}), "sequencer", promises))
    page["blocks"] = []
    with pytest.raises(Broken, match="has no block 7"):
        asyncio.run(honoured(answering({"sequencer": page}), "sequencer", promises))


def test_the_schedule_kills_each_kind_often_enough_and_is_the_seeds() -> None:
    plan = schedule(3, 50)
    assert plan == schedule(3, 50) != schedule(4, 50)
    for kind in KINDS:
        assert sum(any(victim.startswith(kind) for victim in turn.victims) for turn in plan) >= 12
    assert sum(len(turn.victims) > 1 for turn in plan) >= 5


def test_what_validators_say_is_decoded_and_nothing_else() -> None:
    tap = Tap()
    tap.hear(b"\xc1")
    with pytest.raises(Broken, match="no gossip"):
        tap.check()
    forged = Vote(900, 1, 1, bytes(32), VOTER.address, bytes(64))
    tap = Tap()
    tap.hear(join([encode_message(forged)]))
    with pytest.raises(Broken, match="bad signature"):
        tap.check()
