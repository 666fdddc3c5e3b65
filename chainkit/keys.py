"""Ed25519 keys and the one signature check of the project.

Responsible for what a valid address is, what a valid signature is, and the well-known keys of a
devnet. Must not know what is signed, nor where keys are kept (see ``keystore``).

Verifiers of Ed25519 disagree on small-order, mixed-order and non-canonical points (Chalkias et al.,
"Taming the many EdDSAs", 2020), and two that disagree fork a chain. So all consensus-critical
verification is ``verify`` below, on one library, libsodium through PyNaCl.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Final

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError

from chainkit.hashing import tagged_hash

if TYPE_CHECKING:
    from concurrent.futures import Executor

ADDRESS_SIZE: Final = 32
SEED_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64

# Addresses remembered: about 3 MB when full, for a check that costs as much as a signature check.
_ADDRESS_CACHE_SIZE: Final = 16_384
# Signatures per task: large against the cost of handing a task over, small against a block.
_CHUNK: Final = 32

# Two witnesses of a libsodium that this project must not run on (in tests/vectors/ed25519.json):
# a key plus the point of order 2, which is_valid_point let through before CVE-2025-69277 was fixed
# (PyNaCl < 1.6.2), and a signature whose R has such a part, which only a cofactored check accepts.
_MIXED_ORDER_KEY: Final = bytes.fromhex("fd6b808e55a22af295aeffde63a7f586e63901328d9be0dfd92af1bf3ed04fca")
_MIXED_ORDER_R: Final = (
    bytes.fromhex("f0937f71aa5dd50d6a5100219c580a7919c6fecd72641f2026d50e40c12fb035"),
    bytes.fromhex("6c617965726c6162206564323535313920766563746f72"),
    bytes.fromhex(
        "1ecbe6a663ddf2d0544340ad29afacf12cea9f0eded16fbd330d1953c22e7e16"
        "5a5720b188e6b098386eadd9c9fdc1bba572c07de30d098001f532c6129ec009"
    ),
)

DEV_ACCOUNTS: Final = (
    "alice",
    "bob",
    "carol",
    "dave",
    "erin",
    "frank",
    "grace",
    "heidi",
    "ivan",
    "judy",
    "mallory",
    "sequencer",
    "verifier",
)
DEV_VALIDATORS: Final = 32
DEV_STUDENTS: Final = 300
_DEV_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")


_Item = tuple[bytes, bytes, bytes, bool]


class InvalidSeedError(ValueError):
    """A seed that is not exactly 32 bytes. The message never shows the seed."""


class InvalidDevNameError(ValueError):
    """A devnet key name that does not match ``[a-z][a-z0-9-]{0,31}``."""


def is_valid_address(address: bytes) -> bool:
    """Whether ``address`` may stand for an account: a 32-byte Ed25519 public key in good order.

    True only for exactly 32 ``bytes`` that are the canonical encoding of a point on the curve, in
    the subgroup of prime order L, and not the identity (so of no small or mixed order). Anything
    else, of any type, is False. Results are cached in a bounded cache.
    """
    return type(address) is bytes and len(address) == ADDRESS_SIZE and _is_valid_point(address)


@lru_cache(maxsize=_ADDRESS_CACHE_SIZE)
def _is_valid_point(point: bytes) -> bool:
    return crypto_core_ed25519_is_valid_point(point)


def verify(public_key: bytes, message: bytes, signature: bytes, known: bool = False) -> bool:
    """Whether ``signature`` (64 bytes, R then S) is ``public_key``'s on ``message``.

    ``known``: the key has passed ``is_valid_address`` before, as that of every account has; it is not asked again,
    which costs two thirds of a signature check.

    True only if ``public_key`` = A passes ``is_valid_address``, S < L, R is not of small order,
    and the *cofactorless* equation of RFC 8032 holds on bytes: with
    h = SHA-512(R || A || message) mod L, the canonical encoding of [S]B - [h]A equals the 32 bytes
    of R. (A non-canonical or mixed-order R cannot equal it, as A and B have prime order.)
    False, never an exception, for anything else: wrong lengths, types, points or signatures.
    """
    if type(message) is not bytes or type(signature) is not bytes:
        return False
    if len(signature) != SIGNATURE_SIZE or not (known or is_valid_address(public_key)):
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def require_strict_libsodium() -> None:
    """Refuse to go on with a libsodium that answers edge cases otherwise than this module promises.

    Run at import: a node on such a library would fork from the others at the first hostile key.

    Raises
    ------
    ImportError
        Naming what is wrong and what to install.
    """
    if crypto_core_ed25519_is_valid_point(_MIXED_ORDER_KEY):
        raise ImportError("libsodium accepts mixed-order keys (CVE-2025-69277): install pynacl>=1.6.2")
    public_key, message, signature = _MIXED_ORDER_R
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return
    raise ImportError("libsodium verifies Ed25519 with the cofactor: install pynacl 1.6.2")


def verify_many(items: Sequence[_Item], executor: "Executor | None" = None) -> list[bool]:
    """``verify`` for each (public_key, message, signature, known), in the order given.

    With an ``executor`` the work goes to its threads in chunks (libsodium runs without the GIL);
    without one, or when it fits one chunk, it is done in place. Must not be called from a worker
    of that same ``executor``: it waits for the others.
    """
    if executor is None or len(items) <= _CHUNK:
        return _verify_chunk(items)
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    return list(chain.from_iterable(executor.map(_verify_chunk, chunks)))


def _verify_chunk(items: Sequence[_Item]) -> list[bool]:
    return [verify(*item) for item in items]


class KeyPair:
    """An Ed25519 key made from its 32-byte seed (RFC 8032 section 5.1.5). Immutable.

    Equality and hash are those of the address. ``repr`` shows the address, never the seed.

    Raises
    ------
    InvalidSeedError
        If ``seed`` is not exactly 32 ``bytes``.
    """

    __slots__ = ("_address", "_seed")

    def __init__(self, seed: bytes) -> None:
        if type(seed) is not bytes or len(seed) != SEED_SIZE:
            raise InvalidSeedError("the seed of a key is exactly 32 bytes")
        self._seed = seed
        self._address, _ = crypto_sign_seed_keypair(seed)

    @property
    def address(self) -> bytes:
        """The public key: 32 bytes."""
        return self._address

    @property
    def seed(self) -> bytes:
        """The secret: 32 bytes. Whoever has it is the account."""
        return self._seed

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature (R then S) of ``message``; deterministic, RFC 8032 section 5.1.6.

        Signs exactly the bytes given: the caller puts chain and purpose into them.
        """
        # libsodium's secret key is seed || public key, and it answers R || S || message.
        return crypto_sign(message, self._seed + self._address)[:SIGNATURE_SIZE]

    def __eq__(self, other: object) -> bool:
        return self._address == other._address if isinstance(other, KeyPair) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._address)

    def __repr__(self) -> str:
        return f"KeyPair(address=0x{self._address.hex()})"


def dev_keypair(name: str) -> KeyPair:
    """The well-known, worthless key of ``name`` on a devnet: anyone can make it from the name.

    Its seed is ``tagged_hash("devnet-key", name)``.

    Raises
    ------
    InvalidDevNameError
        If ``name`` does not match ``[a-z][a-z0-9-]{0,31}``.
    """
    if not isinstance(name, str) or _DEV_NAME.fullmatch(name) is None:
        raise InvalidDevNameError(
            f"{name!r:.80} is no devnet key name: a-z, 0-9 and '-', a letter first, 32 at most"
        )
    return KeyPair(tagged_hash("devnet-key", name.encode("ascii")))


def is_dev_address(address: bytes) -> str | None:
    """The name of the well-known devnet key behind ``address``, or None.

    Covers ``DEV_ACCOUNTS`` and ``validator-0`` to ``validator-31``, who are on every devnet; `well_known_name` knows
    the others as well.
    """
    return _dev_addresses().get(address) if type(address) is bytes else None


@lru_cache(maxsize=1)
def _dev_addresses() -> dict[bytes, str]:
    names = (*DEV_ACCOUNTS, *(f"validator-{index}" for index in range(DEV_VALIDATORS)))
    return {dev_keypair(name).address: name for name in names}


def well_known_name(address: bytes) -> str | None:
    """The name behind a key that any devnet of ours uses, or None. A chain that carries real value must refuse these.

    Besides `is_dev_address`: ``side-`` and ``operator-0`` to ``-31``, ``vault`` and 300 students.
    """
    return is_dev_address(address) or (_other_names().get(address) if type(address) is bytes else None)


@lru_cache(maxsize=1)
def _other_names() -> dict[bytes, str]:
    numbered = [f"{kind}-{index}" for kind in ("side", "operator") for index in range(DEV_VALIDATORS)]
    students = [f"student-{number:0{width}}" for width in (2, 3) for number in range(1, DEV_STUDENTS + 1)]
    names = ["vault", *numbered, *(name for name in students if len(name) <= len("student-300"))]
    return {dev_keypair(name).address: name for name in names}


require_strict_libsodium()
