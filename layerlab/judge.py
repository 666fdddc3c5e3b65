"""The judge: promises P1 to P4, checked from L1 data by code that is not the nodes'.

Responsible for reading final L1 blocks, receipts and state dumps as plain lists and dicts, tying each to the
quorum of genesis, and for adding up. It shares no code with chainkit, l1node, rollup or bridge on purpose:
its own Merkle roots (recursive, slow), its own decoding, signatures through another library.
Must not know where the data came from: whatever does not hash to what the validators signed is refused.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Plain = Any  # what MessagePack decodes to: int, str, bytes, list
PLAIN_BATCH, PACKED_BATCH = b"\x00", b"\x01"


class JudgeError(Exception):
    """The data is not what L1's validators signed, or a promise is broken; the message says which."""


@dataclass(frozen=True)
class Exhibit:
    """What the judge is shown.

    ``genesis``: canonical bytes. ``blocks``: for heights 1, 2, ... in order (block bytes, certificate bytes,
    encoded receipts). ``l1_state``: every state key and value after the last block. ``l2_state``: the same of
    the L2 state after the last final batch.
    """

    genesis: bytes
    blocks: Sequence[tuple[bytes, bytes, Sequence[bytes]]]
    l1_state: Mapping[bytes, bytes]
    l2_state: Mapping[bytes, bytes]


@dataclass
class Verdict:
    """Each promise with the terms that were added up, in gwei, and whether it holds."""

    promises: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return bool(self.promises) and all(p["holds"] for p in self.promises.values())


_MALFORMED = (
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    RecursionError,
    msgspec.MsgspecError,
    zlib.error,
)


def judge(exhibit: Exhibit) -> Verdict:
    """Check the exhibit and the promises P1 to P4. Raises `JudgeError` if the exhibit is not L1's."""
    try:
        return _judge(exhibit)
    except _MALFORMED as error:
        raise JudgeError(f"the exhibit is malformed: {error!r}") from None


def _judge(exhibit: Exhibit) -> Verdict:
    if not exhibit.blocks:
        raise JudgeError("no L1 block is shown")
    events = _check_blocks(exhibit)
    last_header = _plain(exhibit.blocks[-1][0])[0]
    if state_root(exhibit.l1_state) != last_header[6]:
        raise JudgeError("the L1 state shown is not the one that the last block states")
    bridge = _bridge(exhibit)
    if state_root(exhibit.l2_state) != bridge["final_batch"][10]:
        raise JudgeError("the L2 state shown is not the one that L1 made final")
    verdict = Verdict()
    verdict.promises["P1"] = _check_escrow(exhibit, bridge)
    verdict.promises["P2"] = _check_supply(exhibit)
    verdict.promises["P3"] = _check_payouts(exhibit, events, bridge)
    verdict.promises["P4"] = _check_credits(exhibit, events, bridge)
    return verdict


# --- plain decoding and hashing ---


def _plain(data: bytes) -> Plain:
    return msgspec.msgpack.decode(data)


def _encode(value: Plain) -> bytes:
    return msgspec.msgpack.encode(value)


def _tagged(tag: str, data: bytes) -> bytes:
    return sha256(b"layerlab/v1/" + tag.encode() + b"\0" + data).digest()


def list_root(items: Sequence[bytes]) -> bytes:
    """RFC 6962 over the items, then the count."""

    def top(part: Sequence[bytes]) -> bytes:
        if len(part) == 1:
            return sha256(b"\x10" + part[0]).digest()
        split = 1
        while split * 2 < len(part):
            split *= 2
        return sha256(b"\x11" + top(part[:split]) + top(part[split:])).digest()

    inner = top(items) if items else bytes(32)
    return sha256(b"\x12" + len(items).to_bytes(8, "big") + inner).digest()


def state_root(state: Mapping[bytes, bytes]) -> bytes:
    """The crit-bit Merkle root of a whole state."""
    hashed = []
    for key, value in state.items():
        name = sha256(b"\x02" + key).digest()
        leaf = sha256(b"\x00" + name + sha256(b"\x03" + value).digest()).digest()
        hashed.append((int.from_bytes(name, "big"), leaf))
    hashed.sort()

    def subtree(part: list[tuple[int, bytes]]) -> bytes:
        if len(part) == 1:
            return part[0][1]
        depth = 256 - (part[0][0] ^ part[-1][0]).bit_length()
        bit = 1 << (255 - depth)
        split = next(i for i, (name, _) in enumerate(part) if name & bit)
        return sha256(b"\x01" + bytes([depth]) + subtree(part[:split]) + subtree(part[split:])).digest()

    return subtree(hashed) if hashed else _tagged("empty-state", b"")


# --- L1: are these the blocks that the validators signed? ---


def _check_blocks(exhibit: Exhibit) -> list[tuple[str, list[Plain], Plain]]:
    """Check links, receipts and quorums; returns (name, fields, action) of every bridge event, in order.

    The quorum is counted in the stake of genesis as staked, unstaked and slashed since, block by block.
    """
    genesis = _plain(exhibit.genesis)
    stakes = dict(genesis[8])
    parent, events = _tagged("genesis", exhibit.genesis), []
    for height, (block_bytes, certificate, receipts) in enumerate(exhibit.blocks, 1):
        header, transactions = _plain(block_bytes)
        if header[1] != height or header[4] != parent:
            raise JudgeError(f"L1 block {height} does not follow the one before it")
        if list_root(transactions) != header[7] or list_root(receipts) != header[8]:
            raise JudgeError(f"transactions or receipts of L1 block {height} are not those of its header")
        parent = _tagged("header", _encode(header))
        _check_quorum(header, parent, _plain(certificate), stakes)
        for wire, receipt in zip(transactions, map(_plain, receipts), strict=True):
            action = _plain(wire)[6]
            events += [(n, _plain(d), action) for contract, n, d in receipt[6] if contract == "bridge"]
            _move_stakes(stakes, [(n, _plain(d)) for contract, n, d in receipt[6] if contract == "staking"])
    return events


def _move_stakes(stakes: dict[bytes, int], events: Sequence[tuple[str, list[Plain]]]) -> None:
    for name, fields in events:
        if name in ("ValidatorStaked", "ValidatorUnstaked"):
            stakes[fields[0]] = fields[2]
        elif name == "ValidatorJailed":
            stakes[fields[0]] = 0


def _check_quorum(header: Plain, block_hash: bytes, certificate: Plain, stakes: Mapping[bytes, int]) -> None:
    """Two thirds of the stake (who was slashed or jailed does not count) signed this block."""
    message = _tagged("vote", _encode([header[0], header[2], header[1], block_hash]))
    voters = dict(certificate[3])
    signed = 0
    for voter, signature in voters.items():
        try:
            Ed25519PublicKey.from_public_bytes(voter).verify(signature, message)
        except InvalidSignature:
            raise JudgeError(f"a vote for L1 block {header[1]} has a bad signature") from None
        signed += stakes.get(voter, 0)
    if not signed or 3 * signed < 2 * sum(stakes.values()):  # of no stake there is no quorum
        raise JudgeError(f"L1 block {header[1]} lacks two thirds of the stake")


# --- the bridge's books, straight from L1 state ---


def _storage(state: Mapping[bytes, bytes], contract: str, key: bytes) -> bytes:
    return state.get(b"c" + bytes([len(contract)]) + contract.encode() + key, b"")


def _entries(state: Mapping[bytes, bytes], contract: str, prefix: bytes) -> dict[bytes, Plain]:
    start = b"c" + bytes([len(contract)]) + contract.encode() + prefix
    return {k[len(start) :]: _plain(v) for k, v in state.items() if k.startswith(start) and v}


def _balances(state: Mapping[bytes, bytes]) -> dict[bytes, int]:
    return {k[1:]: _plain(v)[0] for k, v in state.items() if k[:1] == b"a" and v}


def _bridge(exhibit: Exhibit) -> dict[str, Any]:
    state = exhibit.l1_state
    totals = _plain(_storage(state, "bridge", b"totals"))
    final = _plain(_storage(state, "bridge", b"batch/" + totals[5].to_bytes(8, "big")))
    if final[15] != "finalized":
        raise JudgeError("the bridge's last final batch is not marked final")
    return {
        "escrow": totals[0],
        "bonds": totals[1],
        "final_batch": final,
        "balance": _balances(state)[_tagged("contract", b"bridge")],
        "inbox": [e for _, e in sorted(_entries(state, "bridge", b"inbox/").items())],
        "claimed": {int.from_bytes(k, "big") for k in _entries(state, "bridge", b"claimed/")},
        "exited": set(_entries(state, "bridge", b"exited/")),
    }


def _withdrawals(exhibit: Exhibit) -> dict[int, Plain]:
    entries = _entries(exhibit.l2_state, "messenger", b"withdrawal/")
    return {int.from_bytes(k, "big"): w for k, w in entries.items()}


# --- the promises ---


def _check_escrow(exhibit: Exhibit, bridge: dict[str, Any]) -> dict[str, Any]:
    """P1: escrow = L2 balances + withdrawals not claimed + deposits not taken in (and not given back)."""
    balances = _balances(exhibit.l2_state)
    held = sum(balance for address, balance in balances.items() if address not in bridge["exited"])
    unclaimed = sum(w[3] for i, w in _withdrawals(exhibit).items() if i not in bridge["claimed"])
    waiting = sum(entry[3] for entry in bridge["inbox"][bridge["final_batch"][6] :] if not entry[4])
    owed = held + unclaimed + waiting
    return {
        "says": "escrow = L2 balances + withdrawals not claimed + deposits not taken in",
        "escrow": bridge["escrow"],
        "l2_balances": held,
        "withdrawals_not_claimed": unclaimed,
        "deposits_not_taken_in": waiting,
        "bonds": bridge["bonds"],
        "holds": bridge["escrow"] == owed and bridge["balance"] == bridge["escrow"] + bridge["bonds"],
    }


def _check_supply(exhibit: Exhibit) -> dict[str, Any]:
    """P2: all L1 balances (stake, bonds and escrow lie in contract accounts) = genesis + minted - burned."""
    genesis = _plain(exhibit.genesis)
    issued = sum(a[1] for a in genesis[7]) + sum(v[1] for v in genesis[8]) + sum(c[3] for c in genesis[9])
    in_genesis, minted, burned = _plain(exhibit.l1_state[b"ssupply"])
    balances = sum(_balances(exhibit.l1_state).values())
    return {
        "says": "L1 balances (stake, bonds and escrow included) + burned = genesis + minted",
        "balances": balances,
        "burned": burned,
        "genesis": issued,
        "minted": minted,
        "holds": in_genesis == issued and balances + burned == issued + minted,
    }


def _check_payouts(
    exhibit: Exhibit, events: Sequence[tuple[str, list[Plain], Plain]], bridge: dict[str, Any]
) -> dict[str, Any]:
    """P3: each withdrawal, exit and refund was paid at most once, and as L2 or the inbox says."""
    claims = [fields for name, fields, _ in events if name == "WithdrawalClaimed"]
    exits = [fields for name, fields, _ in events if name == "AccountExited"]
    refunds = [fields for name, fields, _ in events if name == "DepositRefunded"]
    known, balances = _withdrawals(exhibit), _balances(exhibit.l2_state)
    honest_claims = all(c[0] in known and (c[2], c[3]) == (known[c[0]][2], known[c[0]][3]) for c in claims)
    honest_exits = all(balances.get(e[0]) == e[1] for e in exits)
    inbox = bridge["inbox"]
    honest_refunds = all(
        r[0] >= bridge["final_batch"][6] and inbox[r[0]][2:4] == [r[1], r[2]] for r in refunds
    )
    once = all(len({item[0] for item in paid}) == len(paid) for paid in (claims, exits, refunds))
    return {
        "says": "a withdrawal is paid at most once, over claims, exits and refunds",
        "claims": len(claims),
        "exits": len(exits),
        "refunds": len(refunds),
        "paid": sum(c[3] for c in claims) + sum(e[1] for e in exits) + sum(r[2] for r in refunds),
        "holds": once and honest_claims and honest_exits and honest_refunds,
    }


def _blocks(data: bytes) -> Plain:
    """``[time, inbox messages, transactions]`` of each L2 block in batch data, of either format (PROTOCOL.md)."""
    content = zlib.decompressobj()  # a packed batch's signatures follow the compressed part
    found = _plain(content.decompress(data[1:]))
    if data[:1] == PACKED_BATCH:
        return found[2]
    if data[:1] != PLAIN_BATCH:
        raise JudgeError("batch data of an unknown format")
    return found


def _check_credits(
    exhibit: Exhibit, events: Sequence[tuple[str, list[Plain], Plain]], bridge: dict[str, Any]
) -> dict[str, Any]:
    """P4: the final batches took in L1's deposits, each once, in order, and L2 minted nothing else."""
    deposits = {fields[0]: fields for name, fields, _ in events if name == "DepositInitiated"}
    submitted = {f[0][0]: (f[0], action) for name, f, action in events if name == "BatchSubmitted"}
    finalized = [fields[0] for name, fields, _ in events if name == "BatchFinalized"]
    cursor, in_line = 0, True
    for index in finalized:
        record, action = submitted[index]
        parent, inbox_to, data, _ = _plain(action[3])
        blocks = _blocks(data)
        in_line = in_line and record[5] == cursor and parent == record[1]
        cursor += sum(block[1] for block in blocks)
        in_line = in_line and inbox_to == record[6] == cursor
    credited = sum(deposits[i][3] for i in range(cursor) if i in deposits)
    minted = _plain(exhibit.l2_state[b"ssupply"])[1]
    return {
        "says": "each L2 credit is one final L1 deposit, in order",
        "deposits": len(deposits),
        "taken_in": sum(1 for i in range(cursor) if i in deposits),
        "credited": credited,
        "minted_on_l2": minted,
        "holds": in_line and cursor == bridge["final_batch"][6] and credited == minted,
    }
