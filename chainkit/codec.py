"""The canonical codec: one byte string per object, and its JSON face.

Responsible for turning records into bytes and back, refusing every byte string that is not *the* encoding
of what it decodes to, and for the strict JSON that the API speaks (bytes as ``0x`` hex, integers only).
Must not know what any record means.

Wire format: MessagePack, every record an array of its fields in order, a member of a union headed by its
integer tag. Canonical means ``encode(decode(b)) == b``; anything else is a `CodecError` (promise P21).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta
from msgspec import inspect as mi

MAX_AMOUNT = 2**53 - 1
"""The largest integer that a JSON number carries exactly; no amount reaches it."""

U53 = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
Amount = U53
"""An integer number of gwei, 0 <= x < 2**53."""
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Address = Bytes32
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]

MAX_DECODE_BYTES = 4 * 1024 * 1024


class CodecError(ValueError):
    """The bytes or the JSON are not the canonical form of the wanted type. The message says where."""


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of everything that is hashed, signed, stored or sent: immutable, encoded as an array.

    No cycle can go through what never changes, so Python's garbage collector need not walk over it.
    """


T = TypeVar("T")
encode: Final[Callable[[object], bytes]] = msgspec.msgpack.Encoder().encode
"""The canonical bytes of a record (or of a list, integer, string or bytes). The library's own function: it is called
for every value that is written, and one of ours around it would cost a third more."""
_NOT_DECODED = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)


def _make_decoder(kind: Any) -> Callable[[bytes | memoryview], Any]:
    return msgspec.msgpack.Decoder(kind, strict=True).decode


_decoder: Callable[[Any], Callable[[bytes | memoryview], Any]] = lru_cache(maxsize=512)(_make_decoder)


def decode(kind: type[T], data: bytes, *, limit: int = MAX_DECODE_BYTES) -> T:
    """Decode canonical bytes. Raises `CodecError` on anything but the one encoding of a ``kind``."""
    if not isinstance(data, (bytes, memoryview)) or len(data) > limit:
        raise CodecError(f"expected at most {limit} bytes of {_type_name(kind)}")
    try:
        value: T = _decoder(kind)(data)
    except _NOT_DECODED as error:
        raise CodecError(f"not a {_type_name(kind)}: {error}") from None
    if encode(value) != data:
        raise CodecError(f"not the canonical encoding of a {_type_name(kind)}")
    return value


def decode_together(
    kind: type[T], items: Sequence[bytes], *, limit: int = MAX_DECODE_BYTES
) -> list[T] | None:
    """`decode` of each, for less; None if it would raise for any of them: then one by one, to learn which and why.

    All are encoded and compared at once. No encoding of a value is the beginning of another's, so two lists of
    encodings that follow each other are the same bytes only if they are the same encodings.
    """
    if max(map(len, items), default=0) > limit:
        return None
    decoder = _decoder(kind)
    try:
        values: list[T] = [decoder(item) for item in items]
    except _NOT_DECODED:
        return None
    return values if encode(values) == _list_head(len(items)) + b"".join(items) else None


def _list_head(count: int) -> bytes:
    """What stands before the items of a list of so many."""
    return encode([None] * count)[: -count or None]


def list_length(data: bytes | memoryview) -> int:
    """How many items the list that ``data`` begins with says it has, before any of them is looked at.

    Raises `CodecError` if no list begins there.
    """
    head = data[0] if data else 0
    if 0x90 <= head <= 0x9F:
        return head - 0x90
    size = {0xDC: 2, 0xDD: 4}.get(head)
    if size is None or len(data) <= size:
        raise CodecError("expected a list")
    return int.from_bytes(data[1 : 1 + size], "big")


def validated(value: T) -> T:
    """Check a record built in code against the ranges that its type declares; returns it."""
    decode(type(value), encode(value))
    return value


def _type_name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


# --- JSON -----------------------------------------------------------------------------------------------


def parse_json(data: bytes | str, *, limit: int = MAX_DECODE_BYTES) -> Any:
    """Strict JSON: no duplicate keys, no floats, no NaN, bounded size and nesting. Raises `CodecError`."""
    if len(data) > limit:
        raise CodecError(f"JSON body larger than {limit} bytes")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_float=_no_floats,
            parse_constant=_no_floats,
            parse_int=_bounded_int,
        )
    except CodecError:
        raise
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not valid JSON: {str(error) or 'nested too deeply'}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise CodecError("an object has the same key twice")
    return result


def _no_floats(text: str) -> Any:
    raise CodecError(f"{text} is not an integer; amounts are whole gwei")


def _bounded_int(text: str) -> int:
    if len(text) > 20:
        raise CodecError("an integer is out of range (0 <= x < 2**53)")
    return int(text)


def to_json(value: Any) -> Any:
    """The JSON face of a record: an object by field name, bytes as 0x-hex, a union member with its "type"."""
    if isinstance(value, msgspec.Struct):
        fields = {name: to_json(getattr(value, name)) for name in value.__struct_fields__}
        if value.__struct_config__.tag is not None:
            return {"type": snake_name(type(value)), **fields}
        return fields
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "0x" + bytes(value).hex()
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], value: Any) -> T:
    """Read a record from its JSON face. Raises `CodecError` naming the field; unknown fields are refused."""
    plain = _plain(mi.type_info(kind), value, "")
    try:
        return msgspec.convert(plain, kind, strict=True, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise CodecError(str(error)) from None


def snake_name(kind: type) -> str:
    """``BeginBlock`` -> ``begin_block``: how a union member is called in JSON."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


_HEX = re.compile(r"0x(?:[0-9a-f]{2})*")


def parse_hex(text: Any, where: str = "value", size: int | None = None) -> bytes:
    """Lower-case 0x-hex to bytes, nothing else (no spaces, no capitals). Raises `CodecError`."""
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise CodecError(f"{where} must be 0x followed by lower-case hex digits")
    data = bytes.fromhex(text[2:])
    if size is not None and len(data) != size:
        raise CodecError(f"{where} must be {size} bytes, not {len(data)}")
    return data


def _plain(info: mi.Type, value: Any, path: str) -> Any:
    where = path or "the body"
    if isinstance(info, mi.StructType):
        return _plain_struct(info, value, path)
    if isinstance(info, mi.UnionType):
        return _plain_union(info, value, path)
    if isinstance(info, mi.BytesType):
        return parse_hex(value, where)
    if isinstance(info, (mi.ListType, mi.VarTupleType)):
        if not isinstance(value, list):
            raise CodecError(f"{where} must be a list")
        return [_plain(info.item_type, item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(info, mi.IntType):
        if type(value) is not int:
            raise CodecError(f"{where} must be an integer")
        low, high = info.ge, info.le
        if (low is not None and value < low) or (high is not None and value > high):
            raise CodecError(f"{where} must be from {low} to {high}")
        return value
    if isinstance(info, mi.StrType) and isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # JSON's escapes can spell half a character, which no bytes encode
            raise CodecError(f"{where} is not valid Unicode") from None
    return value


def _plain_struct(info: mi.StructType, value: Any, path: str) -> list[Any]:
    if not isinstance(value, dict):
        raise CodecError(f"{path or 'the body'} must be an object")
    names = [field.name for field in info.fields]
    unknown = sorted(set(value) - set(names) - ({"type"} if info.tag is not None else set()))
    if unknown:
        raise CodecError(f"unknown field {unknown[0]!r}; known are {', '.join(names)}")
    plain: list[Any] = [] if info.tag is None else [info.tag]
    for field in info.fields:
        where = f"{path}.{field.name}" if path else field.name
        if field.name not in value:
            if field.required:
                raise CodecError(f"field {where!r} is missing")
            plain.append(field.default if field.default is not msgspec.NODEFAULT else field.default_factory())
        else:
            plain.append(_plain(field.type, value[field.name], where))
    return plain


def _plain_union(info: mi.UnionType, value: Any, path: str) -> Any:
    if value is None and any(isinstance(t, mi.NoneType) for t in info.types):
        return None
    options = [t for t in info.types if not isinstance(t, mi.NoneType)]
    if len(options) == 1:
        return _plain(options[0], value, path)
    structs = {snake_name(t.cls): t for t in options if isinstance(t, mi.StructType)}
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in structs:
        raise CodecError(f"{path or 'the body'}.type must be one of {', '.join(sorted(structs))}")
    return _plain_struct(structs[kind], value, path)
