"""The token: who may create and move units, what is told and shown, and what an attacker gets: a refusal."""

import pytest
from apps_world import AGENT, ARBITER, LAYERS, MINTER, OTHER, PROVIDER, PROXY, TOKEN_PARAMS, TokenWorld
from ledger import STRANGER
from msgspec.structs import replace

from apps.token import (
    LISTED,
    AllowanceSet,
    ApproveArgs,
    MintArgs,
    Token,
    TokensMinted,
    TokensTransferred,
    TokenSupply,
    TransferArgs,
    TransferFromArgs,
    balance_key,
)
from chainkit.codec import MAX_AMOUNT, encode
from chainkit.genesis import GenesisError
from chainkit.keys import KeyPair
from chainkit.state import contract_address

SMALL_ORDER = b"\x01" + bytes(31)


@pytest.fixture(params=LAYERS)
def world(request: pytest.FixtureRequest) -> TokenWorld:
    """The agent has 100 units."""
    made = TokenWorld(request.param)
    made.ok(MINTER, "token", "mint", MintArgs(AGENT.address, 100))
    return made


def send(world: TokenWorld, key: KeyPair, to: KeyPair, amount: int) -> None:
    world.ok(key, "token", "transfer", TransferArgs(to.address, amount))


def allow(world: TokenWorld, amount: int, expected: int = 0, spender: KeyPair = PROVIDER) -> None:
    """Of the agent's units."""
    world.ok(AGENT, "token", "approve", ApproveArgs(spender.address, amount, expected))


def spend(amount: int, to: KeyPair = OTHER, owner: KeyPair = AGENT) -> TransferFromArgs:
    return TransferFromArgs(owner.address, to.address, amount)


# --- creating ---


def test_the_minter_creates_units(world: TokenWorld) -> None:
    receipt = world.ok(MINTER, "token", "mint", MintArgs(OTHER.address, 7))
    assert world.events(receipt) == [TokensMinted(OTHER.address, 7, 107)]
    assert (world.units(OTHER), world.supply) == (7, TokenSupply(107, 2))
    world.assert_books()


@pytest.mark.parametrize("key", [AGENT, PROVIDER, ARBITER])
def test_nobody_else_creates_units(world: TokenWorld, key: KeyPair) -> None:
    world.refused("not_minter", key, "token", "mint", MintArgs(key.address, 1))


def test_the_supply_ends_at_the_cap_to_the_unit() -> None:
    world = TokenWorld(token=replace(TOKEN_PARAMS, cap=10))
    world.ok(MINTER, "token", "mint", MintArgs(AGENT.address, 9))
    for amount in (2, 10, MAX_AMOUNT):
        world.refused("cap_exceeded", MINTER, "token", "mint", MintArgs(OTHER.address, amount))
    world.ok(MINTER, "token", "mint", MintArgs(AGENT.address, 1))
    world.refused("cap_exceeded", MINTER, "token", "mint", MintArgs(AGENT.address, 1))
    world.assert_books()


def test_no_sum_reaches_two_to_the_53() -> None:
    world = TokenWorld()
    world.ok(MINTER, "token", "mint", MintArgs(AGENT.address, MAX_AMOUNT))
    world.refused("cap_exceeded", MINTER, "token", "mint", MintArgs(OTHER.address, 1))
    allow(world, MAX_AMOUNT)
    world.ok(PROVIDER, "token", "transfer_from", spend(MAX_AMOUNT))
    send(world, OTHER, AGENT, MAX_AMOUNT)
    assert world.units(AGENT) == MAX_AMOUNT
    world.assert_books()


@pytest.mark.parametrize("amount", [-1, 2**53, 2**64 - 1])
def test_amounts_out_of_range_are_no_arguments(world: TokenWorld, amount: int) -> None:
    for key, method, args in (
        (MINTER, "mint", [AGENT.address, amount]),
        (AGENT, "transfer", [OTHER.address, amount]),
        (AGENT, "approve", [OTHER.address, amount, 0]),
        (AGENT, "approve", [OTHER.address, 5, amount]),
        (AGENT, "transfer_from", [AGENT.address, OTHER.address, amount]),
    ):
        world.refused("bad_arguments", key, "token", method, encode(args))


# --- moving ---


def test_units_move(world: TokenWorld) -> None:
    receipt = world.ok(AGENT, "token", "transfer", TransferArgs(OTHER.address, 30))
    assert world.events(receipt) == [TokensTransferred(AGENT.address, OTHER.address, 30, AGENT.address)]
    assert (world.units(AGENT), world.units(OTHER), world.supply) == (70, 30, TokenSupply(100, 2))
    world.assert_books()


@pytest.mark.parametrize("amount", [1, 50, 100])
def test_moving_to_oneself_creates_nothing(world: TokenWorld, amount: int) -> None:
    send(world, AGENT, AGENT, amount)
    allow(world, amount, spender=AGENT)
    world.ok(AGENT, "token", "transfer_from", spend(amount, to=AGENT))
    assert (world.units(AGENT), world.supply) == (100, TokenSupply(100, 1))
    world.assert_books()


def test_more_than_there_is_does_not_move(world: TokenWorld) -> None:
    for amount in (101, MAX_AMOUNT):
        for to in (OTHER, AGENT):
            world.refused("insufficient_tokens", AGENT, "token", "transfer", TransferArgs(to.address, amount))
    world.refused("insufficient_tokens", OTHER, "token", "transfer", TransferArgs(AGENT.address, 1))


def test_nothing_does_not_move(world: TokenWorld) -> None:
    allow(world, 5)
    world.refused("zero_amount", AGENT, "token", "transfer", TransferArgs(OTHER.address, 0))
    world.refused("zero_amount", PROVIDER, "token", "transfer_from", spend(0))
    world.refused("zero_amount", MINTER, "token", "mint", MintArgs(OTHER.address, 0))


@pytest.mark.parametrize("to", [bytes(32), SMALL_ORDER, contract_address("inference_market")])
def test_units_cannot_be_lost_to_what_is_no_account(world: TokenWorld, to: bytes) -> None:
    allow(world, 5)
    world.refused("invalid_recipient", AGENT, "token", "transfer", TransferArgs(to, 1))
    world.refused("invalid_recipient", MINTER, "token", "mint", MintArgs(to, 1))
    args = TransferFromArgs(AGENT.address, to, 1)
    world.refused("invalid_recipient", PROVIDER, "token", "transfer_from", args)


def test_units_reach_an_account_that_the_chain_has_never_seen(world: TokenWorld) -> None:
    send(world, AGENT, STRANGER, 5)
    assert world.units(STRANGER) == 5
    assert world.balance(STRANGER.address) == 0


def test_who_gave_all_away_is_still_a_known_holder(world: TokenWorld) -> None:
    send(world, AGENT, OTHER, 100)
    send(world, OTHER, AGENT, 100)
    assert world.supply == TokenSupply(100, 2)
    world.assert_books()


@pytest.mark.parametrize("method", sorted(Token.methods))
def test_the_token_takes_no_gwei(world: TokenWorld, method: str) -> None:
    world.refused("not_payable", AGENT, "token", method, b"\x90", value=1)


# --- spending another's ---


def test_a_spender_moves_what_it_was_allowed_and_no_more(world: TokenWorld) -> None:
    receipt = world.ok(AGENT, "token", "approve", ApproveArgs(PROVIDER.address, 40, 0))
    assert world.events(receipt) == [AllowanceSet(AGENT.address, PROVIDER.address, 40)]
    receipt = world.ok(PROVIDER, "token", "transfer_from", spend(15))
    assert world.events(receipt) == [
        AllowanceSet(AGENT.address, PROVIDER.address, 25),
        TokensTransferred(AGENT.address, OTHER.address, 15, PROVIDER.address),
    ]
    world.refused("insufficient_allowance", PROVIDER, "token", "transfer_from", spend(26))
    world.ok(PROVIDER, "token", "transfer_from", spend(25))
    world.refused("insufficient_allowance", PROVIDER, "token", "transfer_from", spend(1))
    assert (world.units(AGENT), world.units(OTHER)) == (60, 40)
    world.assert_books()


def test_an_allowance_is_for_one_spender_and_one_owner(world: TokenWorld) -> None:
    allow(world, 40)
    world.ok(MINTER, "token", "mint", MintArgs(PROVIDER.address, 50))
    for key, args in (
        (OTHER, spend(1)),  # another spender
        (AGENT, spend(1)),  # the owner itself
        (AGENT, spend(1, owner=PROVIDER)),  # the other way round
        (PROVIDER, spend(1, owner=PROVIDER)),
        (PROVIDER, spend(1, owner=OTHER)),
    ):
        world.refused("insufficient_allowance", key, "token", "transfer_from", args)


def test_an_allowance_above_the_balance_waits_for_it(world: TokenWorld) -> None:
    allow(world, 150)
    world.refused("insufficient_tokens", PROVIDER, "token", "transfer_from", spend(101))
    world.ok(MINTER, "token", "mint", MintArgs(AGENT.address, 50))
    world.ok(PROVIDER, "token", "transfer_from", spend(150))


def test_the_race_of_an_approval_with_a_spender_is_lost_by_the_approval(world: TokenWorld) -> None:
    """Lowered from 100 to 50, a spender who is quicker does not get 150, nor 100 + 50: the change is refused."""
    world.ok(MINTER, "token", "mint", MintArgs(AGENT.address, 100))
    allow(world, 100)
    world.ok(PROVIDER, "token", "transfer_from", spend(100))
    lowered = ApproveArgs(PROVIDER.address, 50, 100)
    world.refused("allowance_changed", AGENT, "token", "approve", lowered)
    world.refused("insufficient_allowance", PROVIDER, "token", "transfer_from", spend(1))


def test_spending_a_unit_at_a_time_does_not_hold_off_a_revocation(world: TokenWorld) -> None:
    allow(world, 100)
    world.ok(PROVIDER, "token", "transfer_from", spend(1))
    allow(world, 0, expected=100)
    world.refused("insufficient_allowance", PROVIDER, "token", "transfer_from", spend(1))
    allow(world, 0, expected=77)


@pytest.mark.parametrize("expected", [1, 39, 41, MAX_AMOUNT, 0])
def test_an_approval_on_a_wrong_belief_is_refused(world: TokenWorld, expected: int) -> None:
    allow(world, 40)
    args = ApproveArgs(PROVIDER.address, 60, expected)
    world.refused("allowance_changed", AGENT, "token", "approve", args)
    allow(world, 60, expected=40)


def test_a_contract_holds_and_pulls_units() -> None:
    world = TokenWorld(extra=(PROXY,))
    proxy = contract_address("proxy")
    world.ok(MINTER, "token", "mint", MintArgs(AGENT.address, 10))
    world.ok(AGENT, "token", "approve", ApproveArgs(proxy, 10, 0))
    world.refused("invalid_recipient", AGENT, "token", "transfer", TransferArgs(proxy, 1))
    world.ok(OTHER, "proxy", "pull", TransferFromArgs(AGENT.address, proxy, 6))
    assert world.storage("token").load_int(balance_key(proxy)) == 6
    world.assert_books()


# --- what is shown ---


def test_the_public_state_lists_the_first_holders_and_counts_all() -> None:
    world = TokenWorld()
    addresses = [KeyPair(bytes([1, index]) + bytes(30)).address for index in range(LISTED + 2)]
    for index, address in enumerate(addresses):
        world.ok(MINTER, "token", "mint", MintArgs(address, index + 1))
    shown = world.public("token")
    assert shown["holders"] == LISTED + 2
    assert shown["total_supply"] == sum(range(1, LISTED + 3))
    assert shown["balances"] == [
        {"address": address, "balance": index + 1} for index, address in enumerate(addresses[:LISTED])
    ]
    assert sum(key.startswith(b"holder/") for key in world.app_state("token")) == LISTED
    world.assert_books()


@pytest.mark.parametrize(
    "change",
    [
        {"minter": bytes(32)},
        {"minter": SMALL_ORDER},
        {"cap": 0},
        {"symbol": ""},
        {"symbol": "low"},
        {"symbol": "A\n"},
        {"symbol": "TWELVELETTER"},
    ],
)
def test_parameters_of_no_use_make_no_genesis(change: dict[str, object]) -> None:
    with pytest.raises(GenesisError, match="token"):
        TokenWorld(token=replace(TOKEN_PARAMS, **change))
