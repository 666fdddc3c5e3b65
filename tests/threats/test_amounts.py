"""Amounts out of range, and blocks that hold what the mempool would refuse."""

from collections.abc import Callable
from typing import Any

import pytest
from ledger import (
    ALICE,
    BOB,
    CAROL,
    CHAIN_ID,
    STRANGER,
    USER_BALANCE,
    make_genesis,
    sign,
    transfer,
)
from msgspec.structs import replace

from chainkit.block import Block
from chainkit.chain import Chain, InvalidBlock
from chainkit.codec import CodecError, decode, encode, from_json, parse_json
from chainkit.execution import FeeParameters, InvalidTransaction
from chainkit.genesis import Genesis, GenesisError, genesis_state
from chainkit.keys import KeyPair
from chainkit.mempool import Mempool
from chainkit.merkle_list import list_root
from chainkit.state import Account, State
from chainkit.transaction import Body, Call, SignedTransaction, Transfer

# --- amounts ----------------------------------------------------------------------------------------------------

NOT_AMOUNTS: list[Any] = [
    -1,
    2**53,
    2**64 - 1,
    True,
    False,
    1.0,
    "1",
    b"1",
    None,
    [1],
    {},
    float("nan"),
    float("inf"),
]


@pytest.mark.parametrize("bad", NOT_AMOUNTS, ids=repr)
@pytest.mark.parametrize("field", range(2, 6))
def test_overflow_values(bad: Any, field: int) -> None:
    """CVE-2010-5139: what is no integer from 0 to 2**53 - 1 is no amount, nonce, gas or fee, in bytes or in JSON."""
    good = transfer(ALICE, 0, BOB.address, 5)
    wire = decode(list[Any], good.wire)
    with pytest.raises(CodecError):
        SignedTransaction.decode(encode([*wire[:field], bad, *wire[field + 1 :]]))
    for action in ([0, BOB.address, bad], [1, "bridge", "deposit", b"\x90", bad]):
        with pytest.raises(CodecError):
            SignedTransaction.decode(encode([*wire[:6], action, wire[7]]))
    shown = good.to_json()
    name = ("nonce", "gas_limit", "max_fee_per_gas", "tip_per_gas")[field - 2]
    for changed in ({**shown, name: bad}, {**shown, "action": {**shown["action"], "amount": bad}}):
        with pytest.raises(CodecError):
            SignedTransaction.from_json(changed)
    if isinstance(bad, int) and not isinstance(bad, bool):
        with pytest.raises((CodecError, OverflowError)):
            SignedTransaction.sign(replace(good.body, action=Transfer(BOB.address, bad)), ALICE)
        with pytest.raises((CodecError, GenesisError, OverflowError)):
            genesis_state(decode(Genesis, encode(with_balance(bad))))


def with_balance(amount: int) -> Genesis:
    plain = make_genesis()
    return replace(plain, accounts=[replace(plain.accounts[0], balance=amount), *plain.accounts[1:]])


@pytest.mark.parametrize(
    "text", ["NaN", "1.0", "1e3", "-0.0", "Infinity", "9" * 30, "01", "\u0663", '{"a":1,"a":1}']
)
def test_overflow_values_that_python_would_take(text: str) -> None:
    with pytest.raises(CodecError):
        from_json(Body, parse_json(text))
    with pytest.raises(CodecError):
        parse_json(text) if text != "9" * 30 else from_json(Account, {"balance": parse_json(text)})


@pytest.mark.parametrize("spare", [0, 1])
def test_overflow_of_sums(spare: int) -> None:
    """Each in range, together not: genesis, a balance, the cost of a transaction."""
    top = 2**53 - 1
    rest = sum(a.balance for a in make_genesis().accounts[1:])
    if spare:
        genesis_state(with_balance(top - rest))
    else:
        with pytest.raises(GenesisError, match="supply"):
            genesis_state(with_balance(top - rest + 1))
    chain = Chain(make_genesis())
    for gas_limit, max_fee in ((top, top), (30_000_000, top), (200_000, top // 100_000)):
        tx = transfer(ALICE, 0, BOB.address, top, gas_limit=gas_limit, max_fee=max_fee)
        block, skipped = chain.build(chain.genesis_block, 1, STRANGER.address, [tx])
        assert not block.transactions
        assert skipped[0][1].code in ("insufficient_balance", "gas_limit_too_high")


# --- imports ----------------------------------------------------------------------------------------------------

Make = Callable[[], SignedTransaction]


def by(key: KeyPair, sender: bytes) -> SignedTransaction:
    good = transfer(key, 0, BOB.address, 5)
    wire = b"\x98" + encode(replace(good.body, sender=sender))[1:] + encode(good.signature)
    return SignedTransaction.decode(wire)


REFUSED: dict[str, Make] = {
    "wrong chain": lambda: transfer(ALICE, 0, BOB.address, 5, chain_id=CHAIN_ID + 1),
    "no signature": lambda: SignedTransaction.decode(
        transfer(ALICE, 0, BOB.address, 5).wire[:-64] + bytes(64)
    ),
    "another's signature": lambda: by(CAROL, ALICE.address),
    "small-order sender": lambda: by(ALICE, b"\x01" + bytes(31)),
    "zero sender": lambda: by(ALICE, bytes(32)),
    "unfunded": lambda: transfer(STRANGER, 0, BOB.address, 0),
    "more than it has": lambda: transfer(ALICE, 0, BOB.address, USER_BALANCE),
    "gas that it cannot pay": lambda: transfer(ALICE, 0, BOB.address, USER_BALANCE - 400_000 * 20 + 1),
    "tip above maximum": lambda: transfer(ALICE, 0, BOB.address, 5, max_fee=9, tip=10),
    "under the floor": lambda: transfer(ALICE, 0, BOB.address, 5, max_fee=0, tip=0),
    "gas too low": lambda: transfer(ALICE, 0, BOB.address, 5, gas_limit=5_000),
    "gas too high": lambda: transfer(ALICE, 0, BOB.address, 5, gas_limit=30_000_001),
    "too large": lambda: sign(ALICE, 0, Call("x", "y", bytes(300_000), 0), gas_limit=10_000_000),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_import_checks_what_the_mempool_checks(name: str) -> None:
    """CVE-2018-17144: what the mempool refuses, no block may hold, whoever made it and signed its header."""
    chain, tx = Chain(make_genesis()), REFUSED[name]()
    state = State(chain.genesis_tree)
    pool = Mempool(chain.rules)
    with pytest.raises(InvalidTransaction) as refusal:
        pool.add(tx, state.account)
    assert len(pool) == 0
    good = transfer(BOB, 0, CAROL.address, 5)
    honest, skipped = chain.build(chain.genesis_block, 1, STRANGER.address, [tx, good])
    assert [(bad, error.code) for bad, error in skipped] == [(tx, refusal.value.code)]
    for wires in ([tx.wire], [tx.wire, good.wire], [good.wire, tx.wire], [tx.wire, tx.wire]):
        header = replace(honest.header, tx_root=list_root(wires))
        with pytest.raises(InvalidBlock):
            chain.execute(chain.genesis_block, Block(header, wires))
    assert chain.execute(chain.genesis_block, honest.block).hash == honest.hash


def test_import_checks_what_is_there_twice() -> None:
    """The very bug: one input spent twice in one block."""
    chain = Chain(make_genesis(fees=FeeParameters()))
    tx = transfer(ALICE, 0, BOB.address, 5)
    honest, _ = chain.build(chain.genesis_block, 1, STRANGER.address, [tx])
    twice = [tx.wire, tx.wire]
    header = replace(honest.header, tx_root=list_root(twice), gas_used=2 * honest.header.gas_used)
    with pytest.raises(InvalidBlock, match="nonce"):
        chain.execute(chain.genesis_block, Block(header, twice))
