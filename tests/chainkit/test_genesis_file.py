"""A genesis as a file: JSON or the record's own bytes, the same chain either way, and junk is one clear line."""

import json
from pathlib import Path

import pytest
from ledger import make_genesis
from msgspec.structs import replace

from chainkit import genesis as genesis_module
from chainkit.chain import Chain
from chainkit.codec import encode
from chainkit.genesis import (
    Genesis,
    GenesisAccount,
    GenesisError,
    check_genesis,
    genesis_from_bytes,
    genesis_state,
    genesis_to_json,
)
from chainkit.known import open_chain
from chainkit.views import account_name


@pytest.fixture
def genesis(monkeypatch: pytest.MonkeyPatch) -> Genesis:
    monkeypatch.setattr(genesis_module, "_checked", set())
    return make_genesis()


def test_json_and_bytes_are_the_same_chain(genesis: Genesis) -> None:
    for data in (encode(genesis), json.dumps(genesis_to_json(genesis)).encode()):
        assert genesis_from_bytes(data).hash() == genesis.hash()


def test_junk_is_refused(genesis: Genesis) -> None:
    data = encode(genesis)
    for junk in (
        b"",
        b"\x9b",
        data[:-1],
        data + b"\x00",
        b"\x9a" + data[1:],
        b"\x9b\xcd\x00\x01" + data[2:],
        b"\xff" * 99,
    ):
        with pytest.raises(GenesisError):
            genesis_from_bytes(junk)


@pytest.mark.parametrize("address", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_the_bytes_of_a_bad_genesis_make_no_chain(genesis: Genesis, tmp_path: Path, address: bytes) -> None:
    """Who reads the record checks the shape; whoever makes a chain of it, the keys: the first time at least."""
    accounts = sorted([*genesis.accounts, GenesisAccount(address, 5)], key=lambda account: account.address)
    bad = genesis_from_bytes(encode(replace(genesis, accounts=accounts)))
    for make in (Chain, check_genesis, genesis_state, lambda g: open_chain(g, tmp_path)):
        with pytest.raises(GenesisError, match="not a valid public key"):
            make(bad)
    assert not list(tmp_path.iterdir())


def test_a_note_for_one_genesis_is_none_for_another(genesis: Genesis, tmp_path: Path) -> None:
    open_chain(genesis, tmp_path)
    other = replace(genesis, time=genesis.time + 1)
    assert open_chain(other, tmp_path).genesis_header == Chain(other).genesis_header
    assert open_chain(other, tmp_path).genesis_hash == other.hash()


def test_two_chains_of_one_genesis_share_its_state(genesis: Genesis) -> None:
    one, other = Chain(genesis), Chain(replace(genesis))
    assert one.genesis_tree is other.genesis_tree
    root = one.genesis_tree.root
    one.forget_genesis_tree()
    other.forget_genesis_tree()
    assert one.genesis_tree.root == root


def test_the_name_of_an_account_is_found_wherever_it_stands(genesis: Genesis) -> None:
    plain = replace(genesis, devnet=False)
    for account in genesis.accounts:
        assert account_name(plain, account.address) == (account.name or None)
    for stranger in (bytes(32), b"\xff" * 32, b"\x80" * 32):
        assert account_name(plain, stranger) is None
