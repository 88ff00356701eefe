"""`openrouter-audit show`: one call, with the entries that say so (C5)."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from openrouter_audit.capture.attribution import MAX_WORD
from openrouter_audit.capture.json_text import clean
from openrouter_audit.cli import EXIT_BAD_DATA
from openrouter_audit.cli.common import Format, HomeOption, Reading, flush, hint, now_us, operator, reading
from openrouter_audit.core.entries import AccessContent, Content, Private
from openrouter_audit.errors import ConfigError
from openrouter_audit.journal.former import WholeHistory
from openrouter_audit.reports.people import join_people
from openrouter_audit.reports.render import csv_lines, json_text, printable
from openrouter_audit.reports.rows import COLUMNS


class _Answering(msgspec.Struct):
    """What of an intent is read here."""

    tool_results: tuple[str, ...] = ()


def show(
    call: str,
    /,
    *,
    content: Annotated[bool, Parameter(negative=())] = False,
    reason: str | None = None,
    home: HomeOption = None,
    format: Format = "table",  # noqa: A002 - the option's name (C3)
) -> int:
    """
    Show a call and the entries its row is made of: intent, outcome, and the last word about its cost.

    Parameters
    ----------
    call:
        A call id, the beginning of one that only one call has, or a generation id.
    content:
        Show what is kept of request and answer too. That it is shown, to whom and why is recorded first.
    reason:
        Why the content is looked at; --content needs it.
    """
    if not call:
        raise ConfigError("CALL is empty")
    if content and not (reason and reason.strip()):
        raise ConfigError("--content needs --reason: it is recorded who looks, and why")
    if reason and not content:
        raise ConfigError("--reason goes with --content")
    if content and format == "csv":
        raise ConfigError("--content has no CSV form: take json, or table")
    with reading(home) as source:
        found = source.reports.find(call)
        exact = [row for row in found if call == row["call_id"]] or found
        # Several calls may carry one generation id; the first of them is the one that was billed.
        if len(exact) > 1 and any(row["generation_id"] != call for row in exact):
            hint(f"{call!r} is the beginning of several calls, {exact[0]['call_id']} and others: give more of it")
            return EXIT_BAD_DATA
        if not exact:
            hint(f"no call has the id or generation id {call!r}")
            return EXIT_BAD_DATA
        (row,) = join_people(exact[:1], source.vault, context=True)
        entries = _entries_of(row, source)
        answers = _answers(row, entries, source)
        bodies = _contents(row["call_id"], str(reason), source) if content else None
    context = row.pop("context", None)
    more = {name: value for name, value in (("answers", answers), ("context", context)) if value}
    if format == "json":
        shown = {"content": {part: _plain(body) for part, body in bodies.items()}} if bodies is not None else {}
        print(json_text({"call": row, "entries": entries} | more | shown))
    elif format == "csv":
        sys.stdout.writelines(csv_lines(COLUMNS, [row]))
    else:
        _print_page(row, answers, context or {}, entries)
        if bodies is not None:
            _print_contents(bodies)
    return 0


def _contents(call_id: str, reason: str, source: Reading) -> dict[str, Content]:
    """What is kept of the call's bodies; that somebody reads it is in the spool before it is read (P9)."""
    source.audit.write(
        AccessContent(v=1, id=secrets.token_hex(16), at_us=now_us(), call=call_id),
        Private(operator=operator(), reason=clean(reason, MAX_WORD)),
    )
    flush(source.audit, quiet=True)
    return source.vault.contents(call_id)


def _plain(body: Content) -> dict[str, Any]:
    told = {"mode": body.mode, "bytes": body.whole_bytes, "text": body.text.decode("utf-8", "replace")}
    return told if body.cut is None else told | {"cut": body.cut}


def _print_contents(bodies: dict[str, Content]) -> None:
    if not bodies:
        print("\nno content is kept of this call")
    for part, body in bodies.items():
        why = {"size": ", both ends", "spool": ", left out because the spool was full"}.get(body.cut or "", "")
        print(f"\n{part} ({body.mode}, {body.whole_bytes} bytes{why})")
        print("\n".join(printable(line) for line in body.text.decode("utf-8", "replace").splitlines()))


def _entries_of(row: dict[str, Any], source: Reading) -> list[dict[str, Any]]:
    indexes = sorted({row[name] for name in ("intent_index", "outcome_index", "cost_index")} - {None})
    with WholeHistory.open(source.audit.home.journal_path) as journal:
        texts = [text for index in indexes for _, text in journal.entries(index, index + 1)]
    return [
        {"index": index, "kind": msgspec.json.decode(text)["kind"], "entry": msgspec.Raw(text.encode())}
        for index, text in zip(indexes, texts, strict=True)
    ]


def _answers(row: dict[str, Any], entries: list[dict[str, Any]], source: Reading) -> list[dict[str, Any]]:
    """The tool calls whose results the request brought, each with the call that had asked for it, where that is in the log."""
    if row["intent_index"] is None:
        return []
    (intent,) = (entry["entry"] for entry in entries if entry["index"] == row["intent_index"])
    named = msgspec.json.decode(intent, type=_Answering).tool_results
    askers = source.reports.askers(named, before=row["intent_index"], key_hash=row["key_hash"])
    return [{"tool_call_id": name, "call_id": askers.get(name)} for name in named]


def _print_page(
    row: dict[str, Any], answers: list[dict[str, Any]], context: dict[str, Any], entries: list[dict[str, Any]]
) -> None:
    width = max(len(name) for name in COLUMNS)
    fills = context.get("claimed", {}).get("fills", ())
    for name in COLUMNS:
        if row[name] is not None:
            print(f"{name:<{width}}  {printable(row[name])}{'  (claimed)' if name in fills else ''}")
    for one in answers:
        asker = one["call_id"] or "no call in this log"
        print(f"{'answers tool call':<{width}}  {one['tool_call_id']} of {asker}")
    for name, value in _lines(context):
        print(f"{name:<{width}}  {printable(value)}")
    for entry in entries:
        print(f"\nentry {entry['index']}  {entry['kind']}")
        print(bytes(entry["entry"]).decode())


def _lines(context: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """`claimed.user` and the like; what only says which columns are claims is shown beside these."""
    for part, words in context.items():
        for name, value in words.items():
            if name != "fills":
                yield f"{part}.{name}", value
