"""The outbox: a node's calls that are on their way to L1.

Responsible for sending each duty once at a time and for noticing that it is on L1, was refused or got lost.
Must not know what the calls mean.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from chainkit.chain import ExecutedBlock
from chainkit.codec import Address
from chainkit.transaction import Call
from rollup.duties import Duty, Key

log = logging.getLogger("layerlab.outbox")

LOST_AFTER = 16
"""L1 blocks after which a call that was sent and never seen is sent again: a dispute's clock survives a few."""
MAX_PAUSE = 8
"""L1 blocks for which a call that L1 keeps refusing is held back at most: every refusal costs its fee."""

Send = Callable[[Call, int], Awaitable[object]]
"""Signs a call with a gas limit and gets it to L1; raises if that cannot be done."""


@dataclass
class _Sent:
    duty: Duty
    height: int


@dataclass(frozen=True)
class _Pause:
    times: int
    until: int


class Outbox:
    """``me`` is the account that sends; ``refused(duty, code, message)`` hears of calls that L1 reverted,
    ``lost()`` of those that were taken by a node and never seen again."""

    def __init__(
        self,
        send: Send,
        me: Address,
        refused: Callable[[Duty, str, str], None],
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._send_call = send
        self._me = me
        self._refused = refused
        self._lost = lost
        self._pauses: dict[Key, _Pause] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.under_way: dict[Key, _Sent] = {}

    def dispatch(self, duties: Iterable[Duty], height: int) -> None:
        """Send what is not under way yet. ``height`` is the L1 height that the duties were seen at."""
        for duty in duties:
            pause = self._pauses.get(duty.key)
            if duty.key not in self.under_way and (pause is None or height >= pause.until):
                self.under_way[duty.key] = _Sent(duty, height)
                task = asyncio.create_task(self._send(duty))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _send(self, duty: Duty) -> None:
        log.info("%s", duty.move.why)
        try:
            await self._send_call(duty.move.call, duty.move.gas_limit)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the duty is still to be done
            log.warning("not sent: %s (%s)", duty.move.why, error)
            self.under_way.pop(duty.key, None)

    def on_l1_final(self, executed: ExecutedBlock) -> None:
        """Forget the calls that stand in a final L1 block, and those that got lost."""
        for tx, receipt in zip(executed.transactions, executed.receipts, strict=True):
            if tx.body.sender == self._me:
                self._landed(tx.body.action, executed.header.height, receipt.code, receipt.message)
        height = executed.header.height
        waiting = {k: sent for k, sent in self.under_way.items() if height < sent.height + LOST_AFTER}
        if len(waiting) < len(self.under_way):
            self._lost()
        self.under_way = waiting
        self._pauses = {k: p for k, p in self._pauses.items() if height < p.until + 4 * MAX_PAUSE}

    def _landed(self, action: object, height: int, code: str, message: str) -> None:
        for key, sent in list(self.under_way.items()):
            if sent.duty.move.call == action:
                del self.under_way[key]
                if code:
                    self._pause(key, height)
                    self._refused(sent.duty, code, message)

    def _pause(self, key: Key, height: int) -> None:
        times = self._pauses[key].times + 1 if key in self._pauses else 1
        self._pauses[key] = _Pause(times, height + min(2 ** (times - 1), MAX_PAUSE))

    async def close(self) -> None:
        """Stop sending."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
