"""`openrouter-audit settle`: ask now what calls were billed (C7)."""

from __future__ import annotations

import os
from typing import Any, Literal

from openrouter_audit.cli.common import HomeOption, Reading, flush, hint, progress, reading
from openrouter_audit.enrichment.enricher import Enricher
from openrouter_audit.enrichment.pending import PendingCost
from openrouter_audit.errors import KeyMissing
from openrouter_audit.journal.former import WholeHistory
from openrouter_audit.reports.rows import read_entry

_PIECE = 500


def settle(
    *,
    home: HomeOption = None,
    format: Literal["table", "json"] = "table",  # noqa: A002 - the option's name (C3)
) -> None:
    """
    Ask OpenRouter for the cost of every call that is not settled, whatever the back-off.

    Keys come from $OPENROUTER_API_KEY, several of them with commas between, and each call is asked for with the key that
    made it. A key goes only to the address of the recorded call, and only if that host is watched.
    """
    keys = [key.strip() for key in os.environ.get("OPENROUTER_API_KEY", "").split(",") if key.strip()]
    with reading(home) as source:
        calls = _unsettled(source)
        if calls and not keys:
            raise KeyMissing(f"{len(calls)} calls are not settled; put their keys into $OPENROUTER_API_KEY")
        settings = source.audit.config.enrich
        enricher = Enricher(
            source.audit,
            horizon_hours=settings.horizon_hours,
            max_per_second=settings.max_per_second,
            watches=source.audit.watches,
        )
        try:
            with progress("settling", len(calls)) as tell:
                result = enricher.settle_now(calls, keys, progress=lambda done, _: tell(done))
        finally:
            enricher.close()
        flush(source.audit)
    for key_hash in result.refused_keys:
        hint(f"OpenRouter refuses the key with the hash {key_hash}")
    if result.no_key:
        hint(f"{result.no_key} calls were made with keys that are not in $OPENROUTER_API_KEY")
    if result.left:
        hint(
            f"{result.left} calls were not asked for: their host is not watched ($OPENROUTER_AUDIT_HOSTS), or does not answer"
        )
    names = ("settled", "unresolved", "not_yet", "no_key", "left", "mismatched", "asked")
    if format == "json":
        from openrouter_audit.reports.render import json_text

        figures: dict[str, Any] = {"calls": len(calls)} | {name: getattr(result, name) for name in names}
        print(json_text(figures | {"refused_keys": list(result.refused_keys)}))
        return
    print(f"{'calls':<11} {len(calls)}")
    for name in names:
        print(f"{name:<11} {getattr(result, name)}")


def _unsettled(source: Reading) -> list[PendingCost]:
    """The questions, put together from row, vault and outcome entry; calls whose address was erased cannot be asked for."""
    rows = list(source.reports.unsettled())
    questions = []
    with WholeHistory.open(source.audit.home.journal_path) as journal:
        for start in range(0, len(rows), _PIECE):
            piece = rows[start : start + _PIECE]
            private = source.vault.calls([row["call_id"] for row in piece])
            for row in piece:
                kept = private.get(row["call_id"])
                if kept is None or kept.base_url is None:
                    continue
                ended = [
                    read_entry(text) for _, text in journal.entries(row["outcome_index"], row["outcome_index"] + 1)
                ]
                questions.append(
                    PendingCost(
                        call_id=row["call_id"],
                        generation_id=row["generation_id"],
                        base_url=kept.base_url,
                        key_hash=row["key_hash"] or "",
                        commitment_key=kept.commitment_key,
                        response_cost=row["response_cost"],
                        ended_us=ended[0].at_us if ended and ended[0] is not None else 0,
                        unresolved_before=row["cost_state"] == "unresolved",
                    )
                )
    return questions
