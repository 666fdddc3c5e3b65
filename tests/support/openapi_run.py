"""Schemathesis against one running service: what it sends, what it checks, what it found.

Responsible for the settings (phases, checks, seed) and for a report that names each failure and how to repeat it. Must
not know how the services are started.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

SEED: Final = 20_220_802  # the day of Nomad
SECONDS: Final = 10.0
STREAM_SECONDS: Final = 1.0
"""How long an event stream is listened to; that nothing happens in that time is no failure."""
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)
"""``positive_data_acceptance`` is left out: a transfer whose every field is right may still not be affordable."""


@dataclass
class Report:
    """``operations`` by label: how many requests; ``statuses``: how often each was answered."""

    operations: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(self.operations.values())

    def __str__(self) -> str:
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        lines = [f"{self.requests} requests to {len(self.operations)} operations; answers {answers}"]
        lines += self.errors
        for number, (what, command) in enumerate(self.failures.items(), 1):
            lines.append(f"{number}. {what}\n   {command}")
        return "\n".join(lines)


@schemathesis.serializer("application/msgpack")
def _binary(_: Any, value: Any) -> bytes:
    """The schema says that it is a binary string, and so what is generated are bytes already."""
    found = getattr(value, "data", value)
    return found if isinstance(found, bytes) else str(found).encode()


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    """A long poll is a long poll: ten of these would be minutes."""
    wait = (case.query or {}).get("wait")
    if case.path == "/certified-blocks" and isinstance(wait, int) and 1 < wait <= 30:
        case.query["wait"] = 1


def settings(url: str, token: str, examples: int, seed: int, *, short: bool) -> SchemathesisConfig:
    """How a run goes. ``examples`` are for each operation, besides the boundary values of its schema; a ``short``
    run leaves out those of bodies, of which there are thousands, and most methods: `wrong_methods` tries them all."""
    only: dict[str, Any] = {"enabled": False, **{name: {"enabled": True} for name in CHECKS}}
    phases: dict[str, Any] = {
        "examples": {"enabled": True},
        "coverage": {"enabled": True, "unexpected-methods": ["PATCH"] if short else list(METHODS)},
        "fuzzing": {"enabled": True},
        "stateful": {"enabled": False},
    }
    special: list[dict[str, Any]] = [{"include-path": "/events/stream", "request-timeout": STREAM_SECONDS}]
    if short:
        special.append({"include-method": "POST", "phases": {"coverage": {"enabled": False}}})
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "base-url": url,
            "request-timeout": SECONDS,
            "max-stream-events": 1,
            "continue-on-failure": True,
            "headers": {"Authorization": f"Bearer {token}"},
            "checks": only,
            "phases": phases,
            "operations": special,
            "generation": {
                "max-examples": examples,
                "deterministic": True,
                "no-shrink": True,
                "database": "none",
            },
        }
    )


def check_service(url: str, token: str, *, examples: int, seed: int = SEED, short: bool = False) -> Report:
    """Send every operation of ``/openapi.json`` its share of requests, and judge each answer."""
    config = settings(url, token, examples, seed, short=short)
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)

    report = Report()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _note(report, event)
        elif isinstance(event, events.NonFatalError):
            report.errors.append(f"{event.label}: {event.info.title}: {event.info.message}"[:2000])
        elif isinstance(event, events.FatalError):
            raise event.exception
    return report


def _note(report: Report, event: events.ScenarioFinished) -> None:
    recorder = event.recorder
    for case_id, interaction in recorder.interactions.items():
        report.operations[recorder.label] += 1
        if interaction.response is not None:
            report.statuses[interaction.response.status_code] += 1
        for check in recorder.checks.get(case_id, ()):
            if check.failure_info is not None:
                failure = check.failure_info.failure
                key = f"{recorder.label}: {failure.title}: {failure.message[:600]}"
                report.failures.setdefault(key, check.failure_info.code_sample[:1500])


def operations(http: httpx.Client) -> set[str]:
    """Every operation of a service, as ``GET /status``."""
    paths = http.get("/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def wrong_methods(http: httpx.Client) -> list[str]:
    """Methods that no operation has, and that are not refused with 405, a problem and ``Allow``."""
    wrong = []
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        allowed = {method.upper() for method in methods}
        for method in sorted(set(METHODS) - allowed):
            address = path.replace("{", "").replace("}", "")
            found = http.request(method, address)
            shown = found.headers.get("allow", "")
            told = {word.strip() for word in shown.split(",")} - {"HEAD", "OPTIONS"}
            kind = found.headers["content-type"]
            if found.status_code != 405 or kind != "application/problem+json" or told != allowed:
                wrong.append(f"{method} {path}: {found.status_code} {kind} Allow: {shown}")
    return wrong
