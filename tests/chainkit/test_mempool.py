"""The mempool under flood, replacement and reorganisation, against a slow model of its counters."""

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import ALICE, BOB, CAROL, CHAIN_ID, COIN, call, make_genesis, rules_with, transfer

from chainkit.chain import Chain
from chainkit.execution import FeeParameters, InvalidTransaction, Rules, intrinsic_gas
from chainkit.fees import least_to_replace
from chainkit.keys import KeyPair
from chainkit.mempool import Mempool
from chainkit.state import Account, State
from chainkit.transaction import SignedTransaction

RULES = rules_with()
FLOOR = RULES.fees.min_base_fee
RICH = Account(10**6 * COIN, 0)
SPAM = [KeyPair(bytes([1, n]) + bytes(30)) for n in range(40)]
GAS = 10_000_000
BYTES = 1 << 20


def pay(key: KeyPair, nonce: int, fee: int = 10, tip: int = 1, amount: int = 1) -> SignedTransaction:
    return transfer(key, nonce, BOB.address, amount, max_fee=fee, tip=min(tip, fee))


def rich(_: bytes) -> Account:
    return RICH


def refusal(pool: Mempool, tx: SignedTransaction, account: Account = RICH) -> str:
    """The code with which the pool refuses, having changed nothing."""
    before = list(pool)
    with pytest.raises(InvalidTransaction) as error:
        pool.add(tx, lambda _: account)
    assert sorted(t.id for t in pool) == sorted(t.id for t in before)
    check_counters(pool)
    return error.value.code


def check_counters(pool: Mempool) -> None:
    """Recount everything the slow way."""
    held = list(pool)
    assert len(pool) == len(held) == len({t.id for t in held})
    assert pool.size == sum(len(t.wire) for t in held)
    gapped = gapped_bytes = 0
    for address, sender in pool._senders.items():
        nonces = sorted(t.body.nonce for t in held if t.body.sender == address)
        assert nonces == [e.tx.body.nonce for e in sender.entries]
        assert nonces
        end = sender.nonce
        while end in nonces:
            end += 1
        assert sender.end == end
        beyond = [e.tx for e in sender.entries if e.tx.body.nonce > end]
        assert [e.tx for e in sender.gapped] == beyond
        assert sender.gapped_bytes == sum(len(tx.wire) for tx in beyond)
        assert sender.cost == sum(e.cost for e in sender.entries)
        assert [sender.at(n) for n in nonces] == sender.entries
        assert sender.at(end) is sender.at(nonces[-1] + 1) is sender.at(sender.nonce - 1) is None
        gapped += len(beyond)
        gapped_bytes += sender.gapped_bytes
    assert (pool.gapped, pool._gapped_bytes) == (gapped, gapped_bytes)
    assert len(pool._eviction) <= 2 * len(pool._senders) + 1024


# --- what is refused ---


def test_known_stale_far_and_unaffordable_are_refused() -> None:
    pool = Mempool(RULES, max_per_sender=4)
    tx = pay(ALICE, 5)
    five = Account(RICH.balance, 5)
    assert pool.add(tx, lambda _: five) == []
    assert refusal(pool, tx, five) == "already_known"
    assert refusal(pool, pay(ALICE, 4), five) == "stale_nonce"
    assert refusal(pool, pay(ALICE, 9), five) == "nonce_gap"
    assert refusal(pool, pay(CAROL, 0), Account(0, 0)) == "insufficient_balance"
    need = 400_000 * 10 + 1
    assert refusal(pool, pay(CAROL, 0), Account(need - 1, 0)) == "insufficient_balance"
    pool.add(pay(CAROL, 0), lambda _: Account(need, 0))
    # What already waits counts too: money cannot be promised twice.
    assert refusal(pool, pay(CAROL, 1), Account(2 * need - 1, 0)) == "insufficient_balance"


def test_stateless_checks_are_execution_s_own() -> None:
    pool = Mempool(RULES)
    good = pay(ALICE, 0)
    forged = SignedTransaction.decode(good.wire[:-1] + bytes([good.wire[-1] ^ 1]))
    assert refusal(pool, forged) == "bad_signature"
    assert refusal(pool, transfer(ALICE, 0, BOB.address, 1, chain_id=CHAIN_ID + 1)) == "wrong_chain"
    assert refusal(pool, transfer(ALICE, 0, BOB.address, 1, gas_limit=10)) == "gas_limit_too_low"
    assert refusal(pool, transfer(ALICE, 0, BOB.address, 1, max_fee=0, tip=0)) == "fee_too_low"
    assert refusal(pool, transfer(ALICE, 0, BOB.address, 1, max_fee=2, tip=3)) == "tip_above_max_fee"
    # A forged copy must not keep the real one out.
    assert pool.add(good, rich) == []


@pytest.mark.parametrize("name", ["max_transactions", "max_bytes", "max_per_sender"])
def test_a_cap_of_zero_is_no_cap(name: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        Mempool(RULES, **{name: 0})


# --- replacement ---


@pytest.mark.parametrize(
    ("fee", "tip", "accepted"),
    [(10, 5, False), (11, 5, False), (10, 6, False), (11, 6, True), (100, 5, False), (9, 9, False)],
)
def test_a_replacement_pays_a_tenth_more_in_both(fee: int, tip: int, accepted: bool) -> None:
    pool = Mempool(RULES)
    old = pay(ALICE, 0, fee=10, tip=5)
    pool.add(old, rich)
    pool.add(pay(ALICE, 1), rich)
    new = pay(ALICE, 0, fee=fee, tip=tip, amount=2)
    if accepted:
        assert pool.add(new, rich) == [old]
        assert old.id not in pool
        assert next(pool.select(rich, 1, GAS, BYTES)) == new
        assert len(pool) == 2
    else:
        assert refusal(pool, new) == "replacement_underpriced"


def test_a_replacement_is_charged_for_instead_of_the_old_one() -> None:
    pool = Mempool(RULES)
    account = Account(400_000 * 11 + 1, 0)
    pool.add(pay(ALICE, 0, fee=10), lambda _: account)
    pool.add(pay(ALICE, 0, fee=11, tip=2), lambda _: account)
    assert refusal(pool, pay(ALICE, 0, fee=13, tip=3), account) == "insufficient_balance"


# --- eviction ---


def test_when_full_the_cheapest_last_nonce_makes_room() -> None:
    pool = Mempool(RULES, max_transactions=4)
    chain = [pay(SPAM[0], 0, fee=2), pay(SPAM[0], 1, fee=50)]
    cheap, late = pay(SPAM[1], 0, fee=5), pay(SPAM[2], 0, fee=5)
    for tx in [*chain, cheap, late]:
        pool.add(tx, rich)
    assert refusal(pool, pay(ALICE, 0, fee=5)) == "mempool_full"
    assert refusal(pool, pay(ALICE, 0, fee=4)) == "mempool_full"
    # fee 2 is cheaper but not its sender's last; of equals the later one goes
    assert pool.add(pay(ALICE, 0, fee=6), rich) == [late]
    assert pool.add(pay(CAROL, 0, fee=6), rich) == [cheap]
    check_counters(pool)


def test_nobody_pushes_out_what_it_builds_on() -> None:
    pool = Mempool(RULES, max_transactions=2)
    pool.add(pay(ALICE, 0, fee=2), rich)
    pool.add(pay(CAROL, 0, fee=9), rich)
    assert refusal(pool, pay(ALICE, 1, fee=5)) == "mempool_full"
    other = next(iter(t for t in pool if t.body.sender == CAROL.address))
    assert pool.add(pay(ALICE, 1, fee=10), rich) == [other]


def test_a_refused_large_newcomer_restores_all_that_it_would_have_pushed_out() -> None:
    small = [pay(SPAM[n], 0, fee=5 + n) for n in range(4)]
    pool = Mempool(RULES, max_bytes=sum(len(t.wire) for t in small))
    for tx in small:
        pool.add(tx, rich)
    # It outbids two of them, but needs more room than they give.
    big = call_of_size(ALICE, 3 * len(small[0].wire), fee=7)
    assert refusal(pool, big) == "mempool_full"
    bigger_fee = call_of_size(ALICE, 3 * len(small[0].wire), fee=20)
    assert pool.add(bigger_fee, rich) == small[:3]
    check_counters(pool)


def test_a_refused_newcomer_takes_nobodys_age() -> None:
    """P23: who has waited longest has the first place in a block, also after somebody was refused in his stead."""
    old, *others = held = [pay(SPAM[n], 0, fee=5 + n, tip=n) for n in range(4)]
    pool = Mempool(RULES, max_bytes=sum(len(tx.wire) for tx in held))
    for tx in held:
        pool.add(tx, rich)
    room = 2 * len(old.wire)  # less than all want, so that the oldest has his turn though he bids the least
    assert list(pool.select(rich, 1, GAS, room)) == [old, others[-1]]
    assert refusal(pool, call_of_size(ALICE, 3 * len(old.wire), fee=6)) == "mempool_full"
    assert list(pool.select(rich, 1, GAS, room)) == [old, others[-1]]


def call_of_size(key: KeyPair, size: int, fee: int) -> SignedTransaction:
    return call(key, 0, "x", "y", bytes(size - 150), max_fee=fee)


# --- P23: flood ---


def test_gapped_transactions_have_a_small_share() -> None:
    pool = Mempool(RULES, max_transactions=80)
    for key in SPAM[:10]:
        pool.add(pay(key, 1, fee=1000), rich)
    assert pool.gapped == 10
    assert refusal(pool, pay(SPAM[10], 1, fee=1000)) == "mempool_full"
    dearer = pool.add(pay(SPAM[10], 1, fee=1001), rich)
    assert [t.body.sender for t in dearer] == [SPAM[9].address]
    assert pool.gapped == 10


def test_a_flood_of_gapped_nonces_keeps_nobody_out() -> None:
    """P23: at the fee floor, with a proper nonce, one gets in however much junk came before."""
    pool = Mempool(RULES, max_transactions=40)
    for key in SPAM:
        for nonce in range(1, 9):
            with suppress(InvalidTransaction):
                pool.add(pay(key, nonce, fee=10**6, tip=5), rich)
    assert pool.gapped == len(pool) == 5
    honest = [pay(ALICE, n, fee=FLOOR) for n in range(40)]
    for tx in honest:
        pool.add(tx, rich)
    assert list(pool) == honest
    assert pool.gapped == 0
    assert list(pool.select(rich, FLOOR, 60_000_000, BYTES)) == honest


def test_a_flood_without_money_is_not_held() -> None:
    pool = Mempool(RULES)
    need = 400_000 * 10 + 1
    account = Account(3 * need, 0)
    for nonce in range(3):
        pool.add(pay(SPAM[0], nonce), lambda _: account)
    assert refusal(pool, pay(SPAM[0], 3), account) == "insufficient_balance"


def test_filling_a_gap_makes_all_behind_it_ready() -> None:
    pool = Mempool(RULES)
    txs = [pay(ALICE, n) for n in range(6)]
    for n in (5, 3, 1, 4, 2):
        pool.add(txs[n], rich)
    assert pool.gapped == 5
    assert list(pool.select(rich, 1, GAS, BYTES)) == []
    pool.add(txs[0], rich)
    assert pool.gapped == 0
    assert list(pool.select(rich, 1, GAS, BYTES)) == txs
    assert pool.next_nonce(ALICE.address, RICH) == 6


def test_what_was_gapped_once_is_not_pushed_out_as_such() -> None:
    pool = Mempool(RULES, max_transactions=3)
    for nonce in (1, 0):
        pool.add(pay(ALICE, nonce, fee=50), rich)
    pool.add(pay(CAROL, 0, fee=50), rich)
    assert refusal(pool, pay(SPAM[0], 0, fee=50)) == "mempool_full"


# --- selection ---


def test_best_tip_first_but_never_out_of_nonce_order() -> None:
    pool = Mempool(RULES)
    a0, a1 = pay(ALICE, 0, fee=50, tip=1), pay(ALICE, 1, fee=50, tip=30)
    b0, c0 = pay(BOB, 0, fee=50, tip=20), pay(CAROL, 0, fee=50, tip=20)
    under = pay(SPAM[0], 0, fee=9, tip=9)
    for tx in (a0, a1, c0, b0, under):
        pool.add(tx, rich)
    assert list(pool.select(rich, 10, GAS, BYTES)) == [c0, b0, a0, a1]  # of equals the older first
    # With base fee 40 the tip is what is left under max_fee.
    assert list(pool.select(rich, 49, GAS, BYTES)) == [a0, a1, c0, b0]
    assert list(pool.select(rich, 51, GAS, BYTES)) == []


def test_selection_stops_at_the_block_s_bytes_and_gas() -> None:
    pool = Mempool(RULES)
    txs = [pay(ALICE, n) for n in range(10)]
    for tx in txs:
        pool.add(tx, rich)
    size = len(txs[0].wire)
    assert list(pool.select(rich, 1, GAS, 3 * size)) == txs[:3]
    assert list(pool.select(rich, 1, GAS, 3 * size - 1)) == txs[:2]
    assert list(pool.select(rich, 1, 399_999, BYTES)) == []  # its gas limit is above the block's
    small = Mempool(RULES)
    for n in range(10):
        small.add(transfer(ALICE, n, BOB.address, 1, gas_limit=10_000), rich)
    least = intrinsic_gas(RULES, next(iter(small)))
    assert len(list(small.select(rich, 1, 4 * least - 1, BYTES))) == 3
    assert len(list(small.select(rich, 1, 4 * least, BYTES))) == 4


def test_selection_follows_the_accounts_of_the_given_state() -> None:
    """On a branch whose blocks hold the first two, the third comes first; on another one, all do."""
    pool = Mempool(RULES)
    txs = [pay(ALICE, n) for n in range(4)]
    for tx in txs:
        pool.add(tx, rich)
    assert list(pool.select(lambda _: Account(1, 2), 1, GAS, BYTES)) == txs[2:]
    assert list(pool.select(rich, 1, GAS, BYTES)) == txs
    assert list(pool.select(lambda _: Account(1, 9), 1, GAS, BYTES)) == []


def test_the_best_tip_is_found_behind_nonces_that_are_already_used() -> None:
    pool = Mempool(RULES)
    used, dear, other = (
        pay(ALICE, 0, tip=1, fee=50),
        pay(ALICE, 1, tip=30, fee=50),
        pay(CAROL, 0, tip=20, fee=50),
    )
    for tx in (used, dear, other):
        pool.add(tx, rich)
    at = {ALICE.address: Account(1, 1), CAROL.address: Account(1, 0)}
    assert list(pool.select(at.__getitem__, 1, GAS, BYTES)) == [dear, other]


def blocks_until_alice(pool: Mempool, parked: list[KeyPair], base_fee: int) -> int:
    """How many full blocks others fill with better bids, one after another, until her first transaction is in."""
    keys = {key.address: key for key in (*SPAM, *parked, ALICE)}
    nonces = dict.fromkeys(keys, 0)

    def account(address: bytes) -> Account:
        return Account(RICH.balance, nonces[address])

    for key in SPAM:
        pool.add(pay(key, 0, tip=3), account)
    pool.add(pay(ALICE, 0, fee=base_fee, tip=0), account)
    blocks, most = 0, 40 + len(pool)
    while nonces[ALICE.address] == 0:
        blocks += 1
        assert blocks < most
        chosen = list(pool.select(account, base_fee, GAS, 16 * 200))
        assert len(chosen) == len({tx.id for tx in chosen})
        assert sum(len(tx.wire) for tx in chosen) <= 16 * 200
        for tx in chosen:
            assert tx.body.nonce == nonces[tx.body.sender]
            assert tx.body.max_fee_per_gas >= base_fee
            nonces[tx.body.sender] += 1
        pool.update(account, sorted({tx.body.sender for tx in chosen}))
        for tx in chosen:
            if keys[tx.body.sender] in SPAM:
                pool.add(pay(keys[tx.body.sender], tx.body.nonce + 1, tip=3), account)
    return blocks


def test_who_bids_nothing_gets_in_while_others_bid_more_and_fill_every_block() -> None:
    """Promise P23: what came before takes its time, what comes after does not."""
    assert 1 < blocks_until_alice(Mempool(RULES), [], FLOOR) < 40


@pytest.mark.parametrize(
    ("nonces", "fee", "most"),
    [(range(1, 64), 9, 40), (range(63), FLOOR, 40), (range(63, -1, -1), 9, 1300)],
    ids=["gapped", "under the base fee", "backwards"],
)
def test_nobody_takes_the_place_of_the_oldest_with_what_cannot_run(
    nonces: range, fee: int, most: int
) -> None:
    """P23: parked before, more than anybody would look through; what can run is served after all, in its order."""
    pool = Mempool(RULES)
    parked = [KeyPair(bytes([2, n]) + bytes(30)) for n in range(20)]
    for key in parked:
        for nonce in nonces:
            pool.add(pay(key, nonce, fee=fee, tip=0), rich)
    assert len(pool) > 1200
    assert blocks_until_alice(pool, parked, FLOOR + 1) < most


def test_what_is_larger_than_the_share_of_the_oldest_has_its_turn_and_holds_up_nobody() -> None:
    """P23: of 3,200 bytes of a block 400 are for the oldest; two are larger, one does not even fit a block."""
    pool = Mempool(RULES)
    parked = [KeyPair(bytes([2, n]) + bytes(30)) for n in range(3)]
    for key, size in zip(parked, (900, 5_000, 900), strict=True):
        pool.add(call(key, 0, "x", "y", bytes(size), max_fee=10, tip=0, gas_limit=200_000), rich)
    assert blocks_until_alice(pool, parked, FLOOR) < 40
    assert [tx.body.sender for tx in pool if tx.body.sender not in {key.address for key in SPAM}] == [
        parked[1].address
    ]


def test_who_fills_the_pool_makes_room_for_who_sends_little_whatever_he_bids() -> None:
    pool = Mempool(RULES, max_transactions=40)
    for key in (BOB, CAROL):
        for nonce in range(20):
            pool.add(pay(key, nonce, fee=10**6, tip=5), rich)
    for key in (ALICE, *SPAM[:30]):
        pool.add(pay(key, 0, fee=FLOOR, tip=0), rich)
    assert refusal(pool, pay(SPAM[31], 4, fee=10**6)) == "mempool_full"
    left = [tx.body.sender for tx in pool]
    assert len(left) == 40
    assert left.count(ALICE.address) == 1
    assert {left.count(key.address) for key in (BOB, CAROL)} == {4, 5}


def test_what_is_selected_can_be_built() -> None:
    chain = Chain(make_genesis())
    pool = Mempool(chain.rules)
    state = State(chain.genesis_tree)
    for n in range(20):
        for key in (ALICE, BOB, CAROL):
            pool.add(transfer(key, n, ALICE.address, 5, tip=n % 3, max_fee=20), state.account)
    base_fee = chain.genesis.fees.initial_base_fee
    chosen = pool.select(state.account, base_fee, chain.rules.fees.block_gas_limit, BYTES)
    block, skipped = chain.build(chain.genesis_block, 1, ALICE.address, chosen)
    assert (len(block.transactions), skipped) == (60, [])
    pool.remove_included(block.transactions, State(block.tree).account)
    assert len(pool) == 0
    assert pool.size == 0


# --- after a block ---


def test_included_nonces_are_forgotten_whoever_used_them() -> None:
    pool = Mempool(RULES)
    mine = [pay(ALICE, n) for n in range(3)]
    for tx in mine:
        pool.add(tx, rich)
    pool.remove_included([pay(ALICE, 0, fee=99), mine[1], pay(CAROL, 0)], lambda _: Account(RICH.balance, 2))
    assert list(pool) == [mine[2]]
    assert pool.gapped == 0
    check_counters(pool)


def test_what_ran_and_was_all_of_its_sender_is_forgotten_without_a_look_at_the_account() -> None:
    pool = Mempool(RULES)
    all_, one_of_two, gapped = [pay(ALICE, 0)], [pay(CAROL, n) for n in (0, 1)], [pay(BOB, n) for n in (0, 2)]
    for tx in (*all_, *one_of_two, *gapped):
        pool.add(tx, rich)
    asked: list[bytes] = []

    def account(address: bytes) -> Account:
        asked.append(address)
        return Account(RICH.balance, 1)

    pool.remove_included([all_[0], one_of_two[0], gapped[0]], account)
    assert asked == [CAROL.address, BOB.address]
    assert list(pool) == [one_of_two[1], gapped[1]]
    assert pool.gapped == 1
    check_counters(pool)


def test_update_drops_what_can_no_longer_run() -> None:
    pool = Mempool(RULES, max_per_sender=4)
    txs = [pay(ALICE, n) for n in range(4)]
    for tx in txs:
        pool.add(tx, rich)
    need = 400_000 * 10 + 1
    assert pool.update(rich) == []
    assert pool.update(lambda _: Account(2 * need, 1), [ALICE.address, BOB.address]) == [txs[0], txs[3]]
    check_counters(pool)
    # A reorganisation took the account back: what is left waits for nonce 0 again.
    assert pool.update(rich) == []
    assert pool.gapped == 2
    pool.add(txs[0], rich)
    assert list(pool.select(rich, 1, GAS, BYTES)) == txs[:3]


def test_a_removed_transaction_leaves_a_gap() -> None:
    pool = Mempool(RULES)
    txs = [pay(ALICE, n) for n in range(3)]
    for tx in txs:
        pool.add(tx, rich)
    pool.remove(txs[1].id)
    pool.remove(txs[1].id)
    assert pool.gapped == 1
    assert list(pool.select(rich, 1, GAS, BYTES)) == txs[:1]
    check_counters(pool)


# --- against the model ---

CACHE: dict[tuple[int, int, int, int], SignedTransaction] = {}


def made(who: int, nonce: int, fee: int, tip: int) -> SignedTransaction:
    key = (who, nonce, fee, tip)
    if key not in CACHE:
        CACHE[key] = pay(SPAM[who], nonce, fee=fee, tip=tip)
    return CACHE[key]


operation = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 4), st.integers(0, 6), st.integers(1, 6), st.integers(0, 2)),
    st.tuples(st.just("add"), st.integers(0, 4), st.integers(0, 2), st.just(9), st.just(1)),
    st.tuples(st.just("block"), st.integers(0, 4), st.integers(0, 6), st.just(0), st.integers(0, 1)),
    st.tuples(st.just("update"), st.integers(0, 4), st.integers(0, 4), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("remove"), st.integers(0, 9), st.just(0), st.just(0), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(
    operations=st.lists(operation, min_size=15, max_size=60),
    caps=st.sampled_from([(8, 1 << 20, 4), (20, 1000, 5), (64, 1 << 20, 3)]),
)
def test_caps_and_counters_hold_over_any_sequence(
    operations: list[tuple[str, int, int, int, int]], caps: tuple[int, int, int]
) -> None:
    pool = Mempool(RULES, max_transactions=caps[0], max_bytes=caps[1], max_per_sender=caps[2])
    accounts = {key.address: RICH for key in SPAM}
    for kind, who, nonce, fee, tip in operations:
        address = SPAM[who].address
        gapped = pool.gapped
        if kind == "add":
            _try_add(pool, made(who, nonce, fee, min(tip, fee)), accounts)
        elif kind == "block":
            accounts[address] = Account(RICH.balance, max(nonce, accounts[address].nonce))
            ran = {n: made(who, n, 1, 0) for n in range(accounts[address].nonce)}
            ran |= {t.body.nonce: t for t in pool if t.body.sender == address and t.body.nonce in ran and tip}
            pool.remove_included(ran.values(), accounts.__getitem__)
        elif kind == "update":
            accounts[address] = Account(fee * 400_000 * 3, nonce)
            pool.update(accounts.__getitem__)
        else:
            held = list(pool)
            if held:
                pool.remove(held[who % len(held)].id)
        check_counters(pool)
        assert len(pool) <= caps[0]
        assert pool.size <= caps[1]
        # A block, a removal or a reorganisation may open gaps; a newcomer may not go beyond the share.
        assert kind != "add" or pool.gapped <= max(1, caps[0] // 8, gapped)
        check_selection(pool, accounts)


def _try_add(pool: Mempool, tx: SignedTransaction, accounts: dict[bytes, Account]) -> None:
    before = {t.id for t in pool}
    nonce, body = accounts[tx.body.sender].nonce, tx.body
    mine = {t.body.nonce for t in pool if t.body.sender == body.sender}
    ready = all(n in mine for n in range(nonce, body.nonce))
    try:
        gone = pool.add(tx, accounts.__getitem__)
    except InvalidTransaction:
        assert {t.id for t in pool} == before
        return
    assert {t.id for t in pool} == before - {t.id for t in gone} | {tx.id}
    for victim in gone:
        if victim.body.sender != body.sender and ready:
            held = {t.body.nonce for t in pool if t.body.sender == victim.body.sender}
            expected = accounts[victim.body.sender].nonce
            was_ready = all(n in held for n in range(expected, victim.body.nonce))
            assert not was_ready or victim.body.max_fee_per_gas < body.max_fee_per_gas


def check_selection(pool: Mempool, accounts: dict[bytes, Account]) -> None:
    chosen = list(pool.select(accounts.__getitem__, 2, 10**9, BYTES))
    nonces = {address: a.nonce for address, a in accounts.items()}
    for tx in chosen:
        assert tx.body.nonce == nonces[tx.body.sender]
        assert tx.body.max_fee_per_gas >= 2
        nonces[tx.body.sender] += 1
    for tx in pool:  # complete: nothing that could follow was left out
        assert tx.body.nonce != nonces[tx.body.sender] or tx.body.max_fee_per_gas < 2
    assert chosen == selection_one_by_one(pool, accounts, 2)
    assert list(pool.select(None, 2, 10**9, BYTES)) == chosen, "the pool knows these accounts"


def selection_one_by_one(
    pool: Mempool, accounts: dict[bytes, Account], base_fee: int, most: int = 1000
) -> list[SignedTransaction]:
    """What a block of so many takes: again and again the best of what can be next, looking at every sender."""
    nonces = {address: a.nonce for address, a in accounts.items()}
    chosen: list[SignedTransaction] = []
    while True:
        following = [
            (min(e.tx.body.tip_per_gas, e.tx.body.max_fee_per_gas - base_fee), -e.seq, e.tx)
            for address, sender in pool._senders.items()
            for e in sender.entries
            if e.tx.body.nonce == nonces[address] and e.tx.body.max_fee_per_gas >= base_fee
        ]
        if not following or len(chosen) == most:
            return chosen
        tx = max(following, key=lambda found: found[:2])[2]
        nonces[tx.body.sender] += 1
        chosen.append(tx)


def test_newcomers_find_their_place_among_many_that_wait() -> None:
    pool, dice = Mempool(RULES), Random(5)
    keys = [KeyPair(bytes([3, n // 256, n % 256]) + bytes(29)) for n in range(600)]
    accounts = {key.address: RICH for key in keys}
    coming = iter([pay(key, 0, fee=50, tip=dice.randrange(9)) for key in keys])
    for many in (500, 1, 2, 0, 60, 3, 1, 0):
        for _ in range(many):
            pool.add(next(coming), accounts.__getitem__)
        chosen = list(pool.select(None, 1, 400_000, BYTES))
        assert 10 < len(chosen) < 200
        assert chosen == selection_one_by_one(pool, accounts, 1, len(chosen))
        for tx in chosen[
            :: 2 if many == 3 else 1
        ]:  # who was looked at and is still here is put in again, too
            accounts[tx.body.sender] = Account(RICH.balance, 1)
        pool.update(accounts.__getitem__)
        check_counters(pool)


@settings(max_examples=100, deadline=None)
@given(
    operations=st.lists(operation, min_size=15, max_size=60),
    caps=st.sampled_from([(8, 1 << 20, 4), (20, 1000, 5), (64, 1 << 20, 7)]),
)
def test_the_short_way_into_the_pool_leads_where_the_long_one_does(
    operations: list[tuple[str, int, int, int, int]], caps: tuple[int, int, int]
) -> None:
    pools = [
        Mempool(RULES, max_transactions=caps[0], max_bytes=caps[1], max_per_sender=caps[2]) for _ in "ab"
    ]
    pools[1]._add_next = lambda *_: False  # type: ignore[method-assign]
    accounts = {key.address: RICH for key in SPAM}
    for kind, who, nonce, fee, tip in operations:
        address = SPAM[who].address
        if kind == "block":
            accounts[address] = Account(RICH.balance, max(nonce, accounts[address].nonce))
        elif kind == "update":
            accounts[address] = Account(fee * 400_000 * 3, nonce)
        said = []
        for pool in pools:
            if kind == "add":
                nonce = pool.next_nonce(address, accounts[address]) if fee % 2 else nonce
                tx = made(who, nonce, fee, min(tip, fee))
                try:
                    said.append([t.id for t in pool.add(tx, accounts.__getitem__)])
                except InvalidTransaction as refused:
                    said.append([refused.code, refused.message])
            elif kind == "remove":
                pool.remove(next(iter(pool)).id if len(pool) else b"")
            else:
                said.append([t.id for t in pool.update(accounts.__getitem__)])
            said.append([t.id for t in pool])
            said.append([(s.nonce, s.cost, s.place, s.gapped_bytes) for s in pool._senders.values()])
            said.append([pool.size, pool.gapped, pool._seq, pool._eviction.active])
            said.append([t.id for t in pool.select(None, 2, 10**9, 1000)])
        assert said[: len(said) // 2] == said[len(said) // 2 :]


def test_the_same_pool_serves_a_rollup() -> None:
    rules = Rules(901, FeeParameters(min_base_fee=1), {}, vault=CAROL.address)
    pool = Mempool(rules)
    pool.add(transfer(ALICE, 0, BOB.address, 1, chain_id=901), rich)
    assert refusal(pool, transfer(ALICE, 1, BOB.address, 1)) == "wrong_chain"


def test_who_replaces_again_and_again_leaves_nothing_behind() -> None:
    """While others fill the blocks: every block would sort what is stale."""
    pool = Mempool(RULES)
    keys = [KeyPair(bytes([1, n]) + bytes(30)) for n in range(166)]
    rich = Account(10**6 * COIN, 0)
    first, *others = [transfer(key, 0, BOB.address, 1, max_fee=10**6, tip=10**6) for key in keys[:66]]
    for tx in (first, *others):
        pool.add(tx, lambda _: rich)
    fee, tip = RULES.fees.min_base_fee, 1
    while tip < 10**5:
        for key in keys[66:]:
            pool.add(transfer(key, 0, BOB.address, 1, max_fee=fee, tip=tip), lambda _: rich)
        list(pool.select(lambda _: rich, RULES.fees.min_base_fee, first.body.gas_limit, len(first.wire)))
        tip = least_to_replace(tip)
        fee = max(tip, least_to_replace(fee))
    assert len(pool._offering) <= 2 * len(pool._senders) + 2 * 1024
