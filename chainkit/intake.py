"""The way of submitted transactions from a request's body to the pool, and back as an answer.

Responsible for signatures (checked once, in `chainkit.signature_pool`), for one result for each transaction, for
waiting until they are in a block if the client asks for that, and for the short way that a MessagePack body takes
past routing and validation, which would cost more than all the rest. Must not know which chain is behind it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chainkit.backend import ChainBackend, SubmitResult
from chainkit.codec import Bytes32, to_json
from chainkit.http_limits import FORGET_BODY
from chainkit.problems import MEDIA_TYPE, Problem
from chainkit.signature_pool import SignaturePool
from chainkit.submission import read_batch, refusals
from chainkit.transaction import IsAccount, SignedTransaction, no_account

PATH: Final = "/transactions"
MSGPACK: Final = "application/msgpack"
_MSGPACK: Final = MSGPACK.encode()
KINDS: Final = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})
MAX_WAITING: Final = 16_384
"""Signatures that may wait for their check: half a second of two cores."""
MAX_WAIT_MS: Final = 10_000

Included = Callable[[Sequence[Bytes32], float], Awaitable[Mapping[Bytes32, Mapping[str, Any]]]]
"""Waits until these transactions are in a block, so many seconds at most; members to add to the result of each."""


class _Row(msgspec.Struct):
    """A result without further members; as JSON or MessagePack an object."""

    hash: str | bytes
    accepted: bool
    code: str
    message: str


_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode


class Intake:
    """Takes transactions for a backend. ``included`` None: this chain does not let clients wait for a block;
    ``accounts`` gives what `check_submitted` calls ``is_account``, as it is at the moment."""

    def __init__(
        self,
        backend: ChainBackend,
        pool: SignaturePool | None = None,
        included: Included | None = None,
        accounts: Callable[[], IsAccount] = lambda: no_account,
    ) -> None:
        self._backend = backend
        self._pool = pool or SignaturePool()
        self._included = included
        self._accounts = accounts

    async def submit(
        self, transactions: Sequence[SignedTransaction], wait_ms: int = 0
    ) -> Sequence[SubmitResult]:
        """Check and offer transactions, in order; one result each. Raises `Problem` if there is too much to do."""
        found = await self._offer(transactions)
        return await self._wait(found, wait_ms) if wait_ms else found

    async def _offer(self, transactions: Sequence[SignedTransaction]) -> Sequence[SubmitResult]:
        if self._pool.waiting + len(transactions) > MAX_WAITING:
            detail = f"{self._pool.waiting} signatures wait to be checked; try again in a moment"
            raise Problem(503, "overloaded", "The service is overloaded", detail)
        await self._pool.verify(transactions)
        refused = refusals(self._backend.rules, transactions, self._accounts())
        good = (
            [tx for place, tx in enumerate(transactions) if place not in refused] if refused else transactions
        )
        results = list(await self._backend.submit(good)) if good else []
        for place, refusal in refused.items():  # from the first on, so that each comes to its place
            results.insert(place, SubmitResult(transactions[place].id, False, refusal.code, refusal.message))
        return [self._or_included(result) if result.code else result for result in results]

    async def wait_for(self, result: SubmitResult, wait_ms: int) -> SubmitResult:
        """The same result with what is known when the transaction is in a block, or after so many ms."""
        (found,) = await self._wait([result], wait_ms)
        return found

    def _or_included(self, result: SubmitResult) -> SubmitResult:
        """The pool knows no blocks: what is old to it may stand in one."""
        if result.code not in ("stale_nonce", "already_known"):
            return result
        # One that stands in a rollup's block without having run (a forced one) may still be sent.
        height = self._backend.included_at(result.hash)
        if height is None:
            return result
        if height < 0:
            return SubmitResult(result.hash, True, "already_known", "the transaction is already waiting")
        return SubmitResult(
            result.hash, False, "already_included", f"it is in block {height}", {"height": height}
        )

    async def _wait(self, results: Sequence[SubmitResult], wait_ms: int) -> Sequence[SubmitResult]:
        if self._included is None:
            return results
        accepted = [result.hash for result in results if result.accepted]
        found = await self._included(accepted, wait_ms / 1000)
        return [
            result.with_members(found[result.hash]) if result.hash in found else result for result in results
        ]

    async def bulk(
        self, body: list[bytes], query: bytes, accept: bytes, forget: Callable[[], None] = lambda: None
    ) -> tuple[str, bytes]:
        """The answer to a MessagePack body, which is taken out of the list ``body``: media type and bytes.
        ``forget`` is called when nothing of it is held any more, before anything is waited for. Raises `Problem`."""
        wait_ms = self.wait_ms(query)
        results = await self._offer(read_batch(self._backend.rules, body.pop()))
        forget()
        if wait_ms:
            results = await self._wait(results, wait_ms)
        if _MSGPACK in accept:
            return MSGPACK, _to_msgpack({"results": [_packed(result) for result in results]})
        return "application/json", results_json(results)

    def wait_ms(self, query: bytes) -> int:
        """The parameter ``wait`` of a query string, in ms. Raises `Problem`."""
        if not query:
            return 0
        try:
            fields = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=64)
        except ValueError:
            raise Problem(
                422, "invalid_parameter", "A parameter is invalid", "at most 64 parameters"
            ) from None
        text = dict(fields).get("wait")
        if text is None:
            return 0
        if self._included is None:
            detail = "wait: this chain answers at once; ask for the transaction later"
        elif text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_WAIT_MS:
            return int(text)
        else:
            detail = f"wait: must be an integer from 0 to {MAX_WAIT_MS}"
        raise Problem(422, "invalid_parameter", "A parameter is invalid", detail, parameter="wait")


def result_json(result: SubmitResult) -> Any:
    """What the API shows of a result, for a JSON encoder."""
    shown = "0x" + result.hash.hex()
    if not result.extra:
        return _Row(shown, result.accepted, result.code, result.message)
    members = {"hash": shown, "accepted": result.accepted, "code": result.code, "message": result.message}
    return {**members, **to_json(result.extra)}


def results_json(results: Sequence[SubmitResult]) -> bytes:
    """The JSON answer to a body. Nearly always all are taken, and there is nothing to say of them but their hashes."""
    rows = []
    for r in results:
        if not r.accepted or r.code or r.message or r.extra:
            return _to_json({"results": [result_json(result) for result in results]})
        rows.append(f'{{"hash":"0x{r.hash.hex()}","accepted":true,"code":"","message":""}}')
    return f'{{"results":[{",".join(rows)}]}}'.encode()


def _packed(result: SubmitResult) -> Any:
    row = _Row(result.hash, result.accepted, result.code, result.message)
    return {**msgspec.structs.asdict(row), **result.extra} if result.extra else row


class BulkRoute:
    """ASGI middleware: ``POST /transactions`` with a MessagePack body goes straight to the intake.

    It belongs inside `chainkit.http_limits`; the route of the same name documents it and answers the same.
    """

    def __init__(self, app: ASGIApp, intake: Intake) -> None:
        self._app = app
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        kind = accept = b""
        for name, value in scope["headers"]:
            if name == b"content-type":
                kind = value
            elif name == b"accept":
                accept = value
        if kind != _MSGPACK and media_type(kind) not in KINDS:
            await self._app(scope, receive, send)
            return
        try:
            body = await _body(receive)
            if body is None:
                return
            status, forget, held = 202, scope.get(FORGET_BODY, _nothing), [body]
            del body
            shown, answer = await self._intake.bulk(held, scope["query_string"], accept, forget)
        except Problem as problem:
            status, shown, answer = problem.status, MEDIA_TYPE, problem.body()
        length = str(len(answer)).encode()
        headers = [(b"content-type", shown.encode()), (b"content-length", length)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def _nothing() -> None:
    """Nobody counts the bytes."""


def media_type(content_type: bytes) -> str:
    """``Application/MsgPack; charset=x`` -> ``application/msgpack``."""
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None if the client has gone."""
    message: Message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return bytes(message.get("body", b""))
    parts: list[bytes] = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    return None
