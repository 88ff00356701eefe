"""
From when to when a question is asked, and which day an instant belongs to.

Inside everything is UTC; a zone is only for reading `YYYY-MM-DD` and for grouping by day. A day begins at its local
midnight, or where a clock change skips midnight, at the change; days of 23 and 25 hours come out right by themselves.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo

from openrouter_audit.errors import ConfigError
from openrouter_audit.reports.rows import timestamp_text

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)
_AGO = re.compile(r"-([0-9]{1,6})([hd])", re.ASCII)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """`since` belongs to it, `until` no longer does; None where there is no bound."""

    since_us: int | None
    until_us: int | None
    zone: ZoneInfo

    @property
    def since(self) -> str | None:
        """As a `timestamp` of a row, which compares as text."""
        return None if self.since_us is None else timestamp_text(self.since_us)

    @property
    def until(self) -> str | None:
        return None if self.until_us is None else timestamp_text(self.until_us)


def parse_zone(name: str) -> ZoneInfo:
    """
    A zone of the IANA database, by its name.

    Raises:
        ConfigError: There is no such zone here.
    """
    try:
        return ZoneInfo(name)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{name!r} is no time zone of this system; try UTC or Europe/Berlin", setting="tz") from error


def parse_bound(text: str, *, zone: ZoneInfo, now_us: int) -> int:
    """
    Microseconds since 1970 of an RFC 3339 instant, of `YYYY-MM-DD` (midnight in `zone`), or of `-24h` / `-7d`.

    Raises:
        ConfigError: It is none of these, or outside of the years that can be stored.
    """
    try:
        if ago := _AGO.fullmatch(text):
            at_us = now_us - int(ago[1]) * (3_600_000_000 if ago[2] == "h" else 86_400_000_000)
        elif _DAY.fullmatch(text):
            day = dt.date.fromisoformat(text)
            at_us = _microseconds(dt.datetime(day.year, day.month, day.day, tzinfo=zone))
        elif _INSTANT.fullmatch(text):
            at_us = _microseconds(dt.datetime.fromisoformat(text.upper()))
        else:
            raise ValueError(text)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{text!r} is no time: give 2026-11-23, 2026-11-23T10:15:00Z (with Z or an offset), -24h or -7d"
        ) from error
    if not 0 <= at_us < 2**53:
        raise ConfigError(f"{text!r} is outside of the times a log can hold")
    return at_us


def parse_period(since: str | None, until: str | None, *, tz: str, now_us: int) -> Period:
    """
    The period between two bounds.

    Raises:
        ConfigError: A bound or the zone cannot be meant, or the end is before the beginning.
    """
    zone = parse_zone(tz)
    since_us = None if since is None else parse_bound(since, zone=zone, now_us=now_us)
    until_us = None if until is None else parse_bound(until, zone=zone, now_us=now_us)
    if since_us is not None and until_us is not None and until_us < since_us:
        raise ConfigError(f"the period ends ({until}) before it begins ({since})")
    return Period(since_us=since_us, until_us=until_us, zone=zone)


def day_finder(zone: ZoneInfo) -> Callable[[str], str]:
    """A function from `timestamp` to the local day, `2026-11-23`."""

    # Offsets have been whole minutes in every zone since 1972, so all instants of one UTC minute share their day.
    @lru_cache(maxsize=4096)
    def day_of_minute(minute: str) -> str:
        return dt.datetime.fromisoformat(f"{minute}:00+00:00").astimezone(zone).date().isoformat()

    return lambda timestamp: day_of_minute(timestamp[:16])


def _microseconds(moment: dt.datetime) -> int:
    return (moment.astimezone(dt.UTC) - _EPOCH) // _MICROSECOND
