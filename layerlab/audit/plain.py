"""Bytes as docs/PROTOCOL.md says them: encoding, hashes, Merkle roots, keys and signatures.

Responsible for reading strictly and for hashing. Must not know what anything means. The curve arithmetic is its own
(RFC 8032 section 5.1), signatures go through OpenSSL, where the nodes use libsodium for both.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Plain = Any
"""What MessagePack decodes to: int, str, bytes, list, bool, None."""
LARGEST = 2**53 - 1
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, RecursionError, msgspec.MsgspecError)
"""What reading data of the wrong shape raises."""

_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()


def plain(data: bytes) -> Plain:
    """MessagePack to plain values. Raises one of `MALFORMED`."""
    return _decoder.decode(data)


def packed(value: Plain) -> bytes:
    """The canonical encoding of plain values."""
    return _encoder.encode(value)


# --- hashes ---


def tagged(tag: str, data: bytes) -> bytes:
    """``T(tag, data)``."""
    return sha256(b"layerlab/v1/" + tag.encode() + b"\0" + data).digest()


def list_root(items: Sequence[bytes]) -> bytes:
    """RFC 6962's shape over the items, then their count."""

    def top(part: Sequence[bytes]) -> bytes:
        if len(part) == 1:
            return sha256(b"\x10" + part[0]).digest()
        half = 1 << (len(part) - 1).bit_length() - 1
        return sha256(b"\x11" + top(part[:half]) + top(part[half:])).digest()

    return sha256(b"\x12" + len(items).to_bytes(8, "big") + (top(items) if items else bytes(32))).digest()


@lru_cache(maxsize=1 << 17)
def _place(key: bytes) -> int:
    return int.from_bytes(sha256(b"\x02" + key).digest(), "big")


@lru_cache(maxsize=1 << 17)
def _leaf(key: bytes, value: bytes) -> bytes:
    return sha256(b"\x00" + _place(key).to_bytes(32, "big") + sha256(b"\x03" + value).digest()).digest()


def state_root(state: Mapping[bytes, bytes]) -> bytes:
    """The crit-bit root of a whole state; an empty value is a leaf like any other."""
    if not state:
        return tagged("empty-state", b"")
    leaves = sorted((_place(key), _leaf(key, value)) for key, value in state.items())
    places = [place for place, _ in leaves]

    def top(start: int, end: int) -> bytes:
        if end - start == 1:
            return leaves[start][1]
        length = (places[start] ^ places[end - 1]).bit_length()
        middle = bisect_left(places, places[end - 1] >> length - 1 << length - 1, start, end)
        return sha256(b"\x01" + bytes([256 - length]) + top(start, middle) + top(middle, end)).digest()

    return top(0, len(leaves))


# --- keys (RFC 8032) ---

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
_Point = tuple[int, int, int, int]
_NOTHING: _Point = (0, 1, 1, 0)


@lru_cache(maxsize=1 << 16)
def is_key(data: bytes) -> bool:
    """Whether bytes are the canonical encoding of a point of prime order, as an account's key must be."""
    point = _point(data) if isinstance(data, bytes) and len(data) == 32 else None
    if point is None or point[0] == 0:
        return False
    x, y, z, _ = _times(_L, point)
    return x % _P == 0 and (y - z) % _P == 0


def _point(data: bytes) -> _Point | None:
    number = int.from_bytes(data, "little")
    y, sign = number & 2**255 - 1, number >> 255
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    x = x if (x * x - square) % _P == 0 else x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    x = x if x & 1 == sign else _P - x
    return x, y, 1, x * y % _P


def _plus(p: _Point, q: _Point) -> _Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(n: int, point: _Point) -> _Point:
    total = _NOTHING
    while n:
        if n & 1:
            total = _plus(total, point)
        point, n = _plus(point, point), n >> 1
    return total


_NEUTRAL = b"\x01" + bytes(31)


def signed_by(key: bytes, message: bytes, signature: bytes) -> bool:
    """An Ed25519 signature by a key of prime order. R must not be the neutral point: libsodium refuses it, and
    OpenSSL does not."""
    if len(signature) != 64 or signature[:32] == _NEUTRAL or not is_key(key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


# --- transactions ---


def _is_number(value: Plain) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_bytes(value: Plain, size: int | None = None) -> bool:
    return type(value) is bytes and (size is None or len(value) == size)


def _is_name(value: Plain) -> bool:
    return type(value) is str and _NAME.fullmatch(value) is not None


def _is_action(action: Plain) -> bool:
    if type(action) is not list or not action or type(action[0]) is not int:
        return False
    if action[0] == 0:
        return len(action) == 3 and _is_bytes(action[1], 32) and _is_number(action[2])
    names = action[0] == 1 and len(action) == 5 and _is_name(action[1]) and _is_name(action[2])
    return names and _is_bytes(action[3]) and _is_number(action[4])


def read_transaction(wire: bytes) -> list[Plain] | None:
    """``[chain_id, sender, nonce, gas_limit, max_fee, tip, action, signature]``; None if it is not one's encoding."""
    try:
        tx = plain(wire)
    except MALFORMED:
        return None
    if type(tx) is not list or len(tx) != 8 or not all(map(_is_number, (tx[0], *tx[2:6]))):
        return None
    if not (_is_bytes(tx[1], 32) and _is_bytes(tx[7], 64) and _is_action(tx[6])):
        return None
    return tx if packed(tx) == wire else None


def transaction_id(tx: Plain) -> bytes:
    """What the signature signs."""
    return tagged("transaction", packed(tx[:7]))


def value_of(tx: Plain) -> int:
    """What the action takes along, in gwei."""
    return int(tx[6][2] if tx[6][0] == 0 else tx[6][4])
