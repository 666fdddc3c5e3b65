"""Merkle roots of lists: transactions, receipts, batch steps, withdrawals.

Responsible for the root of a list of byte strings and for the proof of one of its elements.
Must not know what the elements mean.

The shape is that of RFC 6962 section 2.1 (split at the largest power of two below the length), the
prefixes are this project's, and the root also binds the length:

    leaf = sha256(LIST_LEAF || data)        node = sha256(LIST_NODE || left || right)
    root = sha256(LIST_ROOT || count (8 bytes, big endian) || top)
    top  = 32 zero bytes for the empty list

So two different lists never share a root. Nothing is ever duplicated to fill a level
(CVE-2012-2459), and a node cannot be read as a leaf (CVE-2017-12842).

What makes it fast: the prefixes are hashed once (`_LEAF`, `_NODE`), and each leaf and node goes on from a copy. To
begin anew, and to put the bytes together first, takes longer than to hash so few.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from chainkit.hashing import HASH_SIZE, LIST_LEAF, LIST_NODE, LIST_ROOT, hashes_after
from chainkit.merkle import ProofError

_MAX_COUNT = 2**64 - 1
_LEAF, _NODE = sha256(LIST_LEAF), sha256(LIST_NODE)


def list_root(leaves: Sequence[bytes]) -> bytes:
    """The 32-byte root of ``leaves``."""
    level = _leaf_hashes(leaves)
    while len(level) > 1:
        level = _parents(level)
    return _root(len(leaves), level[0] if level else bytes(HASH_SIZE))


def list_tree(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Every level of the tree over ``leaves``, from the bottom up, for ``tree_proof``."""
    levels = [_leaf_hashes(leaves)]
    while len(levels[-1]) > 1:
        levels.append(_parents(levels[-1]))
    return levels


def list_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The siblings of element ``index``, from the bottom up, for ``verify_list_proof``.

    Raises IndexError if ``leaves`` has no such element.
    """
    return tree_proof(list_tree(leaves), index)


def tree_proof(levels: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """What ``list_proof`` gives, from the ``list_tree`` of the list: for who needs many."""
    if not 0 <= index < len(levels[0]):
        raise IndexError(f"no element {index} in a list of {len(levels[0])}")
    siblings: list[bytes] = []
    for level in levels[:-1]:
        beside = index ^ 1
        if beside < len(level):  # an odd last node is promoted: it has no sibling here
            siblings.append(level[beside])
        index >>= 1
    return siblings


def verify_list_proof(root: bytes, index: int, count: int, leaf: bytes, proof: Sequence[bytes]) -> None:
    """Check that element ``index`` of the list of ``count`` elements under ``root`` is ``leaf``.

    Exactly one proof is accepted, that of ``list_proof``. Raises ProofError for anything else.
    """
    if proven_root(index, count, leaf, proof) != root:
        raise ProofError("the proof is not of this root")


def proven_root(index: int, count: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root that ``proof`` leads to, if element ``index`` of ``count`` is ``leaf``.

    Raises ProofError for a proof that leads to none.
    """
    if not 0 <= index < count <= _MAX_COUNT:
        raise ProofError("the index is outside the list")
    if len(proof) > 64 or any(len(sibling) != HASH_SIZE for sibling in proof):
        raise ProofError("the proof is malformed")
    top = sha256(LIST_LEAF + leaf).digest()
    siblings = iter(proof)
    last = count - 1
    while last:
        if index & 1 or index < last:
            sibling = next(siblings, None)
            if sibling is None:
                raise ProofError("the proof is cut short")
            pair = sibling + top if index & 1 else top + sibling
            top = sha256(LIST_NODE + pair).digest()
        index >>= 1
        last >>= 1
    if next(siblings, None) is not None:
        raise ProofError("the proof is too long")
    return _root(count, top)


def extend_peaks(count: int, peaks: Sequence[bytes], leaves: Iterable[bytes]) -> list[bytes]:
    """Append ``leaves`` to a list of ``count`` elements of which only the peaks are kept.

    The peaks are the tops of its full subtrees, largest first: one for each bit that is set in ``count``.
    """
    grown = list(peaks)
    for index, top in enumerate(_leaf_hashes(leaves), count):
        while index & 1:
            top = sha256(LIST_NODE + grown.pop() + top).digest()
            index >>= 1
        grown.append(top)
    return grown


def peaks_root(count: int, peaks: Sequence[bytes]) -> bytes:
    """The root of the list that has these peaks: what ``list_root`` says of all its elements."""
    top = peaks[-1] if peaks else bytes(HASH_SIZE)
    for peak in reversed(peaks[:-1]):
        top = sha256(LIST_NODE + peak + top).digest()
    return _root(count, top)


def _leaf_hashes(leaves: Iterable[bytes]) -> list[bytes]:
    return hashes_after(_LEAF, leaves)


def _parents(level: list[bytes]) -> list[bytes]:
    begun, parents, rest = _NODE.copy, [], iter(level)
    for left, right in zip(rest, rest, strict=False):
        hashing = begun()
        hashing.update(left)
        hashing.update(right)
        parents.append(hashing.digest())
    if len(level) % 2:
        parents.append(level[-1])
    return parents


def _root(count: int, top: bytes) -> bytes:
    return sha256(LIST_ROOT + count.to_bytes(8, "big") + top).digest()
