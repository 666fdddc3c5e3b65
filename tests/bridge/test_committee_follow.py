"""The sum between two chains that are followed at any pace: true while operators are, false once a lie is certain."""

from itertools import product
from typing import Any

from committee_world import COIN, Ledger, Pair, address, make_params
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.abi import DepositArgs
from bridge.committee_abi import AttestArgs, WithdrawArgs
from bridge.committee_follow import CommitteeState
from chainkit.chain import ExecutedBlock

FAR = 2**53 - 1
MEMBERS = ("operator-0", "operator-1", "operator-2")


class Recorded(Pair):
    """A pair whose chains keep step, with all blocks."""

    def __init__(self) -> None:
        super().__init__(make_params(2, MEMBERS))
        self.blocks: dict[str, list[ExecutedBlock]] = {"bridge": [], "gateway": []}

    def act(self, ledger: Ledger, who: str, method: str, args: Any, value: int = 0) -> bool:
        """A call in one chain's block; the other chain makes an empty one for the same slot."""
        receipt = ledger.call(who, method, args, value)
        (self.side if ledger is self.l1 else self.l1).mine()
        self.blocks["bridge"].append(self.l1.tip)
        self.blocks["gateway"].append(self.side.tip)
        return receipt.success

    def followed(self, l1: int, side: int) -> CommitteeState:
        """The state of somebody who followed so many blocks of each."""
        state = CommitteeState(self.l1.chain, self.side.chain)
        for block in self.blocks["bridge"][:l1]:
            state.apply(self.l1.chain, block)
        for block in self.blocks["gateway"][:side]:
            state.apply(self.side.chain, block)
        return state

    def paces(self) -> list[tuple[int, int]]:
        count = len(self.blocks["bridge"])
        return list(product(range(count + 1), range(count + 1)))


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["deposit", "withdraw", "credit", "release"]),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=12,
)


def honest_acts(pair: Recorded, acts: list[tuple[str, int, int, int]]) -> None:
    said: dict[tuple[str, int], tuple[bytes, int]] = {}
    for act, operator, index, coins in acts:
        amount = coins * COIN
        if act == "deposit":
            number = pair.escrow.deposits
            if pair.act(pair.l1, "alice", "deposit", DepositArgs(address("bob")), amount):
                said["credit", number] = (address("bob"), amount)
        elif act == "withdraw":
            number = pair.gateway.withdrawals
            if pair.act(pair.side, MEMBERS[operator], "withdraw", WithdrawArgs(address("carol")), amount):
                said["release", number] = (address("carol"), amount)
        elif (act, index) in said:
            to, what = said[act, index]
            ledger = pair.side if act == "credit" else pair.l1
            pair.act(ledger, MEMBERS[operator], act, AttestArgs(index, to, what))


@given(ACTS)
@settings(max_examples=25, deadline=None)
def test_with_honest_operators_the_sum_holds_however_far_each_chain_is_followed(
    acts: list[tuple[str, int, int, int]],
) -> None:
    pair = Recorded()
    honest_acts(pair, acts)
    for l1, side in pair.paces():
        state = pair.followed(l1, side)
        books = state.invariant()
        assert books.holds, (l1, side, books)
        assert state.lies() == []
    count = len(pair.blocks["bridge"])
    books = pair.followed(count, count).invariant()
    assert (books.expected, books.settling) == (pair.owed(), 0)
    assert books.escrow == pair.escrow.escrow


@given(ACTS, st.sampled_from(["credit", "release"]), ACTS)
@settings(max_examples=25, deadline=None)
def test_a_lie_is_certain_once_the_other_chain_has_come_as_far_and_not_before(
    before: list[tuple[str, int, int, int]], method: str, after: list[tuple[str, int, int, int]]
) -> None:
    pair = Recorded()
    honest_acts(pair, before)
    ledger = pair.side if method == "credit" else pair.l1
    for who in MEMBERS[:2]:
        assert pair.act(ledger, who, method, AttestArgs(FAR, address("mallory"), COIN))
    told = len(pair.blocks["bridge"])  # blocks of both chains up to the payment
    pair.act(pair.l1, "alice", "deposit", DepositArgs(address("bob")), after[0][3] * COIN)
    for l1, side in pair.paces():
        state = pair.followed(l1, side)
        paid, other = (side, l1) if method == "credit" else (l1, side)
        certain = paid >= told and other >= told
        assert state.invariant().holds is not certain, (l1, side, told)
        assert [lie.index for _, lie in state.lies()] == ([FAR] if certain else [])


def test_a_lie_that_comes_true_is_none_any_more() -> None:
    """An index that was paid before there was anything to pay, and then is just that."""
    pair = Recorded()
    for who in MEMBERS[:2]:
        pair.act(pair.side, who, "credit", AttestArgs(0, address("bob"), COIN))
    assert not pair.followed(2, 2).invariant().holds
    pair.act(pair.l1, "alice", "deposit", DepositArgs(address("bob")), COIN)
    state = pair.followed(3, 3)
    assert state.invariant().holds
    assert state.deposits.payment_of(state.deposits.passages[0]) is not None


def test_an_amount_that_is_paid_to_another_leaves_the_withdrawal_owed() -> None:
    pair = Recorded()
    pair.act(pair.side, "operator-0", "withdraw", WithdrawArgs(address("bob")), 3 * COIN)
    for who in MEMBERS[:2]:
        pair.act(pair.l1, who, "release", AttestArgs(0, address("mallory"), 3 * COIN))
    books = pair.followed(3, 3).invariant()
    assert (books.withdrawals, books.lies, books.expected - books.escrow) == (3 * COIN, 1, 3 * COIN)


def test_a_reason_that_is_known_to_be_another_is_not_waited_for() -> None:
    pair = Recorded()
    pair.act(pair.side, "operator-0", "withdraw", WithdrawArgs(address("bob")), 3 * COIN)
    for who in MEMBERS[:2]:
        pair.act(pair.l1, who, "release", AttestArgs(0, address("mallory"), 3 * COIN))
    for side, lies in ((0, 0), (1, 1), (2, 1)):
        state = pair.followed(3, side)
        assert len(state.lies()) == lies
        assert state.invariant().holds is not bool(lies)


def test_to_pay_less_than_is_owed_is_a_lie_too() -> None:
    pair = Recorded()
    pair.act(pair.l1, "alice", "deposit", DepositArgs(address("bob")), 3 * COIN)
    for who in MEMBERS[:2]:
        pair.act(pair.side, who, "credit", AttestArgs(0, address("bob"), COIN))
    state = pair.followed(3, 3)
    books = state.invariant()
    assert (books.holds, books.deposits, books.lies) == (False, 3 * COIN, 1)
    assert state.deposits.payment_of(state.deposits.passages[0]) is None
