"""Who is funded and what is sent: accounts and signed transfers, made once for a seed and kept on disk.

Responsible for making and caching them, on every core. Must not know who takes them. Everything follows from the
seed, so what lies in the cache is what would be made again.
"""

import hashlib
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.machine import process_pool
from chainkit.keys import KeyPair
from chainkit.transaction import Body, SignedTransaction, Transfer

GAS_LIMIT: Final = 30_000
MOST_AMOUNT: Final = 100_000
_FORMAT: Final = 1
"""Goes up when anything below changes what is made: old caches are not read then."""
_CHUNK: Final = 2_500


def cache_directory() -> Path:
    """Outside of the repository; ``LAYERLAB_BENCH_CACHE`` names another."""
    named = os.environ.get("LAYERLAB_BENCH_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else base / "layerlab-bench"


def key(seed: int, index: int) -> KeyPair:
    """The key of an account."""
    return KeyPair(hashlib.sha256(b"layerlab benchmark account %d %d" % (seed, index)).digest())


@dataclass(frozen=True)
class Plan:
    """``count`` transfers on ``chain_id`` among the first ``accounts`` of a seed, each sender in its turn.

    Transaction i is that of sender ``i % accounts`` with nonce ``first_nonce + i // accounts``, to anyone of them.
    """

    chain_id: int
    accounts: int
    count: int
    seed: int = 1
    max_fee: int = 1_000  # gwei per gas
    first_nonce: int = 0


def addresses(seed: int, count: int) -> list[bytes]:
    """The first accounts of a seed."""
    data = _cached(f"accounts-{_FORMAT}-{seed}-{count}", lambda: b"".join(_parts(_address_part, seed, count)))
    return [data[i : i + 32] for i in range(0, len(data), 32)]


def transfers(plan: Plan) -> list[bytes]:
    """The wire bytes of each transfer of the plan, in order."""
    name = hashlib.sha256(repr((_FORMAT, plan)).encode()).hexdigest()[:16]

    def make() -> bytes:
        everyone = b"".join(addresses(plan.seed, plan.accounts))
        parts = _parts(_transfer_part, (plan, everyone), plan.count)
        return msgspec.msgpack.encode([wire for part in parts for wire in msgspec.msgpack.decode(part)])

    return msgspec.msgpack.decode(_cached(f"transfers-{name}", make), type=list[bytes])


def _address_part(work: tuple[int, int, int]) -> bytes:
    seed, start, end = work
    return b"".join(key(seed, index).address for index in range(start, end))


def _transfer_part(work: tuple[tuple[Plan, bytes], int, int]) -> bytes:
    (plan, everyone), start, end = work
    choice = random.Random(f"{plan.seed} {start}")
    wires = []
    for i in range(start, end):
        index = i % plan.accounts
        to = choice.randrange(plan.accounts) * 32
        sender = key(plan.seed, index)
        body = Body(
            plan.chain_id,
            sender.address,
            plan.first_nonce + i // plan.accounts,
            GAS_LIMIT,
            plan.max_fee,
            1,
            Transfer(everyone[to : to + 32], 1 + choice.randrange(MOST_AMOUNT)),
        )
        wires.append(SignedTransaction.sign(body, sender).wire)
    return msgspec.msgpack.encode(wires)


def _parts(function, what, count: int) -> Iterable[bytes]:  # type: ignore[no-untyped-def]
    work = [(what, start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    if len(work) == 1:
        return [function(work[0])]
    with process_pool() as pool:
        return list(pool.map(function, work))


def _cached(name: str, make) -> bytes:  # type: ignore[no-untyped-def]
    path = cache_directory() / name
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    data: bytes = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{name}.{os.getpid()}.new")
    temporary.write_bytes(data)
    temporary.replace(path)
    return data
