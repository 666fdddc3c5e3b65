"""Wintermute/Optimism 2022: a signature binds chain, purpose and nonce (promise P19)."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from ledger import ALICE, BOB, VALIDATORS, make_genesis

from chainkit.block import SignedHeader, Vote, slot_message
from chainkit.chain import Chain
from chainkit.codec import encode
from chainkit.contract import NoArgs
from chainkit.hashing import tagged_hash
from chainkit.keys import verify
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from l1node.evidence import EvidenceError, ProposalEvidence, VoteEvidence, check_evidence
from rollup.receipt import BlockPromise, SequencerReceipt

CHAINS = (900, 901, 902)
KEY = ALICE
PLACE = (5, 5)  # slot and height, or height and position: the same two numbers wherever two are signed
HASH = tagged_hash("a block, or a transaction", b"")
Verifier = Callable[[int, bytes], bool]


@dataclass(frozen=True)
class Signed:
    """One kind of signed thing: how it is signed on a chain, and whether a signature is good for it there."""

    name: str
    sign: Callable[[int], bytes]
    valid: Verifier


def body(chain: int, action: Transfer | Call) -> Body:
    return Body(chain, KEY.address, 5, 100_000, 16, 0, action)


def transaction(name: str, action: Transfer | Call) -> Signed:
    def valid(chain: int, signature: bytes) -> bool:
        wire = b"\x98" + encode(body(chain, action))[1:] + encode(signature)
        return SignedTransaction.decode(wire).signature_valid()

    return Signed(name, lambda chain: SignedTransaction.sign(body(chain, action), KEY).signature, valid)


KINDS = [
    Signed(
        "vote",
        lambda chain: Vote.sign(KEY, chain, *PLACE, HASH).signature,
        lambda chain, s: Vote(chain, *PLACE, HASH, KEY.address, s).valid(),
    ),
    Signed(
        "proposal",
        lambda chain: KEY.sign(slot_message("proposal", chain, *PLACE, HASH)),
        lambda chain, s: SignedHeader(chain, *PLACE, HASH, KEY.address, s).valid(),
    ),
    Signed(
        "sequencer receipt",
        lambda chain: BlockPromise.sign(KEY, chain, PLACE[0], [HASH]).signature,
        lambda chain, s: SequencerReceipt(chain, HASH, PLACE[0], 0, 1, [], KEY.address, s).valid(),
    ),
    transaction("transfer", Transfer(BOB.address, 7)),
    transaction("deposit", Call("bridge", "deposit", encode([BOB.address]), 7)),
    transaction("withdraw", Call("messenger", "withdraw", encode([BOB.address]), 7)),
    transaction("stake", Call("staking", "stake", encode(NoArgs()), 7)),
]
CASES = [(kind, chain) for kind in KINDS for chain in CHAINS]


@pytest.mark.parametrize(("kind", "chain"), CASES, ids=lambda value: getattr(value, "name", str(value)))
def test_wintermute_replay_on_another_chain(kind: Signed, chain: int) -> None:
    """Every signed type, held for every type on every chain: good for its own, on its own, and nothing else."""
    signature = kind.sign(chain)
    good = [(other.name, where) for other, where in CASES if other.valid(where, signature)]
    assert good == [(kind.name, chain)]
    for message in (HASH, encode([chain, *PLACE, HASH]), tagged_hash("", HASH), b"", KEY.address):
        assert not verify(KEY.address, message, signature)


def test_the_list_above_has_every_signing_message_of_the_code() -> None:
    """A new use of a key must be added there: this finds every place that signs."""
    from pathlib import Path

    root = Path(__file__).parents[2]
    places = {
        str(path.relative_to(root))
        for package in ("chainkit", "l1node", "rollup", "bridge", "layerlab")
        for path in (root / package).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "key.sign(" in line or "_key.sign(" in line or "crypto_sign(" in line
    }
    assert places == {"chainkit/keys.py", "chainkit/block.py", "chainkit/transaction.py", "rollup/receipt.py"}


def test_wintermute_a_nonce_is_used_once_and_only_here() -> None:
    """The same key, nonce and action on sister chains: each runs its own once, in order, and no other's."""
    chains = {i: Chain(make_genesis(chain_id=i)) for i in CHAINS}
    txs = {
        i: [
            SignedTransaction.sign(Body(i, KEY.address, n, 100_000, 16, 0, Transfer(BOB.address, 7)), KEY)
            for n in range(2)
        ]
        for i in CHAINS
    }
    for here, chain in chains.items():
        everything = [tx for i in CHAINS for tx in txs[i]]
        block, skipped = chain.build(chain.genesis_block, 1, VALIDATORS[0].address, everything * 2)
        assert [tx.id for tx in block.transactions] == [tx.id for tx in txs[here]]
        codes = [(tx.body.chain_id, refusal.code) for tx, refusal in skipped]
        assert {code for i, code in codes if i != here} == {"wrong_chain"}
        assert [code for i, code in codes if i == here] == ["stale_nonce"] * 2


@pytest.mark.parametrize("chain", [901, 902, 0])
def test_wintermute_evidence_is_of_one_chain(chain: int) -> None:
    """A validator of two chains votes in the same slot of both: that is no offence on either."""
    here, there = Vote.sign(KEY, 900, *PLACE, HASH), Vote.sign(KEY, chain, *PLACE, bytes(32))
    other = Vote.sign(KEY, chain, *PLACE, HASH)
    proposals = [
        SignedHeader(i, *PLACE, h, KEY.address, KEY.sign(slot_message("proposal", i, *PLACE, h)))
        for i, h in ((900, HASH), (chain, bytes(32)))
    ]
    for evidence in (
        VoteEvidence(here, there),
        VoteEvidence(there, here),
        VoteEvidence(there, other),
        ProposalEvidence(*proposals),
    ):
        with pytest.raises(EvidenceError):
            check_evidence(evidence, 900)
