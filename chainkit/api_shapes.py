"""How the chain API describes what it takes and what it answers, for ``/openapi.json``.

Responsible for those schemas and the examples of bodies. Must not know how an answer is made: `chainkit.views` makes
the most of them.
"""

from chainkit.backend import HEAD_REFS
from chainkit.intake import MAX_WAIT_MS, MSGPACK
from chainkit.openapi import (
    ACTION,
    BINARY,
    BOOLEAN,
    HEX,
    HEX32,
    INTEGER,
    OBJECT,
    TEXT,
    answers,
    body,
    dev_schema,
    listed,
    nullable,
    one_of,
    shape,
    signed_schema,
)

_EXAMPLES = {
    "devnet: transfer": {
        "value": {"from": "alice", "action": {"type": "transfer", "to": "bob", "amount": 1_000_000_000}}
    },
    "devnet: contract call": {
        "value": {
            "from": "alice",
            "action": {"type": "call", "contract": "bridge", "method": "deposit", "args": {}, "value": 1},
        }
    },
    "signed": {
        "value": {
            "chain_id": 900,
            "sender": "0x" + "11" * 32,
            "nonce": 0,
            "gas_limit": 30_000,
            "max_fee_per_gas": 10,
            "tip_per_gas": 1,
            "action": {"type": "transfer", "to": "0x" + "22" * 32, "amount": 5},
            "signature": "0x" + "33" * 64,
        }
    },
}
_WAIT = {
    "name": "wait",
    "in": "query",
    "required": False,
    "description": "for how many ms the answer may wait for a block (a sequencer only)",
    "schema": {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_MS},
}
_BINARY = {
    "type": "string",
    "format": "binary",
    "description": "an array of at most 1000 transactions, each as its wire bytes (bin)",
}
SUBMIT = body(
    {
        "application/json": {
            "schema": {"anyOf": [dev_schema({"action": ACTION}, ("action",)), signed_schema()]},
            "examples": _EXAMPLES,
        },
        MSGPACK: {"schema": _BINARY},
    },
    parameters=[_WAIT],
)
_HEAD = shape(height=INTEGER, hash=HEX32, state_root=HEX32, slot=INTEGER, time=INTEGER)
BLOCK = shape(
    height=INTEGER,
    hash=HEX32,
    status=TEXT,
    header=OBJECT,
    transactions=listed({"anyOf": [HEX32, OBJECT]}),
    certificate=nullable(OBJECT),
)
STATUS = shape(
    chain_id=INTEGER,
    name=TEXT,
    genesis_hash=HEX32,
    devnet=BOOLEAN,
    slot_ms=INTEGER,
    heads=shape(head=nullable(_HEAD), safe=nullable(_HEAD), finalized=nullable(_HEAD)),
    fees=shape(base_fee=INTEGER, max_fee_per_gas=INTEGER, tip_per_gas=INTEGER),
    events=INTEGER,
    role=TEXT,
)
ACCOUNT = shape(
    address=HEX32,
    name=nullable(TEXT),
    balance=INTEGER,
    nonce=INTEGER,
    pending_nonce=INTEGER,
    exists=BOOLEAN,
    at=one_of(*HEAD_REFS),
    height=INTEGER,
)
PROOF = shape(
    address=HEX32,
    balance=INTEGER,
    nonce=INTEGER,
    key=HEX,
    value=nullable(HEX),
    proof=HEX,
    state_root=HEX32,
    block_hash=HEX32,
    height=INTEGER,
    at=one_of(*HEAD_REFS),
)
CONTRACT = shape(name=TEXT, code=TEXT, address=HEX32, methods=listed(TEXT))
CONTRACT_FULL = shape(
    name=TEXT,
    code=TEXT,
    address=HEX32,
    methods=listed(shape(name=TEXT, payable=BOOLEAN, args=OBJECT)),
    balance=INTEGER,
    height=INTEGER,
    params={},
    events=listed(shape(name=TEXT, data=OBJECT)),
    state=OBJECT,
)
TRANSACTION = shape(
    hash=HEX32,
    status=TEXT,
    height=nullable(INTEGER),
    block_hash=nullable(HEX32),
    position=nullable(INTEGER),
    transaction=OBJECT,
    receipt=nullable(OBJECT),
)
_RESULT = shape({"transaction": OBJECT}, hash=HEX32, accepted=BOOLEAN, code=TEXT, message=TEXT)
TAKEN = answers({"anyOf": [_RESULT, shape(results=listed(_RESULT))]}, 202)
TAKEN[202]["content"][MSGPACK] = {"schema": BINARY}
