"""The state root of a block of 1,000 transfers, with 10^3 to 10^6 accounts in the state.

In process: execution's writes are there already (`State.changes`), what is timed is the tree's update, which gives
the root. Senders and recipients are drawn from all accounts (so with 10^3 of them a block touches fewer than 1,000,
and with more about 2,000). CPU time, so that whoever else is on the machine does not count; median of several blocks.
Python looks for garbage in cycles as seldom as in a service (`chainkit.service.collect_rarely`).
"""

import gc
import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from statistics import median

from benchmarks.lab import Figures, Lab, milliseconds
from benchmarks.targets import SIZES
from chainkit.codec import encode
from chainkit.merkle import Tree
from chainkit.service import collect_rarely
from chainkit.state import Account, State, account_key

TRANSFERS = 1_000
BLOCKS = 7
BALANCE = 1_000_000_000


def address(index: int) -> bytes:
    """Of an account that only has to be there."""
    return hashlib.sha256(b"filler %d" % index).digest()


@lru_cache(maxsize=1)
def tree_of(size: int) -> Tree:
    """A state of so many accounts; the last one made is kept."""
    value = encode(Account(BALANCE, 0))
    return Tree().update({account_key(address(i)): value for i in range(size)})


def forget() -> None:
    """Free the memory."""
    tree_of.cache_clear()


def run(lab: Lab) -> Figures:
    figures: Figures = {}
    for size in SIZES:
        lab.say(f"  {size:,} accounts")
        shown = min(size, 20_000) if lab.quick else size
        tree = tree_of(shown)
        with _as_in_a_service():
            figures[f"n{size}"] = milliseconds(_block(tree, shown))
    return figures


@contextmanager
def _as_in_a_service() -> Iterator[None]:
    thresholds = gc.get_threshold()
    collect_rarely()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _block(tree: Tree, size: int) -> float:
    """CPU seconds for a block's root, the median."""
    choice, times = random.Random(size), []
    for _ in range(BLOCKS):
        state = State(tree)
        for _ in range(TRANSFERS):
            for who in (address(choice.randrange(size)), address(choice.randrange(size))):
                account = state.account(who)
                state.set_account(who, Account(account.balance + 1, account.nonce + 1))
        begin = time.process_time()
        tree = state.commit()
        times.append(time.process_time() - begin)
    return median(times)
