"""Large preimages: the worst step that the devnet's L2 gas buys has a proof that fits one L1 transaction."""

import pytest
from greedy_contract import FAT_VALUES, GreedArgs, Greedy, deep_key, fat_key, stranger
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rollup_world import l2_genesis

from bridge import abi
from bridge.settings import MAX_L2_TRANSACTION_GAS, UNMETERED_KEYS, proof_gas
from chainkit import gas, merkle
from chainkit.codec import encode
from chainkit.contract import NoArgs
from chainkit.execution import FeeParameters, Rules, check_stateless, intrinsic_gas
from chainkit.genesis import GenesisContract, genesis_state
from chainkit.keys import dev_keypair
from chainkit.merkle import Tree
from chainkit.merkle_list import list_proof
from chainkit.state import MAX_VALUE_BYTES, Account, account_key, storage_key
from chainkit.transaction import Body, Call, SignedTransaction
from layerlab.genesis import L2_FEES
from rollup.player import PROVE_GAS
from rollup.stf import BeginBlock, Step, Transact, decode_step, prove_step, step_hash
from rollup.trace import Trace

ACCOUNTS = 100_000
ALICE = dev_keypair("alice")
KINDS = sorted(set(Greedy.methods) - {"deep"})


@pytest.fixture(scope="module")
def world() -> tuple[Rules, Tree]:
    """The devnet's L2 fees, 100,000 accounts, and a contract with 400 of the largest values."""
    greedy = GenesisContract("greedy", "greedy_contract:Greedy", encode(NoArgs()))
    plain = l2_genesis(10**15, L2_FEES)
    rules, tree = genesis_state(
        replace(plain, contracts=sorted([*plain.contracts, greedy], key=lambda c: c.name))
    )
    account = encode(Account(10**9, 2**40))
    fat = bytes(MAX_VALUE_BYTES)
    tree = tree.update({account_key(stranger(i)): account for i in range(ACCOUNTS)})
    return rules, tree.update({storage_key("greedy", fat_key(i)): fat for i in range(FAT_VALUES)})


def greedy_step(kind: str, padding: int = 0) -> Transact:
    """The most gas that a transaction may have; padding makes it as long as one may be (but then it only fails)."""
    args = encode(GreedArgs(1)) + bytes(padding)
    action = Call("greedy", kind, args, 0)
    body = Body(901, ALICE.address, 0, L2_FEES.max_transaction_gas, 4, 0, action)
    return Transact(SignedTransaction.sign(body, ALICE).wire)


def proven(rules: Rules, tree: Tree, step: Step) -> abi.ProveArgs:
    """The honest proof of the step in the longest batch; running it over its witness is running it in full."""
    trace = Trace(rules, tree, [BeginBlock(1, 1_700_000_001_000), step])
    witness = trace.witness(1)
    assert prove_step(rules, trace.root(1), decode_step(encode(step)), witness) == trace.root(2)
    longest = list_proof([step_hash(step)] * abi.BridgeSettings(bytes(32)).max_steps, 1)
    return abi.ProveArgs(2**53 - 1, encode(step), longest, witness)


def assert_fits_l1(args: abi.ProveArgs) -> None:
    assert len(args.witness) <= abi.MAX_WITNESS_BYTES < merkle.MAX_PROOF
    l1 = Rules(900, FeeParameters(), {})
    body = Body(900, ALICE.address, 2**53 - 1, PROVE_GAS, 4, 0, Call("bridge", "prove", encode(args), 0))
    tx = SignedTransaction.sign(body, ALICE)
    check_stateless(l1, tx)
    size = len(args.witness) + len(args.step) + 32 * len(args.step_proof)
    assert intrinsic_gas(l1, tx) + proof_gas(size) + 4_000_000 <= PROVE_GAS


@pytest.mark.parametrize("kind", KINDS)
def test_large_preimages(world: tuple[Rules, Tree], kind: str) -> None:
    rules, tree = world
    args = proven(rules, tree, greedy_step(kind))
    assert len(args.witness) > 25_000, "the contract is not greedy enough to say anything"
    assert_fits_l1(args)


def test_large_preimages_where_an_attacker_ground_its_keys_deep(
    world: tuple[Rules, Tree], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key read is 36 levels deep, 29 of which it shares with no other: the depth that the limits assume."""
    hashed = merkle.key_hash

    def place(key: bytes) -> bytes:
        at = key.find(b"deep")
        return hashed(key) if at < 0 else key[at + 4 :]

    monkeypatch.setattr(merkle, "key_hash", place)
    rules, tree = world
    neighbours = {}
    for i in range(128):
        top = deep_key(i)
        for depth in range(7, 36):
            other = int.from_bytes(top[4:], "big") ^ 1 << 255 - depth
            neighbours[storage_key("greedy", b"deep" + other.to_bytes(32, "big"))] = b"\x01"
        neighbours[storage_key("greedy", top)] = b"\x01"
    args = proven(rules, tree.update(neighbours), greedy_step("deep"))
    assert len(args.witness) > 115 * 29 * 35
    assert_fits_l1(args)


def test_the_longest_transaction_fits_too(world: tuple[Rules, Tree]) -> None:
    rules, tree = world
    room = L2_FEES.max_transaction_bytes - len(greedy_step("absent").transaction) - 4
    step = greedy_step("absent", padding=room)
    assert L2_FEES.max_transaction_bytes - 8 < len(step.transaction) <= L2_FEES.max_transaction_bytes
    assert_fits_l1(proven(rules, tree, step))


def test_the_bound_on_l2_gas_is_what_the_limits_allow() -> None:
    assert L2_FEES.max_transaction_gas <= MAX_L2_TRANSACTION_GAS
    keys = MAX_L2_TRANSACTION_GAS // min(gas.READ, gas.WRITE) + UNMETERED_KEYS
    assert keys * (69 + 29 * 35) < abi.MAX_WITNESS_BYTES


@given(old=st.integers(0, MAX_VALUE_BYTES), new=st.integers(0, MAX_VALUE_BYTES))
@settings(max_examples=30, deadline=None)
def test_a_write_pays_for_what_its_witness_must_show(old: int, new: int) -> None:
    from chainkit.contract import Storage
    from chainkit.state import State

    def cost(first: bytes) -> int:
        meter, state = gas.GasMeter(10**6), State(Tree())
        Storage(state, "greedy").set(b"k", first)
        Storage(state, "greedy", meter).set(b"k", bytes(new))
        return meter.used

    assert cost(bytes(old)) == gas.WRITE + gas.VALUE_BYTE * (new + old)
