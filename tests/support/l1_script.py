"""Scripted consensus: blocks, votes and certificates made by hand, to put one engine into any situation."""

from collections.abc import Iterable, Sequence

from l1_devnet import l1_genesis

from chainkit.block import (
    LAST_ERA_KEY,
    Block,
    Certificate,
    CertificateVote,
    CertifiedBlock,
    Proposal,
    Validator,
    ValidatorSet,
    Vote,
    validators_key,
)
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import encode
from chainkit.keys import KeyPair, dev_keypair
from chainkit.merkle import Tree
from chainkit.state import State
from chainkit.transaction import Body, SignedTransaction, Transfer
from l1node.actions import Action, Broadcast, EvidenceFound, RequestBlocks, VotedRecord
from l1node.engine import Engine

KEYS = [dev_keypair(f"validator-{i}") for i in range(8)]


class FixedChain(Chain):
    """A chain whose validator sets are given: ``sets[era]``, the last one for all later eras."""

    def __init__(self, sets: Sequence[Sequence[tuple[KeyPair, int]]]) -> None:
        super().__init__(l1_genesis(era_slots=16))
        values = {LAST_ERA_KEY: encode(len(sets) - 1)}
        for era, stakes in enumerate(sets):
            validators = sorted((Validator(k.address, s) for k, s in stakes), key=lambda v: v.address)
            values[validators_key(era)] = encode(ValidatorSet(validators))
        self._fixed = Tree().update(values)

    def validators(self, parent: Tree, slot: int) -> ValidatorSet:
        del parent  # whatever staking wrote there
        return super().validators(self._fixed, slot)


class Script:
    """A chain of four equal validators (``KEYS[:4]``), or the chain given, and what its validators may say."""

    def __init__(self, chain: Chain | None = None) -> None:
        self.chain = chain or Chain(l1_genesis())
        self.genesis = self.chain.genesis_block
        self.certificates: dict[bytes, Certificate | None] = {self.genesis.hash: None}

    # --- time ---

    def at(self, slot: int, part: float = 0.0) -> int:
        """An instant in a slot: ``part`` 0 is its beginning, 1 its end. In ms."""
        return self.chain.slot_time(slot) + round(part * self.chain.genesis.slot_ms)

    def leader(self, slot: int) -> KeyPair:
        address = self.chain.leader(self.genesis.tree, slot)
        return next(key for key in KEYS if key.address == address)

    def slot_of(self, key: KeyPair, after: int = 0) -> int:
        """The first slot later than ``after`` that the key leads."""
        return next(slot for slot in range(after + 1, after + 1000) if self.leader(slot) == key)

    # --- what validators make ---

    def block(
        self,
        parent: ExecutedBlock,
        slot: int,
        transactions: Iterable[SignedTransaction] = (),
        *,
        proposer: KeyPair | None = None,
    ) -> ExecutedBlock:
        """A valid block by the slot's leader (or another)."""
        address = (proposer or self.leader(slot)).address
        executed, skipped = self.chain.build(parent, slot, address, transactions)
        assert not skipped
        return executed

    def vote(self, key: KeyPair, block: ExecutedBlock) -> Vote:
        h = block.header
        return Vote.sign(key, h.chain_id, h.slot, h.height, block.hash)

    def certify(self, block: ExecutedBlock, keys: Iterable[KeyPair] = KEYS[:3]) -> Certificate:
        """The votes of three of four, and remembered as the block's certificate."""
        votes = sorted((self.vote(key, block) for key in keys), key=lambda vote: vote.voter)
        h = block.header
        certificate = Certificate(
            h.slot, h.height, block.hash, [CertificateVote(v.voter, v.signature) for v in votes]
        )
        self.certificates[block.hash] = certificate
        return certificate

    def certified(self, *blocks: ExecutedBlock) -> list[CertifiedBlock]:
        return [CertifiedBlock(block.block, self.certify(block)) for block in blocks]

    def propose(self, block: ExecutedBlock, *, key: KeyPair | None = None) -> Proposal:
        """The leader's proposal, with the parent's certificate if the script made one."""
        parent = self.certificates.get(block.header.parent)
        return Proposal.sign(key or self.leader(block.header.slot), block.block, parent)

    def chain_of(self, slots: Iterable[int], parent: ExecutedBlock | None = None) -> list[ExecutedBlock]:
        """Blocks in these slots, each above the one before."""
        blocks: list[ExecutedBlock] = []
        for slot in slots:
            blocks.append(self.block(blocks[-1] if blocks else parent or self.genesis, slot))
        return blocks

    def transfer(self, amount: int, state: ExecutedBlock | None = None) -> SignedTransaction:
        """alice pays bob; the amount tells one such transaction from another."""
        alice = dev_keypair("alice")
        nonce = State((state or self.genesis).tree).account(alice.address).nonce
        action = Transfer(dev_keypair("bob").address, amount)
        chain_id = self.chain.genesis.chain_id
        return SignedTransaction.sign(Body(chain_id, alice.address, nonce, 100_000, 100, 1, action), alice)

    # --- engines ---

    def engine(
        self,
        key: KeyPair | None = KEYS[3],
        *,
        voted: VotedRecord | None = None,
        final: ExecutedBlock | None = None,
        certificate: Certificate | None = None,
        transactions: Sequence[SignedTransaction] = (),
    ) -> Engine:
        return Engine(
            self.chain,
            key,
            final=final or self.genesis,
            final_certificate=certificate,
            voted=voted or VotedRecord(),
            select=lambda _parent, _slot: transactions,
        )


def votes_in(actions: Iterable[Action]) -> list[Vote]:
    """The votes that are broadcast."""
    return [a.message for a in actions if isinstance(a, Broadcast) and isinstance(a.message, Vote)]


def proposals_in(actions: Iterable[Action]) -> list[Proposal]:
    """The proposals that are broadcast."""
    return [a.message for a in actions if isinstance(a, Broadcast) and isinstance(a.message, Proposal)]


def evidence_in(actions: Iterable[Action]) -> list[EvidenceFound]:
    return [action for action in actions if isinstance(action, EvidenceFound)]


def requests_in(actions: Iterable[Action]) -> list[int]:
    """The heights from which blocks are asked for."""
    return [action.from_height for action in actions if isinstance(action, RequestBlocks)]


def with_transactions(block: Block, transactions: list[bytes]) -> Block:
    """The same header over other transactions."""
    return Block(block.header, transactions)
