"""SHA-256 with domain separation: the only hash function of the project.

Responsible for the domains in which bytes are hashed, so that no hashed object can pass for another.
Must not know what the hashed bytes mean.

Two kinds of domain live side by side and cannot meet: Merkle hashes start with one byte below 0x20
(RFC 6962 separates leaves from nodes the same way), tagged hashes start with the ASCII text
``layerlab/v1/``.

What makes it fast: the prefix of a tag is hashed once (`_begun`), and what goes on from there is a copy.
"""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

HASH_SIZE = 32

# First bytes of the Merkle domains. docs/PROTOCOL.md lists them.
STATE_LEAF = b"\x00"
STATE_NODE = b"\x01"
STATE_KEY = b"\x02"
STATE_VALUE = b"\x03"
LIST_LEAF = b"\x10"
LIST_NODE = b"\x11"
LIST_ROOT = b"\x12"


def tagged_hash(tag: str, data: bytes) -> bytes:
    """SHA-256 of ``b"layerlab/v1/" + tag + b"\\0" + data``: 32 bytes.

    ``tag`` is ASCII without NUL, so the prefix of one tag is never the prefix of another.
    """
    hashing = _begun(tag).copy()
    hashing.update(data)
    return hashing.digest()


def tagged_hashes(tag: str, items: Iterable[bytes]) -> list[bytes]:
    """`tagged_hash` of each, for less."""
    return hashes_after(_begun(tag), items)


def hashes_after(prefix: "_Hash", items: Iterable[bytes]) -> list[bytes]:
    """The digest of each item after what ``prefix`` has hashed; that goes on from copies and stays as it is."""
    begin, hashes = prefix.copy, []
    for item in items:
        hashing = begin()
        hashing.update(item)
        hashes.append(hashing.digest())
    return hashes


@lru_cache(maxsize=64)
def _begun(tag: str) -> "_Hash":
    return sha256(b"layerlab/v1/" + tag.encode("ascii") + b"\0")
