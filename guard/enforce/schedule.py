"""When a rule is in force: days and hours in a time zone, and until when the answer stays the same."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from zoneinfo import ZoneInfo

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_RANGE = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])\Z")
_QUARTER = 900  # seconds: offsets of time zones change at quarter hours only


def parse_days(text: str) -> frozenset[int]:
    """`mon`, `mon-fri`, `sat-mon` -> weekdays, Monday is 0. Raises ValueError."""
    first, dash, last = text.partition("-")
    if first not in _DAYS or (dash and last not in _DAYS):
        raise ValueError(f"expected a day or a range of days out of {', '.join(_DAYS)}, such as mon-fri")
    begin, end = _DAYS.index(first), _DAYS.index(last if dash else first)
    return frozenset((begin + step) % 7 for step in range((end - begin) % 7 + 1))


def parse_hours(text: str) -> tuple[int, int]:
    """`08:00-18:30` -> minutes after midnight, end excluded; `22:00-06:00` goes over midnight. Raises ValueError."""
    found = _RANGE.match(text)
    if not found:
        raise ValueError('expected hours such as "08:00-18:00" (in quotes), at most 24:00')
    hour, minute, end_hour, end_minute = (int(part) for part in found.groups())
    begin, end = hour * 60 + minute, end_hour * 60 + end_minute
    if end > 24 * 60 or begin == end:
        raise ValueError("hours must end at another time than they begin, and at 24:00 at the latest")
    return begin, end


def parse_zone(text: str) -> ZoneInfo:
    """An IANA time zone. Raises ValueError."""
    try:
        return ZoneInfo(text)
    except (OSError, ValueError, KeyError) as error:  # a folder, a path out of the database, an unknown name
        raise ValueError(f"`{text}` is no time zone; write one such as Europe/Berlin or UTC") from error


@dataclass(frozen=True, slots=True)
class Schedule:
    """Days (empty: every day) and hours (empty: all day) in a zone. The day is that of the moment asked about."""

    days: frozenset[int]
    hours: tuple[tuple[int, int], ...]
    zone: ZoneInfo

    def active(self, now: float) -> bool:
        """Whether `now` (epoch seconds) is inside."""
        local = datetime.datetime.fromtimestamp(now, self.zone)
        if self.days and local.weekday() not in self.days:
            return False
        minute = local.hour * 60 + local.minute
        return not self.hours or any(_inside(minute, begin, end) for begin, end in self.hours)

    def unchanged_until(self, now: float) -> float:
        """An instant after `now` until which the answer cannot change: the next edge, at most a quarter hour away.

        The quarter hour makes changes of the zone's offset (daylight saving) harmless without modelling them.
        """
        today = datetime.datetime.fromtimestamp(now, self.zone).date()
        minutes = {0, *(minute % (24 * 60) for edges in self.hours for minute in edges)}
        soonest = (now // _QUARTER + 1) * _QUARTER
        for day in (today, today + datetime.timedelta(days=1)):
            for minute in minutes:
                for fold in (0, 1):
                    edge = datetime.datetime.combine(
                        day, datetime.time(minute // 60, minute % 60, fold=fold), self.zone
                    ).timestamp()
                    if now < edge < soonest:
                        soonest = edge
        return soonest


def _inside(minute: int, begin: int, end: int) -> bool:
    return begin <= minute < end if begin < end else minute >= begin or minute < end
