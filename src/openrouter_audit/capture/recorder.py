"""
Where a capture puts its facts: the boundary to the journal, and the record of a call that is over.

The Protocol lives here, with its caller. The journal's spool implements it; tests have one in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from openrouter_audit.capture.attribution import Receipt
    from openrouter_audit.core.entries import CallIntent, CallOutcome, Facts, Mode, Private


class FinishedCall(Struct, frozen=True, kw_only=True):
    """A call whose outcome is written. Lives in memory only, and its text shows neither key nor person."""

    intent: CallIntent
    outcome: CallOutcome
    private: Private
    api_key: str | None = None
    """The key the call was made with: its cost may be asked for with this one alone (C7)."""
    base_url: str | None = None
    """Origin and base path of the recorded call, `https://openrouter.ai/api/v1`."""
    receipt: Receipt | None = None
    """What the application's `attribution` block holds of this call; None outside of one."""

    def __repr__(self) -> str:
        return f"FinishedCall({self.intent.id}, {self.outcome.status})"


class Recorder(Protocol):
    """
    Takes facts, one frame each.

    `write` and `finished` are called from any thread, from event loops and from finalizers that interrupt another call
    of theirs: they take no lock that such an interruption could hold.
    """

    mode: Mode
    policy: str | None
    """SHA-256 of the settings in force, as hex; stands in every intent."""

    # A recorder may have `router_metadata`, true where its requests shall ask for router metadata (`asking`), and `content`,
    # a `ContentPolicy`, where something is kept of bodies or looked for in them.

    def write(self, facts: Facts, private: Private | None = None, *, follows: object | None = None) -> object:
        """
        Write one frame; it has left the process when this returns (C24), or waits, or is counted as lost.

        Args:
            follows: The token of the intent whose outcome this is. A token inherited over a fork makes the write mute.

        Returns:
            A token, to be kept until the outcome is written: it keeps the segment alive (C27). That of an intent which was lost
            in `best_effort` is one too: given as `follows` it has the outcome counted in place of written.

        Raises:
            AuditUnavailable: Nothing was written. Never raised for an outcome: that one is kept in memory, or counted. Never
                raised for an intent, or a loss, in `best_effort`: it is counted.
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
