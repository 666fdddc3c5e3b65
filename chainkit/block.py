"""Blocks, votes, certificates, and the rule by which a block is final.

Responsible for the bytes of headers, proposals and votes, for integer quorums and for what makes a block
notarized and final (Streamlet, Chan & Shi 2020), so that a node and a follower judge alike.
Must not know how votes travel, nor what the transactions do.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from operator import lt
from typing import Annotated

from msgspec import Meta

from chainkit.codec import U53, Address, Bytes32, CodecError, Record, Signature, encode
from chainkit.hashing import tagged_hash
from chainkit.keys import KeyPair, verify
from chainkit.merkle_list import list_root
from chainkit.state import system_key

MAX_BLOCK_BYTES = 2 * 1024 * 1024
MAX_VALIDATORS = 64


class Header(Record, frozen=True):
    """A block's header. ``state_root`` is the root *after* the block; ``time`` in ms since 1970."""

    chain_id: U53
    height: U53
    slot: U53
    time: U53
    parent: Bytes32
    proposer: Address
    state_root: Bytes32
    tx_root: Bytes32
    receipts_root: Bytes32
    base_fee: U53
    gas_used: U53

    def hash(self) -> Bytes32:
        """The block hash."""
        return tagged_hash("header", encode(self))


class Block(Record, frozen=True):
    """A header and the wire bytes of its transactions, in order."""

    header: Header
    transactions: list[bytes]

    def tx_root(self) -> Bytes32:
        return list_root(self.transactions)


@lru_cache(maxsize=256)
def slot_message(kind: str, chain_id: int, slot: int, height: int, block_hash: Bytes32) -> Bytes32:
    """The 32 bytes that a vote ("vote") or a proposal ("proposal") signs: for all votes for a block the same."""
    return tagged_hash(kind, encode([chain_id, slot, height, block_hash]))


class Vote(Record, frozen=True):
    """A validator's vote for a block; slot *and* height are signed (docs/PROTOCOL.md, section 6)."""

    chain_id: U53
    slot: U53
    height: U53
    block_hash: Bytes32
    voter: Address
    signature: Signature

    @classmethod
    def sign(cls, key: KeyPair, chain_id: int, slot: int, height: int, block_hash: Bytes32) -> "Vote":
        signature = key.sign(slot_message("vote", chain_id, slot, height, block_hash))
        return cls(chain_id, slot, height, block_hash, key.address, signature)

    def valid(self) -> bool:
        """Whether the voter signed it."""
        message = slot_message("vote", self.chain_id, self.slot, self.height, self.block_hash)
        return verify(self.voter, message, self.signature)


class CertificateVote(Record, frozen=True):
    """One signature of a certificate."""

    voter: Address
    signature: Signature


class Certificate(Record, frozen=True):
    """A quorum's votes for one block, sorted by voter: what makes it notarized."""

    slot: U53
    height: U53
    block_hash: Bytes32
    votes: Annotated[list[CertificateVote], Meta(max_length=MAX_VALIDATORS)]


class SignedHeader(Record, frozen=True):
    """A proposer's signature over a header's place and hash; enough to prove a double proposal."""

    chain_id: U53
    slot: U53
    height: U53
    block_hash: Bytes32
    proposer: Address
    signature: Signature

    def valid(self) -> bool:
        message = slot_message("proposal", self.chain_id, self.slot, self.height, self.block_hash)
        return verify(self.proposer, message, self.signature)


class Proposal(Record, frozen=True):
    """A leader's block, its signature, and the parent's certificate (None for a child of genesis)."""

    block: Block
    parent_certificate: Certificate | None
    signature: Signature

    @classmethod
    def sign(cls, key: KeyPair, block: Block, parent: Certificate | None) -> "Proposal":
        h = block.header
        message = slot_message("proposal", h.chain_id, h.slot, h.height, h.hash())
        return cls(block, parent, key.sign(message))

    def signed_header(self) -> SignedHeader:
        h = self.block.header
        return SignedHeader(h.chain_id, h.slot, h.height, h.hash(), h.proposer, self.signature)


class CertifiedBlock(Record, frozen=True):
    """A notarized block with its proof."""

    block: Block
    certificate: Certificate


class Validator(Record, frozen=True):
    """A validator's key and its stake in gwei."""

    address: Address
    stake: U53


class ValidatorSet(Record, frozen=True, dict=True, gc=True):
    """The validators of an era, sorted by address, each with a positive stake.

    One set is asked many times in every slot of its era, so it remembers who has what (``dict``, and so ``gc``).
    """

    validators: Annotated[list[Validator], Meta(max_length=MAX_VALIDATORS)]

    @cached_property
    def total(self) -> int:
        return sum(v.stake for v in self.validators)

    @cached_property
    def stakes(self) -> dict[Address, int]:
        """The stake behind each key. Of two of one address the first counts."""
        return {v.address: v.stake for v in reversed(self.validators)}

    def stake_of(self, address: Address) -> int:
        """The stake behind a key; 0 if it is not in the set."""
        return self.stakes.get(address, 0)

    def is_quorum(self, stake: int) -> bool:
        """Two thirds, in integers; an empty set has no quorum (promise P24)."""
        return self.total > 0 and 3 * stake >= 2 * self.total

    def leader(self, seed: Bytes32, slot: int) -> Address | None:
        """The leader of a slot, drawn by stake from a seed that no leader can vary. None if empty.

        The draw is scaled to the total, not reduced modulo it: seeds are known, and a gwei more of stake must
        not draw every slot of an era anew for whoever tries a thousand amounts.
        """
        total = self.total
        if total == 0:
            return None
        draw = int.from_bytes(sha256(seed + slot.to_bytes(8, "big")).digest(), "big") * total >> 256
        for validator in self.validators:
            if draw < validator.stake:
                return validator.address
            draw -= validator.stake
        raise AssertionError("unreachable: the draw is below the total stake")


class CertificateError(ValueError):
    """A certificate does not prove that its block is notarized."""


def check_certificate(header: Header, certificate: Certificate, validators: ValidatorSet) -> None:
    """Raises `CertificateError` unless the votes are for this header and amount to a quorum."""
    place = (certificate.slot, certificate.height, certificate.block_hash)
    if place != (header.slot, header.height, header.hash()):
        raise CertificateError("the certificate is for another block")
    voters = [vote.voter for vote in certificate.votes]
    if not all(map(lt, voters, voters[1:])):
        raise CertificateError("votes are not strictly sorted by voter")
    stakes = [validators.stakes.get(voter, 0) for voter in voters]
    if not validators.is_quorum(sum(stakes)):
        raise CertificateError("the votes are less than two thirds of the stake")
    if not all(stakes):
        raise CertificateError("a vote is not by a validator")
    message = slot_message("vote", header.chain_id, *place)
    for vote in certificate.votes:
        if not verify(vote.voter, message, vote.signature):
            raise CertificateError("a vote has a bad signature")


def final_count(slots: Sequence[int], anchor_slot: int) -> int:
    """How many blocks of a notarized chain are final.

    ``slots`` are those of the notarized blocks that follow, parent by parent, the last known final block,
    whose own slot is ``anchor_slot``. Of three blocks in consecutive slots the second and all before it are
    final. The anchor may be the first of the three.
    """
    chain = [anchor_slot, *slots]
    final = 0
    for i in range(2, len(chain)):
        if chain[i - 2] + 2 == chain[i - 1] + 1 == chain[i]:
            final = i - 1
    return final


def era_of(slot: int, era_slots: int) -> int:
    """The era that a slot belongs to."""
    return slot // era_slots


def era_seed(genesis_hash: Bytes32, era: int) -> Bytes32:
    """The seed of an era's leader draw: fixed by genesis, so nobody can grind it."""
    return tagged_hash("era-seed", genesis_hash + era.to_bytes(8, "big"))


def validators_key(era: int) -> bytes:
    """State key of an era's validator set; the staking contract writes it."""
    return system_key(f"validators/{era}")


LAST_ERA_KEY = system_key("validators/last")
"""State key of the highest era whose set is written (encoded integer)."""


def check_block_shape(block: Block, chain_id: int) -> None:
    """The checks of a block that need nothing but itself. Raises `CodecError`."""
    if block.header.chain_id != chain_id:
        raise CodecError(f"block of chain {block.header.chain_id} on chain {chain_id}")
    if sum(map(len, block.transactions)) > MAX_BLOCK_BYTES:
        raise CodecError("block too large")
    if block.tx_root() != block.header.tx_root:
        raise CodecError("transactions do not match the header's tx_root")
