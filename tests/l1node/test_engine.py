"""The rules of Streamlet, one by one: messages in, actions out. Promises P6 to P8 of docs/TRUST.md."""

from collections.abc import Callable
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from l1_devnet import l1_genesis
from l1_script import (
    KEYS,
    FixedChain,
    Script,
    proposals_in,
    requests_in,
    votes_in,
    with_transactions,
)
from msgspec.structs import replace

from chainkit.block import (
    Block,
    Proposal,
    Validator,
    ValidatorSet,
    Vote,
    check_certificate,
    final_count,
)
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Address
from chainkit.keys import KeyPair
from chainkit.merkle import Tree
from l1node.actions import (
    Action,
    BlockNotarized,
    BlocksFinalized,
    Broadcast,
    PersistVoted,
    Rejection,
    VotedRecord,
)

ME = KEYS[3]


def finalized(actions: list[Action]) -> list[ExecutedBlock]:
    return [block for a in actions if isinstance(a, BlocksFinalized) for block, _ in a.blocks]


# --- proposing ----------------------------------------------------------------------------------------------


def test_a_leader_proposes_once_in_its_slot_a_child_of_the_head(script: Script) -> None:
    slot = script.slot_of(ME, after=1)
    first = script.chain_of([slot - 1])
    engine = script.engine()
    engine.on_blocks(script.certified(*first), script.at(slot - 1))

    actions = engine.on_tick(script.at(slot))
    again = engine.on_tick(script.at(slot, 0.5))

    (proposal,) = proposals_in(actions)
    assert proposal.block.header.parent == first[0].hash
    assert proposal.parent_certificate == script.certificates[first[0].hash]
    assert proposal.signed_header().valid()
    assert not proposals_in(again)
    assert not votes_in(again)


def test_the_record_is_durable_before_a_proposal_and_a_vote_leave(script: Script) -> None:
    slot = script.slot_of(ME)
    actions = script.engine().on_tick(script.at(slot))
    assert [type(action) for action in actions[:3]] == [PersistVoted, Broadcast, Broadcast]
    assert actions[0] == PersistVoted(VotedRecord(slot, 1, slot))


def test_nobody_proposes_in_the_slot_of_another_nor_before_genesis(script: Script) -> None:
    engine = script.engine()
    for slot in range(1, 30):
        assert bool(proposals_in(engine.on_tick(script.at(slot)))) == (script.leader(slot) == ME)
    assert not script.engine().on_tick(0)
    assert not script.engine().on_tick(script.at(0))


def test_a_leader_without_the_chain_it_voted_for_asks_instead_of_proposing(script: Script) -> None:
    slot = script.slot_of(ME, after=3)
    actions = script.engine(voted=VotedRecord(3, 3, 0)).on_tick(script.at(slot))
    assert not proposals_in(actions)
    assert requests_in(actions) == [1]


def test_a_leader_that_proposed_before_a_restart_does_not_again(script: Script) -> None:
    slot = script.slot_of(ME)
    for record in (VotedRecord(0, 0, slot), VotedRecord(slot, 0, 0), VotedRecord(slot, 1, slot)):
        engine = script.engine(voted=record)
        assert not proposals_in(engine.on_tick(script.at(slot)))
        assert proposals_in(engine.on_tick(script.at(script.slot_of(ME, after=slot))))


def test_a_block_never_has_more_than_the_chain_allows(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = script.transfer(1)
    monkeypatch.setattr("l1node.engine.MAX_BLOCK_BYTES", len(transaction.wire))
    engine = script.engine(transactions=[transaction, script.transfer(2)])
    (proposal,) = proposals_in(engine.on_tick(script.at(script.slot_of(ME))))
    assert proposal.block.transactions == [transaction.wire]


def test_a_lone_validator_makes_blocks_final_by_itself() -> None:
    script = Script(FixedChain([[(ME, 7)]]))
    engine = script.engine()
    done = [b for slot in range(1, 6) for b in finalized(engine.on_tick(script.at(slot)))]
    assert [block.header.height for block in done] == [1, 2, 3, 4]
    assert engine.final is done[-1]
    assert engine.head.header.height == 5


# --- voting -------------------------------------------------------------------------------------------------


def test_a_validator_votes_for_the_leaders_first_proposal_and_for_no_second(script: Script) -> None:
    slot = script.slot_of(KEYS[0])
    first = script.block(script.genesis, slot)
    second = script.block(script.genesis, slot, [script.transfer(1)])
    engine = script.engine()

    actions = engine.on_message(script.propose(first), script.at(slot, 0.1))
    later = engine.on_message(script.propose(second), script.at(slot, 0.2))

    assert actions[:2] == [
        PersistVoted(VotedRecord(slot, 1, 0)),
        Broadcast(script.vote(ME, first)),
    ]
    assert not votes_in(later)
    assert not votes_in(engine.on_message(script.propose(first), script.at(slot, 0.3)))


def _other_key(script: Script, block: ExecutedBlock) -> Proposal:
    other = next(key for key in KEYS if key != script.leader(block.header.slot))
    return script.propose(block, key=other)


def _other_leader(script: Script, block: ExecutedBlock) -> Proposal:
    slot = block.header.slot
    other = next(key for key in KEYS[:4] if key != script.leader(slot))
    return script.propose(script.block(script.genesis, slot, proposer=other), key=other)


def _changed_header(**changes: object) -> Callable[[Script, ExecutedBlock], Proposal]:
    def make(script: Script, block: ExecutedBlock) -> Proposal:
        changed = Block(replace(block.header, **changes), block.block.transactions)
        return Proposal.sign(script.leader(block.header.slot), changed, None)

    return make


def _false_transactions(script: Script, block: ExecutedBlock) -> Proposal:
    return replace(script.propose(block), block=with_transactions(block.block, [script.transfer(1).wire]))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_other_key, Rejection.BAD_SIGNATURE),
        (_other_leader, Rejection.NOT_LEADER),
        (_changed_header(state_root=bytes(32)), Rejection.INVALID_BLOCK),
        (_changed_header(receipts_root=bytes(32)), Rejection.INVALID_BLOCK),
        (_changed_header(tx_root=bytes(32)), Rejection.INVALID_BLOCK),
        (_changed_header(base_fee=0), Rejection.INVALID_BLOCK),
        (_changed_header(gas_used=1), Rejection.INVALID_BLOCK),
        (_changed_header(time=0), Rejection.INVALID_BLOCK),
        (_changed_header(height=2), Rejection.INVALID_BLOCK),
        (_changed_header(height=0), Rejection.STALE),
        (_changed_header(chain_id=901), Rejection.WRONG_CHAIN),
        (_changed_header(parent=bytes(32)), Rejection.CONFLICTS_WITH_FINAL),
        (_false_transactions, Rejection.INVALID_BLOCK),
    ],
)
def test_nobody_votes_for_a_bad_proposal_and_the_good_one_still_counts(
    script: Script, make: Callable[[Script, ExecutedBlock], Proposal], reason: Rejection
) -> None:
    slot = script.slot_of(KEYS[0])
    good = script.block(script.genesis, slot)
    engine = script.engine()
    bad = make(script, good)

    actions = engine.on_message(bad, script.at(slot, 0.1))

    assert not votes_in(actions)
    assert engine.rejected == {reason: 1}
    assert engine.voted == VotedRecord()
    assert votes_in(engine.on_message(script.propose(good), script.at(slot, 0.2)))


def test_an_early_proposal_waits_for_its_slot_and_a_late_one_is_too_late(script: Script) -> None:
    slot = script.slot_of(KEYS[0], after=1)
    proposal = script.propose(script.block(script.genesis, slot))

    early = script.engine()
    assert not votes_in(early.on_message(proposal, script.at(slot - 1)))
    assert votes_in(early.on_tick(script.at(slot)))

    too_early = script.engine()
    assert not too_early.on_message(proposal, script.at(slot - 2))
    assert too_early.rejected == {Rejection.FUTURE: 1}

    assert votes_in(script.engine().on_message(proposal, script.at(slot + 1, 0.5)))
    assert not votes_in(script.engine().on_message(proposal, script.at(slot + 1, 0.51)))


def test_a_block_that_others_notarized_first_still_gets_the_vote(script: Script) -> None:
    """Some node may lack the others' votes and need this one."""
    slot = script.slot_of(KEYS[0], after=1)
    block = script.block(script.genesis, slot)
    engine = script.engine()
    engine.on_message(script.propose(block), script.at(slot - 1))
    for key in KEYS[:3]:
        assert not votes_in(engine.on_message(script.vote(key, block), script.at(slot - 1)))
    assert engine.head.hash == block.hash
    assert votes_in(engine.on_tick(script.at(slot))) == [script.vote(ME, block)]


def test_a_parent_without_a_certificate_gets_no_vote_and_with_one_it_is_notarized(script: Script) -> None:
    slot = script.slot_of(KEYS[0], after=1)
    parent = script.block(script.genesis, slot - 1)
    child = script.block(parent, slot)
    good = script.certify(parent)
    too_few = script.certify(parent, KEYS[:2])
    strangers = script.certify(parent, KEYS[4:8])
    of_another = script.certify(child)
    forged = replace(good, votes=[replace(vote, signature=bytes(64)) for vote in good.votes])
    twice = replace(good, votes=[good.votes[0]] * 3)
    engine = script.engine()
    engine.on_message(script.propose(parent), script.at(slot - 1))

    for certificate in (None, too_few, strangers, of_another, forged, twice):
        proposal = Proposal.sign(script.leader(slot), child.block, certificate)
        assert not votes_in(engine.on_message(proposal, script.at(slot)))
    assert engine.rejected == {Rejection.BAD_CERTIFICATE: 6}

    # The leader's signature does not cover the certificate: whoever spoils it cannot spoil the block.
    actions = engine.on_message(Proposal.sign(script.leader(slot), child.block, good), script.at(slot))
    assert isinstance(actions[0], BlockNotarized)
    assert actions[0].block.hash == parent.hash
    assert votes_in(actions) == [script.vote(ME, child)]


def test_nobody_votes_for_a_block_above_a_shorter_chain(script: Script) -> None:
    slot = script.slot_of(KEYS[0], after=2)
    notarized = script.block(script.genesis, slot - 1)
    engine = script.engine()
    engine.on_blocks(script.certified(notarized), script.at(slot - 1))
    actions = engine.on_message(script.propose(script.block(script.genesis, slot)), script.at(slot))
    assert not votes_in(actions)


@pytest.mark.parametrize(("record", "votes"), [((0, 1, 0), 1), ((0, 2, 0), 0), ((99, 0, 0), 0)])
def test_the_record_on_disk_forbids_votes(script: Script, record: tuple[int, int, int], votes: int) -> None:
    slot = script.slot_of(KEYS[0])
    engine = script.engine(voted=VotedRecord(*record))
    actions = engine.on_message(script.propose(script.block(script.genesis, slot)), script.at(slot))
    assert len(votes_in(actions)) == votes


@pytest.mark.parametrize("key", [None, KEYS[7]])
def test_followers_and_strangers_follow_and_never_speak(script: Script, key: KeyPair | None) -> None:
    engine = script.engine(key)
    blocks = script.chain_of(range(1, 6))
    actions: list[Action] = []
    for block in blocks:
        now = script.at(block.header.slot)
        actions += engine.on_tick(now)
        actions += engine.on_message(script.propose(block), now)
        for voter in KEYS[:3]:
            actions += engine.on_message(script.vote(voter, block), now)
    assert not [a for a in actions if isinstance(a, Broadcast | PersistVoted)]
    assert [block.hash for block in finalized(actions)] == [block.hash for block in blocks[:4]]


def test_votes_that_come_before_their_proposal_count(script: Script) -> None:
    (block,) = script.chain_of([1])
    engine = script.engine(None)
    for voter in KEYS[:3]:
        assert not [
            a
            for a in engine.on_message(script.vote(voter, block), script.at(1))
            if isinstance(a, BlockNotarized)
        ]
    actions = engine.on_message(script.propose(block), script.at(1))
    assert [a.block.hash for a in actions if isinstance(a, BlockNotarized)] == [block.hash]


def test_a_vote_for_the_right_hash_at_a_wrong_place_does_not_count(script: Script) -> None:
    (block,) = script.chain_of([1])
    engine = script.engine(None)
    engine.on_message(script.propose(block), script.at(1))
    for voter in KEYS[:4]:
        engine.on_message(Vote.sign(voter, 900, 1, 2, block.hash), script.at(1))
    assert engine.head is script.genesis


# --- quorums (docs/PROTOCOL.md, section 6) -------------------------------------------------------------------


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=8), st.data())
def test_a_quorum_is_two_thirds_exactly(stakes: list[int], data: st.DataObject) -> None:
    validators = ValidatorSet([Validator(bytes([i]) * 32, stake) for i, stake in enumerate(stakes)])
    total = sum(stakes)
    edge = -(-2 * total // 3)
    near = [edge - 1, edge, edge + 1, total]
    stake = data.draw(st.one_of(st.integers(0, total), st.sampled_from(near)))
    assert validators.is_quorum(stake) == (Fraction(stake, total) >= Fraction(2, 3))


def test_an_empty_set_has_no_quorum_no_leader_and_no_voters() -> None:
    empty = ValidatorSet([])
    assert not empty.is_quorum(0)
    assert not empty.is_quorum(1)
    script = Script(FixedChain([[]]))
    engine = script.engine()
    assert not [
        a for slot in range(1, 9) for a in engine.on_tick(script.at(slot)) if isinstance(a, Broadcast)
    ]
    block = script.block(script.genesis, 9, proposer=KEYS[0])
    assert not votes_in(engine.on_message(script.propose(block, key=KEYS[0]), script.at(9)))
    engine.on_blocks(script.certified(block), script.at(9))
    assert engine.head is script.genesis


@pytest.mark.parametrize(
    ("stakes", "voters", "notarized"),
    [
        ((1, 1, 1, 1), 2, False),
        ((1, 1, 1, 1), 3, True),
        ((1, 1, 1), 1, False),
        ((1, 1, 1), 2, True),  # exactly two thirds
        ((2, 1, 1, 1), 2, False),  # 3 of 5
        ((3, 1, 1, 1), 1, False),  # 3 of 6
        ((3, 1, 1, 1), 2, True),  # 4 of 6
        ((2**50, 1, 1), 1, True),
        ((1, 2**50, 1), 1, False),
    ],
)
def test_stake_counts_not_heads(stakes: tuple[int, ...], voters: int, notarized: bool) -> None:
    script = Script(FixedChain([list(zip(KEYS, stakes, strict=False))]))
    (block,) = script.chain_of([1])
    engine = script.engine(None)
    engine.on_message(script.propose(block), script.at(1))
    for voter in KEYS[:voters]:
        engine.on_message(script.vote(voter, block), script.at(1))
        engine.on_message(script.vote(voter, block), script.at(1))  # a second copy adds nothing
    assert (engine.head.hash == block.hash) == notarized


def test_each_era_has_its_own_voters() -> None:
    old, new = [(key, 1) for key in KEYS[:4]], [(key, 1) for key in KEYS[4:8]]
    script = Script(FixedChain([old, new]))
    last, first = script.chain_of([15, 16])
    engine = script.engine(None)
    engine.on_message(script.propose(last), script.at(15))
    for voter in KEYS[4:8]:
        engine.on_message(script.vote(voter, last), script.at(15))
    assert engine.rejected == {Rejection.NOT_VALIDATOR: 4}
    for voter in KEYS[:3]:
        engine.on_message(script.vote(voter, last), script.at(15))
    assert engine.head.hash == last.hash
    script.certify(last)
    engine.on_message(script.propose(first), script.at(16))
    for voter in KEYS[:4]:
        engine.on_message(script.vote(voter, first), script.at(16))
    assert engine.head.hash == last.hash
    for voter in KEYS[4:7]:
        engine.on_message(script.vote(voter, first), script.at(16))
    assert engine.head.hash == first.hash


class TwoLeaders(Chain):
    """A chain on which another validator leads slot 9 above blocks with transactions."""

    def leader(self, parent: Tree, slot: int) -> Address | None:
        leader = super().leader(parent, slot)
        if slot != 9 or parent.root == self.genesis_tree.root:
            return leader
        return next(key.address for key in KEYS[:4] if key.address != leader)


def test_each_branch_has_its_own_leaders() -> None:
    """Known as a slot's leader on one branch, a validator is none on the other."""
    script = Script(TwoLeaders(l1_genesis()))
    (parent,) = script.chain_of([8])
    script.certify(parent)
    leader = script.leader(9)
    here, there = script.block(script.genesis, 9), script.block(parent, 9, proposer=leader)
    engine = script.engine(None)
    engine.on_blocks(script.certified(parent), script.at(9))
    engine.on_message(script.propose(here), script.at(9))
    assert [block.hash for block in engine.pending_blocks()] == [here.hash, parent.hash][::-1]
    engine.on_message(script.propose(there, key=leader), script.at(9))
    assert engine.rejected == {Rejection.NOT_LEADER: 1}
    assert len(engine.pending_blocks()) == 2


# --- finality -----------------------------------------------------------------------------------------------


@given(st.integers(0, 5), st.lists(st.integers(1, 3), max_size=12))
def test_of_three_in_consecutive_slots_the_second_is_final_and_all_before(
    anchor: int, gaps: list[int]
) -> None:
    slots: list[int] = []
    for gap in gaps:
        slots.append((slots[-1] if slots else anchor) + gap)
    chain = [anchor, *slots]
    middles = [
        i for i in range(1, len(chain) - 1) if chain[i - 1 : i + 2] == [chain[i] + d for d in (-1, 0, 1)]
    ]
    assert final_count(slots, anchor) == max(middles, default=0)


@pytest.mark.parametrize(
    ("slots", "final"),
    [([1], 0), ([1, 2], 1), ([2, 3], 0), ([2, 3, 4], 2), ([2, 3, 5, 6], 0), ([2, 4, 6, 7, 8], 4)],
)
def test_finality_needs_three_consecutive_slots(script: Script, slots: list[int], final: int) -> None:
    blocks = script.chain_of(slots)
    engine = script.engine(None)
    actions = engine.on_blocks(script.certified(*blocks), script.at(slots[-1]))
    assert [block.hash for block in finalized(actions)] == [block.hash for block in blocks[:final]]
    assert engine.final.header.height == final
    assert [block.hash for block, _ in engine.notarized_chain()] == [block.hash for block in blocks[final:]]


def test_finality_goes_on_after_a_restart_as_without(script: Script) -> None:
    blocks = script.chain_of([1, 2, 3, 4])
    certified = script.certified(*blocks)
    before = script.engine(None)
    before.on_blocks(certified[:3], script.at(3))
    assert before.final.header.height == 2

    after = script.engine(None, final=before.final, certificate=before.final_certificate)
    actions = after.on_blocks(certified[2:], script.at(4))
    assert [block.header.height for block in finalized(actions)] == [3]


def test_every_final_block_comes_with_a_certificate_that_proves_it(script: Script) -> None:
    blocks = script.chain_of([1, 2, 3])
    engine = script.engine(None)
    for block in blocks:
        engine.on_message(script.propose(block), script.at(block.header.slot))
        actions = [
            action
            for voter in KEYS[:3]
            for action in engine.on_message(script.vote(voter, block), script.at(block.header.slot))
        ]
        script.certify(block)
    (done,) = [action for action in actions if isinstance(action, BlocksFinalized)]
    assert len(done.blocks) == 1
    for block, certificate in done.blocks:
        check_certificate(block.header, certificate, script.chain.validators(script.genesis.tree, 1))


def test_what_conflicts_with_a_final_block_is_refused_forever(script: Script) -> None:
    """Promise P8, even against a quorum: a fork below the final block is not taken, however long."""
    main = script.chain_of([2, 3, 4])
    fork = script.chain_of([1, 5, 6, 7, 8])
    engine = script.engine(None)
    engine.on_blocks(script.certified(*main), script.at(4))
    assert engine.final.hash == main[1].hash
    engine.on_blocks(script.certified(*fork), script.at(8))
    for block in fork:
        engine.on_message(script.propose(block), script.at(8))
    assert engine.final.hash == main[1].hash
    assert engine.head.hash == main[2].hash
    assert [block.hash for block in engine.pending_blocks()] == [main[2].hash]


def test_forks_are_forgotten_when_their_rival_is_final(script: Script) -> None:
    main, rival = script.chain_of([2, 3, 4]), script.chain_of([1])
    engine = script.engine(None)
    engine.on_blocks(script.certified(*rival, *main[:2]), script.at(4))
    assert len(engine.pending_blocks()) == 3
    engine.on_blocks(script.certified(main[2]), script.at(4))
    assert [block.hash for block in engine.pending_blocks()] == [main[2].hash]


def test_a_final_block_outweighs_a_longer_fork(script: Script) -> None:
    fork, main = script.chain_of([1, 3, 5, 9]), script.chain_of([6, 7, 8])
    engine = script.engine(None)
    engine.on_blocks(script.certified(*main[:2], *fork), script.at(9))
    assert engine.head.hash == fork[-1].hash
    engine.on_blocks(script.certified(main[2]), script.at(9))
    assert engine.head.hash == main[2].hash
    assert [block.hash for block, _ in engine.notarized_chain()] == [main[2].hash]


def test_of_equally_long_chains_all_nodes_choose_the_same(script: Script) -> None:
    twins = [script.block(script.genesis, 4, [script.transfer(i)]) for i in (1, 2)]
    rivals = [*script.chain_of([2]), *twins]
    heads = set()
    for order in permutations(rivals):
        engine = script.engine(None)
        engine.on_blocks(script.certified(*order), script.at(4))
        heads.add(engine.head.hash)
    assert heads == {max(twin.hash for twin in twins)}
