"""`openrouter-audit tail`: the newest calls."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Parameter

from openrouter_audit.cli.common import Format, HomeOption, Reading, flush, print_rows, reading
from openrouter_audit.errors import ConfigError
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.reports.people import join_people
from openrouter_audit.reports.render import csv_lines, json_text, printable
from openrouter_audit.reports.rows import COLUMNS, ImportedReading, OutcomeReading, read_entry

_BRIEF = ("started", "call", "status", "model", "prompt", "completion", "cost", "ms", "user")
_POLL_S = 0.5
_PIECE = 500


def tail(
    *,
    home: HomeOption = None,
    number: Annotated[int, Parameter(name=["--number", "-n"])] = 10,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
    format: Format = "table",  # noqa: A002 - the option's name (C3)
) -> int:
    """
    Show the newest calls, the newest last.

    Parameters
    ----------
    number:
        How many.
    follow:
        Go on with every call that ends, a line each (JSON: an object each), until interrupted.
    """
    if number < 0:
        raise ConfigError("--number is at least 0")
    with reading(home) as source:
        rows = list(join_people(source.reports.last_rows(number), source.vault))
        if not follow:
            if format == "table":
                print_rows(_BRIEF, [_brief(row) for row in rows], style=format)
            else:
                print_rows(COLUMNS, rows, style=format)
            return 0
        sys.stdout.writelines(_lines(rows, format, header=True))
        sys.stdout.flush()
        try:
            for ended in _ended(source):
                sys.stdout.writelines(_lines(join_people(ended, source.vault), format, header=False))
                sys.stdout.flush()
        except KeyboardInterrupt:
            pass  # the way to end it
        return 0


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """A call in a line of a terminal: `show` takes the beginning of its id, and has the rest."""
    values = (
        row["timestamp"][5:19].replace("T", " "),
        row["call_id"][:8],
        row["status"],
        (row["model_used"] or row["model_requested"] or "").rpartition("/")[2] or None,
        row["prompt_tokens"],
        row["completion_tokens"],
        row["total_cost"],
        None if row["latency_ms"] is None else row["latency_ms"].partition(".")[0],
        row["user_id"],
    )
    return dict(zip(_BRIEF, values, strict=True))


def _lines(rows: Any, style: Format, *, header: bool) -> Iterator[str]:
    if style == "json":
        yield from (json_text(row) + "\n" for row in rows)
    elif style == "csv":
        lines = csv_lines(COLUMNS, rows)
        if not header:
            next(lines)
        yield from lines
    else:
        for row in rows:
            yield "  ".join(printable(value) for value in _brief(row).values()) + "\n"


def _ended(source: Reading) -> Iterator[list[dict[str, Any]]]:
    """For ever: the rows of calls whose outcome has come in since the last look."""
    at = source.tree_size
    with SqliteJournal.open(source.audit.home.journal_path, read_only=True) as journal:
        while True:
            time.sleep(_POLL_S)
            flush(source.audit, quiet=True)
            stop = source.reports.cursor().next_index
            ended = [
                entry.id
                for _, text in journal.entries(at, stop)
                if isinstance(entry := read_entry(text), OutcomeReading | ImportedReading)
            ]
            at = max(at, stop)
            for start in range(0, len(ended), _PIECE):
                yield source.reports.rows_of(ended[start : start + _PIECE])
