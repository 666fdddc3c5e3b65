"""A corked connection: everything that was said arrives, in order, in as few writes as turns of the loop."""

import asyncio
from collections.abc import Callable

import pytest

from chainkit.corked import MOST, Corked


class Wire(asyncio.Transport):
    """Notes what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[bytes | str] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said.append(bytes(data))

    def close(self) -> None:
        self.closing = True
        self.said.append("closed")

    def abort(self) -> None:
        self.closing = True
        self.said.append("aborted")

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 1000


def told(story: Callable[[Corked], None]) -> tuple[list[bytes | str], list[bytes | str]]:
    """What had reached the wire when the story ended, and what one turn of the loop later."""

    async def run() -> tuple[list[bytes | str], list[bytes | str]]:
        wire = Wire()
        story(Corked(wire, asyncio.get_running_loop()))
        at_once = list(wire.said)
        await asyncio.sleep(0)
        return at_once, wire.said

    return asyncio.run(run())


def test_what_is_said_in_one_turn_goes_out_as_one_write() -> None:
    def story(wire: Corked) -> None:
        wire.write(b"head ")
        wire.writelines([b"bo", b"dy"])

    at_once, later = told(story)
    assert (at_once, later) == ([], [b"head body"])


def test_the_next_turn_writes_anew() -> None:
    async def run() -> list[bytes | str]:
        wire = Wire()
        corked = Corked(wire, asyncio.get_running_loop())
        for word in (b"one", b"two"):
            corked.write(word)
            await asyncio.sleep(0)
        return wire.said

    assert asyncio.run(run()) == [b"one", b"two"]


def test_what_is_large_does_not_wait() -> None:
    large = bytes(MOST)

    def story(wire: Corked) -> None:
        for data in (b"a", large, b"z"):
            wire.write(data)

    at_once, later = told(story)
    assert at_once == [b"a" + large]
    assert later == [b"a" + large, b"z"]


@pytest.mark.parametrize(
    ("end", "said"),
    [(Corked.close, [b"last words", "closed"]), (Corked.abort, ["aborted"])],
    ids=["closing says what was left to say", "aborting does not"],
)
def test_ends(end: Callable[[Corked], None], said: list[bytes | str]) -> None:
    def story(wire: Corked) -> None:
        wire.write(b"last words")
        end(wire)

    assert told(story) == (said, said)


def test_closing_twice_says_nothing_more() -> None:
    def story(wire: Corked) -> None:
        wire.close()
        wire.write(b"too late")
        wire.close()

    at_once, _ = told(story)
    assert at_once == ["closed"]


def test_what_waits_counts_as_unread() -> None:
    sizes: list[int] = []

    def story(wire: Corked) -> None:
        wire.write(b"12345")
        sizes.append(wire.get_write_buffer_size())

    told(story)
    assert sizes == [1005]
