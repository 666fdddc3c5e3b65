"""What every service serves besides its own matter: health, metrics, and the event log.

Responsible for those routes and for strict query parameters. Must not know what kind of service it is in.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BeforeValidator
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from chainkit.codec import MAX_AMOUNT
from chainkit.events import TURN_SECONDS, DisplacedError, EventLog, TooManyFollowersError
from chainkit.openapi import INTEGER, OBJECT, TEXT, answers, listed, nullable, shape
from chainkit.problems import Problem
from chainkit.store import StoredEvent
from chainkit.views import json_bytes

MAX_EVENTS: Final = 1000
PING_SECONDS: Final = 15
SEND_TIMEOUT: Final = 20  # seconds until a reader that takes nothing is let go; its connection ends before

_YES: Final = {"type": "boolean", "const": True}
_LIVE: Final = shape(live=_YES)
_READY: Final = shape(ready=_YES)
_EVENT: Final = shape(seq=INTEGER, height=INTEGER, source=TEXT, name=TEXT, data=OBJECT, tx=nullable(TEXT))
_MESSAGE: Final = {
    **shape(id={"type": "string", "pattern": "^[0-9]{1,16}$"}, data=TEXT),
    "description": "one message; `data` is an event as `GET /events` shows it, as JSON text",
}
_FROM: Final = {"pattern": "^(now|[0-9]{1,16})$"}
_LAST: Final = {"pattern": "^[0-9]{0,16}$"}

ReadyCheck = Callable[[], tuple[bool, Mapping[str, Any]]]


def strict_int(value: Any) -> int:
    """ASCII digits to an integer: Python and pydantic both read much more than that as a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not (value.isascii() and value.isdigit()) or len(value) > 16:
        raise ValueError("must be an integer from 0 to 2**53 - 1, in plain digits")
    return int(value)


QueryInt = Annotated[int, BeforeValidator(strict_int), Query(ge=0, le=MAX_AMOUNT)]
PathInt = Annotated[int, BeforeValidator(strict_int), Path(ge=0, le=MAX_AMOUNT)]


class JsonResponse(Response):
    """JSON through msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json_bytes(content)


def health_router(ready: ReadyCheck) -> APIRouter:
    """``GET /health/live`` and ``GET /health/ready``."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live", summary="Whether the process answers", responses=answers(_LIVE))
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get(
        "/health/ready",
        summary="Whether the service is of use now (503 and what it waits for if not)",
        responses=answers(_READY),
    )
    async def is_ready() -> Response:
        good, reason = ready()
        if not good:
            raise Problem(503, "not_ready", "The service is not ready", **dict(reason))
        return JsonResponse({"ready": True, **reason})

    return router


class GaugeCollector(Collector):
    """Serves ``layerlab_<name>`` gauges from a function that is called at each scrape."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, value in self._read().items():
            yield GaugeMetricFamily(f"layerlab_{name}", name.replace("_", " "), value)


def metrics_router(*gauges: Callable[[], Mapping[str, float]]) -> APIRouter:
    """``GET /metrics`` in Prometheus text, from a registry of its own."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    for read in gauges:
        registry.register(GaugeCollector(read))
    router = APIRouter(tags=["health"])

    @router.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses=answers(TEXT, kind="text/plain"),
    )
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


def events_router(log: EventLog) -> APIRouter:
    """``GET /events`` and ``GET /events/stream`` over an event log."""
    router = APIRouter(tags=["events"])

    @router.get(
        "/events",
        summary="Events by number, oldest first",
        responses=answers(shape(events=listed(_EVENT), next=INTEGER, last=INTEGER)),
    )
    async def events(
        from_: Annotated[
            QueryInt, Query(alias="from", description="the first number (1 is the first event)")
        ] = 1,
        limit: Annotated[QueryInt, Query(ge=1, le=MAX_EVENTS)] = 100,
    ) -> Response:
        found = log.read(from_, limit)
        next_seq = found[-1].seq + 1 if found else max(from_, 1)
        return JsonResponse(
            {"events": [event.to_json() for event in found], "next": next_seq, "last": log.last_seq}
        )

    @router.get(
        "/events/stream",
        summary="Server-sent events: each event once, in order, from the first on",
        description="The id of each message is its number. A connection that broke is resumed with the "
        "header `Last-Event-ID` (browsers send it by themselves) or with `?from=`; `?from=now` leaves out "
        "the past. A message of the type `closing` is the last one: its data say why (`code`) and where to go on.",
        response_class=EventSourceResponse,
        responses=answers(_MESSAGE, kind="text/event-stream"),
    )
    async def stream(
        request: Request,
        from_: Annotated[str, Query(alias="from", max_length=16, json_schema_extra=_FROM)] = "1",
        last_event_id: Annotated[str | None, Header(max_length=16, json_schema_extra=_LAST)] = None,
    ) -> Response:
        start = _stream_start(log, from_, last_event_id)
        who = request.client.host if request.client else ""
        if log.is_full(who):
            detail = f"a place may be free in {TURN_SECONDS:g} s; nothing is lost meanwhile"
            raise Problem(503, "too_many_streams", "Too many event streams are open", detail)
        return EventSourceResponse(
            _messages(log, start, who), ping=PING_SECONDS, send_timeout=SEND_TIMEOUT, sep="\n"
        )

    return router


def _stream_start(log: EventLog, from_: str, last_event_id: str | None) -> int:
    if last_event_id:  # a browser that reconnects repeats the whole address, so the header goes first
        return _checked(last_event_id, "Last-Event-ID") + 1
    return log.last_seq + 1 if from_ == "now" else _checked(from_, "from")


def _checked(text: str, where: str) -> int:
    try:
        return strict_int(text)
    except ValueError as error:
        raise Problem(
            422, "invalid_parameter", "A parameter is invalid", f"{where} {error}", parameter=where
        ) from None


async def _messages(log: EventLog, start: int, who: str) -> AsyncIterator[ServerSentEvent]:
    try:
        async for event in log.follow(start, who):
            start = event.seq + 1
            yield _message(event)
    except TooManyFollowersError:
        yield _closing("too_many_streams", start)
    except DisplacedError:
        yield _closing("displaced", start)


def _closing(code: str, start: int) -> ServerSentEvent:
    """The last message of a stream that somebody else's needs the place of."""
    return ServerSentEvent(json_bytes({"code": code, "next": start}).decode(), event="closing")


def _message(event: StoredEvent) -> ServerSentEvent:
    return ServerSentEvent(json_bytes(event.to_json()).decode(), id=str(event.seq))
