"""The targets that decode: every place where bytes from outside become a value.

Responsible for naming each decoder, the errors that it promises, and valid inputs. Must not know how it is run.
"""

import atexit
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from bridge_harness import L2_CHAIN, l1_genesis, l2_genesis, l2_transfer
from l1_script import KEYS

from bridge import abi, actions, committee_abi
from bridge.settings import SettingsError, check_settings
from chainkit import merkle, merkle_list, states, verify_worker
from chainkit.block import Block, Certificate, CertifiedBlock, Header, Proposal, SignedHeader, Vote
from chainkit.chain import Chain
from chainkit.clock import ClockError, parse_schedule
from chainkit.codec import CodecError, decode, encode, from_json, parse_hex, parse_json, to_json
from chainkit.execution import Receipt
from chainkit.genesis import (
    Genesis,
    GenesisError,
    check_genesis,
    genesis_from_bytes,
    genesis_from_json,
    genesis_to_json,
)
from chainkit.keys import dev_keypair
from chainkit.keystore import KeyFileError, load_key, save_key
from chainkit.known import FILE_NAME as KNOWN
from chainkit.known import _note, open_chain
from chainkit.merkle import ProofError
from chainkit.problems import Problem
from chainkit.startup import StartupError
from chainkit.state import WitnessState
from chainkit.submission import read_batch, read_json
from chainkit.transaction import Body, Call, SignedTransaction
from fuzzing import objects
from fuzzing.target import Target, canonical, one_of, refusing, seeds_of
from l1node.checkpoint import parse_checkpoint
from l1node.disk import Case, Slashing, _Voted
from l1node.evidence import EvidenceError, ProposalEvidence, VoteEvidence, check_evidence
from l1node.messages import decode_body, encode_message, encode_transactions, join
from l1node.staking import ReportArgs, UnstakeArgs
from layerlab.archive import MANIFEST, read_manifest
from layerlab.config import DevnetConfig, DevnetError, demo_config
from rollup.batch import BatchBlock, BatchError, Bounds, decode_batch, encode_batch, inflate
from rollup.contents import forget_contents, read_contents
from rollup.directory import Directory, Frontier
from rollup.faults import fault_from_json
from rollup.messenger import WithdrawArgs
from rollup.packing import (
    SIGNATURE_BYTES,
    PackedCall,
    PackedTransfer,
    Unpacked,
    _Columns,
    pack,
    unpack_batch,
)
from rollup.receipt import BlockPromise, BlockReceipts, SequencerReceipt
from rollup.stf import Step, decode_step, prove_step

PASSPHRASE = "fuzz"  # nobody's
CALLS = [
    *(getattr(abi, name) for name in dir(abi) if name.endswith("Args")),
    committee_abi.AttestArgs,
    committee_abi.WithdrawArgs,
    WithdrawArgs,
    UnstakeArgs,
    ReportArgs,
]
MOVES = [abi.BisectArgs, abi.ChooseArgs, abi.ProveArgs]
STORED = [
    abi.BridgeSettings,
    abi.InboxEntry,
    abi.Batch,
    abi.Dispute,
    abi.BridgeTotals,
    abi.ScheduledUpgrade,
    abi.Withdrawal,
    committee_abi.EscrowTotals,
    committee_abi.GatewayTotals,
    committee_abi.Deposit,
    committee_abi.Voice,
    committee_abi.Payout,
    committee_abi.CommitteeParams,
    Frontier,
]
DISK = [
    Block,
    Certificate,
    CertifiedBlock,
    Receipt,
    _Voted,
    Case,
    Slashing,
    BlockPromise,
    Header,
    list[bytes],
]


@cache
def _chain() -> Chain:
    return Chain(l1_genesis())


@cache
def _l2() -> Chain:
    return Chain(l2_genesis())


@cache
def _place() -> Path:
    """A directory that goes with the process that made it, not with one that was forked off."""
    made, owner = Path(tempfile.mkdtemp(prefix="layerlab-fuzz-")), os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(made, ignore_errors=True))
    return made


def _file(name: str, data: bytes) -> Path:
    directory = _place() / str(os.getpid())
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


# --- transactions and submissions ---


def transaction(data: bytes) -> bool:
    try:
        tx = SignedTransaction.decode(data)
    except CodecError:
        return False
    assert tx.wire == data
    again = b"\x98" + encode(tx.body)[1:] + encode(tx.signature)
    assert again == data
    # A JSON face exists for all but what JSON cannot say, and it is read back to the same.
    face = {key: value for key, value in tx.to_json().items() if key != "hash"}
    assert SignedTransaction.from_json(face) == tx
    tx.signature_valid()
    return True


def _dev_bodies() -> list[bytes]:
    deposit = {
        "type": "call",
        "contract": "bridge",
        "method": "deposit",
        "args": {"to": "bob"},
        "value": 5000,
    }
    signed = [tx.to_json() for tx in objects.transactions()]
    dev = [
        {"from": "alice", "action": {"type": "transfer", "to": "bob", "amount": 5}, "nonce": 3},
        {"from": "alice", "action": deposit, "tip_per_gas": None},
    ]
    return [json.dumps(value).encode() for value in (*signed, *dev)]


def submission(data: bytes) -> bool:
    genesis, rules = _chain().genesis, _chain().rules
    try:
        found = read_json(genesis, rules, data)
    except Problem as problem:
        return _shown(problem)
    if isinstance(found, SignedTransaction):
        assert SignedTransaction.decode(found.wire) == found
    return True


def bridge_write(data: bytes) -> bool:
    place = actions.Place("L1", _chain().genesis, _chain().rules)
    try:
        actions.read_write(place, data, "bridge", "deposit", ("to", "amount"), actions.deposit_call)
    except Problem as problem:
        return _shown(problem)
    return True


def _shown(problem: Problem) -> bool:
    """A refusal can be shown, and blames the request. Always False."""
    assert 400 <= problem.status < 500
    assert json.loads(problem.body())["code"] == problem.code
    return False


def _writes() -> list[bytes]:
    signed = json.dumps(objects.transactions()[1].to_json()).encode()
    return [
        signed,
        *_json({"from": "alice", "to": "bob", "amount": 7}, {"from": "carol", "amount": 9, "nonce": 3})(),
    ]


# --- batches ---


def _blocks() -> list[BatchBlock]:
    wires = [l2_transfer("bob", 0, "carol", 5), l2_transfer("carol", 1, "bob", 6)]
    call = Body(
        L2_CHAIN, dev_keypair("alice").address, 0, 99_999, 9, 1, Call("messenger", "withdraw", b"\x91\xc0", 4)
    )
    wires.append(SignedTransaction.sign(call, dev_keypair("alice")).wire)
    return [BatchBlock(1_700_000_000_000, 2, wires), BatchBlock(1_700_000_001_000, 0, [])]


@cache
def _packed() -> bytes:
    data = pack([(b.time, b.inbox_count, b.transactions) for b in _blocks()], L2_CHAIN, 0, {})
    assert data is not None
    return data


def batch(data: bytes) -> bool:
    """Whatever the format; the number of addresses in the directory is the first byte."""
    if not data:
        return False
    known = data[0]
    try:
        contents = read_contents(data[1:], known)
    except BatchError:
        return False
    finally:
        forget_contents()
    directory = Directory()
    directory.append([bytes(32)] * known + list(contents.addresses))
    wires = contents.wires(directory, L2_CHAIN)
    assert (
        sum(len(block.transactions) for block in wires) == len(contents.transactions) == len(contents.leaves)
    )
    if not isinstance(contents.transactions, Unpacked):
        assert decode_batch(encode_batch(wires)) == wires
    assert contents.steps >= len(wires)
    paid = read_contents(data[1:], known, Bounds(hashes=contents.cost))  # what it costs is what it takes
    forget_contents()
    assert (paid.blocks, paid.addresses) == (contents.blocks, contents.addresses)
    return True


def plain_blocks(data: bytes) -> bool:
    """What is inside a plain batch, so that the fuzzer need not find out how to compress."""
    return batch(b"\x00\x00" + zlib.compress(data, 1))


def packed_columns(data: bytes) -> bool:
    """What is inside a packed batch; signatures are added as many as its columns speak of."""
    try:
        columns = decode(_Columns, data)
    except CodecError:
        count = 0
    else:
        assert encode(columns) == data
        count = len(columns.kinds)
    return batch(b"\x00\x01" + zlib.compress(data, 1) + bytes(SIGNATURE_BYTES * min(count, 64)))


def inflation(data: bytes) -> bool:
    """Decompression alone: bounded, whole, nothing behind it."""
    try:
        plain, _ = inflate(data)
    except BatchError:
        return False
    assert len(plain) <= 4 * 1024 * 1024
    return True


# --- proofs ---


def proof(data: bytes) -> bool:
    """A state proof: 32 bytes of root, a byte's length of key, the key, the proof."""
    if len(data) < 33:
        return False
    root, size = data[:32], data[32]
    key, shown = data[33 : 33 + size], data[33 + size :]
    try:
        merkle.verify_proof(root, key, shown)
    except ProofError:
        found = False
    else:
        found = True
    try:
        WitnessState(shown, root).root()
    except ProofError:
        return found
    return True


def _proofs() -> list[bytes]:
    tree = objects.world().ends[1]
    keys = [b"a" + dev_keypair(name).address for name in ("alice", "bob", "nobody")]
    return [tree.root + bytes([len(key)]) + key + tree.prove([key]) for key in keys]


def witness(data: bytes) -> bool:
    """A step's witness, as a dispute's last move has it: 32 bytes of root, two of the step's length, step, witness."""
    if len(data) < 34:
        return False
    size = int.from_bytes(data[32:34], "big")
    try:
        step = decode_step(data[34 : 34 + size])
        root = prove_step(_l2().rules, data[:32], step, data[34 + size :])
    except (CodecError, ProofError):
        return False
    assert len(root) == 32
    return True


def _witnesses() -> list[bytes]:
    posted = objects.world().posted[3]
    seeds = []
    for at, step in enumerate(posted.steps):
        wire = encode(step)
        args = objects.prove_args(0, at, posted.true)
        seeds.append(posted.true.root(at) + len(wire).to_bytes(2, "big") + wire + args.witness)
    return seeds


def list_proof(data: bytes) -> bool:
    """Index, count and path (32 bytes each) of an element of a list."""
    if len(data) < 36:
        return False
    index, count = data[0] | data[1] << 8, data[2] | data[3] << 8
    path = [data[at : at + 32] for at in range(36, len(data), 32)]
    try:
        root = merkle_list.proven_root(index, count, data[4:36], path)
    except ProofError:
        return False
    merkle_list.verify_list_proof(root, index, count, data[4:36], path)
    return True


def _list_proofs() -> list[bytes]:
    leaves = [bytes([i]) * 32 for i in range(5)]
    return [bytes([i, 0, 5, 0]) + leaves[i] + b"".join(merkle_list.list_proof(leaves, i)) for i in (0, 3, 4)]


def promise(data: bytes) -> bool:
    """A sequencer's receipt: read, and its path and signature checked."""
    try:
        receipt = decode(SequencerReceipt, data)
    except CodecError:
        return False
    assert encode(receipt) == data
    return receipt.valid() in (True, False)


def _promises() -> list[bytes]:
    ids = [tx.id for tx in objects.transactions()]
    made = BlockPromise.sign(dev_keypair("sequencer"), L2_CHAIN, 7, ids)
    found = BlockReceipts(made, ids)
    return [encode(found.receipt(i)) for i in range(3)]


def evidence(data: bytes) -> bool:
    try:
        case: Any = decode(VoteEvidence | ProposalEvidence, data)  # type: ignore[arg-type]
    except CodecError:
        return False
    assert encode(case) == data
    try:
        check_evidence(case, 900)
    except EvidenceError:
        return False
    return True


def _evidence() -> list[bytes]:
    one, other = objects.votes()[0], Vote.sign(KEYS[0], 900, 1, 1, bytes(32))
    made, block = objects.script(), objects.l1_blocks()[0]
    twin = made.propose(made.block(made.genesis, 1, [made.transfer(9)]))
    headers = sorted(
        (made.propose(block).signed_header(), twin.signed_header()), key=lambda each: each.block_hash
    )
    votes = sorted((one, other), key=lambda each: each.block_hash)
    return [encode(VoteEvidence(*votes)), encode(ProposalEvidence(*headers))]


# --- files ---


def genesis_bytes(data: bytes) -> bool:
    try:
        genesis = genesis_from_bytes(data)
    except GenesisError:
        return False
    assert encode(genesis) == data
    return True


def genesis_json(data: bytes) -> bool:
    try:
        genesis = genesis_from_json(data)
        check_genesis(genesis)
    except GenesisError:
        return False
    assert genesis_from_json(json.dumps(genesis_to_json(genesis))) == genesis
    return True


def _small() -> Genesis:
    return msgspec.structs.replace(l2_genesis(), accounts=l2_genesis().accounts[:2])


def configuration(data: bytes) -> bool:
    try:
        config = DevnetConfig.from_json(parse_json(data))
    except (DevnetError, CodecError):
        return False
    assert DevnetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    return True


def bridge_settings(data: bytes) -> bool:
    try:
        settings = from_json(abi.BridgeSettings, parse_json(data))
        check_settings(settings)
    except (CodecError, SettingsError):
        return False
    assert from_json(abi.BridgeSettings, to_json(settings)) == settings
    return True


def key_file(data: bytes) -> bool:
    try:
        load_key(_file("key", data), PASSPHRASE)
    except KeyFileError as error:
        lines = str(error).count("\n")
    else:
        return True
    assert lines == 0, "one line says what is wrong"
    return False


@cache
def _key_files() -> list[bytes]:
    path = _place() / "seed.key"
    if not path.exists():
        save_key(path, dev_keypair("alice"), PASSPHRASE)
    return [path.read_bytes()]


def manifest(data: bytes) -> bool:
    path = _file(MANIFEST, data)
    try:
        read_manifest(path.parent)
    except DevnetError:
        return False
    return True


def known_note(data: bytes) -> bool:
    """A damaged note is as good as none: the chain is the true one in any case."""
    path = _file(KNOWN, data)
    found = open_chain(_small(), path.parent)
    assert found.genesis_header.state_root == _known_root()
    return data == _note(found.genesis_hash, found.genesis_header.state_root)


@cache
def _known_root() -> bytes:
    return Chain(_small()).genesis_header.state_root


def state_rows(data: bytes) -> bool:
    """A row of the state on disk: keys and values."""
    try:
        items = states._items(data)
    except CodecError:
        return False
    assert encode(items) == data
    return True


# --- words ---


def json_value(data: bytes) -> bool:
    try:
        value = parse_json(data)
    except CodecError:
        return False
    return bool(json.dumps(value))


def record_json(data: bytes) -> bool:
    """The JSON face of a record with everything in it."""
    try:
        found: Any = from_json(abi.SubmitBatchArgs, parse_json(data))
    except CodecError:
        return False
    assert from_json(abi.SubmitBatchArgs, to_json(found)) == found
    return True


def fault(data: bytes) -> bool:
    try:
        fault_from_json(parse_json(data), "sequencer")
    except (ValueError, LookupError):
        return False
    return True


def words(data: bytes) -> bool:
    """Hex, a checkpoint."""
    text = data.decode("latin-1")
    try:
        found = parse_hex(text, "it")
    except CodecError:
        found = None
    assert found is None or "0x" + found.hex() == text
    try:
        parse_checkpoint(text)
    except StartupError:
        return found is not None
    return True


def worker_request(data: bytes) -> bool:
    try:
        found = verify_worker.verdicts(data)
    except ValueError:
        return False
    assert len(found) == len(data) // verify_worker.ITEM_BYTES
    return True


def _worker_requests() -> list[bytes]:
    return [
        b"".join(
            verify_worker.UNKNOWN + tx.body.sender + tx.id + tx.signature for tx in objects.transactions()
        )
    ]


def _encoded(*values: Any) -> Callable[[], list[bytes]]:
    return lambda: [encode(value() if callable(value) else value) for value in values]


def _json(*values: Any) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(value).encode() for value in values]


def _bodies() -> list[bytes]:
    said = [encode_message(objects.proposals()[1]), encode_message(objects.votes()[0])]
    said.append(encode_transactions([tx.wire for tx in objects.transactions()[:2]]))
    return [join(said), join(said[1:2]), join(said[2:])]


def _stored() -> list[bytes]:
    made = objects.world()
    values = [made.totals, made.batch(1), made.dispute(0), abi.InboxEntry(bytes(32), 3, bytes(32), 5)]
    return seeds_of(STORED, [*values, committee_abi.Voice(bytes(32), 4), Frontier(0, [])])


def _disk() -> list[bytes]:
    block, certificate = objects.certified()[1].block, objects.certified()[1].certificate
    receipt = objects.l1_blocks()[1].receipts[0]
    values = [block, certificate, receipt, _Voted(1, 2, 3), block.header, objects.certified()[1]]
    return seeds_of(DISK, values)


DECODERS = (
    Target(
        "transaction", "a signed transaction", transaction, lambda: [tx.wire for tx in objects.transactions()]
    ),
    Target("submission-json", "POST /transactions, JSON", submission, _dev_bodies),
    Target(
        "submission-bulk",
        "POST /transactions, MessagePack",
        refusing(lambda data: read_batch(_chain().rules, data), Problem),
        _encoded(lambda: [tx.wire for tx in objects.transactions()]),
    ),
    Target("bridge-write", "a write to the bridge service", bridge_write, _writes),
    Target(
        "block", "an L1 block", canonical(Block), lambda: [encode(c.block) for c in objects.certified()[:2]]
    ),
    Target("vote", "a vote", canonical(Vote), _encoded(lambda: objects.votes()[0])),
    Target(
        "proposal", "a proposal", canonical(Proposal), lambda: [encode(p) for p in objects.proposals()[:2]]
    ),
    Target(
        "signed-header",
        "a header that its proposer signed",
        canonical(SignedHeader),
        _encoded(lambda: objects.proposals()[0].signed_header()),
    ),
    Target(
        "certificate",
        "a certificate",
        canonical(Certificate),
        _encoded(lambda: objects.certified()[0].certificate),
    ),
    Target(
        "certified-blocks",
        "an answer to a sync request",
        canonical(list[CertifiedBlock]),
        _encoded(lambda: list(objects.certified()[:2])),
    ),
    Target("peer-body", "a body of POST /p2p/messages", refusing(decode_body, CodecError), _bodies),
    Target("evidence", "evidence against a validator", evidence, _evidence),
    Target(
        "step",
        "an L2 step",
        canonical(Step),
        lambda: [encode(step) for step in objects.world().posted[1].steps],
    ),
    Target(
        "batch",
        "batch data, any format",
        batch,
        lambda: [b"\x00" + _packed(), b"\x00" + encode_batch(_blocks())],
    ),
    Target("batch-plain", "what a plain batch has inside", plain_blocks, _encoded(_blocks)),
    Target(
        "batch-columns", "the columns of a packed batch", packed_columns, lambda: [inflate(_packed()[1:])[0]]
    ),
    Target(
        "batch-inflate",
        "decompression of a batch",
        inflation,
        lambda: [_packed()[1:], zlib.compress(bytes(100_000))],
    ),
    Target(
        "packed-transaction",
        "a packed transaction as a dispute shows it",
        canonical(PackedTransfer | PackedCall),
        lambda: unpack_batch(*inflate(_packed()[1:]), 0)[1].committed(),
    ),
    Target("state-proof", "a Merkle proof, and the witness made of it", proof, _proofs),
    Target("step-witness", "a step over its witness (dispute, last move)", witness, _witnesses),
    Target("list-proof", "a proof of a place in a list", list_proof, _list_proofs),
    Target("sequencer-receipt", "a sequencer's signed receipt", promise, _promises),
    Target(
        "contract-args",
        "arguments of every contract's methods",
        one_of(CALLS),
        lambda: seeds_of(CALLS, [args for _, args in objects.contract_args()]),
    ),
    Target(
        "dispute-move",
        "the moves of a dispute",
        one_of(MOVES),
        lambda: seeds_of(MOVES, [args for _, _, args in objects.moves()]),
    ),
    Target(
        "withdrawal",
        "a withdrawal's claim",
        canonical(abi.ClaimArgs),
        lambda: [encode(args) for args in objects.of(abi.ClaimArgs)],
    ),
    Target("contract-state", "what contracts keep", one_of(STORED), _stored),
    Target("disk-record", "records on a node's disk", one_of(DISK), _disk),
    Target(
        "state-rows",
        "rows of the state on disk",
        state_rows,
        _encoded([(b"a" * 33, b"value"), (b"key", b"")]),
    ),
    Target("genesis-bytes", "a genesis as bytes", genesis_bytes, _encoded(_small), max_bytes=8192),
    Target(
        "genesis-json",
        "a genesis file",
        genesis_json,
        lambda: [json.dumps(genesis_to_json(_small())).encode()],
        max_bytes=8192,
    ),
    Target(
        "genesis-note",
        "the note that a genesis was checked",
        known_note,
        lambda: [_note(_small().hash(), _known_root())],
        slow=True,
    ),
    Target(
        "configuration", "a devnet's configuration", configuration, lambda: _json(demo_config().to_json())()
    ),
    Target(
        "bridge-settings",
        "the settings of a bridge, as JSON",
        bridge_settings,
        lambda: _json(to_json(demo_config().settings))(),
    ),
    Target(
        "clock",
        "the clock's schedule",
        refusing(parse_schedule, ClockError),
        lambda: _json({"segments": [{"wall": 1, "virtual": 1, "rate": 1.0}]})(),
    ),
    Target("key-file", "a key file", key_file, _key_files, slow=True),
    Target(
        "snapshot",
        "a snapshot's manifest",
        manifest,
        _json({"virtual": 1.5, "height": 7, "genesis": "0x00", "config": {}, "files": {"data/a": ["00", 3]}}),
    ),
    Target(
        "json",
        "strict JSON",
        json_value,
        lambda: [*_dev_bodies(), b'{"a": [1, null, true, "\\ud83d\\ude00"]}'],
    ),
    Target(
        "record-json",
        "a record from its JSON face",
        record_json,
        lambda: [json.dumps(to_json(args)).encode() for args in objects.of(abi.SubmitBatchArgs)],
    ),
    Target(
        "fault", "the body of POST /faults", fault, _json({"name": "steal", "at_step": 3}, {"name": "halt"})
    ),
    Target("words", "hex and checkpoints", words, lambda: [b"0x00ff", b"7:0x" + b"ab" * 32]),
    Target("worker-request", "a request to a signature worker", worker_request, _worker_requests),
)
