"""What a node remembers of verified transactions: found by their very bytes, bounded, and never a bad signature."""

import pytest

from chainkit.block import Block
from chainkit.chain import Chain, InvalidBlock, MisshapenBlock
from chainkit.execution import FeeParameters
from chainkit.genesis import Genesis, GenesisAccount
from chainkit.keys import dev_keypair
from chainkit.transaction import Body, SignedTransaction, Transfer
from l1node.recent import Recent

ALICE, BOB = dev_keypair("alice"), dev_keypair("bob")


def transfer(nonce: int) -> SignedTransaction:
    body = Body(900, ALICE.address, nonce, 40_000, 20, 1, Transfer(BOB.address, 1))
    return SignedTransaction.sign(body, ALICE)


def forged(tx: SignedTransaction) -> SignedTransaction:
    """The same transaction, and so the same id, with a signature that is not the sender's."""
    return SignedTransaction.decode(tx.wire[:-1] + bytes([tx.wire[-1] ^ 1]))


def chain() -> Chain:
    accounts = sorted(
        (GenesisAccount(key.address, 10**12) for key in (ALICE, BOB)), key=lambda account: account.address
    )
    return Chain(
        Genesis(
            chain_id=900,
            name="t",
            time=0,
            slot_ms=1000,
            era_slots=8,
            devnet=True,
            fees=FeeParameters(),
            accounts=accounts,
            validators=[],
            contracts=[],
            vault=None,
        )
    )


def test_the_oldest_go_first_by_number_and_by_bytes() -> None:
    txs = [transfer(nonce) for nonce in range(4)]
    size = len(txs[0].wire)
    for recent in (Recent(max_transactions=2), Recent(max_bytes=2 * size)):
        for tx in [*txs, txs[3]]:
            recent.add(tx)
        assert [recent.get(tx.wire) is tx for tx in txs] == [False, False, True, True]
        recent.remove(txs[:3])
        assert len(recent) == 1
        recent.remove(txs)
        recent.add(txs[0])
        recent.add(txs[1])
        assert len(recent) == 2


def test_a_known_transaction_is_neither_decoded_nor_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, tx = chain(), transfer(0)
    executed, _ = rules.build(rules.genesis_block, 1, BOB.address, [tx])
    recent = Recent()
    assert rules.execute(rules.genesis_block, executed.block, recent).transactions[0] is not tx
    first = recent.get(tx.wire)  # execution has left it there
    assert first is not None
    monkeypatch.setattr("chainkit.transaction.verify", None)
    assert rules.execute(rules.genesis_block, executed.block, recent).transactions[0] is first


def test_the_same_transaction_with_a_bad_signature_is_another_one() -> None:
    """Ids do not cover signatures: a block with a forged copy of what we know is not valid for that."""
    rules, tx = chain(), transfer(0)
    assert tx.signature_valid()
    recent = Recent()
    recent.add(tx)
    bad = forged(tx)
    bad._valid = True  # what a liar's own node would say
    executed, _ = rules.build(rules.genesis_block, 1, BOB.address, [bad])
    with pytest.raises(InvalidBlock):
        rules.execute(rules.genesis_block, executed.block, recent)
    assert recent.get(bad.wire) is None


def test_other_transactions_than_the_headers_say_nothing_about_the_header() -> None:
    rules = chain()
    executed, _ = rules.build(rules.genesis_block, 1, BOB.address, [transfer(0)])
    with pytest.raises(MisshapenBlock):
        rules.execute(rules.genesis_block, Block(executed.block.header, [transfer(1).wire]))


def test_one_whose_check_is_under_way_is_checked_once_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, tx = chain(), transfer(0)
    executed, _ = rules.build(rules.genesis_block, 1, BOB.address, [tx])
    recent, arrived = Recent(), SignedTransaction.decode(tx.wire)
    recent.begin_check([arrived])
    assert not recent.is_good(arrived)
    assert rules.execute(rules.genesis_block, executed.block, recent).transactions[0] is arrived
    assert recent.is_good(arrived)
    recent.end_check([arrived])
    monkeypatch.setattr("chainkit.transaction.verify", None)
    assert arrived.signature_valid()  # known by now, without a check


def test_what_is_under_way_is_not_believed() -> None:
    rules, bad = chain(), forged(transfer(0))
    bad._valid = True
    executed, _ = rules.build(rules.genesis_block, 1, BOB.address, [bad])
    recent, arrived = Recent(), SignedTransaction.decode(bad.wire)
    recent.begin_check([arrived])
    with pytest.raises(InvalidBlock):
        rules.execute(rules.genesis_block, executed.block, recent)
    recent.end_check([arrived])
    assert recent.get(bad.wire) is None
