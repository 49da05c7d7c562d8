"""Times and lengths of time, as people write them."""

from __future__ import annotations

import datetime
import os
import pickle
import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ringwal import times
from ringwal.errors import ConfigError

SECOND = 1_000_000_000
DAY = 86400 * SECOND
NOW = 1_800_000_000 * SECOND
naive = datetime.datetime
POINTS = st.integers(0, times.TIMESTAMP_MAX)


@pytest.fixture
def berlin() -> Iterator[None]:
    """Local time an hour ahead of UTC in winter, and two in summer, wherever this runs."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(("text", "expected"), [
    ("90s", 90 * SECOND), ("1h", 3600 * SECOND), ("1h30m", 5400 * SECOND), ("30d", 30 * DAY), ("2w", 14 * DAY),
    ("1.5h", 5400 * SECOND), ("5m", 300 * SECOND), ("5ms", 5_000_000), ("1m5ms", 60 * SECOND + 5_000_000), ("0s", 0),
    ("7us", 7000), ("1ns", 1), ("0.001us", 1),
])  # fmt: skip
def test_a_length_of_time_is_written_with_units(text: str, expected: int) -> None:
    assert times.duration_ns(text) == expected


@pytest.mark.parametrize("text", [
    "", "90", "1m1h", "1h1h", "1 h", "-1h", "h", "1H", "1e3s", ".5h", "0.1ns", "9999999999w", "١h", "1h\n", "9" * 5000 + "s",
])  # fmt: skip
def test_what_is_no_length_of_time_is_refused_and_an_example_is_shown(text: str) -> None:
    with pytest.raises(ConfigError, match=r"retention_age is .*(1h30m|292 years)"):
        times.duration_ns(text, "retention_age", error=ConfigError)


def test_a_timedelta_is_a_length_of_time() -> None:
    assert times.duration_ns(datetime.timedelta(days=30, microseconds=1)) == 30 * DAY + 1000
    with pytest.raises(ValueError, match="from 0"):
        times.duration_ns(datetime.timedelta(seconds=-1))


@given(POINTS)
@example(times.TIMESTAMP_MAX)
def test_a_length_that_is_shown_is_that_length_when_it_is_read(length: int) -> None:
    assert times.duration_ns(times.duration_text(length)) == length


@given(POINTS)
@example(times.TIMESTAMP_MAX)
@example(SECOND - 1)
def test_a_time_that_is_shown_is_that_time_when_it_is_read(point: int) -> None:
    assert times.point_ns(times.iso(point)) == point
    seconds, rest = divmod(point, SECOND)
    assert times.point_ns(f"@{seconds}.{rest:09d}") == point


@given(st.datetimes(naive(1970, 1, 2), naive(2262, 4, 10)), st.integers(-1439, 1439))
def test_every_aware_time_is_exact_to_its_microsecond(plain: datetime.datetime, minutes: int) -> None:
    zone = datetime.timezone(datetime.timedelta(minutes=minutes))
    when = plain.replace(tzinfo=zone)
    wanted = ((plain - naive(1970, 1, 1)) // datetime.timedelta(microseconds=1) - minutes * 60_000_000) * 1000
    assert times.datetime_ns(when) == times.point_ns(when.isoformat()) == times.At(when).timestamp_ns == wanted


@given(st.text(max_size=30) | st.from_regex(r"[0-9@:TZ+., wdhmsun-]{1,30}", fullmatch=True))
def test_whatever_is_written_is_a_time_in_range_or_refused_with_an_example(text: str) -> None:
    said, point = "", 0
    try:
        point = times.point_ns(text, "--since", NOW)
    except ValueError as refused:
        said = str(refused)
    assert 0 <= point <= times.TIMESTAMP_MAX
    assert not said or (said.startswith("--since is ") and ("1970" in said or "292 years" in said))


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(("text", "expected"), [
    ("2027-01-31T09:30:00Z", "2027-01-31T09:30:00Z"),
    ("2027-01-31T09:30:00", "2027-01-31T08:30:00Z"),
    ("2027-07-31 09:30", "2027-07-31T07:30:00Z"),
    ("2027-01-31", "2027-01-30T23:00:00Z"),
    ("20270131T093000.5Z", "2027-01-31T09:30:00.5Z"),
    ("2027-01-31T09:30:00,123456789+05:30", "2027-01-31T04:00:00.123456789Z"),
    ("@1800000000.25", "2027-01-15T08:00:00.25Z"),
    ("now", "2027-01-15T08:00:00Z"),
    ("1h30m", "2027-01-15T06:30:00Z"),
    ("30000d", "1970-01-01T00:00:00Z"),
])  # fmt: skip
def test_a_time_is_a_length_before_now_or_iso_8601_with_local_time_where_no_zone_is(text: str, expected: str) -> None:
    assert times.iso(times.point_ns(text, now_ns=NOW)) == expected


@pytest.mark.parametrize("text", [
    "yesterday", "90", "2027-13-01", "2027-01-31.5", "0001-01-01", "1969-12-01T00:00:00Z", "2300-01-01",
])  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"--until is .*1970"):
        times.point_ns(text, "--until")


def test_a_naive_datetime_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(ValueError, match=r"no zone.*\.astimezone\(\).*replace\(tzinfo"):
        times.At(naive(2027, 1, 31))
    with pytest.raises(TypeError, match="datetime"):
        times.At(1_800_000_000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1970"):
        times.At(datetime.datetime(1969, 1, 1, tzinfo=datetime.UTC))


@pytest.mark.parametrize("value", [-1, 1 << 63, 1.5, True, None, "1"])
def test_nanoseconds_are_a_whole_number_in_range(value: object) -> None:
    with pytest.raises(ValueError, match=r"timestamp_ns is .*from 0 to 9223372036854775807"):
        times.timestamp_ns(value)


@given(POINTS, POINTS)
def test_a_place_said_as_a_time_is_a_value(first: int, second: int) -> None:
    one, other = times.At.from_ns(first), times.At.from_ns(second)
    assert (one == other, one < other) == (first == second, first < second)
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(one) == hash(times.At.from_ns(first))
    assert times.point_ns(repr(one)[3:-1]) == first
