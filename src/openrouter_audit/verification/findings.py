"""
What a verifier can say: findings, each of a class that fixes how much it weighs, and the verdict they add up to (C14).

*Tampered* means that what is shown is not what was signed, or contradicts what was signed. *Incomplete* means that all of
it is genuine and something is known to be missing. *Info* is worth knowing and takes nothing away from the proof.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from openrouter_audit.core.notes import encode_base64

Severity = Literal["tampered", "incomplete", "info"]
Verdict = Literal["proven", "tampered", "incomplete", "cannot_tell"]

SEVERITIES: Final[Mapping[str, Severity]] = MappingProxyType(
    {
        # What is shown is not what was signed.
        "entry_changed": "tampered",
        "entry_missing": "tampered",
        "entry_extra": "tampered",
        "entry_reordered": "tampered",
        "tile_mismatch": "tampered",
        "root_mismatch": "tampered",
        "checkpoint_signature": "tampered",
        "rollback": "tampered",
        "fork": "tampered",
        "position_mismatch": "tampered",
        "outcome_without_intent": "tampered",  # incomplete where a recorded loss covers it
        "report_mismatch": "tampered",
        # Genuine, with something missing.
        "loss": "incomplete",
        "unreadable": "incomplete",
        "open_intent": "incomplete",
        "undrained_spool": "incomplete",
        "checkpoint_behind": "incomplete",
        # Good to know.
        "succession": "info",  # incomplete where the former log lost entries, or may have
        "head_lost": "info",
        "unknown_outcome": "info",
        "duplicate_generation": "info",
        "unresolved_cost": "info",
    }
)
EXIT_CODES: Final[Mapping[Verdict, int]] = MappingProxyType(
    {"proven": 0, "tampered": 1, "incomplete": 2, "cannot_tell": 3}
)
MAX_FINDINGS_PER_CLASS: Final = 1_000
"""Of one class so many are listed; one more then says how many others there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, or that a reader should know."""

    kind: str
    """A key of `SEVERITIES`; `class` in JSON."""
    severity: Severity
    index: int | None
    """Index of the entry it is about, as the signed log counts; None where it is about no single one."""
    detail: str

    def as_json(self) -> dict[str, Any]:
        return {"class": self.kind, "severity": self.severity, "index": self.index, "detail": self.detail}


def finding(kind: str, detail: str, *, index: int | None = None, severity: Severity | None = None) -> Finding:
    """A finding with the weight of its class, unless the circumstances give it another."""
    return Finding(kind=kind, severity=severity or SEVERITIES[kind], index=index, detail=detail)


class Findings:
    """Collects findings, of each class as many as anybody will read. Owned by one verification."""

    def __init__(self) -> None:
        self._listed: list[Finding] = []
        self._counts: Counter[tuple[str, Severity]] = Counter()

    def add(self, kind: str, detail: str, *, index: int | None = None, severity: Severity | None = None) -> None:
        self.take([finding(kind, detail, index=index, severity=severity)])

    def take(self, found: Iterable[Finding]) -> None:
        for one in found:
            self._counts[one.kind, one.severity] += 1
            if self._counts[one.kind, one.severity] <= MAX_FINDINGS_PER_CLASS:
                self._listed.append(one)

    def all(self) -> tuple[Finding, ...]:
        """What was found, the heaviest first and by index within a class; then how many were left out."""
        left_out = [
            finding(kind, f"and {count - MAX_FINDINGS_PER_CLASS} more of this class", severity=severity)
            for (kind, severity), count in self._counts.items()
            if count > MAX_FINDINGS_PER_CLASS
        ]
        rank = {kind: place for place, kind in enumerate(SEVERITIES)}
        weight = {"tampered": 0, "incomplete": 1, "info": 2}

        def place(one: Finding) -> tuple[int, int, bool, int]:
            return weight[one.severity], rank[one.kind], one.index is None, one.index or 0

        return tuple(sorted(self._listed + left_out, key=place))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the log holds, as far as its checkpoint reaches."""

    intents: int = 0
    outcomes: int = 0
    unknown: int = 0
    """Outcomes with status `unknown`: the process died in between."""
    losses: int = 0
    """Entries of kind `log.loss`; each says how many records it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """The answer of `verify`."""

    verdict: Verdict
    origin: str | None = None
    tree_size: int | None = None
    """As the checkpoint says."""
    root_hash: bytes | None = None
    """As the checkpoint says."""
    checkpoint_time_us: int | None = None
    """From the log's own ML-DSA-44 signature; None where that does not verify."""
    counts: Counts = field(default_factory=Counts)
    findings: tuple[Finding, ...] = ()
    reason: str | None = None
    """Why nothing can be told, where that is the verdict."""

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """The shape of C14; `reason` is there only where nothing can be told."""
        shape: dict[str, Any] = {
            "verdict": self.verdict,
            "origin": self.origin,
            "tree_size": self.tree_size,
            "root": None if self.root_hash is None else encode_base64(self.root_hash),
            "checkpoint_time_us": self.checkpoint_time_us,
            "counts": {
                "intents": self.counts.intents,
                "outcomes": self.counts.outcomes,
                "unknown": self.counts.unknown,
                "losses": self.counts.losses,
            },
            "findings": [one.as_json() for one in self.findings],
        }
        if self.reason is not None:
            shape["reason"] = self.reason
        return shape


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """Tampered beats incomplete, and info weighs nothing."""
    severities = {one.severity for one in findings}
    if "tampered" in severities:
        return "tampered"
    return "incomplete" if "incomplete" in severities else "proven"
