"""The targets that take messages: state machines fed with what peers, L1 nodes and users may say, in any order.

Responsible for turning bytes into a story (real signed objects, changed ones, and raw bytes), and for the properties:
nothing unforeseen is raised, what was refused changed nothing, and no bound is passed. Must not know how it is run.

A fuzzer alone never makes a valid signature. So the bytes choose from real objects, may change fields of them, and
sign again with the keys of the tests.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

from bridge_harness import KEYS as PEOPLE
from bridge_harness import L1_CHAIN, L2_CHAIN, SETTINGS, World, l2_genesis
from committee_world import OPERATORS, Ledger
from committee_world import Pair as Committee
from committee_world import address as who_is
from committee_world import key as key_of
from l1_script import KEYS, Script
from msgspec.structs import replace

from bridge import abi, committee_abi, hints
from bridge.actions import Place
from chainkit.block import Certificate, CertifiedBlock, Proposal, Vote
from chainkit.chain import executed_transactions
from chainkit.client import _receipt_info
from chainkit.codec import CodecError, Record, decode, encode, parse_json
from chainkit.execution import InvalidTransaction
from chainkit.follower import FollowerCore, FollowError
from chainkit.mempool import Mempool
from chainkit.state import State
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from fuzzing import objects
from fuzzing.decoders import _blocks, _packed
from fuzzing.target import Target
from l1node.actions import VotedRecord
from l1node.engine import Engine
from l1node.messages import TransactionsMessage, VoteMessage, decode_body
from rollup.batch import encode_batch
from rollup.contents import write_contents
from rollup.derivation import Derivation

T = TypeVar("T")
MOST_STEPS = 24
GAS = 20_000_000


class Story:
    """Bytes as choices; when they are used up, every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        found = self._data[self._at] if self else 0
        self._at += 1
        return found

    def pick(self, options: Sequence[T]) -> T:
        return options[self.byte() % len(options)]

    def number(self) -> int:
        """Small ones often, and the borders."""
        kind = self.byte()
        if kind < 200:
            return kind % 32
        return self.pick((0, 2**53 - 1, 2**32, 10**9, self.byte() << 8 | self.byte(), 2**52))

    def raw(self) -> bytes:
        """As many bytes as the next one says."""
        size = self.byte()
        found = self._data[self._at : self._at + size]
        self._at += size
        return found


# --- L1: peers' messages --------------------------------------------------------------------------------------


def _engine(key: int | None) -> Engine:
    chain = objects.script().chain
    return Engine(
        chain,
        None if key is None else KEYS[key],
        final=chain.genesis_block,
        final_certificate=None,
        voted=VotedRecord(),
        select=lambda parent, slot: (),
    )


def _vote(story: Story) -> Vote:
    """A vote of one of six keys (two are no validators) for a block that there is, or not."""
    key, block = story.pick(KEYS[:6]), story.pick(objects.l1_blocks()).header
    what = story.byte() % 8
    if what == 7:
        return Vote.sign(key, 900, story.number(), story.number(), story.pick((bytes(32), block.hash())))
    vote = Vote.sign(key, block.chain_id, block.slot, block.height, block.hash())
    changed: tuple[dict[str, Any], ...] = (
        {},
        {},
        {},
        {"voter": KEYS[0].address},
        {"signature": bytes(64)},
        {"height": story.number()},
        {"chain_id": story.number()},
    )
    return replace(vote, **changed[what])


def _proposal(story: Story) -> Proposal:
    proposal = story.pick(objects.proposals())
    block = proposal.block
    what = story.byte() % 8
    key = story.pick(KEYS[:6])
    if what < 3:
        return proposal
    if what == 3:
        return Proposal.sign(key, block, None)
    if what == 4:
        header = replace(block.header, proposer=key.address, slot=story.number(), height=story.number())
        return Proposal.sign(key, replace(block, header=header), proposal.parent_certificate)
    if what == 5:
        return Proposal.sign(key, replace(block, transactions=[story.raw()]), proposal.parent_certificate)
    if what == 6:
        return Proposal.sign(key, block, _certificate(story))
    return replace(proposal, signature=story.pick((bytes(64), proposal.signature)))


def _certificate(story: Story) -> Certificate:
    certificate = story.pick(objects.certified()).certificate
    votes = list(certificate.votes)
    what = story.byte() % 6
    if what == 1:
        votes = votes[: story.byte() % 4]
    elif what == 2:
        votes.append(votes[0])
    elif what == 3:
        votes[0] = replace(votes[0], voter=story.pick(KEYS).address)
    elif what == 4:
        return replace(certificate, height=story.number(), slot=story.number())
    elif what == 5:
        votes.reverse()
    return replace(certificate, votes=votes)


def _certified(story: Story) -> CertifiedBlock:
    certified = story.pick(objects.certified())
    what = story.byte() % 8
    if what < 4:
        return certified
    if what == 4:
        return replace(certified, certificate=_certificate(story))
    block = certified.block
    if what == 5:
        return replace(certified, block=replace(block, transactions=[*block.transactions, story.raw()]))
    fields: dict[str, Any] = {story.pick(("slot", "height", "time", "base_fee", "gas_used")): story.number()}
    if what == 6:
        fields = {story.pick(("parent", "state_root", "tx_root", "receipts_root", "proposer")): bytes(32)}
    return replace(certified, block=replace(block, header=replace(block.header, **fields)))


def _standing(engine: Engine) -> tuple[Any, ...]:
    return engine.head.hash, engine.final.hash, engine.voted, _pending(engine)


def _pending(engine: Engine) -> frozenset[bytes]:
    return frozenset(block.hash for block in engine.pending_blocks())


def _hear_signed(engine: Engine, message: Proposal | Vote, now: int) -> None:
    """What is refused changes nothing, but that a good certificate which came with a proposal may notarize a block."""
    before, pending = _standing(engine), _pending(engine)
    engine.on_message(message, now)
    if engine.refused is not None:
        assert _pending(engine) <= pending, "what was refused left a block"
        certified = isinstance(message, Proposal) and message.parent_certificate is not None
        assert certified or _standing(engine) == before, "what was refused changed something"


def validator(data: bytes) -> bool:
    """A validator hears votes, proposals, sync answers and raw bodies; time goes on."""
    story = Story(data)
    script: Script = objects.script()
    engine = _engine(story.pick((0, 1, None, 2)))
    slot, final = 1, 0
    engine.on_tick(script.at(slot))
    taken = False
    for _ in range(MOST_STEPS):
        if not story:
            break
        kind, now = story.byte() % 6, script.at(slot, 0.25)
        if kind == 0:
            slot = min(slot + 1 + story.byte() % 4, 200)
            engine.on_tick(script.at(slot))
        elif kind == 1:
            _hear_signed(engine, _proposal(story), now)
        elif kind == 2:
            _hear_signed(engine, _vote(story), now)
        elif kind == 3:
            engine.on_blocks([_certified(story) for _ in range(1 + story.byte() % 4)], now)
        else:
            _hear(engine, story.raw(), now)
        assert engine.final.header.height >= final, "finality went back"
        final = engine.final.header.height
        assert engine.final.hash in _honest(), "a block that nobody voted for is final"
        assert len(engine.pending_blocks()) <= 64
        taken = taken or engine.head.header.height > 0
    return taken


def _hear(engine: Engine, body: bytes, now: int) -> None:
    """What `l1node.p2p_api.take_body` does with a body, transactions aside."""
    try:
        messages = decode_body(body)
    except CodecError:
        return
    for message in messages:
        if not isinstance(message, TransactionsMessage):
            engine.on_message(message.vote if isinstance(message, VoteMessage) else message.proposal, now)


@cache
def _honest() -> frozenset[bytes]:
    blocks = objects.l1_blocks()
    return frozenset((objects.script().genesis.hash, *(block.hash for block in blocks)))


def _stories(*steps: Sequence[int]) -> Callable[[], list[bytes]]:
    return lambda: [bytes(step) for step in steps]


_HONEST = [1]  # key 1; then for each slot its proposal, and votes of four
for _slot in range(6):
    _HONEST += [1, _slot, 0, 0]
    for _key in range(4):
        _HONEST += [2, _key, _slot, 0]


def pool(data: bytes) -> bool:
    """Transactions that peers hand on, against a mempool: what is refused leaves it as it was."""
    story = Story(data)
    chain = objects.script().chain
    mempool = Mempool(chain.rules)
    state = State(chain.genesis_block.tree)
    alice = PEOPLE["alice"]
    taken = False
    for _ in range(MOST_STEPS):
        if not story:
            break
        wire = story.raw() if story.byte() % 3 == 0 else _signed(story, alice.address).wire
        try:
            tx = SignedTransaction.decode(wire)
        except CodecError:
            continue
        before = len(mempool), mempool.next_nonce(tx.body.sender, state.account(tx.body.sender))
        try:
            mempool.add(tx, state.account)
        except InvalidTransaction:
            now = len(mempool), mempool.next_nonce(tx.body.sender, state.account(tx.body.sender))
            assert now == before, "a refused transaction changed the pool"
        else:
            taken = True
            assert mempool.get(tx.id) is not None
    return taken


def _signed(story: Story, recipient: bytes) -> SignedTransaction:
    key = PEOPLE[story.pick(("alice", "bob", "carol", "dave"))]
    fees = story.pick((9, 5, 1, 2**53 - 1)), story.byte() % 3
    gas, nonce = story.pick((30_000, 21_000, 1, GAS)), story.number()
    body = Body(900, key.address, nonce, gas, *fees, Transfer(recipient, story.number()))
    return SignedTransaction.sign(body, key)


# --- the rollup: followers of a lying L1 node ---------------------------------------------------------------------


def follower(data: bytes) -> bool:
    """Certified blocks as a lying L1 node serves them: in any order, changed, or raw."""
    story = Story(data)
    core = FollowerCore(objects.script().chain, objects.script().genesis)
    height = 0
    for _ in range(MOST_STEPS):
        if not story:
            break
        try:
            if story.byte() % 4 == 0:
                blocks = decode(list[CertifiedBlock], story.raw())
            else:
                blocks = [_certified(story) for _ in range(1 + story.byte() % 4)]
            for block, _ in core.add(blocks):
                height += 1
                assert block.header.height == height, "final blocks come in order, each once"
        except (FollowError, CodecError):
            pass
        assert core.tip.header.height == height
        assert core.tip.hash in _honest(), "followed what was never certified"
    return height > 0


def node_answer(data: bytes) -> bool:
    """What an L1 node says of a transaction: the bridge believes its signature only."""
    place = Place("L1", objects.world().chain.genesis, objects.world().chain.rules)
    try:
        info = _receipt_info(parse_json(data))
    except (CodecError, KeyError, TypeError):
        return False
    told = hints.read_told(place, info, "bridge", "deposit")
    return told is not None


def _answers() -> list[bytes]:
    deposit = objects.transactions()[1]
    receipt = {"success": False, "code": "x", "message": "", "gas_used": 1, "fee": 2, "events": []}
    shown = {
        "hash": "0x" + deposit.id.hex(),
        "status": "finalized",
        "height": 3,
        "transaction": deposit.to_json(),
    }
    return [json.dumps({**shown, "receipt": each}).encode() for each in (None, receipt)]


def verifier(data: bytes) -> bool:
    """Batches that a liar posts: the contract and whoever derives from L1 judge alike, and neither fails."""
    story = Story(data)
    world = _rollup().fork()
    derivation = Derivation(l2_genesis(), "bridge", None, world.l2)
    derivation.refresh(world.chain.genesis_tree)
    accepted = False
    for _ in range(4):
        if not story:
            break
        batch = _posted(story, world)
        nonce = world.state.account(PEOPLE["sequencer"].address).nonce
        call = Call("bridge", "submit_batch", encode(batch), SETTINGS.proposer_bond)
        tx = SignedTransaction.sign(
            Body(L1_CHAIN, PEOPLE["sequencer"].address, nonce, GAS, 16, 0, call), PEOPLE["sequencer"]
        )
        block, skipped = world.chain.build(world.tip, world.tip.header.slot + 1, bytes(32), [tx])
        assert not skipped
        world.tip = block
        derivation.apply_l1_block(block.header, executed_transactions(block), block.tree)
        accepted = accepted or block.receipts[0].success
        totals = world.totals
        assert derivation.head == totals.head_batch
        assert max(derivation.batches) == totals.next_batch - 1
        for index, derived in derivation.batches.items():
            assert derived.record.state_root == world.batch(index).state_root
    return accepted


@cache
def _rollup() -> World:
    return World()


def _posted(story: Story, world: World) -> abi.SubmitBatchArgs:
    blocks = _blocks()
    blocks = [replace(b, inbox_count=0, time=world.tip.header.time) for b in blocks[: 1 + story.byte() % 2]]
    what = story.byte() % 6
    if what == 0:
        data = story.pick((b"", b"\x00", b"\x01")) + story.raw()
    elif what == 1:
        made = bytearray(_packed())
        for _ in range(1 + story.byte() % 3):
            made[(story.byte() << 8 | story.byte()) % len(made)] = story.byte()
        data = bytes(made)
    elif what == 2:
        blocks[0] = replace(blocks[0], inbox_count=story.number(), time=story.number())
        data = encode_batch(blocks)
    elif what == 3:
        blocks[0] = replace(blocks[0], transactions=[story.raw(), _signed(story, bytes(32)).wire])
        data = encode_batch(blocks)
    else:
        data = write_contents(blocks, L2_CHAIN, world.directory)
    parent = world.totals.head_batch if story.byte() % 8 else story.number()
    inbox = 0 if story.byte() % 8 else story.number()
    return abi.SubmitBatchArgs(parent, inbox, data, story.pick((bytes(32), world.l2.genesis_tree.root)))


# --- the bridge and the committee: calls --------------------------------------------------------------------------


def bridge_calls(data: bytes) -> bool:
    """Calls of the bridge with real, changed and raw arguments; the promises about money are checked after each."""
    story = Story(data)
    world = objects.world().fork()
    done = False
    calls = [call for call in objects.contract_args() if call[0] != "submit_batch"]
    for _ in range(3):
        if not story:
            break
        who = story.pick(("alice", "bob", "verifier", "sequencer", "dave"))
        method, record = story.pick(calls)
        args = _changed(story, record)
        value = story.pick((0, SETTINGS.challenger_bond, 5_000, story.number()))
        if value > world.balance(who) // 2:
            value = 0
        nonce = world.state.account(PEOPLE[who].address).nonce
        call = Call("bridge", method, args, value)
        tx = SignedTransaction.sign(Body(L1_CHAIN, PEOPLE[who].address, nonce, GAS, 16, 0, call), PEOPLE[who])
        before = world.bridge_state()
        (receipt,) = world.mine(tx)
        assert receipt.success or world.bridge_state() == before, "a refused call changed the bridge"
        if receipt.success and method in ("prove", "timeout"):
            break  # batches may be void now: the harness has no ends for what is posted again
        done = done or receipt.success
    return done


def _changed(story: Story, record: Record) -> bytes:
    """The arguments as they are, with one field changed, cut short, or raw."""
    what = story.byte() % 8
    data = encode(record)
    if what == 0:
        return story.raw()
    if what in (1, 2):
        made = bytearray(data)
        made[(story.byte() << 8 | story.byte()) % len(made)] = story.byte()
        return bytes(made)
    if what == 3:
        return data[: story.byte()]
    names = [n for n in record.__struct_fields__ if type(getattr(record, n)) is int]
    if what == 4 and names:
        return encode(replace(record, **{story.pick(names): story.number()}))
    return data


def committee(data: bytes) -> bool:
    """What operators attest, of what there is and is not: the books hold, and what is refused changes nothing."""
    story = Story(data)
    pair = _committee()
    saved = pair.l1.tip, pair.side.tip
    done = False
    try:
        for _ in range(8):
            if not story:
                break
            ledger, method = (pair.l1, "release") if story.byte() % 2 else (pair.side, "credit")
            who = story.pick((*OPERATORS, "alice"))
            if not ledger.state.has_account(who_is(who)):
                who = OPERATORS[0]
            to = who_is(story.pick(("alice", "bob")))
            amount = story.pick((5_000_000, 7_000_000, story.number()))
            args = _changed(story, committee_abi.AttestArgs(story.byte() % 3, to, amount))
            before = ledger.storage(), ledger.held
            receipt = _call(ledger, who, method, args)
            assert receipt.success or (ledger.storage(), ledger.held) == before
            pair.check()
            done = done or receipt.success
    finally:
        pair.l1.tip, pair.side.tip = saved
    return done


def _call(ledger: Ledger, who: str, method: str, args: bytes) -> Any:
    nonce = ledger.state.account(who_is(who)).nonce
    call = Call(ledger.contract, method, args, 0)
    body = Body(ledger.chain.rules.chain_id, who_is(who), nonce, 400_000, 50, 0, call)
    return ledger.mine(SignedTransaction.sign(body, key_of(who)))[0]


@cache
def _committee() -> Committee:
    """Two deposits and a withdrawal wait to be attested."""
    pair = Committee()
    pair.deposit("alice", "alice", 5_000_000)
    pair.deposit("alice", "bob", 7_000_000)
    pair.deposit("bob", "bob", 9 * 10**9)
    pair.credit(2, "bob", 9 * 10**9)
    pair.withdraw("bob", "bob", 5_000_000)
    return pair


_CHANGED = [2, 3, 0, 1, 0, 3, 0, 0, 3, 5, 0, 4, 1]
_SENT = [1, 0, 20, 1, 0, 0, 9, 1, 0, 20, 1, 1, 0, 9]
_SERVED = [1, 3, 0, 0, 1, 0, 2, 0, 3, 0, 1, 1, 4, 0, 5, 0]
_LIED = [1, 5, 1, 1, 1, 0, 3, 4, 1, 2, 3, 4, 0, 1, 1, 1, 1]
_ATTESTED = [0, 0, 0, 0, 0, 7, 0, 1, 0, 0, 0, 7, 0, 2, 0, 0, 0, 7]

HANDLERS = (
    Target(
        "validator",
        "votes, proposals, sync answers and bodies to a validator",
        validator,
        _stories(_HONEST, _CHANGED),
        handler=True,
    ),
    Target("peer-transactions", "transactions that peers hand on", pool, _stories(_SENT), handler=True),
    Target("follower", "blocks from a lying L1 node", follower, _stories(_SERVED), handler=True),
    Target("node-answer", "what a lying node says of a transaction", node_answer, _answers, handler=True),
    Target(
        "verifier",
        "batches of a lying sequencer, derived",
        verifier,
        _stories([0, 4, 1, 1, 1], _LIED),
        handler=True,
    ),
    Target(
        "bridge-calls",
        "calls of the bridge contract",
        bridge_calls,
        lambda: [bytes([who, n, 7, 0]) for who in range(3) for n in range(12)],
        handler=True,
    ),
    Target(
        "committee",
        "attestations of operators",
        committee,
        _stories(_ATTESTED, [1, 0, 1, 0, 0, 7]),
        handler=True,
    ),
)
