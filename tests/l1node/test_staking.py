"""Staking through whole blocks: the books, the eras, slashing beyond unbonding, and every bad input."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import (
    ALICE,
    BOB,
    CAROL,
    CHAIN_ID,
    COIN,
    STRANGER,
    USER_BALANCE,
    VALIDATORS,
    account,
    build,
    call,
    make_genesis,
    transfer,
)

from chainkit.block import MAX_VALIDATORS, SignedHeader, Validator, ValidatorSet, Vote, slot_message
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import MAX_AMOUNT, Record, decode, encode
from chainkit.contract import Event, Storage, Supply
from chainkit.execution import Receipt, supply
from chainkit.genesis import GenesisError
from chainkit.keys import KeyPair, dev_keypair
from chainkit.state import MAX_VALUE_BYTES, State, contract_address
from chainkit.transaction import SignedTransaction
from l1node import stakes, staking
from l1node.evidence import Evidence, ProposalEvidence, VoteEvidence
from l1node.stakes import Candidates, Stake, Unbonding, elect, load_stake, slash
from l1node.staking import StakingParams, UnstakeArgs

CODE = "l1node.staking:Staking"
ERA = 4  # slots
STAKE = 100 * COIN
MIN = StakingParams().min_stake
V0, V1, V2, V3 = VALIDATORS
HOLDER = contract_address("staking")


class Net:
    """One branch of one chain with a staking contract, driven block by block."""

    def __init__(self, params: StakingParams | None = None, stakes: Any = None) -> None:
        stakes = [(v, STAKE) for v in VALIDATORS] if stakes is None else stakes
        contracts = [("staking", CODE, params or StakingParams())]
        self.chain = Chain(make_genesis(stakes=stakes, contracts=contracts))
        self.head: ExecutedBlock = self.chain.genesis_block

    def nonce(self, key: KeyPair) -> int:
        return account(self.head, key.address).nonce

    def call(
        self, key: KeyPair, method: str, args: Record | bytes | None = None, value: int = 0, **options: int
    ) -> Receipt:
        """One block with one call."""
        tx = call(key, self.nonce(key), "staking", method, args, value, **options)
        self.head = build(self.chain, self.head, [tx])
        return self.head.receipts[0]

    def ok(self, key: KeyPair, method: str, args: Record | None = None, value: int = 0) -> Receipt:
        receipt = self.call(key, method, args, value)
        assert receipt.success, (receipt.code, receipt.message)
        return receipt

    def go_to_era(self, era: int) -> None:
        """Blocks up to the first one of ``era``, one an era."""
        while self.era < era:
            self.jump_to_era(self.era + 1)

    def jump_to_era(self, era: int) -> None:
        """One block, the first of ``era``, whatever lies between."""
        self.head = build(self.chain, self.head, [], slot=era * ERA)

    @property
    def era(self) -> int:
        return self.head.header.slot // ERA

    @property
    def storage(self) -> Storage:
        return Storage(State(self.head.tree), "staking")

    def stake(self, key: KeyPair) -> Stake:
        return load_stake(self.storage, key.address)

    def set_of(self, era: int) -> ValidatorSet:
        return self.chain.validators(self.head.tree, era * ERA)

    def status(self, key: KeyPair) -> str:
        view = {v["address"]: v["status"] for v in staking.validator_view(self.storage)}
        return str(view["0x" + key.address.hex()])

    def held(self) -> int:
        return account(self.head, HOLDER).balance


def double_vote(key: KeyPair, slot: int, chain_id: int = CHAIN_ID) -> VoteEvidence:
    votes = [Vote.sign(key, chain_id, slot, 5, bytes([n]) * 32) for n in (1, 2)]
    return VoteEvidence(*votes)


def lower_vote(key: KeyPair, slot: int) -> VoteEvidence:
    return VoteEvidence(
        Vote.sign(key, CHAIN_ID, slot - 1, 5, bytes(32)), Vote.sign(key, CHAIN_ID, slot, 4, bytes(32))
    )


def double_proposal(key: KeyPair, slot: int) -> ProposalEvidence:
    def header(block_hash: bytes) -> SignedHeader:
        signature = key.sign(slot_message("proposal", CHAIN_ID, slot, 5, block_hash))
        return SignedHeader(CHAIN_ID, slot, 5, block_hash, key.address, signature)

    return ProposalEvidence(header(bytes(32)), header(b"\x01" * 32))


def report(net: Net, evidence: Evidence, by: KeyPair = ALICE) -> Receipt:
    return net.call(by, "report", staking.ReportArgs(evidence))


def events_of(events: list[Event] | tuple[Event, ...], kind: type[Record]) -> list[Any]:
    return [decode(kind, e.data) for e in events if e.name == kind.__name__]


# --- genesis ---


def test_genesis_holds_the_stakes_without_minting_them() -> None:
    net = Net()
    assert net.held() == 4 * STAKE
    state = State(net.head.tree)
    assert supply(state) == Supply(genesis=net.chain.genesis.total_supply)
    assert net.set_of(0) == net.set_of(1) == ValidatorSet([Validator(v.address, STAKE) for v in VALIDATORS])


@pytest.mark.parametrize(
    ("params", "name"),
    [
        (StakingParams(min_stake=0), "min_stake"),
        (StakingParams(unbonding_eras=2), "unbonding_eras"),
        (StakingParams(unbonding_eras=65), "unbonding_eras"),
        (StakingParams(slash_percent=0), "slash_percent"),
        (StakingParams(slash_percent=101), "slash_percent"),
        (StakingParams(reporter_percent=51), "reporter_percent"),
        (StakingParams(jail_eras=0), "jail_eras"),
        (StakingParams(jail_eras=MAX_AMOUNT), "jail_eras"),
        (StakingParams(min_stake=STAKE + 1), "min_stake"),
    ],
)
def test_genesis_names_the_bad_parameter(params: StakingParams, name: str) -> None:
    with pytest.raises(GenesisError, match=name):
        Net(params)


@pytest.mark.parametrize("count", [0, MAX_VALIDATORS + 1])
def test_genesis_needs_a_bounded_set_that_is_not_empty(count: int) -> None:
    keys = [KeyPair(bytes([n]) * 32) for n in range(count)]
    with pytest.raises(GenesisError, match="validators must be 1 to"):
        Net(stakes=[(k, STAKE) for k in keys])


def test_stakes_that_no_contract_holds_are_refused() -> None:
    with pytest.raises(GenesisError, match="total supply"):
        Chain(make_genesis(stakes=[(V0, STAKE)]))


def test_two_staking_contracts_cannot_both_take_the_stakes() -> None:
    contracts = [(name, CODE, StakingParams()) for name in ("staking", "staking2")]
    with pytest.raises(GenesisError, match="total supply"):
        Chain(make_genesis(stakes=[(V0, STAKE)], contracts=contracts))


# --- stake, unstake, withdraw ---


def test_a_stake_enters_the_set_two_eras_after_the_next_boundary() -> None:
    net = Net()
    net.go_to_era(1)
    receipt = net.ok(ALICE, "stake", value=STAKE)
    assert events_of(receipt.events, staking.ValidatorStaked) == [
        staking.ValidatorStaked(ALICE.address, STAKE, STAKE)
    ]
    net.go_to_era(2)
    assert [net.set_of(e).stake_of(ALICE.address) for e in (1, 2, 3, 4)] == [0, 0, 0, STAKE]
    changed = events_of(net.head.events, staking.ValidatorSetChanged)
    assert [c.era for c in changed] == [4]
    assert net.status(ALICE) == "active"


def test_stakes_under_the_minimum_add_up_to_a_seat() -> None:
    net = Net()
    net.ok(ALICE, "stake", value=MIN - 1)
    net.go_to_era(1)
    assert net.set_of(3).stake_of(ALICE.address) == 0
    net.ok(ALICE, "stake", value=1)
    net.go_to_era(2)
    assert net.set_of(4).stake_of(ALICE.address) == MIN


def test_a_partial_unstake_below_the_minimum_leaves_the_set() -> None:
    net = Net()
    net.ok(V0, "unstake", UnstakeArgs(STAKE - MIN + 1))
    net.go_to_era(1)
    assert net.stake(V0).active == MIN - 1
    assert net.set_of(2).stake_of(V0.address) == STAKE
    assert net.set_of(3).stake_of(V0.address) == 0
    assert net.status(V0) == "waiting"


def test_unbonding_pays_at_its_era_and_not_before() -> None:
    net = Net()
    before = account(net.head, V0.address).balance
    receipt = net.ok(V0, "unstake", UnstakeArgs(STAKE))
    (event,) = events_of(receipt.events, staking.ValidatorUnstaked)
    assert event.release_era == 0 + 2 + StakingParams().unbonding_eras + 1
    net.go_to_era(event.release_era - 1)
    assert net.call(V0, "withdraw").code == "nothing_to_withdraw"
    assert net.status(V0) == "unbonding"
    net.go_to_era(event.release_era)
    net.ok(V0, "withdraw")
    assert net.held() == 3 * STAKE
    fees = before + STAKE - account(net.head, V0.address).balance
    assert 0 < fees < COIN // 10
    assert net.call(V0, "withdraw").code == "nothing_to_withdraw"
    assert net.status(V0) == "left"


def test_the_unbonding_queue_stays_short_however_often_one_unstakes() -> None:
    params = StakingParams()
    net = Net(params)
    for era in range(1, 12):
        net.jump_to_era(era)
        for _ in range(2):
            net.ok(V0, "unstake", UnstakeArgs(7))
        # One entry a turn that has not matured, and one for all that has.
        assert len(net.stake(V0).unbonding) <= params.unbonding_eras + 4
    assert net.stake(V0).total == STAKE


@pytest.mark.parametrize(
    ("method", "args", "value", "code"),
    [
        ("stake", None, 0, "zero_amount"),
        ("stake", None, USER_BALANCE - COIN // 100, ""),
        ("unstake", UnstakeArgs(0), 0, "zero_amount"),
        ("unstake", UnstakeArgs(1), 0, "insufficient_stake"),
        ("unstake", UnstakeArgs(MAX_AMOUNT), 0, "insufficient_stake"),
        ("unstake", UnstakeArgs(1), 1, "not_payable"),
        ("withdraw", None, 0, "nothing_to_withdraw"),
        ("unjail", None, 0, "not_jailed"),
        ("genesis", None, 0, "unknown_method"),
        ("begin_block", None, 0, "unknown_method"),
        ("unstake", encode([-1]), 0, "bad_arguments"),
        ("unstake", encode([2**53]), 0, "bad_arguments"),
        ("unstake", encode([2**63]), 0, "bad_arguments"),
        ("unstake", encode([True]), 0, "bad_arguments"),
        ("unstake", encode([1.0]), 0, "bad_arguments"),
        ("unstake", encode([float("nan")]), 0, "bad_arguments"),
        ("unstake", encode(["1"]), 0, "bad_arguments"),
        ("unstake", encode([1, 1]), 0, "bad_arguments"),
        ("unstake", encode([]), 0, "bad_arguments"),
        ("unstake", b"", 0, "bad_arguments"),
        ("unstake", b"\x91\xcc\x01", 0, "bad_arguments"),  # 1, but in two bytes
        ("unstake", b"\x91\x01\x00", 0, "bad_arguments"),
        ("stake", b"\x91\x01", 5, "bad_arguments"),
        ("report", b"\x91\xc0", 0, "bad_arguments"),
        ("report", encode([[2, None, None]]), 0, "bad_arguments"),
    ],
)
def test_bad_calls_by_a_stranger(method: str, args: Record | bytes | None, value: int, code: str) -> None:
    net = Net()
    held = net.held()
    receipt = net.call(ALICE, method, args, value)
    assert receipt.code == code
    if code:
        assert receipt.events == []
        assert net.held() == held
        assert account(net.head, ALICE.address).balance == USER_BALANCE - receipt.fee


def test_the_stakes_cannot_be_topped_up_by_a_transfer() -> None:
    net = Net()
    net.head = build(net.chain, net.head, [transfer(ALICE, 0, HOLDER, 5)])
    assert net.head.receipts[0].code == "invalid_recipient"


# --- eras ---


@pytest.mark.parametrize("gap", [1, 2, 3, 4, 7, 40, 10**9])
def test_after_a_halt_the_set_is_the_one_that_validated_the_block(gap: int) -> None:
    net = Net()
    net.go_to_era(1)
    net.ok(ALICE, "stake", value=STAKE)
    judged_by = net.set_of(1 + gap)
    net.jump_to_era(1 + gap)
    assert net.set_of(1 + gap) == judged_by
    assert net.set_of(3 + gap).stake_of(ALICE.address) == STAKE
    in_next = net.set_of(2 + gap).stake_of(ALICE.address)
    assert in_next == (0 if gap == 1 else STAKE)  # era 3's set was fixed by era 1


def test_old_sets_are_forgotten_and_the_state_stays_small() -> None:
    net = Net()
    for era in (1, 2, 3, 9, 10, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60):
        net.jump_to_era(era)
        kept = [key for key, value in net.head.tree.items() if key.startswith(b"svalidators/") and value]
        assert len(kept) <= StakingParams().unbonding_eras + 3 + 1
        assert net.set_of(era).total == 4 * STAKE


def test_an_era_without_a_change_announces_none() -> None:
    net = Net()
    net.go_to_era(3)
    assert net.head.events == ()


def test_nobody_left_keeps_the_last_set() -> None:
    net = Net()
    leaving = [call(v, 0, "staking", "unstake", UnstakeArgs(STAKE)) for v in VALIDATORS]
    net.head = build(net.chain, net.head, leaving)
    net.go_to_era(net.era + 1)
    assert net.set_of(net.era + 2).total == 4 * STAKE
    assert events_of(net.head.events, staking.ValidatorSetKept)
    net.ok(V2, "stake", value=MIN)
    net.go_to_era(net.era + 1)
    assert net.set_of(net.era + 2) == ValidatorSet([Validator(V2.address, MIN)])


def test_the_largest_stakes_are_elected() -> None:
    keys = [KeyPair(bytes([n]) * 32) for n in range(1, 81)]
    stakes = [Validator(k.address, COIN * (1 + n // 2)) for n, k in enumerate(keys)]
    elected = elect(stakes)
    assert len(elected) == MAX_VALIDATORS
    assert [v.address for v in elected] == sorted(v.address for v in elected)
    out = [v for v in stakes if v not in elected]
    assert max(v.stake for v in out) <= min(v.stake for v in elected)
    assert all(a.address < b.address for a, b in pairwise(elected))


def test_when_all_places_are_taken_only_more_stake_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stakes, "MAX_CANDIDATES", 4)
    monkeypatch.setattr(staking, "MAX_KNOWN", 5)
    net = Net()
    net.ok(ALICE, "stake", value=STAKE)
    net.ok(BOB, "stake", value=STAKE + 1)
    net.ok(CAROL, "stake", value=STAKE + 2)
    net.go_to_era(1)
    members = {v.address for v in net.set_of(3).validators}
    assert len(members) == 4
    assert ALICE.address not in members
    assert {BOB.address, CAROL.address} <= members
    assert net.stake(ALICE).active == STAKE  # still hers, and payable
    net.ok(ALICE, "unstake", UnstakeArgs(STAKE))


# --- evidence ---


@pytest.mark.parametrize("make", [double_vote, lower_vote, double_proposal])
def test_an_offence_is_slashed_jailed_and_paid_for(make: Any) -> None:
    net = Net()
    evidence = make(V0, 6)
    before = account(net.head, ALICE.address).balance
    burned = supply(State(net.head.tree)).burned
    receipt = report(net, evidence)
    assert receipt.success, receipt.message
    (event,) = events_of(receipt.events, staking.ValidatorSlashed)
    reward = STAKE * 5 // 100
    assert (event.validator, event.slot, event.amount, event.reward) == (V0.address, 6, STAKE, reward)
    assert (event.reporter, event.kind) == (
        ALICE.address,
        {double_vote: "double-vote", lower_vote: "vote-lower", double_proposal: "double-propose"}[make],
    )
    assert account(net.head, ALICE.address).balance == before + reward - receipt.fee
    base = receipt.gas_used * net.head.header.base_fee
    assert supply(State(net.head.tree)).burned == burned + STAKE - reward + base
    assert net.stake(V0).total == 0
    assert net.status(V0) == "jailed"


def test_a_jailed_validator_leaves_the_set_when_the_rules_say() -> None:
    net = Net()
    net.go_to_era(1)
    assert report(net, double_vote(V0, 4)).success
    net.go_to_era(2)
    assert [net.set_of(e).stake_of(V0.address) for e in (2, 3, 4)] == [STAKE, STAKE, 0]


def test_an_offence_is_punished_once_in_whatever_form() -> None:
    net = Net(StakingParams(slash_percent=10))
    assert report(net, double_vote(V0, 6)).success
    left = net.stake(V0).total
    first, second = double_vote(V0, 6).first, double_vote(V0, 6).second
    third = Vote.sign(V0, CHAIN_ID, 6, 9, b"\x09" * 32)
    for again in (
        VoteEvidence(first, second),
        VoteEvidence(second, first),
        VoteEvidence(first, third),
    ):
        assert report(net, again, BOB).code == "already_punished"
    assert net.stake(V0).total == left == STAKE * 9 // 10
    assert report(net, double_vote(V0, 7), BOB).success  # another slot is another offence
    assert report(net, double_proposal(V0, 6), BOB).success  # and so is another kind


def test_evidence_by_the_culprit_itself_costs_it_the_burned_share() -> None:
    net = Net(StakingParams(reporter_percent=50))
    before = account(net.head, V1.address).balance
    receipt = report(net, double_vote(V1, 1), by=V1)
    assert account(net.head, V1.address).balance == before + STAKE // 2 - receipt.fee


def test_forged_and_misplaced_evidence_moves_nothing() -> None:
    net = Net()
    good, other = double_vote(V0, 6), double_vote(V1, 6)
    proposals = double_proposal(V0, 6)
    flipped = bytes([good.second.signature[0] ^ 1]) + good.second.signature[1:]
    v = good.second
    higher = Vote.sign(V0, CHAIN_ID, 7, 6, bytes(32))
    bad: list[Evidence] = [
        VoteEvidence(good.first, good.first),
        VoteEvidence(good.first, other.second),
        VoteEvidence(good.first, Vote(v.chain_id, v.slot, v.height, v.block_hash, v.voter, flipped)),
        VoteEvidence(good.first, Vote(v.chain_id, v.slot, v.height, b"\x05" * 32, v.voter, v.signature)),
        VoteEvidence(good.first, Vote(v.chain_id, v.slot, v.height, v.block_hash, bytes(32), v.signature)),
        VoteEvidence(good.first, higher),  # an honest history
        VoteEvidence(lower_vote(V0, 6).second, lower_vote(V0, 6).first),
        double_vote(V0, 6, chain_id=CHAIN_ID + 1),
        VoteEvidence(good.first, double_vote(V0, 6, chain_id=CHAIN_ID + 1).second),
        ProposalEvidence(proposals.first, proposals.first),
        ProposalEvidence(proposals.first, double_proposal(V1, 6).second),
        ProposalEvidence(proposals.first, double_proposal(V0, 7).second),
        # Votes dressed up as proposals: the purposes are signed.
        ProposalEvidence(
            *(
                SignedHeader(x.chain_id, x.slot, x.height, x.block_hash, x.voter, x.signature)
                for x in (good.first, good.second)
            )
        ),
    ]
    held = net.held()
    for evidence in bad:
        assert report(net, evidence).code == "bad_evidence"
    assert net.held() == held
    assert [net.status(v) for v in VALIDATORS] == ["active"] * 4


def test_evidence_against_a_stranger_finds_nothing() -> None:
    net = Net()
    assert report(net, double_vote(STRANGER, 6)).code == "nothing_at_stake"
    assert report(net, double_vote(ALICE, 6)).code == "nothing_at_stake"


def test_a_report_pays_for_its_signature_checks() -> None:
    net = Net()
    bad = report(net, double_vote(V0, 6, chain_id=5))
    tiny = net.call(ALICE, "unjail")
    assert bad.gas_used > tiny.gas_used + 2 * 3000


# --- P10: evidence outlives unbonding (Cosmos 2019) ---


def test_unbonding_at_once_does_not_dodge_the_slash() -> None:
    """tests/threats/README.md, Cosmos 2019: an offence in the last era of the set, reported as late as can be."""
    params = StakingParams()
    net = Net(params)
    net.go_to_era(1)
    net.ok(V0, "unstake", UnstakeArgs(STAKE))
    last = max(e for e in range(2, 6) if net.set_of(e).stake_of(V0.address))
    net.go_to_era(2)
    last = max(e for e in (2, 3, 4) if net.set_of(e).stake_of(V0.address))
    assert last == 3
    net.go_to_era(last + params.unbonding_eras)
    assert net.call(V0, "withdraw").code == "nothing_to_withdraw"
    receipt = report(net, double_vote(V0, last * ERA))
    assert receipt.success, receipt.message
    (event,) = events_of(receipt.events, staking.ValidatorSlashed)
    assert event.amount == STAKE
    net.go_to_era(last + params.unbonding_eras + 1)
    assert net.call(V0, "withdraw").code == "nothing_to_withdraw"


def test_evidence_expires_just_after_the_delay() -> None:
    params = StakingParams()
    net = Net(params)
    net.go_to_era(1 + params.unbonding_eras)
    assert report(net, double_vote(V0, ERA - 1)).code == "evidence_too_old"  # the last slot of era 0
    assert report(net, double_vote(V0, ERA)).success  # the first slot of era 1


@pytest.mark.parametrize("gap", [2, 3, 10, 1000])
def test_a_halt_does_not_let_a_stake_mature(gap: int) -> None:
    """After a halt the leaver validates once more; it may still be slashed for that."""
    params = StakingParams()
    net = Net(params)
    net.go_to_era(1)
    net.ok(V0, "unstake", UnstakeArgs(STAKE))
    assert net.set_of(1 + gap).stake_of(V0.address) == STAKE
    net.jump_to_era(1 + gap)
    offence = double_vote(V0, net.head.header.slot)
    assert net.call(V0, "withdraw").code == "nothing_to_withdraw"
    net.go_to_era(1 + gap + params.unbonding_eras)
    assert net.call(V0, "withdraw").code == "nothing_to_withdraw"
    assert report(net, offence).success
    assert net.stake(V0).total == 0


@given(percent=st.integers(1, 100), amounts=st.lists(st.integers(1, MAX_AMOUNT // 8), max_size=6))
def test_slashing_takes_its_share_of_every_part(percent: int, amounts: list[int]) -> None:
    entries = tuple(Unbonding(n, a) for n, a in enumerate(amounts))
    old = Stake(10**9, 0, entries)
    result = slash(old, percent)
    assert result.amount + result.remaining.total == old.total
    assert result.amount * 100 >= percent * old.total
    assert result.amount * 100 < percent * old.total + 100 * (len(entries) + 1)


# --- jail ---


def test_jail_lasts_its_term() -> None:
    params = StakingParams(slash_percent=10, jail_eras=2)
    net = Net(params)
    assert report(net, double_vote(V0, 1)).success
    assert net.call(V0, "stake", value=COIN).code == "jailed"
    assert net.call(V0, "unjail").code == "still_jailed"
    net.go_to_era(1)
    assert net.call(V0, "unjail").code == "still_jailed"
    net.go_to_era(2)
    assert net.set_of(4).stake_of(V0.address) == 0
    net.ok(V0, "unjail")
    net.go_to_era(3)
    assert net.set_of(5).stake_of(V0.address) == STAKE * 9 // 10
    assert net.call(V0, "unjail").code == "not_jailed"


def test_a_jailed_validator_may_leave_but_not_before_the_delay() -> None:
    net = Net(StakingParams(slash_percent=10))
    assert report(net, double_vote(V0, 1)).success
    net.ok(V0, "unstake", UnstakeArgs(STAKE * 9 // 10))
    assert net.call(V0, "withdraw").code == "nothing_to_withdraw"
    assert net.status(V0) == "jailed"
    assert report(net, double_vote(V0, 2)).success  # its unbonding stake still answers
    assert net.stake(V0).total == STAKE * 81 // 100


def test_every_record_fits_its_place_at_its_largest() -> None:
    """A record that outgrew a storage value would stop the first block of an era."""
    big = MAX_AMOUNT
    keys = [bytes([n]) * 32 for n in range(stakes.MAX_KNOWN)]
    records = [
        Candidates(tuple(Validator(k, big) for k in keys[: stakes.MAX_CANDIDATES])),
        stakes.Known(tuple(keys)),
        stakes.Eras(big, big, big, (big,) * (staking.MAX_UNBONDING_ERAS + 1)),
        Stake(big, big, (Unbonding(big, big),) * (staking.MAX_UNBONDING_ERAS + 4)),
    ]
    for record in records:
        assert len(encode(record)) <= MAX_VALUE_BYTES


# --- the books (P2) ---

ACTORS = [V0, V1, ALICE, BOB]
amounts = st.sampled_from(
    [0, 1, 7, MIN - 1, MIN, 3 * MIN, STAKE, USER_BALANCE - COIN, USER_BALANCE, MAX_AMOUNT]
)
actions = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["stake", "unstake"]), st.sampled_from(range(4)), amounts),
        st.tuples(st.sampled_from(["withdraw", "unjail"]), st.sampled_from(range(4)), st.just(0)),
        st.tuples(st.just("report"), st.sampled_from(range(4)), st.integers(0, 60)),
        st.tuples(st.just("skip"), st.just(0), st.sampled_from([1, 3, 4, 5, 8, 9, 30])),
    ),
    max_size=25,
)


def to_transaction(net: Net, what: str, who: int, amount: int) -> SignedTransaction:
    key = ACTORS[who]
    nonce = net.nonce(key)
    if what == "stake":
        return call(key, nonce, "staking", "stake", value=min(amount, USER_BALANCE))
    if what == "unstake":
        return call(key, nonce, "staking", "unstake", UnstakeArgs(amount))
    if what == "report":
        culprit = ACTORS[(who + amount) % 4]
        make = (double_vote, double_proposal)[amount % 2]
        return call(key, nonce, "staking", "report", staking.ReportArgs(make(culprit, amount)))
    return call(key, nonce, "staking", what)


@settings(max_examples=40, deadline=None)
@given(steps=actions, percent=st.sampled_from([1, 33, 100]))
def test_the_books_are_exact_after_every_block(steps: list[tuple[str, int, int]], percent: int) -> None:
    """P2: nothing appears or vanishes, and the contract holds exactly what its records say."""
    net = Net(StakingParams(slash_percent=percent, jail_eras=1, unbonding_eras=3))
    for what, who, amount in steps:
        if what == "skip":
            net.head = build(net.chain, net.head, [], slot=net.head.header.slot + amount)
        else:
            tx = to_transaction(net, what, who, amount)
            slot = net.head.header.slot + 1
            block, _ = net.chain.build(net.head, slot, V0.address, [tx])
            net.head = build(net.chain, net.head, list(block.transactions))
        check_records(net)


def check_records(net: Net) -> None:
    stakes = {k.address: net.stake(k) for k in [*VALIDATORS, ALICE, BOB]}
    assert net.held() == sum(s.total for s in stakes.values())
    candidates = net.storage.load(b"candidates", Candidates)
    assert candidates is not None
    expected = [
        Validator(a, s.active) for a, s in sorted(stakes.items()) if s.active >= MIN and not s.jailed_until
    ]
    assert list(candidates.stakes) == expected
    current = net.set_of(net.era)
    assert current.total > 0
    assert [v.address for v in current.validators] == sorted(v.address for v in current.validators)


# --- stake grinding ---


def test_no_variant_of_a_block_changes_who_leads() -> None:
    """tests/threats/README.md, stake grinding: the adversary varies all that a leader can vary within an era."""
    net = Net()
    net.go_to_era(1)
    parent = net.head
    slots = range(5, 16)
    leaders = [net.chain.leader(parent.tree, s) for s in slots]
    for variant in range(60):
        proposer = VALIDATORS[variant % 4].address
        txs = [
            transfer(ALICE, 0, BOB.address, 1 + variant, tip=variant % 5),
            call(BOB, 0, "staking", "stake", value=MIN * (variant + 1)),
        ]
        child, skipped = net.chain.build(parent, 5 + variant % 3, proposer, txs[: variant % 3])
        assert not skipped
        # Everything up to the end of the last era whose set is fixed is already drawn.
        assert [net.chain.leader(child.tree, s) for s in slots] == leaders


def test_leaders_are_drawn_by_stake() -> None:
    net = Net(stakes=[(V0, 3 * STAKE), (V1, STAKE)])
    drawn = [net.chain.leader(net.head.tree, s) for s in range(1, 4 * 500)]
    share = drawn.count(V0.address) / len(drawn)
    assert 0.70 < share < 0.80


def test_public_state_is_json_of_integers() -> None:
    net = Net()
    net.ok(V0, "unstake", UnstakeArgs(5))
    public = net.chain.rules.contracts["staking"].public_state(net.storage)
    (mine,) = [v for v in public["validators"] if v["address"] == "0x" + V0.address.hex()]
    assert mine == {
        "address": "0x" + V0.address.hex(),
        "stake": STAKE - 5,
        "status": "active",
        "jailed_until": None,
        "unbonding": [{"amount": 5, "release_era": 7}],
    }
    assert public["parameters"]["unbonding_eras"] == 4
    assert dev_keypair("alice").address.hex() not in str(public)
