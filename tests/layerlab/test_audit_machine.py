"""The audit's own machine against the one that nodes run: the same root after every step, whatever the step is."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps import market_records as market
from apps.market_records import MarketParams
from apps.token import ApproveArgs, MintArgs, TokenParams, TransferArgs, TransferFromArgs
from chainkit.chain import Chain
from chainkit.codec import Record, encode
from chainkit.contract import NoArgs
from chainkit.execution import FeeParameters
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract
from chainkit.keys import KeyPair, dev_keypair, is_valid_address, verify
from chainkit.state import State
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from layerlab.audit.applications import UnknownContractError, host_contracts
from layerlab.audit.machine import Machine
from layerlab.audit.plain import is_key, read_transaction, signed_by, tagged
from rollup.messenger import WithdrawArgs
from rollup.stf import BeginBlock, Deposit, Forced, Step, Transact, apply_step

PEOPLE = [dev_keypair(name) for name in ("alice", "bob", "carol", "judy")]
STRANGER = KeyPair(b"\x31" * 32)
BAD_KEYS = [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, tagged("contract", b"token")]


def l2() -> Genesis:
    contracts = [
        (
            "inference_market",
            "apps.inference_market:InferenceMarket",
            MarketParams(arbiter=PEOPLE[3].address),
        ),
        ("messenger", "rollup.messenger:Messenger", NoArgs()),
        ("token", "apps.token:Token", TokenParams(minter=PEOPLE[0].address)),
    ]
    return Genesis(
        901,
        "l2",
        1_700_000_000_000,
        1000,
        2,
        True,
        FeeParameters(block_gas_limit=300_000, max_transaction_gas=250_000, max_transaction_bytes=8192),
        [GenesisAccount(key.address, 10**15) for key in sorted(PEOPLE, key=lambda k: k.address)],
        [],
        [GenesisContract(name, code, encode(params)) for name, code, params in contracts],
        dev_keypair("vault").address,
    )


class Pair:
    """Both machines, step by step."""

    def __init__(self, seed: int) -> None:
        genesis = l2()
        chain = Chain(genesis)
        plain = msgspec.msgpack.decode(encode(genesis))
        self.rules, self.state = chain.rules, State(chain.genesis_tree)
        self.machine = Machine.of_genesis(plain, host_contracts(plain[9]))
        assert self.machine.root() == chain.genesis_tree.root
        self.random = random.Random(seed)
        self.height, self.index = 0, 0
        self.outcomes: set[str] = set()

    def step(self, step: Step) -> None:
        code = apply_step(self.rules, self.state, step).code
        self.machine.run(msgspec.msgpack.decode(encode(step)))
        assert self.machine.root() == self.state.root(), (step, code)
        kind = type(step).__name__
        if isinstance(step, Transact):
            tx = read_transaction(step.transaction)
            action = tx[6] if tx else [9]
            kind = f"{action[1]}.{action[2]}" if action[0] == 1 else kind
        self.outcomes.add(f"{kind} {code}".strip())

    def play(self, key: KeyPair, contract: str, method: str, args: Record, value: int = 0) -> None:
        """A call that should succeed."""
        nonce = self.state.account(key.address).nonce
        body = Body(901, key.address, nonce, 200_000, 30, 0, Call(contract, method, encode(args), value))
        self.step(Transact(SignedTransaction.sign(body, key).wire))

    def prelude(self) -> None:
        """What chance seldom gets to."""
        alice, bob, carol, judy = PEOPLE
        play = self.play
        play(alice, "token", "mint", MintArgs(alice.address, 1_000))
        play(alice, "token", "transfer", TransferArgs(STRANGER.address, 5))
        self.step(BeginBlock(1, 1_700_000_001_000))
        self.height = 1
        play(alice, "token", "approve", ApproveArgs(bob.address, 9, 0))
        play(bob, "token", "transfer_from", TransferFromArgs(alice.address, carol.address, 9))
        self.step(BeginBlock(2, 1_700_000_002_000))
        self.height = 2
        play(carol, "inference_market", "offer", market.OfferArgs("model/a", 7))
        play(bob, "inference_market", "request", market.RequestArgs(0, 9, b"\x05" * 32), 9)
        self.step(BeginBlock(3, 1_700_000_003_000))
        self.height = 3
        play(carol, "inference_market", "answer", market.AnswerArgs(0, b"\x06" * 32))
        play(bob, "inference_market", "dispute", market.CallRef(0))
        self.step(BeginBlock(4, 1_700_000_004_000))
        self.height = 4
        play(judy, "inference_market", "rule", market.RuleArgs(0, True))
        play(bob, "inference_market", "rate", market.RateArgs(0, 4))

    def any_step(self) -> Step:
        draw = self.random
        kind = draw.randrange(12)
        if kind == 0:
            self.height += 1
            return BeginBlock(self.height, 1_700_000_000_000 + 1000 * self.height)
        if kind == 1:
            self.index += 1
            to = draw.choice([*PEOPLE, STRANGER])
            return Deposit(self.index, PEOPLE[0].address, to.address, draw.randrange(10**9))
        wire = self.any_wire()
        if kind == 2:
            self.index += 1
            return Forced(self.index, wire)
        return Transact(wire)

    def any_wire(self) -> bytes:
        draw = self.random
        if draw.random() < 0.04:
            return draw.randbytes(draw.randrange(80))
        action = self.any_action()
        key = draw.choice([*PEOPLE, *PEOPLE, STRANGER])
        if isinstance(action, Call) and action.method in ("mint", "transfer"):
            key = PEOPLE[0]
        nonce = self.state.account(key.address).nonce + (draw.random() < 0.05)
        limit = draw.choice([5_000, 9_000, 12_000, 60_000, 200_000, 200_000, 200_000, 260_000])
        tip = draw.choice([0, 0, 1, 40])
        body = Body(draw.choice([901] * 20 + [900]), key.address, nonce, limit, 30, tip, action)
        tx = SignedTransaction.sign(body, key)
        if draw.random() < 0.05:
            place = draw.randrange(len(tx.wire))
            return tx.wire[:place] + bytes([tx.wire[place] ^ 1]) + tx.wire[place + 1 :]
        return tx.wire

    def any_action(self) -> Transfer | Call:
        draw = self.random
        to = draw.choice([k.address for k in [*PEOPLE, STRANGER, self.anew()]] + BAD_KEYS)
        amount = draw.choice([0, 1, 5, 1000, 10**9, 10**9, 2**53 - 1])
        if draw.random() < 0.25:
            return Transfer(to, amount)
        number = draw.randrange(3)
        choices: list[tuple[str, str, Record, int]] = [
            ("messenger", "withdraw", WithdrawArgs(to), amount),
            ("token", "mint", MintArgs(to, amount), 0),
            ("token", "transfer", TransferArgs(to, amount), 0),
            ("token", "approve", ApproveArgs(to, amount, draw.choice([0, amount])), 0),
            ("token", "transfer_from", TransferFromArgs(PEOPLE[0].address, to, amount), 0),
            ("inference_market", "offer", market.OfferArgs("model/a", draw.choice([0, 7])), 0),
            (
                "inference_market",
                "request",
                market.RequestArgs(number, 9, b"\x05" * 32),
                draw.choice([7, 9, 1]),
            ),
            ("inference_market", "answer", market.AnswerArgs(number, b"\x06" * 32), 0),
            ("inference_market", "confirm", market.CallRef(number), 0),
            ("inference_market", "dispute", market.CallRef(number), 0),
            ("inference_market", "rule", market.RuleArgs(number, draw.random() < 0.5), 0),
            ("inference_market", "rate", market.RateArgs(number, 4), 0),
            ("nothing", "here", NoArgs(), 0),
            ("token", "burn", NoArgs(), 0),
            ("token", "mint", NoArgs(), 0),
        ]
        contract, method, args, value = draw.choice(choices)
        return Call(contract, method, encode(args), value if draw.random() < 0.9 else 1)

    def anew(self) -> KeyPair:
        return KeyPair(self.random.randbytes(32))


def test_both_have_the_same_root_after_every_step() -> None:
    seen: set[str] = set()
    for seed in range(3):
        pair = Pair(seed)
        pair.prelude()
        for _ in range(300):
            pair.step(pair.any_step())
        seen |= pair.outcomes
    market_calls = {
        f"inference_market.{name}" for name in ("offer", "request", "answer", "dispute", "rule", "rate")
    }
    tokens = {f"token.{name}" for name in ("mint", "transfer", "approve", "transfer_from")}
    wanted = {"Transact", "Deposit", "Forced", "BeginBlock", "messenger.withdraw", *tokens, *market_calls}
    assert wanted <= seen, wanted - seen
    reasons = {found.partition(" ")[2] for found in seen}
    assert {
        "undecodable",
        "out_of_gas",
        "insufficient_balance",
        "invalid_address",
        "block_full",
    } <= reasons, reasons


def test_a_contract_that_the_audit_cannot_run_is_named() -> None:
    for code in ("os:system", "apps.token:Nothing", "apps.nothing:Token", "rollup.messenger:Messenger", ""):
        with pytest.raises(UnknownContractError, match="strange"):
            host_contracts([["strange", code, b"\x90", 0]])


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=60, deadline=None)
def test_what_is_a_key_is_decided_alike(data: bytes) -> None:
    assert is_key(data) == is_valid_address(data)


def test_odd_keys_and_signatures_are_decided_alike() -> None:
    order = 2**255 - 19
    odd = [
        *BAD_KEYS,
        (order - 1).to_bytes(32, "little"),
        order.to_bytes(32, "little"),
        (1 << 255).to_bytes(32, "little"),
    ]
    for data in [*odd, *(key.address for key in PEOPLE)]:
        assert is_key(data) == is_valid_address(data), data.hex()
    alice, message = PEOPLE[0], b"\x09" * 32
    good = alice.sign(message)
    neutral = b"\x01" + bytes(31)
    cases: list[tuple[bytes, bytes]] = [
        (alice.address, good),
        (alice.address, neutral + good[32:]),
        (neutral, good),
    ]
    cases += [
        (alice.address, good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]) for place in range(64)
    ]
    for key, signature in cases:
        assert signed_by(key, message, signature) == verify(key, message, signature)


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\xc0",
        b"\x98",
        b"[" * 40,
        b"\x91" * 3000,
        msgspec.msgpack.encode([1.5] * 8),
        msgspec.msgpack.encode({}),
    ],
    ids=lambda junk: junk[:8],
)
def test_what_is_no_transaction_is_none(junk: Any) -> None:
    assert read_transaction(junk) is None
