"""A small L2 for the rollup's tests: its genesis, signed transactions, and a contract that writes and deletes."""

from collections.abc import Sequence

from chainkit.chain import Chain
from chainkit.codec import U53, Record, encode
from chainkit.contract import Context, Contract, Revert, method
from chainkit.execution import FeeParameters
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract
from chainkit.keys import KeyPair, dev_keypair
from chainkit.state import State
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from rollup.messenger import WithdrawArgs
from rollup.stf import Step, apply_step, prove_step
from rollup.trace import Trace

COIN = 10**9
NAMES = ("alice", "bob", "carol", "dave")
KEYS = {name: dev_keypair(name) for name in (*NAMES, "mallory", "sequencer", "verifier", "judy")}
ALICE, BOB, CAROL, DAVE = (KEYS[name] for name in NAMES)
MALLORY = KEYS["mallory"]
VAULT = KEYS["judy"].address
L2_TIME = 1_700_000_000_000
GAS = 200_000


class SlotArgs(Record, frozen=True):
    """Arguments of ``scratch``'s methods."""

    slot: U53


class Scratch(Contract):
    """Writes, deletes and refuses: what a native contract may do to storage between steps."""

    @method(SlotArgs)
    def put(self, ctx: Context, args: SlotArgs) -> None:
        ctx.storage.store_int(b"%d" % args.slot, args.slot + 1)

    @method(SlotArgs)
    def delete(self, ctx: Context, args: SlotArgs) -> None:
        ctx.storage.delete(b"%d" % args.slot)

    @method(SlotArgs)
    def refuse(self, ctx: Context, args: SlotArgs) -> None:
        ctx.storage.store_int(b"%d" % args.slot, 77)
        raise Revert("refused", "on purpose")


FEES = FeeParameters(max_transaction_bytes=60 * 1024)


def l2_genesis(balance: int = 1_000 * COIN, fees: FeeParameters = FEES) -> Genesis:
    """Chain 901 with four funded accounts, the messenger and the scratch contract."""
    funded = [GenesisAccount(KEYS[name].address, balance, name) for name in NAMES] if balance else []
    return Genesis(
        chain_id=901,
        name="test-l2",
        time=L2_TIME,
        slot_ms=1000,
        era_slots=1_000_000,
        devnet=True,
        fees=fees,
        accounts=sorted(funded, key=lambda account: account.address),
        validators=[],
        contracts=[
            GenesisContract("messenger", "rollup.messenger:Messenger", b"\x90"),
            GenesisContract("scratch", f"{__name__}:Scratch", b"\x90"),
        ],
        vault=VAULT,
    )


def l2_chain(balance: int = 1_000 * COIN, fees: FeeParameters = FEES) -> Chain:
    return Chain(l2_genesis(balance, fees))


def signed(
    key: KeyPair,
    nonce: int,
    action: Transfer | Call,
    *,
    gas: int = GAS,
    max_fee: int = 100,
    tip: int = 1,
    chain_id: int = 901,
) -> SignedTransaction:
    body = Body(chain_id, key.address, nonce, gas, max_fee, tip, action)
    return SignedTransaction.sign(body, key)


def transfer(key: KeyPair, nonce: int, to: KeyPair, amount: int, **options: int) -> SignedTransaction:
    return signed(key, nonce, Transfer(to.address, amount), **options)


def withdraw(key: KeyPair, nonce: int, amount: int, to: KeyPair | None = None) -> SignedTransaction:
    recipient = (to or key).address
    return signed(key, nonce, Call("messenger", "withdraw", encode(WithdrawArgs(recipient)), amount))


def scratch(key: KeyPair, nonce: int, method_name: str, slot: int) -> SignedTransaction:
    return signed(key, nonce, Call("scratch", method_name, encode(SlotArgs(slot)), 0))


def run(chain: Chain, steps: Sequence[Step]) -> bytes:
    """The root after the steps, committed once at the end, as a block does."""
    state = State(chain.genesis_tree)
    for step in steps:
        apply_step(chain.rules, state, step)
    return state.root()


def run_by_proofs(chain: Chain, steps: Sequence[Step]) -> bytes:
    """The root after the steps, each run over nothing but a witness, as the contract does."""
    trace = Trace(chain.rules, chain.genesis_tree, steps)
    root = chain.genesis_tree.root
    for index, step in enumerate(steps):
        root = prove_step(chain.rules, root, step, trace.witness(index))
        assert root == trace.root(index + 1), f"step {index}: {step}"
    return root
