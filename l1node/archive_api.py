"""What somebody who believes no node asks of one: receipts and state, each bound to a header that validators signed.

Responsible for ``GET /receipts`` and ``GET /state``. Must not know who asks: an auditor, or a client that keeps books
of its own (docs/AUDIT.md). Blocks with their certificates are beside: ``GET /certified-blocks``.
"""

from collections import deque
from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from chainkit.codec import Bytes32, encode
from chainkit.merkle import Tree
from chainkit.openapi import BINARY, answers, problems
from chainkit.ops_api import QueryInt
from chainkit.problems import Problem
from l1node.node import L1Node

MAX_BLOCKS: Final = 128
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_ENTRIES: Final = 16_384
MAX_BITS: Final = 16
KEPT: Final = 64
"""Final blocks whose states can still be read; a state shares what has not changed with the next one."""
_MSGPACK: Final = "application/msgpack"
_ANSWER = answers({"type": "string", "format": "binary"}, kind=_MSGPACK)


class RecentStates:
    """The states after the last final blocks, by height."""

    def __init__(self, node: L1Node) -> None:
        self._node = node
        self._kept: deque[tuple[int, Bytes32, Tree]] = deque(maxlen=KEPT)

    def note(self) -> None:
        """Keep the last final state, if it is a new one."""
        final = self._node.head("finalized")
        if final is not None and (not self._kept or self._kept[-1][1] != final.hash):
            self._kept.append((final.header.height, final.hash, final.tree))

    def at(self, height: int | None) -> tuple[int, Bytes32, Tree]:
        """The last one, or that of a height. Raises `Problem` if it is not kept."""
        self.note()
        for kept in reversed(self._kept):
            if height in (None, kept[0]):
                return kept
        first, last = self._kept[0][0], self._kept[-1][0]
        raise Problem(
            404,
            "state_not_kept",
            "The state is not kept",
            f"of blocks {first} to {last} states can be read, if they were the last final ones when somebody asked",
        )


def archive_router(node: L1Node) -> APIRouter:
    """The two routes over a node."""
    router = APIRouter(tags=["audit"])
    states = RecentStates(node)

    @router.get(
        "/receipts",
        summary="The encoded receipts of final blocks, as a MessagePack array of an array for each block",
        description="Their list root is `receipts_root` of the block's header. As many blocks as fit the answer, "
        "one at least if there is one.",
        response_class=Response,
        responses=answers(BINARY, kind=_MSGPACK),
    )
    async def receipts(
        from_: Annotated[QueryInt, Query(alias="from", ge=1, description="the first height")] = 1,
        limit: Annotated[QueryInt, Query(ge=1, le=MAX_BLOCKS)] = MAX_BLOCKS,
    ) -> Response:
        return Response(encode(_receipts(node, from_, limit)), media_type=_MSGPACK)

    @router.get(
        "/state",
        summary="Part of the state after a final block, as MessagePack",
        description="`[height, block_hash, [[key, value], ...]]`: the entries whose key hashes begin with the `bits` "
        "bits of `part`. All parts of one block together have its header's `state_root`. A part with more than "
        f"{MAX_ENTRIES} entries or {MAX_ANSWER_BYTES} bytes is refused (`part_too_large`): ask for more bits. "
        f"The last {KEPT} final blocks can be "
        "asked for by `height`; ask for all parts of one.",
        response_class=Response,
        responses=answers(BINARY, kind=_MSGPACK) | problems(404),
    )
    async def state(
        height: Annotated[QueryInt | None, Query(description="of a final block (default: the last)")] = None,
        part: Annotated[QueryInt, Query(lt=1 << MAX_BITS)] = 0,
        bits: Annotated[QueryInt, Query(le=MAX_BITS)] = 0,
    ) -> Response:
        if part >> bits:
            raise Problem(
                422, "no_such_part", "No such part", f"with {bits} bits parts are 0 to {(1 << bits) - 1}"
            )
        at, block_hash, tree = states.at(height)
        return Response(encode([at, block_hash, _entries(tree, part, bits)]), media_type=_MSGPACK)

    return router


def _entries(tree: Tree, part: int, bits: int) -> list[tuple[bytes, bytes]]:
    """The entries of a part. Raises `Problem` if they are more than an answer may hold; the smallest parts are given
    as they are."""
    found: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in tree.part(part, bits) if bits else tree.items():
        found.append((key, value))
        size += len(key) + len(value)
        if bits < MAX_BITS and (len(found) > MAX_ENTRIES or size > MAX_ANSWER_BYTES):
            limit = f"over {MAX_ENTRIES} entries or {MAX_ANSWER_BYTES} bytes: give more bits"
            raise Problem(422, "part_too_large", "The part is too large", limit)
    return found


def _receipts(node: L1Node, start: int, limit: int) -> list[list[bytes]]:
    found: list[list[bytes]] = []
    size = 0
    final = node.head("finalized")
    assert final is not None
    for height in range(max(1, start), min(start + limit, final.header.height + 1)):
        own = [encode(stored.receipt) for stored in node.disk.store.transactions_of(height)]
        size += sum(map(len, own))
        if found and size > MAX_ANSWER_BYTES:
            break
        found.append(own)
    return found
