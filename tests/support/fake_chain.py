"""A chain in memory with one contract, and a backend that serves it: what the tests of the shell stand on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from chainkit.api import chain_router
from chainkit.backend import BlockView, Head, HeadRef, SubmitResult, TransactionView
from chainkit.block import Certificate, CertificateVote, CertifiedBlock, Validator, ValidatorSet, Vote
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import U53, Address, Bytes32, Record
from chainkit.contract import Context, Contract, Revert, Storage, method
from chainkit.events import EventLog
from chainkit.execution import FeeParameters, Rules
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract
from chainkit.http_limits import HttpLimits
from chainkit.keys import DEV_ACCOUNTS, KeyPair, dev_keypair
from chainkit.problem_answers import install_problem_handlers
from chainkit.state import State
from chainkit.store import Store
from chainkit.transaction import SignedTransaction

VALIDATORS = [dev_keypair(f"validator-{index}") for index in range(4)]
COIN = 10**9


class PutArgs(Record, frozen=True):
    """Arguments of ``notes.put``."""

    owner: Address
    number: U53


class NotePut(Record, frozen=True):
    """``notes`` took a note."""

    owner: Address
    number: U53
    value: U53


class Notes(Contract):
    """A contract that keeps a number an account; odd ones it refuses."""

    events = (NotePut,)

    @method(PutArgs, payable=True)
    def put(self, ctx: Context, args: PutArgs) -> None:
        if args.number % 2:
            raise Revert("odd_number", f"{args.number} is odd")
        ctx.storage.store_int(args.owner, args.number)
        ctx.storage.store_int(b"count", ctx.storage.load_int(b"count") + 1)
        ctx.emit(NotePut(args.owner, args.number, ctx.value))

    def public_state(self, storage: Storage) -> dict[str, Any]:
        return {"count": storage.load_int(b"count")}


class FixedValidators(Contract):
    """Writes the validator set of era 0, as a staking contract would."""

    def genesis(self, ctx: Context, genesis: Genesis) -> None:
        ctx.mint(self.address, sum(validator.stake for validator in genesis.validators))
        ctx.write_system("validators/0", ValidatorSet(genesis.validators))


def make_genesis(*, devnet: bool = True, chain_id: int = 900, fees: FeeParameters | None = None) -> Genesis:
    """Every dev account with 1000 coins, four equal validators, eras that outlast the tests."""
    accounts = [GenesisAccount(dev_keypair(name).address, 1000 * COIN, name) for name in DEV_ACCOUNTS]
    validators = [Validator(key.address, COIN) for key in VALIDATORS]
    if not devnet:
        accounts, validators = [], []
    module = __name__
    return Genesis(
        chain_id=chain_id,
        name="test",
        time=1_700_000_000_000,
        slot_ms=1000,
        era_slots=1_000_000,
        devnet=devnet,
        fees=fees or FeeParameters(),
        accounts=sorted(accounts, key=lambda a: a.address),
        validators=sorted(validators, key=lambda v: v.address),
        contracts=[
            GenesisContract("notes", f"{module}:Notes", b"\x90"),
            GenesisContract("validators", f"{module}:FixedValidators", b"\x90"),
        ],
    )


def certify(block: ExecutedBlock, keys: Sequence[KeyPair] = VALIDATORS[:3]) -> Certificate:
    """Votes of three of the four validators."""
    header = block.header
    votes = [Vote.sign(key, header.chain_id, header.slot, header.height, block.hash) for key in keys]
    votes.sort(key=lambda vote: vote.voter)
    shown = [CertificateVote(vote.voter, vote.signature) for vote in votes]
    return Certificate(header.slot, header.height, block.hash, shown)


def extend(
    chain: Chain, parent: ExecutedBlock, slot: int, txs: Sequence[SignedTransaction] = ()
) -> ExecutedBlock:
    """The block that the leader of ``slot`` would build."""
    leader = chain.leader(parent.tree, slot)
    assert leader is not None
    block, skipped = chain.build(parent, slot, leader, txs)
    assert not skipped
    return block


def certified(block: ExecutedBlock) -> CertifiedBlock:
    return CertifiedBlock(block.block, certify(block))


class MemoryBackend:
    """The chain API's backend over a list of executed blocks; submitted transactions wait for `seal`."""

    def __init__(self, path: Path, genesis: Genesis | None = None) -> None:
        self.chain = Chain(genesis or make_genesis())
        self.blocks = [self.chain.genesis_block]
        self.final = 0
        self.pool: list[SignedTransaction] = []
        self.store = Store(path, genesis_hash=self.chain.genesis_hash, role="test")
        self.log = EventLog(self.store)

    @property
    def genesis(self) -> Genesis:
        return self.chain.genesis

    @property
    def genesis_hash(self) -> Bytes32:
        return self.chain.genesis_hash

    @property
    def rules(self) -> Rules:
        return self.chain.rules

    @property
    def event_log(self) -> EventLog:
        return self.log

    def status(self) -> Mapping[str, Any]:
        return {"role": "test"}

    def metrics(self) -> Mapping[str, float]:
        return {"pool_transactions": len(self.pool)}

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        return len(self.blocks) > 1, {"waits_for": "the first block"}

    def head(self, ref: HeadRef) -> Head | None:
        if ref == "safe":
            return None
        block = self.blocks[-1 if ref == "head" else self.final]
        return Head(block.header, block.hash, block.tree)

    def block(self, ref: int | Bytes32) -> BlockView | None:
        for height, block in enumerate(self.blocks):
            if ref in (height, block.hash):
                return BlockView(block.block, block.hash, self._status(height))
        return None

    def _status(self, height: int) -> Any:
        return "finalized" if height <= self.final else "notarized"

    def transaction(self, tx_id: Bytes32) -> TransactionView | None:
        for height, block in enumerate(self.blocks):
            for position, tx in enumerate(block.transactions):
                if tx.id == tx_id:
                    receipt = block.receipts[position]
                    return TransactionView(tx, self._status(height), height, block.hash, position, receipt)
        return next((TransactionView(tx, "pending") for tx in self.pool if tx.id == tx_id), None)

    def included_at(self, tx_id: Bytes32) -> int | None:
        found = self.transaction(tx_id)
        return None if found is None or found.receipt is None else found.height

    def pending_nonce(self, address: Address) -> int:
        nonce = State(self.blocks[-1].tree).account(address).nonce
        while any(tx.body.sender == address and tx.body.nonce == nonce for tx in self.pool):
            nonce += 1
        return nonce

    async def submit(self, transactions: Sequence[SignedTransaction]) -> list[SubmitResult]:
        return [self._admit(tx) for tx in transactions]

    def _admit(self, tx: SignedTransaction) -> SubmitResult:
        if tx in self.pool:
            return SubmitResult(tx.id, True, "already_known")
        state = State(self.blocks[-1].tree)
        account, nonce = state.account(tx.body.sender), self.pending_nonce(tx.body.sender)
        if tx.body.nonce != nonce:
            code = "stale_nonce" if tx.body.nonce < nonce else "nonce_gap"
            return SubmitResult(tx.id, False, code, f"nonce {tx.body.nonce}; the account's next is {nonce}")
        if tx.body.gas_limit * tx.body.max_fee_per_gas + tx.value > account.balance:
            return SubmitResult(tx.id, False, "insufficient_balance", "too poor")
        self.pool.append(tx)
        return SubmitResult(tx.id, True)

    def seal(self, *, slots: int = 1, final: bool = False) -> ExecutedBlock:
        """Put the pool into a block; log its events."""
        parent = self.blocks[-1]
        block = extend(self.chain, parent, parent.header.slot + slots, self.pool)
        self.pool.clear()
        self.blocks.append(block)
        if final:
            self.final = block.header.height
        with self.store.transaction():
            self.log.append_receipts(self.rules.contracts, block.receipts, block.header.height)
        return block

    def app(self) -> FastAPI:
        """The service's app, limits included."""
        app = FastAPI()
        install_problem_handlers(app)
        app.include_router(chain_router(self))
        app.add_middleware(HttpLimits)
        return app
