"""
Where a capture puts its facts: the boundary to the journal, and the record of a call that is over.

The Protocol lives here, with its caller. The journal's spool implements it; tests have one in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from openrouter_audit.capture.attribution import Receipt
    from openrouter_audit.core.entries import CallIntent, CallOutcome, Facts, Mode, Private


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedCall:
    """A call whose outcome is written. Lives in memory only, and its text shows neither key nor person."""

    intent: CallIntent = field(repr=False)
    outcome: CallOutcome = field(repr=False)
    private: Private = field(repr=False)
    api_key: str | None = field(default=None, repr=False)
    """The key the call was made with: its cost may be asked for with this one alone (C7)."""
    base_url: str | None = None
    """Origin and base path of the recorded call, `https://openrouter.ai/api/v1`."""
    receipt: Receipt | None = field(default=None, repr=False)
    """What the application's `attribution` block holds of this call; None outside of one."""


class Recorder(Protocol):
    """
    Takes facts, one frame each.

    `write` and `finished` are called from any thread, from event loops and from finalizers that interrupt another call
    of theirs: they take no lock that such an interruption could hold.
    """

    mode: Mode
    policy: str | None
    """SHA-256 of the settings in force, as hex; stands in every intent."""

    def write(self, facts: Facts, private: Private | None = None, *, follows: object | None = None) -> object:
        """
        Write one frame; it has left the process when this returns (C24).

        Args:
            follows: The token of the intent whose outcome this is. A token inherited over a fork makes the write mute.

        Returns:
            A token, to be kept until the outcome is written: it keeps the segment alive (C27).

        Raises:
            AuditUnavailable: Nothing was written. Never raised for an outcome: that one is kept in memory, or counted.
        """
        ...

    def sync(self, token: object) -> None:
        """
        Return when the token's frame is on disk, file and directory entry. Blocks: not for an event loop's thread.

        Raises:
            AuditUnavailable: The frame is written, and not known to be on disk.
        """
        ...

    def finished(self, call: FinishedCall) -> None:
        """Take a call whose outcome is written to log line, receipts and enrichment. Does not block."""
        ...
