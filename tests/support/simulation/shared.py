"""What one process may share between simulated nodes, since it is a pure function of what they were given.

Responsible for running each block, decoding each body and checking each signature once instead of once a node (and
one that a key of this process has just made not at all: it is good), and for stand-in signatures. Must not change any
answer: a run with all of it off has the same trace (a test says so), except for the stand-in, which is another world.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import chainkit.block
import chainkit.clock
import chainkit.follower
import chainkit.keys
import chainkit.transaction
import l1node.p2p_api
import rollup.receipt
from chainkit.block import Block, Header
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Address
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair

_VERIFIERS: tuple[Any, ...] = (chainkit.block, chainkit.keys, chainkit.transaction, rollup.receipt)
_KEPT = 20_000
_BLOCKS = 256
_BODIES = 256
_Task = tuple[bytes, Header, tuple[bytes, ...]]
"""A parent's hash, and the block to be executed on it."""


class SharedChain(Chain):
    """A `Chain` that remembers what it has executed, for all nodes of the simulation."""

    def __init__(self, genesis: Genesis) -> None:
        super().__init__(genesis)
        self._executed: OrderedDict[_Task, ExecutedBlock] = OrderedDict()

    def execute(self, parent: ExecutedBlock, block: Block, *hints: Any, **more: Any) -> ExecutedBlock:
        key = (parent.hash, block.header, tuple(block.transactions))
        found = self._executed.get(key)
        if found is None:
            found = super().execute(parent, block, *hints, **more)
            self._keep(key, found)
        return found

    def build(self, parent: ExecutedBlock, slot: int, proposer: Address, candidates: Iterable[Any]) -> Any:
        executed, skipped = super().build(parent, slot, proposer, candidates)
        self._keep((parent.hash, executed.header, tuple(executed.block.transactions)), executed)
        return executed, skipped

    def _keep(self, key: _Task, executed: ExecutedBlock) -> None:
        self._executed[key] = executed
        if len(self._executed) > _BLOCKS:
            self._executed.popitem(last=False)


@contextmanager
def patched(*, signatures: str = "shared") -> Iterator[None]:
    """Run with ``signatures``: "real" (each node checks), "shared" (what was signed or checked in this process is not
    checked again), or "stand-in". But for "real", bytes that several nodes get are decoded once as well, and a header
    is hashed once.

    Sleeping is not cut into slices: nobody changes the rate of time here.
    """
    with ExitStack() as stack:
        replace = stack.enter_context
        replace(_replaced(chainkit.clock, "SLICE_SECONDS", 1e9))
        if signatures != "real":
            known = _Known()
            sign, verify = KeyPair.sign, chainkit.keys.verify
            if signatures == "stand-in":
                sign, verify = _stand_in_sign, _stand_in_verify
            replace(_replaced(KeyPair, "sign", known.signing(sign)))
            check = known.checking(verify)
            for module in _VERIFIERS:
                replace(_replaced(module, "verify", check))
            replace(_replaced(Header, "hash", lru_cache(_BLOCKS)(Header.hash)))
            for module, name in ((l1node.p2p_api, "decode_body"), (chainkit.follower, "decode")):
                replace(_replaced(module, name, lru_cache(_BODIES)(getattr(module, name))))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class _Known:
    """Signatures of which it is known whether they are good: those that a key of this process made, and those that
    were checked."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes, bytes], bool] = {}

    def _keep(self, key: tuple[bytes, bytes, bytes], good: bool) -> None:
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[key] = good

    def signing(self, sign: Callable[[KeyPair, bytes], bytes]) -> Callable[[KeyPair, bytes], bytes]:
        def signing(key: KeyPair, message: bytes) -> bytes:
            signature = sign(key, message)
            self._keep((key.address, message, signature), True)
            return signature

        return signing

    def checking(self, verify: Callable[[bytes, bytes, bytes], bool]) -> Callable[..., bool]:
        get = self._known.get

        def check(public_key: bytes, message: bytes, signature: bytes, _known: bool = False) -> bool:
            key = (public_key, message, signature)
            found = get(key)
            if found is None:
                found = verify(public_key, message, signature)
                self._keep(key, found)
            return found

        return check


def _stand_in_sign(key: KeyPair, message: bytes) -> bytes:
    """Anyone can make it: fit for measuring what real signatures cost, and for nothing else."""
    return _stand_in(key.address, message)


def _stand_in_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return signature == _stand_in(public_key, message)


def _stand_in(public_key: bytes, message: bytes) -> bytes:
    return hashlib.sha512(public_key + message).digest()
