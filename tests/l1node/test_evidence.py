"""What is slashable, and that whoever watches finds it: promise P6 of docs/TRUST.md."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from l1_devnet import l1_genesis
from l1_script import KEYS, Script, evidence_in, proposals_in
from l1_simulation import offences
from msgspec.structs import replace

from chainkit.backend import Head
from chainkit.block import (
    Block,
    Certificate,
    CertificateVote,
    CertifiedBlock,
    Proposal,
    SignedHeader,
    Vote,
    slot_message,
)
from chainkit.chain import Chain
from chainkit.codec import decode, encode
from chainkit.contract import BLOCK_KEY, BlockEnvironment
from chainkit.keys import KeyPair, dev_keypair
from chainkit.mempool import Mempool
from chainkit.state import State
from chainkit.transaction import SignedTransaction
from l1node.actions import Action, Rejection, VotedRecord
from l1node.byzantine import FAULTS, ByzantineEngine, UnknownFaultError
from l1node.evidence import Evidence, EvidenceError, ProposalEvidence, VoteEvidence, check_evidence
from l1node.observer import MAX_REJECTED_BLOCKS, Observer
from l1node.reporter import RETRY_SLOTS, Reporter
from l1node.watch import EVIDENCE_SLOTS, RECENT_SLOTS, Watch, contradiction
from l1node.watch import _offence as watch_offence

CULPRIT = KEYS[0]


def vote(slot: int, height: int, tag: int = 0, *, key: KeyPair = CULPRIT, chain_id: int = 900) -> Vote:
    """A vote for a made-up block; ``tag`` tells blocks apart."""
    return Vote.sign(key, chain_id, slot, height, bytes([tag]) * 32)


def header(slot: int, tag: int, *, height: int = 1, key: KeyPair = CULPRIT) -> SignedHeader:
    """A proposal of a made-up block."""
    block_hash = bytes([tag]) * 32
    signature = key.sign(slot_message("proposal", 900, slot, height, block_hash))
    return SignedHeader(900, slot, height, block_hash, key.address, signature)


# --- check_evidence -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "kind", "slot"),
    [
        (VoteEvidence(vote(5, 3, 1), vote(5, 3, 2)), "double-vote", 5),
        (VoteEvidence(vote(5, 3, 1), vote(5, 9, 2)), "double-vote", 5),
        (VoteEvidence(vote(5, 3, 1), vote(5, 4, 1)), "double-vote", 5),  # one block, two heights
        (VoteEvidence(vote(5, 3), vote(6, 2)), "vote-lower", 6),
        (VoteEvidence(vote(5, 3), vote(500, 0)), "vote-lower", 500),
        (ProposalEvidence(header(5, 1), header(5, 2)), "double-propose", 5),
        (ProposalEvidence(header(5, 1), header(5, 2, height=7)), "double-propose", 5),
    ],
)
def test_an_offence_is_proven_by_two_messages(evidence: Evidence, kind: str, slot: int) -> None:
    assert check_evidence(evidence, 900) == (CULPRIT.address, kind, slot)
    assert check_evidence(decode(type(evidence), encode(evidence)), 900) == (CULPRIT.address, kind, slot)


@pytest.mark.parametrize(
    "evidence",
    [
        VoteEvidence(vote(5, 3, 1), vote(5, 3, 1)),  # the same vote
        VoteEvidence(vote(5, 3), vote(6, 3, 1)),  # the same height again, later
        VoteEvidence(vote(5, 3), vote(6, 4)),
        VoteEvidence(vote(6, 2), vote(5, 3)),  # a regression must come in order of slots
        VoteEvidence(vote(5, 3, 1), vote(5, 3, 2, key=KEYS[1])),
        VoteEvidence(vote(5, 3, 1, chain_id=901), vote(5, 3, 2, chain_id=901)),
        VoteEvidence(vote(5, 3, 1), vote(5, 3, 2, chain_id=901)),
        VoteEvidence(vote(5, 3, 1), replace(vote(5, 3, 2), signature=bytes(64))),
        VoteEvidence(replace(vote(5, 3, 1), signature=vote(5, 3, 2).signature), vote(5, 3, 2)),
        VoteEvidence(vote(5, 3, 1), replace(vote(5, 3, 2, key=KEYS[1]), voter=CULPRIT.address)),
        ProposalEvidence(header(5, 1), header(5, 1)),
        ProposalEvidence(header(5, 1), header(6, 2)),
        ProposalEvidence(header(5, 1), header(5, 2, key=KEYS[1])),
        ProposalEvidence(header(5, 1), replace(header(5, 2), signature=bytes(64))),
        # A vote's signature is no proposal's, over the very same fields (a domain each).
        ProposalEvidence(header(5, 1), replace(header(5, 2), height=3, signature=vote(5, 3, 2).signature)),
    ],
)
def test_what_proves_nothing_is_refused(evidence: Evidence) -> None:
    with pytest.raises(EvidenceError):
        check_evidence(evidence, 900)


@given(st.data())
def test_a_changed_bit_anywhere_proves_nothing(data: st.DataObject) -> None:
    evidence = VoteEvidence(vote(5, 3, 1), vote(5, 3, 2))
    wire = bytearray(encode(evidence))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = decode(VoteEvidence, bytes(wire))
    except ValueError:
        return
    with pytest.raises(EvidenceError):
        check_evidence(changed, 900)


# --- the watch ----------------------------------------------------------------------------------------------


def found(watch: Watch, votes: list[Vote]) -> list[VoteEvidence]:
    evidence = []
    for each in votes:
        offence = watch.contradicted(each)
        if offence is not None:
            watch.report(offence)
            evidence.append(offence)
        watch.keep(each)
    return evidence


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(0, 2)), max_size=10))
@settings(max_examples=150)
def test_the_watch_finds_an_offence_exactly_if_there_is_one(places: list[tuple[int, int, int]]) -> None:
    votes = [vote(*place) for place in dict.fromkeys(places)]
    evidence = found(Watch(), votes)
    for each in evidence:
        assert check_evidence(each, 900)[0] == CULPRIT.address
    assert bool(evidence) == bool(offences(votes, 900))


def walked(watch: Watch, new: Vote) -> VoteEvidence | None:
    """What `Watch.contradicted` must answer, without any short cut."""
    seen = [votes[new.voter] for votes in watch._votes.values() if new.voter in votes]
    seen += [watch._highest[new.voter]] if new.voter in watch._highest else []
    found = [contradiction(other, new) for other in seen]
    return next((e for e in found if e is not None and watch_offence(e) not in watch._reported), None)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1)), max_size=12))
def test_the_short_cuts_of_the_watch_change_no_answer(places: list[tuple[int, int, int]]) -> None:
    watch = Watch()
    for place in places:
        new = vote(*place)
        evidence = watch.contradicted(new)
        assert evidence == walked(watch, new)
        if evidence is not None:
            watch.report(evidence)
        watch.keep(new)


def test_no_order_of_arrival_hides_an_offence() -> None:
    high, low = vote(5, 3), vote(9, 2)
    assert found(Watch(), [high, low]) == [VoteEvidence(high, low)]
    assert found(Watch(), [low, high]) == [VoteEvidence(high, low)]
    (double,) = found(Watch(), [vote(5, 3, 2), vote(5, 3, 1)])
    assert check_evidence(double, 900)[1] == "double-vote"


def test_an_offence_is_reported_once() -> None:
    watch = Watch()
    assert len(found(watch, [vote(5, 3, tag) for tag in range(5)])) == 1
    too_high = [vote(6, 1000), *(vote(slot, 4) for slot in range(7, 20))]
    assert len(found(watch, too_high)) == 1, "one vote that is too high is one offence"


def test_the_highest_vote_is_remembered_for_the_unbonding_period_and_no_longer() -> None:
    for passed, evidence in ((EVIDENCE_SLOTS, 1), (EVIDENCE_SLOTS + 1, 0)):
        watch = Watch()
        found(watch, [vote(5, 3)])
        for slot in (RECENT_SLOTS + 10, 5 + passed):
            watch.prune(slot)
        assert len(found(watch, [vote(5 + passed, 2)])) == evidence


def test_an_earlier_vote_that_comes_late_does_not_hide_the_highest() -> None:
    watch = Watch()
    assert not found(watch, [vote(50, 9), vote(40, 3)])
    watch.prune(200)
    assert found(watch, [vote(200, 5)]) == [VoteEvidence(vote(50, 9), vote(200, 5))]


# --- an engine that watches ---------------------------------------------------------------------------------


def watch_all(script: Script, messages: list[Vote | Proposal], slot: int) -> list[Evidence]:
    observer = Observer(script.chain, final=script.genesis, final_certificate=None)
    actions = [a for message in messages for a in observer.on_message(message, script.at(slot))]
    return [action.evidence for action in evidence_in(actions)]


def test_an_engine_reports_votes_and_proposals_that_contradict(script: Script) -> None:
    slot = script.slot_of(CULPRIT)
    blocks = [script.block(script.genesis, slot, [script.transfer(i)]) for i in (1, 2)]
    proposals: list[Vote | Proposal] = [script.propose(block) for block in blocks]
    (evidence,) = watch_all(script, proposals * 2, slot)
    assert check_evidence(evidence, 900) == (CULPRIT.address, "double-propose", slot)
    votes: list[Vote | Proposal] = [script.vote(KEYS[1], block) for block in blocks]
    (evidence,) = watch_all(script, votes * 2, slot)
    assert check_evidence(evidence, 900) == (KEYS[1].address, "double-vote", slot)


def test_the_second_vote_of_a_double_voter_does_not_count(script: Script) -> None:
    block, rival = (script.block(script.genesis, 2, [script.transfer(i)]) for i in (1, 2))
    observer = Observer(script.chain, final=script.genesis, final_certificate=None)
    messages: list[Vote | Proposal] = [script.propose(block), script.vote(CULPRIT, rival)]
    messages += [script.vote(key, block) for key in (CULPRIT, *KEYS[1:3])]
    for message in messages:
        observer.on_message(message, script.at(2))
    assert observer.head is script.genesis
    observer.on_message(script.vote(KEYS[3], block), script.at(2))
    assert observer.head.hash == block.hash


def test_a_second_proposal_is_evidence_even_if_it_is_invalid_or_late(script: Script) -> None:
    slot = script.slot_of(CULPRIT)
    blocks = script.chain_of([slot, slot + 1, slot + 2])
    observer = Observer(script.chain, final=script.genesis, final_certificate=None)
    observer.on_message(script.propose(blocks[0]), script.at(slot))
    observer.on_blocks(script.certified(*blocks), script.at(slot + 2))
    assert observer.final.header.height >= 1
    rival = script.block(script.genesis, slot, [script.transfer(1)])
    actions = observer.on_message(script.propose(rival), script.at(slot + 9))
    assert len(evidence_in(actions)) == 1


def test_forged_contradictions_are_no_evidence(script: Script) -> None:
    slot = script.slot_of(CULPRIT)
    good = vote(slot, 1, 1)
    forged = replace(vote(slot, 1, 2), signature=bytes(64))
    proposal = script.propose(script.block(script.genesis, slot))
    other = script.block(script.genesis, slot, [script.transfer(1)])
    forged_proposal = replace(script.propose(other), signature=bytes(64))
    assert not watch_all(script, [good, forged, proposal, forged_proposal], slot)


def test_votes_in_certificates_count(script: Script) -> None:
    """The second vote never travelled as a vote: it is seen only in what the block carries."""
    block, rival = (script.block(script.genesis, 2, [script.transfer(i)]) for i in (1, 2))
    child = script.block(block, 3)
    messages: list[Vote | Proposal] = [script.vote(CULPRIT, rival), script.propose(block)]
    script.certify(block)
    (evidence,) = watch_all(script, [*messages, script.propose(child)], 3)
    assert check_evidence(evidence, 900)[1] == "double-vote"

    observer = Observer(script.chain, final=script.genesis, final_certificate=None)
    observer.on_message(script.vote(CULPRIT, rival), script.at(2))
    assert len(evidence_in(observer.on_blocks(script.certified(block), script.at(3)))) == 1


def test_a_certificate_of_a_conflicting_chain_names_its_voters(script: Script) -> None:
    """Two final chains: whoever sees the other one's certificates can show who signed both (promise P6)."""
    main, fork = script.chain_of([2, 3, 4]), script.chain_of([1, 5, 6])
    observer = Observer(script.chain, final=script.genesis, final_certificate=None)
    observer.on_blocks(script.certified(*main), script.at(4))
    actions = observer.on_blocks(script.certified(*fork), script.at(6))
    culprits = {check_evidence(action.evidence, 900)[0] for action in evidence_in(actions)}
    assert culprits == {key.address for key in KEYS[:3]}
    assert observer.final.hash == main[1].hash


def test_forged_certificates_name_nobody_and_cost_little(script: Script, verifications: list[bytes]) -> None:
    main, fork = script.chain_of([2, 3, 4]), script.chain_of([1, 5, 6])
    observer = Observer(script.chain, final=script.genesis, final_certificate=None)
    observer.on_blocks(script.certified(*main), script.at(4))
    certified = script.certified(*fork)[1]
    votes = [replace(vote, signature=bytes(64)) for vote in certified.certificate.votes]
    forged = CertifiedBlock(certified.block, replace(certified.certificate, votes=votes))
    verifications.clear()
    assert not evidence_in(observer.on_blocks([forged] * 100, script.at(6)))
    assert len(verifications) == MAX_REJECTED_BLOCKS


# --- reporting ----------------------------------------------------------------------------------------------


def test_a_report_that_no_block_takes_at_its_fee_is_offered_again_for_more() -> None:
    """P10, P9: the culprit fills blocks until the base fee is above what the waiting report offers."""
    chain, key = Chain(l1_genesis()), dev_keypair("validator-1")
    reporter, pool = Reporter(chain.rules, key, [], lambda _: None), Mempool(chain.rules)
    assert reporter.add(VoteEvidence(vote(3, 2, 1), vote(3, 2, 2)))

    def head(slot: int, base_fee: int) -> Head:
        state = State(chain.genesis_tree)
        environment = BlockEnvironment(slot, slot, 0, bytes(32), base_fee, 30_000_000)
        state.set(BLOCK_KEY, encode(environment))
        return Head(chain.genesis_block.header, chain.genesis_block.hash, state.commit())

    def due(at: Head, slot: int) -> SignedTransaction | None:
        tx = reporter.due(at, at, slot, pool.next_nonce(key.address, State(at.tree).account(key.address)))
        if tx is not None:
            pool.add(tx, State(at.tree).account)
        return tx

    def takes(at: Head, base_fee: int) -> list[SignedTransaction]:
        return list(pool.select(State(at.tree).account, base_fee, 60_000_000, 2**21))

    calm, dear = head(4, 4), head(6, 100)
    first = due(calm, 5)
    assert takes(calm, 4) == [first]
    assert takes(dear, 100) == []
    assert [due(dear, 5 + slot) for slot in range(1, RETRY_SLOTS)] == [None] * (RETRY_SLOTS - 1)
    again = due(dear, 5 + RETRY_SLOTS)
    assert again is not None
    assert takes(dear, 100) == [again], "in the place of the first"


# --- validators that break the rules ------------------------------------------------------------------------


def play(script: Script, fault: str, slots: int = 30) -> tuple[ByzantineEngine, list[Action], list[Action]]:
    """A dishonest validator among three honest ones: its actions, and those of one of the others."""
    engines = [script.engine(key) for key in KEYS[1:4]]
    bad = ByzantineEngine(
        script.chain,
        CULPRIT,
        final=script.genesis,
        final_certificate=None,
        voted=VotedRecord(),
        select=lambda _parent, _slot: [],
        faults=[fault],
    )
    logs: list[list[Action]] = [[], [], [], []]
    everyone = [bad, *engines]
    for slot in range(1, slots):
        queue = []
        for index, engine in enumerate(everyone):
            queue += [(index, action) for action in engine.on_tick(script.at(slot))]
        while queue:
            source, action = queue.pop(0)
            logs[source].append(action)
            message = getattr(action, "message", None)
            for index, engine in enumerate(everyone):
                if message is not None and index != source:
                    queue += [(index, a) for a in engine.on_message(message, script.at(slot, 0.2))]
    return bad, logs[0], logs[1]


@pytest.mark.parametrize("fault", ["double-vote", "double-propose", "vote-lower"])
def test_each_offence_is_played_once_and_proven_by_the_others(script: Script, fault: str) -> None:
    bad, own, other = play(script, fault)
    assert not bad.faults
    evidence = [action.evidence for action in evidence_in(other)]
    assert [check_evidence(each, 900)[:2] for each in evidence] == [(CULPRIT.address, fault)]
    assert not evidence_in(own), "an offender does not report itself"
    assert bad.final.header.height > 15, "one of four does not stop the others"


def test_the_silent_say_nothing_and_follow(script: Script) -> None:
    bad, own, other = play(script, "silent")
    assert not [action for action in own if hasattr(action, "message")]
    assert bad.final.header.height > 3
    assert not evidence_in(other)


@pytest.mark.parametrize("censored", [(), ("bob",), ("alice",)])
def test_a_censor_leaves_transactions_out_of_its_own_blocks(
    script: Script, censored: tuple[str, ...]
) -> None:
    slot = script.slot_of(CULPRIT)
    engine = ByzantineEngine(
        script.chain,
        CULPRIT,
        final=script.genesis,
        final_certificate=None,
        voted=VotedRecord(),
        select=lambda _parent, _slot: [script.transfer(1)],
        faults=["censor"],
        censored=[dev_keypair(name).address for name in censored],
    )
    (proposal,) = proposals_in(engine.on_tick(script.at(slot)))
    assert len(proposal.block.transactions) == (1 if censored == ("bob",) else 0)
    assert engine.faults == {"censor"}


def test_unknown_faults_are_refused_with_those_that_exist(script: Script) -> None:
    bad, _, _ = play(script, "silent", slots=1)
    with pytest.raises(UnknownFaultError, match="double-vote"):
        bad.start_fault("steal")
    assert set(FAULTS) == {"double-vote", "double-propose", "vote-lower", "silent", "censor"}
    assert bad.stop_fault("silent")
    assert not bad.stop_fault("silent")


# --- what is told late ----------------------------------------------------------------------------------------


def test_a_certificate_shows_another_offence_in_the_slot_of_one_that_is_known(script: Script) -> None:
    """The contract punishes by kind and slot: who voted twice in a slot, and there too low as well, did two things."""
    chain = script.chain
    watching = Observer(chain, final=chain.genesis_block, final_certificate=None)
    before, first, second, low = vote(10, 7, 1), vote(12, 8, 2), vote(12, 8, 3), vote(12, 5, 4)
    now = chain.slot_time(12)
    found = evidence_in(
        [action for said in (before, first, second) for action in watching.on_message(said, now)]
    )
    assert [each.evidence for each in found] == [VoteEvidence(first, second)]
    watching._look_at(Certificate(12, 5, low.block_hash, [CertificateVote(low.voter, low.signature)]))
    assert [each.evidence for each in evidence_in(watching._leave())] == [VoteEvidence(before, low)]


def test_a_clock_that_was_set_back_hides_no_second_proposal(script: Script) -> None:
    """What may still be voted on is watched, and bounded, however far the clock had been."""
    chain = script.chain
    genesis = chain.genesis_block
    watching = Observer(chain, final=genesis, final_certificate=None)
    watching.on_tick(chain.slot_time(200))
    now, slot = chain.slot_time(195), 200 - RECENT_SLOTS - 3
    leader = next(key for key in KEYS if key.address == chain.leader(genesis.tree, slot))
    block, _ = chain.build(genesis, slot, leader.address, [])
    found: list[Evidence] = []
    refused: list[Rejection | None] = []
    for tag in range(4):
        changed = replace(block.header, state_root=bytes([tag]) * 32)
        proposal = Proposal.sign(leader, Block(changed, []), None)
        found += [each.evidence for each in evidence_in(watching.on_message(proposal, now))]
        refused.append(watching.refused)
    assert len(found) == 1
    assert refused[2:] == [Rejection.TOO_MANY, Rejection.TOO_MANY]
    watching.on_tick(chain.slot_time(400))
    assert watching._watch.headers(slot, leader.address) == []
