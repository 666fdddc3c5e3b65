"""Who validates, who leads, and who broke a rule.

Responsible for ``GET /validators`` and ``GET /evidence``. Must not know how validators are elected or
punished: the staking contract's own view says.
"""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from chainkit.block import era_of
from chainkit.codec import to_json
from chainkit.contract import Storage
from chainkit.openapi import BOOLEAN, HEX, HEX32, INTEGER, OBJECT, TEXT, answers, listed, nullable, shape
from chainkit.ops_api import JsonResponse
from chainkit.state import State
from chainkit.views import account_name
from l1node.node import L1Node
from l1node.staking import Staking, validator_view

_MEMBER = shape(address=HEX32, name=nullable(TEXT), stake=INTEGER, leads=BOOLEAN)
_STANDING = shape(
    address=HEX32,
    name=nullable(TEXT),
    stake=INTEGER,
    status=TEXT,
    jailed_until=nullable(INTEGER),
    in_set=BOOLEAN,
)
_VALIDATORS = shape(
    slot=INTEGER,
    era=INTEGER,
    era_slots=INTEGER,
    height=INTEGER,
    leader=nullable(HEX32),
    leader_name=nullable(TEXT),
    total_stake=INTEGER,
    set=listed(_MEMBER),
    validators=listed(_STANDING),
)
_FOUND = shape(
    validator=HEX32,
    name=nullable(TEXT),
    kind=TEXT,
    slot=INTEGER,
    outcome=TEXT,
    report=nullable(HEX),
    evidence=OBJECT,
)
_EVIDENCE = shape(found=listed(_FOUND), slashed=listed(shape(validator=HEX32, name=nullable(TEXT))))


def validator_router(node: L1Node) -> APIRouter:
    """The two routes over a node."""
    router = APIRouter(tags=["validators"])

    @router.get(
        "/validators",
        summary="The validators, the leader of this slot, and stakes and standings",
        responses=answers(_VALIDATORS),
    )
    async def validators() -> Response:
        return JsonResponse(validators_json(node))

    @router.get(
        "/evidence",
        summary="Offences that this node found, and punishments in final blocks",
        responses=answers(_EVIDENCE),
    )
    async def evidence() -> Response:
        return JsonResponse(evidence_json(node))

    return router


def validators_json(node: L1Node) -> dict[str, Any]:
    """The set of the present slot as the head's branch has it, and all that staking remembers."""
    tree, slot = node.engine.head.tree, node.slot
    current = node.chain.validators(tree, slot)
    leader = node.chain.leader(tree, slot)
    powers = {v.address: v.stake for v in current.validators}
    return {
        "slot": slot,
        "era": era_of(slot, node.genesis.era_slots),
        "era_slots": node.genesis.era_slots,
        "height": node.engine.head.header.height,
        "leader": to_json(leader),
        "leader_name": None if leader is None else account_name(node.genesis, leader),
        "total_stake": current.total,
        "set": [
            {
                "address": to_json(address),
                "name": account_name(node.genesis, address),
                "stake": stake,
                "leads": address == leader,
            }
            for address, stake in powers.items()
        ],
        "validators": _standings(node, powers),
    }


def _standings(node: L1Node, powers: dict[bytes, int]) -> list[dict[str, Any]]:
    staking = next((c for _, c in sorted(node.rules.contracts.items()) if isinstance(c, Staking)), None)
    if staking is None:
        return []
    storage = Storage(State(node.engine.head.tree), staking.name)
    return [
        {
            **entry,
            "name": account_name(node.genesis, bytes.fromhex(entry["address"][2:])),
            "in_set": bytes.fromhex(entry["address"][2:]) in powers,
        }
        for entry in validator_view(storage)
    ]


def evidence_json(node: L1Node) -> dict[str, Any]:
    """``found``: what this node saw itself; ``slashed``: what the chain has punished, by whoever's report."""
    return {
        "found": [
            {
                "validator": to_json(case.culprit),
                "name": account_name(node.genesis, case.culprit),
                "kind": case.kind,
                "slot": case.slot,
                "outcome": case.outcome,
                "report": to_json(case.report) if case.report else None,
                "evidence": to_json(case.evidence),
            }
            for case in node.reporter.cases
        ],
        "slashed": [
            {**to_json(slashing), "name": account_name(node.genesis, slashing.validator)}
            for slashing in node.slashings
        ],
    }
