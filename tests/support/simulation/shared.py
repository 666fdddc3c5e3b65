"""What one process may share between simulated nodes, since it is a pure function of what they were given.

Responsible for running each block and checking each signature once instead of once a node, and for stand-in
signatures. Must not change any answer: a run with all of it off has the same trace (a test says so), except
for the stand-in, which is another world.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import chainkit.block
import chainkit.clock
import chainkit.keys
import chainkit.transaction
import rollup.receipt
from chainkit.block import Block, ValidatorSet
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Address
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair
from chainkit.merkle import Tree

_VERIFIERS: tuple[Any, ...] = (chainkit.block, chainkit.keys, chainkit.transaction, rollup.receipt)
_KEPT = 20_000
_BLOCKS = 256


class SharedChain(Chain):
    """A `Chain` that remembers what it has executed, for all nodes of the simulation."""

    def __init__(self, genesis: Genesis) -> None:
        super().__init__(genesis)
        self._executed: OrderedDict[tuple[bytes, bytes, tuple[bytes, ...]], ExecutedBlock] = OrderedDict()
        self._sets: dict[tuple[bytes, int], ValidatorSet] = {}

    def execute(self, parent: ExecutedBlock, block: Block, *hints: Any, **more: Any) -> ExecutedBlock:
        key = (parent.hash, block.header.hash(), tuple(block.transactions))
        found = self._executed.get(key)
        if found is None:
            found = super().execute(parent, block, *hints, **more)
            self._keep(key, found)
        return found

    def build(self, parent: ExecutedBlock, slot: int, proposer: Address, candidates: Iterable[Any]) -> Any:
        executed, skipped = super().build(parent, slot, proposer, candidates)
        self._keep((parent.hash, executed.hash, tuple(executed.block.transactions)), executed)
        return executed, skipped

    def _keep(self, key: tuple[bytes, bytes, tuple[bytes, ...]], executed: ExecutedBlock) -> None:
        self._executed[key] = executed
        if len(self._executed) > _BLOCKS:
            self._executed.popitem(last=False)

    def validators(self, parent: Tree, slot: int) -> ValidatorSet:
        key = (parent.root, slot)
        found = self._sets.get(key)
        if found is None:
            if len(self._sets) > _BLOCKS:
                self._sets.clear()
            found = self._sets[key] = super().validators(parent, slot)
        return found


@contextmanager
def patched(*, signatures: str = "shared") -> Iterator[None]:
    """Run with ``signatures``: "real" (each node checks), "shared" (each is checked once), or "stand-in".

    Sleeping is not cut into slices: nobody changes the rate of time here.
    """
    kept = [(module, module.verify) for module in _VERIFIERS]
    sign, slice_seconds = KeyPair.sign, chainkit.clock.SLICE_SECONDS
    chainkit.clock.SLICE_SECONDS = 1e9  # type: ignore[misc]
    if signatures != "real":
        check = _remember(chainkit.keys.verify if signatures == "shared" else _stand_in_verify)
        for module in _VERIFIERS:
            module.verify = check
    if signatures == "stand-in":
        KeyPair.sign = _stand_in_sign  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        chainkit.clock.SLICE_SECONDS = slice_seconds  # type: ignore[misc]
        KeyPair.sign = sign  # type: ignore[method-assign]
        for module, verify in kept:
            module.verify = verify


def _remember(verify: Callable[[bytes, bytes, bytes], bool]) -> Callable[[bytes, bytes, bytes], bool]:
    known: dict[tuple[bytes, bytes, bytes], bool] = {}

    def check(public_key: bytes, message: bytes, signature: bytes) -> bool:
        key = (public_key, message, signature)
        found = known.get(key)
        if found is None:
            if len(known) >= _KEPT:
                known.clear()
            found = known[key] = verify(public_key, message, signature)
        return found

    return check


def _stand_in_sign(key: KeyPair, message: bytes) -> bytes:
    """Anyone can make it: fit for measuring what real signatures cost, and for nothing else."""
    return _stand_in(key.address, message)


def _stand_in_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return signature == _stand_in(public_key, message)


def _stand_in(public_key: bytes, message: bytes) -> bytes:
    return hashlib.sha512(public_key + message).digest()
