"""
Joins rows with what the vault knows of their calls, at read time (C9).

No user id is in `reports.db`: who is erased in the vault is gone from every answer at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import msgspec

from openrouter_audit.core.entries import Context
from openrouter_audit.reports.rows import FLAG_COLUMNS

_PIECE = 500


class PrivateFacts(Protocol):
    """What the vault keeps of one call."""

    @property
    def tenant(self) -> str | None: ...
    @property
    def session_id(self) -> str | None: ...
    @property
    def purpose(self) -> str | None: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    @property
    def context(self) -> Context | None: ...


class People(Protocol):
    """What is needed of a vault."""

    def calls(self, call_ids: Sequence[str], /) -> Mapping[str, PrivateFacts]: ...
    def users(self, references: Sequence[str], /) -> Mapping[str, str]: ...


def join_people(
    rows: Iterable[dict[str, Any]], vault: People | None, *, context: bool = False
) -> Iterator[dict[str, Any]]:
    """
    The rows of C5 as commands show them: names filled in, flags as true and false.

    Args:
        vault: None leaves the names null.
        context: With a member `context`, which is no column, where a call carried more than the columns have.
    """
    pending = iter(rows)
    while piece := list(islice(pending, _PIECE)):
        private = {} if vault is None else vault.calls([row["call_id"] for row in piece])
        references = {row["subject_ref"] for row in piece if row["subject_ref"] is not None}
        users = {} if vault is None else vault.users(sorted(references))
        for row in piece:
            whole = dict(row)
            for name in FLAG_COLUMNS:
                if whole[name] is not None:
                    whole[name] = bool(whole[name])
            whole["user_id"] = users.get(row["subject_ref"])
            facts = private.get(row["call_id"])
            if context and facts is not None and facts.context is not None:
                whole["context"] = msgspec.to_builtins(facts.context)
            if facts is not None:
                whole["tenant"], whole["session_id"] = facts.tenant, facts.session_id
                whole["purpose"], whole["tags"] = facts.purpose, dict(facts.tags) or None
            yield whole
