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

What makes it fast, and small (10^6 keys and more): a node *is* the bytes that its hash is of, and holds the
hashes of its sides in them, so that a change reads and writes what lies on its path and nothing beside it;
a leaf is one byte string; a node is an object that Python's garbage collector does not know of. A batch of changes
is one sweep from left to right (`_write`): down to a key from where it parts from the one before, and up to where the
next one parts from it, and what is passed on the way up is never touched again.
"""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import pairwise
from typing import ClassVar, Final

import msgspec

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
    """The place of ``key`` as an integer, whose bits are quick to ask for."""
    return int.from_bytes(key_hash(key), "big")


# The kinds of subtree. None has its own hash: that of a side lies in the bytes of its node, that of the
# whole in the tree.


class _Node(msgspec.Struct, gc=False, eq=False):
    """``shift`` brings the bit of its depth to the end of a place; ``hashed`` are the bytes that are hashed:
    STATE_NODE, depth, hash of left, hash of right. No cycle can go through it."""

    left: "_Subtree"
    right: "_Subtree"
    shift: int
    hashed: bytes


class _Shown:
    """A leaf that came from a proof: its place instead of its key, and its value unless it is bare."""

    __slots__ = ("place", "value", "value_hash")

    def __init__(self, place: int, value: bytes | None, value_hash: bytes) -> None:
        self.place = place
        self.value = value
        self.value_hash = value_hash


_Stub = None
_Leaf = bytes
"""A key's length, the key, the value: see `_head`."""
_Subtree = _Node | _Leaf | _Shown | None
_Hashed = tuple[_Subtree, bytes]
"""A subtree and its hash."""

_PREFIX: Final = [STATE_NODE + bytes((255 - shift,)) for shift in range(_KEY_BITS)]
"""What a node's bytes begin with, by its shift."""
_LEFT: Final = len(_PREFIX[0])
_RIGHT: Final = _LEFT + HASH_SIZE
_LONG_KEY: Final = 255
_SIZE: Final = [bytes((size,)) for size in range(_LONG_KEY)]


def _head(key: bytes) -> bytes:
    """What a leaf of ``key`` begins with, and no leaf of another key."""
    size = len(key)
    return _SIZE[size] + key if size < _LONG_KEY else b"\xff" + size.to_bytes(4, "big") + key


def _key_and_value(leaf: _Leaf) -> tuple[bytes, bytes]:
    start, size = 1, leaf[0]
    if size == _LONG_KEY:
        start, size = 5, int.from_bytes(leaf[1:5], "big")
    return leaf[start : start + size], leaf[start + size :]


def _leaf_hash(place: int, value_hash: bytes) -> bytes:
    return sha256(STATE_LEAF + place.to_bytes(HASH_SIZE, "big") + value_hash).digest()


class Tree:
    """An immutable map from bytes to bytes with a Merkle root; ``Tree()`` is the empty one.

    ``update`` gives a new tree that shares all untouched subtrees with the old one. A tree from
    ``from_proof`` is *partial*: it behaves as the full one for the keys that the proof covers and
    raises ``MissingWitness`` for those it does not. Leaves are never deleted; an empty value is a
    leaf too (a tombstone), which ``get`` does not tell from an absent key but the root does.
    """

    __slots__ = ("__weakref__", "_root", "_top")

    EMPTY: ClassVar["Tree"]

    def __init__(self) -> None:
        self._top: _Subtree = _Stub
        self._root = EMPTY_ROOT

    @property
    def root(self) -> bytes:
        """The Merkle root, 32 bytes."""
        return self._root

    def get(self, key: bytes) -> bytes:
        """The value of ``key``; ``b""`` if the tree has none.

        Raises MissingWitness if a partial tree shows neither the value nor its absence.
        """
        place = _place(key)
        subtree = self._top
        while isinstance(subtree, _Node):
            subtree = subtree.right if place >> subtree.shift & 1 else subtree.left
        if isinstance(subtree, _Leaf):
            head = _head(key)
            return subtree[len(head) :] if subtree.startswith(head) else b""
        if subtree is _Stub:
            if self._root == EMPTY_ROOT:
                return b""
            raise MissingWitness("the proof does not cover the key")
        if subtree.place != place:
            return b""
        if subtree.value is None:
            raise MissingWitness("the proof does not show the value of the key")
        return subtree.value

    def update(self, changes: Mapping[bytes, bytes]) -> "Tree":
        """The tree with every ``key: value`` of ``changes`` set; each node is hashed at most once.

        Raises MissingWitness, and changes nothing, if a partial tree does not cover a key.
        """
        if not changes:
            return self
        top = _write(_NOTHING if self._root == EMPTY_ROOT else self._top, changes)
        return _tree(top) if top[1] else self

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value), in the order of key hashes. Raises MissingWitness if partial."""
        return iter(()) if self._root == EMPTY_ROOT else _items(self._top)

    def part(self, index: int, bits: int) -> Iterator[tuple[bytes, bytes]]:
        """Those of `items` whose key hashes begin with ``index``, a number of so many ``bits``."""
        if self._root == EMPTY_ROOT:
            return iter(())
        subtree, place = self._top, index << _KEY_BITS - bits
        while isinstance(subtree, _Node) and subtree.shift >= _KEY_BITS - bits:
            subtree = subtree.right if place >> subtree.shift & 1 else subtree.left
        found = next(_items(subtree))[0]
        return _items(subtree) if _place(found) >> _KEY_BITS - bits == index else iter(())

    def prove(self, keys: Iterable[bytes]) -> bytes:
        """The proof of the value or the absence of each of ``keys``.

        The partial tree made from it can also set any of them. Raises MissingWitness if this tree
        is itself partial and does not cover a key, ProofError if the proof exceeds MAX_PROOF.
        """
        if self._root == EMPTY_ROOT:
            return bytes((_TAG_EMPTY,))
        parts: list[bytes] = []
        _prove((self._top, self._root), [_place(key) for key in keys], parts)
        proof = b"".join(parts)
        if len(proof) > MAX_PROOF:
            raise ProofError(f"a proof of {len(proof)} bytes exceeds {MAX_PROOF}")
        return proof

    @classmethod
    def from_items(cls, items: Iterable[tuple[bytes, bytes]]) -> "Tree":
        """The tree of (key, value) pairs in the order that ``items`` of a tree gives: a pass, nothing kept
        beside the tree. Raises ValueError if the order is another, or a key is there twice."""
        return _tree(_build(items))

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
    if root == EMPTY_ROOT:
        return None
    while isinstance(subtree, _Node):
        left, right = subtree.left, subtree.right
        subtree, beside = (right, left) if place >> subtree.shift & 1 else (left, right)
        if beside is not _Stub:
            raise ProofError("the proof shows more than the path of the key")
    if isinstance(subtree, _Shown) and (subtree.place == place) == (subtree.value is not None):
        return subtree.value
    raise ProofError("the proof shows neither the value of the key nor its absence")


def _items(subtree: _Subtree) -> Iterator[tuple[bytes, bytes]]:
    waiting = [subtree]
    while waiting:
        subtree = waiting.pop()
        if isinstance(subtree, _Node):
            waiting += (subtree.right, subtree.left)
        elif isinstance(subtree, _Leaf):
            yield _key_and_value(subtree)
        else:
            raise MissingWitness("a partial tree cannot list its keys")


def _tree(top: _Hashed) -> Tree:
    tree = Tree()
    tree._top, tree._root = top
    return tree


def _build(items: Iterable[tuple[bytes, bytes]]) -> _Hashed:
    """The tree of ``items``, in order of place. Raises ValueError.

    What is finished waits in a stack until its right side is: the shift at which that parts from it, it, its hash.
    """
    waiting: list[tuple[int, _Subtree, bytes]] = []
    new: _Subtree = _Stub
    hash_, before = EMPTY_ROOT, -1
    for key, value in items:
        where = key_hash(key)
        place = int.from_bytes(where, "big")
        if place <= before:
            raise ValueError("keys are not in the order of their hashes, each once")
        if before >= 0:
            apart = (place ^ before).bit_length() - 1
            if waiting and waiting[-1][0] < apart:
                new, hash_ = _joined(waiting, apart, new, hash_)
            waiting.append((apart, new, hash_))
        new = _head(key) + value
        hash_ = sha256(STATE_LEAF + where + sha256(STATE_VALUE + value).digest()).digest()
        before = place
    return _joined(waiting, _KEY_BITS, new, hash_)


def _joined(waiting: list[tuple[int, _Subtree, bytes]], apart: int, new: _Subtree, hash_: bytes) -> _Hashed:
    """``new`` with what waits for it, below where the next key parts from it."""
    while waiting and waiting[-1][0] < apart:
        shift, left, left_hash = waiting.pop()
        hashed = _PREFIX[shift] + left_hash + hash_
        new, hash_ = _Node(left, new, shift, hashed), sha256(hashed).digest()
    return new, hash_


def _place_of(leaf: _Leaf | _Shown) -> int:
    return leaf.place if isinstance(leaf, _Shown) else _place(_key_and_value(leaf)[0])


def _hash_of(subtree: _Subtree) -> bytes:
    """The hash of a subtree whose node is not at hand."""
    if isinstance(subtree, _Node):
        return sha256(subtree.hashed).digest()
    if isinstance(subtree, _Leaf):
        key, value = _key_and_value(subtree)
        return _leaf_hash(_place(key), sha256(STATE_VALUE + value).digest())
    assert subtree is not _Stub, "a path to a leaf leads through it"
    return _leaf_hash(subtree.place, subtree.value_hash)


_ABOVE: Final = _Node(_Stub, _Stub, _KEY_BITS, b"")
"""What every path begins with."""
_NOTHING: Final = b""
"""Where a key goes that has a side of a new node to itself; no leaf is as short."""


def _write(top: _Subtree, changes: Mapping[bytes, bytes]) -> _Hashed:
    """``top`` with ``changes`` set, at least one; with no hash if nothing changes.

    Open are the nodes above the key in hand: ``node``, and ``path`` above it. ``new`` is what becomes of the subtree
    below ``node``, and ``hash_`` its hash, empty if it is the very same object. An open node whose left side has
    changed already has in it that side, the bytes up to its hash, and, on the right, the node that it was.
    """
    ordered = [(key_hash(key), key, value) for key, value in changes.items()]
    ordered.sort()
    places = [int.from_bytes(entry[0]) for entry in ordered]
    aparts = [(place ^ following).bit_length() - 1 for place, following in pairwise(places)]
    aparts.append(_KEY_BITS)  # from what comes after all keys the last one parts above every node
    prefix = _PREFIX
    path: list[_Node] = []
    push, pop = path.append, path.pop
    node, subtree, new, hash_ = _ABOVE, top, top, b""
    for (where, key, value), place, apart in zip(ordered, places, aparts, strict=True):
        while type(subtree) is _Node:
            push(node)
            node, subtree = subtree, subtree.right if place >> subtree.shift & 1 else subtree.left
        head = _head(key)
        leaf = head + value
        if isinstance(subtree, _Leaf) and subtree.startswith(head):
            same = subtree == leaf
        else:
            push(node)
            same = _make_room(path, subtree, place, value)
            node = pop()
        if same:
            new, hash_ = subtree, b""
        else:
            new, hash_ = leaf, sha256(STATE_LEAF + where + sha256(STATE_VALUE + value).digest()).digest()
        shift = node.shift
        while shift < apart:  # the next key is not below it
            if not hash_:
                new, hash_ = _closed(node, new)
            elif place >> shift & 1:
                hashed = node.hashed[:_RIGHT] + hash_
                new = _Node(node.left, new, shift, hashed)
                hash_ = sha256(hashed).digest()
            else:
                hashed = prefix[shift] + hash_ + node.hashed[_RIGHT:]
                new = _Node(new, node.right, shift, hashed)
                hash_ = sha256(hashed).digest()
            node = pop()
            shift = node.shift
        if apart == _KEY_BITS:
            break
        if shift > apart:  # no node parts them yet
            push(node)
            node = _Node(new, _Stub, apart, _PREFIX[apart] + (hash_ or _hash_of(new)))
            subtree = _NOTHING
        else:
            subtree = node.right
            if hash_:
                node = _Node(new, node, shift, _PREFIX[shift] + hash_)
    return new, hash_


def _make_room(path: list[_Node], subtree: _Subtree, place: int, value: bytes) -> bool:
    """A key leads to what is not known to be its leaf: whether it is, and has that value already. A new key parts
    from the leaf found, and gets a side of a node above the first one of a smaller shift than that at which it does."""
    if subtree is _NOTHING:
        return False
    if not isinstance(subtree, _Leaf | _Shown):
        raise MissingWitness("the proof does not cover a key that is written")
    if isinstance(subtree, _Shown) and subtree.place == place:
        return subtree.value == value
    shift = (place ^ _place_of(subtree)).bit_length() - 1
    below: _Subtree = subtree
    while path[-1].shift < shift:
        below = path.pop()
    if place >> shift & 1:
        path.append(_Node(below, _Stub, shift, _PREFIX[shift] + _hash_of(below)))
    else:
        path.append(_Node(_Stub, below, shift, _PREFIX[shift] + bytes(HASH_SIZE) + _hash_of(below)))
    return False


def _closed(node: _Node, right: _Subtree) -> _Hashed:
    """What becomes of a node below which nothing has changed since its left side was left."""
    if len(node.hashed) > _RIGHT:
        return node, b""
    before = node.right
    assert isinstance(before, _Node)
    hashed = node.hashed + before.hashed[_RIGHT:]
    return _Node(node.left, right, node.shift, hashed), sha256(hashed).digest()


def _prove(whole: _Hashed, places: list[int], parts: list[bytes]) -> None:
    """Append the encoding of a subtree cut down to the paths of ``places`` (in any order)."""
    subtree, hash_ = whole
    if not places:
        parts += (bytes((_TAG_STUB,)), hash_)
    elif isinstance(subtree, _Node):
        shift, hashed = subtree.shift, subtree.hashed
        parts.append(bytes((_TAG_NODE, hashed[1])))
        left, right = (subtree.left, hashed[_LEFT:_RIGHT]), (subtree.right, hashed[_RIGHT:])
        _prove(left, [place for place in places if not place >> shift & 1], parts)
        _prove(right, [place for place in places if place >> shift & 1], parts)
    elif subtree is _Stub:
        raise MissingWitness("the proof does not cover a key that is to be proven")
    else:
        parts += _prove_leaf(subtree, places)


def _prove_leaf(subtree: _Leaf | _Shown, places: list[int]) -> tuple[bytes, ...]:
    place = _place_of(subtree)
    value = subtree.value if isinstance(subtree, _Shown) else _key_and_value(subtree)[1]
    where = place.to_bytes(HASH_SIZE, "big")
    if place not in places:
        value_hash = subtree.value_hash if isinstance(subtree, _Shown) else None
        if value is not None:
            value_hash = sha256(STATE_VALUE + value).digest()
        assert value_hash is not None
        return bytes((_TAG_BARE_LEAF,)), where, value_hash
    if value is None:
        raise MissingWitness("the proof does not show a value that is to be proven")
    return bytes((_TAG_LEAF,)), where, len(value).to_bytes(4, "big"), value


_Part = tuple[_Subtree, bytes, int | None]
"""A subtree read from a proof, its hash, and the place of some leaf that it shows."""


def _decode(proof: bytes) -> _Hashed:
    """The pruned tree of ``proof``. Raises ProofError.

    A loop with its own stack: what a stranger sends must not choose our recursion depth.
    """
    if len(proof) > MAX_PROOF:
        raise ProofError(f"a proof of {len(proof)} bytes exceeds {MAX_PROOF}")
    if proof == bytes((_TAG_EMPTY,)):
        return _Stub, EMPTY_ROOT
    unfinished: list[tuple[int, _Part | None]] = []  # nodes: depth, left side once known
    reader = _Reader(proof)
    while True:
        tag = reader.take(1)[0]
        if tag == _TAG_NODE:
            depth = reader.take(1)[0]
            if unfinished and depth <= unfinished[-1][0]:
                raise ProofError("depths do not increase downwards")
            unfinished.append((depth, None))
            continue
        part = reader.end_of_path(tag)
        while unfinished and (left := unfinished[-1][1]) is not None:
            part = _join(unfinished.pop()[0], left, part)
        if not unfinished:
            break
        unfinished[-1] = (unfinished[-1][0], part)
    if reader.position != len(proof):
        raise ProofError("bytes after the end of the proof")
    return part[0], part[1]


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

    def end_of_path(self, tag: int) -> _Part:
        if tag == _TAG_STUB:
            return _Stub, self.take(HASH_SIZE), None
        if tag == _TAG_BARE_LEAF:
            place = int.from_bytes(self.take(HASH_SIZE), "big")
            return self._shown(place, None, self.take(HASH_SIZE))
        if tag == _TAG_LEAF:
            place = int.from_bytes(self.take(HASH_SIZE), "big")
            value = self.take(int.from_bytes(self.take(4), "big"))
            return self._shown(place, value, sha256(STATE_VALUE + value).digest())
        raise ProofError(f"unknown tag {tag}")

    @staticmethod
    def _shown(place: int, value: bytes | None, value_hash: bytes) -> _Part:
        return _Shown(place, value, value_hash), _leaf_hash(place, value_hash), place


def _join(depth: int, left: _Part, right: _Part) -> _Part:
    """A node read from a proof. Raises ProofError if no crit-bit tree contains it.

    It is enough to look at one leaf of each side: below a side that is a node, all visible leaves
    share the bits before *its* depth, which is larger, by the same check made there.
    """
    shift = 255 - depth
    seen: list[int] = []
    for side, (_, _, place) in enumerate((left, right)):
        if place is None:
            continue
        if place >> shift & 1 != side:
            raise ProofError("a leaf is on the wrong side of a node")
        seen.append(place)
    if not seen:
        raise ProofError("a node whose two sides are both cut away")
    if (seen[0] ^ seen[-1]) >> shift > 1:
        raise ProofError("leaves below a node differ before its depth")
    hashed = _PREFIX[shift] + left[1] + right[1]
    return _Node(left[0], right[0], shift, hashed), sha256(hashed).digest(), seen[0]
