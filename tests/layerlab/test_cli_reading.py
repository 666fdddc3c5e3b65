"""A verb that follows L1 ends when L1 keeps telling what cannot be verified, and not before; its screen stays clean."""

import asyncio
import logging

import pytest

from layerlab.cli.errors import CommandError
from layerlab.cli.reading import PATIENCE, verified

LOG = logging.getLogger("layerlab.follower")


async def refusing(times: int, then: float) -> str:
    for _ in range(times):
        LOG.warning("refused blocks from %s", "http://liar")
        await asyncio.sleep(0)
    await asyncio.sleep(then)
    return "read"


def test_results_and_errors_of_the_work_come_through() -> None:
    assert asyncio.run(verified(refusing(PATIENCE - 1, 0))) == "read"

    async def fails() -> None:
        raise CommandError("no", "no")

    with pytest.raises(CommandError, match="no"):
        asyncio.run(verified(fails()))


def test_enough_refusals_end_it_with_the_last_reason() -> None:
    with pytest.raises(CommandError, match="refused blocks from http://liar") as refused:
        asyncio.run(verified(refusing(PATIENCE, 3600)))
    assert refused.value.code == "unverifiable"


def test_the_work_is_cancelled_and_the_log_is_as_before() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await refusing(PATIENCE, 3600)
        finally:
            ended.append("cancelled")

    before = (LOG.propagate, list(LOG.handlers))
    with pytest.raises(CommandError):
        asyncio.run(verified(work()))
    assert ended == ["cancelled"]
    assert (LOG.propagate, list(LOG.handlers)) == before
