"""The state tree against a naive reference, and its proofs against forgers (tests/threats/README.md)."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit import merkle
from chainkit.merkle import (
    EMPTY_ROOT,
    MAX_PROOF,
    MissingWitness,
    ProofError,
    Tree,
    key_hash,
    verify_proof,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "merkle.json").read_text("utf-8"))

# --- An independent reference: recursion over a dict, bit by bit, sharing no code with chainkit.

Place = Callable[[bytes], bytes]


def sha(*parts: bytes) -> bytes:
    return sha256(b"".join(parts)).digest()


def hashed(key: bytes) -> bytes:
    return sha(b"\x02", key)


def raw(key: bytes) -> bytes:
    """Keys at places of our choosing: what a forger could reach only by grinding hashes."""
    return key.ljust(32, b"\0")


def bits(place: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in place)


def leaf_hash(place: bytes, value: bytes) -> bytes:
    return sha(b"\x00", place, sha(b"\x03", value))


@dataclass(frozen=True)
class PathProof:
    """A single-key proof in parts: levels from the top (depth, side taken, hash beside), then the end."""

    levels: tuple[tuple[int, str, bytes], ...]
    end: bytes

    def encode(self) -> bytes:
        out = self.end
        for depth, side, beside in reversed(self.levels):
            stub = b"\x02" + beside
            out = b"\x01" + bytes([depth]) + (out + stub if side == "0" else stub + out)
        return out


def naive_subtree(leaves: dict[str, tuple[bytes, bytes]], depth: int = 0) -> bytes:
    if len(leaves) == 1:
        return leaf_hash(*next(iter(leaves.values())))
    zeros = {bits: leaf for bits, leaf in leaves.items() if bits[depth] == "0"}
    ones = {bits: leaf for bits, leaf in leaves.items() if bits[depth] == "1"}
    if not zeros or not ones:
        return naive_subtree(leaves, depth + 1)
    below = naive_subtree(zeros, depth + 1) + naive_subtree(ones, depth + 1)
    return sha(b"\x01", bytes([depth]), below)


def naive_leaves(content: dict[bytes, bytes], place: Place) -> dict[str, tuple[bytes, bytes]]:
    return {bits(place(key)): (place(key), value) for key, value in content.items()}


def naive_root(content: dict[bytes, bytes], place: Place = hashed) -> bytes:
    if not content:
        return sha(b"layerlab/v1/empty-state\0")
    return naive_subtree(naive_leaves(content, place))


def naive_path(content: dict[bytes, bytes], key: bytes, place: Place = hashed) -> PathProof:
    if not content:
        return PathProof((), b"\x04")
    leaves, wanted, levels = naive_leaves(content, place), bits(place(key)), []
    for depth in range(256):
        near = {bits: leaf for bits, leaf in leaves.items() if bits[depth] == wanted[depth]}
        far = {bits: leaf for bits, leaf in leaves.items() if bits[depth] != wanted[depth]}
        if near and far:
            levels.append((depth, wanted[depth], naive_subtree(far)))
            leaves = near
    ((found, value),) = leaves.values()
    if found == place(key):
        return PathProof(tuple(levels), b"\x03" + found + len(value).to_bytes(4, "big") + value)
    return PathProof(tuple(levels), b"\x00" + found + sha(b"\x03", value))


# --- Strategies

keys = st.integers(0, 40).map(lambda n: b"key/%d" % n)
values = st.binary(max_size=6)
contents = st.dictionaries(keys, values, max_size=30)
# Few set bits, so that keys part at every depth and long paths occur.
raw_keys = st.frozensets(st.sampled_from([0, 1, 2, 7, 8, 100, 254, 255]), max_size=4).map(
    lambda on: sum(1 << (255 - bit) for bit in on).to_bytes(32, "big")
)
raw_contents = st.dictionaries(raw_keys, values, max_size=24)
quick = settings(max_examples=100, deadline=None)


@contextmanager
def places_of_our_choosing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merkle, "key_hash", raw)
        yield


def small_tree(size: int = 16) -> tuple[dict[bytes, bytes], Tree]:
    content = {b"key/%d" % n: b"value/%d" % n for n in range(size)}
    return content, Tree().update(content)


def refused(root: bytes, key: bytes, proof: bytes) -> None:
    with pytest.raises(ProofError):
        verify_proof(root, key, proof)


# --- The map and its root


def test_empty_tree() -> None:
    assert Tree().root == Tree.EMPTY.root == EMPTY_ROOT == naive_root({})
    assert Tree().get(b"anything") == b""
    assert list(Tree().items()) == []
    assert Tree().prove([b"a", b"b"]) == b"\x04"
    assert Tree().update({}).root == EMPTY_ROOT


@quick
@given(contents)
def test_root_values_and_items_equal_the_naive_reference(content: dict[bytes, bytes]) -> None:
    tree = Tree().update(content)
    assert tree.root == naive_root(content)
    assert list(tree.items()) == sorted(content.items(), key=lambda item: hashed(item[0]))
    for number in range(41):
        assert tree.get(b"key/%d" % number) == content.get(b"key/%d" % number, b"")


@quick
@given(st.lists(contents, max_size=6))
def test_root_depends_on_content_only(batches: list[dict[bytes, bytes]]) -> None:
    """App-hash halts: batches, overwrites and restarts in between leave no trace in the root."""
    tree, content = Tree(), dict[bytes, bytes]()
    for batch in batches:
        tree, content = tree.update(batch), content | batch
        assert tree.root == naive_root(content)
    assert Tree().update(dict(tree.items())).root == tree.root


def test_root_is_the_same_for_all_insertion_orders() -> None:
    content, tree = small_tree(5)
    for order in itertools.permutations(content):
        grown = Tree()
        for key in order:
            grown = grown.update({key: content[key]})
        assert grown.root == tree.root


@quick
@given(raw_contents, raw_contents)
def test_root_with_keys_that_part_at_any_depth(first: dict[bytes, bytes], second: dict[bytes, bytes]) -> None:
    with places_of_our_choosing():
        assert Tree().update(first).update(second).root == naive_root(first | second, raw)


@quick
@given(raw_contents, st.dictionaries(raw_keys, st.none() | values, max_size=24))
def test_a_batch_of_new_changed_and_unchanged_keys(
    content: dict[bytes, bytes], batch: dict[bytes, bytes | None]
) -> None:
    """None: what is there already. One sweep sets them; what has not changed stays the very same object."""
    with places_of_our_choosing():
        tree = Tree().update(content)
        changes = {key: content.get(key, b"") if value is None else value for key, value in batch.items()}
        shared = set(map(id, subtrees(tree)))
        newer = tree.update(changes)
        assert newer.root == naive_root(content | changes, raw)
        assert list(newer.items()) == sorted((content | changes).items())
        assert (newer is tree) == all(content.get(key) == value for key, value in changes.items())
        fresh = [subtree for subtree in subtrees(newer) if id(subtree) not in shared]
        assert all(holds_one_of(subtree, changes) for subtree in fresh)
        assert tree.root == naive_root(content, raw)


def holds_one_of(subtree: object, changes: dict[bytes, bytes]) -> bool:
    return any(key in changes for key, _ in merkle._items(subtree))  # type: ignore[arg-type]


def test_tombstone_is_a_leaf() -> None:
    content, tree = small_tree(3)
    erased = tree.update({b"key/0": b""})
    assert erased.get(b"key/0") == b""
    assert erased.root == naive_root(content | {b"key/0": b""})
    assert erased.root != tree.root
    assert tree.update({b"new": b""}).root != tree.root
    assert verify_proof(erased.root, b"key/0", erased.prove([b"key/0"])) == b""
    assert verify_proof(erased.root, b"new", erased.prove([b"new"])) is None


def test_update_leaves_the_old_tree_alone_and_shares_with_it() -> None:
    content, tree = small_tree()
    before = (tree.root, dict(tree.items()))
    newer = tree.update({b"key/0": b"other", b"new": b"x"})
    assert (tree.root, dict(tree.items())) == before
    assert newer.root == naive_root(content | {b"key/0": b"other", b"new": b"x"})
    shared = set(map(id, subtrees(tree))) & set(map(id, subtrees(newer)))
    assert len(shared) > len(content)


def subtrees(tree: Tree) -> list[object]:
    found: list[object] = []
    waiting: list[object] = [tree._top]
    while waiting:
        subtree = waiting.pop()
        found.append(subtree)
        waiting += (subtree.left, subtree.right) if isinstance(subtree, merkle._Node) else ()
    return found


def test_each_touched_node_is_hashed_once_and_unchanged_values_cost_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content, tree = small_tree(50)
    hashes: list[bytes] = []

    def counting(data: bytes) -> object:
        hashes.append(data[:1])
        return sha256(data)

    monkeypatch.setattr(merkle, "sha256", counting)
    assert tree.update(content) is tree
    assert hashes == [b"\x02"] * 50
    hashes.clear()
    tree.update(dict.fromkeys(content, b"changed"))
    assert [hashes.count(domain) for domain in (b"\x02", b"\x03", b"\x00")] == [50, 50, 50]
    assert hashes.count(b"\x01") == 49
    hashes.clear()
    tree.update(content | {b"key/7": b"changed"})
    depth = len(naive_path(content, b"key/7").levels)
    assert (hashes.count(b"\x00"), hashes.count(b"\x01")) == (1, depth)


# --- Parts, and building in order


@quick
@given(contents, st.integers(1, 6))
def test_the_parts_of_a_tree_are_its_items_cut_by_the_first_bits(
    content: dict[bytes, bytes], bits: int
) -> None:
    tree = Tree().update(content)
    parts = [list(tree.part(index, bits)) for index in range(1 << bits)]
    assert [item for part in parts for item in part] == list(tree.items())
    for index, part in enumerate(parts):
        assert all(hashed(key)[0] >> 8 - bits == index for key, _ in part)


def test_a_tree_is_built_from_items_in_its_own_order_only() -> None:
    _, tree = small_tree(40)
    items = list(tree.items())
    assert Tree.from_items(items).root == tree.root
    assert Tree.from_items([]).root == EMPTY_ROOT
    for wrong in ([*items[1:], items[0]], [items[0], *items], [*items, items[-1]]):
        with pytest.raises(ValueError, match="order"):
            Tree.from_items(wrong)


def test_a_partial_tree_has_no_parts() -> None:
    _, full = small_tree()
    partial = Tree.from_proof(full.prove([b"key/1"]), full.root)
    with pytest.raises(MissingWitness):
        [list(partial.part(index, 1)) for index in range(2)]


# --- Partial trees


@quick
@given(contents, st.lists(keys, max_size=12), st.lists(st.dictionaries(keys, values), max_size=4))
def test_partial_tree_reads_and_updates_as_the_full_one(
    content: dict[bytes, bytes], covered: list[bytes], batches: list[dict[bytes, bytes]]
) -> None:
    full = Tree().update(content)
    check_partial(full, content, covered, batches)


@quick
@given(raw_contents, st.lists(raw_keys), st.lists(st.dictionaries(raw_keys, values), max_size=4))
def test_partial_tree_with_keys_that_part_at_any_depth(
    content: dict[bytes, bytes], covered: list[bytes], batches: list[dict[bytes, bytes]]
) -> None:
    with places_of_our_choosing():
        check_partial(Tree().update(content), content, covered, batches)


def check_partial(
    full: Tree,
    content: dict[bytes, bytes],
    covered: list[bytes],
    batches: list[dict[bytes, bytes]],
) -> None:
    """Covered keys, present and absent, read and set in any batches: never a stub in the way."""
    partial = Tree.from_proof(full.prove(covered), full.root)
    assert partial.update({key: content[key] for key in covered if key in content}) is partial
    for batch in [{}, *batches, dict.fromkeys(reversed(covered), b"last")]:
        known = {key: value for key, value in batch.items() if key in covered}
        full, partial, content = full.update(known), partial.update(known), content | known
        assert partial.root == full.root
        for key in covered:
            assert partial.get(key) == content.get(key, b"")
        assert partial.prove(covered) == full.prove(covered)


@quick
@given(contents, st.lists(keys, max_size=6), keys, values)
def test_partial_tree_is_right_or_says_what_is_missing(
    content: dict[bytes, bytes], covered: list[bytes], key: bytes, value: bytes
) -> None:
    full = Tree().update(content)
    partial = Tree.from_proof(full.prove(covered), full.root)
    try:
        assert partial.get(key) == content.get(key, b"")
    except MissingWitness:
        assert key not in covered
    try:
        assert partial.update({key: value}).root == full.update({key: value}).root
    except MissingWitness:
        assert key not in covered
    assert partial.root == full.root


def test_missing_witness_is_raised_for_what_is_cut_away() -> None:
    content, full = small_tree()
    partial = Tree.from_proof(full.prove([b"key/3"]), full.root)
    unseen = next(key for key in content if not shows(partial, key))
    for action in (partial.get, lambda key: partial.prove([key])):
        with pytest.raises(MissingWitness):
            action(unseen)
    with pytest.raises(MissingWitness):
        partial.update({b"key/3": b"covered", unseen: b"not covered"})
    with pytest.raises(MissingWitness):
        list(partial.items())
    with pytest.raises(MissingWitness):  # it shows the value, but only the hash of the key
        list(Tree.from_proof(Tree().update({b"a": b""}).prove([b"a"]), leaf_root(b"a", b"")).items())
    nothing = Tree.from_proof(full.prove([]), full.root)
    with pytest.raises(MissingWitness):
        nothing.update({b"key/3": b""})


def leaf_root(key: bytes, value: bytes) -> bytes:
    return leaf_hash(hashed(key), value)


def shows(tree: Tree, key: bytes) -> bool:
    try:
        tree.get(key)
    except MissingWitness:
        return False
    return True


def test_a_bare_leaf_can_be_set_but_not_read() -> None:
    tree = Tree().update({b"a": b"1"})
    proof = tree.prove([b"absent"])
    assert proof[:1] == b"\x00"
    partial = Tree.from_proof(proof, tree.root)
    with pytest.raises(MissingWitness):
        partial.get(b"a")
    with pytest.raises(MissingWitness):
        partial.prove([b"a"])
    assert partial.get(b"absent") == b""
    assert partial.update({b"a": b"2"}).root == tree.update({b"a": b"2"}).root
    assert partial.update({b"a": b"1"}).get(b"a") == b"1"
    assert partial.update({b"a": b"1"}).root == tree.root


# --- Single-key proofs


@quick
@given(contents, keys)
def test_single_key_proof_is_the_reference_one(content: dict[bytes, bytes], key: bytes) -> None:
    tree = Tree().update(content)
    proof = tree.prove([key])
    assert proof == naive_path(content, key).encode()
    assert verify_proof(tree.root, key, proof) == content.get(key)


@quick
@given(raw_contents, raw_keys)
def test_single_key_proof_at_any_depth(content: dict[bytes, bytes], key: bytes) -> None:
    with places_of_our_choosing():
        tree = Tree().update(content)
        proof = tree.prove([key])
        assert proof == naive_path(content, key, raw).encode()
        assert verify_proof(tree.root, key, proof) == content.get(key)


@pytest.mark.parametrize("key", [b"key/3", b"absent"])
def test_bnb_every_byte_of_a_proof_is_bound(key: bytes) -> None:
    """BNB bridge 2022: no bit can be flipped, nothing appended, cut, dropped or duplicated."""
    content, tree = small_tree()
    proof, path = tree.prove([key]), naive_path(content, key)
    assert verify_proof(tree.root, key, proof) == content.get(key)
    for position in range(len(proof) * 8):
        flipped = bytearray(proof)
        flipped[position // 8] ^= 1 << position % 8
        refused(tree.root, key, bytes(flipped))
    for size in range(len(proof)):
        refused(tree.root, key, proof[:size])
        refused(tree.root, key, proof[size + 1 :])
        refused(tree.root, key, proof[:size] + b"\0" + proof[size:])
    for extra in (b"\0", b"\4", proof, b"\2" + bytes(32)):
        refused(tree.root, key, proof + extra)
    for level, (depth, side, beside) in enumerate(path.levels):
        above, below = path.levels[:level], path.levels[level + 1 :]
        here = (depth, side, beside)
        other = "1" if side == "0" else "0"
        for levels in (
            above + below,
            (*above, here, here, *below),
            (*above, here, (depth + 1, side, beside), *below),
            (*above, (depth, other, beside), *below),
            (*below, here, *above),
        ):
            if levels != path.levels:
                refused(tree.root, key, replace(path, levels=levels).encode())


def test_dragonberry_absence_is_never_inferred() -> None:
    """Dragonberry 2022: neither a cut path, nor a neighbour, nor emptiness shows absence."""
    content, tree = small_tree()
    for key in content:
        path = naive_path(content, key)
        value_hash = sha(b"\x03", content[key])
        refused(tree.root, key, b"\x04")
        refused(tree.root, key, b"\x02" + tree.root)
        refused(tree.root, key, replace(path, end=b"\x00" + hashed(key) + value_hash).encode())
        refused(tree.root, key, replace(path, end=b"\x02" + leaf_root(key, content[key])).encode())
        for level in range(len(path.levels)):
            for end in (b"\x04", path.end, b"\x02" + path.levels[level][2]):
                refused(tree.root, key, replace(path, levels=path.levels[:level], end=end).encode())
        for other in (*content, b"absent/1", b"absent/2", b"absent/3"):
            if other != key:
                refused(tree.root, key, tree.prove([other]))
            if other != key and other in content:
                refused(tree.root, key, tree.prove([other, key]))
        refused(tree.root, key, tree.prove(content))
    refused(EMPTY_ROOT, b"absent", b"")
    refused(EMPTY_ROOT, b"absent", tree.prove([b"absent"]))
    assert verify_proof(EMPTY_ROOT, b"absent", b"\x04") is None


def test_absence_proof_serves_only_keys_on_its_path() -> None:
    """Neighbouring absent keys: a proof that ends in another leaf than theirs is refused."""
    content, tree = small_tree()
    absent = [b"absent/%d" % n for n in range(40)]
    for key, other in itertools.product(absent, absent):
        proof = tree.prove([other])
        if proof == tree.prove([key]):
            assert verify_proof(tree.root, key, proof) is None
        else:
            refused(tree.root, key, proof)
    valued = naive_path(content, absent[0])
    found = valued.end[1:33]
    value = next(value for key, value in content.items() if hashed(key) == found)
    end = b"\x03" + found + len(value).to_bytes(4, "big") + value
    refused(tree.root, absent[0], replace(valued, end=end).encode())  # right, but not canonical


def test_inner_node_is_no_leaf() -> None:
    """CVE-2017-12842: the two child hashes of a node do not pass for key hash and value hash."""
    content, tree = small_tree()
    top = tree._top
    assert isinstance(top, merkle._Node)
    children = top.hashed[2:]
    for tag in (b"\x00", b"\x03"):
        for key in (*content, b"absent"):
            refused(tree.root, key, tag + children)
    with pytest.raises(ProofError):
        Tree.from_proof(b"\x00" + children, tree.root)
    assert sha(b"\x01", top.hashed[1:2], children) == tree.root


# --- The decoder: trees that hash to the root they are held against, and still cannot exist


def node(depth: int, left: tuple[bytes, bytes], right: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    encoding = b"\x01" + bytes([depth]) + left[0] + right[0]
    return encoding, sha(b"\x01", bytes([depth]), left[1], right[1])


def stub(hash_: bytes = bytes(32)) -> tuple[bytes, bytes]:
    return b"\x02" + hash_, hash_


def bare(place_bits: str) -> tuple[bytes, bytes]:
    place = int(place_bits.ljust(256, "0"), 2).to_bytes(32, "big")
    return b"\x00" + place + bytes(32), sha(b"\x00", place, bytes(32))


IMPOSSIBLE = {
    "sides swapped": node(0, bare("1"), bare("0")),
    "left leaf on the right side": node(0, stub(), bare("0")),
    "right leaf on the left side": node(0, bare("1"), stub()),
    "two equal leaves": node(3, bare("0"), bare("0")),
    "prefixes differ": node(2, bare("000"), bare("011")),
    "prefixes differ far below": node(1, node(9, bare("0"), stub()), bare("11")),
    "depth repeated": node(0, node(0, bare("0"), stub()), stub()),
    "depth decreasing": node(5, node(4, bare("0"), stub()), stub()),
    "wrong side of a far ancestor": node(1, node(2, bare("011"), bare("010")), stub()),
    "right subtree on the left": node(0, node(1, bare("10"), bare("11")), stub()),
    "two stubs": node(0, stub(), stub()),
    "two stubs below": node(0, node(1, stub(), stub()), bare("1")),
    "empty tree below": node(0, (b"\x04", EMPTY_ROOT), bare("1")),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_tree_is_refused_although_its_root_agrees(name: str) -> None:
    proof, root = IMPOSSIBLE[name]
    with pytest.raises(ProofError) as caught:
        Tree.from_proof(proof, root)
    assert "not of this root" not in str(caught.value)


def test_possible_tree_of_the_same_making_is_accepted() -> None:
    """The positive control of the test above."""
    proof, root = node(1, node(2, bare("000"), bare("001")), node(7, stub(), bare("01000001")))
    assert Tree.from_proof(proof, root).root == root


def test_deepest_possible_tree_and_depth_bombs() -> None:
    tree = bare("0")
    for depth in reversed(range(256)):
        tree = node(depth, tree, stub())
    partial = Tree.from_proof(*tree)
    key = next(b"%d" % n for n in range(99) if hashed(b"%d" % n) < b"\x10")
    with pytest.raises(MissingWitness):
        partial.update({key: b"1"})
    with places_of_our_choosing():
        assert partial.update({bytes(32): b"1"}).get(bytes(32)) == b"1"
    for bomb in (b"\x01\x00" * 100_000, bytes([1, 0, 1, 1]) * 9, tree[0][: 2 * 256]):
        with pytest.raises(ProofError):
            Tree.from_proof(bomb, tree[1])


def test_proof_size_is_bounded_both_ways() -> None:
    fits = MAX_PROOF - 37
    tree = Tree().update({b"big": bytes(fits)})
    assert verify_proof(tree.root, b"big", tree.prove([b"big"])) == bytes(fits)
    bigger = Tree().update({b"big": bytes(fits + 1)})
    with pytest.raises(ProofError):
        bigger.prove([b"big"])
    proof = b"\x03" + hashed(b"big") + (fits + 1).to_bytes(4, "big") + bytes(fits + 1)
    refused(bigger.root, b"big", proof)
    refused(tree.root, b"big", b"\x03" + hashed(b"big") + b"\xff" * 4)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=80).map(lambda b: b"\x01\x00" + b)))
def test_random_bytes_give_nothing_but_proof_error(proof: bytes) -> None:
    _, tree = small_tree(4)
    refused(tree.root, b"key/1", proof)
    with pytest.raises(ProofError):
        Tree.from_proof(proof, tree.root)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_spliced_proofs_never_lie(data: st.DataObject) -> None:
    """Pieces of honest proofs in any order: refused, or right about every key they answer for."""
    content, tree = small_tree(6)
    known = [*content, b"absent/1", b"absent/2"]
    pieces = [tree.prove([key]) for key in known] + [tree.prove(known), tree.prove([])]
    proof = b""
    for _ in range(data.draw(st.integers(1, 4))):
        piece = data.draw(st.sampled_from(pieces))
        start = data.draw(st.sampled_from([0, 0, 2, 4, 33, 35, 37]))
        proof += piece[start : data.draw(st.just(len(piece)) | st.integers(0, len(piece)))]
    key = data.draw(st.sampled_from(known))
    try:
        assert verify_proof(tree.root, key, proof) == content.get(key)
        assert proof == tree.prove([key])
    except ProofError:
        assert proof != tree.prove([key])
    try:
        partial = Tree.from_proof(proof, tree.root)
    except ProofError:
        return
    assert all(partial.get(k) == content.get(k, b"") for k in known if shows(partial, k))


# --- Fixed vectors, quoted by docs/PROTOCOL.md


@pytest.mark.parametrize("vector", VECTORS["state"], ids=lambda vector: vector["name"])
def test_state_vectors(vector: dict[str, Any]) -> None:
    content = {bytes.fromhex(key): bytes.fromhex(value) for key, value in vector["entries"]}
    tree = Tree().update(content)
    assert tree.root.hex() == naive_root(content).hex() == vector["root"]


@pytest.mark.parametrize("vector", VECTORS["state_proofs"], ids=lambda vector: vector["name"])
def test_proof_vectors(vector: dict[str, Any]) -> None:
    content = {
        bytes.fromhex(key): bytes.fromhex(value)
        for state in VECTORS["state"]
        if state["name"] == vector["state"]
        for key, value in state["entries"]
    }
    key, root, proof = (bytes.fromhex(vector[name]) for name in ("key", "root", "proof"))
    value = None if vector["value"] is None else bytes.fromhex(vector["value"])
    assert key_hash(key).hex() == vector["key_hash"]
    assert Tree().update(content).prove([key]) == naive_path(content, key).encode() == proof
    assert verify_proof(root, key, proof) == value == content.get(key)
