"""Dates and times of a DataFrame: text in ISO 8601 to numpy's datetime64, without a change of the instant.

numpy's own parser also reads ``now``, wraps dates beyond its range and drops digits, so the text is checked first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlmodel_server.tensors import Array

NAIVE = "ISO 8601 without an offset, such as 2024-03-01 or 2024-03-01T09:30:00"
AWARE = "ISO 8601 with an offset, such as 2024-03-01T09:30:00+01:00 or 2024-03-01T08:30:00Z"

DTYPE = re.compile(r"datetime64\[(s|ms|us|ns)(?:, ([A-Za-z0-9_+:/-]{1,64}))?\]", re.ASCII)
"""pandas' names of the types of dates: the unit, and the time zone if there is one."""

_TEXT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,9}))?)?( ?[Zz]| ?[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_PART: dict[str, Any] = {
    "s": np.timedelta64(1, "s"),
    "ms": np.timedelta64(1, "ms"),
    "us": np.timedelta64(1, "us"),
    "ns": np.timedelta64(1, "ns"),
}
_ALL = (np.datetime64("0001-01-01", "s"), np.datetime64("9999-12-31T23:59:59", "s"))
_DAY = np.timedelta64(86_400, "s")
_LIMIT = {"ns": (np.datetime64("1677-09-22", "s"), np.datetime64("2262-04-11", "s"))}
"""The first and last times, of a unit that has fewer years than others."""


class NotADate(ValueError):
    """A text is not a date of this column. The sentence completes "must be"; ``row`` counts from 0."""

    row = 0


def format_of(dtype: str) -> str:
    """Return how the dates of a dtype are written; "" if it has no dates."""
    match = DTYPE.fullmatch(dtype)
    return "" if match is None else AWARE if match[2] else NAIVE


def limits(unit: str) -> tuple[float, float]:
    """Return the first and the last time that :func:`parse` reads without a time zone, in units since 1970."""
    first, last = (instant.astype(f"datetime64[{unit}]") for instant in _LIMIT.get(unit, _ALL))
    return float(first.astype(np.int64)), float(last.astype(np.int64))


def is_date(text: str) -> bool:
    """Whether a text is a date of a column of dates, with or without an offset."""
    for aware in (False, True):
        try:
            parse([text], "ns", aware=aware)
        except NotADate:
            continue
        return True
    return False


def parse(texts: Sequence[str | None], unit: str, *, aware: bool) -> Array:
    """Return the texts as datetime64 of the unit; in UTC if they are ``aware`` of a time zone. None is NaT.

    Raise :class:`NotADate` for any other text than a date of the years that the unit can hold.
    """
    parsed: Array = np.empty(len(texts), f"datetime64[{unit}]")
    for row, text in enumerate(texts):
        try:
            parsed[row] = np.datetime64("NaT") if text is None else _parsed(text, unit, aware)
        except NotADate as error:
            error.row = row
            raise
    return parsed


def _parsed(text: str, unit: str, aware: bool) -> Any:
    match = _TEXT.fullmatch(text) if len(text) <= 64 else None
    form = AWARE if aware else NAIVE
    if match is None or (match[4] and not match[2]):
        raise NotADate(form)
    day, time, fraction, offset = match.groups()
    if bool(offset) is not aware:
        raise NotADate(form)
    fraction = (fraction or "").rstrip("0")
    if len(fraction) > _DIGITS[unit]:
        raise NotADate(f"{form}, with at most {_DIGITS[unit]} digits after the second" if _DIGITS[unit] else form)
    try:
        whole = np.datetime64(f"{day}T{time or '00:00'}", "s") - _seconds(offset)
    except ValueError:
        raise NotADate(f"{form}; it is a day or time that does not exist") from None
    first, last = _LIMIT.get(unit, _ALL)
    if aware:  # in its time zone it may be a day earlier or later
        first, last = first + _DAY, last - _DAY
    if not first <= whole <= last:
        raise NotADate(f"{form}, from {first} to {last}")
    return whole + _PART[unit] * int(fraction.ljust(_DIGITS[unit], "0") or 0)


def _seconds(offset: str | None) -> np.timedelta64:
    """Return the seconds that an offset is ahead of UTC. Raise ValueError beyond a day."""
    digits = (offset or "").strip().lstrip("+-Zz").replace(":", "")
    hours, minutes = int(digits[:2] or 0), int(digits[2:] or 0)
    if hours > 23 or minutes > 59:
        raise ValueError(offset)
    seconds = 3600 * hours + 60 * minutes
    return np.timedelta64(-seconds if "-" in (offset or "") else seconds, "s")
