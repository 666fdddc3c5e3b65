"""How the bridge services describe what they answer, for ``/openapi.json``.

Responsible for those schemas: the members that are always there. Must not know how an answer is made: the modules
``views*`` make them.
"""

from typing import Final

from chainkit.openapi import BOOLEAN, HEX, HEX32, INTEGER, OBJECT, TEXT, answers, listed, nullable, shape

SENT: Final = answers(shape(hash=HEX32, accepted=BOOLEAN, code=TEXT, message=TEXT, status=TEXT), 202)
"""202: a node took the transaction, and it waits for its block."""

_ID: Final = {"anyOf": [HEX32, INTEGER]}
_WAITING: Final = {"status": TEXT, "waits_for": TEXT, "may_act": TEXT}
_LEFT: Final = {**_WAITING, "blocks_left": INTEGER, "seconds_left": INTEGER}
_PARTIES: Final = {"sender": HEX32, "recipient": HEX32, "amount": INTEGER}

STATUS: Final = shape(
    role=TEXT,
    chain_id=INTEGER,
    l2_chain_id=INTEGER,
    genesis_hash=HEX32,
    l2_genesis_hash=HEX32,
    devnet=BOOLEAN,
    slot_ms=INTEGER,
    l1_height=INTEGER,
    l1_final=nullable(INTEGER),
    head_batch=INTEGER,
    safe_batch=INTEGER,
    final_batch=INTEGER,
    diverged=nullable(OBJECT),
    frozen=BOOLEAN,
    open_disputes=INTEGER,
    inbox=shape(length=INTEGER, taken_in=INTEGER),
    invariant_holds=BOOLEAN,
    ready=BOOLEAN,
    events=INTEGER,
    heads=OBJECT,
)
BRIDGE: Final = shape(
    kind=TEXT,
    contract=TEXT,
    l1_height=INTEGER,
    settings=OBJECT,
    sequencer=shape(address=HEX32, name=nullable(TEXT)),
    totals=OBJECT,
    heads=OBJECT,
    invariant=OBJECT,
)
BATCH: Final = shape(
    index=INTEGER,
    parent=INTEGER,
    status=TEXT,
    state_root=HEX32,
    computed_root=HEX32,
    matches=BOOLEAN,
    l1_height=INTEGER,
    l1_transaction=HEX32,
)
_WHO: Final = shape(address=HEX32, name=nullable(TEXT))
DISPUTE: Final = shape(index=INTEGER, batch=INTEGER, stage=TEXT, turn=TEXT, challenger=_WHO, defender=_WHO)
DEPOSIT: Final = shape(
    id=_ID,
    index=nullable(INTEGER),
    **_LEFT,
    amount=INTEGER,
    depositor=HEX32,
    to=nullable(HEX32),
    l1=nullable(shape(tx=HEX32, height=INTEGER)),
)
FORCED: Final = shape(id=_ID, index=nullable(INTEGER), **_LEFT, executed=BOOLEAN, l1=nullable(OBJECT))
WITHDRAWAL: Final = shape(
    id=HEX32,
    ordinal=INTEGER,
    index=nullable(INTEGER),
    **_LEFT,
    **_PARTIES,
    reason=TEXT,
    batch=nullable(INTEGER),
    l2_height=nullable(INTEGER),
    claim=nullable(OBJECT),
    reverted_in=listed({}),
)
EXIT: Final = shape(
    address=HEX32,
    name=nullable(TEXT),
    amount=INTEGER,
    possible_now=BOOLEAN,
    exited=nullable(OBJECT),
    under_batch=INTEGER,
    proof=nullable(shape(batch=INTEGER, state_root=HEX32, key=HEX, proof=HEX)),
    frozen=BOOLEAN,
)

COMMITTEE_STATUS: Final = shape(role=TEXT, invariant_holds=BOOLEAN, ready=BOOLEAN, events=INTEGER)
COMMITTEE_BRIDGE: Final = shape(kind=TEXT, heads=OBJECT, totals=OBJECT, invariant=OBJECT)
PASSAGE: Final = shape(id=_ID, index=nullable(INTEGER), **_WAITING, amount=INTEGER, depositor=HEX32)
WITHDRAWAL_PASSAGE: Final = shape(id=HEX32, index=nullable(INTEGER), **_WAITING, **_PARTIES, reason=TEXT)
