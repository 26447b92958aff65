"""Dates as text: the same instant as pandas reads, or a refusal that says what to send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_server.formats import dates

UNITS = ["s", "ms", "us", "ns"]
NAIVE = ["2024-03-01", "2024-02-29T23:59", "2024-03-01 09:30:00", "2024-03-01T09:30:00.000", "1999-12-31T00:00:01.5"]
AWARE = [
    "2024-03-01T09:30:00Z",
    "2024-03-01T09:30:00.250+01:00",
    "2024-03-01 09:30-0530",
    "2024-12-31T23:59:59.123456-11",
    "2024-03-31T02:30:00+01:00",
]


@pytest.mark.parametrize("text", NAIVE)
@pytest.mark.parametrize("unit", UNITS[1:])
def test_a_date_without_an_offset_is_the_same_as_in_pandas(text: str, unit: str) -> None:
    (found,) = dates.parse([text], unit, aware=False)
    assert found == np.datetime64(pd.Timestamp(text).as_unit(unit).asm8)
    assert found.dtype == f"datetime64[{unit}]"


@pytest.mark.parametrize("text", AWARE)
def test_a_date_with_an_offset_is_the_same_instant_as_in_pandas(text: str) -> None:
    (found,) = dates.parse([text], "ns", aware=True)
    assert found == np.datetime64(pd.to_datetime(text, utc=True).as_unit("ns").tz_localize(None).asm8)


def test_nanoseconds_are_kept_and_a_missing_date_is_nat() -> None:
    found = dates.parse(["2024-03-01T09:30:00.123456789", None], "ns", aware=False)
    assert found[0] == np.datetime64("2024-03-01T09:30:00.123456789", "ns")
    assert np.isnat(found[1])


@pytest.mark.parametrize(
    ("text", "unit", "aware"),
    [
        *((text, "us", True) for text in NAIVE),
        *((text, "us", False) for text in AWARE),
        ("2024-03-01Z", "us", True),
        ("2024-02-30", "us", False),
        ("2023-02-29", "us", False),
        ("2024-13-01", "us", False),
        ("2024-01-01T24:00", "us", False),
        ("2024-01-01T23:59:60", "us", False),
        ("2024-01-01T00:00+24:00", "us", True),
        ("2024-01-01T00:00+01:60", "us", True),
        ("0001-01-01T00:00+01:00", "us", True),
        ("0000-01-01", "us", False),
        ("2300-01-01", "ns", False),
        ("1600-01-01", "ns", False),
        ("2024-01-01T00:00:00.5", "s", False),
        ("2024-01-01T00:00:00.0001", "ms", False),
        ("2024-01-01T00:00:00.123456789", "us", False),
        ("now", "us", False),
        ("today", "us", False),
        ("NaT", "us", False),
        ("", "us", False),
        ("2024", "us", False),
        ("2024-01", "us", False),
        ("20240101", "us", False),
        ("01/02/2024", "us", False),
        ("1704067200", "us", False),
        ("2024-01-01T00:00:00\n", "us", False),
        ("٢٠٢٤-01-01", "us", False),
        ("2024-01-01" + " " * 99, "us", False),
    ],
)
def test_any_other_text_is_refused_with_the_form_to_send(text: str, unit: str, aware: bool) -> None:
    with pytest.raises(dates.NotADate, match="ISO 8601 with an offset" if aware else "ISO 8601 without an offset"):
        dates.parse([text], unit, aware=aware)


@given(st.text(alphabet="0123456789-:T .+Z", max_size=32), st.sampled_from(UNITS), st.booleans())
def test_no_text_is_read_as_another_date(text: str, unit: str, aware: bool) -> None:
    try:
        (found,) = dates.parse([text], unit, aware=aware)
    except dates.NotADate:
        return
    expected: Any = pd.Timestamp(text.replace(",", "."))
    expected = expected.tz_convert("UTC").tz_localize(None) if aware else expected
    assert pd.Timestamp(found) == expected


@given(st.datetimes(), st.sampled_from(["us", "ms"]))
def test_every_moment_survives_its_text(moment: Any, unit: str) -> None:
    stamp = pd.Timestamp(moment).as_unit("us").floor("ms") if unit == "ms" else pd.Timestamp(moment)
    (found,) = dates.parse([stamp.isoformat()], unit, aware=False)
    assert found == stamp.as_unit(unit).asm8
