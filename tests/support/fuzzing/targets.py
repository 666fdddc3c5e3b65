"""Every target by name."""

from fuzzing.decoders import DECODERS
from fuzzing.handlers import HANDLERS
from fuzzing.http import REQUESTS
from fuzzing.target import Target

ALL = {target.name: target for target in (*DECODERS, *HANDLERS, REQUESTS)}


def chosen(name: str | None) -> list[Target]:
    """One target, or all. Raises `SystemExit` for a name that there is not."""
    if not name:
        return list(ALL.values())
    if name not in ALL:
        raise SystemExit(f"no target {name!r}; there are: {', '.join(ALL)}")
    return [ALL[name]]
