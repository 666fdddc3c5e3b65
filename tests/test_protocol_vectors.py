"""docs/PROTOCOL.md's test vectors, recomputed by hand and through another library, not only by the code itself."""

import json
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from chainkit.block import Header, Proposal, Vote
from chainkit.codec import decode, encode, from_json
from chainkit.hashing import tagged_hash
from chainkit.keys import dev_keypair
from chainkit.merkle_list import list_root
from chainkit.transaction import SignedTransaction
from rollup.batch import decode_batch, steps_root
from rollup.contents import read_contents
from rollup.directory import Directory
from rollup.receipt import SequencerReceipt
from rollup.stf import Step, decode_step, step_hash

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "protocol.json").read_text())


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def plain_hash(tag: str, data: bytes) -> bytes:
    """A tagged hash, written out."""
    return sha256(b"layerlab/v1/" + tag.encode() + b"\x00" + data).digest()


@pytest.mark.parametrize("vector", VECTORS["tagged_hash"])
def test_tagged_hash(vector: dict[str, str]) -> None:
    assert tagged_hash(vector["tag"], unhex(vector["data"])).hex() == vector["hash"]
    assert plain_hash(vector["tag"], unhex(vector["data"])).hex() == vector["hash"]


@pytest.mark.parametrize("vector", VECTORS["dev_keys"])
def test_development_keys(vector: dict[str, str]) -> None:
    assert plain_hash("devnet-key", vector["name"].encode()).hex() == vector["seed"]
    public = Ed25519PrivateKey.from_private_bytes(unhex(vector["seed"])).public_key()
    assert public.public_bytes_raw().hex() == vector["address"] == dev_keypair(vector["name"]).address.hex()


@pytest.mark.parametrize("vector", VECTORS["transactions"])
def test_transactions(vector: dict[str, Any]) -> None:
    tx = SignedTransaction.decode(unhex(vector["wire"]))
    assert tx.to_json() == vector["json"]
    assert SignedTransaction.from_json({k: v for k, v in vector["json"].items() if k != "hash"}) == tx
    body = msgspec.msgpack.decode(unhex(vector["wire"]))[:7]
    assert msgspec.msgpack.encode(body).hex() == vector["body"]
    assert plain_hash("transaction", unhex(vector["body"])).hex() == vector["id"]
    Ed25519PublicKey.from_public_bytes(body[1]).verify(unhex(vector["signature"]), unhex(vector["id"]))


def test_header() -> None:
    vector = VECTORS["header"]
    header = from_json(Header, vector["json"])
    assert encode(header).hex() == vector["bytes"]
    assert plain_hash("header", unhex(vector["bytes"])).hex() == vector["hash"] == header.hash().hex()


def test_votes_and_proposals_sign_slot_height_and_hash() -> None:
    place = msgspec.msgpack.encode([900, 2, 1, unhex(VECTORS["header"]["hash"])])
    for kind, record in (("vote", Vote), ("proposal", Proposal)):
        vector = VECTORS[kind]
        assert plain_hash(kind, place).hex() == vector["message"]
        plain = msgspec.msgpack.decode(unhex(vector["bytes"]))
        signer, signature = (plain[4], plain[5]) if kind == "vote" else (plain[0][0][5], plain[2])
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, unhex(vector["message"]))
        assert encode(decode(record, unhex(vector["bytes"]))).hex() == vector["bytes"]


@pytest.mark.parametrize("vector", VECTORS["steps"])
def test_steps(vector: dict[str, Any]) -> None:
    step = decode_step(unhex(vector["bytes"]))
    assert step == from_json(Step, vector["json"])  # type: ignore[arg-type]
    assert plain_hash("step", unhex(vector["bytes"])).hex() == vector["hash"] == step_hash(step).hex()


def test_batch() -> None:
    vector = VECTORS["batch"]
    data = unhex(vector["data"])
    assert data[:1] == b"\x00"
    assert zlib.decompress(data[1:]).hex() == vector["plain"]
    (block,) = decode_batch(data)
    assert block.inbox_count == 2
    hashes = [unhex(step["hash"]) for step in VECTORS["steps"]]
    assert steps_root(hashes).hex() == vector["steps_root"] == list_root(hashes).hex()
    assert plain_hash("batch-data", data).hex() == vector["data_hash"]


def test_packed_batch() -> None:
    """Unpacked by hand: the columns, the numbers, the nonces, the wire bytes, and what the contract hashes."""
    vector = VECTORS["packed_batch"]
    data = unhex(vector["data"])
    inflater = zlib.decompressobj()
    assert (data[0], inflater.decompress(data[1:]).hex()) == (1, vector["plain"])
    assert inflater.unused_data.hex() == vector["signatures"]
    signatures = [inflater.unused_data[i : i + 64] for i in range(0, len(inflater.unused_data), 64)]
    known, new, blocks, kinds, *columns, actions = msgspec.msgpack.decode(unhex(vector["plain"]))
    assert (known, kinds, [block[2] for block in blocks]) == (2, b"\0\0\1\0", [3, 1])
    addresses = [unhex(address) for address in vector["known"]] + [
        new[i : i + 32] for i in range(0, len(new), 32)
    ]
    assert [address.hex() for address in addresses[2:]] == vector["addresses"]
    assert list_root(addresses).hex() == vector["addresses_root"]
    senders, nonces, gas, fees, tips, to, amounts = (plain_column(column) for column in columns)
    following: dict[int, int] = {}
    for i, kind in enumerate(kinds):
        nonce = (following.get(senders[i], 0) + nonces[i]) % 2**53
        following[senders[i]] = nonce + 1
        head = [senders[i], nonce, gas[i], fees[i], tips[i]]
        body = [901, addresses[senders[i]], *head[1:]]
        if kind == 0:
            head += [number := to.pop(0), amount := amounts.pop(0)]
            body.append([0, addresses[number], amount])
        else:
            head.append(action := actions.pop(0))
            body.append(msgspec.msgpack.decode(action))
        assert msgspec.msgpack.encode([*body, signatures[i]]).hex() == vector["wires"][i]
        assert msgspec.msgpack.encode([kind, *head, signatures[i]]).hex() == vector["committed"][i]
        assert plain_hash("packed-step", unhex(vector["committed"][i])).hex() == vector["leaves"][i]
    contents = read_contents(data, 2)
    assert [leaf.hex() for leaf in contents.leaves] == vector["leaves"]
    directory = Directory()
    directory.append(addresses)
    wires = [wire.hex() for block in contents.wires(directory, 901) for wire in block.transactions]
    assert wires == vector["wires"]


def plain_column(column: bytes) -> list[int]:
    rows = (len(column) - 1) // column[0]
    return [sum(column[1 + plane * rows + i] << 8 * plane for plane in range(column[0])) for i in range(rows)]


def test_sequencer_receipt() -> None:
    vector = VECTORS["sequencer_receipt"]
    receipt = decode(SequencerReceipt, unhex(vector["bytes"]))
    assert receipt.valid()
    ids = [unhex(tx_id) for tx_id in vector["block"]]
    assert receipt.tx_id == ids[vector["position"]] == unhex(vector["tx_id"])
    leaves = [sha256(b"\x10" + tx_id).digest() for tx_id in ids]
    left = [sha256(b"\x11" + a + b).digest() for a, b in (leaves[:2], leaves[2:4])]
    assert receipt.path == [leaves[2], left[0], leaves[4]]
    top = sha256(b"\x11" + sha256(b"\x11" + left[0] + left[1]).digest() + leaves[4]).digest()
    root = sha256(b"\x12" + (5).to_bytes(8, "big") + top).digest()
    message = plain_hash("sequencer-receipt", msgspec.msgpack.encode([901, vector["height"], root]))
    Ed25519PublicKey.from_public_bytes(receipt.sequencer).verify(receipt.signature, message)


def test_state_keys() -> None:
    keys = VECTORS["state_keys"]
    alice = unhex(VECTORS["dev_keys"][0]["address"])
    assert keys["account_alice"] == (b"a" + alice).hex()
    assert keys["bridge_totals"] == (b"c\x06bridgetotals").hex()
    assert keys["withdrawal_3"] == (b"c\x09messengerwithdrawal/" + (3).to_bytes(8, "big")).hex()
    assert keys["block"] == b"sblock".hex()
    assert keys["contract_address_bridge"] == plain_hash("contract", b"bridge").hex()
    assert keys["account_value"] == "920506"
