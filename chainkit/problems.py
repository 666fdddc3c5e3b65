"""RFC 9457 problem details: the one shape in which every HTTP service refuses.

Responsible for what is in ``application/problem+json``, with a stable ``code``. Must not know how it is answered
(chainkit/problem_answers.py), nor load a web framework: clients read problems, too.
"""

import json
from typing import Any

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - RFC 9457's own term
    """A refusal. ``code`` is stable and for programs; ``title`` is the same for each code, ``detail`` is not.

    ``extra`` are further members of the JSON object, such as ``known`` for what does exist.
    """

    def __init__(self, status: int, code: str, title: str, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or title)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.extra = extra

    def to_json(self) -> dict[str, Any]:
        """The problem details object."""
        return {
            "type": f"urn:layerlab:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail or self.title,
            **self.extra,
        }

    def body(self) -> bytes:
        """The object as JSON bytes."""
        return json.dumps(self.to_json()).encode()


def not_found(what: str, name: object, **extra: Any) -> Problem:
    """404 for a thing that is not there; give ``known=`` where a list of what is there is short."""
    shown = str(name)[:100]
    return Problem(
        404, f"unknown_{what}", f"No such {what.replace('_', ' ')}", f"{shown} is not known", **extra
    )


def internal_error() -> Problem:
    """500 for what nobody has foreseen."""
    return Problem(500, "internal_error", "The service failed", "the log of the service says why")
