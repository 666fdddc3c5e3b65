"""Logging to stderr: one line an event, ``key=value`` after the message.

Responsible for the format. Must not know what is logged.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")


class LineFormatter(logging.Formatter):
    """``2026-01-01T00:00:00.000Z INFO l1node logger: message key=value``; ``extra={"fields": {...}}``."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"
        message = (
            record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        )  # one line, whatever it quotes
        fields = getattr(record, "fields", None) or {}
        shown = "".join(f" {key}={_value(value)}" for key, value in fields.items())
        line = f"{stamp} {record.levelname} {self._service} {record.name}: {message}{shown}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    text = str(value)
    return text if text and text.isprintable() and " " not in text and '"' not in text else json.dumps(text)


def configure_logging(service: str, level: str = "info") -> None:
    """Send all logging of this process to stderr in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "sse_starlette", "asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
