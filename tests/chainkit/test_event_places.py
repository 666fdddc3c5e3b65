"""Places at the event log: in turn, when there are more followers than places; nobody loses an event by it."""

import asyncio
import json
import tracemalloc
from pathlib import Path

import pytest
from fake_chain import MemoryBackend

from chainkit.events import MAX_FOLLOWERS, DisplacedError, TooManyFollowersError
from chainkit.ops_api import _messages


def log_with(path: Path, places: int) -> MemoryBackend:
    backend = MemoryBackend(path)
    for number in (1, 2):
        backend.log.append("Happened", {"n": number}, height=1, source="test")
    backend.log._max_followers = places
    return backend


def test_places_go_round_and_the_heaviest_address_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of streams that nobody reads must not keep everyone else out for ever."""

    async def test() -> None:
        backend = log_with(tmp_path, 2)
        log = backend.log
        waiting = [asyncio.ensure_future(anext(log.follow(3, "10.0.0.1"))) for _ in range(2)]
        await asyncio.sleep(0)
        assert log.is_full("10.0.0.2")
        with pytest.raises(TooManyFollowersError):  # their turn is not over
            await anext(log.follow(1, "10.0.0.2"))
        monkeypatch.setattr("chainkit.events.TURN_SECONDS", 0.0)
        assert not log.is_full("10.0.0.2")
        mine = log.follow(1, "10.0.0.2")
        assert (await anext(mine)).seq == 1
        with pytest.raises(DisplacedError):  # who had his place for longest
            await waiting[0]
        other = log.follow(1, "10.0.0.1")
        assert (await anext(other)).seq == 1
        with pytest.raises(DisplacedError):  # from its own address: mine has fewer
            await waiting[1]
        assert (await anext(mine)).seq == 2
        assert log.followers == 2
        await mine.aclose()
        await other.aclose()
        assert log.followers == 0
        backend.store.close()

    asyncio.run(test())


def test_the_last_message_of_a_displaced_stream_says_where_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chainkit.events.TURN_SECONDS", 0.0)

    async def test() -> None:
        backend = log_with(tmp_path, 1)
        stream = _messages(backend.log, 2, "a")
        assert (await anext(stream)).id == "2"
        rest = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        newcomer = backend.log.follow(1, "b")
        await anext(newcomer)
        last = await rest
        assert last.event == "closing"
        assert json.loads(last.data) == {"code": "displaced", "next": 3}
        await newcomer.aclose()
        backend.store.close()

    asyncio.run(test())


def test_followers_of_the_largest_events_hold_little_of_the_log(tmp_path: Path) -> None:
    """P20, P23: events as large as they come are paid for, and then every place is taken and left unread."""
    backend = MemoryBackend(tmp_path)
    with backend.store.transaction():
        for index in range(150):
            data = {"index": index, "transaction": "0x" + "ab" * 8000}
            backend.log.append("TransactionForced", data, height=1, source="bridge")

    async def test() -> int:
        streams = [backend.log.follow(1, f"10.0.0.{n}") for n in range(MAX_FOLLOWERS)]
        tracemalloc.start()
        try:
            for stream in streams:
                assert (await anext(stream)).seq == 1
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for stream in streams:
            await stream.aclose()
        return peak

    assert asyncio.run(test()) < MAX_FOLLOWERS * 512 * 1024
    backend.store.close()
