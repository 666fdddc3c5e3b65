"""The devnet's clock: schedules, the shared file, its changes, and waiting. No real sleeps."""

import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainkit.clock import (
    CONTINUITY,
    KEPT_SEGMENTS,
    MAX_FILE_BYTES,
    ClockError,
    Schedule,
    Segment,
    SystemClock,
    VirtualClock,
    create_clock,
    parse_schedule,
    reached_at,
    rebase,
    set_rate,
    sleep_until,
    stop_clock,
    value_at,
    wait_virtual,
)

START = 1_700_000_000.0  # a wall instant of today's size, so that rounding is real


class FakeTime:
    """Wall and monotonic time that move only when told to; ``sleep`` moves them."""

    def __init__(self) -> None:
        self.instant = START
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.instant

    def advance(self, seconds: float) -> None:
        self.instant += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.instant += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clock.json"


def opened(path: Path, time: FakeTime) -> VirtualClock:
    return VirtualClock(path, wall=time, monotonic=time)


def written(path: Path, *segments: Any) -> Path:
    path.write_text(json.dumps({"segments": segments}))
    return path


def row(wall: Any = START, virtual: Any = 0.0, rate: Any = 1.0) -> dict[str, Any]:
    return {"wall": wall, "virtual": virtual, "rate": rate}


rates = st.one_of(st.just(0.0), st.floats(0.01, 1000.0))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Continuous schedules of one to six segments."""
    segments = [Segment(START, draw(st.floats(0.0, 2e9)), draw(rates))]
    for _ in range(draw(st.integers(0, 5))):
        wall = segments[-1].wall + draw(st.floats(0.01, 1000.0))
        segments.append(Segment(wall, segments[-1].value_at(wall), draw(rates)))
    return tuple(segments)


# --- schedules --------------------------------------------------------------------------------


@given(schedule=schedules(), walls=st.lists(st.floats(START - 100, START + 10_000), max_size=20))
@settings(max_examples=60)
def test_time_never_goes_back(schedule: Schedule, walls: list[float]) -> None:
    values = [value_at(schedule, wall) for wall in sorted(walls)]
    assert all(later >= earlier - CONTINUITY for earlier, later in pairwise(values))


@given(schedule=schedules(), after=st.floats(-10, 5000), ahead=st.floats(0, 1e6))
@settings(max_examples=100)
def test_reached_at_is_the_inverse_of_value_at(schedule: Schedule, after: float, ahead: float) -> None:
    wall = START + after
    virtual = value_at(schedule, wall) + ahead
    reached = reached_at(schedule, virtual, wall)
    assert reached >= wall
    if math.isinf(reached):
        assert schedule[-1].rate == 0
        assert value_at(schedule, wall + 1e6) < virtual
    else:
        # A float of unix time resolves 0.24 microseconds: at rate 1000 that is 0.24 ms.
        assert value_at(schedule, reached) == pytest.approx(virtual, rel=0, abs=0.001)
        if reached > wall + 0.01:
            assert value_at(schedule, reached - 0.005) < virtual + 0.001


@given(schedule=schedules())
@settings(max_examples=60)
def test_a_schedule_survives_its_encoding(schedule: Schedule) -> None:
    data = json.dumps({"segments": [segment._asdict() for segment in schedule]}).encode()
    assert parse_schedule(data) == schedule


def test_time_stands_still_before_the_first_segment() -> None:
    schedule = (Segment(START, 50.0, 10.0),)
    assert value_at(schedule, START - 5) == 50.0
    assert reached_at(schedule, 50.0, START - 5) == START - 5
    assert reached_at(schedule, 60.0, START - 5) == START + 1


# --- bad files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("\xff", "not JSON"),
        ("[" * 5000, "not JSON"),
        ('{"segments": [], "segments": []}', "twice"),
        ("[]", "not an object"),
        ("null", "not an object"),
        ("{}", "not an object"),
        ('{"segments": [], "extra": 1}', "not an object"),
        ('{"segments": []}', "at least one"),
        ('{"segments": {}}', "at least one"),
        ('{"segments": [1]}', "segment 0 is not"),
        ('{"segments": [{"wall": 1, "virtual": 1}]}', "segment 0 is not"),
        ('{"segments": [{"wall": 1, "virtual": 1, "rate": 1, "x": 1}]}', "segment 0 is not"),
        ('{"segments": [{"wall": 1, "wall": 1, "virtual": 1, "rate": 1}]}', "twice"),
        ('{"segments": [{"wall": NaN, "virtual": 1, "rate": 1}]}', "NaN"),
        ('{"segments": [{"wall": Infinity, "virtual": 1, "rate": 1}]}', "Infinity"),
        ('{"segments": [{"wall": 1e999, "virtual": 1, "rate": 1}]}', "segment 0: wall"),
        ('{"segments": [{"wall": true, "virtual": 1, "rate": 1}]}', "segment 0: wall"),
        ('{"segments": [{"wall": "1", "virtual": 1, "rate": 1}]}', "segment 0: wall"),
        ('{"segments": [{"wall": 1, "virtual": null, "rate": 1}]}', "segment 0: virtual"),
        ('{"segments": [{"wall": 1, "virtual": -1, "rate": 1}]}', "segment 0: virtual"),
        ('{"segments": [{"wall": 1, "virtual": 1, "rate": -0.1}]}', "segment 0: rate"),
        ('{"segments": [{"wall": 1, "virtual": 1, "rate": 1000.1}]}', "segment 0: rate"),
        ('{"segments": [{"wall": 1' + "0" * 5000 + ', "virtual": 1, "rate": 1}]}', "not JSON"),
        (json.dumps({"segments": [row(5.0), row(5.0)]}), "segment 1 does not start after"),
        (json.dumps({"segments": [row(5.0), row(4.0)]}), "segment 1 does not start after"),
        (json.dumps({"segments": [row(5.0), row(6.0, 1.002)]}), "jumps by 0.002 s"),
        (json.dumps({"segments": [row(5.0), row(6.0, 0.5)]}), "jumps by -0.5 s"),
        (" " * (MAX_FILE_BYTES + 1), "more than"),
    ],
)
def test_a_bad_file_is_refused_at_the_start_and_named(path: Path, text: str, problem: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ClockError) as caught:
        VirtualClock(path)
    assert problem in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_jump_within_a_millisecond_is_fine(path: Path, time: FakeTime) -> None:
    written(path, row(START, 0.0), row(START + 1, 1.0009))
    opened(path, time)


def test_a_missing_file_or_a_directory_is_refused(path: Path) -> None:
    with pytest.raises(ClockError, match="No such file"):
        VirtualClock(path)
    with pytest.raises(ClockError, match="clock file"):
        VirtualClock(path.parent)
    with pytest.raises(ClockError, match="No such file"):
        set_rate(path, 2.0)
    with pytest.raises(ClockError, match="No such file"):
        create_clock(path / "no" / "where", None)


@given(data=st.binary(max_size=200))
@settings(max_examples=100)
def test_any_bytes_get_a_clock_error_or_a_schedule(data: bytes) -> None:
    try:
        assert parse_schedule(data)
    except ClockError:
        return


json_values: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["1", [], {}, [1], -0.0])
)


@given(segments=st.lists(st.fixed_dictionaries(row(json_values, json_values, json_values)), max_size=3))
@settings(max_examples=100)
def test_any_values_get_a_clock_error_or_a_schedule(segments: list[Any]) -> None:
    try:
        schedule = parse_schedule(json.dumps({"segments": segments}).encode())
    except ClockError:
        return
    assert all(0 <= segment.rate <= 1000 for segment in schedule)


# --- reading ----------------------------------------------------------------------------------


def test_time_follows_the_segments(path: Path, time: FakeTime) -> None:
    written(path, row(START, 100.0, 1.0), row(START + 10, 110.0, 0), row(START + 20, 110.0, 50))
    clock = opened(path, time)
    assert clock.now() == 100.0
    assert clock.sleep_seconds(110.0) == 10.0
    assert clock.sleep_seconds(111.0) == pytest.approx(20.02)
    time.advance(15)
    assert clock.now() == 110.0
    assert clock.sleep_seconds(110.0) == 0.0
    assert clock.sleep_seconds(50.0) == 0.0
    assert clock.sleep_seconds(160.0) == 6.0
    time.advance(6)
    assert clock.now() == 160.0


def test_a_stopped_clock_never_gets_there(path: Path, time: FakeTime) -> None:
    create_clock(path, 7.0, 0.0, wall=time)
    clock = opened(path, time)
    time.advance(1e6)
    assert clock.now() == 7.0
    assert clock.sleep_seconds(7.1) == math.inf
    assert clock.sleep_seconds(7.0) == 0.0


def test_the_file_is_looked_at_every_20_ms_at_most(
    path: Path, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_clock(path, 0.0, 0.0, wall=time)
    clock = opened(path, time)
    rebase(path, 500.0, rate=0.0, wall=time)
    time.advance(0.019)
    assert clock.now() == 0.0
    time.advance(0.002)
    assert clock.now() == 500.0
    looks: list[Path] = []
    status = Path.stat

    def counted(self: Path, **options: Any) -> os.stat_result:
        looks.append(self)
        return status(self, **options)

    monkeypatch.setattr(Path, "stat", counted)
    time.advance(1.0)
    for _ in range(100):
        clock.now()
    assert len(looks) == 1


def test_an_unchanged_file_is_not_read_again(
    path: Path, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_clock(path, 0.0, wall=time)
    clock = opened(path, time)
    monkeypatch.setattr(Path, "open", lambda *_args, **_options: pytest.fail("read again"))
    for _ in range(3):
        time.advance(1.0)
        clock.now()
    assert clock.problem is None


@pytest.mark.parametrize("damage", ["", "{}", '{"segments": [{"wall": 0, "virtual": 0, "rate": -1}]}'])
def test_a_file_that_turns_bad_is_not_believed(path: Path, time: FakeTime, damage: str) -> None:
    create_clock(path, 100.0, 2.0, wall=time)
    clock = opened(path, time)
    path.write_text(damage)
    time.advance(5)
    assert clock.now() == 110.0
    assert clock.problem is not None
    assert str(path) in clock.problem
    path.unlink()
    time.advance(5)
    assert clock.now() == 120.0
    assert clock.problem is not None
    rebase(path, 500.0, wall=time)
    time.advance(1)
    assert clock.now() == 501.0
    assert clock.problem is None


# --- writing ----------------------------------------------------------------------------------


def test_create_starts_at_wall_time_or_where_told(path: Path, time: FakeTime) -> None:
    assert create_clock(path, None, wall=time) == Segment(START, START, 1.0)
    with pytest.raises(ClockError, match="exists"):
        create_clock(path, 5.0, wall=time)
    assert opened(path, time).now() == START
    other = path.with_name("other.json")
    create_clock(other, 5.0, 3.0, wall=time)
    time.advance(2)
    assert opened(other, time).now() == 11.0


@pytest.mark.parametrize("rate", [-1.0, 1000.5, math.nan, math.inf, -math.inf, True, "1", None])
def test_a_bad_rate_is_refused_and_changes_nothing(path: Path, time: FakeTime, rate: Any) -> None:
    with pytest.raises(ClockError):
        create_clock(path, 0.0, rate, wall=time)
    assert not path.exists()
    create_clock(path, 0.0, wall=time)
    before = path.read_bytes()
    with pytest.raises(ClockError):
        set_rate(path, rate, wall=time)
    with pytest.raises(ClockError):
        rebase(path, 0.0, rate=rate, wall=time)
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 1e12, True, "0"])
def test_a_bad_instant_or_delay_is_refused_and_changes_nothing(
    path: Path, time: FakeTime, value: Any
) -> None:
    with pytest.raises(ClockError):
        create_clock(path, value, wall=time)
    create_clock(path, 0.0, wall=time)
    before = path.read_bytes()
    with pytest.raises(ClockError):
        rebase(path, value, wall=time)
    with pytest.raises(ClockError):
        set_rate(path, 2.0, delay=value, wall=time)
    assert path.read_bytes() == before


def test_a_change_takes_effect_everywhere_at_one_instant(path: Path, time: FakeTime) -> None:
    create_clock(path, 0.0, wall=time)
    early, late = opened(path, time), opened(path, time)
    time.advance(10)
    segment = set_rate(path, 100.0, wall=time)
    assert (segment.wall, segment.rate) == (START + 10.3, 100.0)
    assert segment.virtual == pytest.approx(10.3)
    time.advance(0.1)
    assert early.now() == pytest.approx(10.1)  # has read the change, does not apply it yet
    time.advance(0.19)
    assert early.now() == late.now() == pytest.approx(10.29)
    time.advance(0.02)
    assert early.now() == late.now() == pytest.approx(11.3)
    time.advance(1)
    assert early.now() == late.now() == pytest.approx(111.3)


def test_a_later_change_replaces_the_planned_ones_it_precedes(path: Path, time: FakeTime) -> None:
    create_clock(path, 0.0, wall=time)
    set_rate(path, 1000.0, delay=10, wall=time)
    set_rate(path, 5.0, delay=1, wall=time)
    clock = opened(path, time)
    time.advance(20)
    assert clock.now() == pytest.approx(1 + 19 * 5)


def test_stop_and_rebase_carry_time_over_a_night(path: Path, time: FakeTime) -> None:
    create_clock(path, 1000.0, wall=time)
    time.advance(50)
    assert stop_clock(path, wall=time) == 1050.0
    time.advance(8 * 3600)
    frozen = opened(path, time).now()
    assert frozen == 1050.0
    rebase(path, frozen, wall=time)
    clock = opened(path, time)
    assert clock.now() == 1050.0
    time.advance(2)
    assert clock.now() == 1052.0


def test_rebase_recovers_from_a_bad_or_missing_file(path: Path, time: FakeTime) -> None:
    rebase(path, 5.0, wall=time)
    assert opened(path, time).now() == 5.0
    path.write_text("garbage")
    with pytest.raises(ClockError, match="not JSON"):
        set_rate(path, 2.0, wall=time)
    assert path.read_text() == "garbage"
    rebase(path, 6.0, rate=2.0, wall=time)
    time.advance(1)
    assert opened(path, time).now() == 8.0


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 100), st.one_of(rates), st.sampled_from([0.0, 0.3, 2.0])),
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None)
def test_time_is_continuous_over_any_changes(steps: list[tuple[float, float, float]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        time, path = FakeTime(), Path(directory) / "clock.json"
        create_clock(path, 1000.0, wall=time)
        clock = opened(path, time)
        for pause, rate, delay in steps:
            time.advance(pause)
            before = opened(path, time).now()
            set_rate(path, rate, delay=delay, wall=time)
            assert opened(path, time).now() == pytest.approx(before, abs=0.001)
            time.advance(0.021)
            assert clock.now() == opened(path, time).now()
            assert clock.now() >= before - 0.001


def test_the_file_stays_small_over_many_changes(path: Path, time: FakeTime) -> None:
    create_clock(path, 0.0, wall=time)
    for index in range(2 * KEPT_SEGMENTS):
        time.advance(1)
        set_rate(path, index % 3, wall=time)
    assert len(json.loads(path.read_text())["segments"]) <= KEPT_SEGMENTS + 1
    opened(path, time)


def test_the_segment_in_effect_outlives_many_planned_changes(path: Path, time: FakeTime) -> None:
    create_clock(path, 0.0, wall=time)
    for index in range(KEPT_SEGMENTS + 6):
        set_rate(path, 2.0, delay=10 + index / 10, wall=time)
    clock = opened(path, time)
    time.advance(1)
    assert clock.now() == 1.0


def test_a_torn_write_leaves_the_old_file(
    path: Path, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_clock(path, 0.0, wall=time)
    before = path.read_bytes()

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(ClockError, match="No space left"):
            set_rate(path, 2.0, wall=time)
    assert path.read_bytes() == before
    set_rate(path, 2.0, wall=time)  # neither the lock nor the leftover is in the way
    assert path.read_bytes() != before


_WRITER = """
import sys
from pathlib import Path
from chainkit.clock import set_rate
for index in range(15):
    set_rate(Path(sys.argv[1]), 1.0 + index, delay=0.001 * index, wall=lambda: float(sys.argv[2]))
"""


def test_writers_in_several_processes_lose_no_continuity(path: Path) -> None:
    """Each writer reads, changes and replaces the file: without the lock they overwrite each other."""
    create_clock(path, 0.0, wall=lambda: START)
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(START + 1 + offset)])
        for offset in (0, 0.5)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert VirtualClock(path, wall=lambda: START + 1.0).now() == pytest.approx(1.0)


# --- waiting ----------------------------------------------------------------------------------


def test_sleep_until_sleeps_in_slices_and_ends_exactly(path: Path, time: FakeTime) -> None:
    create_clock(path, 0.0, wall=time)
    clock = opened(path, time)
    asyncio.run(sleep_until(clock, 1.02, sleep=time.sleep))
    assert max(time.slept) == 0.05
    assert 1.02 <= clock.now() < 1.021


def test_sleep_until_the_past_yields_once(path: Path, time: FakeTime) -> None:
    create_clock(path, 10.0, wall=time)
    asyncio.run(sleep_until(opened(path, time), 3.0, sleep=time.sleep))
    assert time.slept == [0]


def test_sleep_until_notices_a_change_of_rate(path: Path, time: FakeTime) -> None:
    create_clock(path, 0.0, 0.0, wall=time)
    clock = opened(path, time)

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds)
        if len(time.slept) == 20:
            set_rate(path, 1000.0, wall=time)

    asyncio.run(sleep_until(clock, 3600.0, sleep=sleep))
    assert 3600 <= clock.now() < 3601
    assert time() - START == pytest.approx(19 * 0.05 + 0.3 + 3.6, abs=0.01)


@given(rate=st.floats(0.5, 1000.0), seconds=st.floats(0, 20))
@settings(max_examples=30, deadline=None)
def test_wait_virtual_waits_that_much_virtual_time(rate: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        time, path = FakeTime(), Path(directory) / "clock.json"
        create_clock(path, 1.7e9, rate, wall=time)
        clock = opened(path, time)
        asyncio.run(wait_virtual(clock, seconds, sleep=time.sleep))
        assert clock.now() >= 1.7e9 + seconds
        assert clock.now() - 1.7e9 - seconds <= 0.001 + rate * 0.0002


def test_waiting_for_nan_is_refused(time: FakeTime) -> None:
    with pytest.raises(ClockError):
        asyncio.run(sleep_until(SystemClock(time), math.nan, sleep=time.sleep))


def test_the_system_clock_is_wall_time(time: FakeTime) -> None:
    clock = SystemClock(time)
    assert clock.now() == START
    assert clock.sleep_seconds(START + 3) == 3
    assert clock.sleep_seconds(START - 3) == 0
    asyncio.run(wait_virtual(clock, 0.12, sleep=time.sleep))
    assert clock.now() >= START + 0.12
