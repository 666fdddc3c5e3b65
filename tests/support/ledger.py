"""Small chains and signed transactions for tests of execution, staking and the mempool."""

from collections.abc import Sequence
from typing import Any

from chainkit.block import Validator
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import MAX_AMOUNT, Record, decode, encode
from chainkit.contract import Contract, NoArgs
from chainkit.execution import FeeParameters, Rules, supply
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract
from chainkit.keys import KeyPair, dev_keypair
from chainkit.state import Account, State
from chainkit.transaction import Body, Call, SignedTransaction, Transfer

CHAIN_ID = 900
COIN = 10**9
USER_BALANCE = 100_000 * COIN

ALICE, BOB, CAROL = (dev_keypair(name) for name in ("alice", "bob", "carol"))
VALIDATORS = sorted((dev_keypair(f"validator-{i}") for i in range(4)), key=lambda k: k.address)
STRANGER = KeyPair(b"\x07" * 32)
"""A valid key that no genesis here knows."""


def make_genesis(
    *,
    users: Sequence[KeyPair] = (ALICE, BOB, CAROL),
    stakes: Sequence[tuple[KeyPair, int]] = (),
    contracts: Sequence[tuple[str, str, Record]] = (),
    **changes: Any,
) -> Genesis:
    """A devnet genesis; ``stakes`` are (key, gwei), ``contracts`` are (name, code, params)."""
    values: dict[str, Any] = {
        "chain_id": CHAIN_ID,
        "name": "test",
        "time": 1_700_000_000_000,
        "slot_ms": 1000,
        "era_slots": 4,
        "devnet": True,
        "fees": FeeParameters(),
        "accounts": [
            GenesisAccount(address, USER_BALANCE)
            for address in sorted({k.address for k in users} | {k.address for k, _ in stakes})
        ],
        "validators": [Validator(k.address, s) for k, s in sorted(stakes, key=lambda x: x[0].address)],
        "contracts": [
            GenesisContract(name, code, encode(params)) for name, code, params in sorted(contracts)
        ],
    }
    return Genesis(**{**values, **changes})


def sign(
    key: KeyPair,
    nonce: int,
    action: Transfer | Call,
    *,
    chain_id: int = CHAIN_ID,
    gas_limit: int = 400_000,
    max_fee: int = 20,
    tip: int = 1,
) -> SignedTransaction:
    """A signed transaction."""
    return SignedTransaction.sign(Body(chain_id, key.address, nonce, gas_limit, max_fee, tip, action), key)


def transfer(key: KeyPair, nonce: int, to: bytes, amount: int, **options: int) -> SignedTransaction:
    """A signed transfer of ``amount`` gwei."""
    return sign(key, nonce, Transfer(to, amount), **options)


def call(
    key: KeyPair,
    nonce: int,
    contract: str,
    method: str,
    args: Record | bytes | None = None,
    value: int = 0,
    **options: int,
) -> SignedTransaction:
    """A signed call; ``args`` may be raw bytes, to be wrong on purpose."""
    data = args if isinstance(args, bytes) else encode(args or NoArgs())
    return sign(key, nonce, Call(contract, method, data, value), **options)


def account(block: ExecutedBlock, address: bytes) -> Account:
    """An account after a block."""
    return State(block.tree).account(address)


def sum_of_balances(state: State) -> int:
    """Every balance on the chain, counted one by one from the tree: shares no code with execution."""
    return sum(
        decode(Account, value).balance for key, value in state.commit().items() if key[:1] == b"a" and value
    )


def assert_books(block: ExecutedBlock) -> None:
    """P2: all balances together are what genesis had, plus minted, minus burned."""
    state = State(block.tree)
    books = supply(state)
    total = sum_of_balances(state)
    assert total == books.genesis + books.minted - books.burned
    assert 0 <= total <= MAX_AMOUNT


def build(
    chain: Chain, parent: ExecutedBlock, transactions: Sequence[SignedTransaction], slot: int | None = None
) -> ExecutedBlock:
    """Build a block of these transactions, execute it again as another node would; check the books."""
    slot = parent.header.slot + 1 if slot is None else slot
    block, skipped = chain.build(parent, slot, VALIDATORS[0].address, transactions)
    assert not skipped, skipped
    again = chain.execute(parent, block.block)
    assert again.hash == block.hash
    assert again.receipts == block.receipts
    assert_books(block)
    return block


def rules_with(*contracts: Contract, fees: FeeParameters | None = None, vault: bytes | None = None) -> Rules:
    """Execution rules with contracts that no genesis names."""
    return Rules(CHAIN_ID, fees or FeeParameters(), {c.name: c for c in contracts}, vault)
