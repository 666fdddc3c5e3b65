"""What peers may send: answers to requests, floods, and hostile copies of good messages. All refusals are cheap."""

from l1_script import KEYS, Script, requests_in, votes_in, with_transactions
from msgspec.structs import replace

from chainkit.block import Block, CertifiedBlock, Proposal, Vote
from l1node.actions import BlockNotarized, Rejection
from l1node.observer import MAX_ORPHANS, MAX_REJECTED_BLOCKS
from l1node.watch import RECENT_SLOTS

ME = KEYS[3]


# --- catching up --------------------------------------------------------------------------------------------


def test_a_block_with_an_unknown_parent_is_asked_for_once_a_slot_and_then_voted_for(script: Script) -> None:
    slot = script.slot_of(KEYS[0], after=4)
    blocks = script.chain_of([slot - 2, slot - 1, slot])
    certified = script.certified(*blocks)
    engine = script.engine()
    first = engine.on_message(script.propose(blocks[2]), script.at(slot))
    second = engine.on_message(script.propose(blocks[1]), script.at(slot))
    assert requests_in(first) == [1]
    assert not requests_in(second)
    actions = engine.on_blocks(certified[:1], script.at(slot, 0.2))
    assert votes_in(actions) == [script.vote(ME, block) for block in blocks[1:]]
    assert engine.head.hash == blocks[1].hash


def test_a_quorum_for_an_unknown_block_is_a_reason_to_ask(script: Script) -> None:
    (block,) = script.chain_of([1])
    engine = script.engine()
    asked = [requests_in(engine.on_message(script.vote(key, block), script.at(1))) for key in KEYS[:3]]
    assert asked == [[], [], [1]]


def test_a_node_far_behind_goes_on_asking_while_answers_help(script: Script) -> None:
    blocks = script.chain_of([2 * n for n in range(1, 21)])
    certified = script.certified(*blocks)
    engine = script.engine(None)
    now = script.at(60)
    (height,) = requests_in(engine.on_tick(now))
    rounds = 0
    while wanted := requests_in(engine.on_blocks(certified[height - 1 : height + 4], now)):
        (height,) = wanted
        rounds += 1
    assert rounds == 4
    assert engine.head.hash == blocks[-1].hash


def test_a_page_of_known_blocks_does_not_end_the_search(script: Script) -> None:
    """The last final block may lie further back than one answer reaches."""
    fork, main = script.chain_of([3, 5, 7, 9]), script.chain_of([2, 4, 6, 8, 10])
    certified = script.certified(*main)
    engine = script.engine(None)
    engine.on_blocks([*script.certified(*fork), *certified[:2]], script.at(20))
    (height,) = requests_in(engine.on_tick(script.at(30)))
    assert height == 5, "just above the head"
    (height,) = requests_in(engine.on_blocks(certified[4:], script.at(30)))
    assert height == 1, "the answer was of a fork"
    now = script.at(30)
    (height,) = requests_in(engine.on_blocks(certified[:2], now))
    assert height == 3
    engine.on_blocks(certified[2:], now)
    assert engine.head.hash == main[-1].hash
    assert not requests_in(engine.on_blocks(certified[:2], now)), "an old page again: no reason to go on"


def test_a_node_that_hears_nothing_asks_now_and_then(script: Script) -> None:
    engine = script.engine(None)
    asked = [slot for slot in range(1, 20) if requests_in(engine.on_tick(script.at(slot)))]
    assert asked == list(range(2, 20, 2))


def test_bad_blocks_are_counted_and_the_good_one_is_taken(script: Script) -> None:
    block, child = script.chain_of([1, 2])
    good, rest = script.certified(block, child)
    certificate = good.certificate
    bad = [
        replace(good, certificate=replace(certificate, votes=certificate.votes[:2])),
        replace(good, certificate=replace(certificate, votes=[])),
        replace(good, certificate=replace(certificate, votes=certificate.votes[::-1])),
        replace(good, certificate=replace(certificate, slot=2)),
        replace(good, block=with_transactions(block.block, [script.transfer(1).wire])),
        CertifiedBlock(block.block, script.certify(block, KEYS[4:8])),
        rest,
    ]
    engine = script.engine(None)
    actions = engine.on_blocks(bad, script.at(2))
    assert not [action for action in actions if isinstance(action, BlockNotarized)]
    assert engine.rejected == {
        Rejection.BAD_CERTIFICATE: 5,
        Rejection.INVALID_BLOCK: 1,
        Rejection.UNKNOWN_PARENT: 1,
    }
    assert engine.head is script.genesis
    engine.on_blocks([good, rest], script.at(2))
    assert engine.head.hash == child.hash


def test_a_certified_block_by_the_wrong_leader_is_refused(script: Script) -> None:
    slot = script.slot_of(KEYS[0])
    block = script.block(script.genesis, slot, proposer=KEYS[1])
    engine = script.engine(None)
    engine.on_blocks(script.certified(block), script.at(slot))
    assert engine.rejected == {Rejection.NOT_LEADER: 1}


def test_an_answer_full_of_garbage_is_soon_left_unread(script: Script, verifications: list[bytes]) -> None:
    (block,) = script.chain_of([1])
    certificate = script.certify(block)
    forged = replace(certificate, votes=[replace(v, signature=bytes(64)) for v in certificate.votes])
    engine = script.engine(None)
    engine.on_blocks([CertifiedBlock(block.block, forged)] * 10_000, script.at(1))
    assert engine.rejected.total() == MAX_REJECTED_BLOCKS
    assert len(verifications) == MAX_REJECTED_BLOCKS


# --- floods (tests/threats/README.md: "flooded with stale votes") ----------------------------------------------


def _flood(script: Script) -> list[Vote | Proposal]:
    (block,) = script.chain_of([90])
    votes = [script.vote(key, block) for key in KEYS[4:8]]  # not validators
    votes += [
        replace(script.vote(KEYS[0], block), slot=slot) for slot in (0, 100 - RECENT_SLOTS, 102, 2**53 - 1)
    ]
    votes += [replace(script.vote(KEYS[0], block), chain_id=901)]
    orphan = replace(block.header, slot=100, height=2, parent=b"\x01" * 32)
    outsiders = [key for key in KEYS if key != script.leader(100)]
    proposals = [
        Proposal(Block(replace(orphan, proposer=key.address), []), None, bytes(64)) for key in outsiders
    ]
    proposals += [
        Proposal(Block(replace(orphan, slot=slot), []), None, bytes(64)) for slot in (1, 36, 102, 2**53 - 1)
    ]
    return [*votes, *proposals]


def test_a_flood_is_refused_without_one_signature_check(script: Script, verifications: list[bytes]) -> None:
    flood = _flood(script)
    engine = script.engine()
    engine.on_tick(script.at(100))
    verifications.clear()
    for message in flood * 50:
        assert not engine.on_message(message, script.at(100))
    assert not verifications
    assert engine.rejected.total() == 50 * len(flood)
    assert set(engine.rejected) == {
        Rejection.NOT_VALIDATOR,
        Rejection.STALE,
        Rejection.FUTURE,
        Rejection.WRONG_CHAIN,
        Rejection.NOT_LEADER,
    }


def test_a_flood_does_not_stop_finality(script: Script) -> None:
    flood = _flood(script)
    engine = script.engine(None)
    for block in script.chain_of(range(99, 103)):
        now = script.at(block.header.slot)
        for message in flood:
            engine.on_message(message, now)
        engine.on_message(script.propose(block), now)
        for key in KEYS[:3]:
            engine.on_message(script.vote(key, block), now)
        script.certify(block)
    assert engine.final.header.height == 3


def test_copies_of_a_message_cost_one_signature_check(script: Script, verifications: list[bytes]) -> None:
    (block,) = script.chain_of([1])
    engine = script.engine(None)
    for message in (script.vote(KEYS[0], block), script.propose(block)):
        for _ in range(20):
            engine.on_message(message, script.at(1))
    assert len(verifications) == 2


def test_a_validator_that_votes_for_everything_is_heard_twice_a_slot(
    script: Script, verifications: list[bytes]
) -> None:
    engine = script.engine(None)
    for i in range(100):
        engine.on_message(Vote.sign(KEYS[0], 900, 1, 1, i.to_bytes(32, "big")), script.at(1))
    assert len(verifications) == 2


def test_a_leader_that_proposes_a_hundred_blocks_is_heard_twice(
    script: Script, verifications: list[bytes]
) -> None:
    slot = script.slot_of(KEYS[0])
    engine = script.engine()
    for amount in range(1, 101):
        block = script.block(script.genesis, slot, [script.transfer(amount)])
        engine.on_message(script.propose(block), script.at(slot))
    assert verifications.count(KEYS[0].address) == 2
    assert len(engine.pending_blocks()) == 2
    assert engine.rejected == {Rejection.TOO_MANY: 98}


def test_proposals_without_a_parent_are_kept_up_to_a_cap(script: Script) -> None:
    engine = script.engine(None)
    parent = script.block(script.genesis, 1)
    for slot in range(2, 40):
        unknown = script.block(parent, slot)
        engine.on_message(Proposal.sign(script.leader(slot), unknown.block, None), script.at(slot))
    assert len(engine._orphans) == MAX_ORPHANS
    assert not engine.pending_blocks()


def test_whoever_brings_the_parent_of_a_bad_orphan_is_not_to_blame(script: Script) -> None:
    engine = script.engine(None)
    parent = script.block(script.genesis, 1)
    child = script.block(parent, 2)
    engine.on_message(Proposal.sign(script.leader(2), child.block, None), script.at(2))
    assert engine.refused is None  # kept until its parent is known
    engine.on_message(script.propose(parent), script.at(2))
    assert engine.refused is None
    assert engine.rejected == {Rejection.BAD_CERTIFICATE: 1}
    engine.on_message(script.propose(parent), script.at(2))
    assert engine.refused is Rejection.DUPLICATE


def test_a_node_that_runs_for_long_without_finality_stays_small(script: Script) -> None:
    """Every leader equivocates and nobody votes: nothing may pile up."""
    engine = script.engine(None)
    for slot in range(1, 4 * RECENT_SLOTS):
        now = script.at(slot)
        engine.on_tick(now)
        for amount in (1, 2):
            block = script.block(script.genesis, slot, [script.transfer(amount)])
            engine.on_message(script.propose(block), now)
            engine.on_message(script.vote(KEYS[0], block), now)
    assert len(engine.pending_blocks()) <= 2 * (RECENT_SLOTS + 1)
    assert len(engine._watch._votes) <= RECENT_SLOTS + 1
    assert len(engine._watch._headers) <= RECENT_SLOTS + 1
    assert len(engine._proposals) <= RECENT_SLOTS + 1


# --- hostile copies of good messages ------------------------------------------------------------------------


def test_a_mutated_block_first_does_not_shut_out_the_real_one(script: Script) -> None:
    """CVE-2012-2459: the signature covers the header alone, so anyone can swap the transactions."""
    slot = script.slot_of(KEYS[0])
    block = script.block(script.genesis, slot, [script.transfer(1)])
    proposal = script.propose(block)
    wires = block.block.transactions
    engine = script.engine()
    for transactions in ([], wires * 2, [wires[0][:-1] + b"\x00"], [b"\xff" * 10]):
        mutated = replace(proposal, block=with_transactions(block.block, transactions))
        assert not votes_in(engine.on_message(mutated, script.at(slot)))
    assert votes_in(engine.on_message(proposal, script.at(slot))) == [script.vote(ME, block)]


def test_an_orphan_with_mutated_transactions_does_not_shut_out_the_real_one(script: Script) -> None:
    slot = script.slot_of(KEYS[0], after=1)
    parent = script.block(script.genesis, slot - 1)
    certified = script.certified(parent)
    block = script.block(parent, slot, [script.transfer(1)])
    proposal = script.propose(block)
    engine = script.engine()
    engine.on_message(replace(proposal, block=with_transactions(block.block, [])), script.at(slot))
    engine.on_message(proposal, script.at(slot))
    assert votes_in(engine.on_blocks(certified, script.at(slot))) == [script.vote(ME, block)]
