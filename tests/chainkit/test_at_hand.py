"""What is at hand of a state changes nothing but the time: chains that fork, and trees that nobody moved to."""

from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit.at_hand import AtHand
from chainkit.chain import Chain
from chainkit.execution import FeeParameters
from chainkit.fees import transfer_gas
from chainkit.genesis import Genesis, GenesisAccount
from chainkit.keys import dev_keypair
from chainkit.merkle import Tree
from chainkit.transaction import Body, SignedTransaction, Transfer

NAMES = ("alice", "bob", "carol")
KEYS = [dev_keypair(name) for name in NAMES]


def _chain() -> Chain:
    accounts = sorted((GenesisAccount(key.address, 10**9) for key in KEYS), key=lambda a: a.address)
    fees = FeeParameters()
    return Chain(Genesis(7, "forks", 1_700_000_000_000, 1000, 16, True, fees, accounts, [], []))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=3)),
        min_size=1,
        max_size=8,
    )
)
def test_blocks_of_any_branches_are_what_a_chain_that_remembers_nothing_makes(
    plan: list[tuple[int, list[tuple[int, int]]]],
) -> None:
    """Each block goes on from any of those before, so from a state that is at hand, or from another."""
    chain = _chain()
    blocks = [chain.genesis_block]
    for slot, (choice, transfers) in enumerate(plan, 1):
        parent = blocks[choice % len(blocks)]
        nonces = [chain.state(parent.tree).account(key.address).nonce for key in KEYS]
        candidates = []
        for sender, to in transfers:
            gas = transfer_gas(chain.rules.fees.gas_per_byte)
            body = Body(7, KEYS[sender].address, nonces[sender], gas, 100, 1, Transfer(KEYS[to].address, 5))
            candidates.append(SignedTransaction.sign(body, KEYS[sender]))
            nonces[sender] += 1
        built, skipped = chain.build(parent, slot, KEYS[0].address, candidates)
        assert not skipped
        assert _chain().execute(parent, built.block).header == built.header
        assert chain.execute(parent, built.block).header == built.header
        blocks.append(built)


def test_of_another_tree_nothing_is_known() -> None:
    first, second = Tree().update({b"a": b"1"}), Tree().update({b"a": b"2"})
    at_hand = AtHand()
    at_hand.move(Tree.EMPTY, first, {b"a": b"1"})
    assert at_hand.state(first).get(b"a") == b"1"
    assert at_hand.state(second).get(b"a") == b"2"
    at_hand.move(second, second.update({b"b": b"3"}), {b"b": b"3"})  # not from where it was: begins anew
    assert len(at_hand) == 1


def test_it_is_bounded_and_what_was_given_before_stays_true() -> None:
    at_hand, tree = AtHand(most=2), Tree()
    given_before = []
    for number in range(8):
        key = b"key %d" % number
        after = tree.update({key: b"x"})
        at_hand.move(tree, after, {key: b"x"})
        tree = after
        given_before.append(at_hand.state(tree))
        assert len(at_hand) <= 3
        assert at_hand.is_full == (len(at_hand) == 3)
    assert all(given_before[-1].get(b"key %d" % number) == b"x" for number in range(8))
