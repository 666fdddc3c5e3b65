"""When the next L2 block may begin.

Responsible for the pause between blocks: short while little is offered, so that a receipt comes at once; longer under
load, so that a block is large. (Transactions of one block share nodes of the state tree, the header, the COMMIT and
the flush: in a block of 1,200 one costs a tenth less than in one of 500.) Must not know what is in a block.
"""

from collections.abc import Callable
from typing import Final

from chainkit.clock import Clock, wait_virtual

BLOCK_MS: Final = 10
"""A block is made when there is something for it: so long a receipt waits at most while little is offered, and so many
bytes a second a trickle of transfers costs in begin-blocks."""
MOST_MS: Final = 50
"""So long at most a block waits for more, under load."""
TRANSACTIONS_A_MS: Final = 2
"""A millisecond for so many transactions in the block before: it begins to count at 2,000 a second."""


def pauses(transactions: int, block_ms: int) -> int:
    """How many times ``block_ms`` pass after a block of so many transactions before the next."""
    return max(1, min(transactions // TRANSACTIONS_A_MS, MOST_MS) // block_ms)


async def pause(clock: Clock, block_ms: int, transactions: int, is_whole: Callable[[], bool]) -> None:
    """Wait ``block_ms`` of the chain's time after a block of so many ``transactions``, or several times as long, until
    a whole block waits."""
    for _ in range(pauses(transactions, block_ms)):
        await wait_virtual(clock, block_ms / 1000)
        if is_whole():
            return
