"""What the reading commands share: drained spools, the databases opened for reading, and hints on stderr."""

from __future__ import annotations

import contextlib
import getpass
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from openrouter_audit.audit_log import AuditLog, require_home
from openrouter_audit.errors import FlushTimeout, JournalUnavailable
from openrouter_audit.journal.vault import Vault
from openrouter_audit.reports.tables.sqlite import SqliteReports

HomeOption = Annotated[
    Path | None,
    Parameter(help="Where the log is; default $OPENROUTER_AUDIT_HOME, else openrouter-audit in the XDG data folder."),
]
Format = Literal["table", "json", "csv"]
WAIT_S = 2.0
"""Longest wait for another process that holds the lease (C3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A drained home, open for reading."""

    audit: AuditLog
    reports: SqliteReports
    vault: Vault
    tree_size: int
    """Entries the answers are made from."""
    pending: int
    """Records that were still waiting after `WAIT_S`."""


@contextmanager
def drained(home: Path | None) -> Iterator[AuditLog]:
    """
    The home with everything spooled committed and reported, as far as that can be had in time.

    Raises:
        HomeError: There is no log; reading makes none.
    """
    with AuditLog.open(require_home(home).path, enrich=False, telemetry=False) as audit:
        flush(audit)
        yield audit


def flush(audit: AuditLog, *, quiet: bool = False) -> int:
    """Commit and report what is spooled; says on stderr, and returns, how many records are not committed yet."""
    try:
        audit.flush(timeout=WAIT_S)
    except FlushTimeout as error:
        pending = error.pending or 0
        if not quiet:
            said = f"{pending} records are" if pending != 1 else "1 record is"
            hint(f"{said} not yet committed; this is the state before")
        from openrouter_audit.reports.projection import Projection

        # What is committed can be reported all the same: projecting needs no lease.
        with contextlib.suppress(JournalUnavailable):
            projection = Projection.open(audit.home.journal_path, audit.home.reports_path)
            try:
                projection.follow()
            finally:
                projection.close()
        return pending
    return 0


@contextmanager
def reading(home: Path | None) -> Iterator[Reading]:
    """
    A drained home with its databases open.

    Raises:
        HomeError: There is no log.
        JournalUnavailable: A database cannot be read.
    """
    with AuditLog.open(require_home(home).path, enrich=False, telemetry=False) as audit:
        pending = flush(audit)
        with (
            SqliteReports.open(audit.home.reports_path, read_only=True) as reports,
            Vault.open(audit.home.vault_path, read_only=True) as vault,
        ):
            yield Reading(
                audit=audit,
                reports=reports,
                vault=vault,
                tree_size=reports.cursor().next_index,
                pending=pending,
            )


def hint(message: str) -> None:
    print(f"openrouter-audit: {message}", file=sys.stderr)


def now_us() -> int:
    return time.time_ns() // 1000


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Any]:
    """A function to call with the number done so far; draws a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)


def print_rows(
    columns: tuple[str, ...], rows: list[dict[str, Any]], *, style: Format, title: str | None = None
) -> None:
    """Rows in the format asked for; JSON is one array."""
    from openrouter_audit.reports.render import csv_lines, json_text, print_table

    if style == "json":
        print(json_text([{name: row[name] for name in columns} for row in rows]))
    elif style == "csv":
        sys.stdout.writelines(csv_lines(columns, rows))
    else:
        print_table(columns, rows, title=title)
        if not rows:
            hint("no calls; openrouter-audit doctor says why")


def operator() -> str | None:
    """The system's name for who runs this; goes to the vault. None where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
