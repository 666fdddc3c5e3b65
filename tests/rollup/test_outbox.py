"""The outbox: each duty once at a time, whatever becomes of the call."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chainkit.chain import ExecutedBlock
from chainkit.transaction import Call
from rollup.duties import Duty, Key
from rollup.outbox import LOST_AFTER, MAX_PAUSE, Outbox
from rollup.player import Move

ME, OTHER = b"\x01" * 32, b"\x02" * 32


def duty(name: str, n: int = 0) -> Duty:
    return Duty((name, n), Move(Call("bridge", name, bytes([n]), 0), 1000, name))


def block(height: int, *calls: tuple[bytes, Duty, str]) -> ExecutedBlock:
    txs = [SimpleNamespace(body=SimpleNamespace(sender=who, action=d.move.call)) for who, d, _ in calls]
    receipts = [SimpleNamespace(code=code, message="why") for _, _, code in calls]
    made = SimpleNamespace(header=SimpleNamespace(height=height), transactions=txs, receipts=receipts)
    return cast(ExecutedBlock, made)


class Post:
    """An outbox whose calls are noted."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.refused: list[tuple[Key, str]] = []
        self.lost = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.outbox = Outbox(
            self.send, ME, lambda d, code, _: self.refused.append((d.key, code)), self.was_lost
        )

    async def send(self, call: Call, gas_limit: int) -> None:
        assert gas_limit == 1000
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(call.method)

    def was_lost(self) -> None:
        self.lost += 1

    async def dispatch(self, *duties: Duty, height: int = 1) -> None:
        self.outbox.dispatch(duties, height)
        for _ in range(3):
            await asyncio.sleep(0)


Story = Callable[[Post], Awaitable[Any]]


def run(story: Story) -> Post:
    async def main() -> Post:
        post = Post()
        await story(post)
        await post.outbox.close()
        return post

    return asyncio.run(main())


def test_a_duty_is_sent_once_until_it_is_on_l1() -> None:
    async def story(post: Post) -> None:
        for height in range(1, 5):
            await post.dispatch(duty("a"), duty("b"), height=height)
            post.outbox.on_l1_final(block(height, (OTHER, duty("a"), "")))
        assert post.sent == ["a", "b"]
        post.outbox.on_l1_final(block(5, (ME, duty("a"), ""), (ME, duty("c"), "")))
        assert list(post.outbox.under_way) == [("b", 0)]
        await post.dispatch(duty("a"), height=5)

    assert run(story).sent == ["a", "b", "a"]


def test_what_could_not_be_sent_is_still_to_be_done() -> None:
    async def story(post: Post) -> None:
        post.error = RuntimeError("no L1 node takes it")
        await post.dispatch(duty("a"))
        assert not post.outbox.under_way
        post.error = None
        await post.dispatch(duty("a"))

    assert run(story).sent == ["a"]


def test_what_was_lost_is_sent_again_and_told() -> None:
    async def story(post: Post) -> None:
        await post.dispatch(duty("a"), height=10)
        for height in range(11, 10 + LOST_AFTER):
            post.outbox.on_l1_final(block(height))
            await post.dispatch(duty("a"), height=height)
        assert (post.sent, post.lost) == (["a"], 0)
        post.outbox.on_l1_final(block(10 + LOST_AFTER))
        assert post.lost == 1
        await post.dispatch(duty("a"), height=10 + LOST_AFTER)

    assert run(story).sent == ["a", "a"]


def test_what_l1_keeps_refusing_is_sent_less_and_less_often_but_never_given_up() -> None:
    async def story(post: Post) -> list[int]:
        times = []
        for height in range(1, 80):
            before = len(post.sent)
            await post.dispatch(duty("a"), duty("b"), height=height)
            if "a" in post.sent[before:]:
                times.append(height)
                post.outbox.on_l1_final(block(height + 1, (ME, duty("a"), "refused")))
        gaps = [b - a for a, b in pairwise(times)]
        assert gaps[0] <= 2
        assert max(gaps) <= MAX_PAUSE + 1
        assert gaps == sorted(gaps)
        assert post.sent.count("b") >= 1, "others are not held back"
        return times

    post = run(story)
    assert {code for _, code in post.refused} == {"refused"}
    assert len(post.refused) == post.sent.count("a") < 20


def test_closing_stops_what_is_being_sent() -> None:
    async def story(post: Post) -> None:
        post.gate.clear()
        await post.dispatch(duty("a"))
        await post.outbox.close()
        post.gate.set()
        await asyncio.sleep(0)

    assert run(story).sent == []


@pytest.mark.parametrize("code", ["", "refused"])
def test_only_our_own_calls_count(code: str) -> None:
    async def story(post: Post) -> None:
        await post.dispatch(duty("a"))
        post.outbox.on_l1_final(block(2, (OTHER, duty("a"), code)))
        assert ("a", 0) in post.outbox.under_way

    assert run(story).refused == []
