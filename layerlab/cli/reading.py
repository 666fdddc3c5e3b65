"""Following L1 from a verb: block by block, and no longer than it makes sense.

Responsible for ending a verb whose L1 nodes tell something that cannot be verified: the follower itself never gives
up. Must not know how blocks are checked.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from layerlab.cli.errors import CommandError

T = TypeVar("T")
PATIENCE: Final = 12
"""Refusals in a row, of all nodes asked in turn, before a verb gives up."""
_LOGGER: Final = "layerlab.follower"


class _Refusals(logging.Handler):
    """Keeps the follower's complaints off the screen, and counts them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        self.last = ""
        self.enough = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        self.last = record.getMessage()
        if self.count >= PATIENCE:
            self.enough.set()


async def verified(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which follows L1. Raises `CommandError` once L1 nodes keep telling what is not so."""
    refusals, logger = _Refusals(), logging.getLogger(_LOGGER)
    before = logger.propagate
    logger.addHandler(refusals)
    logger.propagate = False
    task = asyncio.ensure_future(work)
    enough = asyncio.ensure_future(refusals.enough.wait())
    try:
        await asyncio.wait({task, enough}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise CommandError(
            f"L1 cannot be verified: {refusals.last}; the nodes lie, run another version of layerlab, or are of "
            "another genesis (--l1-genesis)",
            "unverifiable",
        )
    finally:
        for ending in (task, enough):
            ending.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await ending
        logger.removeHandler(refusals)
        logger.propagate = before
