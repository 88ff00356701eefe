"""Bounds and days."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrouter_audit.errors import ConfigError
from openrouter_audit.reports.period import day_finder, parse_bound, parse_period, parse_zone
from openrouter_audit.reports.rows import timestamp_text

NOW_US = 1_795_428_900_123_456


@pytest.mark.parametrize(
    ("text", "zone", "meant"),
    [
        ("2026-11-23", "UTC", "2026-11-23T00:00:00.000000Z"),
        ("2026-07-01", "Europe/Berlin", "2026-06-30T22:00:00.000000Z"),
        ("2018-11-04", "America/Sao_Paulo", "2018-11-04T03:00:00.000000Z"),
        ("2026-11-23T10:15:00Z", "Europe/Berlin", "2026-11-23T10:15:00.000000Z"),
        ("2026-11-23T10:15:00.5+02:00", "UTC", "2026-11-23T08:15:00.500000Z"),
        ("2026-11-23t10:15:00z", "UTC", "2026-11-23T10:15:00.000000Z"),
        ("-24h", "UTC", "2026-11-22T10:15:00.123456Z"),
        ("-7d", "UTC", "2026-11-16T10:15:00.123456Z"),
    ],
)
def test_a_bound_is_an_instant(text, zone, meant):
    """Also a midnight that a clock change skipped: there the day begins at the change."""
    assert meant == timestamp_text(parse_bound(text, zone=ZoneInfo(zone), now_us=NOW_US))


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "24h", "-24", "-7w", "2026-13-01", "2026-11-23T10:15:00", "2026-11-23T10:15Z"),
        *("1969-12-31", "9999-12-31T23:59:59Z", "-999999d", "\uff12026-11-23"),
    ],
)
def test_what_cannot_be_meant_is_refused(text):
    """An instant without zone would mean another one elsewhere."""
    with pytest.raises(ConfigError):
        parse_bound(text, zone=ZoneInfo("UTC"), now_us=NOW_US)


@pytest.mark.parametrize("name", ["", "Europe/Atlantis", "/etc/passwd", "../UTC", "America", "\0", "Europe/B\udc00"])
def test_what_is_no_zone_is_refused(name):
    """Each fails in another way inside of the library."""
    with pytest.raises(ConfigError) as caught:
        parse_zone(name)
    assert "tz" == caught.value.setting


def test_a_period_that_ends_before_it_begins_is_refused():
    """It would answer nothing, and look like an answer."""
    with pytest.raises(ConfigError):
        parse_period("2026-11-24", "2026-11-23", tz="UTC", now_us=NOW_US)


@given(
    at_us=st.integers(0, 2**53 - 1),
    zone=st.sampled_from(["UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia"]),
)
def test_a_day_is_what_a_calendar_there_shows(at_us, zone):
    """Against a conversion of the whole instant."""
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at_us)

    assert moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") == timestamp_text(at_us)
    assert moment.astimezone(ZoneInfo(zone)).date().isoformat() == day_finder(ZoneInfo(zone))(timestamp_text(at_us))
