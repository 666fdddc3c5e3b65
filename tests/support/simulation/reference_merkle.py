"""Roots as docs/PROTOCOL.md says them, for the reference model: recursive and slow.

Responsible for the state root, the list root and tagged hashes of plain bytes. Shares no code with anything.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256


def tagged(tag: str, data: bytes) -> bytes:
    """``T(tag, data)``."""
    return sha256(b"layerlab/v1/" + tag.encode() + b"\0" + data).digest()


def list_root(items: Sequence[bytes]) -> bytes:
    """RFC 6962's shape over the items, then their count."""

    def top(part: Sequence[bytes]) -> bytes:
        if len(part) == 1:
            return sha256(b"\x10" + part[0]).digest()
        half = 1
        while 2 * half < len(part):
            half *= 2
        return sha256(b"\x11" + top(part[:half]) + top(part[half:])).digest()

    return sha256(b"\x12" + len(items).to_bytes(8, "big") + (top(items) if items else bytes(32))).digest()


@lru_cache(maxsize=100_000)
def _leaf(key: bytes, value: bytes) -> tuple[str, bytes]:
    place = sha256(b"\x02" + key).digest()
    bits = f"{int.from_bytes(place, 'big'):0256b}"
    return bits, sha256(b"\x00" + place + sha256(b"\x03" + value).digest()).digest()


def state_root(state: Mapping[bytes, bytes]) -> bytes:
    """The root of a whole state, an empty value being a leaf like any other."""
    leaves = sorted(_leaf(key, value) for key, value in state.items())

    def top(part: list[tuple[str, bytes]]) -> bytes:
        if len(part) == 1:
            return part[0][1]
        first, last = part[0][0], part[-1][0]
        depth = next(i for i in range(256) if first[i] != last[i])
        zeros = [leaf for leaf in part if leaf[0][depth] == "0"]
        ones = part[len(zeros) :]
        return sha256(b"\x01" + bytes([depth]) + top(zeros) + top(ones)).digest()

    return top(leaves) if leaves else tagged("empty-state", b"")
