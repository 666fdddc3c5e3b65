"""What ``/openapi.json`` says beyond what FastAPI finds by itself: refusals, answers and bodies, as they truly are.

Responsible for the words in which routes describe their answers, for the refusals that every route shares, and for
the JSON schemas of records. Must not know which routes exist. The schemas describe; what is checked is checked
elsewhere. `tests/openapi` asks every running service whether it is true.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import inspect as mi

from chainkit.codec import MAX_AMOUNT, snake_name
from chainkit.problems import MEDIA_TYPE
from chainkit.transaction import Body, Call, Transfer

Schema = dict[str, Any]
Responses = dict[int | str, Any]

INTEGER: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": MAX_AMOUNT}
BOOLEAN: Final[Schema] = {"type": "boolean"}
TEXT: Final[Schema] = {"type": "string"}
OBJECT: Final[Schema] = {"type": "object"}
BINARY: Final[Schema] = {"type": "string", "format": "binary"}
HEX: Final[Schema] = {"type": "string", "pattern": "^0x([0-9a-f]{2})*$"}
HEX32: Final[Schema] = {"type": "string", "pattern": "^0x[0-9a-f]{64}$"}
NAME: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 80}
"""0x-hex of an address, or on a devnet a well-known name."""
WHO: Final = {"pattern": "^(0x[0-9a-f]{64}|[a-z0-9][a-z0-9-]*)$"}
"""An address or a name, in a path or a query; on a chain that is no devnet only the former."""
HASH: Final = {"pattern": "^0x[0-9a-f]{64}$"}
INDEX_OR_HASH: Final = {"pattern": "^([0-9]{1,16}|0x[0-9a-f]{64})$"}

TOKEN: Final = "faultToken"
SECURED: Final[list[dict[str, list[str]]]] = [{TOKEN: []}]
"""``security`` of a route that needs the fault token."""

_PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "RFC 9457 problem details; `code` is stable. Some codes have further members.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string", "pattern": "^urn:layerlab:problem:[a-z0-9_]+$"},
        "title": {"type": "string", "minLength": 1},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "code": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"},
        "detail": {"type": "string", "minLength": 1},
    },
}
_WHY: Final = {
    400: "The body or the request is malformed",
    401: "A token is required",
    403: "Not allowed: a wrong token, another site, or a devnet's service asked of another chain",
    404: "There is no such thing here",
    408: "The body came too slowly",
    409: "Not as things stand: the code says what is in the way",
    413: "The body is too large",
    422: "A parameter or what is asked for is invalid",
    429: "Too many transactions of one sender wait",
    503: "Not now: overloaded, not ready, or no node answers",
}
_WRITES: Final = frozenset({"post", "put", "patch", "delete"})


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def shape(optional: Mapping[str, Schema] | None = None, /, **members: Schema) -> Schema:
    """An object that has at least these members. A trailing underscore is dropped: ``from_`` is ``from``."""
    properties = {name.rstrip("_"): schema for name, schema in members.items()}
    required = {"required": list(properties)} if properties else {}
    return {"type": "object", **required, "properties": {**properties, **(optional or {})}}


def answers(schema: Schema, status: int = 200, kind: str = "application/json") -> Responses:
    """``responses=`` of a route that succeeds with this."""
    return {status: {"description": "As asked", "content": {kind: {"schema": schema}}}}


def problems(*statuses: int) -> Responses:
    """``responses=`` of what a route refuses with, besides what every route may (`install_openapi`)."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _WHY[status], "content": content} for status in statuses}


# --- bodies -------------------------------------------------------------------------------------------------


def record_schema(kind: type[Any]) -> Schema:
    """The JSON face of a record, as `chainkit.codec.from_json` takes it."""
    return _schema(mi.type_info(kind))


def _schema(info: mi.Type) -> Schema:
    if isinstance(info, mi.StructType):
        fields = {field.name: _schema(field.type) for field in info.fields}
        needed = [field.name for field in info.fields if field.required]
        if info.tag is not None:
            fields, needed = {"type": one_of(snake_name(info.cls)), **fields}, ["type", *needed]
        return {"type": "object", "properties": fields, "required": needed, "additionalProperties": False}
    if isinstance(info, mi.UnionType):
        return {"anyOf": [_schema(item) for item in info.types]}
    if isinstance(info, (mi.ListType, mi.VarTupleType)):
        bound = {} if info.max_length is None else {"maxItems": info.max_length}
        return {**listed(_schema(info.item_type)), **bound}
    if isinstance(info, mi.BytesType):
        fixed = info.min_length if info.min_length == info.max_length else None
        return HEX if fixed is None else {"type": "string", "pattern": f"^0x[0-9a-f]{{{2 * fixed}}}$"}
    if isinstance(info, mi.IntType):
        return {"type": "integer", "minimum": info.ge, "maximum": info.le}
    if isinstance(info, mi.StrType):
        pattern = {} if info.pattern is None else {"pattern": info.pattern.replace(r"\Z", "$")}
        return {"type": "string", **pattern}
    return {"type": "null"} if isinstance(info, mi.NoneType) else BOOLEAN


def _action(devnet: bool) -> Schema:
    """An action as people write it: a call's arguments by name or as hex; on a devnet also names of accounts."""
    transfer, call = record_schema(Transfer), record_schema(Call)
    if devnet:
        transfer["properties"]["to"] = NAME
    call["properties"]["args"] = {"anyOf": [HEX, OBJECT]}
    call["required"] = ["type", "contract", "method"]
    return {"anyOf": [transfer, call]}


ACTION: Final = _action(devnet=True)
"""The ``action`` of a devnet request."""


def signed_schema() -> Schema:
    """A signed transaction; ``hash`` may stand in it, as ``GET /transactions`` shows it."""
    wire = record_schema(Body)
    signature = {"type": "string", "pattern": "^0x[0-9a-f]{128}$"}
    wire["properties"].update(action=_action(devnet=False), signature=signature, hash=HEX32)
    wire["required"].append("signature")
    return {**wire, "title": "A signed transaction"}


_NUMBERS: Final = {
    name: nullable(INTEGER) for name in ("nonce", "gas_limit", "max_fee_per_gas", "tip_per_gas")
}


def dev_schema(fields: Mapping[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    """A request to sign for the well-known account ``from``, on a devnet only; with the call's own ``fields``."""
    return {
        "title": "On a devnet: signed with a well-known key",
        "type": "object",
        "properties": {"from": TEXT, **fields, **_NUMBERS},
        "required": ["from", *required],
        "additionalProperties": False,
    }


def body(content: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """``openapi_extra=`` of a route that reads its body itself."""
    return {"requestBody": {"required": True, "content": dict(content)}, **more}


# --- the document -------------------------------------------------------------------------------------------


def install_openapi(app: FastAPI) -> None:
    """Have ``app`` describe itself truly."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            app.openapi_schema = _complete(made)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    schemas = {"Problem": _PROBLEM}
    scheme = {"type": "http", "scheme": "bearer", "description": "the fault token of the service"}
    document["components"] = {"schemas": schemas, "securitySchemes": {TOKEN: scheme}}
    for path, methods in document.get("paths", {}).items():
        for method, operation in methods.items():
            _complete_parameters(path, operation)
            _complete_responses(method, operation)
    return document


def _complete_parameters(path: str, operation: dict[str, Any]) -> None:
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter["schema"] = _without_null(parameter["schema"])
    known = {parameter["name"] for parameter in parameters}
    for name in re.findall(r"{(\w+)}", path):  # one that no function asks for
        if name not in known:
            parameters.append({"name": name, "in": "path", "required": True, "schema": TEXT})


def _complete_responses(method: str, operation: dict[str, Any]) -> None:
    shared = [503]
    if operation["parameters"]:
        shared.append(422)
    if method in _WRITES:
        shared.append(403)
    if "requestBody" in operation:
        shared += [400, 408, 413]
    responses = operation["responses"]
    # Whatever FastAPI made of a refusal, it is a problem.
    refused = {int(status) for status in responses if status >= "400"}
    responses.update({str(status): found for status, found in problems(*shared, *refused).items()})
    operation["responses"] = dict(sorted(responses.items()))


def _without_null(schema: Schema) -> Schema:
    """A parameter is there or not: the word ``null`` is no value."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) != 1:
        return schema
    return {**{key: value for key, value in schema.items() if key != "anyOf"}, **options[0]}
