"""`openrouter-audit report`: the everyday questions (C4)."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from openrouter_audit.audit_log import require_home
from openrouter_audit.cli.common import Format, HomeOption, hint, now_us, reading
from openrouter_audit.config import load_config
from openrouter_audit.errors import ConfigError
from openrouter_audit.reports.period import parse_period
from openrouter_audit.reports.questions import DEFAULT_SINCE, QUESTIONS, ask
from openrouter_audit.reports.render import csv_lines, json_text, print_table


def report(
    name: str,
    /,
    *,
    home: HomeOption = None,
    since: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    until: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    tz: str | None = None,
    limit: int | None = None,
    model: str | None = None,
    format: Format = "table",  # noqa: A002 - the option's name (C3)
) -> None:
    """
    Answer one question: daily-cost, errors, top-spenders or summary.

    Parameters
    ----------
    name:
        daily-cost, errors, top-spenders or summary.
    since:
        First instant that counts: 2026-11-23 (midnight in --tz), 2026-11-23T10:15:00Z, -24h or -7d. For errors -24h
        where it is left out, for the others the beginning.
    until:
        First instant that no longer counts, written in the same ways.
    tz:
        Zone for days, for example Europe/Berlin; by default the setting report.tz, else UTC.
    limit:
        Rows at most; 10 for top-spenders where it is left out, for the others all.
    model:
        Only calls that asked for this model or were served by it.
    """
    if name not in QUESTIONS:
        raise ConfigError(f"{name!r} is no report; there are {', '.join(QUESTIONS)}")
    zone = tz or load_config(require_home(home).config_path).report.tz
    period = parse_period(since or DEFAULT_SINCE.get(name), until, tz=zone, now_us=now_us())
    if limit is not None and limit < 1:
        raise ConfigError("--limit is at least 1")
    with reading(home) as source:
        answer = ask(name, source.reports, period=period, find_users=source.vault.users, limit=limit, model=model)
    if format == "json":
        print(json_text(answer.as_json()))
    elif format == "csv":
        sys.stdout.writelines(csv_lines(answer.columns, answer.rows))
    else:
        since_text, until_text = period.since or "the beginning", period.until or "now"
        print_table(answer.columns, answer.rows, title=f"{name}, {since_text} to {until_text}, days in {zone}")
        if not answer.rows:
            hint("no calls; openrouter-audit doctor says why")
