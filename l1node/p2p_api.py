"""What peers and followers ask of a node over HTTP.

Responsible for the routes of gossip, block sync and the node's height. Must not know what a block needs to be
good: the node's engine judges.
"""

import asyncio
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from chainkit.codec import CodecError, encode, to_json
from chainkit.openapi import BINARY, HEX32, INTEGER, answers, body, problems, shape
from chainkit.ops_api import JsonResponse, QueryInt
from chainkit.problems import Problem
from l1node.actions import Rejection
from l1node.messages import MAX_BODY_BYTES, ProposalMessage, TransactionsMessage, decode_body
from l1node.node import L1Node

MAX_BLOCKS: Final = 128
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_WAIT: Final = 30
MAX_WAITING: Final = 64
"""Long polls under way at once."""

_HARMLESS: Final = frozenset(
    {Rejection.DUPLICATE, Rejection.STALE, Rejection.FUTURE, Rejection.UNKNOWN_PARENT, Rejection.TOO_MANY}
)
"""What an honest peer's message may be refused for, when it comes late, twice or early."""

_EMPTY: Final = encode([])
_MSGPACK: Final = "application/msgpack"
_BODY = body({_MSGPACK: {"schema": BINARY}})
_STATUS = shape(
    genesis_hash=HEX32, height=INTEGER, slot=INTEGER, head=HEX32, final_height=INTEGER, final=HEX32
)


def p2p_router(node: L1Node) -> APIRouter:
    """``POST /p2p/messages``, ``GET /p2p/status`` and ``GET /certified-blocks``."""
    router = APIRouter(tags=["peers"])
    polls = BlockPolls(node)

    @router.post(
        "/p2p/messages",
        summary="Proposals, votes and transactions, as a MessagePack array",
        description="Each message is an array headed by its tag: `[0, proposal]`, `[1, vote]`, "
        "`[2, [wire, ...]]`. 204 if all of it was taken or harmless, else a problem that names the reasons.",
        status_code=204,
        openapi_extra=_BODY,
        responses=problems(422),
    )
    async def messages(request: Request) -> Response:
        await take_body(node, await request.body())
        return Response(status_code=204)

    @router.get(
        "/p2p/status", summary="Height, final height and head of this node", responses=answers(_STATUS)
    )
    async def status() -> Response:
        head, final = node.head("head"), node.head("finalized")
        assert head is not None
        assert final is not None
        return JsonResponse(
            {
                "genesis_hash": to_json(node.genesis_hash),
                "height": head.header.height,
                "slot": head.header.slot,
                "head": to_json(head.hash),
                "final_height": final.header.height,
                "final": to_json(final.hash),
            }
        )

    @router.get(
        "/certified-blocks",
        summary="Blocks with the votes that made them notarized, as a MessagePack array",
        description="Final blocks, then the notarized chain above them. With `wait` the answer comes "
        "when there is a block at `from`, at the latest after that many seconds (then it may be empty).",
        response_class=Response,
        responses=answers(BINARY, kind=_MSGPACK),
    )
    async def certified_blocks(
        from_: Annotated[QueryInt, Query(alias="from", description="the first height")] = 1,
        limit: Annotated[QueryInt, Query(ge=1, le=MAX_BLOCKS)] = MAX_BLOCKS,
        wait: Annotated[QueryInt, Query(ge=0, le=MAX_WAIT, description="seconds")] = 0,
    ) -> Response:
        return Response(await polls.answer(from_, limit, wait), media_type=_MSGPACK)

    return router


async def take_body(node: L1Node, body: bytes) -> None:
    """Hand what a peer said to the node. Raises `Problem` if any of it is refused for cause."""
    if len(body) > MAX_BODY_BYTES:
        raise Problem(
            413, "body_too_large", "The body is too large", f"a body is at most {MAX_BODY_BYTES} bytes"
        )
    try:
        messages = decode_body(body)
    except CodecError as error:
        raise Problem(400, "malformed_body", "The body is malformed", str(error)[:200]) from None
    refused: set[str] = set()
    for message in messages:
        if isinstance(message, TransactionsMessage):
            reason = None if await node.receive(message.wires) else Rejection.BAD_SIGNATURE
        else:
            said = message.proposal if isinstance(message, ProposalMessage) else message.vote
            reason = node.on_message(said)
        if reason is not None and reason not in _HARMLESS:
            refused.add(reason.value)
            if reason is Rejection.BAD_SIGNATURE:
                break  # nobody honest sends one: the rest is not worth a check each
    if refused:
        raise Problem(
            422,
            "message_refused",
            "A message was refused",
            f"refused for: {', '.join(sorted(refused))}",
            reasons=sorted(refused),
        )


class BlockPolls:
    """Answers to ``GET /certified-blocks``, long polls included; so many at once and no more."""

    def __init__(self, node: L1Node) -> None:
        self._node = node
        self._waiting = 0

    async def answer(self, start: int, limit: int, wait: int) -> bytes:
        """Blocks from ``start`` on, after at most ``wait`` seconds. Raises `Problem` if too many wait."""
        data = _blocks(self._node, start, limit)
        if not wait or data != _EMPTY:
            return data
        if self._waiting >= MAX_WAITING:
            # An empty answer at once would be asked for again at once.
            raise Problem(503, "too_many_polls", "Too many long polls are open", "try again in a moment")
        self._waiting += 1
        try:
            return await _wait_for_blocks(self._node, start, limit, wait)
        finally:
            self._waiting -= 1


async def _wait_for_blocks(node: L1Node, start: int, limit: int, seconds: int) -> bytes:
    loop_time = asyncio.get_running_loop().time
    deadline = loop_time() + seconds
    data = _EMPTY
    while data == _EMPTY and not node.stopping and (left := deadline - loop_time()) > 0:
        await node.changed(left)
        data = _blocks(node, start, limit)
    return data


def _blocks(node: L1Node, start: int, limit: int) -> bytes:
    """As many blocks as fit the answer, at least one if there is one."""
    parts: list[msgspec.Raw] = []
    size = 0
    for block in node.certified_blocks(start, limit):
        part = encode(block)
        size += len(part)
        if parts and size > MAX_ANSWER_BYTES:
            break
        parts.append(msgspec.Raw(part))
    return encode(parts) if parts else _EMPTY
