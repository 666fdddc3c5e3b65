"""What a fuzz target is: bytes in; True, False, or an error that is a bug.

Responsible for that shape and for the properties that all decoders share. Must not know any decoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chainkit.codec import CodecError, decode, encode

Run = Callable[[bytes], bool]
"""True: the bytes are something; False: they were refused with the error that is promised. All else it raises."""
Seeds = Callable[[], list[bytes]]


@dataclass(frozen=True)
class Target:
    """``about`` is what is fuzzed, for people. ``seeds`` are valid inputs, made of real objects.

    ``handler``: the bytes are not decoded but drive a state machine. ``slow``: a thousandth of the usual number of
    random byte strings that were mutated from valid ones is enough (each costs milliseconds).
    """

    name: str
    about: str
    run: Run
    seeds: Seeds
    handler: bool = False
    slow: bool = False
    max_bytes: int = 4096


def refusing(function: Callable[[bytes], Any], *errors: type[Exception]) -> Run:
    """A target of a function that takes bytes and promises these errors."""

    def run(data: bytes) -> bool:
        try:
            function(data)
        except errors:
            return False
        return True

    return run


def canonical(kind: Any, limit: int = 1 << 20) -> Run:
    """A target of the codec: one encoding per value, and a copy of the value has the same."""

    def run(data: bytes) -> bool:
        try:
            value: Any = decode(kind, data, limit=limit)
        except CodecError:
            return False
        assert encode(value) == data, "encode(decode(b)) == b"
        assert decode(kind, encode(value), limit=limit) == value
        return True

    return run


def one_of(kinds: list[Any]) -> Run:
    """As `canonical`; the first byte says which kind."""
    runs = [canonical(kind) for kind in kinds]
    return lambda data: runs[data[0] % len(runs)](data[1:]) if data else False


def seeds_of(kinds: list[Any], values: list[Any]) -> list[bytes]:
    """Seeds for `one_of`: each value under the number of its own type."""
    return [bytes([kinds.index(type(value))]) + encode(value) for value in values]
