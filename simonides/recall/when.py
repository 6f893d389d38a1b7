"""Dates and spans of time that a question names, resolved against the caller's clock and zone.

"yesterday", "last week", "in May", "12 June", "June 2026", "2026-05-02", "three days ago", "last summer", "on Monday".
Days are whole days of the zone. What has no year is the latest that is not in the future.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from ..words import MONTHS

_MONTH = {name.lower(): place for place, name in enumerate(MONTHS, 1)}
_MONTH |= {name.lower()[:3]: place for place, name in enumerate(MONTHS, 1)} | {"sept": 9}
_M = "|".join(sorted(_MONTH, key=len, reverse=True))
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SEASON = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBER = {name: n for n, name in enumerate(_NUMBERS, 1)}
_NUMBER |= {"a": 1, "an": 1, "a couple of": 2, "a few": 3}
_COUNT = rf"(?P<n>\d{{1,3}}|{'|'.join(sorted(_NUMBER, key=len, reverse=True))})"
_YEAR = r"(?P<year>(?:19|20)\d\d)"

Days = tuple[date, date]  # from the first day up to, not including, the second


def window(text: str, at: datetime, zone: tzinfo | None = None) -> tuple[datetime, datetime] | None:
    """Return the span of time (UTC, end not included) that the text names first, or None if it names none."""
    today = at.astimezone(zone).date()
    for pattern, resolve in _RULES:
        if found := pattern.search(text):
            try:
                days = resolve(found, today)
            except (ValueError, OverflowError):
                continue
            if days:
                return _begin(days[0], zone), _begin(days[1], zone)
    return None


def _begin(day: date, zone: tzinfo | None) -> datetime:
    midnight = datetime.combine(day, time())
    return (midnight.replace(tzinfo=zone) if zone else midnight.astimezone()).astimezone(UTC)


def _iso(found: re.Match[str], today: date) -> Days:
    return _day(date(int(found["y"]), int(found["m"]), int(found["d"])))


def _iso_month(found: re.Match[str], today: date) -> Days:
    return _month(int(found["y"]), int(found["m"]))


def _day_and_month(found: re.Match[str], today: date) -> Days:
    month, day = _MONTH[found["month"].lower()], int(found["d"])
    if found["year"]:
        return _day(date(int(found["year"]), month, day))
    this = date(today.year, month, day)
    return _day(this if this <= today else date(today.year - 1, month, day))


def _named_month(found: re.Match[str], today: date) -> Days | None:
    name, month = found["month"], _MONTH[found["month"].lower()]
    if found["year"]:
        return _month(int(found["year"]), month)
    if name.lower() in {"may", "march", "mar", "sun", "dec"} and not (name[0].isupper() and found["in"]):
        return None  # "she may come", "we march on"
    return _month(today.year if month <= today.month else today.year - 1, month)


def _season(found: re.Match[str], today: date) -> Days:
    first = _SEASON[found["season"].lower()]
    year = int(found["year"]) if found["year"] else today.year
    since = date(year, first, 1)
    if not found["year"] and since > today:
        since = date(year - 1, first, 1)
    return since, _months_on(since, 3)


def _relative_day(found: re.Match[str], today: date) -> Days:
    word = " ".join(found[0].lower().split())
    return _day(today - timedelta(days={"today": 0, "tonight": 0, "yesterday": 1}.get(word, 2)))


def _ago(found: re.Match[str], today: date) -> Days:
    count = _NUMBER.get(found["n"].lower()) or int(found["n"])
    unit = found["unit"].lower()
    if unit == "day":
        return _day(today - timedelta(days=count))
    if unit == "week":
        monday = today - timedelta(days=today.weekday() + 7 * count)
        return monday, monday + timedelta(days=7)
    since = _months_on(today.replace(day=1), -count * (12 if unit == "year" else 1))
    return (date(since.year, 1, 1), date(since.year + 1, 1, 1)) if unit == "year" else _month(since.year, since.month)


def _past(found: re.Match[str], today: date) -> Days:
    """The last (past, previous) N days, weeks, months: up to and with today."""
    count = _NUMBER.get(found["n"].lower()) or int(found["n"])
    days = count * {"day": 1, "week": 7, "month": 30, "year": 365}[found["unit"].lower()]
    return today - timedelta(days=days), today + timedelta(days=1)


def _this_or_last(found: re.Match[str], today: date) -> Days:
    back = 0 if found["which"].lower() == "this" else 1
    unit = found["unit"].lower()
    if unit == "week":
        monday = today - timedelta(days=today.weekday() + 7 * back)
        return monday, monday + timedelta(days=7)
    if unit == "weekend":
        saturday = today - timedelta(days=today.weekday() - 5)  # of this week: perhaps still to come
        saturday -= timedelta(days=7 * back)
        return saturday, saturday + timedelta(days=2)
    if unit == "month":
        since = _months_on(today.replace(day=1), -back)
        return _month(since.year, since.month)
    return date(today.year - back, 1, 1), date(today.year - back + 1, 1, 1)


def _weekday(found: re.Match[str], today: date) -> Days:
    back = (today.weekday() - _DAYS.index(found["day"].lower())) % 7 or 7
    return _day(today - timedelta(days=back))


def _year(found: re.Match[str], today: date) -> Days:
    return date(int(found["year"]), 1, 1), date(int(found["year"]) + 1, 1, 1)


def _day(day: date) -> Days:
    return day, day + timedelta(days=1)


def _month(year: int, month: int) -> Days:
    since = date(year, month, 1)
    return since, _months_on(since, 1)


def _months_on(day: date, count: int) -> date:
    months = day.year * 12 + day.month - 1 + count
    return date(months // 12, months % 12 + 1, 1)


def _rule(pattern: str, resolve: Callable[[re.Match[str], date], Days | None]) -> tuple[
    re.Pattern[str], Callable[[re.Match[str], date], Days | None]
]:  # fmt: skip
    return re.compile(pattern, re.IGNORECASE), resolve


_UNIT = r"(?P<unit>day|week|month|year)s?"
_RULES = (
    _rule(r"\b(?P<y>(?:19|20)\d\d)-(?P<m>\d\d)-(?P<d>\d\d)\b", _iso),
    _rule(r"\b(?P<y>(?:19|20)\d\d)-(?P<m>0[1-9]|1[0-2])\b(?!-)", _iso_month),
    _rule(rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_M})\b\.?(?:,?\s+{_YEAR})?", _day_and_month),
    _rule(rf"\b(?P<month>{_M})\.?\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\b(?!\d)(?:,?\s+{_YEAR})?", _day_and_month),
    _rule(
        rf"\b(?P<in>(?:in|of|on|by|since|until|during|early|late|mid|last|this|from|to)\s+)?(?P<month>{_M})\b\.?"
        rf"(?:,?\s+(?:of\s+)?{_YEAR})?",
        _named_month,
    ),
    _rule(r"\b(?:today|tonight|yesterday|the day before yesterday)\b", _relative_day),
    _rule(rf"\b{_COUNT}\s+{_UNIT}\s+ago\b", _ago),
    _rule(rf"\b(?:last|past|previous)\s+{_COUNT}\s+{_UNIT}\b", _past),
    _rule(r"\b(?P<which>this|last|past|previous)\s+(?P<unit>weekend|week|month|year)\b", _this_or_last),
    _rule(
        r"\b(?:(?:in|of|this|last|during)\s+)(?:the\s+)?(?P<season>spring|summer|autumn|fall|winter)\b"
        rf"(?:\s+(?:of\s+)?{_YEAR})?",
        _season,
    ),
    _rule(rf"\b(?:on|last|this)\s+(?P<day>{'|'.join(_DAYS)})\b", _weekday),
    _rule(rf"\b(?:in|of|during|since|year)\s+{_YEAR}\b", _year),
)
