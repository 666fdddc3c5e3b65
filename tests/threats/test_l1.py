"""The L1 as history broke others: orphans, floods, torn logs, dodged slashes, old keys, roots."""

import itertools
import random
import shutil
from pathlib import Path

import pytest
from bridge_world import SETTINGS as BRIDGE_SETTINGS
from bridge_world import l1_genesis as l1_with_bridge
from hypothesis import given, settings
from hypothesis import strategies as st
from l1_script import KEYS, Script
from ledger import (
    ALICE,
    BOB,
    CAROL,
    CHAIN_ID,
    COIN,
    STRANGER,
    VALIDATORS,
    account,
    make_genesis,
    sign,
    transfer,
)
from msgspec.structs import replace

from bridge import abi
from chainkit.block import Block, Vote
from chainkit.chain import Chain, ExecutedBlock, InvalidBlock, executed_transactions
from chainkit.codec import CodecError, encode
from chainkit.contract import NoArgs
from chainkit.events import EventLog
from chainkit.execution import InvalidTransaction
from chainkit.follower import FollowerCore, FollowError
from chainkit.keys import dev_keypair
from chainkit.mempool import Mempool
from chainkit.merkle import Tree
from chainkit.merkle_list import list_root
from chainkit.state import State
from chainkit.store import Store
from chainkit.transaction import Body, Call, SignedTransaction
from l1node.actions import VotedRecord
from l1node.disk import Disk
from l1node.evidence import VoteEvidence
from l1node.staking import ReportArgs, StakingParams, UnstakeArgs
from rollup.derivation import Derivation

STAKING = [("staking", "l1node.staking:Staking", StakingParams())]


# --- DoubleUp Roll ----------------------------------------------------------------------------------------------


def deposit(chain: Chain, parent: ExecutedBlock, who: str, amount: int) -> SignedTransaction:
    key = dev_keypair(who)
    nonce = State(parent.tree).account(key.address).nonce
    call = Call("bridge", "deposit", encode(abi.DepositArgs(dev_keypair("mallory").address)), amount)
    return SignedTransaction.sign(Body(chain.rules.chain_id, key.address, nonce, 400_000, 20, 1, call), key)


@pytest.mark.parametrize("depth", range(1, 8))
def test_doubleup_unfinalized_rollback(depth: int) -> None:
    """DoubleUp Roll 2024: a deposit that only an orphan holds, at every depth of fork, is credited by nobody."""
    script = Script(Chain(l1_with_bridge()))
    core = FollowerCore(script.chain, script.genesis)
    params = script.chain.rules.contracts["bridge"].params
    assert isinstance(params, abi.BridgeParams)
    derivation = Derivation(params.l2_genesis)

    def follow(blocks: list[ExecutedBlock]) -> None:
        for final, _ in core.add(script.certified(*blocks)):
            derivation.apply_l1_block(final.header, executed_transactions(final), final.tree)

    first = script.chain_of([1, 2, 3])
    follow(first)
    orphans, parent = [], first[-1]
    for i in range(depth):  # notarized, in pairs of slots, never three in a row
        parent = script.block(parent, 5 + i + i // 2, [deposit(script.chain, parent, "alice", 10**6 + i)])
        orphans.append(parent)
    follow(orphans)
    assert derivation.inbox == []
    winner = script.block(
        first[-1], 30, [deposit(script.chain, first[-1], "bob", 7 * BRIDGE_SETTINGS.min_deposit)]
    )
    line = [winner, *script.chain_of([31, 32, 33], winner)]
    for block in line:
        follow([block])
    for late in (orphans[-1], script.block(orphans[-1], 40)):
        try:
            follow([late])
        except FollowError:
            continue
    credited = [message.step.amount for message in derivation.inbox]  # type: ignore[union-attr]
    assert credited == [7 * BRIDGE_SETTINGS.min_deposit]
    assert {message.l1_height for message in derivation.inbox} == {winner.header.height}
    escrow = derivation.totals
    assert escrow is not None
    assert escrow.deposited == sum(credited)


# --- floods -----------------------------------------------------------------------------------------------------


def test_stale_vote_flood(script: Script, verifications: list[bytes]) -> None:
    """Beacon chain 2023, Prysm 2025: old slots, unknown parents and copies cost no signature; finality goes on."""
    engine = script.engine(None)
    blocks = script.chain_of(range(40, 46))
    stale = [Vote.sign(KEYS[i % 4], 900, slot, slot, bytes([i]) * 32) for i, slot in enumerate(range(1, 30))]
    unknown = Vote.sign(KEYS[0], 900, 39, 38, b"\x55" * 32)
    strangers = [Vote.sign(STRANGER, 900, 40, 1, bytes(32)), Vote.sign(KEYS[0], 901, 40, 1, bytes(32))]
    engine.on_tick(script.at(40))
    spent = 0
    for block in blocks:
        now = script.at(block.header.slot)
        verifications.clear()
        for message in (*stale, *strangers) * 20:
            assert not [a for a in engine.on_message(message, now) if type(a).__name__ == "Broadcast"]
        spent += len(verifications)
        for _ in range(20):
            engine.on_message(unknown, now)
        engine.on_message(script.propose(block), now)
        for key in KEYS[:3]:
            engine.on_message(script.vote(key, block), now)
        script.certify(block)
    assert spent <= len(stale), "a flood costs the sender's messages, not our signature checks"
    assert engine.final.header.height == 5


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The key of each signature check of a consensus message from here on."""
    from chainkit import block as module
    from chainkit.keys import verify

    seen: list[bytes] = []

    def counted(key: bytes, message: bytes, signature: bytes) -> bool:
        seen.append(key)
        return verify(key, message, signature)

    monkeypatch.setattr(module, "verify", counted)
    return seen


def test_stale_vote_flood_of_gapped_nonces_and_large_bodies() -> None:
    """A flood of transactions that can never run, and of the largest ones: one at the fee floor still gets in."""
    chain = Chain(make_genesis())
    pool = Mempool(chain.rules, max_transactions=64, max_bytes=2**20)
    state = State(chain.genesis_tree)
    refused = 0
    for n in range(2_000):
        key = (ALICE, CAROL)[n % 2]
        tx = transfer(key, 2 + n * 31 % 900, BOB.address, 1, max_fee=200, tip=1)
        try:
            pool.add(tx, state.account)
        except InvalidTransaction:
            refused += 1
    assert refused > 1_900
    honest = transfer(BOB, 0, ALICE.address, 1, max_fee=chain.rules.fees.initial_base_fee, tip=0)
    pool.add(honest, state.account)
    block, skipped = chain.build(
        chain.genesis_block, 1, STRANGER.address, pool.select(state.account, 4, 10**8, 2**20)
    )
    assert [tx.id for tx in block.transactions] == [honest.id]
    assert not skipped
    with pytest.raises(CodecError):
        SignedTransaction.decode(bytes(512 * 1024 + 1))


# --- truncated logs ---------------------------------------------------------------------------------------------


def test_truncated_log(tmp_path: Path) -> None:
    """Tendermint (Jepsen 2017): power lost in every write, the last record torn anywhere: no vote on disk is lost."""
    chain = Chain(make_genesis())
    live = tmp_path / "live"
    store = Store(live, genesis_hash=chain.genesis_hash, role="l1node")
    disk = Disk(store, chain, ALICE.address, EventLog(store))
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,), "every commit waits for the disk"
    log = live / "node.db-wal"
    cuts: list[tuple[int, int, bytes]] = []
    for vote in range(1, 9):
        before = log.stat().st_size
        disk.set_voted(VotedRecord(vote, vote, vote))
        content = log.read_bytes()
        after = log.stat().st_size
        assert after > before, "what a vote promises is in the log before it leaves"
        sizes = {before, before + 1, before + 24, (before + after) // 2, after - 1, after}
        cuts += [(vote, size, content) for size in sorted(sizes)]
    main = (live / "node.db").read_bytes()
    store.close()
    for number, (vote, size, content) in enumerate(cuts):
        for tail in (b"", b"\x00" * 100, content[size:][::-1]):
            torn = tmp_path / f"torn-{number}"
            torn.mkdir()
            (torn / "node.db").write_bytes(main)
            (torn / "node.db-wal").write_bytes(content[:size] + tail)
            again = Store(torn, genesis_hash=chain.genesis_hash, role="l1node")
            record = Disk(again, chain, ALICE.address, EventLog(again)).voted()
            promised = vote if size == len(content) else vote - 1
            assert record in (
                VotedRecord(promised, promised, promised) if promised else VotedRecord(),
                VotedRecord(vote, vote, vote),
            )
            again.close()
            shutil.rmtree(torn)


# --- unbonding, old keys ----------------------------------------------------------------------------------------


def staked() -> Chain:
    return Chain(make_genesis(stakes=[(key, 100 * COIN) for key in VALIDATORS], contracts=STAKING))


def after(chain: Chain, tip: ExecutedBlock, slot: int, *txs: SignedTransaction) -> ExecutedBlock:
    block, skipped = chain.build(tip, slot, STRANGER.address, txs)
    assert not skipped
    return block


@pytest.mark.parametrize("delay", range(7))
def test_unbond_dodge(delay: int) -> None:
    """Cosmos 2019: unstake in the block after the offence; for the whole delay the stake still pays for it."""
    chain, culprit = staked(), VALIDATORS[0]
    era = chain.genesis.era_slots
    offence = era + 1
    votes = [Vote.sign(culprit, CHAIN_ID, offence, 5, bytes([i]) * 32) for i in (1, 2)]
    leave = sign(culprit, 0, Call("staking", "unstake", encode(UnstakeArgs(100 * COIN)), 0))
    tip = after(chain, chain.genesis_block, offence + 1, leave)
    assert tip.receipts[0].success
    for later in range(2, 2 + delay):
        nonce = account(tip, culprit.address).nonce
        tip = after(
            chain, tip, later * era, sign(culprit, nonce, Call("staking", "withdraw", encode(NoArgs()), 0))
        )
        assert not tip.receipts[0].success or later > 1 + StakingParams().unbonding_eras
    before = account(tip, ALICE.address).balance
    report = sign(ALICE, 0, Call("staking", "report", encode(ReportArgs(VoteEvidence(*votes))), 0))
    tip = after(chain, tip, (2 + delay) * era - 1, report)
    receipt = tip.receipts[0]
    in_time = 1 + delay <= 1 + StakingParams().unbonding_eras
    assert receipt.success == in_time, receipt.message
    if in_time:
        assert account(tip, ALICE.address).balance > before
        assert "ValidatorSlashed" in [event.name for event in receipt.events]
    else:
        assert receipt.code == "evidence_too_old"


def test_long_range() -> None:
    """Keys of exited validators sign a longer history: who has a recent checkpoint takes nothing of it above."""
    script = Script()
    real, forged = script.chain_of(range(1, 12)), script.chain_of(range(2, 80))
    for height in range(1, 10):
        checkpoint = (height, real[height - 1].hash)
        core = FollowerCore(script.chain, script.genesis, checkpoint=checkpoint)
        assert core.add(script.certified(*real))[-1][0].header.height == 10
        fooled = FollowerCore(script.chain, script.genesis, checkpoint=checkpoint)
        handed: list[int] = []
        refusal = ""
        for certified in script.certified(*forged):
            try:
                handed += [block.header.height for block, _ in fooled.add([certified])]
            except FollowError as error:
                refusal = str(error)
                break
        assert refusal
        assert max(handed, default=0) < height
    naive = FollowerCore(script.chain, script.genesis)  # control: without one it would be believed
    assert len(naive.add(script.certified(*forged))) > 10


# --- roots ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_app_hash(names: list[int], rng: random.Random) -> None:
    """The root depends on content only: any order, any batches, any restart point, and what was undone in between."""
    content = {b"key/%d" % n: b"value/%d" % (n * n) for n in names}
    root = Tree().update(content).root
    items = list(content.items())
    orders = [items, items[::-1], rng.sample(items, len(items))]
    for order in orders:
        cut = rng.randrange(len(order) + 1)
        assert Tree().update(dict(order[:cut])).update(dict(order[cut:])).root == root
        state = State(Tree())
        for i, (key, value) in enumerate(order):
            mark = state.checkpoint()
            state.set(key, b"else")
            state.set(b"never", b"there")
            state.revert(mark)
            state.get(b"asked for %d" % i)
            state.set(key, value)
            if i == cut:
                state = State(Tree().update(dict(state.commit().items())))  # a restart from what is stored
        assert state.root() == root
    for key in content:
        assert Tree().update({k: v for k, v in content.items() if k != key}).root != root
        assert Tree().update({**content, key: b"other"}).root != root


def test_app_hash_of_every_insertion_order() -> None:
    content = [(b"%d" % n, b"%d" % -n) for n in range(6)]
    roots = set()
    for order in itertools.permutations(content):
        tree = Tree()
        for key, value in order:
            tree = tree.update({key: value})
        roots.add(tree.root)
    assert len(roots) == 1


def test_cve_2012_2459_duplicated_tail(script: Script) -> None:
    """[a, b, c] and [a, b, c, c] are two lists with two roots; and a mutated block does not bury the real one."""
    for count in range(1, 20):
        leaves = [b"%d" % n for n in range(count)]
        lists = [leaves + leaves[-n:] for n in range(1, count + 1)] + [leaves + [leaves[-1]] * 3]
        roots = {list_root(one) for one in lists}
        assert len(roots) == len({tuple(one) for one in lists})
        assert list_root(leaves) not in roots
    slot = script.slot_of(KEYS[0])
    block = script.block(script.genesis, slot, [script.transfer(1)])
    wires = block.block.transactions
    engine = script.engine(None)
    for mutated in (wires * 2, wires * 3, [], [*wires, b""], [b"", *wires]):
        proposal = replace(script.propose(block), block=Block(block.header, mutated))
        engine.on_message(proposal, script.at(slot))
        with pytest.raises(InvalidBlock):
            script.chain.execute(script.genesis, Block(block.header, mutated))
    engine.on_message(script.propose(block), script.at(slot))
    line = [block, *script.chain_of([slot + 1, slot + 2], block)]
    for child in line:
        now = script.at(child.header.slot)
        engine.on_message(script.propose(child), now)
        for key in KEYS[:3]:
            engine.on_message(script.vote(key, child), now)
        script.certify(child)
    assert engine.final.header.height == 2
    assert script.chain.execute(script.genesis, block.block).hash == block.hash
