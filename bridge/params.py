"""Path and query values of the bridge service, strictly read.

Responsible for ids, addresses and for saying what does exist where something does not. Must not know what is
done with them.
"""

from typing import Annotated, Final

from fastapi import Path, Query

from chainkit.codec import MAX_AMOUNT, Address, Bytes32, CodecError, parse_hex
from chainkit.genesis import Genesis
from chainkit.keys import is_valid_address
from chainkit.openapi import INDEX_OR_HASH, WHO
from chainkit.ops_api import QueryInt
from chainkit.problems import Problem
from chainkit.submission import dev_key

MAX_PAGE: Final = 100

Limit = Annotated[QueryInt, Query(ge=1, le=MAX_PAGE, description="how many at most")]
From = Annotated[QueryInt | None, Query(alias="from", description="the first; without it the last ones")]
Id = Annotated[
    str,
    Path(
        description="an index, or a transaction's 0x-hash",
        max_length=66,
        json_schema_extra=dict(INDEX_OR_HASH),
    ),
]
AddressText = Annotated[
    str,
    Query(
        description="0x-hex; on a devnet also a well-known name", max_length=80, json_schema_extra=dict(WHO)
    ),
]


def parse_id(text: str, what: str) -> int | Bytes32:
    """A plain index or a 32-byte 0x-hash. Raises `Problem`."""
    if text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_AMOUNT:
        return int(text)
    try:
        return parse_hex(text, f"a {what} id", 32)
    except CodecError:
        raise Problem(
            422, "invalid_id", "Not an id", f"a {what} is named by its index or by a 0x-hash of 64 hex digits"
        ) from None


def parse_address(genesis: Genesis, text: str) -> Address:
    """An address, or on a devnet a well-known name. Raises `Problem`."""
    if not text.startswith("0x") and genesis.devnet:
        return dev_key(genesis, text).address
    try:
        address = parse_hex(text, "an address", 32)
    except CodecError as error:
        raise Problem(422, "invalid_address", "Not an address", str(error)) from None
    if not is_valid_address(address):
        raise Problem(422, "invalid_address", "Not an address", "it is not a valid Ed25519 public key")
    return address


def unknown(what: str, name: object, plural: str, count: int) -> Problem:
    """404 that says what there is."""
    shown = str(name)[:80]
    known = f"{plural} 0..{count - 1}" if count else f"no {plural} yet"
    code = "unknown_" + what.replace(" ", "_")
    return Problem(
        404, code, f"No such {what}", f"{what} {shown} is not known; there are {known}", known=known
    )


def page(total: int, start: int | None, limit: int) -> range:
    """The places of a page among ``total``; without ``start`` the last ones."""
    first = max(0, total - limit) if start is None else start
    return range(min(first, total), min(first + limit, total))
