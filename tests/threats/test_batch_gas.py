"""Who posts a batch pays for what it makes every validator do, however small its data was made."""

import tracemalloc
import zlib

import pytest
from bridge_harness import KEYS, L1_CHAIN, SETTINGS, World, address
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import rollup.batch
import rollup.packing
from bridge import abi
from chainkit.codec import decode, encode
from chainkit.execution import Receipt
from chainkit.transaction import Body, Call, SignedTransaction
from rollup.batch import BatchBlock, encode_batch
from rollup.contents import forget_contents
from rollup.packing import PackedBlock, _Columns

BOND = SETTINGS.proposer_bond
STEPS = 16_384
LARGE = replace(
    SETTINGS,
    max_steps=STEPS,
    dispute_clock=60,
    challenge_window=100,
    escape_timeout=300,
    exit_window=400,
)
MIB = 2**20
LARGEST = 4 * MIB


def many(count: int) -> bytes:
    """The head of a list of so many."""
    return b"\xdd" + count.to_bytes(4, "big")


def columns(**changes: object) -> bytes:
    nothing = _Columns(0, b"", [PackedBlock(0, 0, 0)], b"", *[b"\x01"] * 7, [])
    return encode(replace(nothing, **changes))


EMPTY_BLOCK = b"\x93\x00\x00\x90"
PLAIN: dict[str, bytes] = {
    "two million empty transactions": b"\x91\x93\x00\x00" + many(2_000_000) + b"\xc4\x00" * 2_000_000,
    "spread over blocks": many(STEPS - 1) + (b"\x93\x00\x00\xdc\x00\x64" + b"\xc4\x00" * 100) * (STEPS - 1),
    "a million empty blocks": many(10**6) + EMPTY_BLOCK * 10**6,
    "one block too many": many(STEPS + 1) + EMPTY_BLOCK * (STEPS + 1),
    "not a batch": bytes(LARGEST),
    "lists in lists": b"\x91\x93\x00\x00\x91" + b"\x91" * 4_000_000 + b"\x90",
    "lists in lists that Python may read": b"\x91\x93\x00\x00\x91" + b"\x91" * 900 + b"\x90",
    "lists in lists that it may not": b"\x91\x93\x00\x00\x91" + b"\x91" * 9_000 + b"\x90",
    "deep, and too many": b"\x91\x93\x00\x00"
    + many(20_000)
    + b"\x91" * 9_000
    + b"\x90"
    + b"\xc4\x00" * 19_999,
    "shallow, and too many": b"\x91\x93\x00\x00"
    + many(20_000)
    + b"\x91" * 9
    + b"\x90"
    + b"\xc4\x00" * 19_999,
    "bad after many": b"\x92\x93\x00\x00" + many(16_000) + b"\xc4\x00" * 16_000 + b"\xc0",
}
PACKED: dict[str, bytes] = {
    "131,000 zero addresses": columns(addresses=bytes(32 * 131_000)),
    "a transaction and three addresses": columns(addresses=bytes(96), kinds=b"\x00"),
    "no end of actions": columns(actions=[b""] * 2**18),
    "too many blocks": columns(blocks=[PackedBlock(0, 0, 0)] * (STEPS + 1)),
    "too many kinds": columns(kinds=bytes(STEPS)),
}
REFUSED = {
    **{name: b"\x00" + zlib.compress(plain, 9) for name, plain in PLAIN.items()},
    **{name: b"\x01" + zlib.compress(plain, 9) for name, plain in PACKED.items()},
}
SIZES = {name: len(plain) for name, plain in [*PLAIN.items(), *PACKED.items()]}
ZEROS = zlib.compress(bytes(LARGEST), 9)
NO_STREAM = {
    "a byte too long": zlib.compress(bytes(LARGEST + 1), 9),
    "20 times too long": zlib.compress(bytes(20 * LARGEST), 9),
    "bad at its end": ZEROS[:-1] + bytes([ZEROS[-1] ^ 1]),
    "bad at its beginning": b"\x79" + ZEROS[1:],
    "cut in the middle": ZEROS[: len(ZEROS) // 2],
    "cut at its end": ZEROS[:-1],
    "nothing": b"",
}


def documented(inflated: int) -> int:
    """What docs/PROTOCOL.md says that reading data costs which is then refused."""
    return 60 * (-(-inflated // 64) + 3 * min(STEPS, inflated // 2))


@pytest.fixture(scope="module")
def world() -> World:
    return World(LARGE)


def submit(world: World, data: bytes, gas_limit: int = 20_000_000) -> Receipt:
    """The receipt of a batch of ``data``, which nobody has read before; nothing of it stays."""
    args = abi.SubmitBatchArgs(0, 0, data, bytes([7]) * 32)
    nonce = world.state.account(address("sequencer")).nonce
    action = Call("bridge", "submit_batch", encode(args), BOND)
    body = Body(L1_CHAIN, address("sequencer"), nonce, gas_limit, 16, 0, action)
    tx = SignedTransaction.sign(body, KEYS["sequencer"])
    block, skipped = world.chain.build(world.tip, world.tip.header.slot + 1, bytes(32), [tx])
    assert not skipped
    return block.receipts[0]


def paid_for_reading(world: World, data: bytes) -> int:
    """Gas beside that of data of the same size which nobody reads."""
    forget_contents()
    unread = submit(world, b"\x02" + data[1:] if data else b"")
    read = submit(world, data)
    assert (unread.code, read.code) == ("bad_batch", "bad_batch")
    return read.gas_used - unread.gas_used


@pytest.mark.parametrize("name", REFUSED)
def test_batch_gas_is_for_inflated_bytes_though_it_is_refused(world: World, name: str) -> None:
    """A few KB that stand for millions: their gas follows from the inflated size, wherever the reader gave up."""
    assert len(REFUSED[name]) < 25_000
    assert paid_for_reading(world, REFUSED[name]) == documented(SIZES[name])


@pytest.mark.parametrize("version", [b"\x00", b"\x01"])
@pytest.mark.parametrize("name", NO_STREAM)
def test_batch_gas_of_what_does_not_inflate_is_that_of_the_longest(
    world: World, name: str, version: bytes
) -> None:
    """How far one gets with a broken stream depends on the build of zlib; gas must not."""
    assert paid_for_reading(world, version + NO_STREAM[name]) == 60 * LARGEST // 64


def test_batch_gas_of_a_block_full_of_bombs_buys_no_more_work_than_transfers_do(world: World) -> None:
    """What fits one L1 block is at most 16 such calls; before they were charged for, there were a thousand."""
    limit = world.chain.rules.fees.block_gas_limit
    used = submit(world, REFUSED["two million empty transactions"]).gas_used
    assert limit // used <= 16


@pytest.mark.parametrize(
    "name", [name for name, size in SIZES.items() if size > MIB and not name.startswith("deep")]
)
def test_batch_gas_pays_before_anything_is_decoded(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one transaction, action, block or address of too many is made an object: they are counted first."""
    decoded: list[object] = []

    def watching(kind: type, data: bytes, *, limit: int) -> object:
        decoded.append(kind)
        return decode(kind, data, limit=limit)

    monkeypatch.setattr(rollup.batch, "decode", watching)
    monkeypatch.setattr(rollup.packing, "decode", watching)
    tracemalloc.start()
    try:
        assert submit(world, REFUSED[name]).code == "bad_batch"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rollup.batch._Blocks not in decoded
    assert rollup.packing._Columns not in decoded
    assert peak < 5 * LARGEST


@pytest.mark.parametrize("bomb", ["two million empty transactions", "131,000 zero addresses", "not a batch"])
def test_batch_gas_that_is_short_buys_as_many_bytes_as_it_pays_for(world: World, bomb: str) -> None:
    """All of it is used up, and what it does not pay for is never inflated."""
    data = REFUSED[bomb]
    before = submit(world, b"\x02" + data[1:]).gas_used
    for pays in (0, MIB // 4, MIB):
        tracemalloc.start()
        try:
            receipt = submit(world, data, before + 60 * pays // 64)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (receipt.code, receipt.gas_used) == ("out_of_gas", before + 60 * pays // 64)
        assert peak < 3 * pays + MIB // 2


def test_batch_gas_that_pays_for_inflating_only_decodes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = 1_000
    data = encode_batch([BatchBlock(0, 0, [])] * blocks)
    before = submit(world, b"\x02" + data[1:]).gas_used
    inflating = 60 * -(-(3 + 4 * blocks) // 64)
    calls: list[object] = []
    real = rollup.batch.decode
    monkeypatch.setattr(
        rollup.batch, "decode", lambda *args, **more: calls.append(args) or real(*args, **more)
    )
    for steps in (0, blocks - 1):
        forget_contents()
        limit = before + inflating + 60 * 3 * steps
        assert submit(world, data, limit).code == "out_of_gas"
        assert calls == []
    forget_contents()
    assert submit(world, data).code == ""
    assert len(calls) == 2


wires = st.one_of(st.binary(max_size=300), st.integers(0, 2_000).map(bytes))
batches = st.lists(st.lists(wires, max_size=20), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches, st.booleans(), st.integers(0, 9))
def test_batch_gas_of_any_plain_batch_is_the_documented_function(
    world: World, batch: list[list[bytes]], whole: bool, level: int
) -> None:
    """Accepted or refused, read now or kept from before, compressed well or badly."""
    plain = encode([[0, 0, wires] for wires in batch]) if whole else encode([[0, wires] for wires in batch])
    data = b"\x00" + zlib.compress(plain, level)
    unread = submit(world, b"\x02" + data[1:]).gas_used
    forget_contents()
    first, again = submit(world, data), submit(world, data)
    assert first == again
    if not whole:
        assert first.code == "bad_batch"
        assert first.gas_used - unread == documented(len(plain))
        return
    assert first.success
    steps, committed = len(batch) + sum(map(len, batch)), sum(len(wire) for wires in batch for wire in wires)
    reading = 60 * (-(-len(plain) // 64) + 3 * steps + committed // 64)
    # What comes after reading (the record, the event) costs what it costs, whatever the batch was read from.
    rest = first.gas_used - unread - reading
    empty = encode_batch([BatchBlock(0, 0, [])])
    cost = submit(world, empty).gas_used - submit(world, b"\x02" + empty[1:]).gas_used
    assert abs(rest - (cost - 60 * (1 + 3))) < 200  # bytes of the record


@pytest.mark.parametrize("data", [encode_batch([BatchBlock(0, 0, [bytes(9)] * 40)])], ids=["plain"])
def test_batch_gas_is_the_same_whatever_was_kept(world: World, data: bytes) -> None:
    """A node that read the batch before, and one that did not, must agree at every gas limit."""
    full = submit(world, data).gas_used
    least = submit(world, b"\x02" + data[1:]).gas_used - 120
    for limit in range(least, full + 200, 977):
        forget_contents()
        fresh = submit(world, data, limit)
        submit(world, data)
        assert submit(world, data, limit) == fresh


numbers = st.lists(st.integers(0, 2**53 - 1), min_size=6, max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(numbers, min_size=1, max_size=30), st.data())
def test_batch_gas_of_any_packed_batch_is_the_documented_function(
    world: World, rows: list[list[int]], data: st.DataObject
) -> None:
    """Its new addresses cost what steps do; what is hashed of a transaction is its row."""
    fresh = data.draw(st.integers(1, 2 * len(rows)))
    rows = [[sender % fresh, 0, *fees, to % fresh, amount] for sender, *fees, to, amount in rows]
    columns_of = [rollup.packing._column(column) for column in zip(*rows, strict=True)]
    senders, nonces, limits, fees, tips, to, amounts = columns_of
    plain = columns(
        addresses=bytes(32 * fresh),
        blocks=[PackedBlock(0, 0, len(rows))],
        kinds=bytes(len(rows)),
        senders=senders,
        nonces=nonces,
        gas_limits=limits,
        max_fees=fees,
        tips=tips,
        to=to,
        amounts=amounts,
    )
    packed = b"\x01" + zlib.compress(plain) + bytes(64 * len(rows))
    forget_contents()
    first, again = submit(world, packed), submit(world, packed)
    assert first == again
    assert first.success
    seen: dict[int, int] = {}
    committed = 0
    for sender, _, *rest in rows:
        committed += len(encode([0, sender, seen.get(sender, 0), *rest, bytes(64)]))
        seen[sender] = seen.get(sender, 0) + 1
    reading = 60 * (-(-len(plain) // 64) + 3 * (1 + len(rows) + fresh) + committed // 64)
    rest = first.gas_used - submit(world, b"\x02" + packed[1:]).gas_used - reading
    empty = columns()
    cost = (
        submit(world, b"\x01" + zlib.compress(empty)).gas_used
        - submit(world, b"\x02" + zlib.compress(empty)).gas_used
    )
    # The record and its event, and here the directory, whose peaks are stored.
    assert 2_000 <= rest - (cost - 60 * (-(-len(empty) // 64) + 3)) < 2_000 + 1_200
