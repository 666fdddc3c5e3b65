"""The state tree: a persistent, path-compressed sparse Merkle tree with compact proofs.

Responsible for roots, inclusion and non-inclusion proofs, and partial trees that can be updated.
Must not know what keys and values mean, where they are stored, or who asks for a proof.

It is a Merkle *crit-bit* tree (D. J. Bernstein's crit-bit tree, hashed): keys are the 256-bit
``sha256(STATE_KEY || key)``, bit 0 being the most significant. A node exists only where two keys
part; its depth is the index of the bit that parts them (0 left, 1 right), so depths strictly
increase downwards, no node has an empty side, and the shape depends on the set of keys alone.

    leaf  = sha256(STATE_LEAF || key_hash || sha256(STATE_VALUE || value))
    node  = sha256(STATE_NODE || depth (1 byte) || left || right)
    empty = tagged_hash("empty-state", b"")

A proof is the tree cut down to the paths of the keys asked for, in preorder:

    0x00 key_hash(32) value_hash(32)          a leaf whose value was not asked for
    0x01 depth(1) left right                  a node
    0x02 hash(32)                             a stub: a subtree cut away
    0x03 key_hash(32) len(4, big endian) value    a leaf with its value
    0x04                                      the empty tree (nothing else may follow)

Why a union of paths is enough to insert any of its keys: the path of a key ends in a leaf; the
first bit in which the two differ says where the new node goes, namely on that very path, above
the first node of larger depth, whose hash is known. The insertion adds to other paths nothing but
that node and the new leaf, both visible, so it uncovers no stub on any of them.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import ClassVar

from chainkit.hashing import (
    HASH_SIZE,
    STATE_KEY,
    STATE_LEAF,
    STATE_NODE,
    STATE_VALUE,
    tagged_hash,
)

EMPTY_ROOT = tagged_hash("empty-state", b"")
MAX_PROOF = 256 * 1024  # bytes

_KEY_BITS = 256

_TAG_BARE_LEAF = 0
_TAG_NODE = 1
_TAG_STUB = 2
_TAG_LEAF = 3
_TAG_EMPTY = 4


class ProofError(Exception):
    """A proof is malformed, not canonical, too large, or not of the root it is held against."""


class MissingWitness(ProofError):  # noqa: N818 - it names what is missing
    """A partial tree was asked for something that its proof does not show."""


def key_hash(key: bytes) -> bytes:
    """The 32-byte place of ``key`` in the tree."""
    return sha256(STATE_KEY + key).digest()


def _place(key: bytes) -> int:
    """The place of ``key`` as an integer: smaller than bytes in memory, and quick to compare."""
    return int.from_bytes(key_hash(key), "big")


# The four kinds of subtree. ``place`` of a node is that of any visible leaf below it: all of them
# share the bits before ``depth``, so one stands for all when a new key is compared with them.


class _Leaf:
    __slots__ = ("hash", "key", "place", "value")

    def __init__(self, place: int, key: bytes | None, value: bytes) -> None:
        self.place = place
        self.key = key  # None if it came from a proof, which has only the hash
        self.value = value
        value_hash = sha256(STATE_VALUE + value).digest()
        self.hash = sha256(STATE_LEAF + place.to_bytes(HASH_SIZE, "big") + value_hash).digest()


class _BareLeaf:
    __slots__ = ("hash", "place", "value_hash")

    def __init__(self, place: int, value_hash: bytes) -> None:
        self.place = place
        self.value_hash = value_hash
        self.hash = sha256(STATE_LEAF + place.to_bytes(HASH_SIZE, "big") + value_hash).digest()


class _Stub:
    __slots__ = ("hash",)

    def __init__(self, hash_: bytes) -> None:
        self.hash = hash_


class _Node:
    __slots__ = ("depth", "hash", "left", "place", "right")

    def __init__(self, depth: int, left: "_Subtree", right: "_Subtree", place: int) -> None:
        self.depth = depth
        self.left = left
        self.right = right
        self.place = place
        children = left.hash + right.hash
        self.hash: bytes = sha256(STATE_NODE + bytes((depth,)) + children).digest()


_Subtree = _Node | _Leaf | _BareLeaf | _Stub
_Change = tuple[int, bytes, bytes]  # place, key, value


class Tree:
    """An immutable map from bytes to bytes with a Merkle root; ``Tree()`` is the empty one.

    ``update`` gives a new tree that shares all untouched subtrees with the old one. A tree from
    ``from_proof`` is *partial*: it behaves as the full one for the keys that the proof covers and
    raises ``MissingWitness`` for those it does not. Leaves are never deleted; an empty value is a
    leaf too (a tombstone), which ``get`` does not tell from an absent key but the root does.
    """

    __slots__ = ("_top",)

    EMPTY: ClassVar["Tree"]

    def __init__(self) -> None:
        self._top: _Subtree | None = None

    @property
    def root(self) -> bytes:
        """The Merkle root, 32 bytes."""
        return EMPTY_ROOT if self._top is None else self._top.hash

    def get(self, key: bytes) -> bytes:
        """The value of ``key``; ``b""`` if the tree has none.

        Raises MissingWitness if a partial tree shows neither the value nor its absence.
        """
        place = _place(key)
        subtree = self._top
        while isinstance(subtree, _Node):
            subtree = subtree.right if place >> (255 - subtree.depth) & 1 else subtree.left
        if subtree is None:
            return b""
        if isinstance(subtree, _Stub):
            raise MissingWitness("the proof does not cover the key")
        if subtree.place != place:
            return b""
        if isinstance(subtree, _BareLeaf):
            raise MissingWitness("the proof does not show the value of the key")
        return subtree.value

    def update(self, changes: Mapping[bytes, bytes]) -> "Tree":
        """The tree with every ``key: value`` of ``changes`` set; each node is hashed at most once.

        Raises MissingWitness, and changes nothing, if a partial tree does not cover a key.
        """
        ordered = sorted(((_place(key), key, value) for key, value in changes.items()), key=_first)
        if not ordered:
            return self
        top = _build(ordered) if self._top is None else _update(self._top, ordered)
        return self if top is self._top else _tree(top)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value), in the order of key hashes. Raises MissingWitness if partial."""
        waiting: list[_Subtree] = [] if self._top is None else [self._top]
        while waiting:
            subtree = waiting.pop()
            if isinstance(subtree, _Node):
                waiting += (subtree.right, subtree.left)
            elif isinstance(subtree, _Leaf) and subtree.key is not None:
                yield subtree.key, subtree.value
            else:
                raise MissingWitness("a partial tree cannot list its keys")

    def prove(self, keys: Iterable[bytes]) -> bytes:
        """The proof of the value or the absence of each of ``keys``.

        The partial tree made from it can also set any of them. Raises MissingWitness if this tree
        is itself partial and does not cover a key, ProofError if the proof exceeds MAX_PROOF.
        """
        if self._top is None:
            return bytes((_TAG_EMPTY,))
        parts: list[bytes] = []
        _prove(self._top, [_place(key) for key in keys], parts)
        proof = b"".join(parts)
        if len(proof) > MAX_PROOF:
            raise ProofError(f"a proof of {len(proof)} bytes exceeds {MAX_PROOF}")
        return proof

    @classmethod
    def from_proof(cls, proof: bytes, root: bytes) -> "Tree":
        """The partial tree that ``proof`` shows. Raises ProofError unless its root is ``root``."""
        tree = _tree(_decode(proof))
        if tree.root != root:
            raise ProofError("the proof is not of this root")
        return tree


Tree.EMPTY = Tree()


def verify_proof(root: bytes, key: bytes, proof: bytes) -> bytes | None:
    """The value of ``key`` under ``root``, or None if ``proof`` shows that there is none.

    Exactly one proof is accepted for a root and a key, the one that ``prove([key])`` gives: the
    path of the key, stubs beside it, and at its end one leaf, with a value iff it is the key's.
    Raises ProofError for anything else.
    """
    place = _place(key)
    subtree = Tree.from_proof(proof, root)._top
    while isinstance(subtree, _Node):
        left, right = subtree.left, subtree.right
        subtree, beside = (right, left) if place >> (255 - subtree.depth) & 1 else (left, right)
        if not isinstance(beside, _Stub):
            raise ProofError("the proof shows more than the path of the key")
    if subtree is None:
        return None
    if isinstance(subtree, _Leaf) and subtree.place == place:
        return subtree.value
    if isinstance(subtree, _BareLeaf) and subtree.place != place:
        return None
    raise ProofError("the proof shows neither the value of the key nor its absence")


def _tree(top: _Subtree | None) -> Tree:
    tree = Tree()
    tree._top = top
    return tree


def _first(change: _Change) -> int:
    return change[0]


def _bit(depth: int) -> Callable[[_Change], int]:
    shift = 255 - depth
    return lambda change: change[0] >> shift & 1


def _build(changes: list[_Change]) -> _Subtree:
    """The subtree of ``changes`` alone: at least one, in order of place."""
    first = changes[0][0]
    if len(changes) == 1:
        return _Leaf(*changes[0])
    depth = _KEY_BITS - (first ^ changes[-1][0]).bit_length()
    middle = bisect_left(changes, 1, key=_bit(depth))
    return _Node(depth, _build(changes[:middle]), _build(changes[middle:]), first)


def _update(subtree: _Subtree, changes: list[_Change]) -> _Subtree:
    """``subtree`` with ``changes`` set; the same object if nothing changes. In order of place."""
    if not changes:
        return subtree
    if isinstance(subtree, _Stub):
        raise MissingWitness("the proof does not cover a key that is written")
    place = subtree.place
    # Of changes in order, the first or the last parts earliest from any given place.
    apart = (changes[0][0] ^ place) | (changes[-1][0] ^ place)
    depth = _KEY_BITS - apart.bit_length()

    if isinstance(subtree, _Node) and subtree.depth <= depth:
        middle = bisect_left(changes, 1, key=_bit(subtree.depth))
        left = _update(subtree.left, changes[:middle])
        right = _update(subtree.right, changes[middle:])
        if left is subtree.left and right is subtree.right:
            return subtree
        return _Node(subtree.depth, left, right, place)

    if depth == _KEY_BITS:
        _, key, value = changes[0]
        if isinstance(subtree, _Leaf) and subtree.value == value:
            return subtree
        return _Leaf(place, key, value)

    # Some keys part from all of this subtree above it: a new node, and they make its other side.
    middle = bisect_left(changes, 1, key=_bit(depth))
    zeros, ones = changes[:middle], changes[middle:]
    if place >> (255 - depth) & 1:
        return _Node(depth, _build(zeros), _update(subtree, ones), place)
    return _Node(depth, _update(subtree, zeros), _build(ones), place)


def _prove(subtree: _Subtree, places: list[int], parts: list[bytes]) -> None:
    """Append the encoding of ``subtree`` cut down to the paths of ``places`` (in any order)."""
    if not places:
        parts += (bytes((_TAG_STUB,)), subtree.hash)
    elif isinstance(subtree, _Stub):
        raise MissingWitness("the proof does not cover a key that is to be proven")
    elif isinstance(subtree, _Node):
        shift = 255 - subtree.depth
        parts.append(bytes((_TAG_NODE, subtree.depth)))
        _prove(subtree.left, [place for place in places if not place >> shift & 1], parts)
        _prove(subtree.right, [place for place in places if place >> shift & 1], parts)
    elif subtree.place in places:
        if isinstance(subtree, _BareLeaf):
            raise MissingWitness("the proof does not show a value that is to be proven")
        place, length = subtree.place.to_bytes(HASH_SIZE, "big"), len(subtree.value)
        parts += (bytes((_TAG_LEAF,)), place, length.to_bytes(4, "big"), subtree.value)
    else:
        if isinstance(subtree, _BareLeaf):
            value_hash = subtree.value_hash
        else:
            value_hash = sha256(STATE_VALUE + subtree.value).digest()
        parts += (bytes((_TAG_BARE_LEAF,)), subtree.place.to_bytes(HASH_SIZE, "big"), value_hash)


def _decode(proof: bytes) -> _Subtree | None:
    """The pruned tree of ``proof``; None is the empty one. Raises ProofError.

    A loop with its own stack: what a stranger sends must not choose our recursion depth.
    """
    if len(proof) > MAX_PROOF:
        raise ProofError(f"a proof of {len(proof)} bytes exceeds {MAX_PROOF}")
    if proof == bytes((_TAG_EMPTY,)):
        return None
    unfinished: list[tuple[int, _Subtree | None]] = []  # nodes: depth, left side once known
    reader = _Reader(proof)
    while True:
        tag = reader.take(1)[0]
        if tag == _TAG_NODE:
            depth = reader.take(1)[0]
            if unfinished and depth <= unfinished[-1][0]:
                raise ProofError("depths do not increase downwards")
            unfinished.append((depth, None))
            continue
        subtree = reader.end_of_path(tag)
        while unfinished and (left := unfinished[-1][1]) is not None:
            subtree = _join(unfinished.pop()[0], left, subtree)
        if not unfinished:
            break
        unfinished[-1] = (unfinished[-1][0], subtree)
    if reader.position != len(proof):
        raise ProofError("bytes after the end of the proof")
    return subtree


class _Reader:
    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        start, end = self.position, self.position + size
        if end > len(self.data):
            raise ProofError("the proof is cut short")
        self.position = end
        return self.data[start:end]

    def end_of_path(self, tag: int) -> _Subtree:
        if tag == _TAG_STUB:
            return _Stub(self.take(HASH_SIZE))
        if tag == _TAG_BARE_LEAF:
            place = int.from_bytes(self.take(HASH_SIZE), "big")
            return _BareLeaf(place, self.take(HASH_SIZE))
        if tag == _TAG_LEAF:
            place = int.from_bytes(self.take(HASH_SIZE), "big")
            length = int.from_bytes(self.take(4), "big")
            return _Leaf(place, None, self.take(length))
        raise ProofError(f"unknown tag {tag}")


def _join(depth: int, left: _Subtree, right: _Subtree) -> _Node:
    """A node read from a proof. Raises ProofError if no crit-bit tree contains it.

    It is enough to look at one leaf of each side: below a side that is a node, all visible leaves
    share the bits before *its* depth, which is larger, by the same check made there.
    """
    shift = 255 - depth
    seen: list[int] = []
    for side, subtree in enumerate((left, right)):
        if isinstance(subtree, _Stub):
            continue
        if subtree.place >> shift & 1 != side:
            raise ProofError("a leaf is on the wrong side of a node")
        seen.append(subtree.place)
    if not seen:
        raise ProofError("a node whose two sides are both cut away")
    if (seen[0] ^ seen[-1]) >> shift > 1:
        raise ProofError("leaves below a node differ before its depth")
    return _Node(depth, left, right, seen[0])
