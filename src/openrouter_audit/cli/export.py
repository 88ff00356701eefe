"""`openrouter-audit export`: every call, for other programs; that somebody did this is recorded first (P9)."""

from __future__ import annotations

import secrets
import sys
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from openrouter_audit.cli.common import HomeOption, flush, now_us, operator, progress, reading
from openrouter_audit.core.entries import AccessExported, Private
from openrouter_audit.reports.people import join_people
from openrouter_audit.reports.period import parse_period
from openrouter_audit.reports.render import csv_lines, json_text
from openrouter_audit.reports.rows import COLUMNS

_REPORT_EVERY = 1_000


def export(
    *,
    home: HomeOption = None,
    format: Literal["jsonl", "csv"] = "jsonl",  # noqa: A002 - the option's name (C3)
    since: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    until: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    tz: str = "UTC",
) -> None:
    """
    Write all calls of a period to stdout, open ones too, with names from the vault.

    In CSV a text cell that a spreadsheet would run as a formula gets a single quote in front.

    Parameters
    ----------
    since:
        First start of a call that counts: 2026-11-23 (midnight in --tz), 2026-11-23T10:15:00Z, -24h or -7d.
    until:
        First start that no longer counts.
    tz:
        Zone of days given without a time.
    """
    period = parse_period(since, until, tz=tz, now_us=now_us())
    with reading(home) as source:
        source.audit.write(
            AccessExported(
                v=1,
                id=secrets.token_hex(16),
                at_us=now_us(),
                what="calls",
                format=format,
                tree_size=source.tree_size,
                since_us=period.since_us,
                until_us=period.until_us,
            ),
            Private(operator=operator()),
        )
        flush(source.audit, quiet=True)
        total = source.reports.count(since=period.since, until=period.until)
        rows = join_people(source.reports.rows(since=period.since, until=period.until), source.vault, context=True)
        with progress("exporting", total) as tell:
            _write(rows, format, tell)


def _write(rows: Any, style: str, tell: Any) -> None:
    lines = csv_lines(COLUMNS, rows) if style == "csv" else (json_text(row) + "\n" for row in rows)
    for number, line in enumerate(lines):
        sys.stdout.write(line)
        if number % _REPORT_EVERY == 0:
            tell(number)
