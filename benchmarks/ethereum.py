"""Signed Ethereum transfers for anvil, with nothing but the standard library.

Responsible for Keccak-256, RLP and ECDSA over secp256k1, as far as a benchmark's worthless keys need them. Must never
sign anything of value: nonces and keys follow one another, which makes signing cheap and the keys public.

Sources: FIPS 202 with the padding of Keccak's submission, SEC 1 and 2, EIP-155, EIP-1559, EIP-2.
"""

from collections.abc import Iterator, Sequence

_P = 2**256 - 2**32 - 977
_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)
_MASK = 2**64 - 1
_ROTATIONS = (
    (0, 36, 3, 41, 18),
    (1, 44, 10, 45, 2),
    (62, 6, 43, 15, 61),
    (28, 55, 25, 21, 56),
    (27, 20, 39, 8, 14),
)
Point = tuple[int, int]


def _round_constants() -> list[int]:
    constants, register = [], 1
    for _ in range(24):
        constant = 0
        for j in range(7):
            register = ((register << 1) ^ ((register >> 7) * 0x71)) % 256
            if register & 2:
                constant ^= 1 << ((1 << j) - 1)
        constants.append(constant)
    return constants


_ROUNDS = _round_constants()


def _permute(a: list[int]) -> list[int]:
    """Keccak-f[1600] on 25 lanes, lane (x, y) at ``x + 5 * y``."""
    for constant in _ROUNDS:
        c = [a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20] for x in range(5)]
        d = [c[x - 1] ^ ((c[(x + 1) % 5] << 1 | c[(x + 1) % 5] >> 63) & _MASK) for x in range(5)]
        b = [0] * 25
        for x in range(5):
            for y in range(5):
                lane, turn = a[x + 5 * y] ^ d[x], _ROTATIONS[x][y]
                b[y + 5 * ((2 * x + 3 * y) % 5)] = (lane << turn | lane >> (64 - turn)) & _MASK
        a = [b[i] ^ (~b[i - i % 5 + (i + 1) % 5] & b[i - i % 5 + (i + 2) % 5]) for i in range(25)]
        a[0] ^= constant
    return a


def keccak256(data: bytes) -> bytes:
    """As Ethereum has it (not SHA3-256, whose padding differs)."""
    rate, lanes = 136, [0] * 25
    padded = bytearray(data + b"\x01" + bytes(-(len(data) + 1) % rate))
    padded[-1] |= 0x80
    for start in range(0, len(padded), rate):
        for i in range(rate // 8):
            lanes[i] ^= int.from_bytes(padded[start + 8 * i : start + 8 * i + 8], "little")
        lanes = _permute(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def rlp(item: bytes | int | Sequence[object]) -> bytes:
    """Bytes, unsigned integers and lists of these."""
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else _length(len(item), 0x80) + item
    payload = b"".join(rlp(part) for part in item)  # type: ignore[arg-type]
    return _length(len(payload), 0xC0) + payload


def _length(size: int, offset: int) -> bytes:
    if size < 56:
        return bytes([offset + size])
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(digits)]) + digits


def _add(p: Point, q: Point) -> Point:
    """The sum of two points, neither of which is the other's negative."""
    rise, run = (3 * p[0] * p[0], 2 * p[1]) if p == q else (q[1] - p[1], q[0] - p[0])
    slope = rise * pow(run, -1, _P) % _P
    x = (slope * slope - p[0] - q[0]) % _P
    return x, (slope * (p[0] - x) - p[1]) % _P


def _times(k: int) -> Point:
    """``k`` times the base point, k >= 1."""
    result: Point | None = None
    addend = _G
    while k:
        if k & 1:
            result = addend if result is None else _add(result, addend)
        addend, k = _add(addend, addend), k >> 1
    assert result is not None
    return result


def accounts(first: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Secret keys ``first``, ``first + 1``, ... with their addresses: one point addition each."""
    point = _times(first)
    for secret in range(first, first + count):
        yield secret, keccak256(point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big"))[12:]
        point = _add(point, _G)


class Signer:
    """Signs with ephemeral keys that follow one another: one point addition a signature."""

    def __init__(self, chain_id: int, ephemeral: int) -> None:
        self._chain_id = chain_id
        self._k, self._r = ephemeral, _times(ephemeral)

    def transfer(self, secret: int, nonce: int, to: bytes, amount: int, max_fee: int) -> bytes:
        """A signed EIP-1559 transfer: what ``eth_sendRawTransaction`` takes."""
        body: list[object] = [self._chain_id, nonce, 1, max_fee, 21_000, to, amount, b"", []]
        digest = int.from_bytes(keccak256(b"\x02" + rlp(body)), "big")
        r, odd = self._r[0] % _N, self._r[1] & 1
        s = pow(self._k, -1, _N) * (digest + r * secret) % _N
        if s > _N // 2:  # EIP-2
            s, odd = _N - s, odd ^ 1
        self._k, self._r = self._k + 1, _add(self._r, _G)
        return b"\x02" + rlp([*body, odd, r, s])
