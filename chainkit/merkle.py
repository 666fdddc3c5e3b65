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
a leaf is one byte string; tuples of bytes are objects that Python's garbage collector does not visit; one
key alone goes down and up in a loop, several together part at each node by one binary search.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import ClassVar, Final

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
_Node = tuple["_Subtree", "_Subtree", int, bytes]
"""Left, right, the shift that brings the bit of its depth to the end of a place, and the bytes that are hashed:
STATE_NODE, depth, hash of left, hash of right."""
_Subtree = _Node | _Leaf | _Shown | None
_Hashed = tuple[_Subtree, bytes]
"""A subtree and its hash."""
_Change = tuple[int, bytes, bytes]
"""Place, head, value."""

_PREFIX: Final = [STATE_NODE + bytes((depth,)) for depth in range(_KEY_BITS)]
_LEFT: Final = len(_PREFIX[0])
_RIGHT: Final = _LEFT + HASH_SIZE
_LONG_KEY: Final = 255


def _head(key: bytes) -> bytes:
    """What a leaf of ``key`` begins with, and no leaf of another key."""
    size = len(key)
    return bytes((size,)) + key if size < _LONG_KEY else b"\xff" + size.to_bytes(4, "big") + key


def _key_and_value(leaf: _Leaf) -> tuple[bytes, bytes]:
    start, size = 1, leaf[0]
    if size == _LONG_KEY:
        start, size = 5, int.from_bytes(leaf[1:5], "big")
    return leaf[start : start + size], leaf[start + size :]


def _leaf_hash(place: int, value_hash: bytes) -> bytes:
    return sha256(STATE_LEAF + place.to_bytes(HASH_SIZE, "big") + value_hash).digest()


def _make_leaf(change: _Change) -> _Hashed:
    place, head, value = change
    return head + value, _leaf_hash(place, sha256(STATE_VALUE + value).digest())


def _make_node(depth: int, left: _Hashed, right: _Hashed) -> _Hashed:
    hashed = _PREFIX[depth] + left[1] + right[1]
    return (left[0], right[0], 255 - depth, hashed), sha256(hashed).digest()


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
        while isinstance(subtree, tuple):
            subtree = subtree[1] if place >> subtree[2] & 1 else subtree[0]
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
        ordered = [(_place(key), _head(key), value) for key, value in changes.items()]
        ordered.sort()
        if not ordered:
            return self
        if self._root == EMPTY_ROOT:
            return _tree(_build(ordered))
        writer = _Writer(ordered)
        top = writer.write(self._top, None, 0, len(ordered))
        return self if top[0] is self._top else _tree(top)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value), in the order of key hashes. Raises MissingWitness if partial."""
        return iter(()) if self._root == EMPTY_ROOT else _items(self._top)

    def part(self, index: int, bits: int) -> Iterator[tuple[bytes, bytes]]:
        """Those of `items` whose key hashes begin with ``index``, a number of so many ``bits``."""
        if self._root == EMPTY_ROOT:
            return iter(())
        subtree, place = self._top, index << _KEY_BITS - bits
        while isinstance(subtree, tuple) and subtree[2] >= _KEY_BITS - bits:
            subtree = subtree[1] if place >> subtree[2] & 1 else subtree[0]
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
        return _tree(_build((_place(key), _head(key), value) for key, value in items))

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
    while isinstance(subtree, tuple):
        left, right = subtree[0], subtree[1]
        subtree, beside = (right, left) if place >> subtree[2] & 1 else (left, right)
        if beside is not _Stub:
            raise ProofError("the proof shows more than the path of the key")
    if isinstance(subtree, _Shown) and (subtree.place == place) == (subtree.value is not None):
        return subtree.value
    raise ProofError("the proof shows neither the value of the key nor its absence")


def _items(subtree: _Subtree) -> Iterator[tuple[bytes, bytes]]:
    waiting = [subtree]
    while waiting:
        subtree = waiting.pop()
        if isinstance(subtree, tuple):
            waiting += (subtree[1], subtree[0])
        elif isinstance(subtree, _Leaf):
            yield _key_and_value(subtree)
        else:
            raise MissingWitness("a partial tree cannot list its keys")


def _tree(top: _Hashed) -> Tree:
    tree = Tree()
    tree._top, tree._root = top
    return tree


def _build(changes: Iterable[_Change]) -> _Hashed:
    """The subtree of ``changes`` alone, in order of place: what is finished of it waits, from left to right,
    in a stack, with the depth at which each part leaves the one before. Raises ValueError."""
    parts: list[_Hashed] = []
    depths: list[int] = []
    before = -1
    for change in changes:
        place = change[0]
        if place <= before:
            raise ValueError("keys are not in the order of their hashes, each once")
        if parts:
            depth = _KEY_BITS - (place ^ before).bit_length()
            while depths and depths[-1] > depth:
                right = parts.pop()
                parts[-1] = _make_node(depths.pop(), parts[-1], right)
            depths.append(depth)
        parts.append(_make_leaf(change))
        before = place
    while depths:
        right = parts.pop()
        parts[-1] = _make_node(depths.pop(), parts[-1], right)
    return parts[0] if parts else (_Stub, EMPTY_ROOT)


def _place_of(leaf: _Subtree) -> int:
    if isinstance(leaf, _Shown):
        return leaf.place
    if isinstance(leaf, _Leaf):
        return _place(_key_and_value(leaf)[0])
    raise MissingWitness("the proof does not cover a key that is written")


def _place_near(subtree: _Subtree, change: _Change) -> int:
    """The place of the leaf to which a change's bits lead: all leaves of a subtree share the bits before its
    depth. It is the change's own, without a hash, unless the key is new."""
    place, head, _ = change
    while isinstance(subtree, tuple):
        subtree = subtree[1] if place >> subtree[2] & 1 else subtree[0]
    return place if isinstance(subtree, _Leaf) and subtree.startswith(head) else _place_of(subtree)


def _hash_of(subtree: _Subtree) -> bytes:
    """The hash of a subtree whose node is not at hand."""
    if isinstance(subtree, tuple):
        return sha256(subtree[3]).digest()
    if isinstance(subtree, _Leaf):
        key, value = _key_and_value(subtree)
        return _leaf_hash(_place(key), sha256(STATE_VALUE + value).digest())
    if subtree is _Stub:
        raise MissingWitness("the proof does not cover a key that is written")
    return _leaf_hash(subtree.place, subtree.value_hash)


class _Writer:
    """One batch of changes, in order of place, on its way through a tree.

    Each method gives what becomes of a subtree: the very same object, with any hash, if nothing changes.
    """

    __slots__ = ("changes", "places")

    def __init__(self, changes: list[_Change]) -> None:
        self.changes = changes
        self.places = [change[0] for change in changes]

    def write(self, subtree: _Subtree, inside: int | None, start: int, end: int) -> _Hashed:
        """Set ``changes[start:end]``, at least one. ``inside``: the place of some leaf below, if known."""
        if end - start == 1:
            return _write_one(subtree, self.changes[start])
        if inside is None:
            inside = _place_near(subtree, self.changes[start])
        first = self.places[start]
        # Of places in order, the first or the last parts earliest from any given one.
        depth = _KEY_BITS - ((first ^ inside) | (self.places[end - 1] ^ inside)).bit_length()
        if not isinstance(subtree, tuple) or 255 - depth > subtree[2]:
            return self._part(subtree, inside, depth, start, end)
        left, right, shift, hashed = subtree
        middle = bisect_left(self.places, (first >> shift | 1) << shift, start, end)
        known_right = inside >> shift & 1
        new_left: _Hashed = left, b""
        new_right: _Hashed = right, b""
        if start < middle:
            new_left = self.write(left, None if known_right else inside, start, middle)
        if middle < end:
            new_right = self.write(right, inside if known_right else None, middle, end)
        if new_left[0] is left:
            if new_right[0] is right:
                return subtree, b""
            hashed = hashed[:_RIGHT] + new_right[1]
        elif new_right[0] is right:
            hashed = hashed[:_LEFT] + new_left[1] + hashed[_RIGHT:]
        else:
            hashed = hashed[:_LEFT] + new_left[1] + new_right[1]
        return (new_left[0], new_right[0], shift, hashed), sha256(hashed).digest()

    def _part(self, subtree: _Subtree, inside: int, depth: int, start: int, end: int) -> _Hashed:
        """Some keys part from all of ``subtree`` above it: a new node, and they make its other side."""
        shift = 255 - depth
        middle = bisect_left(self.places, (inside >> shift | 1) << shift, start, end)
        if inside >> shift & 1:
            old = self._beside(subtree, inside, middle, end)
            return _make_node(depth, _build(self.changes[start:middle]), old)
        old = self._beside(subtree, inside, start, middle)
        return _make_node(depth, old, _build(self.changes[middle:end]))

    def _beside(self, subtree: _Subtree, inside: int, start: int, end: int) -> _Hashed:
        written = self.write(subtree, inside, start, end) if start < end else (subtree, b"")
        return (subtree, _hash_of(subtree)) if written[0] is subtree else written


def _write_one(subtree: _Subtree, change: _Change) -> _Hashed:
    """``subtree`` with one key set: down to its leaf, and up again."""
    top, (place, head, value) = subtree, change
    path: list[_Node] = []
    while isinstance(subtree, tuple):
        path.append(subtree)
        subtree = subtree[1] if place >> subtree[2] & 1 else subtree[0]
    if isinstance(subtree, _Leaf):
        apart = 0 if subtree.startswith(head) else place ^ _place_of(subtree)
        same = not apart and subtree[len(head) :] == value
    elif subtree is _Stub:
        raise MissingWitness("the proof does not cover a key that is written")
    else:
        apart = place ^ subtree.place
        same = not apart and subtree.value == value
    if same:
        return top, b""
    new, hash_ = _make_leaf(change)
    if apart:  # the key is new: above the first node of a larger depth than that at which it parts
        depth = _KEY_BITS - apart.bit_length()
        while path and path[-1][2] < 255 - depth:
            subtree = path.pop()
        old = subtree, _hash_of(subtree)
        if place >> 255 - depth & 1:
            new, hash_ = _make_node(depth, old, (new, hash_))
        else:
            new, hash_ = _make_node(depth, (new, hash_), old)
    for left, right, shift, hashed in reversed(path):
        if place >> shift & 1:
            hashed = hashed[:_RIGHT] + hash_
            new = (left, new, shift, hashed)
        else:
            hashed = hashed[:_LEFT] + hash_ + hashed[_RIGHT:]
            new = (new, right, shift, hashed)
        hash_ = sha256(hashed).digest()
    return new, hash_


def _prove(whole: _Hashed, places: list[int], parts: list[bytes]) -> None:
    """Append the encoding of a subtree cut down to the paths of ``places`` (in any order)."""
    subtree, hash_ = whole
    if not places:
        parts += (bytes((_TAG_STUB,)), hash_)
    elif isinstance(subtree, tuple):
        left, right, shift, hashed = subtree
        parts.append(bytes((_TAG_NODE, hashed[1])))
        _prove((left, hashed[_LEFT:_RIGHT]), [place for place in places if not place >> shift & 1], parts)
        _prove((right, hashed[_RIGHT:]), [place for place in places if place >> shift & 1], parts)
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
    return *_make_node(depth, left[:2], right[:2]), seen[0]
