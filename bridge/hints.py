"""Writes on their way, and what nodes tell of calls that are not final here.

Responsible for sending what was read, for remembering it until it is final, and for believing of a node's answer
only what is signed. Must not know of HTTP, nor what the calls do.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bridge.actions import Place, Write
from bridge.nodes import Nodes
from chainkit.backend import has_reached
from chainkit.client import ReceiptInfo
from chainkit.codec import MAX_AMOUNT, Address, Bytes32
from chainkit.problems import Problem
from chainkit.submission import read_json
from chainkit.transaction import Call, SignedTransaction

MAX_TRACKED: Final = 10_000


@dataclass(frozen=True)
class Tracked:
    """A write that went through this service and is not final yet."""

    call_contract: str
    method: str
    sender: Address
    amount: int
    to: Address


@dataclass(frozen=True)
class Told:
    """What a node says of a call that is not final here. The call is signed, so ``about`` is true; ``height``
    (None: in no block yet) and whether it ``failed`` there are the node's word."""

    tx_id: Bytes32
    about: Tracked
    height: int | None
    failed: bool
    code: str
    message: str


class Tracking:
    """The last `MAX_TRACKED` writes that went through here and are not final."""

    def __init__(self) -> None:
        self._tracked: OrderedDict[Bytes32, Tracked] = OrderedDict()

    def add(self, tx_id: Bytes32, tracked: Tracked) -> None:
        """Remember a write until it is final (or many others came after it)."""
        self._tracked[tx_id] = tracked
        while len(self._tracked) > MAX_TRACKED:
            self._tracked.popitem(last=False)

    def get(self, tx_id: Bytes32) -> Tracked | None:
        return self._tracked.get(tx_id)

    def forget(self, tx_id: Bytes32) -> None:
        self._tracked.pop(tx_id, None)

    def find(self, wanted: Callable[[Tracked], bool]) -> Iterator[tuple[Bytes32, Tracked]]:
        """Those wanted, oldest first."""
        return ((tx_id, found) for tx_id, found in self._tracked.items() if wanted(found))


async def send(nodes: Nodes, write: Write) -> Mapping[str, Any]:
    """Send a write that was read; returns a node's answer. Raises `Problem`."""
    if write.signed is not None:
        return await nodes.submit(write.signed)
    assert write.body is not None
    return await nodes.submit_dev(write.sender, write.body)


def read_told(place: Place, info: ReceiptInfo | None, contract: str, method: str) -> Told | None:
    """A node's answer, if it holds the signed transaction asked for and that makes this call."""
    if info is None:
        return None
    try:
        tx = read_json(place.genesis, place.rules, json.dumps(info.answer.get("transaction")).encode())
    except (Problem, ValueError, TypeError, RecursionError):
        return None
    if not isinstance(tx, SignedTransaction) or tx.id != info.hash:
        return None
    action = tx.body.action
    if not isinstance(action, Call) or (action.contract, action.method) != (contract, method):
        return None
    height = info.height if type(info.height) is int and 0 <= info.height <= MAX_AMOUNT else None
    reached = height is not None and has_reached(str(info.status), "head")
    failed = reached and info.success is False
    about = Tracked(contract, method, tx.body.sender, action.value, action.args[-32:])
    return Told(
        tx.id, about, height if reached else None, failed, str(info.code)[:100], str(info.message)[:500]
    )


def tracked_of(write: Write) -> Tracked:
    """What to remember of a deposit or withdrawal that was just sent."""
    call = write.call
    to = call.args[-32:]  # both calls end with the recipient's 32 bytes
    return Tracked(call.contract, call.method, write.sender, call.value, to)
