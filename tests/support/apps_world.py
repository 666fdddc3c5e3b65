"""The applications on a small L1 or L2: calls by named people at any height, each L2 step proven by its witness."""

from collections.abc import Callable, Mapping
from typing import Any

from ledger import CHAIN_ID, USER_BALANCE, VALIDATORS, make_genesis
from msgspec.structs import replace

from apps.inference_market import InferenceMarket
from apps.market_records import (
    AnswerArgs,
    CallRef,
    MarketCall,
    MarketParams,
    OfferArgs,
    Provider,
    RateArgs,
    RequestArgs,
    RuleArgs,
    Totals,
    call_key,
    provider_key,
)
from apps.token import Token, TokenParams, TokenSupply, TransferFromArgs, balance_key, load_supply
from chainkit.chain import Chain
from chainkit.codec import Record, decode, encode
from chainkit.contract import Context, Contract, NoArgs, Storage, method
from chainkit.execution import Receipt, apply_transaction, begin_block
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair, dev_keypair
from chainkit.state import State, contract_address
from chainkit.transaction import Body, Call, SignedTransaction
from l1node.staking import StakingParams
from layerlab.genesis import L2_FEES
from rollup.stf import BeginBlock, Step, Transact, apply_step, prove_step

AGENT, PROVIDER, OTHER = (dev_keypair(name) for name in ("alice", "bob", "carol"))
MINTER, ARBITER = dev_keypair("grace"), dev_keypair("heidi")
PEOPLE = (AGENT, PROVIDER, OTHER, MINTER, ARBITER)
VAULT = dev_keypair("judy")
MARKET = "inference_market"
TIME = 1_700_000_000_000
GAS = 200_000
PRICE = 1_000_000
QUESTION, ANSWER = b"\x01" * 32, b"\x02" * 32
MARKET_PARAMS = MarketParams(ARBITER.address, answer_blocks=10, dispute_blocks=20, ruling_blocks=30)
TOKEN_PARAMS = TokenParams(MINTER.address, "COMPUTE")
LAYERS = ("l1", "l2")


def apps_genesis(
    layer: str,
    *,
    market: MarketParams = MARKET_PARAMS,
    token: TokenParams = TOKEN_PARAMS,
    extra: tuple[tuple[str, str, Record], ...] = (),
    balance: int = USER_BALANCE,
) -> Genesis:
    """Both applications beside what the layer has anyway: staking on an L1, the messenger on the rollup."""
    contracts = (
        (MARKET, "apps.inference_market:InferenceMarket", market),
        ("token", "apps.token:Token", token),
        *extra,
    )
    if layer == "l1":
        staking = ("staking", "l1node.staking:Staking", StakingParams())
        genesis = make_genesis(
            users=PEOPLE, stakes=[(VALIDATORS[0], 10**12)], contracts=(staking, *contracts)
        )
    else:
        messenger = ("messenger", "rollup.messenger:Messenger", NoArgs())
        genesis = make_genesis(
            users=PEOPLE,
            contracts=(messenger, *contracts),
            chain_id=CHAIN_ID + 1,
            fees=L2_FEES,
            vault=VAULT.address,
        )
    return replace(genesis, accounts=[replace(account, balance=balance) for account in genesis.accounts])


class Proxy(Contract):
    """A contract that is an agent and holds tokens: what calls the applications need not be an account."""

    @method(RequestArgs, payable=True)
    def request(self, ctx: Context, args: RequestArgs) -> None:
        ctx.call(MARKET, "request", args, ctx.value)

    @method(CallRef)
    def confirm_twice(self, ctx: Context, args: CallRef) -> None:
        ctx.call(MARKET, "confirm", args)
        ctx.call(MARKET, "confirm", args)

    @method(CallRef)
    def confirm(self, ctx: Context, args: CallRef) -> None:
        ctx.call(MARKET, "confirm", args)

    @method(CallRef)
    def refund(self, ctx: Context, args: CallRef) -> None:
        ctx.call(MARKET, "refund", args)

    @method(TransferFromArgs)
    def pull(self, ctx: Context, args: TransferFromArgs) -> None:
        ctx.call("token", "transfer_from", args)


PROXY = ("proxy", f"{__name__}:Proxy", NoArgs())


class AppsWorld:
    """A chain of one layer, without consensus: what is called runs at once, at the height that a test chose."""

    def __init__(self, layer: str = "l2", **genesis: Any) -> None:
        self.layer = layer
        self.genesis = apps_genesis(layer, **genesis)
        chain = Chain(self.genesis)
        self.rules, self.state = chain.rules, State(chain.genesis_tree)
        self.height = 0
        self.nonces: dict[bytes, int] = {}
        self.at(1)

    def at(self, height: int) -> None:
        """Begin the block of this height."""
        self.height, time = height, TIME + min(height, 10**12)
        if self.layer == "l2":
            self._step(BeginBlock(height, time))
        else:
            proposer = VALIDATORS[0].address
            begin_block(self.rules, self.state, height=height, slot=height, time=time, proposer=proposer)

    def call(
        self, key: KeyPair, contract: str, method: str, args: Record | bytes, value: int = 0, gas: int = GAS
    ) -> Receipt:
        """Run a call; on L2 also as a disputed step, over nothing but its witness."""
        nonce = self.nonces.get(key.address, 0)
        self.nonces[key.address] = nonce + 1
        data = args if isinstance(args, bytes) else encode(args)
        action = Call(contract, method, data, value)
        body = Body(self.genesis.chain_id, key.address, nonce, gas, 100, 1, action)
        tx = SignedTransaction.sign(body, key)
        if self.layer == "l2":
            return self._step(Transact(tx.wire))
        receipt = apply_transaction(self.rules, self.state, tx)
        self.state.end_step()
        return receipt

    def _step(self, step: Step) -> Receipt:
        before = self.state.commit()
        state = State(before)
        receipt = apply_step(self.rules, state, step)
        witness = before.prove(state.touched())
        after = state.commit()
        assert prove_step(self.rules, before.root, step, witness) == after.root
        self.state = state
        return receipt

    def ok(self, *call: Any, **options: Any) -> Receipt:
        """A call that must succeed."""
        receipt = self.call(*call, **options)
        assert receipt.success, (receipt.code, receipt.message)
        return receipt

    def refused(self, code: str, *call: Any, **options: Any) -> None:
        """A call that must be refused with this code, and change nothing of the contract's."""
        before, held = self.app_state(call[1]), self.balance(contract_address(call[1]))
        receipt = self.call(*call, **options)
        assert (receipt.code, receipt.events) == (code, [])
        assert self.app_state(call[1]) == before
        assert self.balance(contract_address(call[1])) == held

    def here(self) -> Callable[[], None]:
        """Remember this moment; the function that it returns goes back to it."""
        tree, height, nonces = self.state.commit(), self.height, dict(self.nonces)

        def back() -> None:
            self.state, self.height, self.nonces = State(tree), height, dict(nonces)

        return back

    # --- looking ---

    def contract(self, name: str) -> Contract:
        return self.rules.contracts[name]

    def storage(self, name: str) -> Storage:
        return Storage(self.state, name)

    def app_state(self, name: str) -> dict[bytes, bytes]:
        """Every entry of a contract's storage."""
        prefix = b"c" + bytes([len(name)]) + name.encode()
        items = self.state.commit().items()
        return {key[len(prefix) :]: value for key, value in items if key.startswith(prefix) and value}

    def balance(self, address: bytes) -> int:
        return self.state.account(address).balance

    def events(self, receipt: Receipt) -> list[Record]:
        """What a receipt tells, decoded."""
        return [
            decode(self.contract(event.contract).event_types[event.name], event.data)
            for event in receipt.events
        ]

    def public(self, name: str) -> Mapping[str, Any]:
        return self.contract(name).public_state(self.storage(name))


class MarketWorld(AppsWorld):
    """The market with one offer, number 0, of the provider at `PRICE`."""

    def __init__(self, layer: str = "l2", **genesis: Any) -> None:
        super().__init__(layer, **genesis)
        assert isinstance(self.contract(MARKET), InferenceMarket)
        self.ok(PROVIDER, MARKET, "offer", OfferArgs("gpt/small", PRICE))

    def requested(self, value: int = PRICE) -> int:
        """A new call by the agent; its number."""
        self.ok(AGENT, MARKET, "request", RequestArgs(0, value, QUESTION), value)
        return self.totals.calls - 1

    def answered(self) -> int:
        number = self.requested()
        self.ok(PROVIDER, MARKET, "answer", AnswerArgs(number, ANSWER))
        return number

    def disputed(self) -> int:
        number = self.answered()
        self.ok(AGENT, MARKET, "dispute", CallRef(number))
        return number

    def paid(self) -> int:
        number = self.answered()
        self.ok(AGENT, MARKET, "confirm", CallRef(number))
        return number

    def refunded(self) -> int:
        number = self.disputed()
        self.ok(ARBITER, MARKET, "rule", RuleArgs(number, False))
        return number

    def split(self) -> int:
        number = self.disputed()
        self.at(self.market_call(number).deadline + 1)
        self.ok(AGENT, MARKET, "split", CallRef(number))
        return number

    def rated(self) -> int:
        number = self.paid()
        self.ok(AGENT, MARKET, "rate", RateArgs(number, 4))
        return number

    @property
    def totals(self) -> Totals:
        return self.storage(MARKET).load(b"totals", Totals) or Totals()

    def market_call(self, number: int) -> MarketCall:
        found = self.storage(MARKET).load(call_key(number), MarketCall)
        assert found is not None
        return found

    def record(self, key: KeyPair = PROVIDER) -> Provider:
        return self.storage(MARKET).load(provider_key(key.address), Provider) or Provider()

    def assert_books(self) -> None:
        """The contract holds the prices of the open calls, to the gwei, counted one by one."""
        calls = [self.market_call(number) for number in range(self.totals.calls)]
        held = [call.price for call in calls if call.status in ("requested", "answered", "disputed")]
        assert self.balance(contract_address(MARKET)) == sum(held) == self.totals.escrowed
        assert len(held) == self.totals.open_calls


class TokenWorld(AppsWorld):
    """The token; nobody holds any."""

    def __init__(self, layer: str = "l2", **genesis: Any) -> None:
        super().__init__(layer, **genesis)
        assert isinstance(self.contract("token"), Token)

    @property
    def supply(self) -> TokenSupply:
        return load_supply(self.storage("token"))

    def units(self, key: KeyPair) -> int:
        return self.storage("token").load_int(balance_key(key.address))

    def assert_books(self) -> None:
        """All balances, counted one by one, are the supply; as many were written as there are holders."""
        entries = self.app_state("token")
        balances = [decode(int, v) for k, v in entries.items() if k.startswith(b"balance/")]
        assert (sum(balances), len(balances)) == (self.supply.total, self.supply.holders)
        assert min(balances, default=0) >= 0
