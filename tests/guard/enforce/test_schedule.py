"""Days, hours, zones, and until when an answer holds."""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.enforce.schedule import Schedule, parse_days, parse_hours, parse_zone

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = Schedule(parse_days("mon-fri"), (parse_hours("08:00-18:00"),), BERLIN)
NIGHT = Schedule(frozenset(), (parse_hours("22:00-06:00"),), ZoneInfo("America/New_York"))


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("text", "active"),
    [
        ("2026-03-02T08:00:00+01:00", True),  # a Monday
        ("2026-03-02T07:59:59+01:00", False),
        ("2026-03-02T17:59:59+01:00", True),
        ("2026-03-02T18:00:00+01:00", False),
        ("2026-03-01T12:00:00+01:00", False),  # a Sunday
        ("2026-03-30T06:30:00+00:00", True),  # daylight saving has begun the day before
    ],
)
def test_office_hours(text: str, active: bool) -> None:
    assert OFFICE.active(at(text)) is active


@pytest.mark.parametrize(("hour", "active"), [(21, False), (22, True), (23, True), (0, True), (5, True), (6, False)])
def test_hours_over_midnight(hour: int, active: bool) -> None:
    assert NIGHT.active(at(f"2026-01-05T{hour:02d}:00:00-05:00")) is active


@pytest.mark.parametrize("text", ["", "monday", "mon-", "-fri", "Mon", "mon,tue", "mon-fri-sun"])
def test_bad_days(text: str) -> None:
    with pytest.raises(ValueError, match="expected a day"):
        parse_days(text)


def test_days_over_the_weekend() -> None:
    assert parse_days("sat-mon") == {5, 6, 0}
    assert parse_days("sun") == {6}


@pytest.mark.parametrize(
    "text", ["8:00-18:00", "08:00", "08:00-24:01", "24:00-25:00", "08:00-08:00", "08:60-09:00", "a"]
)
def test_bad_hours(text: str) -> None:
    with pytest.raises(ValueError, match="hours"):
        parse_hours(text)


@pytest.mark.parametrize("text", ["", "Europe", "Europe/Berln", "../../etc/passwd", "/etc/localtime", "CET+\0"])
def test_bad_zones(text: str) -> None:
    with pytest.raises(ValueError, match="is no time zone"):
        parse_zone(text)


@given(
    st.datetimes(datetime.datetime(2025, 1, 1), datetime.datetime(2027, 12, 31)),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC"]),
    st.sampled_from(["08:00-18:00", "22:00-06:07", "02:30-03:10", "00:00-24:00", "23:59-00:01"]),
    st.sampled_from(["mon-fri", "sun", "sat-mon"]),
    st.floats(0, 1, exclude_max=True),
)
def test_an_answer_holds_until_it_says(
    moment: datetime.datetime, zone: str, hours: str, days: str, part: float
) -> None:
    schedule = Schedule(parse_days(days), (parse_hours(hours),), ZoneInfo(zone))
    now = moment.replace(tzinfo=datetime.UTC).timestamp()
    until = schedule.unchanged_until(now)
    assert now < until <= now + 900
    assert schedule.active(now + (until - now) * part) is schedule.active(now)
