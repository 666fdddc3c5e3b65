"""L1 with a committee bridge and a side chain with its gateway, in memory: real genesis files, real blocks.

`Pair` holds both chains. After every block it checks from state alone what the bridge promises: balances cover the
books, no supply grows, and nothing is paid that m operators did not attest. `owed` is the invariant's other side.
"""

from collections.abc import Sequence
from itertools import count as count_from
from typing import Any

from bridge.abi import DepositArgs, Withdrawal
from bridge.committee import l1_contract_spec, side_contract_spec
from bridge.committee_abi import (
    BRIDGE,
    GATEWAY,
    TOTALS_KEY,
    AttestArgs,
    CommitteeParams,
    Deposit,
    EscrowTotals,
    GatewayTotals,
    Payout,
    WithdrawArgs,
    deposit_key,
    paid_key,
    withdrawal_key,
)
from chainkit.block import Validator
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Record, decode, encode
from chainkit.contract import Supply
from chainkit.execution import FeeParameters, Receipt, supply
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract, genesis_from_json, genesis_to_json
from chainkit.keys import KeyPair, dev_keypair
from chainkit.state import State, contract_address, storage_key
from chainkit.transaction import Body, Call, SignedTransaction
from chainkit.views import json_bytes
from l1node.staking import StakingParams

COIN = 10**9
TIME = 1_700_000_000_000
L1_CHAIN, SIDE_CHAIN = 900, 902
PEOPLE = ("alice", "bob", "carol", "mallory")
OPERATORS = tuple(f"operator-{i}" for i in range(5))
VALIDATORS = tuple(f"validator-{i}" for i in range(4))
FUNDS, STAKE = 1_000 * COIN, 100 * COIN
GAS_LIMIT, MAX_FEE = 1_000_000, 1_000
"""With these a transaction sets a coin aside: the funds last for hundreds of calls."""
_STAKING = GenesisContract("staking", "l1node.staking:Staking", encode(StakingParams()))


def key(name: str) -> KeyPair:
    return dev_keypair(name)


def address(name: str) -> bytes:
    return dev_keypair(name).address


def _accounts(names: Sequence[str], funds: int) -> list[GenesisAccount]:
    found = [GenesisAccount(address(name), funds, name) for name in names]
    return sorted(found, key=lambda account: account.address)


def side_backing(funds: int = FUNDS) -> int:
    """All coins of the side chain's genesis but the reserve: operators' and validators' funds, and stakes."""
    return funds * len(OPERATORS) + STAKE * len(VALIDATORS)


def make_params(threshold: int = 3, operators: Sequence[str] = OPERATORS, **more: Any) -> CommitteeParams:
    fields = {"side_chain_id": SIDE_CHAIN, "reserve": 10_000 * COIN, "backing": side_backing(), **more}
    return CommitteeParams(sorted(address(name) for name in operators), threshold, **fields)


def _genesis(chain_id: int, name: str, accounts: list[GenesisAccount], bridge: GenesisContract) -> Genesis:
    validators = [Validator(address(name), STAKE) for name in VALIDATORS]
    return Genesis(
        chain_id=chain_id,
        name=name,
        time=TIME,
        slot_ms=1000,
        era_slots=1_000_000,
        devnet=True,
        fees=FeeParameters(),
        accounts=accounts,
        validators=sorted(validators, key=lambda validator: validator.address),
        contracts=sorted([bridge, _STAKING], key=lambda contract: contract.name),
    )


def l1_genesis(params: CommitteeParams | None = None) -> Genesis:
    """L1: people and operators have funds; the bridge holds the backing."""
    accounts = _accounts((*PEOPLE, *OPERATORS), FUNDS)
    return _genesis(L1_CHAIN, "test-l1", accounts, l1_contract_spec(params or make_params()))


def side_genesis(params: CommitteeParams | None = None) -> Genesis:
    """The side chain: operators have funds for fees, people come over the bridge; the gateway holds the reserve."""
    return _genesis(
        SIDE_CHAIN, "test-side", _accounts(OPERATORS, FUNDS), side_contract_spec(params or make_params())
    )


def reread(genesis: Genesis) -> Genesis:
    """As it comes out of its file."""
    return genesis_from_json(json_bytes(genesis_to_json(genesis)))


class Ledger:
    """One of the two chains; every call is a signed transaction in a block of its own."""

    def __init__(self, genesis: Genesis, contract: str) -> None:
        self.chain = Chain(genesis)
        self.contract = contract
        self.tip: ExecutedBlock = self.chain.genesis_block

    @property
    def state(self) -> State:
        return State(self.tip.tree)

    def balance(self, name: str) -> int:
        return self.state.account(address(name)).balance

    @property
    def held(self) -> int:
        """The contract's balance."""
        return self.state.account(contract_address(self.contract)).balance

    def load(self, key_: bytes, kind: type[Any]) -> Any:
        value = self.tip.tree.get(storage_key(self.contract, key_))
        return decode(kind, value) if value else None

    def storage(self) -> dict[bytes, bytes]:
        prefix = storage_key(self.contract, b"")
        return {k: v for k, v in self.tip.tree.items() if k.startswith(prefix)}

    def supply(self) -> Supply:
        return supply(self.state)

    def tx(self, who: str, method: str, args: Record, value: int = 0, **more: Any) -> SignedTransaction:
        nonce = self.state.account(address(who)).nonce
        action = Call(more.get("contract", self.contract), method, encode(args), value)
        chain_id = more.get("chain_id", self.chain.rules.chain_id)
        return SignedTransaction.sign(
            Body(chain_id, address(who), nonce, GAS_LIMIT, MAX_FEE, 0, action), key(who)
        )

    def mine(self, *txs: SignedTransaction) -> list[Receipt]:
        slot = self.tip.header.slot + 1
        leader = self.chain.leader(self.tip.tree, slot)
        assert leader is not None
        self.tip, skipped = self.chain.build(self.tip, slot, leader, txs)
        assert not skipped, skipped
        return list(self.tip.receipts)

    def call(self, who: str, method: str, args: Record, value: int = 0) -> Receipt:
        return self.mine(self.tx(who, method, args, value))[0]


class Pair:
    """Both chains."""

    def __init__(self, params: CommitteeParams | None = None) -> None:
        self.params = params or make_params()
        self.l1 = Ledger(l1_genesis(self.params), BRIDGE)
        self.side = Ledger(side_genesis(self.params), GATEWAY)

    # --- calls ---

    def ok(self, ledger: Ledger, who: str, method: str, args: Record, value: int = 0) -> Receipt:
        receipt = ledger.call(who, method, args, value)
        assert receipt.success, (receipt.code, receipt.message)
        self.check()
        return receipt

    def refused(
        self, code: str, ledger: Ledger, who: str, method: str, args: Record, value: int = 0
    ) -> Receipt:
        """REJECT: typed; no money moved but the fee, no byte of the contract changed."""
        before, held, had = ledger.storage(), ledger.held, ledger.balance(who)
        receipt = ledger.call(who, method, args, value)
        assert (receipt.success, receipt.code) == (False, code), (receipt.code, receipt.message)
        assert (ledger.storage(), ledger.held) == (before, held)
        assert ledger.balance(who) == had - receipt.fee
        self.check()
        return receipt

    def deposit(self, who: str, to: str, amount: int) -> int:
        index: int = self.escrow.deposits
        self.ok(self.l1, who, "deposit", DepositArgs(address(to)), amount)
        return index

    def withdraw(self, who: str, to: str, amount: int) -> int:
        index: int = self.gateway.withdrawals
        self.ok(self.side, who, "withdraw", WithdrawArgs(address(to)), amount)
        return index

    def credit(self, index: int, to: str, amount: int, by: Sequence[str] = OPERATORS[:3]) -> None:
        for operator in by:
            self.ok(self.side, operator, "credit", AttestArgs(index, address(to), amount))

    def release(self, index: int, to: str, amount: int, by: Sequence[str] = OPERATORS[:3]) -> None:
        for operator in by:
            self.ok(self.l1, operator, "release", AttestArgs(index, address(to), amount))

    # --- reading ---

    @property
    def escrow(self) -> EscrowTotals:
        return self.l1.load(TOTALS_KEY, EscrowTotals)  # type: ignore[no-any-return]

    @property
    def gateway(self) -> GatewayTotals:
        return self.side.load(TOTALS_KEY, GatewayTotals)  # type: ignore[no-any-return]

    def paid(self, ledger: Ledger, index: int) -> Payout | None:
        return ledger.load(paid_key(index), Payout)  # type: ignore[no-any-return]

    def owed(self) -> int:
        """What escrow must hold if the operators are honest, counted record by record."""
        outside = self.side.supply().genesis - self.gateway.reserve  # coins there, and those burned as fees
        deposits = sum(
            record.amount
            for record in self._records(self.l1, deposit_key, Deposit)
            if self.paid(self.side, record.index) is None
        )
        withdrawals = sum(
            record.amount
            for record in self._records(self.side, withdrawal_key, Withdrawal)
            if self.paid(self.l1, record.index) is None
        )
        return int(outside + deposits + withdrawals)

    def _records(self, ledger: Ledger, make_key: Any, kind: type[Any]) -> list[Any]:
        found: list[Any] = []
        for index in count_from():
            record = ledger.load(make_key(index), kind)
            if record is None:
                return found
            assert record.index == index
            found.append(record)
        raise AssertionError("unreachable")

    def check(self) -> None:
        """What holds whatever the operators do."""
        escrow, gateway = self.escrow, self.gateway
        assert escrow.escrow == self.l1.held
        assert gateway.reserve == self.side.held
        assert gateway.reserve + gateway.outstanding == self.params.reserve + self.params.backing
        for ledger in (self.l1, self.side):
            books = ledger.supply()
            assert books.minted == 0
            total = sum(a.balance for a in _all_accounts(ledger))
            assert total == books.genesis - books.burned


def _all_accounts(ledger: Ledger) -> list[Any]:
    state = ledger.state
    return [state.account(k[1:]) for k, v in ledger.tip.tree.items() if k[:1] == b"a" and v]
