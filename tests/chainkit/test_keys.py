"""Ed25519: what is a valid address and a valid signature, with golden vectors of the edge cases."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_sign_open

from chainkit import keys
from chainkit.hashing import tagged_hash
from chainkit.keys import (
    DEV_ACCOUNTS,
    InvalidDevNameError,
    InvalidSeedError,
    KeyPair,
    dev_keypair,
    is_dev_address,
    is_valid_address,
    verify,
    verify_many,
)

_FILE = json.loads((Path(__file__).parents[1] / "vectors" / "ed25519.json").read_text())
VECTORS: list[dict[str, Any]] = _FILE["vectors"]
BY_NAME = {vector["name"]: vector for vector in VECTORS}
L = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19
ALICE = dev_keypair("alice")
BOB = dev_keypair("bob")

seeds = st.binary(min_size=32, max_size=32)
not_bytes: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        0,
        1.5,
        True,
        "",
        "a" * 32,
        "a" * 64,
        [],
        bytearray(32),
        bytearray(64),
        memoryview(bytes(32)),
    ]
)


def _item(name: str) -> tuple[bytes, bytes, bytes]:
    vector = BY_NAME[name]
    return tuple(bytes.fromhex(vector[f]) for f in ("public_key", "message", "signature"))  # type: ignore[return-value]


def _cryptography_accepts(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


# --- golden vectors ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_vector(name: str) -> None:
    public_key, message, signature = _item(name)
    assert is_valid_address(public_key) is BY_NAME[name]["valid_key"]
    assert verify(public_key, message, signature) is BY_NAME[name]["valid"]


def test_the_vectors_cover_every_edge_case() -> None:
    assert _FILE["order_l"] == str(L)
    for family, count in {
        "small-order-key-": 9,
        "non-canonical-key-": 24,
        "negative-zero-x": 2,
        "mixed-order-key-": 3,
        "mixed-order-r-": 3,
        "small-order-r-": 8,
        "s-plus-": 2,
    }.items():
        assert sum(name.startswith(family) for name in BY_NAME) == count
    assert sum(vector["valid"] for vector in VECTORS) == 3


def test_the_identity_key_has_a_universal_signature_elsewhere_but_not_here() -> None:
    """Why there is one verify (docs/PROTOCOL.md, section 3)."""
    key, signature = b"\x01" + bytes(31), b"\x01" + bytes(63)
    for message in (b"", b"pay mallory", b"anything at all"):
        assert _cryptography_accepts(key, message, signature)
        assert not verify(key, message, signature)


def test_every_malleable_vector_differs_from_the_honest_signature_only_in_s() -> None:
    public_key, message, honest = _item("honest")
    for name, multiple in (("s-plus-l", 1), ("s-plus-15l", 15)):
        key, text, signature = _item(name)
        assert (key, text, signature[:32]) == (public_key, message, honest[:32])
        difference = int.from_bytes(signature[32:], "little") - int.from_bytes(honest[32:], "little")
        assert difference == multiple * L


def test_non_canonical_keys_spell_a_y_that_is_not_reduced() -> None:
    for name in BY_NAME:
        if name.startswith("non-canonical-key-"):
            y = int.from_bytes(_item(name)[0], "little") & (2**255 - 1)
            assert P <= y < 2**255


def test_rejection_of_mixed_order_keys_is_ours_not_only_libsodiums() -> None:
    """libsodium's own check accepts these signatures, so the address check is what refuses them."""
    for order in (2, 4, 8):
        public_key, message, signature = _item(f"mixed-order-key-torsion-{order}")
        assert crypto_sign_open(signature + message, public_key) == message
        assert not is_valid_address(public_key)
        assert not verify(public_key, message, signature)
        assert not verify_many([(public_key, message, signature, False)])[0]
        assert verify(
            public_key, message, signature, known=True
        )  # so no such key may ever become an account's


def test_of_a_known_key_everything_else_is_checked() -> None:
    good = ALICE.sign(b"m")
    assert verify(ALICE.address, b"m", good, known=True)
    for name in BY_NAME:
        public_key, message, signature = _item(name)
        if not name.startswith("mixed-order-key-"):
            assert verify(public_key, message, signature, known=True) is verify(
                public_key, message, signature
            )
    for turned in range(64):
        forged = good[:turned] + bytes([good[turned] ^ 1]) + good[turned + 1 :]
        assert not verify(ALICE.address, b"m", forged, known=True)


# --- the library underneath -------------------------------------------------------------------


def test_a_libsodium_with_cve_2025_69277_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _item("mixed-order-key-torsion-2")[0] == keys._MIXED_ORDER_KEY
    monkeypatch.setattr(keys, "crypto_core_ed25519_is_valid_point", lambda _point: True)
    with pytest.raises(ImportError, match=r"CVE-2025-69277.*pynacl>=1\.6\.2"):
        keys.require_strict_libsodium()


def test_a_cofactored_libsodium_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _item("mixed-order-r-torsion-2") == keys._MIXED_ORDER_R
    monkeypatch.setattr(keys, "crypto_sign_open", lambda signed, _key: signed[64:])
    with pytest.raises(ImportError, match="cofactor"):
        keys.require_strict_libsodium()


# --- verify -----------------------------------------------------------------------------------


@given(seed=seeds, message=st.binary(max_size=300))
@settings(max_examples=50)
def test_what_is_signed_verifies_and_matches_cryptography(seed: bytes, message: bytes) -> None:
    pair = KeyPair(seed)
    signature = pair.sign(message)
    other = Ed25519PrivateKey.from_private_bytes(seed)
    assert pair.address == other.public_key().public_bytes_raw()
    assert signature == other.sign(message)
    assert is_valid_address(pair.address)
    assert verify(pair.address, message, signature)


@given(message=st.binary(max_size=64), bit=st.integers(0, 64 * 8 - 1))
@settings(max_examples=100)
def test_a_flipped_bit_of_the_signature_is_refused(message: bytes, bit: int) -> None:
    signature = bytearray(ALICE.sign(message))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(ALICE.address, message, bytes(signature))


@given(message=st.binary(min_size=1, max_size=64), data=st.data())
@settings(max_examples=50)
def test_a_flipped_bit_of_the_message_or_key_is_refused(message: bytes, data: st.DataObject) -> None:
    signature = ALICE.sign(message)
    bit = data.draw(st.integers(0, len(message) * 8 - 1))
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    assert not verify(ALICE.address, bytes(changed), signature)
    assert not verify(ALICE.address, message + b"\0", signature)
    assert not verify(ALICE.address, message[:-1], signature)
    key = bytearray(ALICE.address)
    key_bit = data.draw(st.integers(0, 255))
    key[key_bit // 8] ^= 1 << key_bit % 8
    assert not verify(bytes(key), message, signature)
    assert not verify(BOB.address, message, signature)


@given(junk=not_bytes)
@settings(max_examples=20)
def test_a_wrong_type_is_refused_without_an_exception(junk: Any) -> None:
    signature = ALICE.sign(b"m")
    assert not is_valid_address(junk)
    assert not verify(junk, b"m", signature)
    assert not verify(ALICE.address, junk, signature)
    assert not verify(ALICE.address, b"m", junk)
    assert is_dev_address(junk) is None


def test_a_mutable_copy_of_valid_bytes_is_refused() -> None:
    signature = ALICE.sign(b"m")
    assert verify(ALICE.address, b"m", signature)
    assert not is_valid_address(bytearray(ALICE.address))  # type: ignore[arg-type]
    assert not verify(bytearray(ALICE.address), b"m", signature)  # type: ignore[arg-type]
    assert not verify(ALICE.address, bytearray(b"m"), signature)  # type: ignore[arg-type]
    assert not verify(ALICE.address, b"m", bytearray(signature))  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_an_address_of_a_wrong_length_is_refused(length: int) -> None:
    address = (ALICE.address * 2)[:length]
    assert not is_valid_address(address)
    assert not verify(address, b"m", ALICE.sign(b"m"))


@pytest.mark.parametrize("length", [0, 1, 32, 63, 65, 128])
def test_a_signature_of_a_wrong_length_is_refused(length: int) -> None:
    assert not verify(ALICE.address, b"m", (ALICE.sign(b"m") * 2)[:length])


def test_bytes_cannot_move_between_signature_and_message() -> None:
    """The library takes both as one string: the boundary must hold."""
    signature = ALICE.sign(b"message")
    assert not verify(ALICE.address, b"essage", signature + b"m")
    assert not verify(ALICE.address, signature[-1:] + b"message", signature[:-1])


@given(key=st.binary(min_size=32, max_size=32), signature=st.binary(min_size=64, max_size=64))
@settings(max_examples=100)
def test_random_bytes_are_refused_without_an_exception(key: bytes, signature: bytes) -> None:
    assert not verify(key, b"m", signature)


def test_the_address_cache_is_bounded() -> None:
    info = keys._is_valid_point.cache_info()
    assert info.maxsize is not None
    assert 0 < info.maxsize <= 100_000


# --- verify_many ------------------------------------------------------------------------------


@given(pattern=st.lists(st.booleans(), max_size=150))
@settings(max_examples=20, deadline=None)
def test_verify_many_answers_in_order_with_and_without_threads(pattern: list[bool]) -> None:
    good, bad = ALICE.sign(b"m"), BOB.sign(b"m")
    items = [(ALICE.address, b"m", good if honest else bad, False) for honest in pattern]
    assert verify_many(items) == pattern
    with ThreadPoolExecutor(2) as executor:
        assert verify_many(items, executor) == pattern


def test_verify_many_spreads_a_large_load_over_the_executor() -> None:
    class Counting(ThreadPoolExecutor):
        tasks = 0

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            self.tasks += 1
            return super().submit(*args, **kwargs)

    item = (ALICE.address, b"m", ALICE.sign(b"m"), False)
    with Counting(2) as executor:
        assert verify_many([item], executor) == [True]
        assert executor.tasks == 0
        assert verify_many([item] * 100, executor) == [True] * 100
        assert executor.tasks >= 2


# --- key pairs --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33), bytearray(32), "a" * 32, None, 32])
def test_a_seed_is_exactly_32_bytes(seed: Any) -> None:
    with pytest.raises(InvalidSeedError, match="32 bytes"):
        KeyPair(seed)


@given(seed=seeds)
@settings(max_examples=25)
def test_repr_and_errors_never_show_the_seed(seed: bytes) -> None:
    pair = KeyPair(seed)
    shown = f"{pair!r} {pair!s} {[pair]} {pair:}"
    assert pair.address.hex() in shown
    assert seed.hex() not in shown
    assert repr(seed) not in shown
    with pytest.raises(InvalidSeedError) as caught:
        KeyPair(seed + b"!")
    assert seed.hex() not in str(caught.value)
    assert repr(seed)[2:-1] not in str(caught.value)


def test_a_key_pair_is_immutable_and_compares_by_address() -> None:
    pair = KeyPair(ALICE.seed)
    with pytest.raises(AttributeError):
        pair.seed = bytes(32)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        pair.address = bytes(32)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        pair.extra = 1  # type: ignore[attr-defined]
    assert pair == ALICE
    assert pair != BOB
    assert pair != ALICE.address
    assert len({pair, ALICE, BOB}) == 2
    assert copy.copy(pair) == pickle.loads(pickle.dumps(pair)) == pair


# --- the devnet's well-known keys ---------------------------------------------------------------


def test_dev_seed_is_the_tagged_hash_of_the_name() -> None:
    assert ALICE.seed == tagged_hash("devnet-key", b"alice")
    assert ALICE.address.hex() == "f0937f71aa5dd50d6a5100219c580a7919c6fecd72641f2026d50e40c12fb035"


@pytest.mark.parametrize("name", ["a", "z9-", "validator-31", "a" * 32])
def test_dev_names_that_are_fine(name: str) -> None:
    assert is_valid_address(dev_keypair(name).address)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "Alice",
        "1a",
        "-a",
        "a_b",
        "a b",
        "alice\n",
        "a\0",
        "\u00e9",
        "a" * 33,
        "\u0430",
        "a\u0663",
        None,
        1,
        b"a",
    ],
)
def test_dev_names_that_are_refused(name: Any) -> None:
    with pytest.raises(InvalidDevNameError):
        dev_keypair(name)


def test_the_error_for_a_huge_dev_name_is_short() -> None:
    with pytest.raises(InvalidDevNameError) as caught:
        dev_keypair("A" * 100_000)
    assert len(str(caught.value)) < 300


def test_dev_addresses_are_known_and_distinct() -> None:
    names = [*DEV_ACCOUNTS, *(f"validator-{index}" for index in range(32))]
    assert [is_dev_address(dev_keypair(name).address) for name in names] == names
    assert len({dev_keypair(name).address for name in names}) == len(names) == 45
    assert is_dev_address(dev_keypair("validator-32").address) is None
    assert is_dev_address(KeyPair(bytes(32)).address) is None
    assert is_dev_address(b"") is None
