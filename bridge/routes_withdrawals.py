"""What goes out: withdrawals and claims, and the emergency way out of a frozen bridge.

Responsible for those routes. Must not know how facts are established or calls are sent.
"""

from typing import Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from bridge import abi, actions, views
from bridge.actions import plain_call, read_object, read_write
from bridge.backend import BridgeBackend
from bridge.follow import BRIDGE, MESSENGER, WithdrawalEntry
from bridge.hints import Told, Tracked, tracked_of
from bridge.params import AddressText, From, Id, Limit, page, parse_address, parse_id, unknown
from bridge.routes_inbox import MOVES, accepted, body_doc, hash_of
from bridge.shapes import EXIT, SENT, WITHDRAWAL
from bridge.views_batches import Json
from bridge.views_bridge import escape_json, exit_json
from chainkit.codec import Bytes32, CodecError, parse_hex, to_json
from chainkit.openapi import INTEGER, NAME, WHO, answers, listed, problems, shape
from chainkit.ops_api import JsonResponse, PathInt
from chainkit.problems import Problem
from rollup.stf import Deposit

NOT_NOW = "Not now"


def withdrawals_router(backend: BridgeBackend) -> APIRouter:
    """Withdrawals, claims, freeze, exits and refunds."""
    router = APIRouter()
    router.include_router(_withdrawals(backend))
    router.include_router(_escape(backend))
    return router


def _withdrawals(backend: BridgeBackend) -> APIRouter:
    router = APIRouter(tags=["withdrawals"])
    state = backend.state

    @router.post(
        "/withdrawals",
        summary="Withdraw: a signed L2 call of messenger.withdraw, or on a devnet from, to and amount (gwei)",
        status_code=202,
        openapi_extra=body_doc(
            MOVES, ("amount",), devnet={"from": "bob", "to": "bob", "amount": 1_000_000_000}
        ),
        responses=SENT | problems(409, 422, 429),
    )
    async def withdraw(request: Request) -> Response:
        raw = await request.body()
        write = read_write(backend.l2, raw, MESSENGER, "withdraw", ("to", "amount"), actions.withdraw_call)
        answer = await backend.send_l2(write)
        tx_id = hash_of(answer)
        backend.tracking.add(tx_id, tracked_of(write))
        return accepted(answer, id=to_json(tx_id), hash=to_json(tx_id), status=views.WAITING)

    @router.get(
        "/withdrawals",
        summary="Withdrawals by or to an address, oldest first",
        responses=answers(shape(withdrawals=listed(WITHDRAWAL), total=INTEGER)),
    )
    async def withdrawals(
        address: AddressText | None = None, from_: From = None, limit: Limit = 20
    ) -> Response:
        if address is None:
            found, early = list(state.withdrawals.values()), []
        else:
            who = parse_address(backend.l2.genesis, address)
            found, early = state.withdrawals_by_address.get(who, []), backend.tracked_withdrawals(who)
        shown = [views.withdrawal_json(state, found[i], full=False) for i in page(len(found), from_, limit)]
        known = {entry.tx_id for entry in found}
        waiting = [
            _early_json(backend, tx_id, tracked, None) for tx_id, tracked in early if tx_id not in known
        ]
        return JsonResponse({"withdrawals": [*shown, *waiting[:limit]], "total": len(found) + len(waiting)})

    @router.get(
        "/withdrawals/{id}",
        summary="A withdrawal by index or L2 transaction hash: status, what it waits for, proof",
        responses=answers(WITHDRAWAL) | problems(404),
    )
    async def one(id: Id) -> Response:  # noqa: A002 - the name in the address
        _, shown = await _find(backend, id)
        return JsonResponse(shown)

    @router.post(
        "/withdrawals/{id}/claim",
        summary="Claim it on L1: anyone may; the recipient is paid",
        status_code=202,
        openapi_extra=body_doc(devnet={"from": "bob"}),
        responses=SENT | problems(404, 409, 422, 429),
    )
    async def claim(id: Id, request: Request) -> Response:  # noqa: A002 - the name in the address
        raw = await request.body()
        read_object(raw)
        entry, shown = await _find(backend, id)
        _require_ready(shown)
        arguments = None if entry is None else views.claim_arguments(state, entry)
        if arguments is None:
            raise Problem(409, "not_final", NOT_NOW, "the last final state does not hold it yet")
        bound = {"index": arguments.index}
        write = read_write(backend.l1, raw, BRIDGE, "claim", (), plain_call(arguments), bound)
        answer = await backend.send_l1(write)
        return accepted(
            answer, id=shown["id"], index=arguments.index, hash=to_json(hash_of(answer)), status="pending"
        )

    return router


def _require_ready(shown: Json) -> None:
    status, detail = shown["status"], shown["waits_for"]
    left = {"blocks_left": shown["blocks_left"], "seconds_left": shown["seconds_left"]}
    if status == views.CLAIMED:
        raise Problem(
            409, "already_claimed", "Already claimed", f"withdrawal {shown['index']} was paid", **left
        )
    if status == views.REVERTED:
        raise Problem(409, "withdrawal_reverted", "The withdrawal was reverted", shown["reason"])
    if status == views.WAITING:
        raise Problem(409, "waiting_for_batch", NOT_NOW, f"it waits for {detail}")
    if status == views.IN_WINDOW:
        code = "challenge_window_open" if shown["blocks_left"] else "not_final"
        raise Problem(409, code, NOT_NOW, f"it waits for {detail}", **left)


async def _find(backend: BridgeBackend, text: str) -> tuple[WithdrawalEntry | None, Json]:
    """A withdrawal by index or L2 hash, and how it is shown. Raises `Problem`."""
    state, key = backend.state, parse_id(text, "withdrawal")
    entry = state.withdrawal_by_index.get(key) if isinstance(key, int) else state.withdrawals.get((key, 0))
    if entry is None:
        if isinstance(key, int):
            count = max(state.withdrawal_by_index, default=-1) + 1
            raise unknown("withdrawal", key, "withdrawals", count)
        return None, await _early(backend, key)
    shown = views.withdrawal_json(state, entry)
    if state.inclusion(entry) is None:
        shown.update(await _again(backend, entry))
    return entry, shown


async def _again(backend: BridgeBackend, entry: WithdrawalEntry) -> Json:
    """Of a withdrawal whose every batch was reverted: whether the sequencer has it in its chain again."""
    last = entry.inclusions[-1].batch
    reason = f"batch {last} was reverted: {backend.state.revert_reasons.get(last, 'unknown')}"
    told = None if backend.state.totals.frozen_height else await backend.l2_pending(entry.tx_id)
    if told is None or told.failed:
        return {"reason": reason}
    return views.waiting_json(reason=reason)


async def _early(backend: BridgeBackend, tx_id: Bytes32) -> Json:
    """A withdrawal that never was in a batch: the sequencer's word."""
    told = await backend.l2_pending(tx_id)
    about = backend.tracking.get(tx_id) if told is None else told.about
    if about is None or about.method != "withdraw":
        count = max(backend.state.withdrawal_by_index, default=-1) + 1
        raise unknown("withdrawal", to_json(tx_id), "withdrawals", count)
    return _early_json(backend, tx_id, about, told)


def _early_json(backend: BridgeBackend, tx_id: Bytes32, about: Tracked, told: Told | None) -> Json:
    if told is not None and told.failed:
        reason = f"it failed on L2: {told.message or told.code} ({told.code})"
        progress = views.progress_json(views.REVERTED, reason=reason)
    elif backend.state.totals.frozen_height:
        progress = views.never_json()
    elif told is not None and told.height is not None:
        progress = views.waiting_json()
    else:
        progress = views.waiting_json("the sequencer to put it into an L2 block")
    return {
        "id": to_json(tx_id),
        "ordinal": 0,
        "index": None,
        **progress,
        "amount": about.amount,
        "sender": to_json(about.sender),
        "recipient": to_json(about.to),
        "batch": None,
        "l2_height": None if told is None else told.height,
        "claim": None,
        "reverted_in": [],
        "claim_arguments": None,
        "proof": None,
    }


# --- the emergency way out ---


def _escape(backend: BridgeBackend) -> APIRouter:
    router = APIRouter(tags=["emergency way out"])
    state = backend.state

    @router.post(
        "/freeze",
        summary="Stop the bridge for good: after escape_timeout L1 blocks without a batch, by anyone",
        status_code=202,
        openapi_extra=body_doc(devnet={"from": "dave"}),
        responses=SENT | problems(404, 409, 422, 429),
    )
    async def freeze(request: Request) -> Response:
        raw = await request.body()
        write = read_write(backend.l1, raw, BRIDGE, "freeze", (), lambda _: {"args": {}, "value": 0})
        return accepted(await backend.send_l1(write), status="pending")

    @router.get(
        "/exits/{address}",
        summary="What an account would get under the last final root, with the proof",
        responses=answers(EXIT),
    )
    async def one(address: str = Path(max_length=80, json_schema_extra=dict(WHO))) -> Response:
        return JsonResponse(exit_json(state, parse_address(backend.l2.genesis, address)))

    @router.post(
        "/exits",
        summary="Leave a frozen bridge with the last final L2 balance: anyone may send it; the account is paid",
        status_code=202,
        openapi_extra=body_doc({"account": NAME}, devnet={"from": "dave", "account": "dave"}),
        responses=SENT | problems(409, 422, 429),
    )
    async def leave(request: Request) -> Response:
        raw = await request.body()

        def build(value: Json) -> Json:
            return plain_call(_exit_arguments(backend, value.get("account", value["from"])))(value)

        write = read_write(backend.l1, raw, BRIDGE, "exit", ("account",), build)
        return accepted(await backend.send_l1(write), status="pending")

    @router.post(
        "/refunds/{index}",
        summary="Give back a deposit that a frozen bridge never took in: anyone may send it",
        status_code=202,
        openapi_extra=body_doc(devnet={"from": "dave"}),
        responses=SENT | problems(404, 409, 422, 429),
    )
    async def refund(index: PathInt, request: Request) -> Response:
        raw = await request.body()
        read_object(raw)
        _require_refundable(backend, index)
        args, bound = abi.RefundArgs(index), {"index": index}
        write = read_write(backend.l1, raw, BRIDGE, "refund", (), plain_call(args), bound)
        return accepted(await backend.send_l1(write), index=index, status="pending")

    return router


def _require_frozen(backend: BridgeBackend) -> None:
    escape = escape_json(backend.state)
    if not escape["frozen"]:
        left = {"blocks_left": escape["blocks_left"], "seconds_left": escape["seconds_left"]}
        raise Problem(
            409, "not_frozen", NOT_NOW, f"the bridge is running; it waits for {escape['waits_for']}", **left
        )


def _exit_arguments(backend: BridgeBackend, account: Any) -> abi.ExitArgs:
    if not isinstance(account, str):
        raise CodecError("account must be an address or a well-known name")
    state, address = backend.state, parse_address(backend.l2.genesis, account)
    _require_frozen(backend)
    shown = exit_json(state, address)
    if shown["exited"] is not None:
        raise Problem(409, "already_exited", "Already out", "this account has left")
    if shown["proof"] is None:
        raise Problem(409, "no_balance", "Nothing to get out", f"nothing in batch {shown['under_batch']}")
    return abi.ExitArgs(address, parse_hex(shown["proof"]["proof"]))


def _require_refundable(backend: BridgeBackend, index: int) -> None:
    state = backend.state
    if index >= len(state.inbox) or not isinstance(state.inbox[index].message.step, Deposit):
        raise unknown("deposit", index, "inbox messages", len(state.inbox))
    _require_frozen(backend)
    if index in state.refunds:
        raise Problem(409, "already_refunded", "Already refunded", f"deposit {index} was refunded")
    if index < state.derivation.batches[state.derivation.finalized].record.inbox_to:
        raise Problem(409, "taken_in", "L2 took it in", f"L2 took in deposit {index}: see /exits")
