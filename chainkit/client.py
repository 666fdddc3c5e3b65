"""The HTTP client of the chain API.

Responsible for requests, retries of reads, typed answers and typed errors. Must not know which chain it talks
to, nor keep anything between calls.

Reads (GET) are retried while the service cannot be reached. A write is sent once: the caller knows whether it
may be sent again (a signed transaction may: its nonce admits it once).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import httpx

from chainkit.backend import HeadRef, has_reached
from chainkit.codec import CodecError, decode, encode, parse_hex, parse_json
from chainkit.genesis import Genesis, genesis_from_json
from chainkit.problems import MEDIA_TYPE
from chainkit.state import Account, account_key
from chainkit.store import StoredEvent
from chainkit.transaction import SignedTransaction

RETRIES: Final = 4
FIRST_BACKOFF: Final = 0.1  # seconds; doubles
MAX_BACKOFF: Final = 2.0
MAX_ANSWER: Final = 32 * 1024 * 1024  # bytes that a service can make us hold
POLL_SECONDS: Final = 0.1
MAX_EVENT_LINE: Final = 1024 * 1024
UNREACHABLE: Final = (httpx.HTTPError, httpx.StreamError, OSError, RuntimeError)
"""What a request can fail with. RuntimeError: uvloop raises it on a connection that the other side has just closed."""


class ApiError(Exception):
    """The service refused, or could not be reached (``code`` "unreachable", status 0).

    ``problem`` is the whole problem object; ``code`` is stable.
    """

    def __init__(self, code: str, status: int, detail: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.status = status
        self.detail = detail
        self.problem: Mapping[str, Any] = problem or {}


class WaitTimeoutError(Exception):
    """What was waited for has not come in time. ``last`` is the last answer, if there was one."""

    def __init__(self, message: str, last: Any = None) -> None:
        super().__init__(message)
        self.last = last


@dataclass(frozen=True)
class AccountInfo:
    """An account at a head: gwei, and its next nonce without and with what is pending."""

    address: bytes
    name: str | None
    balance: int
    nonce: int
    pending_nonce: int
    exists: bool
    height: int


@dataclass(frozen=True)
class AccountProof:
    """An account with its Merkle proof; `chainkit.merkle.verify_proof` checks it under ``state_root``."""

    address: bytes
    balance: int
    nonce: int
    proof: bytes
    state_root: bytes
    block_hash: bytes
    height: int

    @property
    def key(self) -> bytes:
        """The state key that the proof is of."""
        return account_key(self.address)


@dataclass(frozen=True)
class Submitted:
    """The answer to one submitted transaction."""

    hash: bytes
    accepted: bool
    code: str
    message: str
    answer: Mapping[str, Any]


@dataclass(frozen=True)
class ReceiptInfo:
    """Where a transaction stands. ``success`` and what follows are None or empty until it is in a block."""

    hash: bytes
    status: str
    height: int | None
    success: bool | None
    code: str
    message: str
    gas_used: int
    fee: int
    events: Sequence[Mapping[str, Any]]
    answer: Mapping[str, Any]


@dataclass(frozen=True)
class Fees:
    """Suggested fees, in gwei per gas."""

    base_fee: int
    max_fee_per_gas: int
    tip_per_gas: int


class ChainClient:
    """The chain API at ``url``. ``timeout`` in seconds is for each request. Close it, or use ``async with``.

    Every method raises `ApiError`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        retries: int = RETRIES,
        token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """``token`` is sent as a bearer token (what ``/faults`` asks for)."""
        self.url = url.rstrip("/")
        self._retries = retries
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=timeout,
            headers={} if token is None else {"authorization": f"Bearer {token}"},
            transport=transport,
            trust_env=False,
            follow_redirects=False,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- requests ---

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """A GET of any route that answers JSON; retried with backoff while the service cannot be reached."""
        return _json(await self.get_bytes(path, params))

    async def get_bytes(
        self, path: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> bytes:
        """As `get`, the body as it is. ``timeout`` for one that takes long on purpose."""
        for attempt in range(self._retries + 1):
            try:
                return await self._send("GET", path, params=_given(params), timeout=timeout)
            except ApiError as error:
                if error.code != "unreachable" or attempt == self._retries:
                    raise
            await asyncio.sleep(min(FIRST_BACKOFF * 2**attempt, MAX_BACKOFF))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def post(self, path: str, body: Any) -> Any:
        """A POST of JSON to any route; sent once."""
        content = json.dumps(body).encode()
        return _json(await self._send("POST", path, content=content, kind="application/json"))

    async def delete(self, path: str) -> Any:
        """A DELETE; sent once."""
        return _json(await self._send("DELETE", path))

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        kind: str | None = None,
        timeout: float | None = None,
    ) -> bytes:
        headers = {} if kind is None else {"content-type": kind}
        request = self._http.build_request(
            method, path, params=params, content=content, headers=headers, timeout=timeout or self._timeout
        )
        try:
            response = await self._http.send(request, stream=True)
            try:
                body = await _read(response)
            finally:
                await response.aclose()
        except UNREACHABLE as error:
            reason = str(error) or type(error).__name__
            raise ApiError("unreachable", 0, f"{self.url} cannot be reached: {reason}") from None
        if response.is_success:
            return body
        raise _api_error(response, body)

    # --- chain ---

    async def status(self) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = await self.get("/status")
        return answer

    async def fees(self) -> Fees:
        """Fees that suffice for the next block and a few full ones."""
        fees = (await self.status())["fees"]
        return Fees(fees["base_fee"], fees["max_fee_per_gas"], fees["tip_per_gas"])

    async def genesis(self) -> Genesis:
        """The chain's genesis. A caller that must not trust the service compares its hash with a known one."""
        return genesis_from_json(await self.get_bytes("/genesis"))

    async def ready(self) -> bool:
        """Whether the service is there and ready; asks once."""
        try:
            await self._send("GET", "/health/ready")
        except ApiError:
            return False
        return True

    async def wait_ready(self, seconds: float) -> None:
        """Return once the service is ready. Raises `WaitTimeoutError` with its last reason."""
        last: ApiError | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        await self._send("GET", "/health/ready")
                        return
                    except ApiError as error:
                        last = error
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise WaitTimeoutError(f"{self.url} is not ready after {seconds:g} s: {last}", last) from None

    async def block(self, ref: int | bytes | str, *, full: bool = False) -> Mapping[str, Any]:
        """A block by height, hash, or "head", "safe", "finalized"."""
        name = _hex(ref) if isinstance(ref, bytes) else str(ref)
        answer: Mapping[str, Any] = await self.get(f"/blocks/{name}", {"full": "true"} if full else None)
        return answer

    async def height(self, ref: HeadRef = "head") -> int:
        """The height of a head; -1 if the chain has no such head yet."""
        head = (await self.status())["heads"][ref]
        return -1 if head is None else int(head["height"])

    async def blocks(self, from_: int | None = None, limit: int = 20) -> Sequence[Mapping[str, Any]]:
        answer = await self.get("/blocks", {"from": from_, "limit": limit})
        blocks: list[Mapping[str, Any]] = answer["blocks"]
        return blocks

    # --- accounts and contracts ---

    async def account(self, address: bytes | str, at: HeadRef = "head") -> AccountInfo:
        """An account by address (or, on a devnet, by well-known name)."""
        a = await self.get(f"/accounts/{_hex(address)}", {"at": at})
        return AccountInfo(
            parse_hex(a["address"]),
            a["name"],
            a["balance"],
            a["nonce"],
            a["pending_nonce"],
            a["exists"],
            a["height"],
        )

    async def account_proof(self, address: bytes | str, at: HeadRef = "finalized") -> AccountProof:
        """An account with its proof; what it says is not checked here."""
        a = await self.get(f"/accounts/{_hex(address)}/proof", {"at": at})
        value = parse_hex(a["value"])
        account = decode(Account, value) if value else Account()
        return AccountProof(
            parse_hex(a["address"]),
            account.balance,
            account.nonce,
            parse_hex(a["proof"]),
            parse_hex(a["state_root"]),
            parse_hex(a["block_hash"]),
            a["height"],
        )

    async def contracts(self) -> Sequence[Mapping[str, Any]]:
        answer: list[Mapping[str, Any]] = (await self.get("/contracts"))["contracts"]
        return answer

    async def contract(self, name: str, at: HeadRef = "head") -> Mapping[str, Any]:
        answer: Mapping[str, Any] = await self.get(f"/contracts/{name}", {"at": at})
        return answer

    # --- transactions ---

    async def submit(self, tx: SignedTransaction) -> Submitted:
        """Submit one transaction. Raises `ApiError` with the reason if it is refused."""
        (result,) = await self.submit_many([tx])
        if not result.accepted:
            raise ApiError(result.code, 422, result.message, result.answer)
        return result

    async def submit_many(self, transactions: Sequence[SignedTransaction]) -> Sequence[Submitted]:
        """Submit up to 1000 transactions in one request; one result each, refusals included."""
        content = encode([tx.wire for tx in transactions])
        body = await self._send("POST", "/transactions", content=content, kind="application/msgpack")
        results = _json(body)["results"]
        return [Submitted(parse_hex(r["hash"]), r["accepted"], r["code"], r["message"], r) for r in results]

    async def submit_json(self, body: Mapping[str, Any]) -> Submitted:
        """Submit a JSON body: signed, or ``{"from": name, "action": {...}}`` on a devnet."""
        r = await self.post("/transactions", body)
        return Submitted(parse_hex(r["hash"]), r["accepted"], r["code"], r["message"], r)

    async def transaction(self, tx_id: bytes) -> ReceiptInfo | None:
        """A transaction; None if the service does not know it."""
        try:
            answer = await self.get(f"/transactions/{_hex(tx_id)}")
        except ApiError as error:
            if error.code == "unknown_transaction":
                return None
            raise
        return _receipt_info(answer)

    async def wait_for_receipt(
        self,
        tx_id: bytes,
        ref: HeadRef = "head",
        timeout: float = 60.0,
        progress: Callable[[ReceiptInfo | None], None] | None = None,
    ) -> ReceiptInfo:
        """Return once the transaction is in the chain up to that head. Raises `WaitTimeoutError`.

        ``progress`` is called with each answer (None: not known). A service that cannot be reached is asked
        again until the time is over.
        """
        last: ReceiptInfo | None = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    with suppress_unreachable():
                        last = await self.transaction(tx_id)
                        if progress is not None:
                            progress(last)
                        if last is not None and last.success is not None and has_reached(last.status, ref):
                            return last
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            status = "unknown" if last is None else last.status
            message = f"transaction {_hex(tx_id)} is not in the {ref} chain after {timeout:g} s: {status}"
            raise WaitTimeoutError(message, last) from None

    # --- events ---

    async def events(self, from_: int = 1, limit: int = 100) -> Sequence[StoredEvent]:
        """At most ``limit`` events from number ``from_`` on."""
        answer = await self.get("/events", {"from": from_, "limit": limit})
        return [_event(item) for item in answer["events"]]

    async def stream_events(self, from_: int = 1) -> AsyncIterator[StoredEvent]:
        """Each event from number ``from_`` on, once and in order, without end; resumes when the stream breaks.

        Raises `ApiError` if the service refuses the stream.
        """
        failures = 0
        while True:
            try:
                async for event in self._stream(from_):
                    failures = 0
                    if event.seq >= from_:
                        from_ = event.seq + 1
                        yield event
            except (httpx.TransportError, CodecError):
                failures += 1
            except ApiError as error:
                if error.status not in (0, 503):
                    raise
                failures += 1
            await asyncio.sleep(min(FIRST_BACKOFF * 2 ** min(failures, 10), MAX_BACKOFF))

    async def _stream(self, from_: int) -> AsyncIterator[StoredEvent]:
        limits = httpx.Timeout(self._timeout, read=60.0)  # the service sends a ping every 15 s
        async with self._http.stream(
            "GET", "/events/stream", params={"from": from_}, timeout=limits
        ) as response:
            if not response.is_success:
                raise _api_error(response, await _read(response))
            typed = False
            async for line in response.aiter_lines():
                if len(line) > MAX_EVENT_LINE:
                    raise CodecError("an event is too large")
                if line.startswith("event:") or not line:
                    typed = bool(line)  # a message of a type of its own is about the stream, and no event
                elif line.startswith("data:") and not typed:
                    yield _event(parse_json(line[5:].strip()))


class suppress_unreachable(suppress):  # noqa: N801 - reads as the built-in it narrows
    """Suppress an `ApiError` that says the service cannot be reached, and no other."""

    def __init__(self) -> None:
        super().__init__(ApiError)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, ApiError) and error.code in ("unreachable", "overloaded")


async def _read(response: httpx.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_ANSWER:
            raise ApiError("answer_too_large", response.status_code, f"an answer of over {MAX_ANSWER} bytes")
        parts.append(part)
    return b"".join(parts)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError("not_json", 200, "the service answered something that is not JSON") from None


def _api_error(response: httpx.Response, body: bytes) -> ApiError:
    problem: Any = None
    if response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        with suppress(ValueError, RecursionError):
            problem = json.loads(body)
    if not isinstance(problem, dict):
        return ApiError(f"http_{response.status_code}", response.status_code, f"HTTP {response.status_code}")
    code, detail = str(problem.get("code", "")), str(problem.get("detail", ""))
    return ApiError(code, response.status_code, detail, problem)


def _receipt_info(answer: Mapping[str, Any]) -> ReceiptInfo:
    receipt = answer["receipt"]
    tx_id, status, height = parse_hex(answer["hash"]), answer["status"], answer["height"]
    if receipt is None:
        return ReceiptInfo(tx_id, status, height, None, "", "", 0, 0, (), answer)
    return ReceiptInfo(
        tx_id,
        status,
        height,
        receipt["success"],
        receipt["code"],
        receipt["message"],
        receipt["gas_used"],
        receipt["fee"],
        receipt["events"],
        answer,
    )


def _event(item: Mapping[str, Any]) -> StoredEvent:
    try:
        tx = None if item["tx"] is None else parse_hex(item["tx"], "tx", 32)
        return StoredEvent(item["seq"], item["height"], item["source"], item["name"], item["data"], tx)
    except (KeyError, TypeError):
        raise CodecError("not an event") from None


def _hex(value: bytes | str) -> str:
    return value if isinstance(value, str) else "0x" + value.hex()


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (params or {}).items() if value is not None}
