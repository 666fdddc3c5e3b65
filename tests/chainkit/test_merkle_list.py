"""List roots against RFC 6962's recursive definition, and list proofs against forgers."""

import itertools
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit.merkle import ProofError
from chainkit.merkle_list import extend_peaks, list_proof, list_root, peaks_root, verify_list_proof

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "merkle.json").read_text("utf-8"))
quick = settings(max_examples=100, deadline=None)


def sha(*parts: bytes) -> bytes:
    return sha256(b"".join(parts)).digest()


def split(count: int) -> int:
    """The largest power of two below ``count`` (RFC 6962 section 2.1)."""
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def naive_top(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return bytes(32)
    if len(leaves) == 1:
        return sha(b"\x10", leaves[0])
    k = split(len(leaves))
    return sha(b"\x11", naive_top(leaves[:k]), naive_top(leaves[k:]))


def naive_root(leaves: Sequence[bytes]) -> bytes:
    return sha(b"\x12", len(leaves).to_bytes(8, "big"), naive_top(leaves))


def naive_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*naive_proof(leaves[:k], index), naive_top(leaves[k:])]
    return [*naive_proof(leaves[k:], index - k), naive_top(leaves[:k])]


def numbered(count: int) -> list[bytes]:
    return [b"leaf/%d" % number for number in range(count)]


def refused(root: bytes, index: int, count: int, leaf: bytes, proof: Sequence[bytes]) -> None:
    with pytest.raises(ProofError):
        verify_list_proof(root, index, count, leaf, proof)


@pytest.mark.parametrize("count", [*range(70), 127, 128, 129, 1000])
def test_promotion_level_by_level_is_the_shape_of_rfc_6962(count: int) -> None:
    assert list_root(numbered(count)) == naive_root(numbered(count))


@pytest.mark.parametrize("count", [*range(1, 35), 63, 64, 65])
def test_every_proof_is_that_of_rfc_6962_and_verifies(count: int) -> None:
    leaves = numbered(count)
    root = list_root(leaves)
    for index, leaf in enumerate(leaves):
        proof = list_proof(leaves, index)
        assert proof == naive_proof(leaves, index)
        verify_list_proof(root, index, count, leaf, proof)


@quick
@given(st.lists(st.binary(max_size=70), max_size=40))
def test_root_equals_the_recursive_definition(leaves: list[bytes]) -> None:
    assert list_root(leaves) == naive_root(leaves)


def test_root_is_injective_on_small_lists() -> None:
    """CVE-2012-2459 and its kin: all 3,280 lists over a small alphabet have roots of their own."""
    alphabet = (b"", b"a", bytes(32))
    lists = [c for count in range(8) for c in itertools.product(alphabet, repeat=count)]
    assert len({list_root(leaves) for leaves in lists}) == len(lists) == 3280


@pytest.mark.parametrize("count", range(1, 18))
def test_duplicated_tail_changes_the_root(count: int) -> None:
    """CVE-2012-2459: [a, b, c] and [a, b, c, c] differ, for every tail of every length."""
    leaves = numbered(count)
    roots = {list_root(leaves)} | {list_root(leaves + leaves[-n:]) for n in range(1, count + 1)}
    assert len(roots) == count + 1
    for index in range(count):
        refused(list_root(leaves), count + index, count, leaves[index], list_proof(leaves, index))


def test_inner_node_is_no_leaf() -> None:
    """CVE-2017-12842: a leaf made of two child hashes, and a shorter list made of nodes."""
    leaves = numbered(4)
    root, hashes = list_root(leaves), [sha(b"\x10", leaf) for leaf in leaves]
    pairs = [hashes[0] + hashes[1], hashes[2] + hashes[3]]
    nodes = [sha(b"\x11", pair) for pair in pairs]
    assert list_root(pairs) != root
    assert list_root(nodes) != root
    assert list_root([b"".join(nodes)]) != root
    for count in (1, 2, 4):
        for leaf in (*pairs, *nodes, *hashes, b"".join(nodes), b"\x11" + pairs[0]):
            for proof in ([], nodes[1:], list_proof(leaves, 0)):
                refused(root, 0, count, leaf, proof)


@pytest.mark.parametrize(("count", "index"), [(1, 0), (2, 1), (5, 4), (7, 6), (7, 2), (8, 0)])
def test_every_byte_of_a_proof_is_bound(count: int, index: int) -> None:
    """BNB bridge 2022: flips, extra, missing, doubled and swapped siblings, other positions."""
    leaves = numbered(count)
    root, leaf, proof = list_root(leaves), leaves[index], list_proof(leaves, index)
    verify_list_proof(root, index, count, leaf, proof)
    for level, position in itertools.product(range(len(proof)), range(256)):
        flipped = bytearray(proof[level])
        flipped[position // 8] ^= 1 << position % 8
        refused(root, index, count, leaf, [*proof[:level], bytes(flipped), *proof[level + 1 :]])
    for level in range(len(proof)):
        above, here, below = proof[level + 1 :], proof[level], proof[:level]
        refused(root, index, count, leaf, below + above)
        refused(root, index, count, leaf, [*below, here, here, *above])
        refused(root, index, count, leaf, [*below, here[:-1], *above])
        refused(root, index, count, leaf, [*below, here + b"\0", *above])
        if len(proof) > 1:
            refused(root, index, count, leaf, proof[level:] + below + [here])
    for extra in (bytes(32), sha(b"\x10", leaf), b""):
        refused(root, index, count, leaf, [*proof, extra])
        refused(root, index, count, leaf, [extra, *proof])
    for other in range(-1, 2 * count + 2):
        if other != index:
            refused(root, other, count, leaf, proof)
        if other != count:
            refused(root, index, other, leaf, proof)
    refused(root, index, count, leaf + b"\0", proof)
    refused(root[:-1], index, count, leaf, proof)


def test_bounds() -> None:
    root = list_root([b"a"])
    refused(list_root([]), 0, 0, b"a", [])
    refused(root, 0, 1, b"a", [bytes(32)] * 65)
    for count in (-1, 0, 2**64, 2**4000):
        refused(root, 0, count, b"a", [])
    refused(root, 2**64 - 2, 2**64 - 1, b"a", [bytes(32)] * 64)
    for index in (-1, 1, 2**64):
        with pytest.raises(IndexError):
            list_proof([b"a"], index)
    with pytest.raises(IndexError):
        list_proof([], 0)


@quick
@given(
    st.binary(max_size=40),
    st.integers(-1, 9),
    st.integers(-1, 9),
    st.binary(max_size=9),
    st.lists(st.binary(min_size=31, max_size=33), max_size=5),
)
def test_random_proofs_give_nothing_but_proof_error(
    root: bytes, index: int, count: int, leaf: bytes, proof: list[bytes]
) -> None:
    refused(root, index, count, leaf, proof)
    refused(list_root(numbered(5)), index, count, leaf, proof)


@pytest.mark.parametrize("vector", VECTORS["lists"], ids=lambda vector: vector["name"])
def test_list_vectors(vector: dict[str, Any]) -> None:
    leaves = [bytes.fromhex(leaf) for leaf in vector["leaves"]]
    assert list_root(leaves).hex() == naive_root(leaves).hex() == vector["root"]


@pytest.mark.parametrize("vector", VECTORS["list_proofs"], ids=lambda vector: vector["name"])
def test_list_proof_vectors(vector: dict[str, Any]) -> None:
    leaves = [bytes.fromhex(leaf) for leaf in vector["leaves"]]
    proof = [bytes.fromhex(sibling) for sibling in vector["proof"]]
    index, root = vector["index"], bytes.fromhex(vector["root"])
    assert list_proof(leaves, index) == naive_proof(leaves, index) == proof
    verify_list_proof(root, index, len(leaves), leaves[index], proof)


@quick
@given(st.lists(st.integers(0, 40), max_size=6))
def test_a_list_that_grows_by_its_peaks_has_the_root_of_all_its_elements(portions: list[int]) -> None:
    leaves = numbered(sum(portions))
    peaks: list[bytes] = []
    count = 0
    for portion in portions:
        peaks = extend_peaks(count, peaks, leaves[count : count + portion])
        count += portion
        assert len(peaks) == count.bit_count()
        assert peaks_root(count, peaks) == list_root(leaves[:count]) == naive_root(leaves[:count])
