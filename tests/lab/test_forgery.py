"""A second history, made with keys alone: final for whoever is shown it if the keys are a quorum, else refused; and
its evidence names every key that signed both, and no other."""

import pytest
from l1_script import KEYS, Script

from chainkit.block import CertifiedBlock
from chainkit.follower import FollowerCore, FollowError
from chainkit.keys import KeyPair, dev_keypair
from chainkit.state import State
from chainkit.transaction import Body, SignedTransaction, Transfer
from l1node.evidence import check_evidence
from layerlab.lab.forgery import ForgeryError, find_evidence, forge

ALICE, BOB, CAROL = (dev_keypair(name) for name in ("alice", "bob", "carol"))
AMOUNT = 1_000_000


def payment(script: Script, to: bytes, nonce: int = 0) -> SignedTransaction:
    body = Body(script.chain.rules.chain_id, ALICE.address, nonce, 100_000, 100, 1, Transfer(to, AMOUNT))
    return SignedTransaction.sign(body, ALICE)


def observer(script: Script) -> FollowerCore:
    return FollowerCore(script.chain, script.chain.genesis_block)


def honest(script: Script) -> list[CertifiedBlock]:
    """Four blocks; the second, final, pays bob. The first and the last are signed by all, the others by keys 0 to 2."""
    first = script.block(script.genesis, 1)
    second = script.block(first, 2, [payment(script, BOB.address)])
    blocks = [first, second, *script.chain_of([3, 4], second)]
    signers = [KEYS[:4], KEYS[:3], KEYS[:3], KEYS[:4]]
    return [CertifiedBlock(b.block, script.certify(b, keys)) for b, keys in zip(blocks, signers, strict=True)]


def balance(core: FollowerCore, address: bytes) -> int:
    return State(core.tip.tree).account(address).balance


def test_a_quorum_pays_two_with_the_same_coins() -> None:
    script = Script()
    merchant, exchange = observer(script), observer(script)
    rich = balance(merchant, BOB.address), balance(exchange, CAROL.address)
    merchant.add(honest(script))
    exchange.add(forge(script.chain, script.genesis, KEYS[:3], [payment(script, CAROL.address)]))
    assert balance(merchant, BOB.address) == rich[0] + AMOUNT
    assert balance(exchange, CAROL.address) == rich[1] + AMOUNT
    assert merchant.tip.hash != exchange.tip.hash
    assert exchange.tip.header.height == 2


@pytest.mark.parametrize("keys", [KEYS[:1], KEYS[1:3]], ids=["one", "two"])
def test_less_than_a_quorum_persuades_nobody(keys: list[KeyPair]) -> None:
    script = Script()
    exchange = observer(script)
    forged = forge(script.chain, script.genesis, keys, [payment(script, CAROL.address)])
    with pytest.raises(FollowError, match="less than two thirds"):
        exchange.add(forged)
    assert exchange.tip.hash == script.genesis.hash


def test_blocks_in_consecutive_slots_each_by_its_leader() -> None:
    script = Script()
    forged = forge(script.chain, script.genesis, KEYS[1:4], [payment(script, CAROL.address)], blocks=5)
    slots = [block.block.header.slot for block in forged]
    assert slots == list(range(slots[0], slots[0] + 5))
    assert [block.block.header.proposer for block in forged] == [script.leader(s).address for s in slots]
    assert [len(block.block.transactions) for block in forged] == [1, 0, 0, 0, 0]


def test_strangers_lead_no_slots() -> None:
    script = Script()
    with pytest.raises(ForgeryError, match="lead no 3 slots"):
        forge(script.chain, script.genesis, KEYS[5:8], [])


def test_a_payment_that_may_not_run_is_no_forgery() -> None:
    script = Script()
    with pytest.raises(ForgeryError, match="nonce"):
        forge(script.chain, script.genesis, KEYS[:3], [payment(script, CAROL.address, nonce=7)])


def test_evidence_against_everybody_who_signed_both_and_nobody_else() -> None:
    script = Script()
    turned = KEYS[1:4]  # the first key is honest
    theirs = [block.certificate for block in honest(script)]
    forged = forge(script.chain, script.genesis, turned, [payment(script, CAROL.address)])
    ours = [block.certificate for block in forged]
    chain_id = script.chain.rules.chain_id
    found = find_evidence(chain_id, ours, theirs)
    assert set(found) == {key.address for key in turned}
    for address, evidence in found.items():
        assert check_evidence(evidence, chain_id)[0] == address


def test_one_vote_on_each_side_need_not_be_an_offence() -> None:
    """Whoever voted once, at height 1, may vote at height 1 or above in a later slot: another block was proposed."""
    script = Script()
    first = script.block(script.genesis, 1)
    theirs = [script.certify(first, KEYS[:3])]
    later = script.block(script.genesis, 2)
    assert find_evidence(script.chain.rules.chain_id, [script.certify(later, KEYS[:3])], theirs) == {}


def test_an_honest_history_is_no_evidence() -> None:
    script = Script()
    certificates = [block.certificate for block in honest(script)]
    assert find_evidence(script.chain.rules.chain_id, certificates, certificates) == {}
    assert find_evidence(script.chain.rules.chain_id, certificates, []) == {}
