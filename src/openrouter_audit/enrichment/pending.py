"""
A call whose cost is to be asked for, and the place where the answer is written.

`pending_cost` is the door: it says of an outcome whether a generation can exist at all. A request that was refused before
a provider was chosen leaves no record at OpenRouter (API.md section 9), so asking for it would be asking for ever.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Protocol

from openrouter_audit.core.entries import CallIntent, CallOutcome, Facts, Private


class Recorder(Protocol):
    """Where facts go: the spool."""

    def write(self, facts: Facts, private: Private | None = None, *, follows: object | None = None) -> object:
        """
        Write one frame; it has left the process when this returns. Any thread may call it.

        Raises:
            AuditUnavailable: Nothing was written.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCost:
    """What is needed to ask what one call was billed. Lives in memory only: it holds a key."""

    call_id: str
    """Ours: 32 hex digits."""
    generation_id: str
    """OpenRouter's."""
    base_url: str
    """Origin and base path of the recorded call, for example `https://openrouter.ai/api/v1`."""
    key_hash: str
    """SHA-256 of the API key in hex; "" where the call had none."""
    api_key: str | None = field(default=None, repr=False)
    """The key that made the call; None where it is to be found by its hash (`settle`)."""
    commitment_key: bytes | None = field(default=None, repr=False)
    """The call's 32 random bytes (C8); None once they are erased: the answer is then not committed to."""
    response_cost: str | None = None
    """`usage.cost` of the answer, its own text; None for a call without a price yet."""
    ended_us: int
    """When the outcome was, UTC: the horizon counts from here."""
    unresolved_before: bool = False
    """The journal already says `unresolved`; saying it again would add nothing."""


def generation_begun(outcome: CallOutcome) -> bool:
    """
    Tell whether OpenRouter can have a record of this call (API.md sections 8 to 10).

    An id in the body is that of a generation. One in the headers of an error is only the name of a refusal.
    """
    if outcome.generation_id is None:
        return False
    return outcome.generation_source == "body" or (outcome.http_status is not None and outcome.http_status < 400)


def pending_cost(
    intent: CallIntent,
    outcome: CallOutcome,
    private: Private | None,
    *,
    base_url: str | None,
    api_key: str | None = None,
    unresolved_before: bool = False,
) -> PendingCost | None:
    """Make the question for one call; None where nothing can be asked."""
    if base_url is None or outcome.generation_id is None or not generation_begun(outcome):
        return None
    # Thousands of waiting calls share a handful of keys and addresses: interned, each is one object.
    return PendingCost(
        call_id=intent.id,
        generation_id=outcome.generation_id,
        base_url=sys.intern(base_url),
        key_hash=sys.intern(intent.key_hash or ""),
        api_key=None if api_key is None else sys.intern(api_key),
        commitment_key=None if private is None else private.commitment_key,
        response_cost=outcome.cost,
        ended_us=outcome.at_us,
        unresolved_before=unresolved_before,
    )
