"""Journaled state: key -> value bytes over a Merkle tree, with checkpoint and revert.

Responsible for reads, writes, undo and the state root; the one interface that execution sees, whether the
tree below is whole or a witness. Must not know what the values mean, apart from accounts and their keys.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from chainkit.codec import U53, Address, Amount, Record, decode, encode
from chainkit.hashing import tagged_hash
from chainkit.merkle import Tree

MAX_VALUE_BYTES = 4096


class Account(Record, frozen=True):
    """A balance in gwei and the nonce of the next transaction."""

    balance: Amount = 0
    nonce: U53 = 0


EMPTY_ACCOUNT = Account()


def account_key(address: Address) -> bytes:
    """State key of an account."""
    return b"a" + address


def storage_key(contract: str, key: bytes) -> bytes:
    """State key of one contract's storage entry; the length byte keeps contracts apart."""
    name = contract.encode("ascii")
    return b"c" + bytes([len(name)]) + name + key


def system_key(name: str) -> bytes:
    """State key of a record that belongs to the chain itself (block environment, supply, validators)."""
    return b"s" + name.encode("ascii")


def contract_address(name: str) -> Address:
    """The account that holds a contract's balance. A hash, so nobody has its private key."""
    return tagged_hash("contract", name.encode("ascii"))


_decode: Final = msgspec.msgpack.Decoder(Account).decode


def decode_account(value: bytes) -> Account:
    """An account from its bytes; none is the empty one. Raises `CodecError`.

    Asked twice for each transfer; it is what `decode` does, without asking first what kind and how long.
    """
    if not value:
        return EMPTY_ACCOUNT
    try:
        account = _decode(value)
    except msgspec.MsgspecError:
        account = EMPTY_ACCOUNT
    return account if encode(account) == value else decode(Account, value)


class State:
    """A mutable view over an immutable `Tree`. Missing and empty are the same: ``b""``.

    Raises `chainkit.merkle.MissingWitness` where the tree is partial and lacks what is asked.
    """

    def __init__(self, tree: Tree, known: Mapping[bytes, bytes] | None = None) -> None:
        """``known``: values of the tree that the caller has at hand, so that they need not be looked up there."""
        self._tree = tree
        self._known: Mapping[bytes, bytes] = {} if known is None else known
        self._values: dict[bytes, bytes] = {}  # every key read or written since the tree
        self._looked_up: dict[bytes, bytes] = {}  # those that were not at hand, with their values in the tree
        self._dirty: dict[bytes, bytes] = {}  # every key written since the tree, with its value there
        self._kept: set[bytes] = (
            set()
        )  # keys that had a value at the end of a step (asked only for membership)
        self._journal: list[tuple[bytes, bytes]] = []

    def get(self, key: bytes) -> bytes:
        value = self._values.get(key)
        if value is None:
            value = self._known.get(key)
            if value is None:
                value = self._looked_up[key] = self._tree.get(key)
            self._values[key] = value
        return value

    def set(self, key: bytes, value: bytes) -> None:
        old = self.get(key)
        if old != value:
            self._journal.append((key, old))
            self._values[key] = value
            self._dirty.setdefault(key, old)

    def checkpoint(self) -> int:
        """A mark to `revert` to."""
        return len(self._journal)

    def revert(self, mark: int) -> None:
        """Undo every write since the mark."""
        while len(self._journal) > mark:
            key, old = self._journal.pop()
            self._values[key] = old

    def changed_since(self, mark: int) -> dict[bytes, bytes]:
        """Each key written since the mark, with the value that it had at the mark."""
        first: dict[bytes, bytes] = {}
        for key, old in self._journal[mark:]:
            first.setdefault(key, old)
        return first

    def end_step(self) -> None:
        """Make the writes so far leave what a `commit` here would; the marks taken before become void.

        A value that a later step deletes leaves an empty leaf, so the root after many steps is the same
        whether or not it was asked for after each (a one-step proof asks, a block does not).
        """
        self._kept.update(key for key, _ in self._journal if self._values[key])
        self._journal.clear()

    def write_step(self, written: Mapping[bytes, bytes]) -> None:
        """What `set` of each key and then `end_step` would do, for keys that were read, and values that are neither
        empty nor those which they have. No mark may be open."""
        values, dirty = self._values, self._dirty
        self.end_step()
        for key in written:
            if key not in dirty:
                dirty[key] = values[key]
        self._kept.update(written)
        values.update(written)

    def read(self) -> Mapping[bytes, bytes]:
        """Every key that was asked for, with its present value."""
        return self._values

    def looked_up(self) -> Mapping[bytes, bytes]:
        """The keys that were asked for and not ``known``, with their values in the tree that this view was made of."""
        return self._looked_up

    def touched(self) -> list[bytes]:
        """Every key read or written since this view was made: what a witness must cover."""
        return sorted(self._values)

    def commit(self) -> Tree:
        """Fold all writes into the tree in one batch; the marks taken before become void.

        What was written and undone leaves no trace, not even an empty leaf: the root depends on content only.
        """
        return self.commit_changes()[0]

    def commit_changes(self) -> tuple[Tree, dict[bytes, bytes]]:
        """`commit`, and what it wrote."""
        changes = self.changes()
        if changes:
            self._tree = self._tree.update(changes)
        self._dirty.clear()
        self._kept.clear()
        self._journal.clear()
        return self._tree, changes

    def changes(self) -> dict[bytes, bytes]:
        """What the next `commit` would write (before it is called)."""
        values, kept = self._values, self._kept
        return {key: values[key] for key, old in self._dirty.items() if values[key] != old or key in kept}

    def root(self) -> bytes:
        """The Merkle root after all writes so far (commits them)."""
        return self.commit().root

    # --- accounts ---

    def account(self, address: Address) -> Account:
        return decode_account(self.get(b"a" + address))

    def has_account(self, address: Address) -> bool:
        return bool(self.get(account_key(address)))

    def set_account(self, address: Address, account: Account) -> None:
        self.set(account_key(address), encode(account))


class WitnessState(State):
    """The same state over a partial tree: it knows what the proof covers and fails loudly beyond it.

    Raises `chainkit.merkle.ProofError` unless the proof is well formed and hashes to ``root``.
    """

    def __init__(self, proof: bytes, root: bytes) -> None:
        super().__init__(Tree.from_proof(proof, root))
