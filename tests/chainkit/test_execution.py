"""Execution from outside: money, nonces, gas, fees and contracts under what tests/threats/README.md tells of them."""

import json
from collections.abc import Callable
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
    assert_books,
    build,
    call,
    make_genesis,
    sign,
    sum_of_balances,
    transfer,
)

from chainkit import gas
from chainkit.block import MAX_BLOCK_BYTES, Block, Header
from chainkit.chain import Chain, ExecutedBlock, InvalidBlock
from chainkit.codec import MAX_AMOUNT, U53, Address, Record, decode, encode
from chainkit.contract import (
    BLOCK_KEY,
    SUPPLY_KEY,
    Context,
    Contract,
    NoArgs,
    Revert,
    Storage,
    Supply,
    method,
)
from chainkit.execution import (
    FeeParameters,
    InvalidTransaction,
    Receipt,
    Rules,
    SupplyViolation,
    apply_transaction,
    begin_block,
    check_transaction,
    environment,
    intrinsic_gas,
    next_base_fee,
    receipts_root,
    supply,
)
from chainkit.genesis import (
    Genesis,
    GenesisAccount,
    GenesisContract,
    GenesisError,
    genesis_from_json,
    genesis_to_json,
)
from chainkit.merkle import Tree
from chainkit.state import Account, State, WitnessState, contract_address
from chainkit.transaction import Body, SignedTransaction, Transfer

SMALL_ORDER = [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]
NOT_A_POINT = [b"\x02" + bytes(31), b"\xff" * 32, b"\xed" + b"\xff" * 30 + b"\x7f"]


# --- contracts that do what contracts should not ---


class PayArgs(Record, frozen=True):
    to: Address
    amount: U53


class NumberArgs(Record, frozen=True):
    n: U53


class TextArgs(Record, frozen=True):
    contract: str
    method: str


class Paid(Record, frozen=True):
    amount: U53


class Undeclared(Record, frozen=True):
    amount: U53


class Bank(Contract):
    """Pays, burns, mints, calls and fails on request."""

    events = (Paid,)

    @method(payable=True)
    def put(self, ctx: Context, args: NoArgs) -> None:
        ctx.emit(Paid(ctx.value))

    @method(PayArgs)
    def pay(self, ctx: Context, args: PayArgs) -> None:
        ctx.transfer(args.to, args.amount)
        ctx.emit(Paid(args.amount))

    @method(NumberArgs)
    def burn(self, ctx: Context, args: NumberArgs) -> None:
        ctx.burn(args.n)

    @method(PayArgs)
    def mint(self, ctx: Context, args: PayArgs) -> None:
        ctx.mint(args.to, args.amount)

    @method(NumberArgs, payable=True)
    def fail_late(self, ctx: Context, args: NumberArgs) -> None:
        ctx.storage.store_int(b"k", args.n)
        ctx.emit(Paid(args.n))
        ctx.mint(ctx.sender, args.n)
        ctx.burn(1)
        raise Revert("refused", "on purpose")

    @method(NumberArgs)
    def forge(self, ctx: Context, args: NumberArgs) -> None:
        """Optimism 2022: a balance out of nothing, by our own mistake."""
        ctx._execution.state.set_account(ctx.sender, Account(args.n, 1))

    @method(TextArgs, payable=True)
    def relay(self, ctx: Context, args: TextArgs) -> None:
        ctx.call(args.contract, args.method, NoArgs(), ctx.value)

    @method()
    def unannounced(self, ctx: Context, args: NoArgs) -> None:
        ctx.emit(Undeclared(1))

    @method(NumberArgs)
    def fill(self, ctx: Context, args: NumberArgs) -> None:
        for n in range(args.n):
            ctx.storage.store_int(b"%d" % n, n + 1)

    @method(NumberArgs)
    def big(self, ctx: Context, args: NumberArgs) -> None:
        ctx.storage.set(b"big", bytes(args.n))


class Relay(Contract):
    """Calls back whoever calls it, and passes value on."""

    @method(payable=True)
    def back(self, ctx: Context, args: NoArgs) -> None:
        ctx.call("bank", "put", NoArgs(), ctx.value)

    @method()
    def twice(self, ctx: Context, args: NoArgs) -> None:
        for _ in range(2):
            ctx.call("bank", "put", NoArgs(), 3)

    @method(payable=True)
    def around(self, ctx: Context, args: NoArgs) -> None:
        ctx.call("bank", "relay", TextArgs("relay", "back"), ctx.value)


class Hooked(Contract):
    """Mints at the beginning of each block."""

    events = (Paid,)

    def begin_block(self, ctx: Context) -> None:
        ctx.mint(ctx.proposer, 10)
        ctx.emit(Paid(10))


class CrookedHook(Contract):
    """Makes money in its hook without saying so."""

    def begin_block(self, ctx: Context) -> None:
        ctx._execution.state.set_account(ctx.address, Account(10**6, 0))


BANK_FUNDS = 1000 * COIN


class World:
    """One chain with contracts given as objects, and one transaction a call."""

    def __init__(
        self, *contracts: Contract, fees: FeeParameters | None = None, vault: bytes | None = None
    ) -> None:
        self.rules = Rules(CHAIN_ID, fees or FeeParameters(), {c.name: c for c in contracts}, vault)
        chain = Chain(make_genesis(fees=self.rules.fees))
        self.state = State(chain.genesis_tree)
        for name in ("bank", "relay"):
            if name in self.rules.contracts:
                self.state.set_account(contract_address(name), Account(BANK_FUNDS, 0))
        self.total = sum_of_balances(self.state)
        self.state.set(SUPPLY_KEY, encode(Supply(genesis=self.total)))
        self.proposer = VALIDATORS[0].address
        self.open(1)

    def open(self, height: int) -> None:
        begin_block(self.rules, self.state, height=height, slot=height, time=height, proposer=self.proposer)

    def run(self, tx: SignedTransaction) -> Receipt:
        """Apply, and count every balance again (P2)."""
        before = supply(self.state)
        receipt = apply_transaction(self.rules, self.state, tx)
        after = supply(self.state)
        self.total += after.minted - before.minted - (after.burned - before.burned)
        assert sum_of_balances(self.state) == self.total
        return receipt

    def balance(self, address: bytes) -> int:
        return self.state.account(address).balance

    def nonce(self, address: bytes) -> int:
        return self.state.account(address).nonce

    def refused(self, tx: SignedTransaction) -> str:
        root = self.state.root()
        with pytest.raises(InvalidTransaction) as error:
            apply_transaction(self.rules, self.state, tx)
        assert self.state.root() == root
        return error.value.code


def bank_world(**options: Any) -> World:
    return World(Bank("bank", NoArgs()), Relay("relay", NoArgs()), **options)


# --- validity: refused, and nothing changed ---


def bad_transactions() -> dict[str, Callable[[], SignedTransaction]]:
    good = transfer(ALICE, 0, BOB.address, 5)
    return {
        "wrong_chain": lambda: transfer(ALICE, 0, BOB.address, 5, chain_id=CHAIN_ID + 1),
        "bad_signature": lambda: SignedTransaction.decode(good.wire[:-64] + bytes(64)),
        "nonce_gap": lambda: transfer(ALICE, 1, BOB.address, 5),
        "fee_too_low": lambda: transfer(ALICE, 0, BOB.address, 5, max_fee=3),
        "tip_above_max_fee": lambda: transfer(ALICE, 0, BOB.address, 5, max_fee=9, tip=10),
        "gas_limit_too_low": lambda: transfer(ALICE, 0, BOB.address, 5, gas_limit=5000),
        "gas_limit_too_high": lambda: transfer(ALICE, 0, BOB.address, 5, gas_limit=30_000_001),
        "insufficient_balance": lambda: transfer(ALICE, 0, BOB.address, USER_BALANCE),
        "transaction_too_large": lambda: call(ALICE, 0, "x", "y", bytes(300_000), gas_limit=10_000_000),
    }


@pytest.mark.parametrize("code", list(bad_transactions()))
def test_every_kind_of_invalid_transaction_changes_nothing(code: str) -> None:
    assert bank_world().refused(bad_transactions()[code]()) == code


@pytest.mark.parametrize("code", list(bad_transactions()))
def test_whatever_a_builder_refuses_an_importer_refuses(code: str) -> None:
    """tests/threats/README.md, CVE-2018-17144: the block path checks at least what the mempool checks."""
    chain = Chain(make_genesis())
    tx = bad_transactions()[code]()
    good = transfer(BOB, 0, ALICE.address, 5)
    block, skipped = chain.build(chain.genesis_block, 1, VALIDATORS[0].address, [tx, good])
    assert [(t, e.code) for t, e in skipped] == [(tx, code)]
    for wires in ([tx.wire, good.wire], [good.wire, tx.wire]):
        forged = Block(with_roots(block.header, wires), wires)
        with pytest.raises(InvalidBlock, match=r"may not run|at most"):
            chain.execute(chain.genesis_block, forged)


def with_roots(header: Header, wires: list[bytes]) -> Header:
    fields = {name: getattr(header, name) for name in header.__struct_fields__}
    return Header(**{**fields, "tx_root": Block(header, wires).tx_root()})


def test_a_transaction_runs_once() -> None:
    world = bank_world()
    tx = transfer(ALICE, 0, BOB.address, 5)
    assert world.run(tx).success
    assert world.refused(tx) == "stale_nonce"


def test_a_transaction_of_another_chain_does_not_run_here() -> None:
    """tests/threats/README.md, Wintermute 2022: the same key and nonce on two chains."""
    here, there = Chain(make_genesis()), Chain(make_genesis(chain_id=CHAIN_ID + 1))
    tx = transfer(ALICE, 0, BOB.address, 5)
    build(here, here.genesis_block, [tx])
    _, skipped = there.build(there.genesis_block, 1, VALIDATORS[0].address, [tx])
    assert [e.code for _, e in skipped] == ["wrong_chain"]


def test_the_block_s_gas_is_reserved_by_limit() -> None:
    world = bank_world(fees=FeeParameters(block_gas_limit=1_000_000, max_transaction_gas=900_000))
    assert world.run(transfer(ALICE, 0, BOB.address, 5, gas_limit=900_000)).success
    assert world.refused(transfer(ALICE, 1, BOB.address, 5, gas_limit=1_000_000)) == "gas_limit_too_high"
    used = environment(world.state).gas_used
    assert world.refused(call(ALICE, 1, "bank", "put", gas_limit=900_000 + 100_000 - used + 1)) in (
        "block_full",
        "gas_limit_too_high",
    )
    full = transfer(ALICE, 1, BOB.address, 5, gas_limit=900_000)
    for n in range(1, 30):
        world.run(transfer(ALICE, n, BOB.address, 5, gas_limit=100_000))
    full = transfer(ALICE, 30, BOB.address, 5, gas_limit=900_000)
    assert world.refused(full) == "block_full"
    # A forced one does not compete for room (promise P16).
    assert apply_transaction(world.rules, world.state, full, forced=True).success


# --- money (P2) ---


def test_a_self_transfer_moves_nothing_but_the_fee() -> None:
    world = bank_world()
    receipt = world.run(transfer(ALICE, 0, ALICE.address, 50 * COIN))
    assert receipt.success
    assert world.balance(ALICE.address) == USER_BALANCE - receipt.fee


def test_sender_proposer_recipient_and_vault_may_be_one_account() -> None:
    """tests/threats/README.md, Optimism SELFDESTRUCT 2022: aliasing accounts must not duplicate a balance."""
    for vault in (None, ALICE.address):
        world = bank_world(vault=vault)
        world.proposer = ALICE.address
        world.open(2)
        receipt = world.run(transfer(ALICE, 0, ALICE.address, COIN, tip=3))
        base = receipt.gas_used * environment(world.state).base_fee
        assert receipt.fee == receipt.gas_used * (environment(world.state).base_fee + 3)
        paid = 0 if vault else base  # the tip, or all of the fee, came back to her
        assert world.balance(ALICE.address) == USER_BALANCE - paid


def test_l1_burns_the_base_fee_and_tips_the_proposer() -> None:
    world = bank_world()
    receipt = world.run(transfer(ALICE, 0, BOB.address, 7, tip=3))
    base_fee = environment(world.state).base_fee
    assert world.balance(world.proposer) == 3 * receipt.gas_used
    assert supply(world.state).burned == base_fee * receipt.gas_used
    assert world.balance(ALICE.address) == USER_BALANCE - 7 - receipt.fee
    assert world.balance(BOB.address) == USER_BALANCE + 7


def test_a_rollup_s_vault_takes_all_and_nothing_is_burned() -> None:
    world = bank_world(vault=CAROL.address)
    receipt = world.run(transfer(ALICE, 0, BOB.address, 7, tip=3))
    assert world.balance(CAROL.address) == USER_BALANCE + receipt.fee
    assert world.balance(world.proposer) == 0
    assert supply(world.state).burned == 0


def test_the_price_never_exceeds_the_maximum() -> None:
    world = bank_world()
    base_fee = environment(world.state).base_fee
    receipt = world.run(transfer(ALICE, 0, BOB.address, 7, max_fee=base_fee + 1, tip=base_fee + 1))
    assert receipt.fee == receipt.gas_used * (base_fee + 1)


def test_the_whole_balance_can_be_spent_and_not_a_gwei_more() -> None:
    world = bank_world()
    base_fee = environment(world.state).base_fee
    most = USER_BALANCE - 10_000 * base_fee

    def spend(amount: int) -> SignedTransaction:
        return transfer(ALICE, 0, BOB.address, amount, gas_limit=10_000, max_fee=base_fee, tip=0)

    assert world.refused(spend(most + 1)) == "insufficient_balance"
    receipt = world.run(spend(most))
    assert receipt.success
    assert world.balance(ALICE.address) == (10_000 - receipt.gas_used) * base_fee


def test_an_unfunded_account_does_nothing() -> None:
    """tests/threats/README.md, Polygon MRC20 2021: no debit without balance."""
    world = bank_world()
    assert world.refused(transfer(STRANGER, 0, ALICE.address, 0)) == "insufficient_balance"
    for sender in SMALL_ORDER:
        body = Body(CHAIN_ID, sender, 0, 400_000, 20, 1, Transfer(ALICE.address, 5))
        tx = SignedTransaction.decode(b"\x98" + encode(body)[1:] + encode(bytes(64)))
        assert world.refused(tx) == "bad_signature"


@pytest.mark.parametrize("to", SMALL_ORDER + NOT_A_POINT)
def test_no_account_comes_into_being_at_an_invalid_address(to: bytes) -> None:
    world = bank_world()
    assert world.run(transfer(ALICE, 0, to, 5)).code == "invalid_address"
    assert world.run(call(ALICE, 1, "bank", "pay", PayArgs(to, 5))).code == "invalid_address"
    assert world.run(call(ALICE, 2, "bank", "mint", PayArgs(to, 5))).code == "invalid_address"
    assert not world.state.has_account(to)
    assert world.balance(contract_address("bank")) == BANK_FUNDS


def test_a_new_account_costs_more_and_works() -> None:
    world = bank_world()
    known = world.run(transfer(ALICE, 0, BOB.address, 5))
    new = world.run(transfer(ALICE, 1, STRANGER.address, 5))
    assert new.gas_used == known.gas_used + gas.NEW_ACCOUNT
    assert world.balance(STRANGER.address) == 5


def test_contracts_are_paid_by_calls_only() -> None:
    world = bank_world()
    assert world.run(transfer(ALICE, 0, contract_address("bank"), 5)).code == "invalid_recipient"
    assert world.run(call(ALICE, 1, "bank", "put", None, 5)).success
    assert world.balance(contract_address("bank")) == BANK_FUNDS + 5


def test_minting_and_burning_are_counted() -> None:
    world = bank_world()
    assert world.run(call(ALICE, 0, "bank", "mint", PayArgs(BOB.address, 77))).success
    assert supply(world.state).minted == 77
    before = supply(world.state).burned
    receipt = world.run(call(ALICE, 1, "bank", "burn", NumberArgs(5)))
    assert supply(world.state).burned == before + 5 + receipt.gas_used * environment(world.state).base_fee


def test_a_balance_cannot_pass_2_to_the_53() -> None:
    world = bank_world()
    tx = call(ALICE, 0, "bank", "mint", PayArgs(BOB.address, MAX_AMOUNT))
    assert world.run(tx).code == "amount_overflow"
    assert supply(world.state).minted == 0


def test_the_whole_supply_cannot_pass_2_to_the_53() -> None:
    world = bank_world()
    to = VALIDATORS[1].address
    room = MAX_AMOUNT - sum_of_balances(world.state)
    assert world.run(call(ALICE, 0, "bank", "mint", PayArgs(to, room + 1))).code == "supply_overflow"
    room = MAX_AMOUNT - sum_of_balances(world.state)
    assert world.run(call(ALICE, 1, "bank", "mint", PayArgs(to, room))).success
    assert supply(world.state).minted == room


def test_money_that_comes_and_goes_for_ever_does_not_stop_the_chain() -> None:
    """The counters only ever grew; at 2**53 the next block could not read them."""
    world = bank_world()
    bank = contract_address("bank")
    amount = MAX_AMOUNT // 4
    for n in range(12):
        assert world.run(call(ALICE, 2 * n, "bank", "mint", PayArgs(bank, amount))).success
        assert world.run(call(ALICE, 2 * n + 1, "bank", "burn", NumberArgs(amount))).success
    books = supply(world.state)
    assert max(books.minted, books.burned) <= MAX_AMOUNT


def test_money_out_of_nothing_stops_the_node() -> None:
    world = bank_world()
    with pytest.raises(SupplyViolation):
        apply_transaction(world.rules, world.state, call(ALICE, 0, "bank", "forge", NumberArgs(10**15)))


def test_a_hook_s_money_is_counted_and_its_events_are_seen() -> None:
    state = State(Chain(make_genesis()).genesis_tree)
    rules = Rules(CHAIN_ID, FeeParameters(), {"hooked": Hooked("hooked", NoArgs())})
    events: list[Any] = []
    total = sum_of_balances(state)
    begin_block(rules, state, height=1, slot=1, time=1, proposer=ALICE.address, events=events)
    assert (supply(state).minted, supply(state).burned) == (10, 0)
    assert sum_of_balances(state) == total + 10
    assert [decode(Paid, e.data) for e in events] == [Paid(10)]
    crooked = Rules(CHAIN_ID, FeeParameters(), {"crooked": CrookedHook("crooked", NoArgs())})
    with pytest.raises(SupplyViolation):
        begin_block(crooked, state, height=2, slot=2, time=2, proposer=ALICE.address)


# --- contracts: refusal, gas, re-entry ---


@pytest.mark.parametrize(
    ("contract", "name", "args", "value", "code"),
    [
        ("nothing", "put", None, 0, "unknown_contract"),
        ("bank", "nothing", None, 0, "unknown_method"),
        ("bank", "genesis", None, 0, "unknown_method"),
        ("bank", "begin_block", None, 0, "unknown_method"),
        ("bank", "public_state", None, 0, "unknown_method"),
        ("bank", "pay", PayArgs(BOB.address, 1), 5, "not_payable"),
        ("bank", "put", b"", 0, "bad_arguments"),
        ("bank", "put", b"\x91\x00", 0, "bad_arguments"),
        ("bank", "burn", encode([-1]), 0, "bad_arguments"),
        ("bank", "burn", encode([2**53]), 0, "bad_arguments"),
        ("bank", "burn", encode([2**64 - 1]), 0, "bad_arguments"),
        ("bank", "burn", encode([True]), 0, "bad_arguments"),
        ("bank", "burn", encode([1.0]), 0, "bad_arguments"),
        ("bank", "burn", encode(["1"]), 0, "bad_arguments"),
        ("bank", "burn", encode([float("nan")]), 0, "bad_arguments"),
        ("bank", "burn", b"\x91\xcc\x01", 0, "bad_arguments"),
        ("bank", "burn", b"\x91" * 5000, 0, "bad_arguments"),
        ("bank", "burn", NumberArgs(BANK_FUNDS + 1), 0, "insufficient_balance"),
        ("bank", "pay", PayArgs(BOB.address, BANK_FUNDS + 1), 0, "insufficient_balance"),
        ("bank", "big", NumberArgs(4097), 0, "value_too_large"),
        ("bank", "fail_late", NumberArgs(9), 3, "refused"),
        ("bank", "relay", TextArgs("bank", "put"), 0, "reentrancy"),
        ("bank", "relay", TextArgs("relay", "back"), 5, "reentrancy"),
        ("relay", "around", None, 5, "reentrancy"),
        ("bank", "relay", TextArgs("\x00", "put"), 0, "unknown_contract"),
        ("bank", "fill", NumberArgs(10_000), 0, "out_of_gas"),
    ],
)
def test_a_refused_call_leaves_nothing_but_the_fee(
    contract: str, name: str, args: Record | bytes | None, value: int, code: str
) -> None:
    world = bank_world()
    before = dict(world.state.commit().items())
    receipt = world.run(call(ALICE, 0, contract, name, args, value))
    assert (receipt.code, receipt.success, receipt.events) == (code, False, [])
    assert world.balance(ALICE.address) == USER_BALANCE - receipt.fee
    assert world.nonce(ALICE.address) == 1
    after = dict(world.state.commit().items())
    touched = {key for key in after if after[key] != before.get(key)}
    assert touched == {b"a" + ALICE.address, b"a" + world.proposer, BLOCK_KEY, b"ssupply"}


def test_a_refusal_s_words_are_ours() -> None:
    """The receipt is hashed: a decoding library's message would fork nodes with another version of it."""
    receipt = bank_world().run(call(ALICE, 0, "bank", "burn", encode(["1"])))
    assert receipt.message == "bank.burn takes a canonical NumberArgs"


def test_out_of_gas_takes_the_whole_limit() -> None:
    world = bank_world()
    tx = call(ALICE, 0, "bank", "fill", NumberArgs(1000), gas_limit=50_000)
    receipt = world.run(tx)
    assert (receipt.code, receipt.gas_used) == ("out_of_gas", 50_000)


def test_gas_is_exact_to_the_unit() -> None:
    tx = call(ALICE, 0, "bank", "fill", NumberArgs(5), gas_limit=60_000)
    used = bank_world().run(tx).gas_used
    for limit, ok in ((used, True), (used - 1, False)):
        receipt = bank_world().run(call(ALICE, 0, "bank", "fill", NumberArgs(5), gas_limit=limit))
        # The gas limit's own encoding has the same length in all three.
        assert (receipt.success, receipt.gas_used) == (ok, limit)


def test_intrinsic_gas_grows_with_the_bytes() -> None:
    world = bank_world()
    short, long = call(ALICE, 0, "bank", "put"), call(ALICE, 0, "bank", "put", bytes(1000))
    difference = intrinsic_gas(world.rules, long) - intrinsic_gas(world.rules, short)
    assert difference == world.rules.fees.gas_per_byte * (len(long.wire) - len(short.wire))


def test_value_passes_through_calls_and_events_come_in_order() -> None:
    world = bank_world()
    receipt = world.run(call(ALICE, 0, "relay", "back", None, 5))
    assert receipt.success
    assert [decode(Paid, e.data) for e in receipt.events] == [Paid(5)]
    assert world.balance(contract_address("relay")) == BANK_FUNDS
    assert world.balance(contract_address("bank")) == BANK_FUNDS + 5


def test_a_contract_may_be_called_again_once_it_has_returned() -> None:
    world = bank_world()
    assert world.run(call(ALICE, 0, "relay", "twice")).success
    assert world.balance(contract_address("bank")) == BANK_FUNDS + 6
    assert world.balance(contract_address("relay")) == BANK_FUNDS - 6


def test_an_undeclared_event_is_a_programming_error() -> None:
    world = bank_world()
    with pytest.raises(TypeError, match="Undeclared"):
        apply_transaction(world.rules, world.state, call(ALICE, 0, "bank", "unannounced"))


def test_only_genesis_credits_without_minting() -> None:
    class Late(Contract):
        @method()
        def take(self, ctx: Context, args: NoArgs) -> None:
            ctx.credit_from_genesis(5)

    world = World(Late("late", NoArgs()))
    with pytest.raises(TypeError, match="genesis"):
        apply_transaction(world.rules, world.state, call(ALICE, 0, "late", "take"))


def test_contracts_storages_are_apart() -> None:
    state = State(Tree())
    Storage(state, "ab").set(b"c", b"1")
    assert Storage(state, "a").get(b"bc") == b""
    assert Storage(state, "abc").get(b"") == b""
    assert Storage(state, "ab").get(b"c") == b"1"
    assert Storage(state, "ab").load_int(b"d") == 0
    Storage(state, "ab").delete(b"c")
    assert Storage(state, "ab").get(b"c") == b""


# --- EIP-1559 ---


def test_the_base_fee_moves_with_demand_and_never_below_its_floor() -> None:
    fees = FeeParameters(initial_base_fee=1000, min_base_fee=7, block_gas_limit=2_000_000)
    assert next_base_fee(fees, 1000, 1_000_000) == 1000
    assert next_base_fee(fees, 1000, 2_000_000) == 1125
    assert next_base_fee(fees, 1000, 0) == 875
    assert next_base_fee(fees, 1000, 1_000_001) == 1001  # up by at least one
    assert next_base_fee(fees, 7, 0) == 7
    assert next_base_fee(fees, 8, 0) == 7
    assert next_base_fee(FeeParameters(initial_base_fee=100, min_base_fee=95), 100, 0) == 95


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2**40), st.integers(0, 60_000_000))
def test_the_base_fee_moves_by_an_eighth_at_most(base_fee: int, used: int) -> None:
    fees = FeeParameters()
    after = next_base_fee(fees, base_fee, used)
    assert fees.min_base_fee <= after
    assert base_fee - base_fee // 8 <= after <= base_fee + max(1, base_fee // 8)
    assert (after - base_fee) * (used - fees.block_gas_limit // 2) >= 0


def test_blocks_carry_the_base_fee() -> None:
    fees = FeeParameters(initial_base_fee=100, block_gas_limit=60_000, max_transaction_gas=40_000)
    chain = Chain(make_genesis(fees=fees))
    block, expected, seen = chain.genesis_block, 100, []
    for height in range(1, 6):
        nonce = account(block, ALICE.address).nonce
        txs = [transfer(ALICE, nonce + n, BOB.address, 1, gas_limit=10_000, max_fee=500) for n in range(5)]
        expected = next_base_fee(fees, expected, block.header.gas_used)
        block = build(chain, block, txs if height < 4 else [])
        assert block.header.base_fee == expected
        seen.append(expected)
    assert seen[0] < seen[1] < seen[2] < seen[3] > seen[4]


# --- blocks ---


def header_with(block: ExecutedBlock, **changes: Any) -> Block:
    names = block.header.__struct_fields__
    fields = {name: getattr(block.header, name) for name in names} | changes
    return Block(Header(**fields), block.block.transactions)


def test_every_field_of_a_header_is_checked() -> None:
    chain = Chain(make_genesis())
    block = build(chain, chain.genesis_block, [transfer(ALICE, 0, BOB.address, 5)])
    for name in block.header.__struct_fields__:
        value = getattr(block.header, name)
        other = value + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
        if name == "proposer":
            continue  # any proposer may be executed; who may propose is for consensus to say
        with pytest.raises(InvalidBlock):
            chain.execute(chain.genesis_block, header_with(block, **{name: other}))
    assert chain.execute(chain.genesis_block, block.block).hash == block.hash


def test_slots_only_rise_and_fix_the_time() -> None:
    chain = Chain(make_genesis())
    first = build(chain, chain.genesis_block, [], slot=5)
    for slot in (0, 4, 5):
        block, _ = chain.build(first, slot, ALICE.address, [])
        with pytest.raises(InvalidBlock, match="slot"):
            chain.execute(first, block.block)
    assert first.header.time == chain.genesis.time + 5 * chain.genesis.slot_ms
    assert chain.slot_at(first.header.time) == 5
    assert chain.slot_at(first.header.time - 1) == 4
    assert chain.slot_at(0) == 0


def test_transactions_cannot_be_dropped_repeated_or_reordered() -> None:
    chain = Chain(make_genesis())
    txs = [
        transfer(ALICE, 0, BOB.address, 5),
        transfer(BOB, 0, ALICE.address, 6),
        transfer(CAROL, 0, BOB.address, 7),
    ]
    block = build(chain, chain.genesis_block, txs)
    a, b, c = block.block.transactions
    for wires in ([a, b], [b, a, c], [a, b, c, c], [a, a, b, c], [], [a, b, c, b""], [a, b, c[:-1]]):
        for header in (block.header, with_roots(block.header, wires)):
            with pytest.raises(InvalidBlock):
                chain.execute(chain.genesis_block, Block(header, wires))
    # A mutated block first, the real one after: the real one is accepted (CVE-2012-2459).
    assert chain.execute(chain.genesis_block, block.block).hash == block.hash


def test_a_builder_keeps_within_the_block_s_bytes() -> None:
    fees = FeeParameters(block_gas_limit=10**9, max_transaction_gas=10**7)
    chain = Chain(make_genesis(fees=fees))
    txs = [call(ALICE, n, "x", "y", bytes(250_000), gas_limit=3_000_000) for n in range(9)]
    block, skipped = chain.build(chain.genesis_block, 1, ALICE.address, txs)
    assert sum(map(len, block.block.transactions)) <= MAX_BLOCK_BYTES
    assert [e.code for _, e in skipped] == ["block_full"]
    assert chain.execute(chain.genesis_block, block.block).hash == block.hash


def test_what_was_skipped_leaves_no_trace_in_the_root() -> None:
    chain = Chain(make_genesis())
    good = [transfer(ALICE, 0, BOB.address, 5)]
    bad = [make() for make in bad_transactions().values()]
    with_bad, _ = chain.build(chain.genesis_block, 1, ALICE.address, [*bad, *good, *bad[:2]])
    alone, _ = chain.build(chain.genesis_block, 1, ALICE.address, good)
    assert with_bad.hash == alone.hash


def test_undone_writes_leave_no_trace_in_the_root() -> None:
    state = State(Tree())
    state.set(b"kept", b"1")
    root = state.root()
    mark = state.checkpoint()
    state.set(b"new", b"2")
    state.set(b"kept", b"3")
    assert set(state.changed_since(mark)) == {b"new", b"kept"}
    state.revert(mark)
    assert state.changes() == {}
    assert state.root() == root


def test_a_witness_of_what_was_touched_gives_the_same_block() -> None:
    """tests/threats/README.md, Kroma 2024: the same code over a proof as over the whole tree."""
    world = bank_world()
    tree = world.state.commit()
    txs = [
        call(ALICE, 0, "bank", "fail_late", NumberArgs(9), 3),
        call(ALICE, 1, "relay", "back", None, 5),
        transfer(ALICE, 2, STRANGER.address, 5),
        call(ALICE, 3, "bank", "fill", NumberArgs(20)),
    ]
    for tx in txs:
        full = State(tree)
        receipt = apply_transaction(world.rules, full, tx)
        witness = WitnessState(tree.prove(full.touched()), tree.root)
        assert apply_transaction(world.rules, witness, tx) == receipt
        assert witness.root() == full.root()
        tree = full.commit()


def test_receipts_are_bound_by_their_root() -> None:
    world = bank_world()
    receipts = [world.run(transfer(ALICE, n, BOB.address, 5)) for n in range(2)]
    assert receipts_root(receipts) != receipts_root(receipts[::-1])
    assert receipts_root(receipts) != receipts_root(receipts[:1])


# --- random sequences ---

KEYS = [ALICE, BOB, CAROL]
PLACES = [
    ALICE.address,
    BOB.address,
    VALIDATORS[0].address,
    STRANGER.address,
    contract_address("bank"),
    bytes(32),
]
step = st.tuples(
    st.sampled_from(["transfer", "put", "pay", "burn", "mint", "fail_late", "relay", "stale"]),
    st.integers(0, 2),
    st.integers(0, len(PLACES) - 1),
    st.sampled_from([0, 1, 5, COIN, BANK_FUNDS, USER_BALANCE // 2, USER_BALANCE, MAX_AMOUNT]),
    st.integers(0, 3),
)


def random_transaction(
    world: World, what: str, who: int, place: int, amount: int, tip: int
) -> SignedTransaction:
    key, to = KEYS[who], PLACES[place]
    nonce = world.nonce(key.address)
    if what in ("transfer", "stale"):
        return transfer(key, nonce + (what == "stale"), to, amount, tip=tip)
    if what == "put":
        return call(key, nonce, "bank", "put", None, amount, tip=tip)
    if what == "relay":
        return call(key, nonce, "relay", ("back", "around")[place % 2], None, amount, tip=tip)
    args: Record = PayArgs(to, amount) if what in ("pay", "mint") else NumberArgs(amount)
    return call(key, nonce, "bank", what, args, amount % 7 if what == "fail_late" else 0, tip=tip)


@settings(max_examples=60, deadline=None)
@given(st.lists(step, min_size=5, max_size=25), st.sampled_from([None, ALICE.address]))
def test_supply_is_conserved_by_every_transaction(
    steps: list[tuple[str, int, int, int, int]], vault: bytes | None
) -> None:
    """P2, counted anew from the tree after each one; what is invalid changes nothing at all."""
    world = bank_world(vault=vault)
    for height, (what, who, place, amount, tip) in enumerate(steps, 2):
        if height % 4 == 0:
            world.proposer = PLACES[height % 3]
            world.open(height)
        tx = random_transaction(world, what, who, place, amount, tip)
        try:
            check_transaction(world.rules, world.state, environment(world.state), tx)
        except InvalidTransaction as error:
            code = error.code
        else:
            code = ""
        if code:
            assert world.refused(tx) == code
        else:
            world.run(tx)


# --- genesis ---


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"chain_id": 0}, "chain_id"),
        ({"slot_ms": 0}, "slot_ms"),
        ({"era_slots": 1}, "era_slots"),
        ({"devnet": False}, "well-known key"),
        ({"fees": FeeParameters(min_base_fee=0)}, "min_base_fee"),
        ({"fees": FeeParameters(initial_base_fee=1, min_base_fee=2)}, "initial_base_fee"),
        ({"fees": FeeParameters(max_transaction_gas=0)}, "max_transaction_gas"),
        ({"fees": FeeParameters(block_gas_limit=1, max_transaction_gas=1)}, "max_transaction_gas"),
        ({"fees": FeeParameters(block_gas_limit=10**6)}, "max_transaction_gas"),
        ({"accounts": [GenesisAccount(bytes(32), 5)]}, "not a valid public key"),
        ({"accounts": [GenesisAccount(NOT_A_POINT[0], 5)]}, "not a valid public key"),
        ({"accounts": [GenesisAccount(ALICE.address, 5)] * 2}, "each once"),
        (
            {"accounts": [GenesisAccount(ALICE.address, MAX_AMOUNT), GenesisAccount(BOB.address, 1)]},
            "2\\*\\*53|sorted",
        ),
        ({"vault": bytes(32)}, "vault"),
        ({"contracts": [GenesisContract("x", "no.such:Thing", b"\x90")]}, "cannot import"),
        ({"contracts": [GenesisContract("x", "chainkit.codec:Record", b"\x90")]}, "is not a contract"),
        ({"contracts": [GenesisContract("x", "chainkit.contract:Contract", b"\x91\x01")]}, "params"),
        (
            {"contracts": [GenesisContract(n, "chainkit.contract:Contract", b"\x90") for n in ("b", "a")]},
            "sorted by name",
        ),
        (
            {"contracts": [GenesisContract("x", "chainkit.contract:Contract", b"\x90", MAX_AMOUNT)]},
            "2\\*\\*53",
        ),
    ],
)
def test_genesis_names_what_is_wrong(changes: dict[str, Any], name: str) -> None:
    good = make_genesis()
    fields = {n: getattr(good, n) for n in good.__struct_fields__}
    with pytest.raises(GenesisError, match=name):
        Chain(Genesis(**{**fields, **changes}))


def test_genesis_reads_what_it_writes_and_its_hash_covers_all() -> None:
    genesis = make_genesis(contracts=[("x", "chainkit.contract:Contract", NoArgs())])
    shown = genesis_to_json(genesis)
    again = genesis_from_json(json.dumps(shown))
    assert again == genesis
    hashes = {genesis.hash()}
    changes: list[dict[str, Any]] = [
        {"chain_id": 901},
        {"time": 1},
        {"name": "other"},
        {"era_slots": 5},
        {"vault": ALICE.address},
        {"accounts": genesis.accounts[1:]},
        {"contracts": []},
        {"fees": FeeParameters(gas_per_byte=9)},
    ]
    for changed in changes:
        fields = {n: getattr(genesis, n) for n in genesis.__struct_fields__}
        hashes.add(Genesis(**{**fields, **changed}).hash())
    assert len(hashes) == 9


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"contracts": 5}',
        '{"contracts": [5]}',
        '{"contracts": [{"params": {}}]}',
        '{"contracts": [{"name": "x", "code": "os:path", "params": {}}]}',
        '{"chain_id": NaN}',
        '{"chain_id": 1, "chain_id": 2}',
    ],
)
def test_a_broken_genesis_file_is_refused(text: str) -> None:
    with pytest.raises(GenesisError):
        genesis_from_json(text)


def test_genesis_supply_is_the_sum_of_its_balances() -> None:
    chain = Chain(make_genesis(contracts=[("x", "chainkit.contract:Contract", NoArgs())]))
    assert_books(chain.genesis_block)
    tx = sign(ALICE, 0, Transfer(BOB.address, 1))
    assert_books(build(chain, chain.genesis_block, [tx]))
