"""One encoding per object, strict JSON (P21): whatever two readers could disagree about, as bytes and as text."""

import json
import math
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit.codec import (
    MAX_AMOUNT,
    U53,
    Address,
    CodecError,
    Name,
    Record,
    decode,
    decode_together,
    encode,
    from_json,
    list_length,
    parse_hex,
    parse_json,
    snake_name,
    to_json,
    validated,
)
from chainkit.transaction import Body, Call, Transfer


class Inner(Record, frozen=True):
    n: U53
    b: bytes = b""


class Outer(Record, frozen=True):
    address: Address
    inner: Inner
    items: list[Inner]
    name: str = "x"
    maybe: Inner | None = None
    action: Transfer | Call | None = None


GOOD = Outer(bytes(32), Inner(1), [Inner(2), Inner(MAX_AMOUNT, b"\xff")], maybe=Inner(3))
quick = settings(max_examples=200, deadline=None)


# --- bytes ---


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_the_length_of_a_list_is_read_from_its_head_alone(count: int) -> None:
    data = encode([0] * count)
    head = len(data) - count
    assert list_length(data) == list_length(memoryview(data[:head])) == count
    with pytest.raises(CodecError):
        list_length(data[: head - 1])


@pytest.mark.parametrize(
    "data", [b"", b"\x8f", b"\xa0", b"\xdc", b"\xdc\x00", b"\xdd\x00\x00\x00", b"\xc4\x01\x00"]
)
def test_what_begins_with_no_list_has_no_length(data: bytes) -> None:
    with pytest.raises(CodecError):
        list_length(data)


@quick
@given(
    st.builds(
        Outer,
        st.binary(min_size=32, max_size=32),
        st.builds(Inner, st.integers(0, MAX_AMOUNT), st.binary(max_size=300)),
        st.lists(st.builds(Inner, st.integers(0, MAX_AMOUNT)), max_size=20),
        st.text(max_size=40),
        st.none() | st.builds(Inner, st.integers(0, 300)),
        st.none() | st.builds(Transfer, st.binary(min_size=32, max_size=32), st.integers(0, MAX_AMOUNT)),
    )
)
def test_round_trips(value: Outer) -> None:
    data = encode(value)
    assert decode(Outer, data) == value
    assert from_json(Outer, parse_json(json.dumps(to_json(value)))) == value
    for cut in range(0, len(data), 7):
        with pytest.raises(CodecError):
            decode(Outer, data[:cut])
    with pytest.raises(CodecError):
        decode(Outer, data + b"\x00")


@quick
@given(st.integers(0, 1000), st.integers(0, 7))
def test_a_flipped_bit_decodes_to_something_else_or_not_at_all(where: int, bit: int) -> None:
    data = bytearray(encode(GOOD))
    data[where % len(data)] ^= 1 << bit
    try:
        value = decode(Outer, bytes(data))
    except CodecError:
        return
    assert value != GOOD
    assert encode(value) == bytes(data)


@quick
@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    for kind in (Outer, Body, Inner):
        with suppress(CodecError):
            assert encode(decode(kind, data)) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x92\xcc\x01\xc4\x00",  # 1 in two bytes
        b"\x92\xcd\x00\x01\xc4\x00",
        b"\x92\xcf" + bytes(7) + b"\x01\xc4\x00",
        b"\x92\xd0\x01\xc4\x00",  # 1 as a signed integer
        b"\x92\xd3" + bytes(7) + b"\x01\xc4\x00",
        b"\x92\xff\xc4\x00",  # -1
        b"\x92\xcf\x00\x20" + bytes(6) + b"\xc4\x00",  # 2**53
        b"\x92\xcf" + b"\xff" * 8 + b"\xc4\x00",  # 2**64 - 1
        b"\x92\xc3\xc4\x00",  # true
        b"\x92\xc0\xc4\x00",  # nil
        b"\x92\xa11\xc4\x00",  # "1"
        b"\x92\xcb\x3f\xf0" + bytes(6) + b"\xc4\x00",  # 1.0
        b"\x92\xca\x3f\x80\x00\x00\xc4\x00",  # 1.0 in four bytes
        b"\x92\xcb\x7f\xf8" + bytes(6) + b"\xc4\x00",  # NaN
        b"\x92\x01\xc5\x00\x00",  # the length of b in two bytes
        b"\x92\x01\xc6\x00\x00\x00\x00",
        b"\x92\x01\xa0",  # text for bytes
        b"\xdc\x00\x02\x01\xc4\x00",  # the array's length in two bytes
        b"\xdd\x00\x00\x00\x02\x01\xc4\x00",
        b"\x91\x01",  # a field left to its default
        b"\x93\x01\xc4\x00\xc0",  # a field too many
        b"\x82\xa1n\x01\xa1b\xc4\x00",  # a map
        b"\x92\x01\xc4\x00\xc0",
        b"\x92\x01\xc4\x05\x00",
        b"\x92\x01\xc6\xff\xff\xff\xff",  # claims 4 GiB
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_every_other_encoding_is_refused(data: bytes) -> None:
    assert decode(Inner, encode(Inner(1))) == Inner(1)
    with pytest.raises(CodecError):
        decode(Inner, data)


def respelled(n: int) -> bytes:
    """What reads as ``Inner(n)`` and is not its encoding."""
    return b"\x92\xcf" + n.to_bytes(8, "big") + b"\xc4\x00"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.builds(Inner, st.integers(0, 300), st.binary(max_size=4)).map(encode), min_size=1, max_size=20
    ),
    st.integers(0, 19),
    st.sampled_from(["good", "good", "respelled", "cut", "longer", "empty", "earlier", "later"]),
    st.sampled_from([8, 100, 100]),
)
def test_many_at_once_are_read_as_each_alone(items: list[bytes], place: int, what: str, limit: int) -> None:
    """Also where one of them ends later or earlier than it should, and the next begins there."""
    place %= len(items)
    item, following = items[place], b"".join(items[place + 1 : place + 2])
    spoiled = {
        "good": [item, following],
        "respelled": [respelled(place), following],
        "cut": [item[:-1], following],
        "longer": [item + b"\x00", following],
        "empty": [b"", following],
        "earlier": [item[:-1], item[-1:] + following],
        "later": [item + following[:1], following[1:]],
    }[what]
    items[place : place + 2] = spoiled if following else spoiled[:1]
    alone: list[Inner] | None = None
    with suppress(CodecError):
        alone = [decode(Inner, each, limit=limit) for each in items]
    assert decode_together(Inner, items, limit=limit) == alone


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_many_at_once_are_as_many_as_one_likes(count: int) -> None:
    items = [encode(Inner(7))] * count
    assert decode_together(Inner, items) == [Inner(7)] * count
    assert count == 0 or decode_together(Inner, [*items[1:], respelled(7)]) is None


def test_size_is_bounded_before_decoding_and_nesting_while() -> None:
    with pytest.raises(CodecError, match="at most 10 bytes"):
        decode(Inner, bytes(11), limit=10)
    for deep in (b"\x91" * 100_000, b"\x92\x01" * 50_000):
        with pytest.raises(CodecError):
            decode(Outer, deep)
        with pytest.raises(CodecError):
            decode(list, deep)


def test_only_bytes_are_decoded() -> None:
    for junk in ("\x92", None, 5, [1], bytearray(encode(Inner(1)))):
        with pytest.raises(CodecError):
            decode(Inner, junk)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [-1, 2**53, 2**64, 2**64 - 1, True, 1.0, "1", math.nan, None])
def test_a_record_built_in_code_can_be_checked(n: Any) -> None:
    with pytest.raises((CodecError, OverflowError)):
        validated(Inner(n))


@pytest.mark.parametrize("name", ["", "A", "1a", "a" * 33, "a-b", "a b", "a\n", "é", "\u0430", "a\x00", "_a"])
def test_a_name_is_ascii_and_nothing_else(name: str) -> None:
    with pytest.raises(CodecError):
        decode(Call, encode(Call(name, "m", b"", 0)))
    assert decode(Call, encode(Call("a_1", "m", b"", 0))).contract == "a_1"


# --- JSON ---


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 1, "n": 2}',
        '{"n": 1, "x": {"a": 1, "a": 1}}',
        '{"n": 1, "\\u006e": 2}',
        '{"n": NaN}',
        '{"n": Infinity}',
        '{"n": -Infinity}',
        '{"n": 1.0}',
        '{"n": 1e2}',
        '{"n": 1E400}',
        '{"n": ' + "9" * 5000 + "}",
        '{"n": 01}',
        '{"n": 0x10}',
        '{"n": 1_000}',
        '{"n": +1}',
        "{'n': 1}",
        '{"n": 1} x',
        '{"n": 1}{"n": 1}',
        '{"n": ٣}',
        "",
        "\ufeff{}",
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_json_that_python_would_take_or_choke_on(text: str) -> None:
    with pytest.raises(CodecError):
        parse_json(text)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b'{"n": "\xff"}', '{"n": 1}'.encode("utf-16"), b"\xef\xbb\xbf{}"]
)
def test_json_is_utf_8(data: bytes) -> None:
    with pytest.raises(CodecError):
        parse_json(data)


def test_json_size_is_bounded() -> None:
    with pytest.raises(CodecError, match="larger than 10 bytes"):
        parse_json(b" " * 11, limit=10)


@pytest.mark.parametrize(
    "n", [-1, 2**53, 2**64, 10**19, True, False, 1.0, "1", "٣", math.nan, None, [], {}, "0x01"]
)
def test_an_amount_in_json_is_an_integer_in_range(n: Any) -> None:
    assert from_json(Inner, {"n": 0}) == Inner(0)
    with pytest.raises(CodecError, match=r"^n must be"):
        from_json(Inner, {"n": n})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        "0x0",
        "0X00",
        "0xAA",
        "0x 00",
        "0x00 ",
        "0x0 0",
        "0x00\n",
        "0xg0",
        "0x٣٣",
        "0x_0",
        0,
        None,
        b"0x00",
    ],
)
def test_hex_is_lower_case_digits_and_nothing_else(text: Any) -> None:
    assert parse_hex("0x00ff") == b"\x00\xff"
    assert parse_hex("0x") == b""
    with pytest.raises(CodecError):
        parse_hex(text)
    with pytest.raises(CodecError):
        from_json(Inner, {"n": 1, "b": text})


def test_hex_of_another_size_is_named() -> None:
    with pytest.raises(CodecError, match="who must be 32 bytes, not 2"):
        parse_hex("0x0000", "who", 32)


def good_json() -> dict[str, Any]:
    shown = to_json(GOOD)
    assert isinstance(shown, dict)
    return shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "unknown field 'extra'"),
        ({"type": "outer"}, "unknown field 'type'"),
        ({"inner": {"n": 1, "m": 2}}, "unknown field 'm'"),
        ({"inner": {}}, "field 'inner.n' is missing"),
        ({"inner": [1]}, "inner must be an object"),
        ({"items": {}}, "items must be a list"),
        ({"items": [{"n": -1}]}, r"items\[0\].n must be"),
        ({"address": "0x00"}, "length >= 32"),
        ({"name": 5}, "Expected `str`"),
        ({"name": "\ud800"}, "name is not valid Unicode"),
        ({"action": {"type": "burn"}}, "action.type must be one of call, transfer"),
        ({"action": {}}, "action.type must be one of"),
        ({"action": {"type": ["transfer"]}}, "action.type must be one of"),
        ({"action": 0}, "action.type must be one of"),
        ({"action": {"type": "transfer", "to": "0x" + "00" * 32}}, "field 'action.amount' is missing"),
    ],
)
def test_the_bad_field_is_named(change: dict[str, Any], message: str) -> None:
    assert from_json(Outer, good_json()) == GOOD
    with pytest.raises(CodecError, match=message):
        from_json(Outer, {**good_json(), **change})


@pytest.mark.parametrize("value", [None, [], 5, "x", True])
def test_a_body_is_an_object(value: Any) -> None:
    with pytest.raises(CodecError, match="the body must be an object"):
        from_json(Inner, value)


def test_lone_surrogates_do_not_reach_the_encoder() -> None:
    value = parse_json(
        '{"address": "0x' + "00" * 32 + '", "inner": {"n": 1}, "items": [], "name": "\\ud800"}'
    )
    with pytest.raises(CodecError):
        from_json(Outer, value)


def test_union_members_carry_their_type() -> None:
    action = Transfer(bytes(32), 5)
    assert to_json(action) == {"type": "transfer", "to": "0x" + "00" * 32, "amount": 5}
    assert snake_name(type("BeginBlock", (), {})) == "begin_block"
    with_action = Outer(bytes(32), Inner(1), [], action=action)
    assert from_json(Outer, to_json(with_action)) == with_action


def test_the_annotations_are_what_the_tests_think() -> None:
    class Named(Record, frozen=True):
        name: Name
        short: Annotated[bytes, msgspec.Meta(max_length=2)]

    with pytest.raises(CodecError):
        from_json(Named, {"name": "ok", "short": "0x000000"})
    assert from_json(Named, {"name": "ok", "short": "0x0000"}).short == b"\x00\x00"
