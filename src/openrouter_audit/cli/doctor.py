"""`openrouter-audit doctor`: what is watched, what is waiting, and what is wrong (C12)."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, Literal

from openrouter_audit.audit_log import AuditLog
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.watch import WEBSOCKET_NOT_RECORDED
from openrouter_audit.cli.common import HomeOption, Reading, now_us, reading
from openrouter_audit.journal.home import Home, Lease
from openrouter_audit.journal.spool import BODIES_SHARE, WARN_SHARE
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.journal.writer_state import WriterCounts, read_counts
from openrouter_audit.reports.render import json_text, printable

EXIT_LOOK = 2
_OPEN_TOO_LONG_US = 3_600_000_000
_ALERTS = {
    "cost_mismatch": "an answer and its generation record name different costs",
    "user_id_in_title": "the title that an application sends, and OpenRouter shows in public, is a user or has an address in it",
    WEBSOCKET_NOT_RECORDED: "a program connected to a watched host by WebSocket, and nothing of that is recorded",
}
"""What the rules of `alert.raised` mean; of one that is not here its name is said."""


def doctor(
    *,
    home: HomeOption = None,
    format: Literal["table", "json"] = "table",  # noqa: A002 - the option's name (C3)
) -> int:
    """Look at a home and say what needs a person. Exits 0 where nothing does, 2 where something does."""
    located = Home.locate(home)
    lease_holder = Lease(located.lease_path).holder()
    if located.exists:
        with reading(home) as source:
            findings = _examine(source, lease_holder)
    else:
        findings = {
            "home": str(located.path),
            "watched_hosts": list(HostSet(os.environ.get("OPENROUTER_AUDIT_HOSTS", "").split(",")).entries),
            "calls": 0,
            "problems": [f"no calls seen because no log was ever made at {located.path}; is --home right?"],
        }
    if format == "json":
        print(json_text(findings))
    else:
        _print(findings)
    return EXIT_LOOK if findings["problems"] else 0


def _examine(source: Reading, lease_holder: int | None) -> dict[str, Any]:
    audit, reports = source.audit, source.reports
    last = reports.last_rows(1)
    unsettled, unpriced = reports.count_unsettled()
    with SqliteJournal.open(audit.home.journal_path, read_only=True) as journal:
        head = journal.head()
        kinds = _count_kinds(journal)
    pages = _pages_of_writers(audit.home)
    findings: dict[str, Any] = {
        "home": str(audit.home.path),
        "origin": head.origin,
        "entries": head.tree_size,
        "mode": audit.mode,
        "enrich_scope": audit.config.enrich.scope,
        "watched_hosts": list(audit.hosts.entries),
        "unwatched_hosts": _unwatched(audit),
        "calls": reports.count(),
        "last_call": last[0]["timestamp"] if last else None,
        "open_calls": reports.count(where={"status": "open"}),
        "unknown_calls": reports.count(where={"status": "unknown"}),
        "not_committed": source.pending,
        "not_reported": max(0, head.tree_size - reports.cursor().next_index),
        "losses": kinds["log.loss"],
        "losses_not_entered": sum(page.lost for page in pages),
        "unreadable": kinds["log.unreadable"],
        "alerts": kinds["alert.raised"],
        "websockets_not_recorded": kinds[f"alert.raised {WEBSOCKET_NOT_RECORDED}"],
        "unsettled": unsettled,
        "unsettled_without_price": unpriced,
        "lease_holder": lease_holder,
    }
    findings["problems"] = [
        *_problems(findings, kinds, oldest_open_us=_oldest_open(source)),
        *_problems_of_spool(audit, waiting=sum(page.waiting for page in pages)),
    ]
    return findings


def _count_kinds(journal: SqliteJournal) -> Counter[str]:
    """How many entries there are of the kinds that are looked at, and of alerts also by `alert.raised RULE`."""
    wanted = ("log.loss", "log.unreadable", "log.opened", "alert.raised")
    marks = [(kind, f'"kind":"{kind}"') for kind in wanted]
    counts = Counter[str]()
    for _, text in journal.entries():
        # Entries are canonical and hold no free text, so these letters stand nowhere but in the kind, or the rule.
        if '"kind":"call.' not in text:
            for kind, mark in marks:
                if mark in text:
                    counts[kind] += 1
            if marks[-1][1] in text:
                rule = text.partition('"rule":"')[2].partition('"')[0]
                counts[f"alert.raised {rule}"] += 1
    return counts


def _oldest_open(source: Reading) -> int | None:
    """Age in microseconds of the oldest call without outcome among the newest thousand."""
    from openrouter_audit.reports.period import parse_bound, parse_zone

    starts = [row["timestamp"] for row in source.reports.last_rows(1_000) if row["status"] == "open"]
    if not starts:
        return None
    return now_us() - parse_bound(min(starts), zone=parse_zone("UTC"), now_us=now_us())


def _pages_of_writers(home: Home) -> list[WriterCounts]:
    """What writers have counted that is no entry yet; most of them live."""
    counts = (read_counts(path) for path in home.state_dir.glob("*"))
    return [one for one in counts if one is not None]


def _problems_of_spool(audit: AuditLog, *, waiting: int) -> list[str]:
    problems = []
    if waiting:
        problems.append(f"{waiting} outcomes wait in the memory of programs: the disk takes nothing")
    used, bound = 0, audit.config.capture.spool_max_bytes
    for path in audit.home.spool_dir.glob("*"):
        try:
            used += path.stat().st_size
        except OSError:  # sequenced meanwhile
            continue
    if used >= bound * WARN_SHARE:
        then = (
            "calls are refused, or go unrecorded in best_effort"
            if used >= bound
            else "at the whole of it calls are refused"
        )
        bodies = "no bodies are taken; " if used >= bound * BODIES_SHARE else ""
        problems.append(
            f"{used:,} bytes are in the spool, {used * 100 // bound} % of its bound: {bodies}{then};"
            " somebody must sequence (spool_max_bytes)"
        )
    return problems


def _unwatched(audit: AuditLog) -> list[str]:
    """Hosts that recorders noted and that are still not watched, as the settings of this command have it."""
    try:
        noted = audit.home.unwatched_path.read_text(errors="replace").split()
    except OSError:
        return []
    return sorted({host for host in noted if not audit.watches(f"https://{host}")})


def _problems(findings: dict[str, Any], kinds: dict[str, int], *, oldest_open_us: int | None) -> list[str]:
    problems = []
    if not findings["calls"]:
        problems.append(_why_no_calls(findings, kinds))
    elif findings["unwatched_hosts"]:
        problems.append(
            f"not watched, but asked like OpenRouter: {', '.join(findings['unwatched_hosts'])};"
            " add them to $OPENROUTER_AUDIT_HOSTS"
        )
    if findings["not_committed"]:
        problems.append(f"{findings['not_committed']} records are spooled and not committed")
    if findings["not_reported"]:
        problems.append(f"{findings['not_reported']} entries are not in the reports yet")
    lost = findings["losses"] + findings["losses_not_entered"]
    if lost:
        problems.append("records were lost; the log.loss entries say how many, when and why")
    if findings["unreadable"]:
        problems.append(f"{findings['unreadable']} frames could not become entries; they are in quarantine")
    for name, count in kinds.items():
        kind, _, rule = name.partition(" ")
        if kind == "alert.raised" and rule:
            problems.append(f"{count} alerts: {_ALERTS.get(rule, rule)}")
    if findings["unsettled_without_price"]:
        problems.append(
            f"calls without a price: {findings['unsettled_without_price']}; openrouter-audit settle asks for it"
        )
    if oldest_open_us is not None and oldest_open_us > _OPEN_TOO_LONG_US:
        problems.append("a call has been open for more than an hour; its process may hang")
    return problems


def _why_no_calls(findings: dict[str, Any], kinds: dict[str, int]) -> str:
    if findings["unwatched_hosts"]:
        hosts = ", ".join(findings["unwatched_hosts"])
        return f"no calls seen because {hosts} is not watched; add it to $OPENROUTER_AUDIT_HOSTS"
    if findings["not_committed"]:
        return "no calls seen because nothing that is spooled is committed yet; another process holds the lease"
    if kinds["log.opened"]:
        return "no calls seen because no program has called a watched host since it began to record here"
    return "no calls seen because no program has recorded here yet; is install() called, and with this home?"


def _print(findings: dict[str, Any]) -> None:
    for name, value in findings.items():
        if name != "problems":
            shown = ", ".join(value) if isinstance(value, list) else value
            print(f"{name.replace('_', ' '):<24} {printable(shown if shown != '' else None)}")
    if findings.get("unsettled"):
        print("(openrouter-audit settle asks for what is unsettled now)")
    for problem in findings["problems"]:
        print(f"! {printable(problem)}")
    if not findings["problems"]:
        print("nothing to look at")
